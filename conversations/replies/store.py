"""Each statement that a running reply needs, as raw SQL on the asynchronous pool: the ORM would take a thread a call.

Every write after the claim carries the epoch, so that a runner whose lease has ended changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from conversations.budgets import (
    HOLD_ENDS,
    TAKE_OVER,
    Ask,
    aattach,
    areserve,
    count_underestimate,
    hold_ends_values,
    read_price,
    take_over_values,
)
from conversations.context.cut import Cut
from conversations.crash_points import crash_point
from conversations.database import Pool
from conversations.llm.types import Usage
from conversations.models import ReplyState
from conversations.models.fields import new_id
from conversations.prices import Price

from .claims import CLAIM, Claim, Claimed, claim_values, read_claim
from .payment import held_price, record_free, release_unused, resolve
from .statements import LOCK_SENDER

#: Seconds that a process may take to end the replies of a dead one, before another process takes them.
RECOVERY_LEASE = 10


class LeaseLost(Exception):
    """Another process has taken this reply: whoever reads this must stop and write nothing."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    reply_id: UUID
    epoch: int
    text: str
    reasoning: str
    position: str
    first_token_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A provider call that is on record, and paid for."""

    max_tokens: int  #: to send
    price: Price  #: by which it is held


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt, and with it its reply, ended."""

    state: str
    text: str = ""
    reasoning: str = ""
    token_count: int = 0
    finish_reason: str = ""
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_reported: bool = False
    #: What the provider is taken to bill for the attempt that ends with it; None: nothing.
    billed: Usage | None = None
    error_code: str = ""
    error_detail: str = ""
    first_token_at: datetime | None = None


def discarded(outcome: Outcome) -> Outcome:
    """A reply that was cut off where its preset keeps no part of one: failed, whatever it was charged."""
    if outcome.state != ReplyState.INTERRUPTED:
        return outcome
    return replace(
        outcome,
        state=ReplyState.FAILED,
        text="",
        reasoning="",
        token_count=0,
        error_code="Discarded",
        error_detail=outcome.error_code,
    )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What follows from the end of a reply."""

    has_waiting: bool  #: another reply of this person waits for its turn


FINISH = f"""
SELECT has_waiting, person, conversation, attempt, attempt_number, attempt_model, charged, amount, purpose
FROM reply_finish(
    p_reply => %(id)s, p_epoch => %(epoch)s, p_state => %(state)s, p_error_code => %(error_code)s,
    p_error_detail => %(error_detail)s, p_first_token_at => %(first_token_at)s, p_answer => %(answer)s,
    p_text => %(text)s, p_reasoning => %(reasoning)s, p_token_count => %(token_count)s, p_model => %(model)s,
    p_attempt => %(attempt)s, p_finish_reason => %(finish_reason)s, p_input_tokens => %(input_tokens)s,
    p_cached_tokens => %(cached_tokens)s, p_output_tokens => %(output_tokens)s,
    p_reasoning_tokens => %(reasoning_tokens)s, p_usage_reported => %(usage_reported)s, p_cut => %(cut)s,
    p_preset_digest => %(preset_digest)s, p_compaction_due => %(compaction_due)s, p_vectors_due => %(vectors_due)s,
    {HOLD_ENDS}
)
"""

#: Still ours, and nobody else's until the call is on record: who takes it over at this moment is waited for. The key of
#: the attempt locks the row, too, but not against that. `IS TRUE` has PostgreSQL find a reply by its key, not among all
#: that are open: see migration 0037.
_OURS = """ours AS (
    SELECT id, epoch FROM replies WHERE id = %(id)s AND epoch = %(epoch)s AND (state = 'running') IS TRUE
    FOR SHARE
)"""
_INTO_ATTEMPTS = """
INSERT INTO reply_attempts (id, reply_id, number, epoch, model, state, manifest, finish_reason, usage_reported,
    error_code, error_detail)
SELECT %(attempt)s, ours.id, %(number)s, ours.epoch, %(model)s, 'running', %(manifest)s, '', false, '', '' FROM ours
"""
_AGAIN = "ON CONFLICT (id) DO UPDATE SET state = 'running'"
BEGIN_ATTEMPT = f"WITH {_OURS} {_INTO_ATTEMPTS} {_AGAIN} RETURNING id"
#: The same in one round trip with the hold of the send, where there is one that covers it.
BEGIN_PAID_ATTEMPT = f"""
WITH {_OURS}, held AS ({TAKE_OVER}) {_INTO_ATTEMPTS} CROSS JOIN held {_AGAIN}
RETURNING (SELECT max_tokens FROM held), (SELECT price FROM held)
"""

END_ATTEMPT = """
UPDATE reply_attempts a SET state = 'failed', error_code = %(code)s, error_detail = %(detail)s, finished_at = now()
FROM replies r
WHERE a.id = %(attempt)s AND a.state IN ('running', 'failed')
    AND r.id = a.reply_id AND r.epoch = %(epoch)s AND (r.state = 'running') IS TRUE
RETURNING a.id
"""


async def _begin(connection: AsyncConnection[DictRow], values: dict[str, Any]) -> None:
    cursor = await connection.execute(BEGIN_ATTEMPT, values)
    if await cursor.fetchone() is None:
        raise LeaseLost


async def _finish(connection: AsyncConnection[DictRow], values: dict[str, Any]) -> DictRow | None:
    crash_point("in_finish", after=0.0005)
    cursor = await connection.execute(FINISH, values)
    row = await cursor.fetchone()
    if row is None or row["has_waiting"] is None:
        return None
    count_underestimate(row["charged"], row["amount"], row["purpose"])
    return row


class ReplyStore:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def claim(self, reply_id: UUID, runner: str) -> Claimed | None:
        """Take a queued reply, with all that its requests are made of; None: somebody else has it, or it is over."""
        row = await self._one(CLAIM, claim_values(reply_id, runner))
        return None if row is None else read_claim(row)

    async def begin_attempt(
        self, claim: Claim, attempt_id: UUID, *, number: int, manifest: dict[str, Any], ask: Ask
    ) -> Begun:
        """Put a provider call on record with the hold that pays for it, before it is made.

        Raises LeaseLost, or BudgetRefused: then it must not be made.
        """
        values = {
            "attempt": attempt_id,
            "number": number,
            "model": ask.model,
            "manifest": Jsonb(manifest),
            "id": claim.reply_id,
            "epoch": claim.epoch,
        }
        async with self.pool.connection() as connection:
            if ask.price.is_free:
                await _begin(connection, values)
                return Begun(max_tokens=ask.max_tokens, price=ask.price)
            cursor = await connection.execute(BEGIN_PAID_ATTEMPT, values | take_over_values(ask))
            if row := await cursor.fetchone():
                return Begun(max_tokens=row["max_tokens"], price=read_price(row["price"]))
            await release_unused(connection, claim.reply_id, claim.epoch)
            async with connection.transaction():
                await _begin(connection, values)
                held = await areserve(connection, ask)
                assert held is not None  # it is not free
                await aattach(connection, held.hold_id, attempt_id)
                return Begun(max_tokens=held.max_tokens, price=ask.price)

    async def end_attempt(
        self,
        claim: Claim,
        attempt_id: UUID,
        *,
        error_code: str,
        error_detail: str,
        billed: Usage | None,
        price: Price | None,
    ) -> None:
        """Put on record that a call failed before any output, because another one follows. Raises LeaseLost."""
        values = {
            "attempt": attempt_id,
            "epoch": claim.epoch,
            "code": error_code,
            "detail": error_detail[:300],
        }
        async with self.pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(END_ATTEMPT, values)
            if await cursor.fetchone() is None:
                raise LeaseLost
            await resolve(connection, attempt_id, billed, price=price)

    async def checkpoint(self, checkpoints: Sequence[Checkpoint]) -> dict[UUID, bool]:
        """Save text and renew the leases of all replies of a process at once.

        Returns, for those that are still ours, whether a person asked to stop them.
        """
        rows = await self._all(
            """
            UPDATE replies r SET text = v.text, reasoning = v.reasoning, journal_position = v.position,
                first_token_at = v.first_token_at, lease_expires_at = now() + %(lease)s * interval '1 s'
            FROM unnest(%(ids)s::uuid[], %(epochs)s::int[], %(texts)s::text[], %(reasonings)s::text[],
                %(positions)s::text[], %(firsts)s::timestamptz[])
                AS v(id, epoch, text, reasoning, position, first_token_at)
            WHERE r.id = v.id AND r.epoch = v.epoch AND r.state = 'running'
            RETURNING r.id, r.stop_requested_at IS NOT NULL AS stop
            """,
            {
                "lease": settings.REPLY_LEASE,
                "ids": [c.reply_id for c in checkpoints],
                "epochs": [c.epoch for c in checkpoints],
                "texts": [c.text for c in checkpoints],
                "reasonings": [c.reasoning for c in checkpoints],
                "positions": [c.position for c in checkpoints],
                "firsts": [c.first_token_at for c in checkpoints],
            },
        )
        return {row["id"]: row["stop"] for row in rows}

    async def finish(
        self,
        *,
        reply_id: UUID,
        epoch: int,
        outcome: Outcome,
        model: str,
        attempt_id: UUID | None = None,
        price: Price | None = None,
        cut: Cut | None = None,
        preset_digest: str = "",
        compaction_due: bool = False,
        vectors_due: bool = False,
    ) -> Ended | None:
        """End a reply as a whole: the answer, the attempt, the state, the money. None: it was not ours to end.

        Without `attempt_id` the attempt that is still running is ended, if there is one; without the `price` by which
        that is held, the database is asked for it. `cut` is what the last request has in common with the next, unless
        the preset is another than `preset_digest`; `compaction_due` asks for the next summary and memory lines,
        `vectors_due` for the vectors of the messages that have none yet.
        """
        values = {
            "id": reply_id,
            "epoch": epoch,
            "answer": new_id(),
            "attempt": attempt_id,
            "model": model,
            "cut": Jsonb(cut.to_json()) if cut else None,
            "preset_digest": preset_digest,
            "compaction_due": compaction_due,
            "vectors_due": vectors_due,
            "state": outcome.state,
            "text": outcome.text,
            "reasoning": outcome.reasoning,
            "token_count": outcome.token_count,
            "finish_reason": outcome.finish_reason,
            "input_tokens": outcome.input_tokens,
            "cached_tokens": outcome.cached_tokens,
            "output_tokens": outcome.output_tokens,
            "reasoning_tokens": outcome.reasoning_tokens,
            "usage_reported": outcome.usage_reported,
            "error_code": outcome.error_code,
            "error_detail": outcome.error_detail[:300],
            "first_token_at": outcome.first_token_at,
        }
        billed = outcome.billed
        async with self.pool.connection() as connection:
            if price is None and billed is not None:
                price = await held_price(connection, reply_id)
            values |= hold_ends_values(price, billed)
            if billed is None or (price is not None and not price.is_free):
                ended = await _finish(connection, values)
            else:
                async with connection.transaction():
                    ended = await _finish(connection, values)
                    if ended is not None and ended["attempt"] is not None:
                        await record_free(
                            connection, reply_id, ended, billed, usage_reported=outcome.usage_reported
                        )
        return None if ended is None else Ended(has_waiting=ended["has_waiting"])

    async def release_waiting(self, user_id: int, *, at_most: int) -> list[UUID]:
        """Queue what a person's other replies held up: at most `at_most` run, one per conversation, oldest first.

        A message that waited behind a reply now follows whatever that reply became.
        """
        async with self.pool.connection() as connection, connection.transaction():
            await connection.execute(LOCK_SENDER, [user_id])
            cursor = await connection.execute(
                """
                SELECT w.id, w.question_id, w.conversation_id FROM replies w
                WHERE w.user_id = %(user)s AND w.state = 'waiting'
                    AND NOT EXISTS (SELECT FROM replies o WHERE o.conversation_id = w.conversation_id
                        AND (o.state IN ('queued', 'running') OR o.state = 'waiting' AND o.id < w.id))
                ORDER BY w.id
                LIMIT greatest(%(at_most)s - (SELECT count(*) FROM replies o WHERE o.user_id = %(user)s
                    AND o.state IN ('queued', 'running')), 0)
                """,
                {"user": user_id, "at_most": at_most},
            )
            released = await cursor.fetchall()
            for row in released:
                await connection.execute(
                    """
                    WITH moved AS (
                        UPDATE messages m SET parent_id = c.leaf_id FROM conversations c
                        WHERE m.id = %(question_id)s AND c.id = m.conversation_id AND c.leaf_id <> m.id
                        RETURNING m.conversation_id
                    ), shown AS (
                        UPDATE conversations c SET leaf_id = %(question_id)s FROM moved
                        WHERE c.id = moved.conversation_id
                    )
                    UPDATE replies SET state = 'queued' WHERE id = %(id)s AND state = 'waiting'
                    """,
                    row,
                )
        return [row["id"] for row in released]

    async def users_waiting(self) -> list[int]:
        rows = await self._all("SELECT DISTINCT user_id FROM replies WHERE state = 'waiting'", {})
        return [row["user_id"] for row in rows]

    async def queued(self, *, limit: int) -> list[UUID]:
        """Replies that were committed but that nobody has claimed yet."""
        rows = await self._all(
            "SELECT id FROM replies WHERE state = 'queued' ORDER BY created_at LIMIT %(limit)s",
            {"limit": limit},
        )
        return [row["id"] for row in rows]

    async def take_expired(self, *, limit: int) -> list[dict[str, Any]]:
        """Fence out runners whose lease has ended, by the database's clock, and take their replies over.

        The runner stays on record: its journal holds the text, should whoever takes over die, too. Ending a reply
        takes no time, so the lease for it is short.
        """
        return await self._all(
            """
            UPDATE replies r SET epoch = r.epoch + 1, lease_expires_at = now() + %(lease)s * interval '1 s'
            FROM (
                SELECT id FROM replies
                WHERE state = 'running' AND lease_expires_at < now()
                ORDER BY lease_expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
            ) old
            WHERE r.id = old.id
            RETURNING r.id, r.epoch, r.runner, r.text, r.reasoning, r.journal_position, r.first_token_at,
                coalesce((SELECT a.model FROM reply_attempts a
                    WHERE a.reply_id = r.id AND a.state = 'running' LIMIT 1), r.model) AS model,
                coalesce((SELECT content FROM messages m WHERE m.id = r.continues_id), '') AS continued_text,
                r.stop_requested_at IS NOT NULL AS stop_requested,
                (SELECT c.preset->>'on_stream_failure' = 'discard' FROM conversations c WHERE c.id = r.conversation_id)
                    IS TRUE AS is_discarded,
                EXISTS (SELECT FROM reply_attempts a WHERE a.reply_id = r.id AND a.state = 'running') AS was_sent,
                coalesce((SELECT (a.manifest->>'input_tokens')::int FROM reply_attempts a
                    WHERE a.reply_id = r.id AND a.state = 'running' LIMIT 1), 0) AS input_tokens
            """,
            {"lease": min(settings.REPLY_LEASE, RECOVERY_LEASE), "limit": limit},
        )

    async def end_other_leases(self, runner: str) -> None:
        """Give up every other process for dead, where there can be one web process only."""
        await self._all(
            """
            UPDATE replies SET lease_expires_at = now() - interval '1 s'
            WHERE state = 'running' AND runner <> %(runner)s RETURNING id
            """,
            {"runner": runner},
        )

    async def requeue(self, reply_id: UUID, epoch: int) -> None:
        """Give a reply back whose provider was never called."""
        await self._one(
            """
            UPDATE replies SET state = 'queued', lease_expires_at = NULL, runner = ''
            WHERE id = %(id)s AND epoch = %(epoch)s AND state = 'running' RETURNING id
            """,
            {"id": reply_id, "epoch": epoch},
        )

    async def progress(self, reply_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Checkpoint and state of replies that other processes run."""
        rows = await self._all(
            """
            SELECT id, state, epoch, runner, text, reasoning <> '' AS is_thinking, journal_position
            FROM replies WHERE id = ANY(%(ids)s)
            """,
            {"ids": list(reply_ids)},
        )
        return {row["id"]: row for row in rows}

    async def _one(self, query: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchone()

    async def _all(self, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()
