"""The formula of recall, against the same written out message by message; and what is packed."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conversations.retrieval import Candidates, bm25, pack, score, together

numbers = st.floats(0, 1, width=32)
costs = st.integers(1, 500)


def candidates(tokens: list[float], cosines: list[float], postings: list[tuple[int, int, int]]) -> Candidates:
    at, word, frequency = zip(*postings, strict=True) if postings else ((), (), ())
    return Candidates(
        places=np.arange(1, len(tokens) + 1),
        tokens=np.array(tokens, float),
        cosines=np.array(cosines, float),
        at=np.array(at, int),
        word=np.array(word, int),
        frequency=np.array(frequency, float),
    )


def test_bm25_is_okapis() -> None:
    found = bm25(candidates([10, 20, 30], [0, 0, 0], [(0, 1, 2), (1, 1, 1), (1, 2, 1)]))

    def part(frequency: int, length: float, having: int) -> float:
        rarity = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return rarity * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / 20))

    assert np.allclose(found, [part(2, 10, 2), part(1, 20, 2) + part(1, 20, 1), 0])


@given(st.lists(st.tuples(costs, numbers, st.integers(0, 3)), min_size=1, max_size=30))
def test_the_score_is_the_formula(messages: list[tuple[int, float, int]]) -> None:
    tokens, cosines, times = [m[0] for m in messages], [m[1] for m in messages], [m[2] for m in messages]
    found = candidates(list(map(float, tokens)), cosines, [(at, 1, n) for at, n in enumerate(times) if n])

    def minmax(values: list[float]) -> list[float]:
        least, most = min(values), max(values)
        return [
            (value - least) / (most - least) if most > least else math.copysign(value > 0, 1)
            for value in values
        ]

    words, meaning = minmax(list(bm25(found))), minmax([float(np.float64(value)) for value in cosines])
    has_meaning = any(meaning)
    both = [(0.6 * w + 0.4 * m) ** 2 if has_meaning else w for w, m in zip(words, meaning, strict=True)]

    def near(at: int, distance: int) -> float:
        return sum(both[n] for n in (at - distance, at + distance) if 0 <= n < len(both))

    def expected(at: int) -> float:
        has_word = any(times[max(at - 5, 0) : at + 6])
        whole = has_word * (1.5 * meaning[at] if has_meaning else 0.3)
        total = both[at] + 0.4 * near(at, 1) + 0.2 * near(at, 2) + 0.1 * near(at, 3) + whole
        return float(total / max(tokens[at], 60) ** 0.5)

    assert np.allclose(score(found), [expected(at) for at in range(len(both))])


def test_words_that_stand_near_each_other_answer_together() -> None:
    apart = [(0, 1, 1), (8, 2, 1), (16, 3, 1)]
    shares = together(candidates([50] * 17, [math.nan] * 17, apart), 5)
    assert np.allclose(shares * 3, [1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1])
    assert np.allclose(together(candidates([50] * 3, [0] * 3, []), 5), 0)


def test_messages_without_a_vector_count_by_their_words() -> None:
    found = score(candidates([50] * 13, [math.nan] * 13, [(6, 1, 1)]))
    assert list(np.argsort(-found)[:1]) == [6] and found[0] == 0 and found[5] > found[4] > found[3] > 0


@given(st.lists(st.tuples(costs, numbers), max_size=60), st.integers(0, 2_000))
def test_packing_is_greedy_and_never_passes_the_room(messages: list[tuple[int, float]], room: int) -> None:
    scores, tokens = np.array([s for _, s in messages], float), np.array([c for c, _ in messages], float)
    chosen = pack(scores, tokens, room)
    assert sum(tokens[chosen]) <= room
    left, expected = room, []
    for at in sorted(range(len(messages)), key=lambda at: (-scores[at], -at)):
        if scores[at] > 0 and tokens[at] <= left:
            expected.append(at)
            left -= int(tokens[at])
    assert chosen == expected
