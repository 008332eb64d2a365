"""The text of replies on its way: appended by the process that runs a reply, followed by any process that has viewers.

Each process writes one Redis stream of its own, one entry per tick for all its replies (group commit); the processes
that have viewers of them read it through one shared reader. What a viewer sees has been journalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, TypeVar
from uuid import UUID

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

#: redis-py types every answer as a union of all protocols and modes; what we read is checked by tests.
Redis = Any

T = TypeVar("T")

PREFIX = "parley:journal:"
#: Old enough that every checkpoint has passed it, even after a long outage of PostgreSQL.
KEEP_SECONDS = 600
EXPIRE_SECONDS = 3600
SOCKET_TIMEOUT = 0.25
COMMAND_TIMEOUT = 2 * SOCKET_TIMEOUT  #: of a command of `connect_for_few`, there and back
WAIT_FOR_CONNECTION = 2.0
#: How long the breaker leaves Redis alone after a failure.
BREAKER_SECONDS = 1.0
#: Entries that are kept for a Redis that is away: a second and a half of a thousand replies, minutes of a few.
MOST_MISSED = 50_000
#: How long the shared reader waits in one call.
BLOCK_SECONDS = 5.0
BEGINNING = "0-0"
#: Of a tick, for each reply that is being written: three times what is done for it then. 333 replies make it longer.
SECONDS_EACH = 0.00015
#: Replies that read, or whose viewers write, in one lap of the event loop.
AT_ONCE = 50


_encode = json.JSONEncoder(separators=(",", ":")).encode


class Kind(IntEnum):
    """What an entry tells."""

    TEXT = 0  # more of the reply
    END = 1  # the reply is over
    STATUS = 2  # what is done about a failure, in a sentence, until text comes


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A piece of one reply's text, or what else its viewers are told."""

    reply_id: UUID
    epoch: int
    at: int  #: UTF-16 offset of the text within the reply
    text: str
    kind: Kind = Kind.TEXT

    def packed(self) -> list[Any]:
        return [self.reply_id.hex, self.epoch, self.at, self.text, self.kind]

    @classmethod
    def unpacked(cls, row: list[Any]) -> Entry:
        return cls(reply_id=UUID(row[0]), epoch=row[1], at=row[2], text=row[3], kind=Kind(row[4]))


def connect(url: str, *, timeout: float = SOCKET_TIMEOUT) -> Redis:
    """A client that fails at once: the journal has its own answer to a Redis that is away.

    Who finds all its connections in use waits for one: a hundred viewers that come together are no outage.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        timeout=WAIT_FOR_CONNECTION,
        socket_timeout=timeout,
        socket_connect_timeout=SOCKET_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        max_connections=8,
    )
    return redis.Redis.from_pool(pool)


def connect_for_few(url: str) -> Redis:
    """A client for tasks that talk to Redis all the time, each one command after the other: they never wait for others.

    It has no time limits of its own: one timer around a command costs a third less than the client's task and timers.
    """
    pool = redis.ConnectionPool.from_url(
        url, socket_connect_timeout=SOCKET_TIMEOUT, retry=Retry(NoBackoff(), 0), decode_responses=True
    )
    return redis.Redis.from_pool(pool)


async def read_stream(client: Redis, runner: str, after: str) -> tuple[list[Entry], str]:
    """All entries of a process after a position, and the position of the last one. Raises RedisError."""
    entries: list[Entry] = []
    while True:
        rows = await client.xrange(PREFIX + runner, min=f"({after}" if after else "-", count=500)
        for position, fields in rows:
            entries += [Entry.unpacked(row) for row in json.loads(fields["d"])]
            after = position
        if len(rows) < 500:
            return entries, after


class Writer:
    """The group commit of one process: collects what its replies append and writes it once per tick."""

    def __init__(
        self, client: Redis, runner: str, *, tick: float, apply: Callable[[list[Entry]], None]
    ) -> None:
        self.runner = runner
        self.position = BEGINNING  #: of the last entry that was written
        self.deltas = self.writes = self.failures = 0  #: what /metrics tells
        self._client = client
        self._tick = tick
        self._apply = apply
        self._pending: list[Entry] = []
        self._readers: list[asyncio.Future[None]] = []
        self._missed: list[Entry] = []  # what Redis was away for, in order; written first when it is back
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._urgent_ids: set[UUID] = set()
        self._broken_until = 0.0
        self._expires_at = 0.0

    def append(self, entry: Entry, *, at_once: bool = False) -> None:
        """Queue an entry for the next tick, or write it `at_once` (a reply's first text, and its end)."""
        self._pending.append(entry)
        self.deltas += entry.kind is Kind.TEXT
        self._wake.set()
        if at_once:
            self._urgent_ids.add(entry.reply_id)
            self._urgent.set()

    async def tick(self) -> None:
        """Wait for the end of this tick: what is appended then is still written with it."""
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        self._wake.set()
        await reader

    @property
    def is_writing(self) -> bool:
        """False while Redis is away and the journal lives in memory alone."""
        return time.monotonic() >= self._broken_until

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            seconds = max(self._tick, len(self._readers) * SECONDS_EACH)
            tick_ends = asyncio.get_running_loop().time() + seconds
            try:
                while await self._is_urgent(before=tick_ends):
                    await self._flush_urgent()
                await self._let_read()
                await self.flush()
            except Exception:
                logger.exception("an entry of the journal was lost")

    async def _let_read(self) -> None:
        """Wake who waits for the end of the tick. When this returns they have read."""
        readers, self._readers = self._readers, []
        for some in in_turns(readers):
            for reader in some:
                if not reader.done():
                    reader.set_result(None)
            await asyncio.sleep(0)

    async def _is_urgent(self, *, before: float) -> bool:
        """Wait for something that is to be written at once; False when the tick is over."""
        if asyncio.get_running_loop().time() >= before:
            return False
        # Not `wait_for`: in Python 3.11 it swallows a cancellation that meets the end of its wait.
        try:
            async with asyncio.timeout_at(before):
                await self._urgent.wait()
        except TimeoutError:
            return False
        self._urgent.clear()
        return True

    async def _flush_urgent(self) -> None:
        """Write what cannot wait, and leave the other replies to the tick: many beginnings must not shorten it."""
        urgent, self._urgent_ids = self._urgent_ids, set()
        batch = [entry for entry in self._pending if entry.reply_id in urgent]
        self._pending = [entry for entry in self._pending if entry.reply_id not in urgent]
        await self._put(batch)

    async def flush(self) -> None:
        batch, self._pending = self._pending, []
        self._urgent_ids.clear()
        await self._put(batch)

    async def _put(self, pending: list[Entry]) -> None:
        batch = merge(pending)
        if not batch:
            return
        if self.is_writing and await self._write(merge([*self._missed, *batch]) if self._missed else batch):
            self._missed.clear()
        else:
            self._missed += batch
            if len(self._missed) > MOST_MISSED:
                self._missed.clear()  # the checkpoints are what is left of it
        for some in in_turns(batch):
            self._apply(some)
            if len(batch) > len(some):
                await asyncio.sleep(0)

    async def _write(self, batch: list[Entry]) -> bool:
        key = PREFIX + self.runner
        now = time.time()
        entries = _encode([entry.packed() for entry in batch])
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                oldest = str(int((now - KEEP_SECONDS) * 1000))
                self.position = await self._client.xadd(key, {"d": entries}, minid=oldest, approximate=True)
                if now > self._expires_at:
                    await self._client.expire(key, EXPIRE_SECONDS)
                    self._expires_at = now + 60
            self.writes += 1
            return True
        except (RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            self._broken_until = time.monotonic() + BREAKER_SECONDS
            logger.warning("the journal is in memory alone: %s", type(error).__name__)
            return False


def in_turns(many: list[T], at_once: int = AT_ONCE) -> Iterator[list[T]]:
    """In slices, between which others get their turn: a thousand replies take 50 ms, and a send waits meanwhile."""
    for start in range(0, len(many), at_once):
        yield many[start : start + at_once]


def merge(pending: list[Entry]) -> list[Entry]:
    """Neighbouring pieces of one reply become one entry; order is kept within each reply."""
    merged: list[Entry] = []
    lasts: dict[UUID, int] = {}  # where the last entry of each reply stands
    for entry in pending:
        place = lasts.get(entry.reply_id)
        last = merged[place] if place is not None else None
        if (
            last is None
            or place is None
            or not last.kind == entry.kind == Kind.TEXT
            or last.epoch != entry.epoch
        ):
            lasts[entry.reply_id] = len(merged)
            merged.append(entry)
        else:
            merged[place] = replace(last, text=last.text + entry.text)
    return merged


@dataclass(kw_only=True)
class Reader:
    """Follows the streams of other processes for the viewers of this one, all in one blocked call."""

    client: Redis  #: its time-out must be longer than BLOCK_SECONDS, or an idle minute looks like an outage
    name: str  #: of this process; its control stream wakes the blocked call when a stream joins
    apply: Callable[[list[Entry]], None]
    control: Callable[[dict[str, str]], Awaitable[None]]
    _positions: dict[str, str] = field(default_factory=dict)
    _control_position: str = BEGINNING

    @property
    def control_key(self) -> str:
        return control_key(self.name)

    async def follow(self, runner: str, after: str) -> None:
        """Read a process's stream from a position on, from now until `forget`."""
        known = self._positions.get(runner)
        if known is not None:
            return
        self._positions[runner] = after or BEGINNING
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await send_control(self.client, self.name, {"wake": "1"})

    def forget(self, runner: str) -> None:
        self._positions.pop(runner, None)

    async def run(self) -> None:
        """Read until cancelled; an outage of Redis is waited out."""
        while True:
            try:
                await self._read_once()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(BREAKER_SECONDS)

    async def _read_once(self) -> None:
        streams: dict[Any, Any] = {PREFIX + runner: at for runner, at in self._positions.items()}
        streams[self.control_key] = self._control_position
        found = await self.client.xread(streams, count=200, block=int(BLOCK_SECONDS * 1000))
        for key, rows in found or []:
            if key == self.control_key:
                self._control_position = rows[-1][0]
                for _, fields in rows:
                    await self.control(fields)
                continue
            runner = key.removeprefix(PREFIX)
            for position, fields in rows:
                self.apply([Entry.unpacked(row) for row in json.loads(fields["d"])])
                if runner in self._positions:
                    self._positions[runner] = position


def control_key(name: str) -> str:
    return f"parley:control:{name}"


async def send_control(client: Redis, name: str, fields: dict[str, str]) -> None:
    """Tell a web process something at once, such as a reply to stop. Best effort. Raises RedisError."""
    key = control_key(name)
    pipeline = client.pipeline(transaction=False)
    pipeline.xadd(key, fields, maxlen=100, approximate=True)
    pipeline.expire(key, EXPIRE_SECONDS)
    await pipeline.execute()
