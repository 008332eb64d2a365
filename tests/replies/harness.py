"""A web process's runtime inside a test, and models that play scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

import redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.test import TransactionTestCase, override_settings

from conversations.budgets import Ask
from conversations.catalog import Catalog, ModelEntry
from conversations.llm.types import Provider
from conversations.models import Conversation, Message, Reply, User
from conversations.providers import replaced
from conversations.replies.live import BlockClosed, Delta, Ended, Snapshot
from conversations.replies.runtime import ReplyRuntime
from conversations.replies.sending import Draft, start_conversation, start_reply
from tests import cast
from tests.prices.cheap import a_price

MODEL = "scripted/model"
T = TypeVar("T")
DEADLINE = 15.0  # seconds that any wait of a test may take


def catalog_of(provider: Provider, **fields: Any) -> AbstractContextManager[Catalog]:
    """The catalogue holds one model, served by this provider."""
    values: dict[str, Any] = {
        "id": MODEL,
        "provider": "scripted",
        "provider_label": "Scripted",
        "model_id": "model",
        "label": "model",
        "dialect": "openai",
        "context_window": 32_000,
        "max_output": 4_096,
        "is_free": True,
    }
    return replaced(Catalog(entries=(ModelEntry(**values | fields),)), {"scripted": provider})


def forget_earlier_tests() -> None:
    """What the processes of earlier tests told each other, such as which provider does not answer.

    No more than that: REDIS_URL may lead to a server that others use, too.
    """
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for pattern in ("parley:gate:*", "parley:active:*"):
            for key in client.scan_iter(pattern, count=1000):
                client.delete(key)


@asynccontextmanager
async def web_process() -> AsyncIterator[ReplyRuntime]:
    runtime = ReplyRuntime()
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.drain(grace=0)
        await runtime.close()


async def until(question: Callable[[], Awaitable[T]], *, seconds: float = DEADLINE) -> T:
    """Ask until the answer is true; bounded."""
    end = time.monotonic() + seconds
    while not (answer := await question()):
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.02)
    return answer


async def watch(runtime: ReplyRuntime, reply_id: UUID, *, seconds: float = DEADLINE) -> tuple[str, str]:
    """What a browser would have at the end: all text by offsets, and the HTML of the closed blocks."""
    text_at, html, open_text = 0, "", ""
    async with asyncio.timeout(seconds):
        async with runtime.viewing(reply_id) as viewer:
            async for change in viewer.changes():
                match change:
                    case Snapshot(html=html, open_text=open_text, at=text_at):
                        pass
                    case Delta(at=at, text=text):
                        assert at == text_at, "a gap or a repeat"
                        open_text += text
                        text_at += len(text.encode("utf-16-le")) // 2
                    case BlockClosed(html=more, open_text=open_text, at=text_at):
                        html += more
                    case Ended():
                        break
    return html, open_text


@override_settings(EMBEDDED=False)  # several web processes share the database, as on a server
class ReplyTestCase(TransactionTestCase):
    """Alice sends; the rows are committed, so that the runtime's own connections see them."""

    def setUp(self) -> None:
        forget_earlier_tests()
        self.alice = cast.alice()

    def start(self, text: str = "Hello?", **fields: Any) -> Reply:
        return start_conversation(user=self.alice, draft=draft(text, **fields))

    def send(
        self, conversation: Conversation, text: str, *, user: User | None = None, **fields: Any
    ) -> Reply:
        conversation.refresh_from_db()
        fields.setdefault("leaf_id", conversation.leaf_id)
        return start_reply(
            user=user or self.alice, conversation_id=conversation.pk, draft=draft(text, **fields)
        )

    async def astart(self, text: str = "Hello?", **fields: Any) -> Reply:
        return await sync_to_async(self.start)(text, **fields)

    async def asend(self, conversation: Conversation, text: str, **fields: Any) -> Reply:
        return await sync_to_async(self.send)(conversation, text, **fields)

    async def finished(self, reply: Reply) -> Reply:
        """The reply, once it has ended."""

        async def fresh() -> Reply | None:
            found = await Reply.objects.select_related("answer", "conversation").aget(pk=reply.pk)
            return None if found.is_unfinished or found.is_waiting else found

        found = await until(fresh)
        assert found is not None
        return found


def draft(text: str, **fields: Any) -> Draft:
    fields.setdefault("key", uuid4())
    fields.setdefault("model", MODEL)
    return Draft(text=text, **fields)


async def answer_of(reply: Reply) -> Message:
    found = await Message.objects.aget(reply=reply)
    return found


def ask_for(reply: Reply, attempt_id: UUID) -> Ask:
    """What a short attempt at a reply needs at most."""
    return Ask(
        user_id=reply.user_id,
        conversation_id=reply.conversation_id,
        reply_id=reply.pk,
        attempt_id=attempt_id,
        model=MODEL,
        price=a_price(MODEL),
        input_tokens=11,
        max_tokens=reply.max_tokens,
    )
