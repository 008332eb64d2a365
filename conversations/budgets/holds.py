"""Holds: reserved before a call, resolved once after it. Each movement is a generator of steps: see `steps`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.conf import settings

from conversations.llm.types import Usage
from conversations.metrics import HOLD_UNDERESTIMATES
from conversations.models import Hold, Purpose, Scope
from conversations.models.fields import new_id
from conversations.money import MOST
from conversations.prices import Price

from . import statements as sql
from .opening import open_conversation, open_day, open_installation
from .steps import Row, Steps, step

#: The most tokens that a column holds: no provider counts that far.
MOST_TOKENS = 2**31 - 1
#: Times that a reservation begins anew because a day ended under it.
TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a call needs at most."""

    user_id: int
    conversation_id: UUID | None = None
    reply_id: UUID | None = None
    attempt_id: UUID | None = None
    purpose: Purpose = Purpose.REPLY
    caused_by: int | None = None  #: the person who asked for it; None: work in the background
    model: str  #: the catalogue entry's id
    price: Price
    input_tokens: int  #: of the prompt, at most
    max_tokens: int
    floor: int | None = None  #: an answer may shrink to so many tokens; None: settings.SHRINK_FLOOR


@dataclass(frozen=True, kw_only=True)
class Held:
    hold_id: UUID
    amount: int
    max_tokens: int  #: what is sent with the request
    shrunk: bool


class BudgetRefused(Exception):
    """This message does not fit in what is left today."""

    SENTENCES = {
        Scope.CONVERSATION: "This message does not fit in what is left of this conversation's cap.",
        Scope.USER: "This message does not fit in what is left today.",
        Scope.INSTALLATION: "This message does not fit in what is left today for everybody here.",
    }

    def __init__(
        self, *, scope: Scope, left: int, limit: int, needed: int, resets_at: datetime | None
    ) -> None:
        super().__init__(self.SENTENCES[scope])
        self.scope = scope
        self.left = left  #: nano-USD, never negative
        self.limit = limit  #: extra included
        self.needed = needed  #: for the whole answer
        self.resets_at = resets_at  #: None: never

    @property
    def sentence(self) -> str:
        return str(self)


def reserve(ask: Ask, *, now: datetime | None = None) -> Steps[Held | None]:
    """Hold what a call can cost at most, shrinking its answer to what fits; None for a free model.

    Raises BudgetRefused, and then holds nothing: the caller may commit what else its transaction has done.
    """
    if ask.price.is_free:
        return None
    max_tokens, amount = ask.max_tokens, worst(ask, ask.max_tokens)
    for _ in range(TRIES):
        values = _values(ask, max_tokens=max_tokens, amount=amount, now=now)
        rows = yield step(sql.RESERVE, **values)
        outcome, scopes = rows[0]
        if outcome == "held":
            return Held(
                hold_id=values["hold"],
                amount=amount,
                max_tokens=max_tokens,
                shrunk=max_tokens < ask.max_tokens,
            )
        if outcome == "full":
            rooms = yield step(sql.ROOMS, scopes=scopes)
            max_tokens = _most_that_fits(ask, rooms)
            amount = worst(ask, max_tokens)
        elif (yield from _open_rows(ask, now)) is None:
            break
    raise BudgetRefused(scope=Scope.USER, left=0, limit=0, needed=worst(ask, ask.max_tokens), resets_at=None)


def _open_rows(ask: Ask, now: datetime | None) -> Steps[UUID | None]:
    """Open the rows that are missing. None: there is no such person."""
    if ask.conversation_id is not None and settings.CONVERSATION_CAP is not None:
        yield from open_conversation(ask.conversation_id, now, settings.CONVERSATION_CAP)
    if settings.INSTALLATION_DAILY_LIMIT is not None:
        yield from open_installation(now, settings.INSTALLATION_DAILY_LIMIT)
    return (yield from open_day(ask.user_id, now))


def _values(ask: Ask, *, max_tokens: int, amount: int, now: datetime | None) -> dict[str, Any]:
    return {
        "now": now,
        "hold": new_id(),
        "amount": amount,
        "input_tokens": _count(ask.input_tokens),
        "max_tokens": _count(max_tokens),
        "price": _snapshot(ask.price),
        "lease": settings.HOLD_LEASE,
        "needs_cap": settings.CONVERSATION_CAP is not None,
        "needs_installation": settings.INSTALLATION_DAILY_LIMIT is not None,
        **_whose(ask),
    }


def _whose(ask: Ask) -> dict[str, Any]:
    return {
        "user": ask.user_id,
        "subject": str(ask.user_id),
        "caused_by": ask.caused_by,
        "conversation": None if ask.conversation_id is None else str(ask.conversation_id),
        "reply": ask.reply_id,
        "attempt": ask.attempt_id,
        "purpose": ask.purpose.value,
        "model": ask.model,
    }


def worst(ask: Ask, max_tokens: int) -> int:
    """Nano-USD of an answer of at most so many tokens, prompt included."""
    return min(ask.price.worst(ask.input_tokens, max_tokens), MOST)


def _floor(ask: Ask) -> int:
    return min(ask.max_tokens, settings.SHRINK_FLOOR if ask.floor is None else ask.floor)


def most_tokens(ask: Ask, room: int) -> int | None:
    """The longest answer that a room in nano-USD pays for, prompt included; None: not even the floor."""
    low, high = _floor(ask), ask.max_tokens
    if worst(ask, low) > room:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if worst(ask, middle) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _most_that_fits(ask: Ask, rooms: list[Row]) -> int:
    """The longest answer that fits in all scopes, by the one with the least room. Raises BudgetRefused."""
    limited = [row for row in rooms if row[2] is not None]
    if not limited:
        return ask.max_tokens
    scope, limit, room, ends_at = min(limited, key=lambda row: row[2])
    tokens = most_tokens(ask, room)
    if tokens is None:
        raise BudgetRefused(
            scope=Scope(scope),
            left=max(room, 0),
            limit=limit,
            needed=worst(ask, ask.max_tokens),
            resets_at=ends_at,
        )
    return tokens


def attach(hold_id: UUID, attempt_id: UUID | None = None, *, now: datetime | None = None) -> Steps[bool]:
    """Put on record that the call of a hold is about to be sent. False: it is resolved already, so do not send."""
    rows = yield step(sql.ATTACH, hold=hold_id, attempt=attempt_id, lease=settings.HOLD_LEASE, now=now)
    return bool(rows)


def take_over_values(ask: Ask, *, now: datetime | None = None) -> dict[str, Any]:
    """What `TAKE_OVER` asks for."""
    return {
        "user": ask.user_id,
        "reply": ask.reply_id,
        "attempt": ask.attempt_id,
        "model": ask.model,
        "input_tokens": _count(ask.input_tokens),
        "max_tokens": _count(ask.max_tokens),
        "lease": settings.HOLD_LEASE,
        "now": now,
    }


def hold_ends_values(price: Price | None, billed: Usage | None) -> dict[str, Any]:
    """What `HOLD_ENDS` asks for: charged by the price that was held, or released, where nothing is billed.

    Without a price nothing is held: the statement fails if it finds a hold all the same.
    """
    counts, is_held = _counts(billed), price is not None and not price.is_free
    settled = Hold.State.SETTLED.value if is_held else None
    return {
        "hold_state": Hold.State.VOID.value if billed is None else settled,
        "charged": _cost(price, counts) if price is not None else 0,
        "line": new_id(),
        **{f"billed_{name}": count for name, count in counts.items()},
    }


def settle(
    *,
    usage: Usage,
    usage_reported: bool,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    price: Price | None = None,
    now: datetime | None = None,
) -> Steps[int | None]:
    """Charge what a call cost, in full, and release the rest. None: its hold was resolved before.

    Whoever knows the price that was held saves a round trip.
    """
    if price is None:
        known = yield from _known(hold_id, attempt_id)
        if known is None:
            return None
        _, price = known
    counts = _counts(usage)
    return (
        yield from _resolve(
            hold_id,
            attempt_id,
            state=Hold.State.SETTLED,
            charged=_cost(price, counts),
            counts=counts,
            usage_reported=usage_reported,
            now=now,
        )
    )


def void(
    *, hold_id: UUID | None = None, attempt_id: UUID | None = None, now: datetime | None = None
) -> Steps[int | None]:
    """Release all of a hold: its call was never sent, or refused before any output. None: resolved before."""
    return (
        yield from _resolve(
            hold_id, attempt_id, state=Hold.State.VOID, charged=0, counts=_counts(None), now=now
        )
    )


def expire(
    *,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    usage: Usage | None = None,
    now: datetime | None = None,
) -> Steps[int | None]:
    """End a hold that nobody came back for: charged what is known, at least the prompt if it was sent.

    None: it was resolved before.
    """
    known = yield from _known(hold_id, attempt_id)
    if known is None:
        return None
    input_tokens, price = known
    counts = _counts(usage or Usage(input_tokens=input_tokens))
    return (
        yield from _resolve(
            hold_id,
            attempt_id,
            state=Hold.State.EXPIRED,
            charged=_cost(price, counts),
            counts=counts,
            if_sent=True,
            now=now,
        )
    )


def _known(hold_id: UUID | None, attempt_id: UUID | None) -> Steps[tuple[int, Price] | None]:
    """A hold's tokens of the prompt and its price."""
    rows = yield step(sql.HOLD, hold=hold_id, attempt=attempt_id)
    return (rows[0][0], read_price(rows[0][1])) if rows else None


def _cost(price: Price, counts: Mapping[str, int]) -> int:
    return min(price.cost(Usage(**counts)), MOST)


def _resolve(
    hold_id: UUID | None,
    attempt_id: UUID | None,
    *,
    state: Hold.State,
    charged: int,
    counts: Mapping[str, int],
    usage_reported: bool = False,
    if_sent: bool = False,
    now: datetime | None,
) -> Steps[int | None]:
    if (hold_id is None) == (attempt_id is None):
        raise TypeError("A hold is named by its own id or by its attempt's.")
    rows = yield step(
        sql.RESOLVE,
        hold=hold_id,
        attempt=attempt_id,
        state=state.value,
        charged=charged,
        if_sent=if_sent,
        line=new_id(),
        usage_reported=usage_reported,
        now=now,
        **counts,
    )
    taken: int | None
    taken, amount, purpose = rows[0]
    count_underestimate(taken, amount, purpose)
    return taken


def count_underestimate(charged: int | None, amount: int, purpose: str) -> None:
    """A charge above its hold is a defect of the estimate. None: nothing was charged."""
    if charged is not None and charged > amount:
        HOLD_UNDERESTIMATES.labels(purpose).inc()


def record_free(ask: Ask, *, usage: Usage, usage_reported: bool, now: datetime | None = None) -> Steps[None]:
    """The ledger line of a call that costs nothing. The caller sees to it that it is written once."""
    values = {
        **_whose(ask),
        **_counts(usage),
        "usage_reported": usage_reported,
        "price": _snapshot(ask.price),
        "now": now,
    }
    if not (yield step(sql.RECORD_FREE, line=new_id(), needs_day=True, **values)):
        opened = yield from open_day(ask.user_id, now)
        yield step(sql.RECORD_FREE, line=new_id(), needs_day=opened is not None, **values)


@lru_cache(maxsize=256)
def _snapshot(price: Price) -> str:
    return json.dumps(price.snapshot())


@lru_cache(maxsize=256)
def read_price(snapshot: str) -> Price:
    """The price of a hold, from its JSON."""
    return Price.from_snapshot(json.loads(snapshot))


def _counts(usage: Usage | None) -> dict[str, int]:
    """Tokens as the columns take them, whatever a provider reports."""
    usage = usage or Usage(input_tokens=0)
    names = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    return {name: _count(getattr(usage, name)) for name in names}


def _count(tokens: int) -> int:
    return min(max(tokens, 0), MOST_TOKENS)
