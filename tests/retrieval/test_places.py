"""The database keeps the line, the words and the place of each message with it, whoever writes, moves or deletes it."""

from __future__ import annotations

import threading
import time
from importlib import import_module
from typing import Any
from unittest import mock

from django.apps import apps
from django.db import connection, transaction
from django.db.models import QuerySet
from django.test import TestCase, TransactionTestCase

from conversations import meanings
from conversations.llm.embeddings import embed
from conversations.memory import items
from conversations.models import (
    Conversation,
    ConversationSummary,
    Message,
    MessageBranch,
    MessagePlace,
    MessagePosting,
)
from tests.cast import alice

from .trees import say, say_all, start


def words_of(message: Message) -> set[str]:
    postings = MessagePosting.objects.filter(place__message=message)
    return set(postings.values_list("lexeme", flat=True))


class LineTests(TestCase):
    def setUp(self) -> None:
        self.conversation = start()

    def test_a_conversation_without_forks_is_one_line(self) -> None:
        said = say_all(self.conversation, *("Yes." for _ in range(12)))
        self.assertEqual(len({message.branch_id for message in self.fresh(said)}), 1)
        self.assertEqual(MessageBranch.objects.count(), 1)

    def test_many_written_by_one_statement_are_one_line_too(self) -> None:
        said: list[Message] = []
        for number in range(20):
            parent, role = (said[-1], "assistant" if number % 2 else "user") if said else (None, "user")
            said.append(Message(conversation=self.conversation, parent=parent, role=role, content="Yes."))
        Message.objects.bulk_create(said)
        self.assertEqual(len({message.branch_id for message in self.fresh(said)}), 1)
        depths = MessagePlace.objects.order_by("depth").values_list("depth", flat=True)
        self.assertEqual(list(depths), list(range(1, 21)))

    def test_a_second_answer_begins_a_line_that_knows_where_it_left(self) -> None:
        question, *_ = said = say_all(self.conversation, "Why?", "So.", "Really?", "Yes.")
        other = say(self.conversation, question, "Otherwise.")
        after = say(self.conversation, other, "I see.")
        first, second = MessageBranch.objects.order_by("pk")
        self.assertEqual(
            [message.branch_id for message in self.fresh([*said, other, after])],
            [first.pk] * 4 + [second.pk] * 2,
        )
        self.assertEqual((second.parent_id, second.until), (first.pk, 1))

    def test_a_message_that_waited_leaves_the_line_to_the_answer(self) -> None:
        question = say(self.conversation, None, "Why?")
        waiting = say(self.conversation, question, "And when?", role="user")
        answer = say(self.conversation, question, "So.")
        Message.objects.filter(pk=waiting.pk).update(parent=answer)
        self.assertEqual(len({message.branch_id for message in self.fresh([question, answer, waiting])}), 1)

    def test_what_moves_takes_along_what_hangs_under_it(self) -> None:
        said = say_all(self.conversation, "One.", "Two.", "Three.", "Four.")
        moved = say_all(self.conversation, "Five.", "Six.", "Seven.", parent=said[1])
        Message.objects.filter(pk=moved[0].pk).update(parent=said[3])
        places = [
            (place.branch_id, place.depth)
            for place in MessagePlace.objects.filter(message__in=[*said, *moved]).order_by("depth")
        ]
        self.assertEqual([depth for _, depth in places], [1, 2, 3, 4, 5, 6, 7])
        self.assertEqual(len({branch for branch, _ in places}), 1)

    def fresh(self, messages: list[Message]) -> list[Message]:
        found = Message.objects.in_bulk([message.pk for message in messages])
        return [found[message.pk] for message in messages]


class ConcurrentAnswersTests(TransactionTestCase):
    def test_of_two_answers_written_at_once_one_begins_a_line(self) -> None:
        question = say(start(), None, "Why?")
        first_is_written = threading.Event()

        def second() -> None:
            first_is_written.wait(10)
            say(question.conversation, question, "Otherwise.")
            connection.close()

        thread = threading.Thread(target=second)
        thread.start()
        with transaction.atomic():
            say(question.conversation, question, "So.")
            first_is_written.set()
            time.sleep(0.2)  # the other stands before the lock by then
        thread.join(10)
        self.assertEqual(len(set(question.children.values_list("branch_id", flat=True))), 2)


class WordTests(TestCase):
    def setUp(self) -> None:
        self.conversation = start()

    def language_of(self, content: str) -> str:
        say(self.conversation, None, content)
        return MessageBranch.objects.latest("pk").languages[-1]

    def test_the_language_of_a_message_decides_its_stems(self) -> None:
        for language, content in {
            "english": "What did we decide about the invoices?",
            "german": "Was haben wir mit den Rechnungen gemacht?",
            "norwegian": "Hva har vi bestemt om fakturaene og hvordan går det?",
            "swedish": "Vad har vi bestämt om fakturorna och hur är det?",
            "french": "Qu'est-ce que nous avons décidé pour les factures ?",
            "spanish": "¿Qué hemos decidido con las facturas y cómo está el pago?",
            "russian": "Что мы решили по счетам и как это?",
            "simple": "kubectl scale deployment/web --replicas=3",
        }.items():
            with self.subTest(content):
                self.assertEqual(self.language_of(content), language)

    def test_few_words_are_read_like_those_before(self) -> None:
        *_, short = say_all(
            self.conversation, "Was haben wir mit den Rechnungen gemacht?", "Nichts.", "Rechnungen?"
        )
        self.assertEqual(words_of(short), {"rechnung"})

    def test_a_script_without_spaces_is_read_in_pairs(self) -> None:
        message = say(self.conversation, None, "請求書は2026年3月です OK")
        self.assertLessEqual({"請求", "求書", "書は", "2026", "です", "ok"}, words_of(message))

    def test_code_keeps_the_words_of_its_tags(self) -> None:
        message = say(self.conversation, None, '<button class="danger">Delete</button>')
        self.assertLessEqual({"button", "class", "danger", "delete"}, words_of(message))

    def test_postings_count_the_messages_that_have_a_word(self) -> None:
        said = say_all(self.conversation, "Harbour.", "The harbour, the harbour.", "Ship.", "A harbour.")
        say(start(), None, "Another harbour.")
        found = MessagePosting.objects.filter(
            conversation_id=self.conversation.pk, lexeme="harbour"
        ).order_by("place_id")
        self.assertEqual([(p.number, p.frequency) for p in found], [(1, 1), (2, 2), (3, 1)])
        self.assertEqual(len(said), 4)

    def test_any_message_can_be_written_in_bounded_time(self) -> None:
        for content in (
            "a_" * 100_000,  # the parser of PostgreSQL took five minutes
            "<!-- " * 40_000,
            "".join(f"{n:x}-" for n in range(60_000)),
            " ".join(f"word{n}" for n in range(120_000)),
            "".join(chr(0x4E00 + n * 7 % 20_000) for n in range(300_000)),
            "\N{CAT FACE}" * 250_000,
            "x" * 1_000_000,
            "\ufffd\x01\u200b",
        ):
            with self.subTest(content[:8]):
                began = time.monotonic()
                message = say(self.conversation, None, content)
                self.assertLess(time.monotonic() - began, 5)
                self.assertLessEqual(len(words_of(message)), 2_000)

    def test_of_a_long_text_the_first_words_are_kept(self) -> None:
        message = say(self.conversation, None, " ".join(f"word{n}" for n in range(2_500, 0, -1)))
        self.assertEqual(words_of(message), {f"word{n}" for n in range(501, 2_501)})

    def test_another_text_has_other_words_and_no_vector_yet(self) -> None:
        message = say(self.conversation, None, "The harbour is deep.")
        Message.objects.filter(pk=message.pk).update(content="The lighthouse is tall.")
        self.assertEqual(words_of(message), {"lighthous", "tall"})
        self.assertIsNone(MessagePlace.objects.get(message=message).embedding)

    def test_a_message_that_is_not_written_leaves_nothing(self) -> None:
        class Refused(Exception):
            pass

        with self.assertRaises(Refused), transaction.atomic():
            say(self.conversation, None, "The harbour is deep.")
            raise Refused
        self.assertFalse(MessagePosting.objects.exists() or MessagePlace.objects.exists())


class ReadingTests(TestCase):
    """A path is read by its conversation: the index of its lines begins with that."""

    def test_neither_a_path_nor_a_fork_is_looked_for_in_other_conversations(self) -> None:
        for _ in range(3):
            say_all(start(), *("Yes." for _ in range(4)))
        conversation = start()
        first, *_, last = say_all(conversation, *("Yes." for _ in range(4)))
        Conversation.objects.filter(pk=conversation.pk).update(leaf=last)
        path = Message.objects.of_path(conversation.pk, last.pk)
        summaries = ConversationSummary.objects.of_path(conversation.pk, last.pk)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            for query in (path.explain(), summaries.explain(), self.explained(cursor, first, last)):
                self.assertIn("message_places_line", query)
                self.assertNotIn("Seq Scan on message_places", query)
        self.assertEqual(path.count(), 4)

    def explained(self, cursor: Any, first: Message, last: Message) -> str:
        values = {"conversation": last.conversation_id, "earlier": first.pk, "later": last.pk}
        cursor.execute(f"EXPLAIN {items._FORKS}", values)
        return "\n".join(line for (line,) in cursor.fetchall())


class DeletionTests(TestCase):
    def setUp(self) -> None:
        self.conversation = start()
        self.said = say_all(self.conversation, "The harbour is deep.", "Yes, deep.", "How deep?")

    def counts(self) -> tuple[int, int, int]:
        return MessageBranch.objects.count(), MessagePlace.objects.count(), MessagePosting.objects.count()

    def stray_words(self) -> QuerySet[MessagePosting]:
        return MessagePosting.objects.exclude(place_id__in=MessagePlace.objects.values("pk"))

    def test_a_deleted_conversation_leaves_nothing_whoever_deletes_it(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM conversations WHERE id = %s", [self.conversation.pk])
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_the_orm_deletes_it_too(self) -> None:
        Conversation.objects.all().delete()
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_a_deleted_message_takes_its_words_along(self) -> None:
        Message.objects.filter(pk=self.said[2].pk).delete()
        self.assertEqual(self.counts()[1], 2)
        self.assertFalse(self.stray_words().exists())
        self.assertEqual(words_of(self.said[0]), {"harbour", "deep"})

    def test_a_deleted_place_takes_its_words_along_whoever_deletes_it(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM message_places WHERE message_id = %s", [self.said[1].pk])
        self.assertFalse(self.stray_words().exists())
        self.assertEqual(words_of(self.said[2]), {"deep"})

    def test_a_deleted_person_leaves_nothing(self) -> None:
        alice().delete()
        self.assertEqual(self.counts(), (0, 0, 0))


class OlderMessagesTests(TransactionTestCase):
    def test_the_migration_places_what_was_written_before_it(self) -> None:
        conversation = start()
        said = say_all(conversation, *(f"harbour ship{n}" for n in range(30)))
        said += say_all(conversation, *(f"harbour boat{n}" for n in range(10)), parent=said[12])
        expected = self.state()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE messages DISABLE TRIGGER USER")
            cursor.execute("UPDATE messages SET branch_id = NULL")
            cursor.execute("ALTER TABLE messages ENABLE TRIGGER USER")
            cursor.execute("DELETE FROM message_places")
            cursor.execute("DELETE FROM message_branches")
        migration: Any = import_module("conversations.migrations.0023_place_messages")
        with (
            mock.patch.object(migration, "BATCH", 7),
            connection.schema_editor(atomic=False) as editor,
            mock.patch.object(editor, "execute", wraps=editor.execute) as executed,
        ):
            migration.place_messages(apps, editor)
        self.assertEqual(self.state(), expected)
        self.assertEqual(executed.call_count, 6)

    def test_vectors_follow_in_batches(self) -> None:
        said = say_all(start(), *(f"harbour ship{n}" for n in range(12)))
        MessagePlace.objects.update(embedding=None)
        with (
            mock.patch.object(meanings, "BATCH", 5),
            mock.patch.object(meanings, "_embed", wraps=meanings._embed) as batch,
        ):
            self.assertTrue(meanings.embed_all())
        self.assertEqual([len(call.args[0]) for call in batch.call_args_list], [5, 5, 2])
        self.assertFalse(MessagePlace.objects.filter(embedding=None).exists())
        vector, expected = MessagePlace.objects.get(message=said[4]).embedding, embed(said[4].content)
        assert expected is not None
        self.assertLess(abs(vector - expected).max(), 1e-5)

    def state(self) -> list[Any]:
        places = MessagePlace.objects.order_by("depth", "message_id")
        lines = {
            pk: n for n, pk in enumerate(MessageBranch.objects.order_by("pk").values_list("pk", flat=True))
        }
        return [
            (place.message_id, lines[place.branch_id], place.depth, words_of(place.message))
            for place in places.select_related("message")
        ]
