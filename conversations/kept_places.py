"""The places of long conversations in use, kept in the web process: a turn reads those that have come since.

For one event loop: nothing is locked, and nothing awaited between looking at a line and changing it. What is kept says
which messages are looked at, never which may be seen: that the database says each time.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import DictRow, dict_row

from conversations.database import Pool
from conversations.llm.embeddings import DIMENSIONS, Vector

logger = logging.getLogger(__name__)

#: Paths of fewer messages, or of fewer for each of their lines, are read faster than they are looked up here.
WORTH_KEEPING, WORTH_A_LINE = 500, 100
#: Messages that one process has room for: 28 MB.
MOST_KEPT = 100_000
#: Messages that have come since, and are read while somebody waits. If there are more the path is read as any other.
READ_AT_ONCE = 200
#: What is kept for the first time is read when the first word is likely out, and in pieces of so many messages: each
#: holds up the event loop for about a millisecond.
SECONDS_LATER, PIECE = 0.3, 500
#: Paths that wait for that; of more, those that were asked for last: the others would be read when nobody needs them.
MOST_WANTED = 50
#: Messages whose vectors are made floats of at once, so that they stay in the processor's cache.
WEIGHED_AT_ONCE = 512

#: What is kept of a message. `scale` times `vector` is its embedding, and NaN without one. An array for each, so that
#: who looks at the numbers of 5,000 messages does not bring their vectors into the processor's cache.
_KEPT: dict[str, tuple[str, tuple[int, ...]]] = {
    "place": ("i8", ()),
    "tokens": ("i4", ()),
    "scale": ("f4", ()),
    "is_set_aside": ("?", ()),
    "vector": ("i1", (DIMENSIONS,)),
}
#: The same as PostgreSQL packs it, big-endian: its numbers, and beside them the vectors of those that have one.
_FOUND = np.dtype([("place", ">i8"), ("depth", ">i4"), ("tokens", ">i4"), ("line", ">i8"), ("flags", ">i4")])
_VECTOR = np.dtype([("head", ">i4"), ("values", ">f4", (DIMENSIONS,))])
_IS_SET_ASIDE, _HAS_VECTOR = 1, 2

#: The unforked lines that make up the path to a leaf, each with the depth at which its part of it `ends`: the leaf's is
#: the first.
PATH = """
WITH RECURSIVE line AS (
    SELECT b.*, m.path_messages AS ends FROM messages m JOIN message_branches b ON b.id = m.branch_id
    WHERE m.id = %(leaf)s AND m.conversation_id = %(conversation)s
    UNION ALL
    SELECT b.*, least(line.ends, line.until)
    FROM line CROSS JOIN LATERAL (SELECT * FROM message_branches WHERE id = line.parent_id OFFSET 0) AS b
)
"""

_STRETCHES = f"""
{PATH}
SELECT ARRAY(SELECT id FROM line) AS lines, ARRAY(SELECT ends FROM line) AS ends,
    ARRAY(SELECT changed_in FROM line) AS changes
"""

_PACKED = """
    string_agg(int8send(p.id) || int8send(p.depth::bigint << 32 | p.tokens) || int8send(p.branch_id)
        || int4send(p.is_set_aside::integer + 2 * (p.embedding IS NOT NULL)::integer), ''::bytea) AS places,
    string_agg(vector_send(p.embedding), ''::bytea) AS vectors
"""

# Planned for any number of lines, a join would read all of a conversation: OFFSET keeps it a look-up for each line.
_ROWS = f"""
SELECT {_PACKED}
FROM unnest(%(lines)s::bigint[], %(since)s::integer[], %(until)s::integer[]) AS line (id, since, until)
    CROSS JOIN LATERAL (
        SELECT * FROM message_places
        WHERE conversation_id = %(conversation)s AND branch_id = line.id AND depth BETWEEN line.since AND line.until
        OFFSET 0
    ) AS p
"""

#: What has come since in lines that were `KeptPlaces.told`, beside `PATH`.
NEWS = f"""
SELECT {_PACKED}
FROM unnest(%(told)s::bigint[], %(since)s::integer[]) AS told (id, since) JOIN line ON line.id = told.id
    CROSS JOIN LATERAL (
        SELECT * FROM message_places
        WHERE conversation_id = %(conversation)s AND branch_id = line.id
            AND depth BETWEEN least(told.since, line.ends) AND line.ends
        OFFSET 0
    ) AS p
WHERE line.ends - told.since <= {READ_AT_ONCE}
"""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The part of a path that stands on one line: what is deeper than `start`, where it left another, up to `end`."""

    line: int
    changed_in: int  #: the transaction that last changed what the line had already
    start: int
    end: int


def stretches(found: DictRow) -> list[Stretch]:
    """The lines of a path from the leaf's to the root's: each begins where the next one ends."""
    return [
        Stretch(line=line, changed_in=changed_in, start=start, end=end)
        for line, changed_in, start, end in zip(
            found["lines"], found["changes"], [*found["ends"][1:], 0], found["ends"], strict=True
        )
    ]


class Line:
    """The places of a line, by depth, as far as they have been read."""

    def __init__(self, conversation_id: UUID, stretch: Stretch) -> None:
        self.conversation_id = conversation_id
        self.changed_in = stretch.changed_in
        self.start = self.until = stretch.start  #: `until` is the depth of the last one that was read
        self._rows = {name: np.zeros((0, *shape), kind) for name, (kind, shape) in _KEPT.items()}

    def __len__(self) -> int:
        """Messages that there is room for."""
        return len(self._rows["place"])

    def known(self, name: str, until: int) -> npt.NDArray[Any]:
        """What is known from the start of the line to a depth, by its name in `_KEPT`."""
        return self._rows[name][: min(self.until, until) - self.start]

    def has(self, found: npt.NDArray[Any], depth: int) -> bool:
        """Whether the place that is kept for a depth is among what was found there."""
        return bool(
            (found["place"][found["depth"] == depth] == self._rows["place"][depth - self.start - 1]).any()
        )

    def put(self, found: npt.NDArray[Any], vectors: npt.NDArray[np.float32], until: int) -> None:
        """Keep what was found up to a depth; `vectors` are those of the ones that have any, in their order."""
        if (size := until - self.start) > (room := len(self)):
            # In place: a copy of 50,000 would hold up the event loop for 0.05 s. Nobody looks at the rows meanwhile.
            for name, (_, shape) in _KEPT.items():
                self._rows[name].resize((_room(size), *shape), refcheck=False)
            self._rows["scale"][room:] = np.nan
        at = found["depth"] - self.start - 1
        for name in ("place", "tokens"):
            self._rows[name][at] = found[name]
        self._rows["is_set_aside"][at] = found["flags"] & _IS_SET_ASIDE
        self._rows["scale"][at] = np.nan
        at = at[(found["flags"] & _HAS_VECTOR) != 0]
        scale = np.maximum(np.abs(vectors).max(axis=1, initial=0), 1e-9) / 127
        self._rows["scale"][at] = scale
        self._rows["vector"][at] = np.rint(vectors / scale[:, None])
        self.until = max(self.until, until)

    def cosines(self, vector: Vector, until: int) -> Numbers:
        """Of each message up to a depth; NaN without a vector. 0.04 ms for 1,000, and right to 0.002."""
        scales, vectors = self.known("scale", until), self.known("vector", until)
        found = np.empty(len(scales), np.float32)
        for at in range(0, len(scales), WEIGHED_AT_ONCE):
            piece = vectors[at : at + WEIGHED_AT_ONCE].astype(np.float32)
            np.matmul(piece, vector, out=found[at : at + WEIGHED_AT_ONCE])
        cosines: Numbers = (found * scales).astype(np.float64)
        return cosines

    def has_vectors(self, until: int) -> bool:
        return not np.isnan(self.known("scale", until)).all()

    def lacks_vectors(self) -> bool:
        return bool(np.isnan(self.known("scale", self.until)).any())

    def unread(self, end: int) -> list[tuple[int, int]]:
        """From which depth to which nothing was read yet."""
        return [(self.until + 1, end)] if self.until < end else []

    def missing(self, end: int) -> list[tuple[int, int]]:
        """From which depth to which nothing was read yet, or no vector was there."""
        is_missing = np.ones(end - self.start, bool)
        known = self.known("scale", end)
        is_missing[: len(known)] = np.isnan(known)
        edges = np.flatnonzero(np.diff(is_missing, prepend=False, append=False)).tolist()
        return [
            (self.start + 1 + first, self.start + last)
            for first, last in zip(edges[::2], edges[1::2], strict=True)
        ]


class KeptPlaces:
    """The lines that were asked for last. Filling them is nobody's wait, and its failure nobody's error."""

    def __init__(
        self,
        pool: Pool,
        *,
        most: int = MOST_KEPT,
        later: float = SECONDS_LATER,
        prepare: Callable[[AsyncCursor[DictRow]], Awaitable[None]] | None = None,
    ) -> None:
        """`prepare`: what each connection does that has read something, once."""
        self._pool = pool
        self._prepare = prepare
        self._prepared: WeakSet[AsyncConnection[DictRow]] = WeakSet()
        self._most = most
        self._later = later
        self._lines: OrderedDict[int, Line] = OrderedDict()
        self._of: dict[UUID, set[int]] = {}  #: lines of each conversation
        self.messages = 0  #: that the lines have room for
        #: Paths, or the leaves of those that nobody has asked for yet; the one that was asked for last is the last.
        self._wanted: dict[UUID, Sequence[Stretch] | UUID] = {}
        self._filling: asyncio.Task[None] | None = None
        self._is_closed = False

    async def read(
        self,
        cursor: AsyncCursor[DictRow],
        conversation_id: UUID,
        path: Sequence[Stretch],
        *,
        with_vectors: bool,
        told: Mapping[int, int],
        news: DictRow,
    ) -> list[Line] | None:
        """The lines of a path, brought up to date. None: too little of it is here, and is read later.

        By the `news` of what was `told` when they were asked for, or by one more statement if those are of other lines.
        The last place of each is looked at again: if it is gone, so is what was above it.
        """
        if not self._is_worth_keeping(path):
            return None
        lines = [self._kept(conversation_id, stretch) for stretch in path]
        wanted = [
            (stretch, max(min(line.until, stretch.end), stretch.start + 1), stretch.end)
            for stretch, line in zip(path, lines, strict=True)
        ]
        if sum(until - since for _, since, until in wanted) > READ_AT_ONCE:
            self._read_later(conversation_id, path)
            return None
        known = [line.until > line.start for line in lines]
        if all(min(told.get(stretch.line, 0), stretch.end) == since for stretch, since, _ in wanted):
            found, vectors = _unpacked(news)
        else:
            found, vectors = await _found(cursor, conversation_id, wanted)
        has_vector = (found["flags"] & _HAS_VECTOR) != 0
        for (stretch, since, until), line, is_known in zip(wanted, lines, known, strict=True):
            mine = found["line"] == stretch.line
            if is_known and not line.has(found[mine], since):
                self.forget(path)
                self._read_later(conversation_id, path)
                return None
            self._keep(stretch, line, found[mine], vectors[mine[has_vector]], until)
        if with_vectors and any(line.lacks_vectors() for line in lines):
            self._read_later(conversation_id, path)
        return lines

    def told(self, conversation_id: UUID) -> dict[int, int]:
        """The lines of a conversation that are kept, and the depth of the last place of each."""
        lines = {line: self._lines[line] for line in self._of.get(conversation_id, ())}
        return {number: max(line.until, line.start + 1) for number, line in lines.items()}

    def expect(self, conversation_id: UUID, leaf_id: UUID) -> None:
        """Read the path to a leaf before a turn asks for it, because one is likely to."""
        self._read_later(conversation_id, leaf_id)

    def forget(self, path: Sequence[Stretch]) -> None:
        for stretch in path:
            self._forget(stretch.line)

    async def filled(self) -> None:
        """Returns when all that was asked for is here."""
        if self._filling is not None:
            await asyncio.wait([self._filling])

    async def close(self) -> None:
        """Stop filling, for good."""
        self._is_closed = True
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling], timeout=1)

    # --- Lines ------------------------------------------------------------------------------------------

    def _is_worth_keeping(self, path: Sequence[Stretch]) -> bool:
        size = path[0].end
        return size >= max(WORTH_KEEPING, WORTH_A_LINE * len(path)) and _room(size) <= self._most

    def _kept(self, conversation_id: UUID, stretch: Stretch) -> Line:
        """The line as it is kept, or an empty one: nothing is kept of what has changed since."""
        line = self._lines.get(stretch.line)
        if line is not None and (line.changed_in, line.start) == (stretch.changed_in, stretch.start):
            return line
        return Line(conversation_id, stretch)

    def _keep(
        self,
        stretch: Stretch,
        line: Line,
        found: npt.NDArray[Any],
        vectors: npt.NDArray[np.float32],
        until: int,
    ) -> None:
        """Put what was found into a line, which is now the last to be forgotten."""
        self._forget(stretch.line)  # before it grows: it is counted as it was
        line.put(found, vectors, until)
        self._lines[stretch.line] = line
        self._of.setdefault(line.conversation_id, set()).add(stretch.line)
        self.messages += len(line)
        while self.messages > self._most:
            self._forget(next(iter(self._lines)))

    def _forget(self, line: int) -> None:
        forgotten = self._lines.pop(line, None)
        if forgotten is not None:
            self.messages -= len(forgotten)
            self._of[forgotten.conversation_id].discard(line)
            if not self._of[forgotten.conversation_id]:
                del self._of[forgotten.conversation_id]

    # --- Filling ----------------------------------------------------------------------------------------

    def _read_later(self, conversation_id: UUID, wanted: Sequence[Stretch] | UUID) -> None:
        if self._is_closed:
            return
        self._wanted.pop(conversation_id, None)
        self._wanted[conversation_id] = wanted
        if len(self._wanted) > MOST_WANTED:
            del self._wanted[next(iter(self._wanted))]
        if self._filling is None or self._filling.done():
            # Not in the context of the reply that asks: what is logged here is not about it.
            self._filling = asyncio.get_running_loop().create_task(
                self._fill(), context=contextvars.Context(), name="places that are kept"
            )

    async def _fill(self) -> None:
        """All paths that are wanted, the newest first. More at once would be work that somebody waits beside."""
        while self._wanted:
            await asyncio.sleep(self._later)
            conversation_id, wanted = self._wanted.popitem()
            try:
                is_expected = isinstance(wanted, UUID)
                path = await self._path_to(conversation_id, wanted) if isinstance(wanted, UUID) else wanted
                for stretch in path:
                    line = self._kept(conversation_id, stretch)
                    # What is expected need not come: vectors that are missing are looked for when it has.
                    ranges = line.unread(stretch.end) if is_expected else line.missing(stretch.end)
                    for piece in _pieces(ranges):
                        await self._read_piece(conversation_id, stretch, line, piece)
            except Exception as error:
                logger.warning("places are read again next time: %s", type(error).__name__)

    async def _path_to(self, conversation_id: UUID, leaf_id: UUID) -> Sequence[Stretch]:
        """The path that is expected, as far as it is worth keeping."""
        async with reading(self._pool) as cursor:
            await cursor.execute(_STRETCHES, {"conversation": conversation_id, "leaf": leaf_id})
            row = await cursor.fetchone()
        path = stretches(row) if row and row["lines"] else []  # the leaf may be gone meanwhile
        return path if path and self._is_worth_keeping(path) else ()

    async def _read_piece(
        self, conversation_id: UUID, stretch: Stretch, line: Line, piece: list[tuple[int, int]]
    ) -> None:
        async with reading(self._pool) as cursor:
            found, vectors = await _found(cursor, conversation_id, [(stretch, *depths) for depths in piece])
            if self._prepare is not None and cursor.connection not in self._prepared:
                self._prepared.add(cursor.connection)
                await self._prepare(cursor)
        self._keep(stretch, line, found, vectors, piece[-1][1])


@asynccontextmanager
async def reading(pool: Pool) -> AsyncIterator[AsyncCursor[DictRow]]:
    """A cursor of its own connection, for numbers as PostgreSQL has them."""
    async with (
        pool.connection() as connection,
        connection.cursor(binary=True, row_factory=dict_row) as cursor,
    ):
        yield cursor


def array(values: Iterable[int | UUID]) -> str:
    """As PostgreSQL reads one: a list's type goes by its largest number, and a statement has a plan for each type."""
    return "{" + ",".join(map(str, values)) + "}"


def _room(messages: int) -> int:
    """Messages that there is room for in a line of so many."""
    return messages * 9 // 8


def _pieces(ranges: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    piece, room = [], PIECE
    for since, until in ranges:
        while since <= until:
            last = min(until, since + room - 1)
            piece.append((since, last))
            room -= last - since + 1
            since = last + 1
            if not room:
                yield piece
                piece, room = [], PIECE
    if piece:
        yield piece


async def _found(
    cursor: AsyncCursor[DictRow], conversation_id: UUID, wanted: Sequence[tuple[Stretch, int, int]]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """The places of lines from one depth to another, as `_FOUND`, and the vectors of those that have one."""
    await cursor.execute(
        _ROWS,
        {
            "conversation": conversation_id,
            "lines": array(stretch.line for stretch, _, _ in wanted),
            "since": array(since for _, since, _ in wanted),
            "until": array(until for _, _, until in wanted),
        },
    )
    return _unpacked(await cursor.fetchone() or {})


def _unpacked(row: DictRow) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    found = np.frombuffer(row.get("places") or b"", _FOUND)
    vectors = np.frombuffer(row.get("vectors") or b"", _VECTOR)["values"].astype(np.float32)
    return found, vectors
