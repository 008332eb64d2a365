"""What a reply holds, is charged and gives back, whatever becomes of it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.test import override_settings
from django.utils import timezone
from psycopg import AsyncConnection, IntegrityError

from conversations.budgets import remaining, set_user_limit
from conversations.catalog import Catalog, ModelEntry
from conversations.database import make_pool
from conversations.llm.errors import AuthenticationFailed, Overloaded, TimedOut
from conversations.llm.scripted import Cut, Endless, Pause, ScriptedProvider
from conversations.llm.tokens import count_tokens
from conversations.llm.types import Finish, FinishReason, PromptCounted, Provider, ReasoningDelta, Usage
from conversations.metrics import HOLD_UNDERESTIMATES
from conversations.models import (
    Conversation,
    Hold,
    LedgerEntry,
    Message,
    Reply,
    ReplyAttempt,
    ReplyState,
)
from conversations.models.fields import new_id
from conversations.money import DOLLAR
from conversations.prices import Price, Rates, free_price
from conversations.providers import replaced
from conversations.replies import sending
from conversations.replies.claims import Claim
from conversations.replies.sending import retry_reply
from conversations.replies.store import Begun, LeaseLost, Outcome, ReplyStore
from tests.prices.cheap import RATES, a_price

from .harness import DEADLINE, MODEL, ReplyTestCase, ask_for, catalog_of, until, web_process

#: Nano-USD a token.
INPUT, CACHE_WRITE, OUTPUT = (rate // 1_000_000 for rate in (RATES.input, RATES.cache_write, RATES.output))


#: The end of a stream whose provider says nothing of tokens.
SILENT = Finish(reason=FinishReason.STOP, usage=None)


#: Two models that make different numbers of tokens of a text, the second many more.
GPT, CLAUDE = "gpt-4o", "claude-opus-4-7"


def priced(model_id: str) -> ModelEntry:
    return ModelEntry(
        id=f"scripted/{model_id}",
        provider="scripted",
        provider_label="Scripted",
        model_id=model_id,
        label=model_id,
        dialect="openai",
        context_window=32_000,
        max_output=4_096,
        price=a_price(f"scripted/{model_id}"),
    )


def both(provider: Provider) -> AbstractContextManager[Catalog]:
    return replaced(Catalog(entries=(priced(GPT), priced(CLAUDE))), {"scripted": provider})


class SendTests(ReplyTestCase):
    """What a send does to the budget, before anything runs."""

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(catalog_of(ScriptedProvider(), is_free=False, price=a_price(MODEL)))

    def held(self) -> int:
        return remaining(self.alice.pk).held

    def test_a_send_holds_the_most_that_its_reply_can_cost(self) -> None:
        reply = self.start("Hello?")
        hold = Hold.objects.get(reply_id=reply.pk)
        question = Message.objects.get(pk=reply.question_id)
        self.assertEqual(hold.input_tokens, count_tokens(question.content, "model") + 10)
        self.assertEqual(hold.max_tokens, reply.max_tokens)
        self.assertEqual(hold.amount, hold.input_tokens * CACHE_WRITE + reply.max_tokens * OUTPUT)
        self.assertEqual((self.held(), hold.state), (hold.amount, Hold.State.HELD))
        self.assertEqual(
            (hold.user_id, hold.caused_by, hold.purpose), (self.alice.pk, self.alice.pk, "reply")
        )

    def test_the_hold_covers_what_was_said_before(self) -> None:
        first = self.start("A word " * 500)
        Reply.objects.filter(pk=first.pk).update(state=ReplyState.COMPLETE)
        second = self.send(first.conversation, "And?")
        self.assertGreater(Hold.objects.get(reply_id=second.pk).input_tokens, 1_000)

    def test_it_covers_the_system_prompt_of_every_message(self) -> None:
        conversation = Conversation.objects.create(
            user=self.alice, model=MODEL, system_prompt="Answer as a pirate would. " * 100
        )
        reply = self.send(conversation, "Hello?")
        hold = Hold.objects.get(reply_id=reply.pk)
        self.assertEqual(
            hold.input_tokens,
            sum(count_tokens(text, "model") + 10 for text in (conversation.system_prompt, "Hello?")),
        )

    def test_it_covers_what_was_written_to_a_model_that_makes_fewer_tokens_of_it(self) -> None:
        text = "What does it cost to keep a promise? " * 100
        with both(ScriptedProvider()):
            first = self.start(text, model=f"scripted/{GPT}")
            Reply.objects.filter(pk=first.pk).update(state=ReplyState.COMPLETE)
            again = retry_reply(first, key=uuid4(), model=f"scripted/{CLAUDE}")
            Reply.objects.filter(pk=again.pk).update(state=ReplyState.COMPLETE)
            after = self.send(first.conversation, "And?", model=f"scripted/{CLAUDE}")
        for reply in (again, after):
            hold = Hold.objects.get(reply_id=reply.pk)
            self.assertGreaterEqual(hold.input_tokens, count_tokens(text, CLAUDE))

    def test_a_message_that_waits_holds_nothing_yet(self) -> None:
        first = self.start()
        waiting = self.send(first.conversation, "And?")
        self.assertEqual(waiting.state, ReplyState.WAITING)
        self.assertFalse(Hold.objects.filter(reply_id=waiting.pk).exists())

    def test_what_does_not_fit_is_refused_and_leaves_nothing_behind(self) -> None:
        set_user_limit(self.alice, 100)
        with self.assertRaises(sending.NoMoney) as refused:
            self.start()
        self.assertEqual(refused.exception.status, 402)
        self.assertEqual((refused.exception.refused.left, refused.exception.refused.limit), (100, 100))
        self.assertFalse(
            Conversation.objects.exists() or Hold.objects.exists() or LedgerEntry.objects.exists()
        )
        self.assertEqual(self.held(), 0)

    def test_a_refusal_uses_up_no_key(self) -> None:
        set_user_limit(self.alice, 0)
        key = uuid4()
        with self.assertRaises(sending.NoMoney):
            self.start("Hello?", key=key)
        set_user_limit(self.alice, DOLLAR)
        self.assertEqual(self.start("Hello?", key=key).state, ReplyState.QUEUED)

    def test_a_shorter_answer_is_sent_where_the_whole_does_not_fit(self) -> None:
        set_user_limit(self.alice, 300 * OUTPUT + 20 * CACHE_WRITE)
        reply = self.start("Hello?")
        reply.refresh_from_db()
        self.assertTrue(256 <= reply.max_tokens < 330, reply.max_tokens)
        self.assertEqual(Hold.objects.get(reply_id=reply.pk).max_tokens, reply.max_tokens)

    @override_settings(SHRINK_FLOOR=400)
    def test_below_the_floor_it_is_refused(self) -> None:
        set_user_limit(self.alice, 300 * OUTPUT)
        with self.assertRaises(sending.NoMoney):
            self.start()

    def test_the_same_send_twice_holds_once(self) -> None:
        key = uuid4()
        self.assertEqual(self.start("Hello?", key=key).pk, self.start("Hello?", key=key).pk)
        self.assertEqual(Hold.objects.count(), 1)

    def test_a_reply_that_is_stopped_before_it_begins_gives_all_of_it_back(self) -> None:
        reply = self.start()
        sending.stop_reply(reply)
        line = LedgerEntry.objects.get()
        self.assertEqual((line.kind, line.charged, line.reply_id), ("void", 0, reply.pk))
        self.assertEqual(self.held(), 0)


class FreeModelTests(ReplyTestCase):
    def test_a_free_model_needs_no_hold_even_without_any_money(self) -> None:
        set_user_limit(self.alice, 0)
        with catalog_of(ScriptedProvider()):
            self.start()
        self.assertFalse(Hold.objects.exists())


class NoPriceTests(ReplyTestCase):
    def test_a_model_without_a_price_is_refused_with_the_place_to_set_one(self) -> None:
        with (
            catalog_of(ScriptedProvider(), is_free=False),
            self.assertRaisesMessage(sending.NoModel, "An administrator can set one under Prices."),
        ):
            self.start()


class RunTests(ReplyTestCase):
    """What the ledger says of a reply when it is over."""

    def priced(self, provider: Provider, **fields: Any) -> None:
        self.enterContext(catalog_of(provider, is_free=False, price=a_price(MODEL), **fields))

    async def ended(self, text: str = "Hello?") -> Reply:
        async with web_process():
            return await self.finished(await self.astart(text))

    async def lines(self) -> list[LedgerEntry]:
        self.assertEqual(await Hold.objects.filter(state=Hold.State.HELD).acount(), 0)
        found = [line async for line in LedgerEntry.objects.order_by("created_at", "id")]
        left = await sync_to_async(remaining)(self.alice.pk)
        self.assertEqual((left.held, left.spent), (0, sum(line.charged for line in found)))
        return found

    async def test_a_complete_reply_is_charged_what_its_provider_reports(self) -> None:
        usage = Usage(input_tokens=12, cached_tokens=4, output_tokens=7)
        self.priced(ScriptedProvider(["Hi", Finish(reason=FinishReason.STOP, usage=usage)]))
        reply = await self.ended()
        (line,) = await self.lines()
        self.assertEqual(line.charged, 8 * INPUT + 4 * RATES.cached // 1_000_000 + 7 * OUTPUT)
        self.assertEqual((line.kind, line.purpose, line.reply_id), ("settled", "reply", reply.pk))
        self.assertTrue(line.usage_reported and not line.is_underestimate)
        self.assertEqual(line.attempt_id, (await ReplyAttempt.objects.aget(reply=reply)).pk)

    async def test_without_a_report_our_own_count_is_charged_and_marked(self) -> None:
        self.priced(ScriptedProvider(["Hi", SILENT]))
        await self.ended()
        (line,) = await self.lines()
        self.assertEqual(line.charged, line.input_tokens * INPUT + line.output_tokens * OUTPUT)
        self.assertTrue(line.input_tokens and line.output_tokens and not line.usage_reported)

    async def test_a_model_is_charged_by_its_own_count_of_what_was_said_to_another(self) -> None:
        text = "What does it cost to keep a promise? " * 100
        with both(ScriptedProvider([text, SILENT], ["Hi", SILENT], ["Hi", SILENT])):
            async with web_process():
                first = await self.finished(await self.astart(text, model=f"scripted/{GPT}"))
                await self.finished(
                    await sync_to_async(retry_reply)(first, key=uuid4(), model=f"scripted/{CLAUDE}")
                )
                leaf = first.answer_id
                conversation = first.conversation
                await self.finished(
                    await self.asend(
                        conversation, "And?", model=f"scripted/{CLAUDE}", leaf_id=leaf, place="branch"
                    )
                )
        lines = await self.lines()
        self.assertEqual([line.kind for line in lines], ["settled"] * 3)
        self.assertEqual([line.output_tokens for line in lines][:1], [count_tokens(text, GPT)])
        for line, texts in zip(lines[1:], (1, 2), strict=True):
            self.assertGreaterEqual(line.input_tokens, texts * count_tokens(text, CLAUDE))

    async def test_an_answer_of_the_model_that_stepped_in_is_counted_for_that(self) -> None:
        self.alice.fallback_model = f"scripted/{CLAUDE}"
        await self.alice.asave(update_fields=["fallback_model"])
        text = "What does it cost to keep a promise? " * 100
        with (
            both(ScriptedProvider([Overloaded()], [text, SILENT])),
            override_settings(REPLY_TRIES=1),
        ):
            async with web_process():
                await self.finished(await self.astart(model=f"scripted/{GPT}"))
        line = (await self.lines())[-1]
        self.assertEqual(line.output_tokens, count_tokens(text, CLAUDE))

    async def test_a_cut_stream_is_charged_its_input_and_what_had_come(self) -> None:
        self.priced(ScriptedProvider(["Half of it", Cut()]))
        reply = await self.ended()
        (line,) = await self.lines()
        self.assertEqual((reply.state, line.kind), (ReplyState.INTERRUPTED, "settled"))
        self.assertTrue(line.input_tokens and line.output_tokens)

    async def test_a_stopped_reply_is_charged_its_input_and_what_had_come(self) -> None:
        self.priced(ScriptedProvider(["Half of it", Pause(seconds=60)]))
        async with web_process() as process:
            reply = await self.astart()

            async def has_begun() -> bool:
                running = process.running.get(reply.pk)
                return running is not None and running.text == "Half of it"

            await until(has_begun)
            await sync_to_async(sending.stop_reply)(reply)
            reply = await self.finished(reply)
        (line,) = await self.lines()
        self.assertEqual((reply.state, line.kind), (ReplyState.STOPPED, "settled"))
        self.assertTrue(line.input_tokens and line.output_tokens and line.charged)

    async def test_a_cut_stream_is_charged_the_prompt_as_its_provider_has_counted_it(self) -> None:
        counted = Usage(input_tokens=90, cached_tokens=20, cache_write_tokens=40)
        self.priced(ScriptedProvider([PromptCounted(usage=counted), "Half of it", Cut()]))
        await self.ended()
        (line,) = await self.lines()
        self.assertEqual(
            line.charged,
            30 * INPUT + 20 * RATES.cached // 1_000_000 + 40 * CACHE_WRITE + line.output_tokens * OUTPUT,
        )

    async def stopped_at_once(self, *script: ReasoningDelta, **fields: Any) -> LedgerEntry:
        provider = ScriptedProvider([*script, Pause(seconds=60)])
        self.priced(provider, **fields)
        async with web_process() as runtime:
            reply = await self.astart()

            async def has_come() -> bool:
                running = runtime.running.get(reply.pk)
                return bool(provider.requests and running and len(running.thoughts) == len(script))

            await until(has_come)
            await sync_to_async(sending.stop_reply)(reply)
            await self.finished(reply)
        return (await self.lines())[-1]

    async def test_thoughts_that_are_not_shown_are_charged_by_the_time_they_took(self) -> None:
        with patch("conversations.replies.runner.THINKING_PACE", 10_000):
            line = await self.stopped_at_once(thinks=True)
        self.assertTrue(0 < line.output_tokens == line.reasoning_tokens)
        self.assertLessEqual(line.charged, line.held)

    async def test_thoughts_that_are_shown_are_charged_as_they_came(self) -> None:
        line = await self.stopped_at_once(ReasoningDelta(text="Let me see."), thinks=True)
        self.assertEqual(line.output_tokens, count_tokens("Let me see.", "model"))

    async def test_a_model_that_does_not_think_is_charged_what_came(self) -> None:
        line = await self.stopped_at_once()
        self.assertEqual(line.output_tokens, 0)

    async def test_unseen_thoughts_are_no_more_than_was_asked_for(self) -> None:
        with patch("conversations.replies.runner.THINKING_PACE", 10**9):
            line = await self.stopped_at_once(thinks=True)
        self.assertEqual(line.output_tokens, (await Hold.objects.aget()).max_tokens)
        self.assertLessEqual(line.charged, line.held)

    async def test_an_answer_that_its_provider_does_not_bound_is_ended(self) -> None:
        for model_id, times in ((GPT, 1.5), ("model", 4.5)):
            provider = ScriptedProvider([Endless(pace=0.0)])
            with (
                self.subTest(model_id),
                catalog_of(provider, is_free=False, price=a_price(MODEL), max_output=100, model_id=model_id),
            ):
                reply = await self.ended()
                line = await LedgerEntry.objects.aget(reply_id=reply.pk)
                self.assertEqual((reply.state, reply.error_code), (ReplyState.INTERRUPTED, "InvalidResponse"))
                self.assertTrue(100 < line.output_tokens < 100 * times * 1.25)
                self.assertEqual(provider.closed_early, 1)

    async def test_a_refused_request_is_not_charged(self) -> None:
        self.priced(ScriptedProvider([AuthenticationFailed("no")]))
        reply = await self.ended()
        (line,) = await self.lines()
        self.assertEqual((reply.state, line.kind, line.charged), (ReplyState.FAILED, "void", 0))
        self.assertGreater(line.held, 0)

    async def test_each_try_has_a_hold_and_a_line_of_its_own(self) -> None:
        self.priced(ScriptedProvider([TimedOut()], [Overloaded()], ["Hi", SILENT]))
        with patch("conversations.replies.runner.retry_delay", return_value=0.0):
            await self.ended()
        lines = await self.lines()
        self.assertEqual([line.kind for line in lines], ["settled", "void", "settled"])
        self.assertEqual([line.purpose for line in lines], ["reply", "retry", "retry"])
        # One that timed out may have been billed: at least its prompt is charged.
        self.assertEqual((lines[0].charged, lines[0].output_tokens), (lines[0].input_tokens * INPUT, 0))

    async def test_a_try_that_no_money_is_left_for_is_not_made(self) -> None:
        provider = ScriptedProvider([TimedOut()], ["Hi"])
        self.priced(provider)
        async with web_process():
            reply = await self.astart()
            await until(lambda: ReplyAttempt.objects.filter(reply=reply).aexists())
            await sync_to_async(set_user_limit)(self.alice, 0)
            reply = await self.finished(reply)
        self.assertEqual((reply.state, reply.error_code), (ReplyState.FAILED, "OverBudget"))
        self.assertEqual(len(provider.requests), 1)
        self.assertEqual([line.kind for line in await self.lines()], ["settled"])

    async def test_a_free_reply_leaves_a_line_without_money(self) -> None:
        with catalog_of(ScriptedProvider(["Hi", SILENT])):
            reply = await self.ended()
        (line,) = await self.lines()
        self.assertEqual((line.kind, line.held, line.charged, line.reply_id), ("free", 0, 0, reply.pk))
        self.assertTrue(line.input_tokens and line.output_tokens)

    async def test_what_is_sent_is_what_was_held(self) -> None:
        await sync_to_async(set_user_limit)(self.alice, 300 * OUTPUT + 20 * CACHE_WRITE)
        provider = ScriptedProvider(["Hi", SILENT])
        self.priced(provider)
        await self.ended()
        hold = await Hold.objects.aget()
        self.assertEqual(provider.requests[0].max_tokens, hold.max_tokens)
        self.assertLess(hold.max_tokens, 330)

    async def test_a_message_that_waited_takes_its_hold_when_it_begins(self) -> None:
        self.priced(ScriptedProvider(["Hi", SILENT]))
        first = await self.astart()
        second = await self.asend(first.conversation, "And?")
        self.assertEqual(await Hold.objects.filter(reply_id=second.pk).acount(), 0)
        async with web_process():
            await self.finished(second)
        self.assertEqual({line.reply_id for line in await self.lines()}, {first.pk, second.pk})

    async def test_a_reply_that_went_on_when_its_process_died_is_not_charged_for_what_it_went_on_from(
        self,
    ) -> None:
        self.priced(ScriptedProvider())
        reply = await self.astart()
        begun = await Message.objects.acreate(
            conversation=reply.conversation, role="assistant", content="Half of it, " * 50
        )
        await ReplyAttempt.objects.acreate(
            reply=reply, number=1, epoch=1, model=MODEL, pk=(attempt := new_id())
        )
        await Hold.objects.filter(reply_id=reply.pk).aupdate(attempt_id=attempt, sent_at=timezone.now())
        await Reply.objects.filter(pk=reply.pk).aupdate(
            state=ReplyState.RUNNING,
            epoch=1,
            continues=begun,
            text=begun.content + "and more.",
            lease_expires_at=timezone.now() - timedelta(seconds=1),
        )
        async with web_process():
            await self.finished(reply)
        (line,) = await self.lines()
        self.assertEqual(line.output_tokens, count_tokens("and more.", "model"))

    async def test_a_reply_whose_process_has_died_is_charged_its_input_and_what_had_come(self) -> None:
        self.priced(ScriptedProvider())
        reply = await self.astart()
        async with make_pool() as pool:
            await self.begun(ReplyStore(pool), reply)
        await Reply.objects.filter(pk=reply.pk).aupdate(
            text="Half of it", lease_expires_at=timezone.now() - timedelta(seconds=1)
        )
        async with web_process():
            reply = await self.finished(reply)
        (line,) = await self.lines()
        self.assertEqual((reply.state, line.kind), (ReplyState.INTERRUPTED, "settled"))
        self.assertEqual(line.charged, 11 * INPUT + line.output_tokens * OUTPUT)
        self.assertTrue(line.output_tokens)

    async def test_a_hold_that_does_not_cover_the_request_is_replaced(self) -> None:
        self.priced(ScriptedProvider(["Hi", SILENT]))
        reply = await self.astart()
        await Hold.objects.filter(reply_id=reply.pk).aupdate(input_tokens=1)
        async with web_process():
            await self.finished(reply)
        self.assertEqual([line.kind for line in await self.lines()], ["void", "settled"])

    async def test_a_runner_that_was_fenced_out_touches_no_hold(self) -> None:
        self.priced(ScriptedProvider())
        reply = await self.astart()
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claimed = await store.claim(reply.pk, "slow")
            assert claimed is not None
            claim, _ = claimed
            await Reply.objects.filter(pk=reply.pk).aupdate(epoch=claim.epoch + 1)
            with self.assertRaises(LeaseLost):
                await store.begin_attempt(
                    claim, (attempt_id := new_id()), number=1, manifest={}, ask=ask_for(reply, attempt_id)
                )
        hold = await Hold.objects.aget()
        self.assertEqual((hold.state, hold.attempt_id, hold.sent_at), (Hold.State.HELD, None, None))

    async def test_a_call_is_not_begun_while_another_process_takes_its_reply_over(self) -> None:
        self.priced(ScriptedProvider())
        reply = await self.astart()
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claimed = await store.claim(reply.pk, "slow")
            assert claimed is not None
            async with pool.connection() as other:
                async with other.transaction():
                    await other.execute("UPDATE replies SET epoch = epoch + 1 WHERE id = %s", [reply.pk])
                    ask = ask_for(reply, attempt_id := new_id())
                    beginning = asyncio.create_task(
                        store.begin_attempt(claimed.claim, attempt_id, number=1, manifest={}, ask=ask)
                    )
                    waiting = "SELECT FROM pg_locks WHERE NOT granted AND %s = ANY (pg_blocking_pids(pid))"
                    async with asyncio.timeout(DEADLINE):
                        while not beginning.done():
                            cursor = await other.execute(waiting, [other.info.backend_pid])
                            if await cursor.fetchone() is not None:
                                break
                            await asyncio.sleep(0.01)
                with self.assertRaises(LeaseLost):
                    await beginning
        self.assertEqual(await ReplyAttempt.objects.acount(), 0)

    async def begun(self, store: ReplyStore, reply: Reply) -> tuple[Claim, UUID, Begun]:
        """A queued reply whose call is on record."""
        claimed = await store.claim(reply.pk, "test")
        assert claimed is not None
        claim, attempt_id = claimed[0], new_id()
        ask = ask_for(reply, attempt_id)
        begun = await store.begin_attempt(claim, attempt_id, number=1, manifest={"input_tokens": 11}, ask=ask)
        return claim, attempt_id, begun

    async def end(
        self, store: ReplyStore, claim: Claim, attempt_id: UUID, usage: Usage, price: Price | None
    ) -> None:
        outcome = Outcome(state=ReplyState.COMPLETE, text="Hi", billed=usage)
        ended = await store.finish(
            reply_id=claim.reply_id,
            epoch=claim.epoch,
            outcome=outcome,
            model=MODEL,
            attempt_id=attempt_id,
            price=price,
        )
        self.assertIsNotNone(ended)

    async def test_a_reply_that_ends_before_any_call_gives_its_hold_back(self) -> None:
        self.priced(ScriptedProvider())
        reply = await self.astart()
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claimed = await store.claim(reply.pk, "test")
            assert claimed is not None
            outcome = Outcome(state=ReplyState.FAILED, error_code="DoesNotFit")
            epoch = claimed.claim.epoch
            self.assertTrue(await store.finish(reply_id=reply.pk, epoch=epoch, outcome=outcome, model=MODEL))
        (line,) = await self.lines()
        self.assertEqual((line.kind, line.charged), ("void", 0))

    async def test_a_paid_reply_and_its_money_end_in_one_statement(self) -> None:
        self.priced(ScriptedProvider())
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claim, attempt_id, begun = await self.begun(store, await self.astart())
            with (
                patch.object(
                    AsyncConnection, "execute", autospec=True, side_effect=AsyncConnection.execute
                ) as executed,
                patch.object(AsyncConnection, "transaction", side_effect=AssertionError),
            ):
                await self.end(store, claim, attempt_id, Usage(input_tokens=11, output_tokens=3), begun.price)
        self.assertEqual(executed.call_count, 1)
        (line,) = await self.lines()
        self.assertEqual((line.kind, line.charged), ("settled", 11 * INPUT + 3 * OUTPUT))

    async def test_a_reply_is_charged_by_the_price_that_was_held_for_it(self) -> None:
        with catalog_of(ScriptedProvider(), is_free=False, price=a_price(MODEL)):
            reply = await self.astart()
        dearer = Rates(**{name: 3 * rate for name, rate in asdict(RATES).items()})
        changed = replace(a_price(MODEL), rates=dearer)
        with catalog_of(ScriptedProvider(["Hi", SILENT]), is_free=False, price=changed):
            async with web_process():
                await self.finished(reply)
        (line,) = await self.lines()
        self.assertEqual(line.charged, line.input_tokens * INPUT + line.output_tokens * OUTPUT)

    async def test_a_call_that_may_not_have_been_begun_is_charged_by_its_hold(self) -> None:
        self.priced(ScriptedProvider())
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claim, attempt_id, _ = await self.begun(store, await self.astart())
            await self.end(store, claim, attempt_id, Usage(input_tokens=11), None)
        (line,) = await self.lines()
        self.assertEqual((line.kind, line.charged), ("settled", 11 * INPUT))

    async def test_a_call_that_cost_more_than_was_held_is_charged_in_full_and_counted(self) -> None:
        self.priced(ScriptedProvider())
        counted = HOLD_UNDERESTIMATES.labels("reply")
        before = counted._value.get()
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claim, attempt_id, begun = await self.begun(store, await self.astart())
            more = Usage(input_tokens=11, output_tokens=begun.max_tokens + 1_000)
            await self.end(store, claim, attempt_id, more, begun.price)
        (line,) = await self.lines()
        self.assertEqual(line.charged, 11 * INPUT + more.output_tokens * OUTPUT)
        self.assertTrue(line.is_underestimate)
        self.assertEqual(counted._value.get() - before, 1)

    async def test_a_hold_does_not_end_with_a_reply_that_is_taken_for_a_free_one(self) -> None:
        self.priced(ScriptedProvider())
        async with make_pool() as pool:
            store = ReplyStore(pool)
            claim, attempt_id, _ = await self.begun(store, await self.astart())
            with self.assertRaises(IntegrityError):
                await self.end(store, claim, attempt_id, Usage(input_tokens=11), free_price(MODEL))
        reply = await Reply.objects.aget(pk=claim.reply_id)
        self.assertEqual(
            (reply.state, (await Hold.objects.aget()).state), (ReplyState.RUNNING, Hold.State.HELD)
        )
