"""What the calls of a reply have cost, by the ledger: the money of its receipt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from django.db.models import Sum
from psycopg.rows import tuple_row

from conversations.database import plain_cursor
from conversations.models import LedgerEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class Paid:
    """All calls of one reply together, in nano-USD."""

    calls: int
    charged_calls: int
    held: int
    charged: int
    released: int
    is_free: bool
    is_estimated: bool  #: some of it is charged for tokens that nobody has reported
    is_underestimate: bool  #: a call cost more than was held for it
    max_tokens: int | None  #: what the last paid call was sent with
    entry_id: UUID  #: the line of the last call that was charged, else of the last one
    day: date | None  #: that this line counts for


#: The fields of `Paid` in their order, over lines `l` and their holds `h`.
PAID = """
    count(*)::int, (count(*) FILTER (WHERE l.charged > 0))::int, sum(l.held)::bigint, sum(l.charged)::bigint,
    sum(greatest(l.held - l.charged, 0))::bigint, bool_and(l.kind = 'free'),
    bool_or(l.charged > 0 AND NOT l.usage_reported), bool_or(l.is_underestimate),
    (array_agg(h.max_tokens ORDER BY l.created_at DESC))[1],
    (array_agg(l.id ORDER BY l.charged > 0 DESC, l.created_at DESC))[1],
    (array_agg(l.day ORDER BY l.charged > 0 DESC, l.created_at DESC))[1]
"""
LINES = "ledger_entries l LEFT JOIN budget_holds h ON h.id = l.hold_id"

PAID_FOR = f"SELECT l.reply_id, {PAID} FROM {LINES} WHERE l.reply_id = ANY(%s) GROUP BY l.reply_id"


def paid_from(values: Sequence[Any]) -> Paid | None:
    """The columns of PAID; None: there is no line."""
    return Paid(**dict(zip(Paid.__slots__, values, strict=True))) if values[0] else None


def paid_for(reply_ids: Iterable[UUID]) -> dict[UUID, Paid]:
    """By reply, in one query. Without a line there is no entry."""
    ids = list(reply_ids)
    if not ids:
        return {}
    with plain_cursor(tuple_row) as cursor:
        rows = cursor.execute(PAID_FOR, [ids]).fetchall()
    return {reply_id: paid for reply_id, *values in rows if (paid := paid_from(values)) is not None}


def cost_of(conversation_id: UUID) -> int:
    """Nano-USD that all calls of a conversation have cost so far, those of its title included."""
    lines = LedgerEntry.objects.filter(conversation_id=conversation_id)
    return lines.aggregate(charged=Sum("charged"))["charged"] or 0
