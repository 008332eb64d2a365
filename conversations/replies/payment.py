"""The end of an attempt's money, where it is more than a part of the statement that ends a reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from conversations.budgets import Ask, arecord_free, asettle, avoid, read_price
from conversations.llm.types import Usage
from conversations.models import Purpose
from conversations.prices import Price, free_price

Connection = AsyncConnection[DictRow]

UNUSED = """
SELECT h.id FROM replies r JOIN budget_holds h ON h.user_id = r.user_id AND h.reply_id = r.id
WHERE r.id = %s AND r.epoch = %s AND (r.state = 'running') IS TRUE AND h.state = 'held' AND h.attempt_id IS NULL
"""

#: Of a call that has not ended: nobody but its runner changes either row.
HELD_PRICE = """
SELECT h.price::text FROM reply_attempts a JOIN budget_holds h ON h.attempt_id = a.id
WHERE a.reply_id = %s AND a.state = 'running'
"""


async def release_unused(connection: Connection, reply_id: UUID, epoch: int) -> None:
    """Give back what was held for a reply and does not cover its next call, if it is still ours.

    Each in a transaction of its own.
    """
    cursor = await connection.execute(UNUSED, [reply_id, epoch])
    for row in await cursor.fetchall():
        async with connection.transaction():
            await avoid(connection, hold_id=row["id"])


async def resolve(
    connection: Connection, attempt_id: UUID, billed: Usage | None, *, price: Price | None
) -> None:
    """Charge an attempt for what its provider is taken to bill; None: nothing, and all of the hold is released."""
    if billed is None:
        await avoid(connection, attempt_id=attempt_id)
    else:
        await asettle(connection, attempt_id=attempt_id, usage=billed, usage_reported=False, price=price)


async def held_price(connection: Connection, reply_id: UUID) -> Price | None:
    """By which the last call of a reply is held; None: nothing is held for it."""
    cursor = await connection.execute(HELD_PRICE, [reply_id])
    row = await cursor.fetchone()
    return None if row is None else read_price(row["price"])


async def record_free(
    connection: Connection, reply_id: UUID, ended: Mapping[str, Any], usage: Usage, *, usage_reported: bool
) -> None:
    """The ledger line of a free call that has just ended with its reply."""
    model = ended["attempt_model"]
    ask = Ask(
        user_id=ended["person"],
        conversation_id=ended["conversation"],
        reply_id=reply_id,
        attempt_id=ended["attempt"],
        purpose=purpose_of(ended["attempt_number"]),
        caused_by=ended["person"],
        model=model,
        price=free_price(model),
        input_tokens=usage.input_tokens,
        max_tokens=usage.output_tokens,
    )
    await arecord_free(connection, ask, usage=usage, usage_reported=usage_reported)


def purpose_of(attempt: int) -> Purpose:
    return Purpose.REPLY if attempt <= 1 else Purpose.RETRY
