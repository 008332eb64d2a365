"""The request of every call is rebuilt byte for byte: what the inspector downloads is what the provider received."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.test import override_settings
from django.urls import reverse

from conversations.context.manifest import request_digest
from conversations.context.policy import Strategy
from conversations.context.presets import Preset
from conversations.inspection import inspect
from conversations.llm.registry import build_provider
from conversations.llm.types import ChatMessage
from conversations.models import Conversation, LedgerEntry, MemoryItem, Reply, ReplyAttempt
from conversations.replies.runtime import ReplyRuntime
from conversations.replies.sending import continue_reply
from tests.fake_provider import FakeProvider, serving
from tests.pages.base import signed_in
from tests.prices.cheap import a_price
from tests.replies.harness import MODEL, ReplyTestCase, catalog_of, web_process

from .made import learned, summed_up

SMALL = Preset(slug="small", name="Small", high_water=900, recall_tokens=300, reply_tokens=200)
PADDING = "We talk about the harbour, its fees and its boats. " * 8
SUBJECTS = ("anchors", "ropes", "lanterns", "compasses", "charts", "oars", "sails", "buoys")

#: What the messages of a request are in the body of each dialect.
Body = dict[str, Any]


def messages_of(body: Body) -> list[ChatMessage]:
    """What a body holds, as Parley handed it to the dialect."""
    system = body.get("system", [])
    texts = [system] if isinstance(system, str) else [part["text"] for part in system]
    found = [ChatMessage(role="system", content=text) for text in texts]
    for message in body["messages"]:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        found.append(ChatMessage(role=message["role"], content=text))
    return found


class RebuiltTests(ReplyTestCase):
    dialect = "openai"

    @asynccontextmanager
    async def process(self, **fields: Any) -> AsyncIterator[ReplyRuntime]:
        self.fake = FakeProvider(deltas=5)
        async with serving(self.fake) as url:
            provider = build_provider(self.dialect, name="scripted", base_url=f"{url}/v1", api_key="key")
            values = {"is_free": False, "price": a_price(MODEL), "dialect": self.dialect} | fields
            async with aclosing(provider):
                with catalog_of(provider, **values):
                    async with web_process() as runtime:
                        yield runtime

    async def ask(self, runtime: ReplyRuntime, text: str, reply: Reply | None = None) -> Reply:
        """Another turn, or the first one."""
        if reply is None:
            asked = await self.astart(text)
        else:
            conversation = await Conversation.objects.aget(pk=reply.conversation_id)
            asked = await self.asend(conversation, text)
        runtime.wake(asked.pk)
        return await self.finished(asked)

    async def talk(self, runtime: ReplyRuntime, *texts: str, preset: Preset = SMALL) -> Reply:
        reply = await self.ask(runtime, "[[deltas=3]] We begin.")
        await Conversation.objects.filter(pk=reply.conversation_id).aupdate(
            system_prompt="Be brief.", preset=preset.to_json()
        )
        for text in texts:
            reply = await self.ask(runtime, text, reply)
        return reply

    async def check(self, *, count: int | None = None) -> None:
        """Each body that the provider received is downloaded again, and its digest is the stored one."""
        found = await sync_to_async(self.downloads)()
        bodies = self.fake.stats.requests
        self.assertEqual(len(found), count or len(bodies))
        for body, download in zip(bodies, found, strict=True):
            messages = [ChatMessage(**message) for message in download["messages"]]
            with self.subTest(reply=download["parley"]["reply"], attempt=download["parley"]["attempt"]):
                self.assertEqual(messages, messages_of(body))
                self.assertEqual(request_digest(messages), download["parley"]["sha256"])
                self.assertTrue(download["parley"]["is_exact"], download["parley"]["gone"])
                most = body.get("max_tokens", body.get("max_completion_tokens"))
                self.assertEqual((download["model"], download["max_tokens"]), (body["model"], most))
                self.assertEqual(download["temperature"], body.get("temperature"))

    def downloads(self) -> list[Any]:
        client = signed_in(self.alice)
        attempts = ReplyAttempt.objects.order_by("started_at", "id").defer("manifest")
        found = []
        for attempt in attempts:
            address = reverse("reply_request_download", args=[attempt.reply_id])
            found.append(json.loads(client.get(address, {"attempt": attempt.number}).content))
        return found

    def kinds(self) -> set[str]:
        manifests = ReplyAttempt.objects.values_list("manifest", flat=True)
        return {section["kind"] for manifest in manifests for section in manifest["sections"]}

    async def test_memory_summary_recall_and_excerpts(self) -> None:
        async with self.process() as runtime:
            reply = await self.talk(runtime)
            conversation = await Conversation.objects.aget(pk=reply.conversation_id)
            await sync_to_async(learned)(conversation, "Never mention prices", "constraint")
            await sync_to_async(learned)(conversation, "Likes\n tea", "preference")
            for n, subject in enumerate(SUBJECTS):
                reply = await self.ask(runtime, f"The {subject} are number {n}. {PADDING}", reply)
                if n == 3:
                    leaf = reply.answer
                    assert leaf is not None
                    await sync_to_async(summed_up)(conversation, "They spoke of the harbour.", leaf)
            reply = await self.ask(runtime, "Which number were the anchors?", reply)
            reply = await self.ask(runtime, "A very long one. " * 4_000, reply)
            await self.check()
            kinds = await sync_to_async(self.kinds)()
            self.assertLessEqual(
                {"system", "constraints", "memory", "summary", "transcript", "recalled", "question"}, kinds
            )
            excerpts = [a.manifest["excerpted"] async for a in ReplyAttempt.objects.all()]
            self.assertTrue(any(excerpts))
            # What is changed and replaced afterwards is another version: the old one is still known.
            facts = MemoryItem.objects.filter(conversation=conversation)
            await facts.aupdate(state="superseded")
            await sync_to_async(learned)(conversation, "Likes coffee", "preference")
            await conversation.summaries.aupdate(state="retired")
            await Conversation.objects.filter(pk=conversation.pk).aupdate(system_prompt="Be long.")
            await self.check()

    async def test_every_strategy(self) -> None:
        for strategy in Strategy:
            preset = Preset(
                slug="s", name="S", strategy=strategy, high_water=900, token_budget=1_500, reply_tokens=100
            )
            texts = [f"The {subject} are here. {PADDING}" for subject in SUBJECTS[:5]]
            with self.subTest(strategy):
                await ReplyAttempt.objects.all().adelete()
                async with self.process() as runtime:
                    await self.talk(runtime, *texts, preset=preset)
                    await self.check()

    async def test_neighbours_of_one_role_are_merged(self) -> None:
        async with self.process() as runtime:
            await self.talk(runtime, "[[status=400]] This one fails.", "And this one follows.")
            answer, question = messages_of(self.fake.stats.requests[-1])[-2:]
            self.assertEqual((answer.role, question.role), ("assistant", "user"))
            self.assertTrue(question.content.endswith("This one fails.\n\nAnd this one follows."))
            await self.check()

    async def test_a_reply_that_goes_on(self) -> None:
        async with self.process() as runtime:
            cut = await self.talk(runtime, "[[cut=3 deltas=9]] Tell me a story.")
            self.assertEqual(cut.state, "interrupted")
            going_on = await sync_to_async(continue_reply)(
                await Reply.objects.select_related("user").aget(pk=cut.pk), key=uuid4()
            )
            runtime.wake(going_on.pk)
            await self.finished(going_on)
            await self.check()
            self.assertIn("continued", await sync_to_async(self.kinds)())

    @override_settings(REPLY_TRIES=3, REPLY_RETRY_SECONDS=0)
    async def test_every_try_has_its_request(self) -> None:
        async with self.process() as runtime:
            reply = await self.talk(runtime, "[[status=500 times=1]] Twice.")
            await self.check()
            self.assertEqual(await reply.attempts.acount(), 2)

    async def test_money_of_real_replies_adds_up(self) -> None:
        async with self.process() as runtime:
            await self.talk(runtime, "Hello?", "[[no_usage]] Again?", "[[cut=3 deltas=9]] Cut.")
        await sync_to_async(self.check_money)(4)

    def check_money(self, count: int) -> None:
        entries = LedgerEntry.objects.exclude(reply_id=None)
        self.assertEqual(entries.count(), count)
        for entry in entries:
            assert entry.reply_id is not None
            reply = Reply.objects.select_related("conversation", "continues", "question").get(
                pk=entry.reply_id
            )
            shown = inspect(reply).request
            assert shown is not None
            bill = shown.bill
            sections = sum(section.amount or 0 for section in shown.sections)
            written = next(line.amount for line in bill.lines if line.label == "Reply")
            with self.subTest(reply=reply.pk):
                self.assertGreater(entry.charged, 0)
                self.assertEqual(sections + written, entry.charged)
                self.assertEqual(sum(line.amount for line in bill.lines), entry.charged)
                self.assertEqual(bill.is_reported, entry.usage_reported)
                self.assertEqual(sum(s.tokens for s in shown.sections), shown.planned)

    async def test_the_bound_of_a_free_call_is_on_record(self) -> None:
        async with self.process(is_free=True, price=None, max_output=150) as runtime:
            await self.talk(runtime, "Hello?")
            await self.check()


class RebuiltForAnthropicTests(RebuiltTests):
    dialect = "anthropic"
