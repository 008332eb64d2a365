"""Where the money went: the budget of the day, the days of a month, who and what was paid, and the ledger itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from conversations import reports
from conversations.models import BudgetGrant, Conversation, LedgerEntry, Purpose, Scope
from conversations.money import exact
from conversations.reports import Day, Line, Meter, Month, Selection, Share, Total

from .conversations import address_shown
from .http import PersonRequest, as_text, csv_file, render_page
from .meter import meter_for
from .spend_chart import chart_of

#: Conversations that are named; the rest is one line.
NAMED = 6
#: Days that a chart of this month shows at least.
FEWEST_DAYS = 14


@require_safe
@login_required
def budget(request: PersonRequest) -> HttpResponse:
    """The meter in the sidebar, again; on the page of spend the large one, too."""
    if not request.htmx:
        return redirect("spend")
    is_on_page = address_shown(request).partition("?")[0] == reverse("spend")
    context = {"meter": meter_for(request.user), "is_on_page": is_on_page}
    return render(request, "conversations/budget.html", context)


@require_safe
@login_required
def spend(request: PersonRequest) -> HttpResponse:
    """A month, or what the address selects of it. A script asks for a selection, or for the next lines, alone."""
    meter = meter_for(request.user)
    shown = read_filters(request.GET, today=meter.day)
    if request.htmx and request.htmx.target == "ledger-more":
        context = {"ledger": ledger_page(request, shown), "shown": shown}
        return render(request, "conversations/spend.html#lines", context)
    context = page_context(request, meter, shown)
    if request.htmx and request.htmx.target == "spend":
        return render(request, "conversations/spend.html#selection", context)
    return render_page(request, "conversations/spend.html", context)


@require_safe
@login_required
def spend_export(request: PersonRequest) -> HttpResponse:
    """The same lines as a table of values separated by commas, each amount to the last nano-USD."""
    shown = read_filters(request.GET, today=timezone.localdate())
    rows = rows_of(shown.selection(request.user.pk))
    return csv_file(f"parley-spend-{shown.day or shown.month}", chain([COLUMNS], rows))


# --- What is selected -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What the address selects: `?month=` or `?day=`, `?model=`, `?purpose=`, `?conversation=`; `?before=` a line."""

    month: Month
    day: date | None = None
    model: str = ""
    purpose: str = ""
    conversation_id: UUID | None = None
    before: UUID | None = None

    @property
    def is_any(self) -> bool:
        return bool(self.day or self.is_narrow)

    @property
    def is_narrow(self) -> bool:
        return bool(self.model or self.purpose or self.conversation_id)

    def whole_month(self, user_id: int) -> Selection:
        return Selection(
            user_id=user_id,
            first=self.month.first,
            last=self.month.last,
            model=self.model,
            purpose=self.purpose,
            conversation_id=self.conversation_id,
        )

    def selection(self, user_id: int) -> Selection:
        month = self.whole_month(user_id)
        return replace(month, first=self.day, last=self.day) if self.day else month


def read_filters(query: QueryDict, *, today: date) -> Filters:
    """Raises Http404 for what is no month, day, purpose or id."""
    names = ("month", "day", "model", "purpose", "conversation", "before")
    month, day, model, purpose, conversation, before = (str(query.get(name, "")) for name in names)
    if "\x00" in model or (purpose and purpose not in Purpose.values):
        raise Http404
    try:
        date_named = date.fromisoformat(day) if day else None
        return Filters(
            month=Month.parse(day[:7] if day else month) if day or month else Month.of(today),
            day=date_named,
            model=model,
            purpose=purpose,
            conversation_id=UUID(conversation) if conversation else None,
            before=UUID(before) if before else None,
        )
    except ValueError:
        raise Http404 from None


# --- The page -------------------------------------------------------------------------------------------------


def page_context(request: PersonRequest, meter: Meter, shown: Filters) -> dict[str, Any]:
    user_id = request.user.pk
    whole_month = shown.whole_month(user_id)
    month = reports.read_spend(whole_month)
    part = month.on(shown.day) if shown.day else month
    days = reports.days_of(shown.month, month, whole_month)
    is_now = shown.month == Month.of(meter.day)
    forecast = None
    if is_now and not shown.is_narrow:
        so_far = month.total.charged
        forecast = reports.forecast(user_id, today=meter.day, so_far=so_far, limit=meter.limit)
    conversations, others = conversation_shares(shown.selection(user_id))
    return {
        "meter": meter,
        "shown": shown,
        "is_now": is_now,
        "has_later": shown.month < Month.of(meter.day),
        "conversation": one_conversation(shown, user_id),
        "grants": BudgetGrant.objects.filter(
            budget__scope=Scope.USER, budget__subject=str(user_id), budget__day=meter.day
        ),
        "total": part.total,
        "month_total": month.total,
        "mean": month.total.charged // (meter.day.day if is_now else shown.month.last.day),
        "forecast": forecast,
        "days": [day for day in days if day.total.calls or day.held],
        "chart": chart_of(
            days_to_draw(days, meter.day), today=meter.day, limit=meter.limit, is_whole=not shown.is_narrow
        ),
        "models": part.by_model,
        "purposes": part.by_purpose,
        "conversations": conversations,
        "others": others,
        "holds": reports.open_holds(user_id) if is_now and not shown.is_any else [],
        "ledger": ledger_page(request, shown),
    }


def days_to_draw(days: list[Day], today: date) -> list[Day]:
    """A month that has just begun is two weeks wide, and then grows to the right."""
    return (
        [day for day in days if day.day <= today or day.day.day <= FEWEST_DAYS]
        if days[-1].day > today
        else days
    )


@dataclass(frozen=True, kw_only=True)
class ConversationShare:
    """`conversation` None: deleted, or none at all when `id` is None, too."""

    id: UUID | None
    conversation: Conversation | None
    share: Share


def conversation_shares(selection: Selection) -> tuple[list[ConversationShare], Total]:
    """The most expensive conversations by name, and the sum of the others."""
    shares = reports.shares_of_conversations(selection)
    named = reports.conversations_named((share.key for share in shares[:NAMED]), selection.user_id)
    shown = [
        ConversationShare(id=share.key, conversation=named.get(share.key), share=share)
        for share in shares[:NAMED]
    ]
    return shown, sum((share.total for share in shares[NAMED:]), Total())


def one_conversation(shown: Filters, user_id: int) -> Conversation | None:
    return reports.conversations_named([shown.conversation_id], user_id).get(shown.conversation_id)


def ledger_page(request: PersonRequest, shown: Filters) -> reports.Page:
    try:
        return reports.lines_of_page(shown.selection(request.user.pk), before=shown.before)
    except LedgerEntry.DoesNotExist:
        raise Http404 from None


# --- The export -----------------------------------------------------------------------------------------------

COLUMNS = (
    "time",
    "day",
    "entry",
    "purpose",
    "conversation",
    "conversation_id",
    "reply_id",
    "model",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "tokens_are",
    "held_usd",
    "charged_usd",
    "released_usd",
    "above_hold",
    "entry_id",
)


def rows_of(selection: Selection) -> Iterator[list[object]]:
    for line in reports.lines_of(selection):
        yield row_of(line)


def row_of(line: Line) -> list[object]:
    entry = line.entry
    return [
        timezone.localtime(entry.created_at).isoformat(timespec="seconds"),
        entry.day or timezone.localdate(entry.created_at),
        entry.kind,
        entry.purpose,
        as_text(line.conversation.title if line.conversation else ""),
        entry.conversation_id or "",
        entry.reply_id or "",
        as_text(entry.model),
        entry.input_tokens,
        entry.cached_tokens,
        entry.cache_write_tokens,
        entry.output_tokens,
        entry.reasoning_tokens,
        "estimated" if line.is_estimated else "reported" if entry.usage_reported else "",
        exact(entry.held),
        exact(entry.charged),
        exact(entry.released),
        "yes" if entry.is_underestimate else "",
        entry.pk,
    ]
