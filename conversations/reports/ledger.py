"""The ledger as people read it: one line for each call, from its hold to what was charged and released."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q

from conversations.models import Conversation, Hold, LedgerEntry

from .spend import Selection

#: Lines that a page shows at once.
LINES = 50


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line, and the conversation that it belongs to unless that is gone."""

    entry: LedgerEntry
    conversation: Conversation | None

    @property
    def is_estimated(self) -> bool:
        """The provider did not report what it counted: the tokens are Parley's own count."""
        kinds = LedgerEntry.Kind
        return self.entry.kind in {kinds.SETTLED, kinds.EXPIRED, kinds.FREE} and not self.entry.usage_reported


@dataclass(frozen=True, kw_only=True)
class Page:
    """Lines, the newest first. `before`: the id that the next page begins after, None on the last one."""

    lines: list[Line]
    before: UUID | None


@dataclass(frozen=True, kw_only=True)
class OpenHold:
    """Money that a call on its way holds."""

    hold: Hold
    conversation: Conversation | None


def lines_of(selection: Selection) -> Iterable[Line]:
    """All lines of a selection, the newest first."""
    return _with_conversations(list(selection.entries().order_by("-created_at", "-pk")), selection.user_id)


def lines_of_page(selection: Selection, *, before: UUID | None = None) -> Page:
    """A page of them, after the line `before`. Raises LedgerEntry.DoesNotExist when that is none of them."""
    entries = selection.entries().order_by("-created_at", "-pk")
    if before is not None:
        last = selection.entries().get(pk=before)
        entries = entries.filter(
            Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, pk__lt=last.pk)
        )
    found = list(entries[: LINES + 1])
    return Page(
        lines=_with_conversations(found[:LINES], selection.user_id),
        before=found[LINES - 1].pk if len(found) > LINES else None,
    )


def open_holds(user_id: int) -> list[OpenHold]:
    """What the person's calls on their way hold, the newest first."""
    holds = list(Hold.objects.filter(user_id=user_id, state=Hold.State.HELD).order_by("-created_at", "-pk"))
    named = conversations_named((hold.conversation_id for hold in holds), user_id)
    return [OpenHold(hold=hold, conversation=named.get(hold.conversation_id)) for hold in holds]


def conversations_named(ids: Iterable[UUID | None], user_id: int | None) -> dict[UUID | None, Conversation]:
    """Those that are still there, by id; a person's own alone."""
    found = Conversation.objects.filter(pk__in={pk for pk in ids if pk is not None}, deleted_at=None)
    if user_id is not None:
        found = found.filter(user_id=user_id)
    return {conversation.pk: conversation for conversation in found.only("pk", "title")}


def _with_conversations(entries: list[LedgerEntry], user_id: int | None) -> list[Line]:
    named = conversations_named((entry.conversation_id for entry in entries), user_id)
    return [Line(entry=entry, conversation=named.get(entry.conversation_id)) for entry in entries]
