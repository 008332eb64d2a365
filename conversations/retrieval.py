"""Recall: which earlier messages of a path say something about a question, as many as fit into some tokens.

What is searched is the path from the root to one leaf and nothing else. PostgreSQL finds the path, the postings of the
question's rarest words and the distance of each vector; the formula of `score` weighs them, and of the best messages
`reranking` compares word by word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from psycopg import AsyncCursor
from psycopg.rows import DictRow

from conversations.context.view import HistoryMessage, Recalled
from conversations.database import Pool
from conversations.kept_places import NEWS, PATH, KeptPlaces, Line, Stretch, array, reading, stretches
from conversations.llm.embeddings import Vector, are_missing, as_sql, embed_aside, may_load
from conversations.reranking import Signals, beside, closest, from_0_to_1, rerank, shortlist
from conversations.text import clean_text

#: Of a long question the beginning and the end are searched for.
QUESTION_HEAD, QUESTION_TAIL = 2_000, 2_000
#: Words of a question that are looked up, the rarest first, until they have led to this many messages.
RAREST_WORDS, POSTINGS = 16, 4_000
#: A word that a larger share of a conversation's messages has says nothing about meaning there: names, mostly. What so
#: few messages have is never common.
COMMON, NEVER_COMMON = 0.15, 5
#: Words that the meaning of a question is taken from, at most.
MEANT_WORDS = 64
#: Languages of a conversation that a question is read in.
LANGUAGES = 8
#: Messages that may come back.
MOST = 1_000

Numbers = npt.NDArray[np.float64]

#: One message of the path, and one posting, as PostgreSQL packs them: big-endian, and one row for all of them. Joining
#: bytes is what costs, so two numbers are packed as one.
_PLACE = np.dtype([("place", ">i8"), ("depth", ">i4"), ("tokens", ">i4"), ("cosine", ">f4")])
_POSTING = np.dtype([("place", ">i8"), ("word", ">i4"), ("frequency", ">i4")])


@dataclass(frozen=True, kw_only=True)
class Formula:
    """The constants of `score`. See docs/decisions/0096-recall-measured.md."""

    words: float = 0.6  #: weight of BM25; what is left of 1 is the weight of the cosine
    beside: tuple[float, ...] = (0.4, 0.2, 0.1)  #: a message's part of the scores one, two and three away
    around: int = 5  #: messages on either side whose words answer a question together
    together: float = 1.5  #: weight of that
    together_alone: float = 0.3  #: the same without a vector
    saturation: float = 1.2  #: BM25's k1
    length: float = 0.75  #: BM25's b
    short: int = 60  #: tokens below which a message is no shorter


FORMULA = Formula()


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The messages of a path and what is known of them, each array by position on the path."""

    places: npt.NDArray[np.int64]  #: 0: no message that may be recalled
    tokens: Numbers
    cosines: Numbers  #: NaN without a vector
    #: Postings: position on the path, number of the word, occurrences.
    at: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    word: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    frequency: Numbers = field(default_factory=lambda: np.zeros(0))


_HAS_VECTORS = """
SELECT EXISTS (
    SELECT FROM message_places WHERE conversation_id = %(conversation)s AND embedding IS NOT NULL
) AS has_vectors
"""

# Postings of messages that are not among the places count for nothing.
#
# A stop word of the question's own language says nothing in the other languages of its conversation either. A word and
# its lexemes stand at one position: the word at the end, which is none in any, lets pairs of characters begin at one.
_WORDS = f"""
{PATH}, spoken AS (
    SELECT DISTINCT unnest(languages) AS language FROM line LIMIT %(languages)s
), own AS (
    SELECT coalesce(message_language(%(question)s, before.language), before.language, 'simple') AS language
    FROM (SELECT (SELECT languages[cardinality(languages)] FROM line LIMIT 1) AS language) AS before
), written AS MATERIALIZED (
    SELECT lexeme, at FROM unnest(message_words('simple', %(question)s || ' endofquestion')), unnest(positions) AS at
    WHERE lexeme <> 'endofquestion'
), telling AS MATERIALIZED (
    SELECT at FROM own, unnest(message_words(own.language, %(question)s || ' endofquestion')), unnest(positions) AS at
), read AS MATERIALIZED (
    SELECT DISTINCT word.lexeme, written.lexeme AS word, written.at
    FROM spoken, unnest(message_words(spoken.language, %(question)s || ' endofquestion')) AS word,
        unnest(word.positions) AS position
        JOIN telling ON telling.at = position
        JOIN written ON written.at = position
), known AS MATERIALIZED (
    SELECT word.lexeme, posting.number AS messages
    FROM (SELECT DISTINCT lexeme FROM read) AS word CROSS JOIN LATERAL (
        SELECT p.number FROM message_postings p
        WHERE p.conversation_id = %(conversation)s AND p.lexeme = word.lexeme
        ORDER BY p.place_id DESC LIMIT 1
    ) AS posting
), rarest AS (
    SELECT row_number() OVER sorted AS number, lexeme, sum(messages) OVER sorted - messages AS rarer
    FROM known WINDOW sorted AS (ORDER BY messages, lexeme) ORDER BY number LIMIT %(rarest)s
)
SELECT
    ARRAY(SELECT id FROM line) AS lines,
    ARRAY(SELECT ends FROM line) AS ends,
    ARRAY(SELECT changed_in FROM line) AS changes,
    (
        SELECT json_agg(json_build_array(word, messages) ORDER BY at) FROM (
            SELECT word, coalesce(max(messages), 0) AS messages, min(at) AS at
            FROM read LEFT JOIN known USING (lexeme) GROUP BY word
        ) AS asked
    ) AS asked,
    (
        SELECT string_agg(int8send(p.place_id) || int8send(rarest.number << 32 | p.frequency), ''::bytea)
        FROM rarest CROSS JOIN LATERAL (
            SELECT place_id, frequency FROM message_postings
            WHERE conversation_id = %(conversation)s AND lexeme = rarest.lexeme
            ORDER BY place_id DESC LIMIT %(postings)s
        ) AS p
        WHERE rarest.rarer < %(postings)s
    ) AS postings,
    (SELECT json_object_agg(message_id, id) FROM message_places WHERE message_id = ANY(%(skip)s::uuid[])) AS skipped,
    news.*
FROM ({NEWS}) AS news
"""

_PLACES = """
SELECT string_agg(int8send(p.id) || int8send(p.depth::bigint << 32 | p.tokens)
    || float4send(coalesce(-(p.embedding <#> %(vector)s::vector), 'NaN')::real), ''::bytea) AS places
FROM unnest(%(lines)s::bigint[], %(untils)s::integer[]) AS line (id, until)
    JOIN message_places p ON p.branch_id = line.id
WHERE p.conversation_id = %(conversation)s AND p.depth <= line.until AND NOT p.is_set_aside
"""

_PIECES = """
SELECT id, pieces FROM message_places
WHERE id = ANY(%(places)s::bigint[]) AND conversation_id = %(conversation)s
    AND embedding IS NOT NULL AND pieces IS NOT NULL
"""

# Places may have been kept for a while: each is asked once more whether it is on the path.
_CONTENTS = """
SELECT p.id AS place, m.id, m.role, m.content, p.tokens, m.is_set_aside, m.created_at
FROM message_places p JOIN messages m ON m.id = p.message_id
    JOIN unnest(%(lines)s::bigint[], %(untils)s::integer[]) AS line (id, until)
        ON p.branch_id = line.id AND p.depth <= line.until
WHERE p.id = ANY(%(places)s::bigint[]) AND m.conversation_id = %(conversation)s AND NOT m.is_set_aside
"""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question and the path that it is asked on, before it is known what may come back."""

    conversation_id: UUID
    question: str
    path: list[Stretch]
    asked: Sequence[
        tuple[str, int]
    ]  #: words of the question, and how many messages of the conversation have each
    postings: bytes
    skipped: Mapping[str, int]  #: places by message
    lines: list[Line] | None  #: the path, where it is kept
    kept: KeptPlaces | None

    @property
    def depth(self) -> int:
        """Of the last message of the path."""
        return self.path[0].end

    def meant(self, last: int) -> list[str]:
        """The words that say what is asked among the messages up to the depth `last`."""
        most = max(round(COMMON * last, 6), NEVER_COMMON)
        return [word for word, messages in self.asked if messages <= most][:MEANT_WORDS]


async def look(
    pool: Pool,
    *,
    conversation_id: UUID,
    leaf_id: UUID,
    question: str,
    skip: Collection[UUID] = (),
    kept: KeptPlaces | None = None,
) -> Search | None:
    """Find the path from the root to `leaf_id`, and where it has the words of a question. None: nothing is before it.

    It may begin before it is known how much `choose` has room for. `skip`: all that it may be told to skip. Of a long
    path in use the places are `kept`.
    """
    async with reading(pool) as cursor:
        return await _look(cursor, conversation_id, leaf_id, question, skip, kept)


async def choose(
    pool: Pool,
    search: Search,
    *,
    room: int,
    last: int | None = None,
    skip: Collection[UUID] = (),
    overhead: int = 0,
    formula: Formula = FORMULA,
) -> list[Recalled]:
    """What the path says about the question, the best first.

    At most `room` tokens, each message counted with `overhead`; the best message alone if not one fits, to be cut to an
    excerpt. Neither the leaf itself, nor what is deeper than `last`, nor what is in `skip`, because the request holds
    these already; nor what is set aside.
    """
    async with reading(pool) as cursor:
        return await _choose(cursor, search, room, last, skip, overhead, formula)


async def has_vectors(pool: Pool, conversation_id: UUID) -> bool:
    """Whether a worker has made vectors of a conversation."""
    async with reading(pool) as cursor:
        return await _has_vectors(cursor, conversation_id)


async def _has_vectors(cursor: AsyncCursor[DictRow], conversation_id: UUID) -> bool:
    found = await cursor.execute(_HAS_VECTORS, {"conversation": conversation_id})
    row = await found.fetchone()
    return row is not None and row["has_vectors"]


async def _may_have_vectors(cursor: AsyncCursor[DictRow], search: Search, last: int) -> bool:
    """Whether a vector of the question can be like any: only then are the tables of words needed (25 MB)."""
    if search.lines is not None:
        return any(line.has_vectors(last) for line in search.lines)
    return not may_load() or await _has_vectors(cursor, search.conversation_id)


async def recall(
    pool: Pool,
    *,
    conversation_id: UUID,
    leaf_id: UUID,
    question: str,
    room: int,
    last: int | None = None,
    skip: Collection[UUID] = (),
    overhead: int = 0,
    formula: Formula = FORMULA,
    kept: KeptPlaces | None = None,
) -> list[Recalled]:
    """`look` and `choose` in one.

    Two statements where the path is kept: the words with their postings, 16 bytes each, and the contents. Of another
    path one more for its places, 20 bytes a message. A last one reads the pieces of the best messages, where there are
    vectors and more messages than room.
    """
    if last is not None and last < 1:
        return []
    async with reading(pool) as cursor:
        search = await _look(cursor, conversation_id, leaf_id, question, skip, kept)
        return await _choose(cursor, search, room, last, skip, overhead, formula) if search else []


async def prepare(cursor: AsyncCursor[DictRow]) -> None:
    """Let a connection plan what recall asks, which takes as long as to answer it. For `KeptPlaces`."""
    nobody = UUID(int=0)
    here = {"conversation": nobody, "lines": array(()), "untils": array(()), "places": array(())}
    await cursor.execute(_WORDS, _sought(nobody, nobody, "", (), {}))
    await cursor.execute(_PLACES, {**here, "vector": None})
    for statement in (_PIECES, _CONTENTS):
        await cursor.execute(statement, here)


def _sought(
    conversation_id: UUID, leaf_id: UUID, question: str, skip: Collection[UUID], told: Mapping[int, int]
) -> dict[str, Any]:
    return {
        "told": array(told),
        "since": array(told.values()),
        "conversation": conversation_id,
        "leaf": leaf_id,
        "question": question,
        "skip": array(skip),
        "languages": LANGUAGES,
        "rarest": RAREST_WORDS,
        "postings": POSTINGS,
    }


async def _look(
    cursor: AsyncCursor[DictRow],
    conversation_id: UUID,
    leaf_id: UUID,
    question: str,
    skip: Collection[UUID],
    kept: KeptPlaces | None,
) -> Search | None:
    question = _shortened(clean_text(question).text)
    told = kept.told(conversation_id) if kept is not None else {}
    await cursor.execute(_WORDS, _sought(conversation_id, leaf_id, question, skip, told))
    words = await cursor.fetchone()
    if words is None or not words["lines"]:
        return None
    path = stretches(words)
    if path[0].end < 2:
        return None
    lines = None
    if kept is not None:
        with_vectors = not are_missing()
        lines = await kept.read(
            cursor, conversation_id, path, with_vectors=with_vectors, told=told, news=words
        )
    return Search(
        conversation_id=conversation_id,
        question=question,
        path=path,
        asked=words["asked"] or (),
        postings=words["postings"] or b"",
        skipped=words["skipped"] or {},
        lines=lines,
        kept=kept,
    )


async def _choose(
    cursor: AsyncCursor[DictRow],
    search: Search,
    room: int,
    last: int | None,
    skip: Collection[UUID],
    overhead: int,
    formula: Formula,
) -> list[Recalled]:
    last = min(search.depth - 1, search.depth if last is None else last)
    if last < 1:
        return []
    meant = search.meant(last)
    vector = None
    if await _may_have_vectors(cursor, search, last):
        vector = await embed_aside(" ".join(meant) or search.question)
    here = {
        "conversation": search.conversation_id,
        "lines": array(stretch.line for stretch in search.path),
        "untils": array(min(stretch.end, last) for stretch in search.path),
    }
    candidates = await _weighed(cursor, search, here, last, vector)
    if candidates is None:
        return []
    first = signals(candidates, formula)
    scores = score(candidates, formula, first=first)
    scores[np.isin(candidates.places, [0, *(search.skipped.get(str(pk), 0) for pk in skip)])] = 0.0
    costs = candidates.tokens + overhead
    at = shortlist(scores, costs, room)
    if 2 * np.count_nonzero(np.isfinite(candidates.cosines[at])) > len(at):
        await cursor.execute(_PIECES, {**here, "places": array(candidates.places[at].tolist())})
        pieces = {row["id"]: row["pieces"] async for row in cursor}
        scores = looked_at_again(scores, at, pieces, meant, candidates, first)
    chosen = pack(scores, costs, room)
    if not chosen and room > 0 and scores.any():
        chosen = [int(scores.argmax())]
    if not chosen:
        return []
    found = {int(candidates.places[at]): float(scores[at]) for at in chosen}
    await cursor.execute(_CONTENTS, {**here, "places": array(found)})
    rows = await cursor.fetchall()
    if search.kept is not None and len(rows) < len(found):
        search.kept.forget(search.path)
    recalled = [Recalled(score=found[row.pop("place")], message=HistoryMessage(**row)) for row in rows]
    return sorted(recalled, key=lambda one: one.score, reverse=True)


async def _weighed(
    cursor: AsyncCursor[DictRow], search: Search, here: Mapping[str, Any], last: int, vector: Vector | None
) -> Candidates | None:
    """The messages up to the depth `last`, from what is kept of them or from the database; None: there are none."""
    if search.lines is not None:
        return _candidates(search.path, search.lines, last, vector, search.postings)
    await cursor.execute(_PLACES, {**here, "vector": as_sql(vector)})
    row = await cursor.fetchone()
    return None if row is None or row["places"] is None else _unpacked(row["places"], search.postings)


def score(candidates: Candidates, formula: Formula = FORMULA, *, first: Signals | None = None) -> Numbers:
    """What each message of a path has to say about the question; 0 for what may not be recalled.

    `first` is what `signals` gives, for who has it at hand.

    `(smooth((0.6 * words + 0.4 * meaning) ** 2) + 1.5 * together * meaning) / max(tokens, 60) ** 0.5`, where `words` is
    BM25 and `meaning` the cosine, both from 0 to 1; without a vector anywhere, `smooth(words) + 0.3 * together`.
    Where the constants come from: docs/decisions/0096-recall-measured.md.
    """
    first = first or signals(candidates, formula)
    if first.meaning.any():
        both = (formula.words * first.words + (1 - formula.words) * first.meaning) ** 2
        around = formula.together * first.together * first.meaning
    else:
        both = first.words
        around = formula.together_alone * first.together
    scores: Numbers = beside(both, formula.beside) + around
    scores /= np.sqrt(np.maximum(candidates.tokens, formula.short))
    return np.where(candidates.tokens > 0, scores, 0.0)


def signals(candidates: Candidates, formula: Formula = FORMULA) -> Signals:
    """What `score` weighs."""
    return Signals(
        words=from_0_to_1(bm25(candidates, formula)),
        meaning=from_0_to_1(candidates.cosines),
        together=together(candidates, formula.around),
    )


def looked_at_again(
    scores: Numbers,
    at: npt.NDArray[np.int64],
    pieces: Mapping[int, bytes],
    words: Sequence[str],
    candidates: Candidates,
    first: Signals,
) -> Numbers:
    """The scores after the second look at the messages `at`, by the pieces of each place.

    As they are where messages have vectors and no pieces: they would fall behind the others for nothing.
    """
    places = candidates.places[at].tolist()
    have_vectors = np.isfinite(candidates.cosines[at])
    if any(
        has_vector and place not in pieces for place, has_vector in zip(places, have_vectors, strict=True)
    ):
        return scores
    found = closest(words, [pieces.get(place, b"") for place in places])
    if found is None:
        return scores
    return rerank(scores, at, found, first=first, tokens=candidates.tokens)


def together(candidates: Candidates, around: int) -> Numbers:
    """Which share of the question's words a message and those `around` it have together, each word by its rarity."""
    messages = len(candidates.places)
    words, word = np.unique(candidates.word, return_inverse=True)
    if not len(words):
        return np.zeros(messages)
    has = np.zeros((len(words), messages), bool)
    has[word, candidates.at] = True
    near = has.copy()
    for distance in range(1, min(around, messages - 1) + 1):
        near[:, distance:] |= has[:, :-distance]
        near[:, :-distance] |= has[:, distance:]
    rarity = _rarity(has.sum(axis=1), int(np.count_nonzero(candidates.places)))
    shares: Numbers = rarity @ near / rarity.sum()
    return shares


def bm25(candidates: Candidates, formula: Formula = FORMULA) -> Numbers:
    """Okapi BM25 with the document frequencies and the mean length of the path."""
    messages = int(np.count_nonzero(candidates.places))
    if not len(candidates.at):
        return np.zeros(len(candidates.places))
    rarity = _rarity(np.bincount(candidates.word), messages)[candidates.word]
    mean = max(candidates.tokens.sum() / max(messages, 1), 1.0)
    length = 1 - formula.length + formula.length * candidates.tokens[candidates.at] / mean
    gained = rarity * candidates.frequency * (formula.saturation + 1)
    gained /= candidates.frequency + formula.saturation * length
    return np.bincount(candidates.at, gained, len(candidates.places)).astype(np.float64)


def pack(scores: Numbers, costs: Numbers, room: float) -> list[int]:
    """Positions of the best messages that fit into `room` together, taken greedily; the newer of two equals first."""
    best = np.arange(len(scores))
    if len(scores) > MOST:
        best = np.sort(np.argpartition(scores, -MOST)[-MOST:])
    best = best[scores[best] > 0]
    cheapest = costs[best].min(initial=np.inf)
    chosen: list[int] = []
    for at in best[np.argsort(scores[best], kind="stable")][::-1]:
        if room < cheapest:
            break
        if costs[at] <= room:
            chosen.append(int(at))
            room -= costs[at]
    return chosen


def _shortened(question: str) -> str:
    if len(question) <= QUESTION_HEAD + QUESTION_TAIL:
        return question
    return f"{question[:QUESTION_HEAD]}\n{question[-QUESTION_TAIL:]}"


def _unpacked(places: bytes, postings: bytes) -> Candidates:
    """The rows by position on the path; postings of other branches and of what is set aside fall out."""
    rows = np.frombuffer(places, _PLACE)
    size = int(rows["depth"].max())
    at = rows["depth"].astype(np.int64) - 1
    place = np.zeros(size, np.int64)
    tokens = np.zeros(size)
    cosines = np.full(size, np.nan)
    place[at], tokens[at], cosines[at] = rows["place"], rows["tokens"], rows["cosine"]
    return _posted(place, tokens, cosines, postings)


def _candidates(
    path: Sequence[Stretch], lines: Sequence[Line], last: int, vector: Vector | None, postings: bytes
) -> Candidates:
    """The same from the lines of a path that are kept, up to the depth `last`."""
    place = np.zeros(last, np.int64)
    tokens = np.zeros(last)
    cosines = np.full(last, np.nan)
    for stretch, line in zip(path, lines, strict=True):
        until = min(stretch.end, last)
        if until <= stretch.start:
            continue
        at = slice(stretch.start, until)
        may_come = ~line.known("is_set_aside", until)
        place[at] = line.known("place", until) * may_come
        tokens[at] = line.known("tokens", until) * may_come
        if vector is not None:
            cosines[at] = np.where(may_come, line.cosines(vector, until), np.nan)
    return _posted(place, tokens, cosines, postings)


def _posted(place: npt.NDArray[np.int64], tokens: Numbers, cosines: Numbers, postings: bytes) -> Candidates:
    size = len(place)
    order = np.argsort(place, kind="stable")  # nearly in order already
    found = np.frombuffer(postings, _POSTING)
    wanted = found["place"].astype(np.int64)
    position = order[np.minimum(np.searchsorted(place, wanted, sorter=order), size - 1)]
    is_here = place[position] == wanted
    return Candidates(
        places=place,
        tokens=tokens,
        cosines=cosines,
        at=position[is_here],
        word=found["word"][is_here].astype(np.int64),
        frequency=found["frequency"][is_here].astype(np.float64),
    )


def _rarity(having: npt.NDArray[np.int64], messages: int) -> Numbers:
    """BM25's inverse document frequency."""
    rarity: Numbers = np.log1p((messages - having + 0.5) / (having + 0.5))
    return rarity
