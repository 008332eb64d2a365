"""Vectors are made by the workers, of long conversations, once; what they are of may be gone meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Coalesce, Now
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from conversations import meanings, tasks, wakeups
from conversations.llm import embeddings
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Conversation, Message, MessagePlace, ReplyAttempt
from tests.celery.processes import until
from tests.replies.harness import DEADLINE, ReplyTestCase, catalog_of, web_process

from .trees import say, say_all, start

FILLER = "Nothing of weight was said here, and nobody would look for it again. " * 20
FACT = "The blue heron nests behind the old pumping station near Zwolle."
SMALL = {"slug": "small", "name": "Small", "high_water": 600, "recall_tokens": 150}


@contextmanager
def without_word_vectors() -> Iterator[None]:
    with mock.patch.object(embeddings, "_loaded", None), mock.patch.object(embeddings, "_is_missing", True):
        yield


def missing() -> int:
    return MessagePlace.objects.filter(embedding=None).count()


def due(conversation: Conversation, **values: Any) -> None:
    Conversation.objects.filter(pk=conversation.pk).update(**{"vectors_due_at": Now()} | values)


def talk(*, messages: int = 5) -> Conversation:
    """A conversation whose vectors are due."""
    conversation = start()
    say_all(conversation, *(f"harbour ship{number}" for number in range(messages)))
    MessagePlace.objects.update(embedding=None)
    due(conversation)
    return conversation


class DueTests(SimpleTestCase):
    def test_a_long_path_is_looked_after_each_time_it_has_grown_by_so_much(self) -> None:
        long, step = meanings.LONG, meanings.STEP
        for before, after, expected in (
            (0, long - 1, False),
            (long - 10, long, True),
            (0, long * 3, True),
            (long, long + step - 1, False),
            (long + step - 10, long + step + 10, True),
            (long - step - 10, long - step + 10, False),
        ):
            with self.subTest(before=before, after=after):
                self.assertIs(meanings.are_due(before=before, after=after), expected)


class GrownTests(ReplyTestCase):
    async def test_a_conversation_that_grows_gets_vectors_for_what_left_its_requests(self) -> None:
        asked: list[tuple[str, ...]] = []

        def publish(task: str, *arguments: str) -> None:
            if task == "embed_conversation":
                asked.append(arguments)

        conversation = await Conversation.objects.acreate(
            user=self.alice, model="scripted/model", preset=SMALL
        )
        with catalog_of(ScriptedProvider([FILLER])), mock.patch.object(wakeups.publisher, "send", publish):
            async with web_process():
                await self.finished(await self.asend(conversation, FACT))
                turns = 1
                while not asked:
                    self.assertEqual(await sync_to_async(missing)(), 2 * turns, "nothing is made on the way")
                    self.assertFalse(await Conversation.objects.exclude(vectors_due_at=None).aexists())
                    await self.finished(await self.asend(conversation, f"Go on, {turns}."))
                    turns += 1
                self.assertEqual(asked, [(str(conversation.pk),)])
                await sync_to_async(tasks.embed_conversation)(*asked[0])
                self.assertEqual(await sync_to_async(missing)(), 0)
                # One more message is not worth a task.
                reply = await self.finished(await self.asend(conversation, "Where do the birds live?"))
        self.assertEqual(len(asked), 1)
        leaf = await Message.objects.select_related("parent").aget(reply=reply)
        self.assertGreaterEqual(leaf.path_tokens, meanings.LONG)
        attempt = await ReplyAttempt.objects.aget(reply=reply)
        first = await Message.objects.aget(conversation=conversation, parent=None)
        self.assertIn(str(first.pk), str(attempt.manifest), "it was recalled")

    async def test_the_end_of_a_reply_leaves_a_worker_its_claim(self) -> None:
        with (
            catalog_of(ScriptedProvider(["Yes."])),
            mock.patch.object(meanings, "are_due", return_value=True),
            mock.patch.object(wakeups.publisher, "send"),
        ):
            async with web_process():
                reply = await self.finished(await self.astart("Is it deep?"))
                here = Conversation.objects.filter(pk=reply.conversation_id)
                self.assertTrue(await here.filter(vectors_due_at__lte=Now()).aexists())
                await here.aupdate(vectors_due_at=Now() + meanings.LEASE)
                claimed = await here.values_list("vectors_due_at").aget()
                await self.finished(await self.asend(reply.conversation, "And wide?"))
                self.assertEqual(await here.values_list("vectors_due_at").aget(), claimed)

    async def test_what_has_no_vectors_needs_no_word_vectors_in_the_web_process(self) -> None:
        with mock.patch.object(embeddings, "_loaded", None), mock.patch.object(embeddings, "_load") as load:
            with catalog_of(ScriptedProvider(["Yes."])):
                async with web_process():
                    reply = await self.finished(await self.astart("Is it deep?"))
                    conversation = reply.conversation
                    # A path that is long, of which no worker has made vectors.
                    await Message.objects.filter(reply=reply).aupdate(token_count=meanings.SOON_ASKED)
                    await self.finished(await self.asend(conversation, "And wide?"))
                    await until_idle()
                    load.assert_not_called()
                    # With them, the first recall need not wait for the tables.
                    places = MessagePlace.objects.filter(conversation_id=conversation.pk)
                    await places.aupdate(embedding=[0.0] * (embeddings.DIMENSIONS - 1) + [1.0])
                    await self.finished(await self.asend(conversation, "And long?"))
                    await sync_to_async(until)(lambda: load.called, "the tables")
            load.assert_called_once()

    async def test_the_page_of_a_long_conversation_with_vectors_loads_the_word_vectors(self) -> None:
        with mock.patch.object(embeddings, "_loaded", None), mock.patch.object(embeddings, "_load") as load:
            with catalog_of(ScriptedProvider(["Yes."])):
                async with web_process() as process:
                    reply = await self.finished(await self.astart("Is it deep?"))
                    await Message.objects.filter(reply=reply).aupdate(token_count=meanings.SOON_ASKED)
                    leaf = await Message.objects.aget(reply=reply)
                    process.expect_send(leaf)
                    await asyncio.sleep(0)
                    await until_idle()
                    load.assert_not_called()
                    places = MessagePlace.objects.filter(conversation_id=reply.conversation_id)
                    await places.aupdate(embedding=[0.0] * (embeddings.DIMENSIONS - 1) + [1.0])
                    process.expect_send(leaf)
                    await sync_to_async(until)(lambda: load.called, "the tables")
            load.assert_called_once()


async def until_idle() -> None:
    """What a reply or a page has begun beside itself has ended."""
    async with asyncio.timeout(DEADLINE):
        while any(task.get_name() == "expect_recall" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)


class CatchingUpTests(TestCase):
    def test_it_is_done_once(self) -> None:
        conversation = talk()
        other = talk(messages=3)
        self.assertEqual(set(meanings.due(limit=9)), {conversation.pk, other.pk})
        self.assertEqual(meanings.catch_up(conversation.pk), 5)
        self.assertEqual(missing(), 3)
        self.assertEqual(meanings.catch_up(conversation.pk), 0)
        self.assertEqual(meanings.due(limit=9), [other.pk])

    def test_the_pieces_are_made_with_the_vectors_and_later_where_those_were_first(self) -> None:
        conversation = talk(messages=2)
        meanings.catch_up(conversation.pk)
        places = MessagePlace.objects.filter(conversation_id=conversation.pk)
        made = [bytes(pieces or b"") for pieces in places.order_by("pk").values_list("pieces", flat=True)]
        self.assertEqual(
            made, [found.pieces for n in range(2) if (found := embeddings.meaning(f"harbour ship{n}"))]
        )
        places.update(pieces=None)
        self.assertEqual(meanings.due(limit=9), [])
        meanings.embed_all()
        self.assertFalse(places.filter(pieces=None).exists())

    def test_no_pieces_are_kept_of_a_text_that_was_replaced(self) -> None:
        conversation = talk(messages=2)
        meanings.catch_up(conversation.pk)
        Message.objects.filter(content="harbour ship1").update(content="nothing")
        kept = MessagePlace.objects.order_by("pk").values_list("message__content", "pieces", "embedding")
        self.assertEqual(
            [(content, pieces is None, vector is None) for content, pieces, vector in kept],
            [("harbour ship0", False, False), ("nothing", True, True)],
        )

    def test_what_is_more_than_one_run_may_do_stays_due(self) -> None:
        conversation = talk()
        with mock.patch.multiple(meanings, BATCH=2, MOST=4):
            self.assertEqual(meanings.catch_up(conversation.pk), 4)
            self.assertEqual(meanings.due(limit=9), [conversation.pk])
            self.assertEqual(meanings.catch_up(conversation.pk), 1)
        self.assertEqual(meanings.due(limit=9), [])

    def test_without_word_vectors_nothing_is_done_and_nothing_stays_due(self) -> None:
        conversation = talk()
        with without_word_vectors():
            self.assertEqual(meanings.catch_up(conversation.pk), 0)
            self.assertEqual(meanings.due(limit=9), [])
        self.assertEqual(missing(), 5)

    def test_a_text_without_a_word_is_not_looked_at_for_ever(self) -> None:
        conversation = start()
        say_all(conversation, "harbour", "   ", " ")
        MessagePlace.objects.update(embedding=None)
        due(conversation)
        self.assertEqual(meanings.catch_up(conversation.pk), 1)
        self.assertEqual(meanings.due(limit=9), [])
        with mock.patch.object(meanings, "MOST", 1):
            due(conversation)
            self.assertEqual(meanings.catch_up(conversation.pk), 0)
            self.assertEqual(meanings.due(limit=9), [])

    def test_a_worker_that_died_is_followed_by_another_a_few_times(self) -> None:
        conversation = talk()
        for _ in range(meanings.MOST_ATTEMPTS):
            due(conversation)
            with (
                mock.patch.object(meanings, "_embed", side_effect=MemoryError),
                self.assertRaises(MemoryError),
            ):
                meanings.catch_up(conversation.pk)
            self.assertEqual(meanings.due(limit=9), [], "it is left alone for the time of a lease")
        due(conversation, vectors_due_at=Now() - timedelta(days=1))
        self.assertEqual((meanings.due(limit=9), meanings.catch_up(conversation.pk)), ([], 0))
        call_command("embed_messages", verbosity=0, stdout=mock.Mock())
        self.assertEqual(missing(), 0)
        conversation.refresh_from_db()
        self.assertEqual((conversation.vectors_due_at, conversation.vectors_attempts), (None, 0))

    def test_a_deleted_conversation_waits_until_it_is_back(self) -> None:
        conversation = talk()
        due(conversation, deleted_at=Now())
        self.assertEqual((meanings.due(limit=9), meanings.catch_up(conversation.pk)), ([], 0))
        due(conversation, deleted_at=None)
        self.assertEqual(meanings.catch_up(conversation.pk), 5)

    def test_the_periodic_job_hands_out_what_was_lost(self) -> None:
        conversation = talk()
        with mock.patch.object(tasks.embed_conversation, "apply_async") as sent:
            tasks.embed_due()
        sent.assert_called_once_with((str(conversation.pk),), expires=60)


class MeanwhileTests(TransactionTestCase):
    def during_the_run(self, conversation_id: UUID, change: Any) -> None:
        """Let somebody else make a change while the texts that were read are embedded."""

        def other() -> None:
            try:
                change()
            finally:
                connection.close()

        thread = threading.Thread(target=other)

        def waits() -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                return not thread.is_alive() or cursor.fetchone()[0] > 0

        def meaning(text: str) -> embeddings.Meaning | None:
            if thread.ident is None:
                thread.start()
                until(waits, "the other one", seconds=5)
            return embeddings.meaning(text)

        with mock.patch.object(meanings, "meaning", meaning):
            meanings.catch_up(conversation_id)
        thread.join(timeout=5)
        self.assertFalse(thread.is_alive())

    def test_a_message_that_is_deleted_leaves_no_vector(self) -> None:
        conversation = talk()
        last = Message.objects.get(conversation=conversation, content="harbour ship4")
        self.during_the_run(conversation.pk, last.delete)
        self.assertEqual(MessagePlace.objects.count(), 4)
        self.assertEqual(missing(), 0)

    def test_the_vector_of_a_text_that_was_replaced_is_not_kept(self) -> None:
        conversation = talk()
        changed = Message.objects.filter(conversation=conversation, content="harbour ship4")
        pk = changed.get().pk
        self.during_the_run(conversation.pk, lambda: changed.update(content="I never said so."))
        self.assertEqual(missing(), 1)
        self.assertIsNone(MessagePlace.objects.get(message=pk).embedding)

    def test_what_comes_while_a_worker_is_at_it_is_seen_to_as_well(self) -> None:
        conversation = talk()

        def another_turn() -> None:
            last = Message.objects.get(conversation=conversation, content="harbour ship4")
            say(conversation, last, "harbour ship5", embedded=False)
            # As the end of a reply does.
            vectors_due_at = Coalesce("vectors_due_at", Now())
            Conversation.objects.filter(pk=conversation.pk).update(vectors_due_at=vectors_due_at)

        self.during_the_run(conversation.pk, another_turn)
        self.assertEqual((missing(), meanings.due(limit=9)), (1, [conversation.pk]))
        self.assertEqual(meanings.catch_up(conversation.pk), 1)
        self.assertEqual(meanings.due(limit=9), [])

    def test_two_at_once_do_not_wait_for_each_other(self) -> None:
        conversation = talk()
        found: list[tuple[bool, int]] = []
        self.during_the_run(conversation.pk, lambda: found.append((meanings.embed_all(), missing())))
        self.assertEqual(found, [(True, 5)], "it was through before the first one had written any")
        self.assertEqual(missing(), 0)
