"""Budgets: reserve before a call, settle after it, and nothing is ever spent that was not held.

The only writer of budgets, holds, ledger and grants. What moves money here is run on a cursor, its twin with an `a`
on an asynchronous connection; both join the caller's transaction, which must be open and should do nothing but this
movement after the rows of its own: two movements in one transaction may wait for each other across two of them.
Two fragments are parts of statements of `replies.store`: `TAKE_OVER` moves nothing, it gives a hold to the attempt that
is put on record with it; `HOLD_ENDS` says how a hold is resolved by the function that ends a reply.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection as django_connection
from psycopg import AsyncConnection

from conversations.llm.types import Usage
from conversations.prices import Price

from . import holds, reading
from .holds import (
    Ask,
    BudgetRefused,
    Held,
    count_underestimate,
    hold_ends_values,
    read_price,
    take_over_values,
)
from .limits import (
    UNLIMITED,
    BadAmount,
    apply_limits,
    grant_extra,
    open_installation_day,
    set_conversation_cap,
    set_group_limit,
    set_user_limit,
)
from .reading import Quote, Remaining, Room, quote_in
from .statements import HOLD_ENDS, TAKE_OVER
from .steps import Cursor, arun, run

__all__ = [
    "HOLD_ENDS",
    "TAKE_OVER",
    "UNLIMITED",
    "Ask",
    "BadAmount",
    "BudgetRefused",
    "Held",
    "Quote",
    "Remaining",
    "Room",
    "aattach",
    "aexpire",
    "apply_limits",
    "arecord_free",
    "areserve",
    "asettle",
    "attach",
    "avoid",
    "count_underestimate",
    "expire",
    "grant_extra",
    "hold_ends_values",
    "open_installation_day",
    "quote_in",
    "read_price",
    "record_free",
    "remaining",
    "reserve",
    "room",
    "set_conversation_cap",
    "set_group_limit",
    "set_user_limit",
    "settle",
    "take_over_values",
    "void",
]

Connection = AsyncConnection[Any]


def reserve(cursor: Cursor, ask: Ask, *, now: datetime | None = None) -> Held | None:
    """Hold what a call can cost at most; None for a free model. Raises BudgetRefused, and then holds nothing."""
    return run(cursor, holds.reserve(ask, now=now))


async def areserve(connection: Connection, ask: Ask, *, now: datetime | None = None) -> Held | None:
    return await arun(connection, holds.reserve(ask, now=now))


def attach(
    cursor: Cursor, hold_id: UUID, attempt_id: UUID | None = None, *, now: datetime | None = None
) -> bool:
    """Put on record that the call of a hold is about to be sent. False: it is resolved already, so do not send."""
    return run(cursor, holds.attach(hold_id, attempt_id, now=now))


async def aattach(
    connection: Connection, hold_id: UUID, attempt_id: UUID | None = None, *, now: datetime | None = None
) -> bool:
    return await arun(connection, holds.attach(hold_id, attempt_id, now=now))


def settle(
    cursor: Cursor,
    *,
    usage: Usage,
    usage_reported: bool,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    price: Price | None = None,
    now: datetime | None = None,
) -> int | None:
    """Charge what a call cost, in full, and release the rest. Returns the charge; None: resolved before."""
    return run(
        cursor,
        holds.settle(
            usage=usage,
            usage_reported=usage_reported,
            hold_id=hold_id,
            attempt_id=attempt_id,
            price=price,
            now=now,
        ),
    )


async def asettle(
    connection: Connection,
    *,
    usage: Usage,
    usage_reported: bool,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    price: Price | None = None,
    now: datetime | None = None,
) -> int | None:
    return await arun(
        connection,
        holds.settle(
            usage=usage,
            usage_reported=usage_reported,
            hold_id=hold_id,
            attempt_id=attempt_id,
            price=price,
            now=now,
        ),
    )


def void(
    cursor: Cursor,
    *,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    now: datetime | None = None,
) -> int | None:
    """Release all of a hold, whose call was never sent or refused before any output. None: resolved before."""
    return run(cursor, holds.void(hold_id=hold_id, attempt_id=attempt_id, now=now))


async def avoid(
    connection: Connection,
    *,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    now: datetime | None = None,
) -> int | None:
    return await arun(connection, holds.void(hold_id=hold_id, attempt_id=attempt_id, now=now))


def expire(
    cursor: Cursor,
    *,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    usage: Usage | None = None,
    now: datetime | None = None,
) -> int | None:
    """End a hold that nobody came back for: charged what is known, at least its prompt if it was sent."""
    return run(cursor, holds.expire(hold_id=hold_id, attempt_id=attempt_id, usage=usage, now=now))


async def aexpire(
    connection: Connection,
    *,
    hold_id: UUID | None = None,
    attempt_id: UUID | None = None,
    usage: Usage | None = None,
    now: datetime | None = None,
) -> int | None:
    return await arun(connection, holds.expire(hold_id=hold_id, attempt_id=attempt_id, usage=usage, now=now))


def record_free(
    cursor: Cursor, ask: Ask, *, usage: Usage, usage_reported: bool, now: datetime | None = None
) -> None:
    """The ledger line of a call that costs nothing. The caller sees to it that it is written once."""
    run(cursor, holds.record_free(ask, usage=usage, usage_reported=usage_reported, now=now))


async def arecord_free(
    connection: Connection, ask: Ask, *, usage: Usage, usage_reported: bool, now: datetime | None = None
) -> None:
    await arun(connection, holds.record_free(ask, usage=usage, usage_reported=usage_reported, now=now))


def remaining(user_id: int, *, now: datetime | None = None) -> Remaining:
    """What a person has left today. Raises LookupError when there is no such person."""
    with django_connection.cursor() as cursor:
        return run(cursor, reading.remaining(user_id, now=now))


def room(user_id: int, conversation_id: UUID | None, *, now: datetime | None = None) -> Room | None:
    """Which scope bounds a person's next call, and what it has left; None: nothing does."""
    with django_connection.cursor() as cursor:
        return run(cursor, reading.room(user_id, conversation_id, now=now))
