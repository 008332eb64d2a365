"""The life of a reply: each end it can come to, and what is kept."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from datetime import timedelta
from unittest import mock
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.test import override_settings
from django.utils import timezone

from conversations.context.layout import Piece
from conversations.context.plan import ContextPlan
from conversations.journal import Entry
from conversations.llm.errors import AuthenticationFailed
from conversations.llm.scripted import Cut, Endless, Pause, ScriptedProvider
from conversations.llm.types import ReasoningDelta
from conversations.models import Conversation, Message, Reply, ReplyAttempt, ReplyState
from conversations.replies.claims import Said
from conversations.replies.runtime import ReplyRuntime
from conversations.replies.sending import keep_reply, retry_reply, stop_reply

from .harness import ReplyTestCase, catalog_of, until, watch, web_process


class EndsTests(ReplyTestCase):
    async def test_a_reply_completes_and_becomes_the_leaf(self) -> None:
        provider = ScriptedProvider([ReasoningDelta(text="Let me see."), "Hello", " Alice."])
        with catalog_of(provider):
            async with web_process():
                reply = await self.finished(await self.astart("Who am I?"))
        self.assertEqual(reply.state, ReplyState.COMPLETE)
        assert reply.answer is not None
        self.assertEqual((reply.answer.content, reply.answer.reasoning), ("Hello Alice.", "Let me see."))
        self.assertEqual(reply.conversation.leaf_id, reply.answer_id)
        self.assertEqual((reply.text, reply.lease_expires_at), ("", None))
        self.assertGreater(reply.answer.token_count, 0)
        attempt = await ReplyAttempt.objects.aget(reply=reply)
        self.assertEqual((attempt.state, attempt.number, attempt.finish_reason), ("complete", 1, "stop"))
        self.assertEqual(attempt.manifest["first_message_id"], str(reply.question_id))
        self.assertEqual([m.content for m in provider.requests[0].messages], ["Who am I?"])

    async def test_stop_closes_the_provider_and_keeps_the_text(self) -> None:
        provider = ScriptedProvider(["First. ", Endless()])
        with catalog_of(provider):
            async with web_process() as process:
                reply = await self.astart()
                await until(lambda: _has_text(process, reply))
                await sync_to_async(stop_reply)(reply)
                reply = await self.finished(reply)
        self.assertEqual(reply.state, ReplyState.STOPPED)
        assert reply.answer is not None
        self.assertTrue(reply.answer.content.startswith("First. "))
        self.assertFalse(reply.answer.is_set_aside)
        self.assertEqual((provider.open_streams, provider.closed_early), (0, 1))

    async def test_a_reply_that_ends_takes_nobody_away_from_another_branch(self) -> None:
        with catalog_of(ScriptedProvider(["First. ", Endless()])):
            async with web_process() as process:
                reply = await self.astart()
                await until(lambda: _has_text(process, reply))
                elsewhere = await Message.objects.acreate(
                    conversation_id=reply.conversation_id, role="user", content="Or rather?"
                )
                await Conversation.objects.filter(pk=reply.conversation_id).aupdate(leaf=elsewhere)
                await sync_to_async(stop_reply)(reply)
                reply = await self.finished(reply)
        self.assertIsNotNone(reply.answer_id)
        conversation = await Conversation.objects.aget(pk=reply.conversation_id)
        self.assertEqual(conversation.leaf_id, elsewhere.pk)

    async def test_a_queued_reply_can_be_stopped_and_never_runs(self) -> None:
        provider = ScriptedProvider()
        with catalog_of(provider):
            reply = await self.astart()
            await sync_to_async(stop_reply)(reply)
            async with web_process() as process:
                await process.sweep()
                reply = await self.finished(reply)
        self.assertEqual((reply.state, provider.requests), (ReplyState.STOPPED, []))

    async def test_a_stop_that_comes_after_the_end_changes_nothing(self) -> None:
        with catalog_of(ScriptedProvider()):
            async with web_process():
                reply = await self.finished(await self.astart())
                await sync_to_async(stop_reply)(reply)
        await reply.arefresh_from_db()
        self.assertEqual((reply.state, reply.stop_requested_at), (ReplyState.COMPLETE, None))

    async def test_a_refusal_before_any_text_fails_and_can_be_retried(self) -> None:
        provider = ScriptedProvider([AuthenticationFailed("wrong key")], ["Better."])
        with catalog_of(provider):
            async with web_process():
                reply = await self.finished(await self.astart())
                self.assertEqual((reply.state, reply.error_code), (ReplyState.FAILED, "AuthenticationFailed"))
                self.assertIsNone(reply.answer)
                again = await sync_to_async(retry_reply)(reply, key=uuid4())
                again = await self.finished(again)
        assert again.answer is not None
        self.assertEqual((again.question_id, again.answer.content), (reply.question_id, "Better."))
        self.assertEqual(await Message.objects.filter(role="user").acount(), 1)

    async def test_an_empty_answer_is_a_failure(self) -> None:
        with catalog_of(ScriptedProvider([])):
            async with web_process():
                reply = await self.finished(await self.astart())
        self.assertEqual((reply.state, reply.error_code), (ReplyState.FAILED, "EmptyReply"))

    async def test_an_unexpected_error_names_no_prompt_in_the_log(self) -> None:
        def explode(_: object) -> list[str]:
            raise RuntimeError("the prompt is: my secret question")

        with catalog_of(ScriptedProvider(explode)), self.assertLogs("conversations", "ERROR") as logs:
            async with web_process():
                reply = await self.finished(await self.astart("my secret question"))
        self.assertEqual((reply.state, reply.error_code), (ReplyState.FAILED, "InternalError"))
        self.assertNotIn("secret", "".join(logs.output) + reply.error_detail)


class CutTests(ReplyTestCase):
    async def test_a_cut_text_is_kept_but_shown_to_no_model_until_its_owner_keeps_it(self) -> None:
        provider = ScriptedProvider(["Half an ans", Cut()], ["Second."], ["Third."])
        with catalog_of(provider):
            async with web_process():
                cut = await self.finished(await self.astart("One?"))
                self.assertEqual((cut.state, cut.error_code), (ReplyState.INTERRUPTED, "StreamInterrupted"))
                assert cut.answer is not None
                self.assertEqual((cut.answer.content, cut.answer.is_set_aside), ("Half an ans", True))

                second = await self.finished(await self.asend(cut.conversation, "Two?"))
                self.assertEqual([m.content for m in provider.requests[1].messages], ["One?\n\nTwo?"])

                await sync_to_async(keep_reply)(cut)
                await self.finished(await self.asend(second.conversation, "Three?"))
        self.assertEqual(
            [m.content for m in provider.requests[2].messages],
            ["One?", "Half an ans", "Two?", "Second.", "Three?"],
        )


class DeadProcessTests(ReplyTestCase):
    async def test_the_text_of_a_dead_process_is_taken_from_the_journal(self) -> None:
        provider = ScriptedProvider(
            ["Seen by a viewer: 🙂 ", Pause(seconds=0.2), "and this.", Endless(text="")]
        )
        with catalog_of(provider):
            async with web_process() as dying:
                reply = await self.astart()
                await until(lambda: _has_text(dying, reply, "and this."))
                # The checkpoint is older than the journal, as it is when a process is killed.
                await Reply.objects.filter(pk=reply.pk).aupdate(
                    text="Seen by",
                    journal_position="",
                    lease_expires_at=timezone.now() - timedelta(seconds=1),
                )
                async with web_process() as other:
                    await other.reap()
                    reply = await self.finished(reply)
                await until(lambda: _forgotten(dying, reply))
        self.assertEqual((reply.state, reply.error_code), (ReplyState.INTERRUPTED, "ProcessDied"))
        assert reply.answer is not None
        self.assertEqual(reply.answer.content, "Seen by a viewer: 🙂 and this.")
        self.assertEqual(len(provider.requests), 1)
        attempt = await ReplyAttempt.objects.aget(reply=reply)
        self.assertEqual(attempt.state, "interrupted")

    async def test_where_there_is_one_web_process_the_next_one_waits_for_no_lease(self) -> None:
        with catalog_of(ScriptedProvider()):
            reply = await self.astart()
            await Reply.objects.filter(pk=reply.pk).aupdate(
                state=ReplyState.RUNNING,
                epoch=1,
                runner="killed",
                lease_expires_at=timezone.now() + timedelta(seconds=30),
            )
            async with web_process() as one_of_several:
                await one_of_several.reap()
                self.assertEqual((await Reply.objects.aget(pk=reply.pk)).state, ReplyState.RUNNING)
            with override_settings(ONLY_WEB_PROCESS=True):
                async with web_process():
                    reply = await self.finished(reply)
        self.assertEqual(reply.state, ReplyState.COMPLETE)

    async def test_a_fenced_runner_stops_its_provider_and_writes_nothing(self) -> None:
        provider = ScriptedProvider(["Mine ", Endless()])
        with catalog_of(provider):
            async with web_process() as old:
                reply = await self.astart()
                await until(lambda: _has_text(old, reply))
                await Reply.objects.filter(pk=reply.pk).aupdate(epoch=99)
                await old.checkpoint()
                await until(lambda: _forgotten(old, reply))
        await reply.arefresh_from_db()
        self.assertEqual((reply.state, reply.epoch), (ReplyState.RUNNING, 99))
        self.assertEqual(provider.open_streams, 0)
        self.assertFalse(await Message.objects.filter(role="assistant").aexists())

    async def test_a_reply_whose_provider_was_never_called_is_queued_again_and_answered(self) -> None:
        provider = ScriptedProvider(["Late but whole."])
        with catalog_of(provider):
            reply = await self.astart()
            await Reply.objects.filter(pk=reply.pk).aupdate(
                state=ReplyState.RUNNING,
                epoch=1,
                runner="dead",
                lease_expires_at=timezone.now() - timedelta(seconds=1),
            )
            async with web_process() as process:
                await process.reap()
                await process.sweep()
                reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertEqual((reply.state, reply.answer.content), (ReplyState.COMPLETE, "Late but whole."))

    async def test_a_process_that_is_told_to_stop_keeps_the_text(self) -> None:
        provider = ScriptedProvider(["Begun ", Endless()])
        with catalog_of(provider):
            async with web_process() as process:
                reply = await self.astart()
                await until(lambda: _has_text(process, reply))
                await process.drain(grace=0.1)
                refused = await self.astart("Another?")
                await process.sweep()
                self.assertEqual((await Reply.objects.aget(pk=refused.pk)).state, ReplyState.QUEUED)
            reply = await self.finished(reply)
            async with web_process():
                refused = await self.finished_or_running(refused)
        self.assertEqual((reply.state, reply.error_code), (ReplyState.INTERRUPTED, "ProcessStopped"))
        assert reply.answer is not None
        self.assertTrue(reply.answer.content.startswith("Begun "))

    async def finished_or_running(self, reply: Reply) -> Reply:
        async def started() -> bool:
            return (await Reply.objects.aget(pk=reply.pk)).state != ReplyState.QUEUED

        await until(started)
        return reply


class ViewerTests(ReplyTestCase):
    async def test_every_viewer_sees_the_same_text_wherever_and_whenever_it_comes(self) -> None:
        words = [f"word{n} 🙂 " if n % 7 else f"end{n}.\n\n" for n in range(60)]
        script = [step for word in words for step in (word, Pause(seconds=0.01))]
        with catalog_of(ScriptedProvider(script)):
            async with web_process() as first, web_process() as second:
                reply = await self.astart()
                watching = [asyncio.create_task(watch(first, reply.pk))]
                for process in (second, first, second, second, first):
                    await asyncio.sleep(0.08)
                    watching.append(asyncio.create_task(watch(process, reply.pk)))
                seen = await asyncio.gather(*watching)
                reply = await self.finished(reply)
        self.assertEqual(len(set(seen)), 1)
        html, open_text = seen[0]
        self.assertTrue(open_text.startswith("word57"))
        for word in ("word1 🙂", "end0.", "end49."):
            self.assertIn(word, html)
        assert reply.answer is not None
        self.assertEqual(reply.answer.content, "".join(words))

    async def test_closing_every_tab_changes_nothing(self) -> None:
        with catalog_of(ScriptedProvider(["a ", Pause(seconds=0.3), "b"])):
            async with web_process() as process:
                replies = [await self.astart(f"Question {n}") for n in range(10)]
                tabs = [asyncio.create_task(watch(process, reply.pk)) for reply in replies]
                await asyncio.sleep(0.1)
                for tab in tabs:
                    tab.cancel()
                await asyncio.gather(*tabs, return_exceptions=True)
                ended = [await self.finished(reply) for reply in replies]
                await until(lambda: _is_empty(process))
        self.assertEqual({reply.state for reply in ended}, {ReplyState.COMPLETE})
        self.assertEqual({reply.answer.content for reply in ended if reply.answer}, {"a b"})

    async def test_the_last_words_come_before_the_end_although_the_database_knows_of_it_first(self) -> None:
        held: list[Entry] = []
        with catalog_of(ScriptedProvider(["first ", Pause(seconds=0.2), "last"])):
            async with web_process() as process:
                append = process.writer.append

                def hold_the_end(entry: Entry, *, at_once: bool = False) -> None:
                    if entry.text == "first ":
                        append(entry, at_once=at_once)
                    else:
                        held.append(entry)

                with mock.patch.object(process.writer, "append", hold_the_end):
                    reply = await self.astart()
                    watching = asyncio.create_task(watch(process, reply.pk))
                    await self.finished(reply)
                    await until(lambda: _is_not_running(process, reply))
                    await process._look_after_followed()
                for entry in held:
                    append(entry, at_once=True)
                _, text = await watching
        self.assertEqual(text, "first last")

    async def test_a_running_reply_does_not_keep_the_request_that_sent_it(self) -> None:
        class Request:
            pass

        current: contextvars.ContextVar[Request] = contextvars.ContextVar("request")
        request = Request()
        kept = weakref.ref(request)
        with catalog_of(ScriptedProvider(["Begun ", Endless()])):
            async with web_process() as process:
                with mock.patch.object(process.store, "queued", return_value=[]):  # the sweep leaves it alone
                    reply = await self.astart()

                    def send(request: Request) -> None:
                        current.set(request)
                        process.wake(reply.pk)

                    contextvars.Context().run(send, request)
                    del request
                    await until(lambda: _is_running(process, reply))
                gc.collect()
                self.assertIsNone(kept())

    async def test_a_running_reply_keeps_neither_its_plan_nor_what_was_claimed_with_it(self) -> None:
        left_behind = Said, ContextPlan, Piece, threading.Event

        def found() -> set[int]:
            gc.collect()
            return {id(each) for each in gc.get_objects() if isinstance(each, left_behind)}

        with catalog_of(ScriptedProvider(["Begun ", Endless()])):
            async with web_process() as process:
                before = found()
                reply = await self.astart()  # claimed for this process
                await until(lambda: _has_text(process, reply))
                self.assertLessEqual(found(), before)

    async def test_a_viewer_of_a_queued_reply_sees_it_begin(self) -> None:
        with catalog_of(ScriptedProvider(["Begun and ended."])):
            reply = await self.astart()
            async with web_process() as process:
                _, text = await watch(process, reply.pk)
        self.assertEqual(text, "Begun and ended.")


class RedisAwayTests(ReplyTestCase):
    async def test_without_redis_a_reply_is_written_seen_and_saved(self) -> None:
        with (
            override_settings(REDIS_URL="redis://127.0.0.1:1/0"),
            catalog_of(ScriptedProvider(["One ", Pause(seconds=0.2), "two."])),
        ):
            async with web_process() as process:
                reply = await self.astart()
                _, seen = await watch(process, reply.pk)
                reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertEqual((reply.state, reply.answer.content, seen), ("complete", "One two.", "One two."))

    async def test_without_redis_a_viewer_elsewhere_sees_it_by_the_checkpoints(self) -> None:
        script = [step for n in range(8) for step in (f"{n} ", Pause(seconds=0.3))]
        with override_settings(REDIS_URL="redis://127.0.0.1:1/0"), catalog_of(ScriptedProvider(script)):
            async with web_process() as running:
                reply = await self.astart()
                await until(lambda: _has_text(running, reply))
                async with web_process() as viewing:  # only now, or its first sweep may take the reply
                    _, seen = await watch(viewing, reply.pk)
                reply = await self.finished(reply)
        assert reply.answer is not None
        self.assertTrue(reply.answer.content.startswith(seen) and seen, seen)


async def _has_text(process: ReplyRuntime, reply: Reply, text: str = "") -> bool:
    """Whether a viewer could have seen it: journalled, and not only received."""
    live = process.live.get(reply.pk)
    return live is not None and live.at > 0 and text in "".join(live.pieces)


async def _is_empty(process: ReplyRuntime) -> bool:
    return process.live.all() == []


async def _forgotten(process: ReplyRuntime, reply: Reply) -> bool:
    return reply.pk not in process.running


async def _is_running(process: ReplyRuntime, reply: Reply) -> bool:
    return reply.pk in process.running


async def _is_not_running(process: ReplyRuntime, reply: Reply) -> bool:
    return reply.pk not in process.running
