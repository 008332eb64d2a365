"""Processes that die while they end the replies of dead ones: nothing that a viewer has seen goes with them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import uuid4

from django.conf import settings
from django.utils import timezone
from redis.exceptions import TimeoutError as RedisTimeout

from conversations import journal
from conversations.database import make_pool
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Reply, ReplyAttempt, ReplyState
from conversations.replies import recovery
from conversations.replies.live import Snapshot
from conversations.replies.store import ReplyStore

from .harness import ReplyTestCase, catalog_of, web_process

SEEN = "Seen by a viewer, and not yet in a checkpoint. "


async def abandoned(test: ReplyTestCase) -> Reply:
    """A reply whose text is in the journal of a dead process alone; its lease still holds."""
    reply = await test.astart()
    await Reply.objects.filter(pk=reply.pk).aupdate(
        state="running", epoch=1, runner="dead", lease_expires_at=timezone.now() + timedelta(minutes=1)
    )
    await ReplyAttempt.objects.acreate(reply=reply, number=1, epoch=1, model=reply.model)
    client = journal.connect(settings.REDIS_URL)
    writer = journal.Writer(client, "dead", tick=0.01, apply=lambda entries: None)
    writer.append(journal.Entry(reply_id=reply.pk, epoch=1, at=0, text=SEEN))
    await writer.flush()
    await client.aclose()
    return reply


async def expire(reply: Reply) -> None:
    past = timezone.now() - timedelta(seconds=1)
    await Reply.objects.filter(pk=reply.pk).aupdate(lease_expires_at=past)


class SecondDeathTests(ReplyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(catalog_of(ScriptedProvider()))

    async def test_the_text_outlives_the_process_that_was_about_to_save_it(self) -> None:
        reply = await abandoned(self)
        await self.take_over_and_die(reply)
        await expire(reply)
        async with web_process():
            reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertEqual((reply.state, reply.answer.content), (ReplyState.INTERRUPTED, SEEN))

    async def test_a_viewer_that_comes_between_two_deaths_sees_what_others_have_seen(self) -> None:
        reply = await abandoned(self)
        await self.take_over_and_die(reply)
        async with web_process() as process, asyncio.timeout(10), process.viewing(reply.pk) as viewer:
            change = await anext(viewer.changes())
        assert isinstance(change, Snapshot)
        self.assertEqual(change.open_text, SEEN)

    async def take_over_and_die(self, reply: Reply) -> None:
        await expire(reply)
        async with make_pool(1) as pool:
            taken = await ReplyStore(pool).take_expired(limit=50)
        self.assertEqual([row["id"] for row in taken], [reply.pk])


class JournalAwayTests(ReplyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(catalog_of(ScriptedProvider()))

    async def test_a_journal_that_answers_late_is_waited_for(self) -> None:
        reply = await abandoned(self)
        times: list[int] = []

        async def late(*arguments: Any) -> Any:
            times.append(1)
            if len(times) < 3:
                raise RedisTimeout
            return await journal.read_stream(*arguments)

        await expire(reply)
        with mock.patch.object(recovery, "read_stream", late):
            async with web_process():
                reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertEqual(reply.answer.content, SEEN)

    async def test_a_journal_that_stays_away_holds_no_reply_up(self) -> None:
        reply = await abandoned(self)
        await Reply.objects.filter(pk=reply.pk).aupdate(text="Seen by")
        await expire(reply)
        away = mock.patch.object(recovery, "read_stream", side_effect=RedisTimeout)
        with away, mock.patch.object(recovery, "PATIENCE", 0.5):
            async with web_process():
                reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertEqual(reply.answer.content, "Seen by")


class ManyViewersTests(ReplyTestCase):
    async def test_viewers_that_come_together_do_not_stop_the_journal(self) -> None:
        async with web_process() as process:
            process.writer.append(journal.Entry(reply_id=uuid4(), epoch=1, at=0, text="text"))
            reads = [journal.read_stream(process.redis, process.name, "") for _ in range(100)]
            *found, _ = await asyncio.gather(*reads, process.writer.flush(), return_exceptions=True)
        self.assertEqual([each for each in found if isinstance(each, BaseException)], [])
        self.assertTrue(process.writer.is_writing)
