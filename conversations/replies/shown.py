"""A reply with all that the page says of it, read in one round trip where no thread is at hand for the ORM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import Model
from psycopg.rows import tuple_row

from conversations.database import Pool
from conversations.models import Message, Reply, ReplyAttempt
from conversations.reports.receipts import LINES, PAID, Paid, paid_from


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A reply and all that the page says of it."""

    reply: Reply
    answer: Message | None
    attempt: ReplyAttempt | None  #: the last one
    answers: list[UUID]  #: to the same question, oldest first
    paid: Paid | None


def columns_of(model: type[Model], alias: str) -> str:
    return ", ".join(f'{alias}."{field.column}"' for field in model._meta.concrete_fields)


def take(model: type[Any], values: Iterator[Any]) -> Any:
    """An instance of the values that come next in a row, or None if they are those of an outer join without one."""
    names = [field.attname for field in model._meta.concrete_fields]
    own = list(islice(values, len(names)))
    return None if own[0] is None else model.from_db("default", names, own)


SHOWN = f"""
SELECT {columns_of(Reply, "r")}, {columns_of(Message, "m")},
    {columns_of(ReplyAttempt, "a")},
    ARRAY(SELECT id FROM messages WHERE parent_id = r.question_id AND role = 'assistant' ORDER BY id), p.*
FROM replies r
LEFT JOIN messages m ON m.id = r.answer_id
LEFT JOIN LATERAL (SELECT * FROM reply_attempts WHERE reply_id = r.id ORDER BY number DESC LIMIT 1) a ON true
CROSS JOIN LATERAL (SELECT {PAID} FROM {LINES} WHERE l.reply_id = r.id) p
WHERE r.id = %(id)s
"""


async def load_shown(pool: Pool, reply_id: UUID) -> Shown | None:
    async with pool.connection() as connection, connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(SHOWN, {"id": reply_id})
        row = await cursor.fetchone()
    if row is None:
        return None
    values = iter(row)
    return Shown(
        reply=take(Reply, values),
        answer=take(Message, values),
        attempt=take(ReplyAttempt, values),
        answers=next(values),
        paid=paid_from(list(values)),
    )
