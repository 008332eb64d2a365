"""The second look: how close words come to those of a message, what is looked at, and the formula written out."""

from __future__ import annotations

import math
import random
import re
from unittest import mock
from uuid import UUID

import numpy as np
from django.test import TransactionTestCase
from hypothesis import given
from hypothesis import strategies as st

from conversations import meanings, retrieval
from conversations.llm import embeddings
from conversations.llm.embeddings import meaning
from conversations.models import MessagePlace
from conversations.reranking import FORMULA, Signals, closest, rerank, shortlist

from .trees import ids, recalled, say, say_all, start

numbers = st.floats(0, 1, width=32)


def pieces(text: str) -> bytes:
    found = meaning(text)
    assert found is not None
    return found.pieces


def test_a_word_is_as_close_as_the_closest_word_of_a_message() -> None:
    messages = ["My daughter was born in May.", "We sailed past the harbour.", "The invoice, and a ship."]
    found = closest(["child", "boat"], [*map(pieces, messages), b""])
    assert found is not None
    child, boat = found
    assert child.argmax() == 0 and boat.argsort()[-2:].tolist() == [1, 2]
    assert child[3] == boat[3] == 0, "what has no pieces is like nothing"
    alone = closest(["child"], [pieces("My daughter")])
    assert alone is not None and np.isclose(alone[0, 0], child[0], atol=1e-6), "the others are no matter"


def test_pieces_that_no_vectors_know_are_like_nothing() -> None:
    found = closest(["boat"], [np.array([65_535], embeddings.PIECE).tobytes(), pieces("A ship")])
    assert found is not None and found[0, 0] == 0 < found[0, 1]


def test_without_a_word_there_is_no_second_look() -> None:
    assert closest([], [pieces("A ship")]) is None


@given(st.lists(st.tuples(numbers, st.integers(1, 400)), max_size=400), st.integers(1, 4_000))
def test_more_is_looked_at_than_fits_and_no_more_than_pays(
    messages: list[tuple[float, int]], room: int
) -> None:
    scores, costs = np.array([s for s, _ in messages], float), np.array([c for _, c in messages], float)
    at = shortlist(scores, costs, room).tolist()
    telling = [n for n, score in enumerate(scores) if score > 0]
    if sum(costs[telling]) <= room:
        assert at == [], "all of it comes back"
        return
    assert at == sorted(set(at)) and len(at) <= FORMULA.most and set(at) <= set(telling)
    assert min(scores[at]) >= max((scores[n] for n in telling if n not in at), default=0)
    if len(at) < min(len(telling), FORMULA.most):
        assert len(at) >= FORMULA.least and sum(costs[at]) >= FORMULA.rooms * room
    if len(at) > FORMULA.least:
        assert sum(costs[at]) - max(costs[at]) <= FORMULA.rooms * room


@given(
    st.lists(st.tuples(numbers, numbers, numbers, numbers, st.integers(1, 500), st.booleans()), min_size=1),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_the_second_score_is_the_formula(
    messages: list[tuple[float, float, float, float, int, bool]], words: int, source: random.Random
) -> None:
    scores, word, cosine, shares, tokens, _ = (
        np.array(column, float) for column in zip(*messages, strict=True)
    )
    at = np.array([n for n, one in enumerate(messages) if one[5]], int)
    if not len(at):
        return
    cosines = np.array([[source.uniform(-0.2, 1) for _ in at] for _ in range(words)])
    first = Signals(words=word, meaning=cosine, together=shares)
    found = rerank(scores, at, cosines, first=first, tokens=tokens)

    place = {n: k for k, n in enumerate(at.tolist())}
    each = [[max((c - 0.15) / 0.85, 0) for c in row] for row in cosines.tolist()]
    having = [min(sum(row), len(at)) for row in each]
    rarity = [max(math.log(1 + (len(at) - n + 0.5) / (n + 0.5)), 0.05) for n in having]

    def mean(values: list[float]) -> float:
        return sum(r * v for r, v in zip(rarity, values, strict=True)) / sum(rarity)

    raw = [mean([row[k] for row in each]) for k in range(len(at))]
    least, most = min(raw), max(raw)

    def close(n: int) -> float:
        if n not in place:
            return 0.0
        return (raw[place[n]] - least) / (most - least) if most > least else math.copysign(least > 0, 1)

    def both(n: int) -> float:
        if not 0 <= n < len(messages):
            return 0.0
        return float((0.5 * word[n] + 0.5 * cosine[n] + 0.6 * close(n)) ** 2.5)

    def expected(n: int) -> float:
        around = [[row[place[m]] for m in range(n - 5, n + 6) if m in place] for row in each]
        near = 3 * mean([max(row) for row in around]) + 0.75 * shares[n]
        smooth = both(n) + sum(
            share * (both(n - k) + both(n + k)) for k, share in ((1, 0.4), (2, 0.2), (3, 0.1))
        )
        return float((smooth + near * (0.8 * cosine[n] + 0.2 * close(n))) / max(tokens[n], 60) ** 0.5)

    if np.ptp(raw) > 1e-9 or len(at) == 1:
        assert np.allclose(found[at], [expected(n) for n in at.tolist()])
    others = [n for n in range(len(messages)) if n not in place]
    assert all(found[n] <= found[at].min() for n in others)
    assert np.allclose(
        np.argsort(found[others], kind="stable"), np.argsort(scores[others], kind="stable")
    ) or (found[at].min() == 0)


class LookAgainTests(TransactionTestCase):
    """The answer is one sentence of a message about something else, and in other words than the question."""

    QUESTION = "What is my baby called?"
    ANSWER = (
        "Sorry for the odd hours, our newborn Emilia keeps us awake. How would one join two tables on a date when one "
        "of them has a row per hour? Should the planner scan the bigger one first, and does an index on the column of "
        "the smaller one help at all? The query takes four seconds with a merge and nine with nested loops."
    )

    def setUp(self) -> None:
        conversation = start()
        names = [
            "invoice",
            "harbour",
            "index",
            "parser",
            "kettle",
            "garden",
            "engine",
            "ledger",
            "printer",
            "socket",
        ]
        talk = [
            f"How is the {a} what people say of the {b}? My notes call it {number}."
            for number, (a, b) in enumerate((a, b) for a in names for b in names if a != b)
        ]
        said = say_all(conversation, *talk[:45], self.ANSWER, *talk[45:])
        self.answer, self.leaf = said[45], say(conversation, said[-1], "?")

    def found(self) -> list[UUID]:
        found = ids(recalled(self.leaf, self.QUESTION, room=1_000))
        self.assertGreater(len(found), 10)
        return found

    def test_an_answer_that_shares_no_word_with_the_question_is_found(self) -> None:
        shared = set(re.findall(r"\w+", self.QUESTION.lower())) & set(re.findall(r"\w+", self.ANSWER.lower()))
        self.assertEqual(shared, set())
        self.assertGreater(self.found().index(self.answer.pk), 10, "the mean of its words is about tables")
        meanings.embed_all()
        self.assertEqual(self.found()[0], self.answer.pk)

    def test_messages_whose_pieces_are_still_to_be_made_lose_nothing_by_it(self) -> None:
        before = self.found()
        meanings.embed_all()
        MessagePlace.objects.filter(message=self.answer).update(pieces=None)
        self.assertEqual(self.found(), before)

    def test_nothing_is_looked_at_again_where_all_fits(self) -> None:
        meanings.embed_all()
        with mock.patch.object(retrieval, "closest") as looked:
            recalled(self.leaf, self.QUESTION, room=100_000)
        looked.assert_not_called()
