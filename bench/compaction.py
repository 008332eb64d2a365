"""Whether the next summary is ready when a conversation is cut: `python -m bench.compaction`.

Leads a conversation turn by turn through the product's own replies, and runs the task that Celery would run when a
reply says that it is due. The models are scripts: nobody is called.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock
from uuid import uuid4

from chatapp.embedded import paths
from chatapp.embedded.valkey import Valkey

MODEL = "scripted/bench"
RESULTS = paths.PROJECT / "bench" / "results" / "compaction.json"
FOLDED = 6  #: messages that a new summary is worth
SECONDS = 30.0  #: that one turn may take


@dataclass(frozen=True, kw_only=True)
class Readiness:
    turns: int
    cuts: int
    #: Cuts whose summary is up to date: it lacks fewer messages of what is left out than are worth a new one.
    ready: int
    new: int  #: cuts whose summary was written since the cut before
    whole: int  #: cuts where nothing is left out between the summary and the first message shown
    written: int
    refused: int

    @property
    def share(self) -> float:
        """Of the cuts that had a summary ready."""
        return self.ready / self.cuts if self.cuts else 0.0


def question(number: int) -> str:
    return (
        f"Turn {number}: what do you think about berth {number + 10} of the harbour, and what would it cost us to have "
        f"the crane moved there before the winter? Ingrid says that it takes {number + 3} days, and I do not know."
    )


def answer(request: Any) -> Sequence[str]:
    """What the one model says: a summary, memory lines (none), or a reply of about 120 tokens."""
    asked = request.messages[0].content + request.messages[-1].content
    if "Record" in asked and "You keep the record" in asked:
        told = [word for word in asked.split() if word.startswith("Ingrid")][:1]
        return [
            f"{' '.join(told)} and the person plan to move the crane of the harbour before the winter comes."
        ]
    if "JSON" in asked:
        return ["[]"]
    return ["The crane can be moved before the winter, and the berth is free for it. " * 8]


@asynccontextmanager
async def web_process(script: Callable[[Any], Sequence[Any]], **changes: Any) -> AsyncIterator[None]:
    """Replies run here, with one model that says what the script makes of each request."""
    from django.test import override_settings

    from conversations.catalog import Catalog, ModelEntry
    from conversations.llm.scripted import ScriptedProvider
    from conversations.providers import replaced
    from conversations.replies.runtime import ReplyRuntime

    entry = ModelEntry(
        id=MODEL,
        provider="scripted",
        provider_label="Scripted",
        model_id="bench",
        label="bench",
        dialect="openai",
        context_window=128_000,
        max_output=4_096,
        is_free=True,
    )
    with ExitStack() as stack:
        stack.enter_context(replaced(Catalog(entries=(entry,)), {"scripted": ScriptedProvider(script)}))
        stack.enter_context(override_settings(EMBEDDED=False, PROVIDER_REQUESTS_PER_MINUTE=0, **changes))
        stack.enter_context(mock.patch("conversations.wakeups.publisher.send"))
        runtime = ReplyRuntime()
        await runtime.start()
        try:
            yield
        finally:
            await runtime.drain(grace=0)
            await runtime.close()


def send(user: Any, conversation: Any, number: int) -> Any:
    """Ask at the end of a conversation; None begins one."""
    from conversations.replies.sending import Draft, start_conversation, start_reply

    draft = Draft(key=uuid4(), model=MODEL, text=question(number), place="end")
    if conversation is None:
        return start_conversation(user=user, draft=draft)
    return start_reply(user=user, conversation_id=conversation.pk, draft=draft)


async def ended(reply: Any) -> Any:
    """The reply once it is complete."""
    from conversations.models import Reply

    end = time.monotonic() + SECONDS
    while True:
        found = await Reply.objects.aget(pk=reply.pk)
        if not found.is_unfinished and not found.is_waiting:
            assert found.state == "complete", found.state
            return found
        assert time.monotonic() < end, "a reply did not end"
        await asyncio.sleep(0.005)


async def replay(user: Any, *, turns: int = 200, high_water: int = 16_000, late: int = 0) -> Readiness:
    """`late`: replies that end before a worker gets to what the one before them made due."""
    from asgiref.sync import sync_to_async

    from conversations.models import Conversation
    from conversations.tasks import compact_conversation

    preset = {"slug": "chat", "name": "Chat", "high_water": high_water}
    waiting: deque[int] = deque()
    conversation: Any = None

    def ask(number: int) -> Any:
        nonlocal conversation
        reply = send(user, conversation, number)
        if conversation is None:
            conversation = reply.conversation
            Conversation.objects.filter(pk=conversation.pk).update(preset=preset)
        return reply

    def work(number: int) -> None:
        """The worker's part after a turn."""
        found = Conversation.objects.get(pk=conversation.pk)
        if found.compaction_due_at is not None and not waiting:
            waiting.append(number)
        if waiting and number - waiting[0] >= late:
            waiting.clear()
            compact_conversation(str(conversation.pk))

    async with web_process(answer):
        for number in range(turns):
            await ended(await sync_to_async(ask)(number))
            await sync_to_async(work)(number)
    return await sync_to_async(readiness)(conversation, turns)


async def wait_for_first_words(user: Any, *, sends: int = 30, rounds: int = 3) -> dict[str, float]:
    """Milliseconds from a send to its first word, the median: alone, and while the summary of its conversation hangs.

    The worker is a thread of this process, which is nearer than it ever is. Taken in turns.
    """
    from asgiref.sync import sync_to_async
    from django.db import connection
    from django.utils import timezone

    from conversations.llm.scripted import Pause
    from conversations.models import Conversation
    from conversations.tasks import compact_conversation

    hanging = threading.Event()

    def script(request: Any) -> Sequence[Any]:
        if "You keep the record" in request.messages[0].content + request.messages[-1].content:
            hanging.set()
            return [Pause(seconds=3600)]
        return answer(request)

    def work(conversation: Any) -> None:
        Conversation.objects.filter(pk=conversation.pk).update(
            compaction_due_at=timezone.now(), compaction_attempts=0, compaction_lease_expires_at=None
        )
        try:
            compact_conversation(str(conversation.pk))
        finally:
            connection.close()

    waits: dict[str, list[float]] = {"alone": [], "beside_one_that_hangs": []}
    async with web_process(script, SUMMARY_TIME_OUT=4):
        conversation = (await ended(await sync_to_async(send)(user, None, 1))).conversation_id
        conversation = await Conversation.objects.aget(pk=conversation)
        for _ in range(rounds):
            for name, found in waits.items():
                worker = threading.Thread(target=work, args=[conversation])
                if name == "beside_one_that_hangs":
                    hanging.clear()
                    worker.start()
                    assert await asyncio.to_thread(hanging.wait, SECONDS), "no summary was asked for"
                for _ in range(sends):
                    reply = await ended(await sync_to_async(send)(user, conversation, 1))
                    found.append((reply.first_token_at - reply.created_at).total_seconds() * 1000)
                if worker.ident is not None:
                    assert worker.is_alive(), "the summary had ended before the last reply"
                    await asyncio.to_thread(worker.join)
    return {name: round(statistics.median(found), 1) for name, found in waits.items()}


def readiness(conversation: Any, turns: int) -> Readiness:
    """Read from the records of the requests."""
    from conversations.models import ConversationSummary, Message, ReplyAttempt

    counts = {"cuts": 0, "ready": 0, "new": 0, "whole": 0}
    used: list[str] = []
    attempts = ReplyAttempt.objects.filter(reply__conversation=conversation).order_by("reply__created_at")
    for manifest in attempts.values_list("manifest", flat=True):
        shown = next((row["ids"][0] for row in manifest["sections"] if row["kind"] == "summary"), "")
        if manifest["start"] in ("full", "cold"):
            counts["cuts"] += 1
            counts["new"] += bool(shown) and shown not in used
            first = Message.objects.get(pk=manifest["first_message_id"]).path_messages
            summary = ConversationSummary.objects.filter(pk=shown).first() if shown else None
            missing = first - 1 - (summary.message_count_at_creation if summary else 0)
            counts["ready"] += summary is not None and missing < FOLDED
            counts["whole"] += summary is not None and missing <= 0
        used.append(shown)
    rows = ConversationSummary.objects.filter(conversation=conversation)
    refused = rows.filter(state=ConversationSummary.State.REFUSED).count()
    return Readiness(turns=turns, written=rows.count() - refused, refused=refused, **counts)


def measured(turns: int = 200, high_water: int = 16_000) -> dict[str, Any]:
    """With a worker that is there at once, with one that comes a turn late, and with a model that hangs."""
    from conversations.models import User

    user = User.objects.create_user(f"bench-{uuid4().hex[:8]}@example.org")
    found: dict[str, Any] = {}
    for name, late in (("at_once", 0), ("one_turn_late", 1)):
        figures = asyncio.run(replay(user, turns=turns, high_water=high_water, late=late))
        found[name] = asdict(figures) | {"share": round(figures.share, 3)}
    found["first_word_ms"] = asyncio.run(wait_for_first_words(user))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 turns in place of 200")
    parser.add_argument("--high-water", type=int, default=16_000)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    from bench.context import database

    with database():
        from django.conf import settings

        valkey = Valkey(paths.PROJECT / ".cache" / "bench" / str(os.getpid()))
        valkey.start()
        try:
            valkey.wait_ready()
            settings.REDIS_URL = paths.redis_url(paths.PROJECT / ".cache" / "bench" / str(os.getpid()))
            found = json.dumps(measured(100 if arguments.quick else 200, arguments.high_water), indent=2)
            print(found)
            if not arguments.quick:
                RESULTS.write_text(found + "\n")
        finally:
            valkey.stop()


if __name__ == "__main__":
    main()
