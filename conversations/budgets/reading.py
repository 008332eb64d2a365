"""What is left of a day, and what a message would cost: read, never written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings

from conversations.llm.types import Usage
from conversations.models import Scope

from . import statements as sql
from .days import day_at
from .holds import Ask, most_tokens, worst
from .steps import Steps, step

#: Tokens of a usual answer, for "about".
USUAL_ANSWER = 400


@dataclass(frozen=True, kw_only=True)
class Remaining:
    spent: int
    held: int
    limit: int | None  #: extra included; None: unlimited
    resets_at: datetime

    @property
    def left(self) -> int | None:
        """Nano-USD, never negative; None: unlimited."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held)


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is left in the scope that has the least."""

    scope: Scope
    left: int  #: nano-USD, never negative
    limit: int  #: extra included
    resets_at: datetime | None  #: None: never


@dataclass(frozen=True, kw_only=True)
class Quote:
    about: int
    at_most: int  #: what is held for the whole answer
    left: int | None  #: in the scope with the least room; None: unlimited
    fits: bool  #: as it is, or shrunk
    shrunk_max_tokens: int | None  #: the answer that fits, when the whole one does not
    held: int  #: what is held for the answer that fits; 0: none does


def remaining(user_id: int, *, now: datetime | None = None) -> Steps[Remaining]:
    """What a person has left today. Raises LookupError when there is no such person."""
    rows = yield step(
        sql.REMAINING, user=user_id, subject=str(user_id), now=now, default_limit=settings.DAILY_LIMIT
    )
    if not rows:
        raise LookupError("There is no such person.")
    moment, time_zone, effective, previous_end, spent, held, limit, ends_at = rows[0]
    if ends_at is None:  # nothing was asked for yet: the day that would open
        ends_at = day_at(moment, time_zone, previous_end=previous_end).ends_at
        spent, held, limit = 0, 0, effective
    return Remaining(spent=spent, held=held, limit=limit, resets_at=ends_at)


def room(user_id: int, conversation_id: UUID | None, *, now: datetime | None = None) -> Steps[Room | None]:
    """Which scope bounds the next call, and what it has left; None: nothing does. Rows that will open count."""
    today = yield from remaining(user_id, now=now)
    conversation = None if conversation_id is None else str(conversation_id)
    rows = yield step(sql.OTHER_ROOMS, conversation=conversation, now=now)
    known = {scope: values for scope, *values in rows}
    if Scope.CONVERSATION not in known and settings.CONVERSATION_CAP is not None:
        spent = yield step(sql.SPENT_IN_CONVERSATION, conversation=conversation)
        known[Scope.CONVERSATION] = [settings.CONVERSATION_CAP, spent[0][0], None]
    if Scope.INSTALLATION not in known and settings.INSTALLATION_DAILY_LIMIT is not None:
        known[Scope.INSTALLATION] = [settings.INSTALLATION_DAILY_LIMIT, 0, None]
    known[Scope.USER] = [today.limit, today.spent + today.held, today.resets_at]
    rooms = [
        Room(scope=scope, left=max(0, limit - used), limit=limit, resets_at=resets_at)
        for scope in Scope  # a hold asks them in this order, and the first of two equals refuses it
        for limit, used, resets_at in [known.get(scope, (None, 0, None))]
        if limit is not None
    ]
    return min(rooms, key=lambda room: room.left, default=None)


def quote_in(room: Room | None, ask: Ask) -> Quote:
    """What a message would cost with what is left. A free one costs nothing and always fits."""
    if ask.price.is_free:
        return Quote(about=0, at_most=0, left=None, fits=True, shrunk_max_tokens=None, held=0)
    at_most = worst(ask, ask.max_tokens)
    usual = Usage(input_tokens=ask.input_tokens, output_tokens=min(ask.max_tokens, USUAL_ANSWER))
    tokens = ask.max_tokens if room is None else most_tokens(ask, room.left)
    held = 0 if tokens is None else worst(ask, tokens)
    return Quote(
        about=min(ask.price.cost(usual), at_most),
        at_most=at_most,
        left=None if room is None else room.left,
        fits=tokens is not None,
        shrunk_max_tokens=None if tokens == ask.max_tokens else tokens,
        held=held,
    )
