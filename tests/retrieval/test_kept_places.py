"""What a process keeps of a conversation spares reading it, finds the same, and never decides what may be seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import numpy as np
import psycopg
from asgiref.sync import sync_to_async
from django.test import TransactionTestCase

from conversations import kept_places, meanings, retrieval
from conversations.context.view import Recalled
from conversations.database import PLAN_ONCE, Pool, make_pool
from conversations.kept_places import KeptPlaces
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Message, MessageBranch, MessagePlace, ReplyAttempt
from conversations.retrieval import recall
from tests.cast import bob
from tests.replies.harness import catalog_of, web_process
from tests.replies.turns import SMALL, TurnsTestCase, dialogue

from .trees import grow, keep_meaning, path_of, say, say_all, start

QUESTION = "Which harbour was number7x in?"
#: What a cosine that is kept may be wrong by.
CLOSE = 0.002


class Turns:
    """Turns of conversations in one process."""

    def __init__(self, pool: Pool, kept: KeptPlaces) -> None:
        self.pool = pool
        self.kept = kept
        self.asked: list[str] = []  #: statements of the last turn
        self.weighed: retrieval.Candidates | None = None  #: in the last turn

    async def recall(
        self, leaf: Message, question: str = QUESTION, *, before: UUID | None = None, **arguments: Any
    ) -> list[Recalled]:
        """As a turn of this process; returns once all is kept that will be."""
        if before is not None:
            arguments["last"] = (await Message.objects.aget(pk=before)).path_messages - 1
        arguments = {"kept": self.kept, "room": 100_000, **arguments}
        execute, self.asked = psycopg.AsyncCursor.execute, []

        async def noted(cursor: Any, query: Any, *values: Any, **options: Any) -> Any:
            if query != PLAN_ONCE:
                self.asked.append(query)
            return await execute(cursor, query, *values, **options)

        with (
            mock.patch.object(psycopg.AsyncCursor, "execute", noted),
            mock.patch.object(retrieval, "score", wraps=retrieval.score) as score,
        ):
            found = await recall(
                self.pool,
                conversation_id=leaf.conversation_id,
                leaf_id=leaf.pk,
                question=question,
                **arguments,
            )
        self.weighed = score.call_args.args[0] if score.called else None
        await self.kept.filled()
        return found

    @property
    def was_kept(self) -> bool:
        return self.weighed is not None and retrieval._PLACES not in self.asked


@asynccontextmanager
async def process(**options: Any) -> AsyncIterator[Turns]:
    """One that keeps short paths as it does long ones."""
    with mock.patch.multiple(kept_places, WORTH_KEEPING=1, WORTH_A_LINE=1, READ_AT_ONCE=5, PIECE=7):
        async with make_pool(1) as pool:
            kept = KeptPlaces(pool, later=0, **options)
            try:
                yield Turns(pool, kept)
            finally:
                await kept.close()


def scores(found: list[Recalled]) -> dict[Any, float]:
    return {one.message.id: one.score for one in found}


async def ships(count: int, under: Message | None = None) -> list[Message]:
    """So many messages, each under the one before, in a conversation of their own unless they stand under another."""
    conversation = under.conversation if under is not None else await sync_to_async(start)()
    names = [f"harbour ship{number}" for number in range(count)]
    return await sync_to_async(say_all)(conversation, *names, parent=under)


async def grown(source: random.Random, size: int) -> list[Message]:
    return await sync_to_async(grow)(await sync_to_async(start)(), source, size)


class KeptPlacesTestCase(TransactionTestCase):
    async def assert_same(self, turns: Turns, leaf: Message, **arguments: Any) -> None:
        """Another process, which keeps nothing, weighs the same and finds the same messages."""
        found = await turns.recall(leaf, **arguments)
        kept = turns.weighed
        self.assertEqual(
            scores(found).keys(), scores(await turns.recall(leaf, **arguments, kept=None)).keys()
        )
        read = turns.weighed
        if kept is None or read is None:
            self.assertFalse(found)
            return
        size = len(read.places)
        self.assertFalse(kept.places[size:].any(), "set aside, or nothing")
        np.testing.assert_equal(kept.places[:size], read.places)
        np.testing.assert_equal(kept.tokens[:size], read.tokens)
        np.testing.assert_allclose(kept.cosines[:size], read.cosines, rtol=0, atol=CLOSE)
        for name in ("at", "word", "frequency"):
            np.testing.assert_equal(getattr(kept, name), getattr(read, name))


class SameTests(KeptPlacesTestCase):
    async def test_the_next_turn_finds_what_the_first_one_finds_in_any_tree(self) -> None:
        for seed in range(8):
            source = random.Random(seed)
            tree = await grown(source, 30)
            async with process() as turns:
                for leaf in source.sample(tree, 4):
                    path = await sync_to_async(path_of)(leaf)
                    before = source.choice([None, *path])
                    first = await turns.recall(leaf, before=before)
                    again = await turns.recall(leaf, before=before)
                    self.assertEqual(turns.was_kept, path.index(before or leaf.pk) > 0)
                    self.assertEqual(scores(first).keys(), scores(again).keys())
                    await self.assert_same(turns, leaf, before=before)

    async def test_whatever_happens_to_a_conversation_between_two_turns(self) -> None:
        for seed in range(6):
            source = random.Random(seed)
            tree = await grown(source, 20)
            conversation = tree[0].conversation_id
            async with process() as turns:
                for _ in range(25):
                    await sync_to_async(self.change)(source, tree)
                    tree = [one async for one in Message.objects.filter(conversation=conversation)]
                    leaf = source.choice(tree)
                    await turns.recall(leaf)  # vectors that were made meanwhile come after it
                    await self.assert_same(turns, leaf)

    def change(self, source: random.Random, tree: list[Message]) -> None:
        message = source.choice(tree)
        here = Message.objects.filter(pk=message.pk)
        number = source.randrange(10**6)

        def answer() -> None:
            say(message.conversation, message, f"harbour number{number}x", embedded=source.random() < 0.5)

        def move() -> None:
            allowed = [one for one in tree if message.pk not in path_of(one)]
            here.update(parent=source.choice([None, *allowed]))

        def embed() -> None:
            keep_meaning(message)

        def delete() -> None:
            if message.parent_id is not None:
                here.delete()

        changes: list[Callable[[], object]] = [answer, answer, answer, move, embed, embed, delete]
        changes += [
            lambda: here.update(is_set_aside=not message.is_set_aside),
            lambda: here.update(token_count=source.randint(1, 50)),
            lambda: here.update(content=f"lighthouse number{number}x"),
        ]
        source.choice(changes)()

    async def test_what_was_deleted_and_said_anew_at_its_place_is_seen(self) -> None:
        said = await ships(6)
        async with process() as turns:
            await turns.recall(said[-1])
            await sync_to_async(Message.objects.filter(pk=said[3].pk).delete)()
            more = await ships(3, under=said[2])
            found = scores(await turns.recall(more[-1]))
            self.assertEqual(found.keys(), {message.pk for message in [*said[:3], *more[:2]]})

    async def test_a_vector_that_comes_later_is_used_and_nothing_else_read_again(self) -> None:
        for part in (slice(15, None), slice(3, 8)):
            said = await sync_to_async(say_all)(await sync_to_async(start)(), *["harbour", "tea"] * 10)
            late = said[part]
            here = MessageBranch.objects.filter(conversation=said[0].conversation)
            line = here.values_list("changed_in", flat=True)
            await MessagePlace.objects.filter(message__in=late).aupdate(embedding=None)
            before = await line.aget()
            async with process() as turns:
                await turns.recall(said[-1])
                for message in late:
                    await sync_to_async(keep_meaning)(message)
                self.assertEqual(await line.aget(), before)
                for _ in range(2):
                    await turns.recall(said[-1])
                    self.assertTrue(turns.was_kept)
                await self.assert_same(turns, said[-1])
                (kept,) = turns.kept._lines.values()
                self.assertFalse(kept.lacks_vectors())


class ReadingTests(KeptPlacesTestCase):
    async def test_a_turn_reads_what_has_come_since_the_one_before_it(self) -> None:
        said = await ships(40)
        async with process() as turns:
            await turns.recall(said[-1])
            self.assertIn(retrieval._PLACES, turns.asked)
            for _ in range(3):
                said += await sync_to_async(say_all)(
                    said[0].conversation, "Yes.", "Harbour?", parent=said[-1]
                )
                with mock.patch.object(
                    kept_places.Line, "put", autospec=True, side_effect=kept_places.Line.put
                ) as put:
                    found = await turns.recall(said[-1])
                self.assertEqual(len(put.call_args.args[1]), 3, "the last one that is known, and two")
                self.assertEqual(turns.asked, [retrieval._WORDS, retrieval._CONTENTS])
                self.assertEqual(turns.kept.messages, sum(map(len, turns.kept._lines.values())))
                self.assertIn(said[-3].pk, scores(found))

    async def test_a_message_that_waited_and_moves_under_the_answer_changes_nothing_that_is_kept(
        self,
    ) -> None:
        question, *_ = said = await ships(21)
        async with process() as turns:
            await turns.recall(said[-1])
            waiting = await sync_to_async(say)(question.conversation, said[-1], "And when?", role="user")
            answer = await sync_to_async(say)(question.conversation, said[-1], "So.")
            await Message.objects.filter(pk=waiting.pk).aupdate(parent=answer)
            found = await turns.recall(waiting)
            self.assertTrue(turns.was_kept)
            self.assertIn(answer.pk, scores(found))

    async def test_another_version_of_the_last_question_is_not_a_path_to_read_anew(self) -> None:
        said = await ships(21)
        async with process() as turns:
            await turns.recall(said[-1])
            other = await sync_to_async(say)(said[0].conversation, said[-2], "Otherwise?")
            await turns.recall(other)
            self.assertTrue(turns.was_kept)
            await self.assert_same(turns, other)

    async def test_what_many_have_come_since_is_read_in_one_go_and_kept_later(self) -> None:
        said = await ships(30)
        async with process() as turns:
            await turns.recall(said[9])
            await turns.recall(said[-1])
            self.assertFalse(turns.was_kept)
            await turns.recall(said[-1])
            self.assertTrue(turns.was_kept)
            await self.assert_same(turns, said[-1])

    async def test_a_short_path_or_one_of_short_lines_is_read_as_any_other(self) -> None:
        said = await ships(5)
        async with process() as turns:
            for few in ("WORTH_KEEPING", "WORTH_A_LINE"):
                with mock.patch.object(kept_places, few, 6):
                    for _ in range(2):
                        await turns.recall(said[-1])
                        self.assertEqual(
                            turns.asked, [retrieval._WORDS, retrieval._PLACES, retrieval._CONTENTS]
                        )
            self.assertEqual(turns.kept.messages, 0)

    async def test_a_process_keeps_a_bounded_number_of_messages_of_those_who_asked_last(self) -> None:
        leaves = [(await ships(10))[-1] for _ in range(4)]
        async with process(most=25) as turns:
            for leaf in leaves:
                await turns.recall(leaf)
                self.assertLessEqual(turns.kept.messages, 25)
            lines = [
                message.branch_id
                async for message in Message.objects.filter(pk__in=[leaf.pk for leaf in leaves[2:]])
            ]
            self.assertEqual(set(turns.kept._lines), set(lines))
            longer = await ships(26)
            await turns.recall(longer[-1])
            self.assertEqual(set(turns.kept._lines), set(lines), "what never fits takes nobody's place")

    async def test_a_path_that_grows_past_the_bound_is_left_out_before_it_drives_itself_out(self) -> None:
        said = await ships(96)
        other = (await ships(3))[-1]
        async with process(most=100) as turns:
            await turns.recall(other)
            for _ in range(3):
                with mock.patch.object(turns.kept, "_read_piece", wraps=turns.kept._read_piece) as filled:
                    await turns.recall(said[-1])
                said += await ships(1, under=said[-1])
            filled.assert_not_called()
            await turns.recall(other)
            self.assertTrue(turns.was_kept)


class ExpectedTests(KeptPlacesTestCase):
    async def test_a_path_that_is_expected_is_read_before_its_first_turn(self) -> None:
        for seed in range(3):
            tree = await grown(random.Random(seed), 30)
            leaf = max(tree, key=lambda message: message.path_messages)
            async with process() as turns:
                turns.kept.expect(leaf.conversation_id, leaf.pk)
                await turns.kept.filled()
                await turns.recall(leaf)
                self.assertTrue(turns.was_kept)
                await self.assert_same(turns, leaf)

    async def test_a_message_of_another_conversation_is_no_path_of_this_one(self) -> None:
        mine, theirs = await ships(8), await ships(8)
        async with process() as turns:
            with self.assertNoLogs("conversations.kept_places"):
                turns.kept.expect(mine[0].conversation_id, theirs[-1].pk)
                await turns.kept.filled()
            self.assertEqual(turns.kept.messages, 0)

    async def test_the_first_turn_after_it_waits_for_no_statement_to_be_planned(self) -> None:
        said = await ships(60)
        await sync_to_async(meanings.embed_all)()

        async def planned() -> list[str]:
            async with turns.pool.connection() as connection:
                found = await connection.execute("SELECT statement FROM pg_prepared_statements")
                return sorted(
                    row["statement"] for row in await found.fetchall() if "place" in row["statement"]
                )

        async with process(prepare=retrieval.prepare) as turns:
            turns.kept.expect(said[0].conversation_id, said[-1].pk)
            await turns.kept.filled()
            before = await planned()
            for leaf in said[-1], said[-2]:
                await turns.recall(leaf, room=50, skip=[said[3].pk])
                self.assertEqual(
                    turns.asked,
                    [retrieval._WORDS, retrieval._PIECES, retrieval._CONTENTS],
                )
            self.assertEqual(await planned(), before)

    async def test_what_is_not_worth_keeping_is_not_read(self) -> None:
        said = await ships(8)
        for few, enough in (("WORTH_KEEPING", 9), ("WORTH_A_LINE", 9)):
            async with process() as turns:
                with mock.patch.object(kept_places, few, enough):
                    turns.kept.expect(said[0].conversation_id, said[-1].pk)
                    await turns.kept.filled()
                self.assertEqual(turns.kept.messages, 0)

    async def test_what_is_expected_again_is_read_as_far_as_it_has_come_since(self) -> None:
        known, said = 0, await ships(1)
        async with process() as turns:
            for new in (19, 0, 3):
                said += await ships(new, under=said[-1])
                with mock.patch.object(
                    kept_places.Line, "put", autospec=True, side_effect=kept_places.Line.put
                ) as put:
                    turns.kept.expect(said[0].conversation_id, said[-1].pk)
                    await turns.kept.filled()
                self.assertEqual(sum(len(call.args[1]) for call in put.call_args_list), len(said) - known)
                known = len(said)


class SafetyTests(KeptPlacesTestCase):
    """What is kept may be wrong in any way: what does not belong to the path does not come back."""

    async def test_nothing_but_the_path_comes_back_from_places_that_are_wrong(self) -> None:
        said = await ships(12)
        branch = await ships(3, under=said[4])
        mine = await ships(3)
        theirs = await ships(3)
        theirs[0].conversation.user = await sync_to_async(bob)()
        await theirs[0].conversation.asave()
        deleted = await sync_to_async(say)(said[0].conversation, said[-1], "harbour")
        aside = said[2]
        place = {place.message_id: place.pk async for place in MessagePlace.objects.all()}
        await Message.objects.filter(pk=aside.pk).aupdate(is_set_aside=True)
        await Message.objects.filter(pk=deleted.pk).adelete()
        leaf, later, skipped = said[9], said[10], said[6]
        wrong = [skipped, aside, *branch, *mine, *theirs, deleted, later, leaf]
        for message in wrong:
            async with process() as turns:
                await turns.recall(leaf)
                (line,) = turns.kept._lines.values()
                line._rows["place"][:9] = place[message.pk]
                line._rows["is_set_aside"][:] = False
                found = await turns.recall(leaf, skip=[skipped.pk])
                self.assertTrue(turns.was_kept)
                self.assertEqual(found, [])
                if message != skipped:
                    self.assertFalse(turns.kept._lines, "what was wrong once is forgotten")

    async def test_places_of_another_conversation_under_this_line_s_name_are_not_shown(self) -> None:
        said = await ships(12)
        theirs = await ships(12)
        async with process() as turns:
            for leaf in (said[-1], theirs[-1]):
                await turns.recall(leaf)
            lines = turns.kept._lines
            (one, first), (other, second) = lines.items()
            lines[one], lines[other] = second, first
            second.changed_in = first.changed_in = 0
            found = scores(await turns.recall(said[-1]))
            self.assertFalse(found.keys() - {message.pk for message in said})

    async def test_what_is_set_aside_in_the_middle_of_a_turn_is_not_shown_either(self) -> None:
        said = await ships(12)
        async with process() as turns:
            await turns.recall(said[-1])
            read = turns.kept.read

            async def and_then(*arguments: Any, **options: Any) -> Any:
                lines = await read(*arguments, **options)
                await Message.objects.filter(pk=said[3].pk).aupdate(is_set_aside=True)
                return lines

            with mock.patch.object(turns.kept, "read", and_then):
                found = scores(await turns.recall(said[-1]))
            self.assertEqual(found.keys(), {message.pk for message in [*said[:3], *said[4:11]]})


class FillingTests(KeptPlacesTestCase):
    async def test_a_failure_of_filling_reaches_nobody_and_is_logged_without_its_words(self) -> None:
        said = await ships(12)
        async with process() as turns:
            with (
                mock.patch.object(kept_places.Line, "put", side_effect=ValueError("harbour")),
                self.assertLogs("conversations.kept_places", "WARNING") as logged,
            ):
                found = await turns.recall(said[-1])
            self.assertEqual(len(found), 11)
            self.assertEqual(
                [record.getMessage() for record in logged.records],
                ["places are read again next time: ValueError"],
            )
            await turns.recall(said[-1])
            await turns.recall(said[-1])
            self.assertTrue(turns.was_kept, "the next turn tries again")

    async def test_filling_is_no_part_of_the_reply_that_asks_for_it(self) -> None:
        said = await ships(12)
        asking: ContextVar[str] = ContextVar("asking", default="nobody")
        seen: list[str] = []
        async with process() as turns:
            asking.set("a reply")
            with mock.patch.object(turns.kept, "_kept", side_effect=lambda *_: seen.append(asking.get())):
                turns.kept._read_later(said[0].conversation_id, [mock.Mock()])
                with self.assertLogs("conversations.kept_places", "WARNING"):
                    await turns.kept.filled()
        self.assertEqual(seen, ["nobody"])

    async def test_of_more_paths_than_can_be_read_the_last_ones_are(self) -> None:
        ids = [uuid4() for _ in range(6)]
        async with process() as turns:
            turns.kept._later = 60
            with mock.patch.object(kept_places, "MOST_WANTED", 3):
                for wanted in [*ids[:4], ids[1], *ids[4:]]:
                    turns.kept._read_later(wanted, [])
            self.assertEqual(list(turns.kept._wanted), [ids[1], *ids[4:]])

    async def test_a_process_that_ends_fills_no_more(self) -> None:
        said = await ships(12)
        async with process() as turns:
            turns.kept._later = 60
            with mock.patch.object(turns.kept, "filled", mock.AsyncMock()):
                await turns.recall(said[-1])
                filling = turns.kept._filling
                assert filling is not None
                self.assertFalse(filling.done())
                await turns.kept.close()
                self.assertTrue(filling.cancelled())
                await turns.recall(said[-1])
            self.assertIs(turns.kept._filling, filling)


class ProcessTests(TurnsTestCase):
    """Through the whole runtime."""

    async def test_a_web_process_reads_a_path_once_and_stops_filling_when_it_drains(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(
            conversation, "The heron nests near Zwolle.", "Noted.", *["Hm. " * 60] * 20
        )
        with (
            mock.patch.multiple(kept_places, WORTH_KEEPING=1, WORTH_A_LINE=1, READ_AT_ONCE=5),
            mock.patch.object(retrieval, "_unpacked", wraps=retrieval._unpacked) as read,
            catalog_of(ScriptedProvider(["Well."])),
        ):
            async with web_process() as runtime:
                for _ in range(3):
                    reply = await self.finished(await self.asend(conversation, "Where does the heron nest?"))
                    await runtime.kept_places.filled()
                runtime.kept_places._later = 60
                runtime.kept_places._read_later(conversation.pk, [])
                filling = runtime.kept_places._filling
        self.assertEqual(read.call_count, 1)
        self.assertGreater((await ReplyAttempt.objects.aget(reply=reply)).manifest["recall"]["found"], 0)
        assert filling is not None
        self.assertTrue(filling.cancelled())

    async def test_who_opens_a_long_conversation_finds_it_kept_for_the_first_send(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL)
        await sync_to_async(dialogue)(
            conversation, "The heron nests near Zwolle.", "Noted.", *["Hm. " * 60] * 20
        )
        stranger = await sync_to_async(self.conversation)(user=await sync_to_async(bob)())
        await sync_to_async(dialogue)(stranger, *["Hm."] * 22)
        await sync_to_async(self.client.force_login)(self.alice)
        with (
            mock.patch.multiple(kept_places, WORTH_KEEPING=10, WORTH_A_LINE=1),
            mock.patch.object(retrieval, "_unpacked", wraps=retrieval._unpacked) as read,
            catalog_of(ScriptedProvider(["Well."])),
        ):
            async with web_process() as runtime:
                runtime.kept_places._later = 0
                for shown, status, messages in ((stranger, 404, 0), (conversation, 200, 22)):
                    page = await sync_to_async(self.client.get)(f"/conversations/{shown.pk}/")
                    await asyncio.sleep(0)  # what the page's thread has asked for begins
                    await runtime.kept_places.filled()
                    self.assertEqual(page.status_code, status)
                    self.assertEqual(
                        sum(line.until for line in runtime.kept_places._lines.values()), messages
                    )
                await self.finished(await self.asend(conversation, "Where does the heron nest?"))
        read.assert_not_called()

    async def test_a_short_conversation_and_one_without_recall_are_opened_for_nothing(self) -> None:
        await sync_to_async(self.client.force_login)(self.alice)
        with mock.patch.multiple(kept_places, WORTH_KEEPING=10, WORTH_A_LINE=1):
            async with web_process() as runtime:
                with mock.patch.object(runtime.kept_places, "expect") as expect:
                    for preset, said in ((SMALL, 9), ({**SMALL, "recall_tokens": 0}, 10)):
                        conversation = await sync_to_async(self.conversation)(preset)
                        await sync_to_async(dialogue)(conversation, *["Hm."] * said)
                        await sync_to_async(self.client.get)(f"/conversations/{conversation.pk}/")
                    await asyncio.sleep(0)
                    expect.assert_not_called()


def test_a_vector_is_kept_to_two_thousandths() -> None:
    source = np.random.default_rng(1)
    vectors = source.normal(size=(200, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.zeros(200, kept_places._FOUND)
    found["depth"], found["place"], found["flags"] = np.arange(1, 201), 7, kept_places._HAS_VECTOR
    line = kept_places.Line(uuid4(), kept_places.Stretch(line=1, changed_in=0, start=0, end=10))
    line.put(found, vectors, 200)
    assert abs(line.cosines(vectors[3], 200) - vectors @ vectors[3]).max() < CLOSE
