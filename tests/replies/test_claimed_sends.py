"""A send claims its reply for the process that serves it: the same claim as any process would make afterwards."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from threading import Event, Thread
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import psycopg
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.utils import timezone

from conversations.budgets import set_user_limit
from conversations.context.plan import DoesNotFit
from conversations.database import connection_arguments
from conversations.llm.scripted import Cut, ScriptedProvider
from conversations.models import Conversation, Reply, ReplyState
from conversations.replies import runtime, sending
from conversations.replies.claims import FIRST_LEASE, Claimed
from conversations.replies.context import Requests
from conversations.replies.runtime import ReplyRuntime
from conversations.replies.sending import continue_reply, retry_reply
from tests.prices.cheap import RATES, a_price

from .harness import DEADLINE, catalog_of, web_process
from .test_context import remember, sum_up
from .turns import SMALL, TurnsTestCase, dialogue

LONG = "Nothing of weight was said here, and nobody would look for it again. " * 4


class ClaimedSendsTests(TurnsTestCase):
    async def test_a_send_claims_what_a_process_would_claim_afterwards(self) -> None:
        conversation = await sync_to_async(self.conversation)(system_prompt="Be brief.")
        small = await sync_to_async(self.conversation)(SMALL, reply_tokens=99, temperature=0.2)
        dated = await sync_to_async(self.conversation)(
            {"slug": "dated", "name": "D", "strategy": "importance"}
        )
        short = await sync_to_async(dialogue)(conversation, "One?", "Two.")
        await sync_to_async(dialogue)(dated, "One?", "Two.", "Three?", "Four.")
        said = await sync_to_async(dialogue)(small, *(f"{number}. {LONG}" for number in range(20)))
        cut: dict[str, Any] = {
            "first_message_id": str(said[16].pk),
            "inserts": [],
            "memory": [],
            "summary_id": None,
        }
        await Conversation.objects.filter(pk=small.pk).aupdate(cut=cut, cut_at=timezone.now())
        provider = ScriptedProvider(["Here it ends", Cut()])
        with catalog_of(provider, is_free=False, price=a_price()):
            async with web_process() as process:
                ended = await self.finished(await self.astart("Who is it?"))
                await self.check(process, lambda: self.start("And who are you?"))
                await self.check(process, lambda: self.send(conversation, "Three?"))
                await self.check(
                    process, lambda: self.send(conversation, "Two?", leaf_id=short[0].pk, place="branch")
                )
                await self.check(
                    process, lambda: self.send(conversation, "None?", leaf_id=None, place="branch")
                )
                await self.check(process, lambda: self.send(dated, "Five?"))
                await self.check(process, lambda: self.send(small, "What was it?"))
                await self.check(process, lambda: retry_reply(ended, key=uuid4()))
                await self.check(process, lambda: continue_reply(ended, key=uuid4()))
                await sync_to_async(remember)(self.alice, "She keeps bees.")
                await sync_to_async(remember)(self.alice, "No Python.", conversation=small, source=said[2])
                await sync_to_async(sum_up)(small, said[9], "They counted.")
                await self.check(process, lambda: self.start("Which animals do I keep?"))
                await self.check(process, lambda: self.send(small, "Do I keep bees?"))
                await self.check(
                    process, lambda: self.send(small, "And now?", leaf_id=said[5].pk, place="branch")
                )

    async def check(self, process: ReplyRuntime, send: Any) -> None:
        taken, again = await self.claims(process, send)
        self.assertEqual(again.claim, replace(taken.claim, epoch=2))
        ages = {"cut_age": None}
        self.assertEqual(self.undated(again, **ages), self.undated(taken, **ages))

    async def claims(self, process: ReplyRuntime, send: Any) -> tuple[Claimed, Claimed]:
        """The claim of a send, and that of a process which finds its reply afterwards."""
        taken: list[Claimed] = []
        with (
            mock.patch.object(process, "wake", lambda _, made: taken.append(Claimed(made.claim, made.known))),
            mock.patch.object(process, "_start"),  # its sweeper finds what is queued, too
        ):
            reply: Reply = await sync_to_async(send)()
            self.assertEqual((reply.state, reply.epoch, reply.runner), (ReplyState.RUNNING, 1, process.name))
            stored = await Reply.objects.aget(pk=reply.pk)
            assert stored.lease_expires_at is not None and stored.started_at is not None
            self.assertEqual(
                (stored.state, stored.epoch, stored.runner), (ReplyState.RUNNING, 1, process.name)
            )
            # A process that dies before the first checkpoint is soon replaced.
            lease = stored.lease_expires_at - stored.started_at
            self.assertEqual(lease, timedelta(seconds=FIRST_LEASE))
            await Reply.objects.filter(pk=reply.pk).aupdate(state=ReplyState.QUEUED)
            again = await process.store.claim(reply.pk, process.name)
            assert again is not None
            await Reply.objects.filter(pk=reply.pk).aupdate(state=ReplyState.STOPPED)
        return taken[0], again

    async def test_a_branch_is_read_no_further_up_for_where_the_request_of_another_began(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)
        said = await sync_to_async(dialogue)(conversation, *(f"{number}. {LONG}" for number in range(44)))
        cut: dict[str, Any] = {
            "first_message_id": str(said[42].pk),
            "inserts": [],
            "memory": [],
            "summary_id": None,
        }
        await Conversation.objects.filter(pk=conversation.pk).aupdate(cut=cut, cut_at=timezone.now())
        with catalog_of(ScriptedProvider()):
            async with web_process() as process:
                taken, again = await self.claims(
                    process, lambda: self.send(conversation, "Or?", leaf_id=said[39].pk, place="branch")
                )
        self.assertEqual(taken.known.path_messages, 41)
        self.assertEqual(len(taken.known.history), len(again.known.history))
        self.assertLess(len(taken.known.history), 30)

    def undated(self, claimed: Claimed, **values: Any) -> Any:
        """Times are asked for by one strategy only: what else has them has them for nothing."""
        known = claimed.known
        if claimed.claim.preset.strategy != "importance":
            values["history"] = [said._replace(created_at=None) for said in known.history]
        return replace(known, **values)

    async def test_a_send_in_a_process_that_ends_is_left_to_another(self) -> None:
        with catalog_of(ScriptedProvider(["Whole."])):
            async with web_process() as process:
                process._is_draining = True
                waiting = await self.astart()
                self.assertEqual((waiting.state, waiting.epoch), (ReplyState.QUEUED, 0))
                process._is_draining = False
                with mock.patch.object(process, "wake"):
                    taken = await self.astart()
                claimed = await process.store.claim(waiting.pk, process.name)
                assert claimed is not None
                requests = process.prepare(claimed)
                process._is_draining = True
                process._start(waiting.pk, requests)  # told to end between the commit and the beginning
                await self.until_given_back(waiting)
                await Reply.objects.filter(pk=taken.pk).aupdate(state=ReplyState.QUEUED)
            async with web_process():
                for reply in (waiting, taken):
                    self.assertEqual((await self.finished(reply)).state, ReplyState.COMPLETE)

    async def test_a_request_is_planned_while_its_send_is_committed_and_once(self) -> None:
        planned: list[str] = []
        begin = Requests._begun

        def counted(requests: Requests, *how: Any) -> Any:
            planned.append("planned")
            return begin(requests, *how)

        def send() -> Reply:
            with transaction.atomic():
                reply = self.start()
                time.sleep(0.2)
                planned.append("committed")
            return reply

        provider = ScriptedProvider(["Whole."])
        with catalog_of(provider), mock.patch.object(Requests, "_begun", counted):
            async with web_process():
                reply = await self.finished(await sync_to_async(send)())
        self.assertEqual((planned, reply.state), (["planned", "committed"], "complete"))
        self.assertEqual([message.content for message in provider.requests[0].messages], ["Hello?"])

    async def test_what_cannot_be_planned_ahead_is_planned_when_it_is_asked_for(self) -> None:
        for error in (LookupError("a bug"), DoesNotFit()):
            with (
                catalog_of(ScriptedProvider(["Whole."])),
                mock.patch.object(Requests, "plan_ahead", side_effect=error),
            ):
                async with web_process():
                    with self.assertNoLogs("asyncio"):
                        reply = await self.finished(await self.astart())
            self.assertEqual(reply.state, ReplyState.COMPLETE)

    async def test_a_send_that_is_taken_back_asks_nobody(self) -> None:
        provider = ScriptedProvider(["Whole."])

        def send() -> None:
            with transaction.atomic():
                self.start()
                time.sleep(0.05)
                transaction.set_rollback(True)

        with catalog_of(provider):
            async with web_process() as process:
                await sync_to_async(send)()
                await process.sweep()
                await asyncio.sleep(0.1)
                self.assertEqual((process.running, process._tasks, provider.requests), ({}, {}, []))
        self.assertFalse(await Reply.objects.aexists())

    async def test_a_send_goes_on_once_its_reply_is_about_to_be_asked_for(self) -> None:
        with catalog_of(ScriptedProvider()), mock.patch.object(runtime, "HEAD_START", DEADLINE):
            async with web_process():
                async with asyncio.timeout(DEADLINE / 2):
                    reply = await self.astart()
                await self.finished(reply)

    async def test_until_then_the_thread_of_a_send_leaves_the_interpreter_to_the_event_loop(self) -> None:
        order: list[str] = []

        def begin(_: UUID, requests: Requests | None, begun: Event) -> None:
            order.append("reply")
            asyncio.get_running_loop().call_later(0.02, begun.set)
            asyncio.get_running_loop().call_later(0.01, order.append, "still")

        def send(process: ReplyRuntime) -> None:
            process.wake(uuid4())
            order.append("send")

        with mock.patch.object(runtime, "HEAD_START", DEADLINE):
            async with web_process() as process:
                with mock.patch.object(process, "_start", begin):
                    await sync_to_async(send)(process)
        self.assertEqual(order, ["reply", "still", "send"])

    async def until_given_back(self, reply: Reply) -> None:
        async with asyncio.timeout(DEADLINE):
            while not await Reply.objects.filter(pk=reply.pk, state=ReplyState.QUEUED).aexists():
                await asyncio.sleep(0.01)

    async def test_a_send_that_has_waited_is_claimed_from_when_it_is_saved(self) -> None:
        def send_late() -> Reply:
            with transaction.atomic():
                Reply.objects.exists()  # the transaction has begun
                return self.start()

        with catalog_of(ScriptedProvider()):
            async with web_process() as process:
                with mock.patch.object(process, "wake"):
                    reply = await sync_to_async(send_late)()
        stored = await Reply.objects.aget(pk=reply.pk)
        assert stored.started_at is not None
        self.assertGreaterEqual(stored.started_at, stored.created_at)

    async def test_a_preset_that_is_changed_while_a_message_is_sent_is_not_cut_by_its_reply(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)

        def change(*_: object) -> ReplyState:
            Conversation.objects.filter(pk=conversation.pk).update(preset={**SMALL, "high_water": 900})
            return ReplyState.RUNNING

        with catalog_of(ScriptedProvider()), mock.patch.object(sending, "_turn", change):
            async with web_process() as process:
                taken, again = await self.claims(process, lambda: self.send(conversation, "Hello?"))
        self.assertEqual((taken.claim.preset.high_water, again.claim.preset.high_water), (600, 900))
        self.assertNotEqual(taken.claim.preset_digest, again.claim.preset_digest)

    async def test_a_send_that_is_shortened_to_its_budget_claims_the_shorter_answer(self) -> None:
        await sync_to_async(set_user_limit)(self.alice, 400 * RATES.output // 1_000_000)
        with catalog_of(ScriptedProvider(), is_free=False, price=a_price()):
            async with web_process() as process:
                taken, again = await self.claims(process, self.start)
        self.assertLess(taken.claim.max_tokens, 400)
        self.assertEqual(taken.claim.max_tokens, again.claim.max_tokens)

    async def test_a_claimed_send_whose_process_dies_at_once_is_answered_by_another(self) -> None:
        provider = ScriptedProvider(["Late but whole."])
        with catalog_of(provider):
            async with web_process() as process:
                with mock.patch.object(process, "wake"):
                    reply = await self.astart()
            late = timezone.now() - timedelta(seconds=1)
            await Reply.objects.filter(pk=reply.pk).aupdate(lease_expires_at=late)
            async with web_process() as other:
                await other.reap()
                await other.sweep()
                reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertEqual((reply.state, reply.epoch, reply.answer.content), ("complete", 3, "Late but whole."))
        self.assertEqual(len(provider.requests), 1)

    async def test_what_a_message_states_is_told_in_its_own_request(self) -> None:
        provider = ScriptedProvider(["Gerne."])
        with catalog_of(provider):
            async with web_process():
                await self.finished(await self.astart("Always answer in German. What is two and two?"))
        [request] = provider.requests
        self.assertIn("Always answer in German", request.messages[0].content)
        self.assertEqual(request.messages[0].role, "system")

    def test_a_send_that_waits_for_its_conversation_keeps_nobody_from_the_budget(self) -> None:
        """What it locks of the money is locked last: two movements that lock in other orders would wait for ever."""
        conversation = self.conversation()
        dialogue(conversation, "One?", "Two.")

        def send() -> None:
            try:
                self.send(conversation, "Three?")
            finally:
                connections.close_all()

        with catalog_of(ScriptedProvider(), is_free=False, price=a_price()):
            self.start()  # the person's day is open
            with psycopg.connect(**connection_arguments()) as other:
                other.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", [conversation.pk])
                sending = Thread(target=send)
                sending.start()
                self.wait_for_a_lock(other)
                other.execute("SELECT FROM budgets FOR UPDATE NOWAIT")
            sending.join(10)
        self.assertEqual(Reply.objects.filter(question__content="Three?").count(), 1)

    def wait_for_a_lock(self, connection: psycopg.Connection[Any]) -> None:
        """Until somebody waits for what this connection has locked."""
        # Not `pg_stat_activity`: a transaction goes on seeing the backends that were there at its first look.
        waiting = "SELECT FROM pg_locks WHERE NOT granted AND %s = ANY (pg_blocking_pids(pid))"
        end = time.monotonic() + 10
        while connection.execute(waiting, [connection.info.backend_pid]).fetchone() is None:
            assert time.monotonic() < end, "nobody waits"
            time.sleep(0.01)
