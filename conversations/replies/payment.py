"""The end of an attempt's money: its hold is settled or released, once, in the transaction that ends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from conversations.budgets import Ask, arecord_free, asettle, avoid
from conversations.llm.types import Usage
from conversations.models import Purpose
from conversations.prices import Price, free_price

if TYPE_CHECKING:
    from .store import Outcome

Connection = AsyncConnection[DictRow]

UNUSED = """
SELECT h.id FROM budget_holds h JOIN replies r ON r.id = h.reply_id AND r.epoch = %s AND r.state = 'running'
WHERE h.reply_id = %s AND h.state = 'held' AND h.attempt_id IS NULL
"""


async def release_unused(connection: Connection, reply_id: UUID, epoch: int) -> None:
    """Give back what was held for a reply and does not cover its next call, if it is still ours.

    Each in a transaction of its own.
    """
    cursor = await connection.execute(UNUSED, [epoch, reply_id])
    for row in await cursor.fetchall():
        async with connection.transaction():
            await avoid(connection, hold_id=row["id"])


async def resolve(
    connection: Connection,
    attempt_id: UUID,
    billed: Usage | None,
    *,
    usage_reported: bool = False,
    price: Price | None = None,
) -> None:
    """Charge an attempt for what its provider is taken to bill; None: nothing, and all of the hold is released.

    `price` is the one that was held, where it is known already.
    """
    if billed is None:
        await avoid(connection, attempt_id=attempt_id)
    else:
        await asettle(
            connection, attempt_id=attempt_id, usage=billed, usage_reported=usage_reported, price=price
        )


async def settle_up(
    connection: Connection, reply_id: UUID, ended: Mapping[str, Any], outcome: Outcome
) -> None:
    """Resolve all that is held for a reply that has just ended.

    `ended` names its last attempt, the price that was held for that, and the holds that it has not used.
    """
    for hold_id in ended["unused"]:
        await avoid(connection, hold_id=hold_id)
    attempt_id = ended["attempt_id"]
    if attempt_id is None:
        return
    if ended["held_price"]:
        price = Price.from_snapshot(json.loads(ended["held_price"]))
        reported = outcome.usage_reported
        await resolve(connection, attempt_id, outcome.billed, usage_reported=reported, price=price)
    elif outcome.billed is not None:
        await arecord_free(
            connection,
            Ask(
                user_id=ended["user_id"],
                conversation_id=ended["conversation_id"],
                reply_id=reply_id,
                attempt_id=attempt_id,
                purpose=purpose_of(ended["attempt_number"]),
                caused_by=ended["user_id"],
                model=ended["attempt_model"],
                price=free_price(ended["attempt_model"]),
                input_tokens=outcome.billed.input_tokens,
                max_tokens=outcome.billed.output_tokens,
            ),
            usage=outcome.billed,
            usage_reported=outcome.usage_reported,
        )


def purpose_of(attempt: int) -> Purpose:
    return Purpose.REPLY if attempt <= 1 else Purpose.RETRY
