"""Recall over messages in memory: the product's formula, for what is in no database."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from conversations.context.plan import RecallWanted
from conversations.context.view import HistoryMessage, Recalled
from conversations.llm.embeddings import DIMENSIONS, Vector, embed, meaning
from conversations.reranking import shortlist
from conversations.retrieval import (
    COMMON,
    MEANT_WORDS,
    NEVER_COMMON,
    RAREST_WORDS,
    Candidates,
    Numbers,
    looked_at_again,
    pack,
    score,
    signals,
)

_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a about all am an and any are as at be been but by can could did do does for from had has have he her him his "
        "how i if in is it its just me my no not of on or our she should so some than that the their them then there "
        "these they this to was we were what when where which who why will with would you your"
    )
)
_ENDINGS = ("ingly", "ations", "ation", "ings", "ing", "edly", "ies", "ied", "ed", "es", "ly", "s", "y", "e")


class Recollection:
    """One conversation's messages, read as they come. Words are cut by simple rules where PostgreSQL has a stemmer."""

    def __init__(self, *, overhead: int) -> None:
        self.overhead = overhead
        self._places: dict[object, int] = {}
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._vectors = np.zeros((64, DIMENSIONS), np.float32)
        self._pieces: dict[int, bytes] = {}  #: by place, from 1
        self._tokens: list[int] = []
        self._asked: dict[str, Vector | None] = {}

    def __call__(
        self, question: HistoryMessage, path: Sequence[HistoryMessage], wanted: RecallWanted
    ) -> list[Recalled]:
        for message in path[len(self._tokens) :]:
            self._read(message)
        if not path:
            return []
        meant, candidates = self._candidates(question.content, len(path))
        first = signals(candidates)
        scores = score(candidates, first=first)
        scores[[place for pk in wanted.skip if (place := self._places.get(pk, len(path))) < len(path)]] = 0.0
        costs = candidates.tokens + self.overhead
        at = shortlist(scores, costs, wanted.room)
        if np.isfinite(candidates.cosines[at]).any():
            scores = looked_at_again(scores, at, self._pieces, meant, candidates, first)
        chosen = pack(scores, costs, wanted.room)
        if not chosen and scores.any():
            chosen = [int(scores.argmax())]
        found = [Recalled(message=path[at], score=float(scores[at])) for at in chosen]
        return sorted(found, key=lambda one: one.score, reverse=True)

    def _read(self, message: HistoryMessage) -> None:
        at = len(self._tokens)
        if at == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        found = meaning(message.content)
        self._vectors[at] = np.nan if found is None else found.vector
        if found is not None:
            self._pieces[at + 1] = found.pieces
        self._places[message.id] = at
        self._tokens.append(0 if message.is_set_aside else message.tokens)
        for stem, times in Counter(map(_stem, _words(message.content))).items():
            self._postings[stem].append((at, times))

    def _candidates(self, question: str, size: int) -> tuple[list[str], Candidates]:
        """The words that the question's meaning is taken from, and what is known of the path."""
        found = {word: self._found(_stem(word), size) for word in dict.fromkeys(_words(question))}
        meant = [word for word, at in found.items() if len(at) <= max(COMMON * size, NEVER_COMMON)]
        stems = {_stem(word): at for word, at in found.items() if len(at)}
        rarest = sorted(stems.values(), key=len)[:RAREST_WORDS]
        postings = np.concatenate([np.zeros((0, 2), np.int64), *rarest])
        return meant[:MEANT_WORDS], Candidates(
            places=np.arange(1, size + 1),
            tokens=np.array(self._tokens[:size], float),
            cosines=self._cosines(" ".join(meant[:MEANT_WORDS]) or question, size),
            at=postings[:, 0],
            word=np.repeat(np.arange(len(rarest)), [len(at) for at in rarest]),
            frequency=postings[:, 1].astype(float),
        )

    def _found(self, stem: str, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        postings = [posting for posting in self._postings.get(stem, ()) if posting[0] < size]
        return np.array(postings, np.int64).reshape(-1, 2)

    def _cosines(self, text: str, size: int) -> Numbers:
        if text not in self._asked:
            self._asked[text] = embed(text)
        vector = self._asked[text]
        if vector is None:
            return np.full(size, np.nan)
        return (self._vectors[:size] @ vector).astype(np.float64)


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word
