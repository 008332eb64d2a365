"""The second look of recall: how close each word of the question comes to any word of the best messages.

Those that many words would find together, or one by its meaning alone, move up. What is kept of a message for that is
which pieces of words it has (`llm.embeddings.Meaning`); nothing of its text is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conversations.llm.embeddings import PIECE, likeness

Numbers = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]

#: Words of a question that are compared, at most.
COMPARED_WORDS = 24


@dataclass(frozen=True, kw_only=True)
class Formula:
    """The constants of `rerank`. See docs/decisions/0096-recall-measured.md."""

    rooms: float = 4.0  #: times the room: so many tokens are looked at again
    least: int = 64  #: messages that are, whatever their tokens
    most: int = 300
    like: float = 0.15  #: cosine of a word and a piece below which they have nothing in common
    words: float = 0.5  #: weight of BM25
    meaning: float = 0.5  #: weight of the cosine
    close: float = 0.6  #: weight of the closest words
    power: float = 2.5
    beside: tuple[float, ...] = (0.4, 0.2, 0.1)  #: a message's part of the scores one, two and three away
    around: int = 5  #: messages on either side whose closest words answer a question together
    close_together: float = 3.0  #: weight of that
    together: float = 0.75  #: weight of the same with the words as they stand
    by_close: float = 0.2  #: that both count by the closest words; what is left of 1, by the cosine
    short: int = 60  #: tokens below which a message is no shorter


FORMULA = Formula()


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known of each message of a path from the first look, each from 0 to 1."""

    words: Numbers  #: BM25
    meaning: Numbers  #: cosine
    together: Numbers  #: share of the question's words that it and those around it have


def shortlist(scores: Numbers, costs: Numbers, room: float, formula: Formula = FORMULA) -> Positions:
    """The best messages, by position on the path: more than the room holds; none if it holds all that say anything."""
    best = np.flatnonzero(scores > 0)
    if costs[best].sum() <= room:
        return best[:0]
    if len(best) > formula.most:
        best = best[np.argpartition(scores[best], -formula.most)[-formula.most :]]
    best = best[np.argsort(scores[best], kind="stable")[::-1]]
    enough = int(np.searchsorted(np.cumsum(costs[best]), formula.rooms * room)) + 1
    return np.sort(best[: max(enough, formula.least)])


def closest(words: Sequence[str], messages: Sequence[bytes]) -> Numbers | None:
    """The cosine of each word to the piece of each message that is most like it, from `Meaning.pieces`; 0 without any.

    None if no word has a vector. 1 ms for 300 short messages, 3 ms and 3 MB for as many long ones.
    """
    # Each message begins with a piece that is like nothing, so that none is empty.
    numbers = np.frombuffer(b"".join([b"\0\0" + pieces for pieces in messages]), PIECE)
    begins = np.cumsum([0, *(len(pieces) // PIECE.itemsize + 1 for pieces in messages[:-1])])
    kinds = np.flatnonzero(np.bincount(numbers))
    found = likeness(words[:COMPARED_WORDS], kinds)
    if found is None:
        return None
    found[:, 0] = 0
    column = np.zeros(kinds[-1] + 1, np.int64)
    column[kinds] = np.arange(len(kinds))
    at = column[numbers]
    return np.array([np.maximum.reduceat(row[at], begins) for row in found], np.float64)


def rerank(
    scores: Numbers,
    at: Positions,
    cosines: Numbers,
    *,
    first: Signals,
    tokens: Numbers,
    formula: Formula = FORMULA,
) -> Numbers:
    """The scores with the messages `at` ahead of all others, in the order of the second look.

    `(smooth((0.5 words + 0.5 meaning + 0.6 close) ** 2.5) + (3 close_together + 0.75 together) *
    (0.8 meaning + 0.2 close)) / max(tokens, 60) ** 0.5`, where `close` is the mean of `cosines` (of `closest`) over the
    question's words, those that few of the messages come close to counting for more.
    """
    each = np.clip((cosines - formula.like) / (1 - formula.like), 0, 1)
    having = np.minimum(each.sum(axis=1), len(at))
    rarity = np.maximum(np.log1p((len(at) - having + 0.5) / (having + 0.5)), 0.05)
    rarity /= rarity.sum()
    close = np.zeros(len(scores))
    close[at] = from_0_to_1(rarity @ each)
    together = np.zeros(len(scores))
    together[at] = rarity @ _around(each, at, formula.around)
    both = formula.words * first.words + formula.meaning * first.meaning + formula.close * close
    smooth = beside(both**formula.power, formula.beside)
    smooth += (formula.close_together * together + formula.together * first.together) * (
        (1 - formula.by_close) * first.meaning + formula.by_close * close
    )
    found = smooth / np.sqrt(np.maximum(tokens, formula.short))
    others = np.ones(len(scores), bool)
    others[at] = False
    least, most = found[at].min(), scores[others].max(initial=0)
    return np.where(others, scores * (0.99 * least / most if most > 0 else 0), found)


def beside(values: Numbers, shares: Sequence[float]) -> Numbers:
    """With a share of each value that stands one, two and more away."""
    smooth = values.copy()
    for distance, share in enumerate(shares, start=1):
        smooth[distance:] += share * values[:-distance]
        smooth[:-distance] += share * values[distance:]
    return smooth


def _around(each: Numbers, at: Positions, distance: int) -> Numbers:
    """Of each row the most among the messages `at` that stand no farther away on the path."""
    most = each.copy()
    for step in range(1, min(distance, len(at) - 1) + 1):  # `at` is sorted, so nobody nearer is farther in it
        is_near = at[step:] - at[:-step] <= distance
        later, earlier = np.flatnonzero(is_near) + step, np.flatnonzero(is_near)
        most[:, earlier] = np.maximum(most[:, earlier], each[:, later])
        most[:, later] = np.maximum(most[:, later], each[:, earlier])
    return most


def from_0_to_1(values: Numbers) -> Numbers:
    """Stretched so that the least is 0 and the most is 1; what is unknown is 0."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    least, most = values[known].min(), values[known].max()
    stretched = (values - least) / (most - least) if most > least else np.where(values > 0, 1.0, 0.0)
    return np.where(known, stretched, 0.0)
