"""The cost lab: one conversation replayed under each strategy, beside what it has really cost. It calls no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from conversations import presets
from conversations.catalog import ModelEntry, load_catalog
from conversations.cost_lab.lab import PLANS, Lab, OneAtATime, Row, is_ready, lab_of, use
from conversations.models import Conversation
from conversations.money import dollars, exact

from .composer import chosen_model
from .cost_lab_chart import Line, cost_chart, thousands, tokens_chart
from .http import PersonRequest, as_text, csv_file, render_page

logger = logging.getLogger(__name__)

#: In the session: what a conversation had before its last change here.
BEFORE = "cost_lab_before"


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def cost_lab(request: PersonRequest, pk: UUID) -> HttpResponse:
    """A long conversation is replayed once the page is there; `?now` does it with the page."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    if request.method == "POST":
        return choose(request, shown)
    catalog = load_catalog()
    entry = chosen_model(catalog, shown.model)
    context: dict[str, Any] = {"conversation": shown, "entry": entry, "can_undo": has_before(request, shown)}
    part = "replaying"
    if entry is None or entry.price is None:
        return render_page(request, "conversations/cost_lab.html", context, current=shown)
    if "result" in request.GET or "now" in request.GET or is_ready(shown, catalog, entry):
        try:
            context |= result_of(shown, entry)
            part = "result"
        except OneAtATime:
            context["waits"] = True
        except Exception as error:  # whatever it is: the conversation goes on, and so does the page
            logger.error("a conversation could not be replayed: %s", type(error).__name__)
            part = "failed"
    context["part"] = part
    if request.htmx and "result" in request.GET:
        return render(request, f"conversations/cost_lab.html#{part}", context)
    return render_page(request, "conversations/cost_lab.html", context, current=shown)


@require_safe
@login_required
def cost_lab_export(request: PersonRequest, pk: UUID) -> HttpResponse:
    """What the page shows as a table of values separated by commas; with `?by=turn`, what its charts show."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    catalog = load_catalog()
    entry = chosen_model(catalog, shown.model)
    try:
        lab = lab_of(shown, catalog, entry) if entry and entry.price else None
    except OneAtATime:
        lab = None
    except Exception as error:
        logger.error("a conversation could not be replayed: %s", type(error).__name__)
        lab = None
    if lab is None:
        return redirect("cost_lab", shown.pk)  # it says why
    is_by_turn = request.GET.get("by") == "turn"
    return csv_file(
        "parley-cost-lab-turns" if is_by_turn else "parley-cost-lab",
        rows_by_turn(lab) if is_by_turn else rows_of(lab),
    )


def rows_of(lab: Lab) -> Iterator[list[object]]:
    """A row for each strategy, and one for what it really was."""
    yield [
        "strategy",
        "in_use",
        "turns",
        "median_tokens_per_turn",
        "most_tokens_per_turn",
        "input_tokens",
        "output_tokens",
        "from_cache_percent",
        "facts_kept",
        "facts_to_keep",
        "more_than_full_history_percent",
        *(f"cost_usd {as_text(model.id)}" for model in lab.models),
    ]
    for row in lab.rows:
        yield [
            as_text(row.name),
            "yes" if row.is_current else "",
            lab.turns,
            row.simulation.median_tokens,
            row.simulation.most_tokens,
            row.simulation.input_tokens,
            sum(turn.usage.output_tokens for turn in row.simulation.turns),
            row.cache_percent,
            row.kept,
            row.cited,
            "" if row.over_full is None else row.over_full,
            *("does not fit" if cost is None else exact(cost) for cost in row.costs),
        ]
    was = lab.reality
    yield [
        "As it really was",
        "",
        was.calls,
        "",
        "",
        was.input_tokens,
        was.output_tokens,
        was.cache_percent,
        "",
        "",
        "",
        exact(was.charged),
        *("" for _ in lab.models[1:]),
    ]


def rows_by_turn(lab: Lab) -> Iterator[list[object]]:
    yield ["turn", "strategy", "input_tokens", "cost_so_far_usd"]
    for row in lab.rows:
        costs = row.simulation.costs_so_far()
        for number, (turn, cost) in enumerate(zip(row.simulation.turns, costs, strict=True), 1):
            yield [number, as_text(row.name), turn.usage.input_tokens, exact(cost)]


def choose(request: PersonRequest, shown: Conversation) -> HttpResponse:
    if request.POST.get("act") == "undo":
        return undo(request, shown)
    plan = PLANS.get(request.POST.get("plan", ""))
    if plan is None:
        raise Http404
    request.session[BEFORE] = {"conversation": str(shown.pk), **presets.snapshot(shown)}
    use(shown, plan)
    messages.info(request, f"{plan.name} holds from the next message on.")
    return redirect("cost_lab", shown.pk)


def has_before(request: PersonRequest, shown: Conversation) -> bool:
    return bool(request.session.get(BEFORE, {}).get("conversation") == str(shown.pk))


def undo(request: PersonRequest, shown: Conversation) -> HttpResponse:
    """Put back what the last change here has replaced, numbers of its own among it."""
    if has_before(request, shown):
        presets.put_back(shown, request.session.pop(BEFORE))
        messages.info(request, "Put back as it was.")
    return redirect("cost_lab", shown.pk)


def result_of(shown: Conversation, entry: ModelEntry) -> dict[str, Any]:
    lab = lab_of(shown, load_catalog(), entry)
    if lab is None:
        return {"lab": None}
    tokens = [
        Line(
            name=row.name,
            values=[turn.usage.input_tokens for turn in row.simulation.turns],
            label=thousands(row.simulation.turns[-1].usage.input_tokens),
            is_current=row.is_current,
        )
        for row in lab.rows
    ]
    costs = [
        Line(
            name=row.name,
            values=row.simulation.costs_so_far(),
            label=dollars(row.simulation.cost),
            is_current=row.is_current,
        )
        for row in lab.rows
    ]
    drawn = tokens_chart(tokens)
    is_free = not any(row.simulation.cost for row in lab.rows)
    return {
        "lab": lab,
        "tokens_chart": drawn,
        "cost_chart": None if is_free else cost_chart(costs),
        "styles": sorted(drawn.lines, key=lambda line: line.style),
        "finding": finding(lab),
    }


def finding(lab: Lab) -> tuple[str, str]:
    """What the replay says, in a sentence, and the alternative in another one."""
    current, full = lab.current, lab.full
    cost = dollars(current.simulation.cost)
    kept = f" and keeps {current.kept} of {current.cited} facts" if current.cited else ""
    if current is full or not full.simulation.cost:
        return f"{current.name} costs {cost} for {lab.turns} turns{kept}.", _cheaper(lab)
    over = current.over_full or 0
    compared = "as much as" if over == 0 else f"{abs(over)} % {'more' if over > 0 else 'less'} than"
    return f"{current.name} costs {cost}{kept}: {compared} full history.", _cheaper(lab)


def _cheaper(lab: Lab) -> str:
    """The best of what would cost less; silence where nothing does."""
    current = lab.current
    cheaper = [row for row in lab.rows if row.simulation.cost < current.simulation.cost]
    if not cheaper:
        return "Nothing here is cheaper."
    best: Row = max(cheaper, key=lambda row: (row.kept, -row.simulation.cost))
    kept = f" and keeps {best.kept} of {best.cited}" if best.cited else ""
    return f"{best.name} would cost {dollars(best.simulation.cost)}{kept}."
