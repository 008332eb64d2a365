"""Each reply is planned by the context engine: what its request repeats, recalls, is told, and may not hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from unittest import mock
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.utils import timezone

from conversations import presets, retrieval
from conversations.context.layout import CONSTRAINTS, MEMORY, RECALLED, SUMMARY
from conversations.context.manifest import request_digest
from conversations.context.plan import Start
from conversations.context.policy import Strategy
from conversations.context.truncate import LEFT_OUT
from conversations.llm.errors import ContextLengthExceeded, Overloaded
from conversations.llm.scripted import Cut, Pause, ScriptedProvider
from conversations.llm.tokens import kept_tokens
from conversations.llm.types import CompletionRequest, ReasoningDelta
from conversations.models import (
    Conversation,
    ConversationSummary,
    Hold,
    LedgerEntry,
    MemoryItem,
    Message,
    Reply,
    ReplyAttempt,
    ReplyState,
)
from conversations.policies import stored_preset
from conversations.replies import context
from conversations.replies.sending import retry_reply
from conversations.replies.signals import reply_finished
from tests.prices.cheap import a_price

from .harness import MODEL, catalog_of, until, web_process
from .turns import SMALL, TurnsTestCase, dialogue, flat, say

FILLER = "Nothing of weight was said here, and nobody would look for it again. " * 2
FACT = "The blue heron nests behind the old pumping station near Zwolle."


def remember(user: Any, text: str, **values: Any) -> MemoryItem:
    values.setdefault("kind", MemoryItem.Kind.PROFILE)
    values.setdefault("scope", MemoryItem.Scope.PERSON)
    return MemoryItem.objects.create(user=user, text=text, token_count=kept_tokens(text), **values)


def sum_up(conversation: Conversation, until: Message, text: str, **values: Any) -> ConversationSummary:
    version = conversation.summaries.count() + 1
    values.setdefault("version", version)
    return ConversationSummary.objects.create(
        conversation=conversation,
        summary=text,
        token_count=kept_tokens(text),
        covers_until=until,
        message_count_at_creation=until.path_messages,
        **values,
    )


def texts(request: CompletionRequest) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request.messages]


class RepliesTests(TurnsTestCase):
    """Through the whole runtime, by what the provider got."""

    async def test_a_request_extends_the_one_before_it_until_the_cut(self) -> None:
        provider = ScriptedProvider([FILLER])
        conversation = await sync_to_async(self.conversation)(SMALL, system_prompt="Be brief.")
        with catalog_of(provider):
            async with web_process():
                for number in range(12):
                    await self.finished(await self.asend(conversation, f"Question {number}. {FILLER}"))
        manifests = [attempt.manifest async for attempt in ReplyAttempt.objects.order_by("started_at", "id")]
        starts = [manifest["start"] for manifest in manifests]
        self.assertEqual(starts[0], "first")
        self.assertGreaterEqual(starts.count("full"), 2)
        self.assertGreaterEqual(starts.count("extends"), 4)
        for before, request, start in zip(provider.requests, provider.requests[1:], starts[1:], strict=False):
            self.assertEqual(flat(request).startswith(flat(before)), start == "extends")
        for request, manifest in zip(provider.requests, manifests, strict=True):
            self.assertEqual(request_digest(request.messages), manifest["sha256"])
            self.assertEqual(request.cache_key, conversation.pk.hex)

    async def test_what_was_recalled_stands_just_before_the_question_and_stays_there(self) -> None:
        provider = ScriptedProvider([FILLER])
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 20)
        with catalog_of(provider):
            async with web_process():
                asked = await self.finished(await self.asend(conversation, "Where does the blue heron nest?"))
                await self.finished(await self.asend(conversation, "Thanks."))
        first, second = provider.requests
        role, text = first.messages[-1].role, first.messages[-1].content
        self.assertEqual(role, "user")
        self.assertIn(RECALLED, text)
        self.assertLess(text.index(FACT), text.index("Where does the blue heron nest?"))
        self.assertTrue(text.endswith("Where does the blue heron nest?"))
        self.assertTrue(flat(second).startswith(flat(first)))
        manifest = (await ReplyAttempt.objects.aget(reply=asked)).manifest
        self.assertGreaterEqual(manifest["recall"]["found"], 1)
        self.assertNotIn("unavailable", manifest["recall"])

    async def test_recall_looks_at_all_that_comes_before_the_request_and_at_no_more(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 20)
        with catalog_of(ScriptedProvider()):
            reply = await self.asend(conversation, "Where does the blue heron nest?")
            with mock.patch.object(context, "choose", mock.AsyncMock(return_value=[])) as choose:
                async with self.pool() as pool:
                    plan, *_ = await self.plan(pool, reply)
        first = await Message.objects.aget(pk=plan.first_message_id)
        self.assertEqual(choose.call_args.kwargs["last"], first.path_messages - 1)

    async def test_recall_is_not_asked_while_all_is_shown(self) -> None:
        conversation = await sync_to_async(self.conversation)()
        await sync_to_async(dialogue)(conversation, FACT, "Noted.")
        with catalog_of(ScriptedProvider()), mock.patch.object(context, "look") as look:
            async with web_process():
                reply = await self.finished(await self.asend(conversation, "Where does it nest?"))
        look.assert_not_called()
        self.assertIsNone((await ReplyAttempt.objects.aget(reply=reply)).manifest["recall"])

    async def test_without_recall_the_reply_goes_on_and_says_so(self) -> None:
        async def never(*args: object, **values: object) -> None:
            await asyncio.sleep(60)

        for broken, name in ((RuntimeError("the index is gone"), "RuntimeError"), (never, "TimeoutError")):
            provider = ScriptedProvider([Overloaded("later")], ["Well."])
            conversation = await sync_to_async(self.conversation)(SMALL)
            await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 20)
            with (
                catalog_of(provider),
                mock.patch.object(context, "look", side_effect=broken) as look,
                mock.patch.object(context, "RECALL_SECONDS", 0.05),
                mock.patch("conversations.replies.runner.retry_delay", return_value=0.0),
                self.assertLogs("conversations.replies.context", "WARNING") as logs,
            ):
                async with web_process():
                    reply = await self.finished(await self.asend(conversation, "Where does it nest?"))
            self.assertEqual(reply.state, ReplyState.COMPLETE)
            self.assertEqual(len(provider.requests), 2)
            look.assert_called_once()  # the second try does not wait for it again
            self.assertNotIn("nest", "".join(logs.output))
            async for attempt in ReplyAttempt.objects.filter(reply=reply):
                self.assertEqual(attempt.manifest["recall"]["unavailable"], name)

    async def test_recall_that_was_not_there_is_not_asked_for_a_shorter_request_either(self) -> None:
        provider = ScriptedProvider([ContextLengthExceeded("too long")], ["Well."])
        conversation = await sync_to_async(self.conversation)(SMALL | {"high_water": 2_000})
        await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 40)
        with (
            catalog_of(provider),
            mock.patch.object(context, "look", side_effect=RuntimeError("the index is gone")) as look,
            self.assertLogs("conversations.replies.context", "WARNING"),
        ):
            async with web_process():
                await self.finished(await self.asend(conversation, "Where does it nest?"))
        long, short = provider.requests
        self.assertLess(len(flat(short)), len(flat(long)))
        look.assert_called_once()

    async def test_another_try_and_another_answer_do_not_ask_recall_again(self) -> None:
        provider = ScriptedProvider([Overloaded("later")], ["Behind it."], ["Near Zwolle."])
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 20)
        with (
            catalog_of(provider),
            mock.patch.object(context, "look", side_effect=retrieval.look) as look,
            mock.patch("conversations.replies.runner.retry_delay", return_value=0.0),
        ):
            async with web_process():
                asked = "Where does the blue heron nest?"
                reply = await self.finished(await self.asend(conversation, asked))
                again = await sync_to_async(retry_reply)(reply, key=uuid4())
                await self.finished(again)
        self.assertEqual(look.call_count, 1)
        self.assertEqual(len({flat(request) for request in provider.requests}), 1)

    async def test_a_shorter_request_is_planned_when_a_model_reads_less_than_it_says(self) -> None:
        provider = ScriptedProvider([ContextLengthExceeded("too long")], ["Well."])
        conversation = await sync_to_async(self.conversation)(SMALL | {"high_water": 2_000})
        await sync_to_async(dialogue)(conversation, *[FILLER] * 40)
        with catalog_of(provider):
            async with web_process():
                await self.finished(await self.asend(conversation, "And now?"))
        long, short = provider.requests
        self.assertLess(len(flat(short)), len(flat(long)))

    async def test_the_end_of_a_long_reply_asks_for_the_next_summary(self) -> None:
        heard: list[bool] = []

        def hear(compaction_due: bool, **rest: object) -> None:
            heard.append(compaction_due)

        conversation = await sync_to_async(self.conversation)(SMALL)
        reply_finished.connect(hear)
        self.addCleanup(reply_finished.disconnect, hear)
        with catalog_of(ScriptedProvider([FILLER])):
            async with web_process():
                for number in range(5):
                    await self.finished(await self.asend(conversation, f"Question {number}. {FILLER}"))
                    await conversation.arefresh_from_db()
                    self.assertEqual(conversation.compaction_due_at is not None, any(heard))
        self.assertEqual((heard[0], heard[-1]), (False, True))

    async def test_a_message_longer_than_the_window_enters_as_an_excerpt(self) -> None:
        provider = ScriptedProvider(["Read."])
        text = "It begins here. " + "One sentence follows another. " * 2_000 + "It ends here."
        conversation = await sync_to_async(self.conversation)()
        with catalog_of(provider, context_window=4_000):
            async with web_process():
                reply = await self.finished(await self.asend(conversation, text))
        (sent,) = provider.requests[0].messages
        self.assertTrue(sent.content.startswith("It begins here.") and sent.content.endswith("It ends here."))
        self.assertIn(LEFT_OUT, sent.content)
        manifest = (await ReplyAttempt.objects.aget(reply=reply)).manifest
        self.assertEqual(manifest["excerpted"], [str(reply.question_id)])
        self.assertLessEqual(manifest["input_tokens"], 3_000)

    async def test_what_a_preset_refuses_to_cut_fails_with_a_sentence(self) -> None:
        provider = ScriptedProvider()
        conversation = await sync_to_async(self.conversation)(SMALL | {"on_overflow": "refuse"})
        await sync_to_async(dialogue)(conversation, *[FILLER] * 20)
        with catalog_of(provider, is_free=False, price=a_price(MODEL)):
            async with web_process():
                reply = await self.finished(await self.asend(conversation, "And now?"))
        self.assertEqual((reply.state, reply.error_code), (ReplyState.FAILED, "DoesNotFit"))
        self.assertEqual(provider.requests, [])
        self.assertFalse(await Hold.objects.filter(state=Hold.State.HELD).aexists())
        await sync_to_async(self.client.force_login)(self.alice)
        page = await sync_to_async(self.client.get)(f"/conversations/{conversation.pk}/")
        self.assertContains(page, "longer than the model can read")

    async def test_what_was_cut_is_shown_again_where_nothing_may_be_missing(self) -> None:
        provider = ScriptedProvider(["Well."], ["All of it."])
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(conversation, FACT, *[FILLER] * 99)

        @sync_to_async
        def change(**numbers: Any) -> None:
            conversation.refresh_from_db()
            presets.change(conversation, replace(presets.preset_of(conversation), **numbers))

        with catalog_of(provider):
            async with web_process():
                await self.finished(await self.asend(conversation, "And now?"))
                await change(on_overflow="refuse")
                refused = await self.finished(await self.asend(conversation, "And a part of it?"))
                await change(strategy=Strategy.FULL)
                await self.finished(await self.asend(conversation, "And all of it?"))
        cut, whole = provider.requests
        self.assertNotIn(FACT, flat(cut))
        self.assertIn(FACT, flat(whole))
        self.assertEqual((refused.state, refused.error_code), (ReplyState.FAILED, "DoesNotFit"))

    async def test_a_preset_that_is_changed_while_a_reply_comes_is_not_cut_by_it(self) -> None:
        provider = ScriptedProvider(["Well,", Pause(seconds=0.5), " so."], ["All of it."])
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(conversation, FACT, *[FILLER] * 99)

        @sync_to_async
        def change() -> None:
            conversation.refresh_from_db()
            presets.change(
                conversation,
                replace(presets.preset_of(conversation), strategy=Strategy.FULL, token_budget=None),
            )

        async def asked() -> bool:
            return bool(provider.requests)

        with catalog_of(provider):
            async with web_process():
                reply = await self.asend(conversation, "And now?")
                await until(asked)
                await change()
                await self.finished(reply)
                await self.finished(await self.asend(conversation, "And all of it?"))
        cut, whole = provider.requests
        self.assertNotIn(FACT, flat(cut))
        self.assertIn(FACT, flat(whole))

    async def test_where_a_preset_keeps_no_part_of_a_reply_a_cut_off_one_fails(self) -> None:
        provider = ScriptedProvider([ReasoningDelta(text="Hm."), "Half of it", Cut()], ["All of it."])
        conversation = await sync_to_async(self.conversation)(SMALL | {"on_stream_failure": "discard"})
        with catalog_of(provider, is_free=False, price=a_price(MODEL)):
            async with web_process():
                reply = await self.finished(await self.asend(conversation, "What is it?"))
                self.assertEqual((reply.state, reply.answer_id, reply.text), (ReplyState.FAILED, None, ""))
                self.assertEqual((reply.error_code, reply.error_detail), ("Discarded", "StreamInterrupted"))
                await self.finished(await self.asend(conversation, "Again?"))
        line = await LedgerEntry.objects.filter(reply_id=reply.pk).alast()
        assert line is not None
        self.assertGreater(line.output_tokens, 0)  # what came was billed, whatever became of it
        self.assertNotIn("Half of it", flat(provider.requests[1]))
        await sync_to_async(self.client.force_login)(self.alice)
        page = await sync_to_async(self.client.get)(f"/conversations/{conversation.pk}/")
        self.assertContains(page, "keeps no part of such a reply")

    async def test_the_same_holds_when_its_process_dies(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL | {"on_stream_failure": "discard"})
        with catalog_of(ScriptedProvider()):
            reply = await self.asend(conversation, "What is it?")
            await ReplyAttempt.objects.acreate(reply=reply, number=1, epoch=1, model=MODEL, pk=uuid4())
            await Reply.objects.filter(pk=reply.pk).aupdate(
                state=ReplyState.RUNNING,
                epoch=1,
                text="Half of it",
                lease_expires_at=timezone.now() - timedelta(seconds=1),
            )
            async with web_process():
                reply = await self.finished(reply)
        self.assertEqual((reply.state, reply.answer_id), (ReplyState.FAILED, None))

    async def test_a_hold_covers_long_conversations_with_memory_and_recall(self) -> None:
        provider = ScriptedProvider([FILLER])
        conversation = await sync_to_async(self.conversation)(
            SMALL | {"high_water": 1_500}, system_prompt="Be brief. " * 5
        )

        def learn(number: int) -> None:
            remember(self.alice, f"Alice has {number} herons and knows each by its name.")
            remember(
                self.alice,
                f"Never name heron {number}.",
                kind=MemoryItem.Kind.CONSTRAINT,
                scope=MemoryItem.Scope.CONVERSATION,
                conversation=conversation,
            )
            last = Message.objects.filter(conversation=conversation, role="assistant").latest("id")
            sum_up(conversation, last, f"Summary {number}: " + "herons were spoken of. " * 4)

        with catalog_of(provider, is_free=False, price=a_price(MODEL)):
            async with web_process():
                for number in range(24):
                    await self.finished(
                        await self.asend(conversation, f"Question {number} of herons. {FILLER}")
                    )
                    if number % 5 == 0:
                        await sync_to_async(learn)(number)
        lines = [line async for line in LedgerEntry.objects.all()]
        self.assertEqual({line.kind for line in lines}, {"settled"})  # no hold had to be replaced
        async for hold in Hold.objects.all():
            assert hold.attempt_id is not None
            attempt = await ReplyAttempt.objects.aget(pk=hold.attempt_id)
            self.assertGreaterEqual(hold.input_tokens, attempt.manifest["input_tokens"])
        self.assertTrue(any(SUMMARY in flat(request) for request in provider.requests))
        self.assertTrue(any(RECALLED in flat(request) for request in provider.requests))


class BackgroundTests(TurnsTestCase):
    """What a plan is handed beside the path, through the claim of its reply."""

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(catalog_of(ScriptedProvider()))

    async def test_what_is_remembered_is_told_and_what_must_be_kept_to_stands_on_top(self) -> None:
        def arrange() -> Conversation:
            conversation = self.conversation(system_prompt="Be brief.")
            other = self.conversation()
            said = dialogue(conversation, "I like tea.", "Noted.")
            here = {"scope": MemoryItem.Scope.CONVERSATION, "conversation": conversation}
            remember(self.alice, "Alice likes tea.", source=said[0], **here)
            remember(self.alice, "Never mention prices.", kind=MemoryItem.Kind.CONSTRAINT, **here)
            remember(self.alice, "Alice lives in Oslo.", conversation=other)
            remember(self.alice, "A proposal.", state=MemoryItem.State.PROPOSED, **here)
            remember(self.alice, "Said before.", state=MemoryItem.State.SUPERSEDED, **here)
            remember(self.alice, "Elsewhere.", scope=MemoryItem.Scope.CONVERSATION, conversation=other)
            return conversation

        conversation = await sync_to_async(arrange)()
        async with self.pool() as pool:
            plan, _, _ = await self.turn(pool, conversation, "And now?")
            top, *rest = plan.messages
            self.assertEqual(top.content, f"Be brief.\n\n{CONSTRAINTS}\n- Never mention prices.")
            notes = rest[0].content.split("\n\n")[0]
            self.assertEqual(notes, f"{MEMORY}\n- profile: Alice likes tea.\n- profile: Alice lives in Oslo.")

            await type(self.alice).objects.filter(pk=self.alice.pk).aupdate(is_remembering=False)
            plan, _, _ = await self.turn(pool, conversation, "And after that?")
        self.assertNotIn("Oslo", flat(plan))
        self.assertIn("Alice likes tea.", flat(plan))
        self.assertEqual(plan.start, Start.CHANGED)

    async def test_what_is_learned_between_two_messages_comes_before_the_next_one(self) -> None:
        conversation = await sync_to_async(self.conversation)()
        async with self.pool() as pool:
            before, _, _ = await self.turn(pool, conversation, "I moved to Oslo.")
            old = await sync_to_async(remember)(self.alice, "Alice lives in Oslo.")
            told, _, _ = await self.turn(pool, conversation, "Which trams are there?")
            await MemoryItem.objects.filter(pk=old.pk).aupdate(state=MemoryItem.State.SUPERSEDED)
            await sync_to_async(remember)(self.alice, "Alice lives in Bergen.")
            after, _, _ = await self.turn(pool, conversation, "And now?")
        self.assertTrue(flat(told).startswith(flat(before)))
        self.assertTrue(flat(after).startswith(flat(told)))
        self.assertIn("Alice lives in Bergen.", after.messages[-1].content)

    async def test_a_forgotten_fact_leaves_the_request_and_its_message_is_not_quoted_back(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)
        said = await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 20)
        item = await sync_to_async(remember)(
            self.alice, "Herons nest near Zwolle.", conversation=conversation, source=said[0]
        )
        question = "Where does the blue heron nest?"
        async with self.pool() as pool:
            shown, _, _ = await self.turn(pool, conversation, question)
            self.assertIn("Herons nest near Zwolle.", flat(shown))
            self.assertIn(FACT, flat(shown))
            await MemoryItem.objects.filter(pk=item.pk).aupdate(state=MemoryItem.State.FORGOTTEN, text="")
            for _ in range(2):
                plan, _, _ = await self.turn(pool, conversation, question)
                self.assertNotIn("Zwolle", flat(plan))

    async def test_a_message_that_was_quoted_back_is_not_any_more_once_its_fact_is_forgotten(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL | {"uses_memory": False})
        said = await sync_to_async(dialogue)(conversation, FACT, "Noted.", *[FILLER] * 20)
        item = await sync_to_async(remember)(
            self.alice, "Herons nest near Zwolle.", conversation=conversation, source=said[0]
        )
        async with self.pool() as pool:
            shown, _, _ = await self.turn(pool, conversation, "Where does the blue heron nest?")
            self.assertIn(FACT, flat(shown))
            self.assertNotIn("Herons nest near Zwolle.", flat(shown))
            await MemoryItem.objects.filter(pk=item.pk).aupdate(state=MemoryItem.State.FORGOTTEN, text="")
            plan, _, _ = await self.turn(pool, conversation, "And the grey one?")
            self.assertNotIn("Zwolle", flat(plan))

    async def test_a_summary_waits_for_the_cut_unless_a_person_chose_it(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)
        said = await sync_to_async(dialogue)(conversation, *[FILLER] * 8)
        async with self.pool() as pool:
            await self.turn(pool, conversation, "And now?")
            await sync_to_async(sum_up)(conversation, said[3], "The first summary.")
            plan, _, _ = await self.turn(pool, conversation, "And then?")
            self.assertNotIn("The first summary.", flat(plan))
            while plan.start is not Start.FULL:
                plan, _, _ = await self.turn(pool, conversation, FILLER)
            self.assertIn(f"{SUMMARY}\nThe first summary.", flat(plan))
            await sync_to_async(sum_up)(conversation, said[5], "Written by hand.", acts_at_once=True)
            plan, _, _ = await self.turn(pool, conversation, "And after that?")
            self.assertIn("Written by hand.", flat(plan))
            self.assertNotIn("The first summary.", flat(plan))

    async def test_what_the_provider_has_forgotten_is_cut_early(self) -> None:
        for age, start in ((timedelta(minutes=1), Start.EXTENDS), (timedelta(hours=1), Start.COLD)):
            conversation = await sync_to_async(self.conversation)(SMALL)
            await sync_to_async(dialogue)(conversation, *[FILLER] * 10)
            with catalog_of(ScriptedProvider(), model_id="claude-sonnet-4"):
                async with self.pool() as pool:
                    plan, _, _ = await self.turn(pool, conversation, "And now?")
                    self.assertGreater(plan.input_tokens, 450, "the soft mark")
                    await Conversation.objects.filter(pk=conversation.pk).aupdate(cut_at=timezone.now() - age)
                    plan, _, _ = await self.turn(pool, conversation, "And then?")
            self.assertEqual(plan.start, start)

    async def test_a_model_that_stands_in_is_shown_what_it_can_read(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL | {"high_water": 16_000})
        await sync_to_async(dialogue)(conversation, *[FILLER] * 60)
        reply = await self.asend(conversation, "And now?")
        async with self.pool() as pool:
            entry = await sync_to_async(_entry)()
            plan, requests, _ = await self.plan(pool, reply, entry)
            small = replace(entry, id="scripted/small", context_window=2_000, max_output=500)
            other = await requests.plan(small)
        self.assertFalse(plan.was_cut)
        self.assertTrue(other.was_cut)
        self.assertLessEqual(other.input_tokens, 1_500)
        self.assertEqual(other.policy.model, "scripted/small")

    async def test_a_constraint_is_there_to_the_letter_after_fifty_cuts(self) -> None:
        rule = "Never mention prices, not even “about $5 — or 5 €”."
        conversation = await sync_to_async(self.conversation)(SMALL | {"high_water": 1_200})
        await sync_to_async(remember)(
            self.alice,
            rule,
            kind=MemoryItem.Kind.CONSTRAINT,
            scope=MemoryItem.Scope.CONVERSATION,
            conversation=conversation,
        )

        def compact(cuts: int) -> None:
            conversation.summaries.update(state=ConversationSummary.State.RETIRED)
            last = Message.objects.filter(conversation=conversation).latest("id")
            sum_up(conversation, last, f"Summary number {cuts}. " + "Nothing of weight was said. " * 10)

        cuts = 0
        async with self.pool() as pool:
            for number in range(400):
                plan, _, _ = await self.turn(pool, conversation, f"{number} {FILLER * 5}", answer=FILLER * 5)
                self.assertEqual(plan.messages[0].content, f"{CONSTRAINTS}\n- {rule}")
                if plan.was_cut and plan.start is not Start.EXTENDS:
                    cuts += 1
                    await sync_to_async(compact)(cuts)
                if cuts == 50:
                    break
        self.assertEqual(cuts, 50)
        self.assertIn("Summary number", flat(plan))

    async def test_whatever_a_crash_left_behind_the_request_is_valid(self) -> None:
        for turns in (
            [("user", "One."), ("user", "Two.")],
            [("user", "One."), ("assistant", "")],
            [("user", "One."), ("assistant", " \n"), ("user", "Two."), ("user", "Three.")],
            [("assistant", "Hello."), ("user", "One."), ("assistant", "Two."), ("assistant", "Three.")],
        ):
            conversation = await sync_to_async(self.conversation)(SMALL, system_prompt="Be brief.")
            parent = None
            for role, text in turns:
                parent = await sync_to_async(say)(conversation, parent, role, text)
            async with self.pool() as pool:
                for _ in range(2):
                    reply = await self.asend(conversation, "And now?")
                    plan, requests, _ = await self.plan(pool, reply)
                    # Nothing comes of it: the next one finds a question without an answer.
                    await self.end(pool, requests.claim, plan, "")
                    self.assert_valid(requests.request(_entry(), plan, 100))

    def assert_valid(self, request: CompletionRequest) -> None:
        from conversations.llm import anthropic, openai

        roles = [message.role for message in request.messages]
        said = [role for role in roles if role != "system"]
        self.assertEqual(roles[: len(roles) - len(said)], ["system"] * (len(roles) - len(said)))
        self.assertEqual((said[0], said[-1]), ("user", "user"))
        self.assertTrue(all(a != b for a, b in pairwise(said)))
        self.assertTrue(all(message.content.strip() for message in request.messages))
        body = anthropic.build_body(request)
        self.assertEqual([message["role"] for message in body["messages"]], said)
        self.assertEqual(
            [m["role"] for m in openai.build_body(request, base_url="https://x.test")["messages"]], roles
        )

    async def test_a_cut_that_cannot_be_read_is_none(self) -> None:
        cuts: list[Any] = [{"key": "old"}, {"first_message_id": str(uuid4()), "memory": []}, []]
        for cut in cuts:
            conversation = await sync_to_async(self.conversation)(cut=cut, cut_at=timezone.now())
            async with self.pool() as pool:
                plan, _, _ = await self.turn(pool, conversation, "Hello?")
            self.assertEqual(plan.start, Start.FIRST)

    def test_a_preset_that_cannot_be_read_does_not_hold_up_replies(self) -> None:
        from asgiref.sync import async_to_sync

        for preset in (
            {"strategy": "a strategy of tomorrow", "high_water": "many"},
            {"high_water": 10**30, "token_budget": [1], "strategy": "summary"},
            {"high_water": None, "strategy": "full", "token_budget": "x"},
        ):
            conversation = self.conversation(preset)
            reply = self.send(conversation, "Hello?")

            async def claimed(reply: Reply = reply) -> str:
                async with self.pool() as pool:
                    plan, _, _ = await self.plan(pool, reply)
                return flat(plan)

            self.assertEqual(async_to_sync(claimed)(), "<user>Hello?")
            self.assertEqual(stored_preset(conversation.preset).on_overflow, "cut")


def _entry() -> Any:
    from conversations.catalog import load_catalog

    return load_catalog().get(MODEL)
