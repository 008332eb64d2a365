"""Replies whose process died: each is given back if no provider was called, and else ended with the text it had."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from redis.exceptions import RedisError

from conversations.crash_points import crash_point
from conversations.journal import Entry, Kind, Redis, read_stream
from conversations.llm.tokens import USUAL_MODEL, count_tokens_aside
from conversations.llm.types import Usage
from conversations.models import ReplyState
from conversations.text import utf16_length, utf16_suffix

from .store import Outcome, ReplyStore, discarded
from .telemetry import reply_ended

logger = logging.getLogger(__name__)

#: How long a journal that does not answer is waited for, once for all replies that are taken over together. With lease
#: and sweep it stays below the 45 s within which a reply ends.
PATIENCE = 5.0


async def recover_replies(store: ReplyStore, client: Redis, *, limit: int = 50) -> int:
    """Take over replies whose lease has ended; returns how many. Safe to run in any number of processes."""
    expired = await store.take_expired(limit=limit)
    patient_until = time.monotonic() + PATIENCE
    for row in expired:
        crash_point("in_recovery")
        if not row["was_sent"]:
            await store.requeue(row["id"], row["epoch"])
            logger.info("reply %s is queued again: its process died before the model was called", row["id"])
            continue
        await _end(store, client, row, patient_until)
    return len(expired)


async def _end(store: ReplyStore, client: Redis, row: dict[str, Any], patient_until: float) -> None:
    text = row["text"] + _tail(await _journalled(client, row, patient_until), row)
    written = await count_tokens_aside(text.removeprefix(row["continued_text"]), row["model"])
    thoughts = await count_tokens_aside(row["reasoning"], row["model"])
    state = ReplyState.STOPPED if row["stop_requested"] else ReplyState.INTERRUPTED
    outcome = Outcome(
        state=state,
        text=text,
        reasoning=row["reasoning"],
        token_count=await count_tokens_aside(text, USUAL_MODEL),
        output_tokens=written,
        billed=Usage(input_tokens=row["input_tokens"], output_tokens=written + thoughts),
        error_code="" if state == ReplyState.STOPPED else "ProcessDied",
        first_token_at=row["first_token_at"],
    )
    if row["is_discarded"]:
        outcome = discarded(outcome)
    if await store.finish(reply_id=row["id"], epoch=row["epoch"], model=row["model"], outcome=outcome):
        reply_ended(reply_id=row["id"], model=row["model"], outcome=outcome)


async def _journalled(client: Redis, row: dict[str, Any], patient_until: float) -> list[Entry]:
    """What the dead process had journalled after its last checkpoint; nothing if Redis stays away."""
    while True:
        try:
            entries, _ = await read_stream(client, row["runner"], row["journal_position"])
            return entries
        except (RedisError, OSError, TimeoutError):
            if time.monotonic() > patient_until:
                logger.warning("the journal is away: reply %s is recovered from its checkpoint", row["id"])
                return []
        await asyncio.sleep(0.25)


def _tail(entries: list[Entry], row: dict[str, Any]) -> str:
    """The reply's text after its checkpoint, up to the first gap."""
    at, tail = utf16_length(row["text"]), []
    for entry in entries:
        if entry.reply_id != row["id"] or entry.kind is not Kind.TEXT or entry.at > at:
            continue
        piece = utf16_suffix(entry.text, at - entry.at)
        tail.append(piece)
        at += utf16_length(piece)
    return "".join(tail)
