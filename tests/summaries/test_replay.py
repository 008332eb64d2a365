"""The summary is there when the conversation is cut, and no reply ever waits for one."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

from asgiref.sync import sync_to_async
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from bench.compaction import replay
from conversations import summaries
from conversations.catalog import Catalog, Endpoint
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Conversation, ConversationSummary, Message
from conversations.providers import replaced
from conversations.summaries.versions import keep
from conversations.tasks import compact_conversation
from tests.fake_provider import FakeProvider
from tests.replies.harness import MODEL, ReplyTestCase, catalog_of, web_process
from tests.summaries.talks import ENTRY, say, talk, versions
from tests.test_titles import served


class ReplayTests(ReplyTestCase):
    async def test_in_200_turns_the_summary_is_ready_at_the_cuts(self) -> None:
        found = await replay(self.alice, turns=200)
        self.assertGreaterEqual(found.cuts, 8)
        self.assertGreaterEqual(found.share, 0.95, found)
        self.assertEqual(found.refused, 0)

    async def test_so_it_is_with_a_worker_that_comes_a_turn_late(self) -> None:
        found = await replay(self.alice, turns=80, late=1)
        self.assertGreaterEqual(found.cuts, 2)
        self.assertGreaterEqual(found.share, 0.95, found)


class NextMessageTests(ReplyTestCase):
    async def test_what_a_person_writes_restores_or_removes_holds_from_the_next_message_on(self) -> None:
        conversation = await sync_to_async(talk)(self.alice, model=MODEL)
        first = await sync_to_async(self.edited)(conversation, "Hers: Bergen it is.")
        model = ScriptedProvider(["It is Oslo."])
        with catalog_of(model):
            async with web_process():
                await self.finished(await self.asend(conversation, "And the capital?"))
                self.assertIn("Hers: Bergen it is.", self.asked(model))
                second = await sync_to_async(summaries.edit)(first, text="No, Voss.", user=self.alice)
                await self.finished(await self.asend(conversation, "And now?"))
                self.assertIn("No, Voss.", self.asked(model))
                self.assertNotIn("Hers: Bergen", self.asked(model))
                await sync_to_async(summaries.restore)(first, user=self.alice)
                await self.finished(await self.asend(conversation, "And then?"))
                self.assertIn("Hers: Bergen it is.", self.asked(model))
                third = await sync_to_async(summaries.current)(conversation)
                assert third is not None
                self.assertNotIn(third, (first, second))
                await sync_to_async(summaries.remove)(third)
                await self.finished(await self.asend(conversation, "And at last?"))
                self.assertNotIn("Bergen", self.asked(model))

    def edited(self, conversation: Conversation, text: str) -> ConversationSummary:
        assert conversation.leaf is not None
        made = keep(conversation, text="A model's.", covers_until=conversation.leaf, made_from=None)
        assert made is not None
        return summaries.edit(made, text=text, user=self.alice)

    def asked(self, model: ScriptedProvider) -> str:
        return "\n".join(message.content for message in model.requests[-1].messages)


class HangingTests(ReplyTestCase):
    async def test_a_reply_is_there_while_the_summary_model_hangs(self) -> None:
        """The model that writes summaries takes the call and does not even answer with headers."""
        conversation = await sync_to_async(self.conversation)()
        with served(FakeProvider()) as (app, base_url):
            endpoint = Endpoint(slug="slow", label="Slow", dialect="openai", base_url=base_url)
            slow = replace(ENTRY, id="slow/small", provider="slow", endpoint=endpoint)
            main = replace(ENTRY, id=MODEL, provider="scripted", is_free=True, price=None)
            quick = ScriptedProvider(["It is ", "Oslo."])
            with (
                replaced(Catalog(entries=(main, slow)), {"scripted": quick}),
                override_settings(SUMMARY_MODEL="slow/small", SUMMARY_TIME_OUT=8),
            ):
                worker = threading.Thread(target=self.work, args=[conversation])
                worker.start()
                await self.until_open(app)
                async with web_process():
                    began = time.monotonic()
                    reply = await self.finished(await self.asend(conversation, "And the capital of Norway?"))
                    took = time.monotonic() - began
                self.assertEqual((reply.state, app.stats.open), ("complete", 1))
                self.assertIsNotNone(reply.first_token_at)
                self.assertLess(took, 8)
                app_stopped = asyncio.to_thread(self.end, conversation, worker)
            await app_stopped

    def conversation(self) -> Conversation:
        found = talk(self.alice, model=MODEL)
        say(found, "[[silent]]", "I say nothing to that.")
        Conversation.objects.filter(pk=found.pk).update(compaction_due_at=timezone.now())
        return found

    def work(self, conversation: Conversation) -> None:
        try:
            compact_conversation(str(conversation.pk))
        finally:
            connection.close()

    def end(self, conversation: Conversation, worker: threading.Thread) -> None:
        """The server is gone, and with it the call: the reason is kept, and the messages are all there."""
        worker.join(25)
        self.assertFalse(worker.is_alive())
        ((_, state, reason),) = versions(conversation)
        self.assertEqual(state, "refused")
        self.assertTrue(reason)
        self.assertEqual(Message.objects.filter(conversation=conversation).count(), 12)
        connection.close()

    async def until_open(self, app: FakeProvider) -> None:
        end = time.monotonic() + 10
        while not app.stats.open:
            self.assertLess(time.monotonic(), end, "the summary model was not asked")
            await asyncio.sleep(0.02)
