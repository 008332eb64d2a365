"""What a reply does when its provider does not answer, and what waits behind it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from unittest import mock
from uuid import uuid4

from asgiref.sync import sync_to_async
from psycopg_pool import PoolTimeout

from conversations.catalog import Catalog, ModelEntry
from conversations.context.plan import GO_ON
from conversations.gate import retries
from conversations.llm.errors import (
    AuthenticationFailed,
    ContextLengthExceeded,
    Overloaded,
    RateLimited,
    TimedOut,
)
from conversations.llm.scripted import Cut, Endless, Pause, ScriptedProvider
from conversations.models import Message, Reply, ReplyAttempt, ReplyState, User
from conversations.providers import replaced
from conversations.replies import sending, status
from conversations.replies.live import Snapshot
from conversations.replies.runtime import ReplyRuntime
from conversations.replies.sending import continue_reply, stop_reply

from .harness import DEADLINE, ReplyTestCase, catalog_of, until, watch, web_process


async def attempts_of(reply: Reply) -> list[tuple[str, str, str]]:
    rows = ReplyAttempt.objects.filter(reply=reply).order_by("number")
    return [(row.model, row.state, row.error_code) async for row in rows]


class RetryTests(ReplyTestCase):
    def setUp(self) -> None:
        super().setUp()
        # The delays before another try are tested with the gate.
        self.enterContext(mock.patch.object(retries, "LONGEST_DELAY", 0.01))

    async def test_a_busy_provider_is_asked_three_times_each_an_attempt_of_its_own(self) -> None:
        provider = ScriptedProvider(
            [Overloaded("busy")], [RateLimited("slow", retry_after=0.01)], ["At last."]
        )
        with catalog_of(provider):
            async with web_process():
                reply = await self.finished(await self.astart())
        assert reply.answer is not None
        self.assertEqual((reply.state, reply.answer.content), (ReplyState.COMPLETE, "At last."))
        self.assertEqual(
            await attempts_of(reply),
            [
                ("scripted/model", "failed", "Overloaded"),
                ("scripted/model", "failed", "RateLimited"),
                ("scripted/model", "complete", ""),
            ],
        )

    async def test_after_three_tries_it_fails_and_says_so(self) -> None:
        provider = ScriptedProvider([Overloaded("busy")])
        with catalog_of(provider):
            async with web_process():
                reply = await self.finished(await self.astart())
        self.assertEqual((reply.state, reply.error_code, len(provider.requests)), ("failed", "Overloaded", 3))

    async def test_a_wrong_key_and_a_long_wait_are_not_tried_again(self) -> None:
        for error in (AuthenticationFailed("no"), RateLimited("later", retry_after=3600)):
            provider = ScriptedProvider([error])
            with catalog_of(provider):
                async with web_process():
                    reply = await self.finished(await self.astart())
            self.assertEqual((reply.state, len(provider.requests)), (ReplyState.FAILED, 1))

    async def test_after_the_first_word_a_failure_is_a_cut(self) -> None:
        provider = ScriptedProvider(["A word", Overloaded("busy")], ["never asked"])
        with catalog_of(provider):
            async with web_process():
                reply = await self.finished(await self.astart())
        self.assertEqual((reply.state, len(provider.requests)), (ReplyState.INTERRUPTED, 1))

    async def test_a_stop_ends_the_wait_for_another_try(self) -> None:
        provider = ScriptedProvider([RateLimited("slow", retry_after=30)])
        with catalog_of(provider):
            async with web_process():
                reply = await self.astart()
                await until(lambda: _has_failed_once(reply))
                await sync_to_async(stop_reply)(reply)
                reply = await self.finished(reply)
        self.assertEqual((reply.state, len(provider.requests)), (ReplyState.STOPPED, 1))

    async def test_a_request_that_was_too_long_is_planned_again_smaller_once(self) -> None:
        provider = ScriptedProvider([ContextLengthExceeded("too long")])
        with catalog_of(provider, context_window=2_000):
            async with web_process():
                reply = await self.finished(await self.astart("word " * 1_200))
        first, second = (len(request.messages[-1].content) for request in provider.requests)
        self.assertLess(second, first)
        self.assertEqual((reply.state, reply.error_code), (ReplyState.FAILED, "ContextLengthExceeded"))


class StatusTests(ReplyTestCase):
    """A reply that is being tried again says so to all who watch it."""

    async def test_every_viewer_reads_what_is_done_about_a_failure_until_text_comes(self) -> None:
        script = ScriptedProvider([Overloaded("busy", retry_after=2.5)], [Pause(seconds=0.5), "At last."])
        with catalog_of(script, provider_label="Example"):
            async with web_process() as first, web_process() as second:
                reply = await self.astart()
                early = [asyncio.create_task(told(process, reply)) for process in (first, second)]
                await asyncio.sleep(1.5)  # beyond the first checkpoint after the failure
                late = [asyncio.create_task(told(process, reply)) for process in (first, second)]
                seen = await asyncio.gather(*early, *late)
                await self.finished(reply)
        waiting = "Example is overloaded. Trying again in 3 s, second try."
        trying = "Example is overloaded. Trying again, second try."
        for statuses in seen:
            self.assertEqual([status for status in statuses if status], [waiting, trying])
            self.assertEqual(statuses[-1], "")
        for statuses in seen[2:]:
            self.assertIn(waiting, statuses[:2])

    def test_it_names_the_provider_and_gives_no_advice(self) -> None:
        with catalog_of(ScriptedProvider(), provider_label="Example") as catalog:
            entry = catalog.entries[0]
        other = replace(entry, label="Other")
        self.assertEqual(
            status.trying_again(RateLimited(), entry, seconds=0.2, number=3),
            "The model is busy. Trying again in 1 s, third try.",
        )
        self.assertEqual(
            status.asking_another(TimedOut(), entry, other),
            "Example did not answer in time. Asking Other instead.",
        )
        self.assertEqual(
            status.trying_with_less(ContextLengthExceeded(), entry),
            "The conversation is longer than the model can read. Trying again with less of it.",
        )


async def told(process: ReplyRuntime, reply: Reply) -> list[str]:
    """The status of each snapshot until the reply ends."""
    statuses = []
    async with asyncio.timeout(DEADLINE), process.viewing(reply.pk) as viewer:
        async for change in viewer.changes():
            if isinstance(change, Snapshot):
                statuses.append(change.status)
    return statuses


class DatabaseAwayTests(ReplyTestCase):
    async def test_a_reply_whose_statements_find_no_connection_waits_and_is_answered_once(self) -> None:
        provider = ScriptedProvider(["Late, and whole."])
        missed: list[str] = []

        def once_away(name: str, real: Any) -> Any:
            async def statement(*args: Any, **kwargs: Any) -> Any:
                if name not in missed:
                    missed.append(name)
                    raise PoolTimeout("no connection")
                return await real(*args, **kwargs)

            return statement

        with catalog_of(provider):
            async with web_process() as process:
                for name in ("begin_attempt", "finish"):
                    real = getattr(process.store, name)
                    self.enterContext(mock.patch.object(process.store, name, once_away(name, real)))
                reply = await self.finished(await self.astart())
        self.assertEqual(missed, ["begin_attempt", "finish"])
        self.assertEqual((reply.state, len(provider.requests)), (ReplyState.COMPLETE, 1))


class FallbackTests(ReplyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(mock.patch.object(retries, "LONGEST_DELAY", 0.01))
        self.broken = ScriptedProvider([Overloaded("busy")])
        self.other = ScriptedProvider(["From the other."])
        common: dict[str, Any] = {
            "provider_label": "Test",
            "label": "model",
            "dialect": "openai",
            "model_id": "model",
            "context_window": 32_000,
            "is_free": True,
            "max_output": 4_096,
        }
        entries = (
            ModelEntry(id="scripted/model", provider="scripted", **common),
            ModelEntry(id="other/model", provider="other", **common),
        )
        self.enterContext(replaced(Catalog(entries=entries), {"scripted": self.broken, "other": self.other}))

    async def test_the_fall_back_model_answers_when_the_person_allows_it(self) -> None:
        await User.objects.filter(pk=self.alice.pk).aupdate(fallback_model="other/model")
        async with web_process():
            reply = await self.finished(await self.astart())
        assert reply.answer is not None
        self.assertEqual((reply.answer.content, reply.answer.model_used), ("From the other.", "other/model"))
        self.assertEqual((await attempts_of(reply))[-1], ("other/model", "complete", ""))
        self.assertEqual(reply.model, "scripted/model")

    async def test_it_answers_at_once_while_the_first_is_left_alone(self) -> None:
        await User.objects.filter(pk=self.alice.pk).aupdate(fallback_model="other/model")
        async with web_process():
            for _ in range(3):
                reply = await self.finished(await self.astart())
        self.assertEqual(reply.state, ReplyState.COMPLETE)
        # Three tries of the first reply and two of the second opened the breaker.
        self.assertEqual(len(self.broken.requests), 5)

    async def test_without_that_it_does_not(self) -> None:
        async with web_process():
            reply = await self.finished(await self.astart())
        self.assertEqual((reply.state, self.other.requests), (ReplyState.FAILED, []))


class ContinueTests(ReplyTestCase):
    async def test_a_cut_reply_goes_on_from_its_text_and_stays_a_version(self) -> None:
        provider = ScriptedProvider(["Half an ans", Cut()], ["wer."])
        with catalog_of(provider):
            async with web_process() as process:
                cut = await self.finished(await self.astart())
                more = await sync_to_async(continue_reply)(cut, key=uuid4())
                html, text = await watch(process, more.pk)
                more = await self.finished(more)
        assert more.answer is not None and cut.answer is not None
        self.assertEqual((more.answer.content, html + text), ("Half an answer.", "Half an answer."))
        self.assertEqual(more.answer.parent_id, cut.answer.parent_id)
        self.assertEqual(more.conversation.leaf_id, more.answer_id)
        self.assertEqual(
            [(m.role, m.content) for m in provider.requests[1].messages],
            [("user", "Hello?"), ("assistant", "Half an ans"), ("user", GO_ON)],
        )

    async def test_a_continuation_that_fails_leaves_the_text_as_it_was(self) -> None:
        provider = ScriptedProvider(["Half", Cut()], [AuthenticationFailed("no")])
        with catalog_of(provider):
            async with web_process():
                cut = await self.finished(await self.astart())
                more = await self.finished(await sync_to_async(continue_reply)(cut, key=uuid4()))
        self.assertEqual((more.state, more.answer), (ReplyState.FAILED, None))
        self.assertEqual(await Message.objects.filter(role="assistant").acount(), 1)

    async def test_without_text_there_is_nothing_to_go_on_from(self) -> None:
        with catalog_of(ScriptedProvider([AuthenticationFailed("no")])):
            async with web_process():
                reply = await self.finished(await self.astart())
                with self.assertRaises(sending.NothingToContinue):
                    await sync_to_async(continue_reply)(reply, key=uuid4())


class WaitingTests(ReplyTestCase):
    async def test_messages_sent_while_a_reply_runs_are_answered_in_their_order(self) -> None:
        provider = ScriptedProvider(["One.", Pause(seconds=0.3)], ["Two."], ["Three."])
        with catalog_of(provider):
            async with web_process():
                first = await self.astart("First?")
                second = await self.asend(first.conversation, "Second?")
                third = await self.asend(first.conversation, "Third?")
                await until(lambda: _ended(third))
        contents = [message.content for message in provider.requests[2].messages]
        self.assertEqual(contents, ["First?", "One.", "Second?", "Two.", "Third?"])
        path = await sync_to_async(_path)(third)
        self.assertEqual(path, ["First?", "One.", "Second?", "Two.", "Third?", "Three."])
        del second

    async def test_what_waits_begins_when_the_reply_before_it_is_stopped(self) -> None:
        provider = ScriptedProvider(["One ", Endless()], ["Two."])
        with catalog_of(provider):
            async with web_process():
                first = await self.astart()
                second = await self.asend(first.conversation, "Second?")
                await until(lambda: _is_asked(provider))
                await sync_to_async(stop_reply)(first)
                await until(lambda: _ended(second))
        await second.arefresh_from_db()
        self.assertEqual(second.state, ReplyState.COMPLETE)

    async def test_more_than_three_replies_of_one_person_take_turns(self) -> None:
        most = 0

        def script(_: object) -> list[Any]:
            nonlocal most
            most = max(most, provider.open_streams)
            return ["Answer.", Pause(seconds=0.15)]

        provider = ScriptedProvider(script)
        with catalog_of(provider):
            async with web_process():
                replies = [await self.astart(f"Question {n}") for n in range(8)]
                for reply in replies:
                    await until(lambda reply=reply: _ended(reply))  # type: ignore[misc]
        self.assertEqual(await Reply.objects.filter(state=ReplyState.COMPLETE).acount(), 8)
        self.assertLessEqual(most, 3)


async def _has_failed_once(reply: Reply) -> bool:
    return await ReplyAttempt.objects.filter(reply=reply, state="failed").aexists()


async def _is_asked(provider: ScriptedProvider) -> bool:
    """Its first script is taken: what is asked next gets the second one."""
    return bool(provider.requests)


async def _ended(reply: Reply) -> bool:
    found = await Reply.objects.aget(pk=reply.pk)
    return not found.is_unfinished and not found.is_waiting


def _path(reply: Reply) -> list[str]:
    reply.conversation.refresh_from_db()
    return [m.content for m in Message.objects.path_to(reply.conversation.leaf_id, limit=50)]
