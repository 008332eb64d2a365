"""What comes back for a question: from the path alone, by words and by meaning, in as many tokens as there is room."""

from __future__ import annotations

import random
import time
from typing import Any
from unittest import mock

import psycopg
from django.db import connection
from django.test import TransactionTestCase
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conversations import meanings, retrieval
from conversations.database import PLAN_ONCE
from conversations.llm import embeddings
from conversations.models import Message, MessagePlace
from conversations.reranking import FORMULA as LOOK_AGAIN
from tests.cast import bob

from .trees import grow, ids, path_of, recalled, say, say_all, start


class IsolationTests(TransactionTestCase):
    def test_no_other_branch_ever_leaks_in(self) -> None:
        @hypothesis_settings(max_examples=12)
        @given(seed=st.integers(0, 2**32))
        @example(seed=8879)  # a message that becomes the first of its conversation
        def check(seed: int) -> None:
            source = random.Random(seed)
            tree = grow(start(), source, size=source.randint(2, 24))
            other = say_all(start(), *(f"harbour number{n}x" for n in range(30)))
            for leaf in source.sample(tree, min(3, len(tree))):
                path = path_of(leaf)
                before = source.choice([None, source.choice(path)])
                allowed = path[: path.index(before)] if before else path[:-1]
                self.assertLessEqual(set(ids(recalled(leaf, "harbour", before=before))), set(allowed))
                asked = source.choice([*tree, *other])
                may_come = asked.pk in allowed and not asked.is_set_aside
                with mock.patch.object(retrieval, "embed_aside", return_value=None):
                    found = ids(recalled(leaf, asked.content.split()[1], before=before))
                self.assertEqual(asked.pk in found, may_come)

        check()

    def test_the_tables_of_words_are_loaded_only_for_what_has_vectors(self) -> None:
        said = say_all(
            start(), "The harbour is deep.", "Noted.", "And wide?", "Yes.", "Where is the harbour?"
        )
        MessagePlace.objects.filter(message__in=said).update(embedding=None)
        with mock.patch.object(embeddings, "_loaded", None), mock.patch.object(embeddings, "_load") as load:
            load.return_value = None
            self.assertIn(said[0].pk, ids(recalled(said[-1], "Where is the harbour?")))
            load.assert_not_called()
            vector = [1.0] + [0.0] * (embeddings.DIMENSIONS - 1)
            MessagePlace.objects.filter(message=said[0]).update(embedding=vector)
            recalled(said[-1], "Where is the harbour?")
            load.assert_called()

    def test_places_are_what_walking_the_tree_says(self) -> None:
        for seed in range(6):
            tree = grow(start(), random.Random(seed), size=30)
            for message in tree:
                self.assertEqual(message.path_messages, len(path_of(message)))
                place = MessagePlace.objects.get(message=message)
                self.assertEqual(
                    (place.branch_id, place.depth, place.is_set_aside),
                    (message.branch_id, message.path_messages, message.is_set_aside),
                )
            self.assertEqual(
                len({(m.branch_id, m.path_messages) for m in tree}), len(tree), "two stand on one place"
            )

    def test_a_leaf_of_another_conversation_finds_nothing(self) -> None:
        mine, theirs = start(), start()
        theirs.user = bob()
        theirs.save()
        said = say_all(theirs, "The code is 4711.", "Noted.", "What is the code?")
        say_all(mine, "Hello.", "Hello.")
        self.assertTrue(recalled(said[-1], "What is the code?"))
        said[-1].conversation_id = mine.pk
        self.assertEqual(recalled(said[-1], "What is the code?"), [])

    def test_what_is_set_aside_stays_out_until_it_is_kept(self) -> None:
        conversation = start()
        question = say(conversation, None, "Where is the lighthouse?")
        cut = say(conversation, question, "The lighthouse stands near", is_set_aside=True)
        leaf = say(conversation, cut, "And now?")
        self.assertNotIn(cut.pk, ids(recalled(leaf, "lighthouse near")))
        Message.objects.filter(pk=cut.pk).update(is_set_aside=False)
        self.assertIn(cut.pk, ids(recalled(leaf, "lighthouse near")))


class RankingTests(TransactionTestCase):
    def test_the_words_of_a_question_find_their_message(self) -> None:
        _, wanted, *_, leaf = say_all(
            start(),
            "My sister's cat is called Muffin and she is four years old.",
            "The invoice number is 8841-B and it was paid in March.",
            "We talked about the weather in Bergen.",
            "The train leaves at nine.",
            "Which invoices did we pay?",
        )
        (best,) = recalled(leaf, "Which invoices were paid?", room=wanted.token_count)
        message = best.message
        self.assertEqual(
            (message.id, message.content, message.role), (wanted.pk, wanted.content, wanted.role)
        )
        self.assertEqual((message.tokens, message.created_at), (wanted.token_count, wanted.created_at))

    def test_meaning_finds_what_shares_no_word_with_the_question(self) -> None:
        wanted, *_, leaf = say_all(
            start(),
            "My physician told me to avoid peanuts.",
            "The deployment failed because of a missing certificate.",
            "Rust compiles slowly.",
            "The train leaves at nine.",
            "Next.",
        )
        question = "Which foods am I allergic to?"
        (best,) = recalled(leaf, question, room=wanted.token_count)
        self.assertEqual(best.message.id, wanted.pk)
        with mock.patch.object(retrieval, "embed_aside", return_value=None):
            self.assertNotIn(wanted.pk, ids(recalled(leaf, question, room=wanted.token_count)))

    def test_without_embeddings_words_alone_find_it(self) -> None:
        with (
            mock.patch.object(embeddings, "_loaded", None),
            mock.patch.object(embeddings, "_is_missing", True),
        ):
            said = say_all(start(), "The password is swordfish.", "Noted.", "It rains.", "Yes.", "Well?")
            self.assertFalse(MessagePlace.objects.exclude(embedding=None).exists())
            found = recalled(said[-1], "What was the password again?")
        self.assertEqual(found[0].message.id, said[0].pk)

    def test_neighbours_of_what_fits_come_along(self) -> None:
        others = ["Rain."] * 10
        said = say_all(
            start(), *others, "Hm.", "Yes.", "Which port does Valkey use?", "6399.", "Thanks.", *others, "So?"
        )
        with mock.patch.object(retrieval, "embed_aside", return_value=None):
            found = ids(recalled(said[-1], "valkey port"))
        self.assertEqual(found[0], said[12].pk)
        self.assertEqual(set(found[1:3]), {said[11].pk, said[13].pk})
        self.assertEqual(set(found), {m.pk for m in said[7:18]}, "five on either side")

    def test_a_name_in_every_message_does_not_say_what_a_question_means(self) -> None:
        embedded = mock.AsyncMock(side_effect=embeddings.embed)
        lines = [f"Anna: {word} again." for word in ("rain", "tea", "trains", "music", "books", "wind") * 5]
        said = say_all(start(), *lines, "Anna: the physician told me to avoid peanuts.", "Next?")
        with mock.patch.object(retrieval, "embed_aside", embedded):
            recalled(said[-1], "Which foods is Anna allergic to?")
            recalled(said[-1], "Anna?")
        self.assertEqual([call.args[0] for call in embedded.call_args_list], ["foods allergic", "Anna?"])

    def test_a_stop_word_of_the_question_is_none_in_another_language(self) -> None:
        said = say_all(
            start(),
            "Der Zug war um neun Uhr in der Stadt, und das Wetter war nicht gut.",
            "That was the war that we read about in the book.",
            *["It is raining in the north of the country, and that was it."] * 4,
            "And?",
        )
        with mock.patch.object(retrieval, "embed_aside", return_value=None):
            found = recalled(said[-1], "Wann war das mit der Stadt?")
        self.assertEqual(found[0].message.id, said[0].pk)
        with mock.patch.object(retrieval, "bm25", wraps=retrieval.bm25) as read:
            recalled(said[-1], "Wann war das?")
        self.assertEqual(len(read.call_args.args[0].at), 0, "`war` is a word in English")

    def test_the_room_is_never_passed_and_is_used(self) -> None:
        said = say_all(start(), *(f"harbour ship{n} " * (n % 9 + 1) for n in range(60)))
        for room in (0, 50, 333):
            found = recalled(said[-1], "harbour ship3", room=room, overhead=10)
            self.assertEqual(found, sorted(found, key=lambda r: -r.score), "the best first")
            spent = sum(r.message.tokens + 10 for r in found)
            self.assertLessEqual(spent, room)
        self.assertGreater(spent, 300)

    def test_what_is_too_long_for_the_room_comes_alone(self) -> None:
        *_, best, leaf = say_all(
            start(), "Hm." * 200, "Yes." * 200, "The harbour is deep. " * 200, "How deep?"
        )
        self.assertEqual(ids(recalled(leaf, "harbour", room=100)), [best.pk])
        self.assertEqual(recalled(leaf, "harbour", room=0), [])

    def test_what_the_request_holds_already_is_skipped(self) -> None:
        said = say_all(start(), *(f"harbour ship{n}" for n in range(20)))
        found = recalled(said[-1], "harbour ship3", before=said[10].pk, skip=[said[3].pk])
        self.assertTrue(found)
        self.assertLessEqual(set(ids(found)), {m.pk for m in said[:10]} - {said[3].pk})

    def test_a_first_message_recalls_nothing(self) -> None:
        leaf = say(start(), None, "Hello?")
        self.assertEqual(recalled(leaf, "Hello?"), [])

    def test_hostile_questions_are_only_questions(self) -> None:
        said = say_all(start(), "The harbour is deep.", "Yes.", "And?")
        for question in (
            "",
            " ",
            "\x00",
            "\ud800 harbour",
            "'; DROP TABLE users --",
            "%s %(x)s",
            "harbour & ! | (",
            "harbour " * 100_000,
            "\N{CAT FACE}" * 5_000,
        ):
            for found in recalled(said[-1], question):
                self.assertIn(found.message.id, [said[0].pk, said[1].pk])


class LanguageTests(TransactionTestCase):
    def finds(self, question: str, wanted: str, *others: str) -> None:
        """By words alone, before anything else."""
        said = say_all(start(), *others, wanted, *reversed(others), question)
        with mock.patch.object(retrieval, "embed_aside", return_value=None):
            found = recalled(said[-1], question)
        self.assertTrue(found)
        self.assertEqual(found[0].message.content, wanted)

    def test_german_inflection(self) -> None:
        self.finds(
            "Was war mit der Rechnung für die Lieferanten?",
            "Die Rechnungen der Lieferanten sind noch nicht bezahlt.",
            "Wir haben das Haus mit einem neuen Dach versehen.",
            "Der Zug ist um neun Uhr in der Stadt.",
        )

    def test_norwegian_inflection(self) -> None:
        self.finds(
            "Hva var det med fakturaen?",
            "Jeg har ikke betalt fakturaene for strømmen.",
            "Vi skal på hytta til helgen, og det er fint vær.",
            "Toget går klokka ni, men jeg er ikke klar.",
        )

    def test_chinese_has_no_spaces(self) -> None:
        self.finds("发票付了吗？", "三月的发票已经付了。", "今天天气很好。", "火车九点出发。")

    def test_japanese_has_no_spaces(self) -> None:
        self.finds(
            "請求書は払いましたか？",
            "三月の請求書はもう払いました。",
            "今日はいい天気です。",
            "電車は九時に出ます。",
        )

    def test_a_short_question_is_read_like_the_conversation(self) -> None:
        self.finds(
            "Rechnungen?",
            "Die Rechnung ist noch nicht bezahlt.",
            "Wir haben das Haus mit einem neuen Dach versehen.",
            "Der Zug ist um neun Uhr in der Stadt.",
        )

    def test_a_change_of_language_hides_nothing(self) -> None:
        self.finds(
            "Und was stand in dem Brief wegen invoice 8841?",
            "The invoices with the number 8841 are the ones that we have not paid.",
            "It is raining in the north of the country.",
            "Der Zug ist um neun Uhr in der Stadt.",
        )


class BoundTests(TransactionTestCase):
    def test_four_statements_and_few_rows_whatever_the_length(self) -> None:
        conversation = start()
        leaf = self.long(conversation, 3_000)
        meanings.embed_all()
        seen: list[tuple[str, int]] = []
        execute = psycopg.AsyncCursor.execute

        async def counted(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            done = await execute(cursor, query, *arguments, **options)
            seen.append((str(query), cursor.rowcount))
            return done

        with mock.patch.object(psycopg.AsyncCursor, "execute", counted):
            found = recalled(leaf, "Which harbour has ship17?", room=1_000)
        asked = [rows for query, rows in seen if query != PLAN_ONCE]
        self.assertEqual(asked, [1, 1, LOOK_AGAIN.most, len(found)])
        self.assertLess(len(found), 1_000 / 4)

    def test_a_common_word_reads_no_more_postings_than_a_few_thousand(self) -> None:
        leaf = self.long(start(), 1_500)
        read: list[int] = []
        unpack = retrieval._unpacked

        def counted(places: bytes, postings: bytes) -> retrieval.Candidates:
            read.append(len(postings) // 16)
            return unpack(places, postings)

        with (
            mock.patch.object(retrieval, "POSTINGS", 500),
            mock.patch.object(retrieval, "_unpacked", counted),
        ):
            recalled(leaf, "harbour in deep water has " + " ".join(f"ship{n}" for n in range(40)), room=1_000)
        self.assertLessEqual(read[0], 2 * 500)

    def test_a_path_with_hundreds_of_forks_is_still_found(self) -> None:
        conversation, parent, path = start(), None, []
        for number in range(120):
            if number % 2:
                say(conversation, parent, "harbour discarded", embedded=False)
            parent = say(conversation, parent, f"harbour ship{number}", embedded=False)
            path.append(parent.pk)
        assert parent is not None
        began = time.process_time()
        found = set(ids(recalled(parent, "harbour")))
        self.assertLess(time.process_time() - began, 1)
        self.assertLessEqual(found, set(path[:-1]))
        self.assertGreater(len(found), 100)

    def long(self, conversation: Any, length: int) -> Message:
        """A straight line of messages, written by one statement."""
        with connection.cursor() as cursor:
            cursor.execute(
                """
                DO $$ DECLARE above uuid; BEGIN
                FOR n IN 1..%s LOOP
                    INSERT INTO messages (id, conversation_id, parent_id, role, content, token_count)
                    VALUES (gen_random_uuid(), %s, above, CASE n %% 2 WHEN 1 THEN 'user' ELSE 'assistant' END,
                        'The harbour has deep water and ship' || n, 9) RETURNING id INTO above;
                END LOOP; END $$
                """.replace("%s", "{}", 1)
                .replace("%s", "'{}'", 1)
                .replace("%%", "%")
                .format(length, conversation.pk)
            )
        leaf: Message = conversation.messages.latest("path_messages")
        return leaf
