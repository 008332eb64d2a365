"""One process's way through the limits: who waits here, who has a place, and when the book is told."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import Self

from django.conf import settings
from redis.exceptions import RedisError

from chatapp.embedded.model_server import SLOTS
from conversations.catalog import ModelEntry
from conversations.journal import BREAKER_SECONDS, COMMAND_TIMEOUT, Redis
from conversations.llm.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ModelNotFound,
    Overloaded,
    PermissionRefused,
    ProviderBusy,
    ProviderFailed,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    TimedOut,
)

from .books import Answer, MemoryBook, RedisBook, Report, Rules, State, Statement

logger = logging.getLogger(__name__)

#: Signs of a provider that is down, and of one that is alive, whatever it thinks of the request.
FAILURES = (ProviderFailed, Overloaded, ConnectionFailed, TimedOut)
SIGNS_OF_LIFE = (
    AuthenticationFailed,
    ModelNotFound,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
)

#: How often a process that holds places says so, well within their lease (seconds).
RENEW = 3.0
#: How soon the book learns of a place given back: when somebody may wait for it, and otherwise.
RELEASE_SOON = 0.02
RELEASE_LATE = 1.0
#: How many of those who wait one statement names.
HEADS = 256


@dataclass(eq=False)
class _Waiter:
    turn: asyncio.Future[bool]  #: result: whether the call is the probe
    since: float


@dataclass(eq=False)
class _Door:
    """One provider, as this process sees it."""

    provider: str
    label: str
    at_once: int
    per_minute: int
    held: int = 0
    is_probing: bool = False
    is_tight: bool = False
    due: float = math.inf  #: when to make the next statement, by the event loop's clock
    waiters: dict[_Waiter, None] = field(default_factory=dict)
    reports: list[tuple[float, Report]] = field(default_factory=list)


def verdict(error: BaseException | None) -> bool | None:
    """Whether the provider is alive, from how a call to it ended; None: this says nothing."""
    if error is None or isinstance(error, SIGNS_OF_LIFE):
        return True
    return False if isinstance(error, FAILURES) else None


class Gate:
    """The limits and the circuit breaker of every provider, for the calls of one event loop."""

    def __init__(
        self,
        client: Redis,
        name: str,
        *,
        rules: Rules | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`client` as `journal.connect_for_few` makes it; `name` is this process's alone.

        With a `clock`, for tests, its seconds are the shared book's time, too.
        """
        self.name = name
        rules = rules or Rules.from_settings()
        self._clock = clock or time.monotonic
        self._shared_clock = clock
        self._shared = RedisBook(client, rules)
        self._memory = MemoryBook(rules)
        self._doors: dict[str, _Door] = {}
        self._pump: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._wakes_at = math.inf
        self._talking = asyncio.Lock()
        self._broken_until = 0.0
        self._is_closed = False

    def pass_(
        self,
        entry: ModelEntry,
        *,
        wait: float | None = None,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Passage:
        """`async with gate.pass_(entry) as passage:` around one call to a provider.

        Waits its turn for `wait` seconds (PROVIDER_WAIT) at most, does `meanwhile` while it waits, and gives its place
        back, however the block ends. An `LLMError` that leaves the block is recorded. Raises `ProviderBusy`,
        `ProviderUnavailable`.
        """
        wait = settings.PROVIDER_WAIT if wait is None else wait
        return Passage(self, self._door(entry), wait, meanwhile)

    def record(self, entry: ModelEntry, error: BaseException | None) -> None:
        """How a call that was made outside of a pass went."""
        self._record(self._door(entry), verdict(error), began=self._clock(), is_probe=False)

    def state(self, provider: str) -> State:
        """What this process knows of a provider, without asking; exact to its last call or `refresh`."""
        return self._memory.state(provider, self._clock())

    def retry_in(self, provider: str) -> float:
        """Seconds for which a provider is left alone; 0: it is called."""
        return self._memory.retry_in(provider, self._clock())

    def load(self, provider: str) -> tuple[int, int]:
        """Calls under way and calls that wait, in this process."""
        door = self._doors.get(provider)
        return (door.held, len(door.waiters)) if door else (0, 0)

    async def refresh(self, entry: ModelEntry) -> State:
        """Ask the shared book about a provider."""
        await self._sync([self._door(entry)])
        return self.state(entry.provider)

    async def aclose(self) -> None:
        """Give all places back and end; those who still wait are told that the provider is busy."""
        self._is_closed = True
        for door in self._doors.values():
            for waiter in door.waiters:
                if not waiter.turn.done():
                    waiter.turn.set_exception(ProviderBusy())
            door.waiters.clear()
            door.held, door.is_probing = 0, False
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        if self._doors:
            await self._sync(list(self._doors.values()))

    # --- Waiting ----------------------------------------------------------------------------------------

    def _door(self, entry: ModelEntry) -> _Door:
        at_once, per_minute = limits(entry)
        door = self._doors.get(entry.provider)
        if door is None:
            door = _Door(entry.provider, entry.provider_label, at_once, per_minute)
            self._doors[entry.provider] = door
        door.at_once, door.per_minute, door.label = at_once, per_minute, entry.provider_label
        return door

    async def _enter(self, door: _Door, wait: float, meanwhile: Callable[[], Awaitable[None]] | None) -> bool:
        """Wait for a place; True: this call is the probe."""
        if self._is_closed:
            raise ProviderBusy
        if self._memory.state(door.provider, self._clock()) is State.OPEN:
            raise self._unavailable(door, self.retry_in(door.provider))
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), self._clock())
        door.waiters[waiter] = None
        if len(door.waiters) == 1 or door.due == math.inf:
            self._at(door, 0.0)
        bound = loop.call_later(wait, self._give_up, door, waiter, wait)
        try:
            if meanwhile is not None:
                await asyncio.sleep(0)  # the question is on its way first
                await meanwhile()
            return await waiter.turn
        except BaseException:
            self._forget(door, waiter)
            raise
        finally:
            bound.cancel()

    def _give_up(self, door: _Door, waiter: _Waiter, wait: float) -> None:
        if not waiter.turn.done():
            waiter.turn.set_exception(ProviderBusy(f"No turn at {door.label} within {wait:.0f} s."))

    def _forget(self, door: _Door, waiter: _Waiter) -> None:
        """A call that will not be made: it was stopped while it waited, or just as its turn came."""
        turn = waiter.turn
        # Looked at also where it has failed: asyncio would log that nobody did.
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._leave(door, is_probe=turn.result())
        elif waiter in door.waiters:
            del door.waiters[waiter]
            self._at(door, RELEASE_SOON)

    def _leave(self, door: _Door, *, is_probe: bool) -> None:
        door.held = max(0, door.held - 1)
        if is_probe:
            door.is_probing = False
        in_demand = bool(door.waiters) or is_probe
        self._at(door, 0.0 if in_demand else RELEASE_SOON if door.is_tight else RELEASE_LATE)

    def _record(self, door: _Door, alive: bool | None, *, began: float, is_probe: bool) -> None:
        if alive is None:
            return
        now = self._clock()
        is_news = not alive or is_probe or self._memory.has_failed(door.provider)
        if not is_news and self._memory.state(door.provider, now) is State.CLOSED:
            return
        report = Report(is_alive=alive, age=now - began, is_probe=is_probe)
        self._memory.report(door.provider, report, now)
        door.reports.append((now, report))
        self._at(door, 0.0)

    def _unavailable(self, door: _Door, retry_in: float) -> ProviderUnavailable:
        seconds = max(1, math.ceil(retry_in))
        detail = f"{door.label} did not answer lately. Parley tries again in {seconds} s."
        return ProviderUnavailable(detail, retry_after=retry_in)

    # --- Talking to the book ----------------------------------------------------------------------------

    def _at(self, door: _Door, seconds: float) -> None:
        """Make the next statement about a door in so many seconds, or earlier."""
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        door.due = min(door.due, loop.time() + seconds)
        if self._pump is None or self._pump.done():
            # A context of its own: it outlives the call that happens to start it.
            self._pump = loop.create_task(self._run(), context=contextvars.Context(), name="gate")
        elif door.due < self._wakes_at:
            self._wake.set()

    async def _run(self) -> None:
        """Make statements while there is something to say."""
        loop = asyncio.get_running_loop()
        while True:
            self._wakes_at = -math.inf  # until it sleeps it needs no waking
            now = loop.time()
            if due := [door for door in self._doors.values() if door.due <= now]:
                await self._sync(due)
                continue
            self._wakes_at = min((door.due for door in self._doors.values()), default=math.inf)
            if self._wakes_at == math.inf:
                return
            self._wake.clear()
            timer = loop.call_at(self._wakes_at, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    async def _sync(self, doors: list[_Door]) -> None:
        async with self._talking:
            statements = [self._statement(door) for door in doors]
            for door, answer in zip(doors, await self._ask(statements), strict=True):
                self._apply(door, answer)

    def _statement(self, door: _Door) -> Statement:
        now = self._clock()
        reports = [
            Report(is_alive=report.is_alive, age=report.age + now - at, is_probe=report.is_probe)
            for at, report in door.reports
        ]
        door.reports.clear()
        door.due = math.inf
        return Statement(
            process=self.name,
            provider=door.provider,
            at_once=door.at_once,
            per_minute=door.per_minute,
            held=door.held,
            is_probing=door.is_probing,
            waits=[max(0.0, now - waiter.since) for waiter in islice(door.waiters, HEADS)],
            reports=reports,
        )

    async def _ask(self, statements: list[Statement]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._broken_until:
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT):
                    answers = await self._shared.sync(
                        statements, self._shared_clock() if self._shared_clock else None
                    )
            except (RedisError, OSError, TimeoutError) as error:
                self._broken_until = loop.time() + BREAKER_SECONDS
                logger.warning("limits of providers are this process's own: %s", type(error).__name__)
            else:
                for statement, answer in zip(statements, answers, strict=True):
                    self._memory.adopt(statement.provider, answer, self._clock())
                return answers
        return [self._memory.sync(_without_reports(statement), self._clock()) for statement in statements]

    def _apply(self, door: _Door, answer: Answer) -> None:
        door.is_tight = answer.is_tight
        waiting = [waiter for waiter in door.waiters if not waiter.turn.done()]
        for waiter in waiting[: answer.granted]:
            del door.waiters[waiter]
            door.held += 1
            door.is_probing = door.is_probing or answer.is_probe
            waiter.turn.set_result(answer.is_probe)
        left = waiting[answer.granted :]
        if answer.state is not State.CLOSED:
            for waiter in left:
                del door.waiters[waiter]
                waiter.turn.set_exception(self._unavailable(door, answer.retry_in))
            left = []
        if left:
            # Without a time they came while the question was on its way.
            self._at(door, answer.ask_again or 0.0)
        elif door.held:
            self._at(door, RENEW)


def _without_reports(statement: Statement) -> Statement:
    """The memory book has had them already."""
    return replace(statement, reports=())


def limits(entry: ModelEntry) -> tuple[int, int]:
    """Calls at once and calls a minute that a provider is given; 0: any number."""
    if entry.is_local:
        return SLOTS, 0
    return settings.PROVIDER_CONCURRENCY, settings.PROVIDER_REQUESTS_PER_MINUTE


class Passage:
    """One call on its way through the gate."""

    def __init__(
        self, gate: Gate, door: _Door, wait: float, meanwhile: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._gate = gate
        self._door = door
        self._wait = wait
        self._meanwhile = meanwhile
        self._began = 0.0
        self._is_probe = False
        self._has_answered = False

    async def __aenter__(self) -> Self:
        self._is_probe = await self._gate._enter(self._door, self._wait, self._meanwhile)
        self._began = self._gate._clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        alive = verdict(error)
        if alive:
            self.answered()
        elif alive is False:
            self._report(False)
        self._gate._leave(self._door, is_probe=self._is_probe)

    def answered(self) -> None:
        """The provider has begun to answer: others may know before the answer ends."""
        if not self._has_answered:
            self._has_answered = True
            self._report(True)

    def _report(self, alive: bool) -> None:
        is_probe, self._is_probe = self._is_probe, False
        if is_probe:
            self._door.is_probing = False
        self._gate._record(self._door, alive, began=self._began, is_probe=is_probe)
