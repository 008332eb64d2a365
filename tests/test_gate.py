"""Between replies and providers: limits over all processes, a circuit breaker, and the delay before another try."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import redis as blocking_redis
from django.conf import settings
from django.test.utils import override_settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisAway

from chatapp.embedded.model_server import SLOTS
from conversations import journal
from conversations.catalog import ModelEntry
from conversations.gate import Gate, Rules, State, books, retry_delay
from conversations.gate import gate as gate_module
from conversations.gate.books import Answer, MemoryBook, RedisBook, Report, Statement
from conversations.llm import errors
from conversations.llm.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    LLMError,
    ProviderBusy,
    ProviderFailed,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    TimedOut,
)

BOUND = 20.0  # seconds, for any one test's waits


def model(provider: str = "", *, is_local: bool = False) -> ModelEntry:
    provider = provider or f"p{uuid.uuid4().hex}"
    return ModelEntry(
        id=f"{provider}/large",
        provider=provider,
        provider_label="Example",
        model_id="large",
        label="large",
        dialect="openai",
        context_window=1000,
        max_output=100,
        is_local=is_local,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Processes:
    """Gates as processes have them: one each, on connections of their own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._clients: list[Any] = []
        self._gates: list[Gate] = []

    def connect(self, url: str = "") -> Any:
        client = journal.connect(url or settings.REDIS_URL)
        self._clients.append(client)
        return client

    def start(self, *, url: str = "", shared_time: bool = True) -> Gate:
        return self.start_with(self.connect(url), shared_time=shared_time)

    def start_with(self, client: Any, *, shared_time: bool = True) -> Gate:
        gate = Gate(client, f"web-{uuid.uuid4().hex}", clock=self.clock if shared_time else None)
        self._gates.append(gate)
        return gate

    def kill(self, gate: Gate) -> None:
        """As SIGKILL does: it says nothing more."""
        self._gates.remove(gate)
        gate._is_closed = True
        assert gate._pump is not None
        gate._pump.cancel()

    async def close(self) -> None:
        for gate in self._gates:
            await gate.aclose()
        for client in self._clients:
            await client.aclose()


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    found = Processes()
    async with asyncio.timeout(BOUND):
        yield found
        await found.close()


@asynccontextmanager
async def allowed(*, at_once: int = 0, per_minute: int = 0, wait: float = 10.0) -> AsyncIterator[None]:
    with override_settings(
        PROVIDER_CONCURRENCY=at_once, PROVIDER_REQUESTS_PER_MINUTE=per_minute, PROVIDER_WAIT=wait
    ):
        yield


async def call(gate: Gate, entry: ModelEntry, error: BaseException | None = None, **how: Any) -> None:
    """One call to a provider that ends like this."""
    with suppress(*[type(error)] if error else []):
        async with gate.pass_(entry, **how):
            if error is not None:
                raise error


async def is_let_through(gate: Gate, entry: ModelEntry, *, wait: float = 0.1) -> bool:
    try:
        await call(gate, entry, wait=wait)
    except ProviderBusy:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class Held:
    """A call that goes on until it is told to end."""

    def __init__(self, gate: Gate, entry: ModelEntry) -> None:
        self._end = asyncio.Event()
        self.began = asyncio.Event()
        self.task = asyncio.create_task(self._run(gate, entry))

    async def _run(self, gate: Gate, entry: ModelEntry) -> None:
        async with gate.pass_(entry):
            self.began.set()
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def hold(gate: Gate, entry: ModelEntry) -> Held:
    held = Held(gate, entry)
    waits = {asyncio.create_task(held.began.wait()), held.task}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    assert held.began.is_set()
    return held


# --- Places -------------------------------------------------------------------------------------------------


async def test_two_hundred_callers_in_two_processes_never_hold_more_than_five_places(
    processes: Processes,
) -> None:
    entry, gates = model(), [processes.start(shared_time=False) for _ in range(2)]
    running = most = served = 0

    async def caller(number: int) -> None:
        nonlocal running, most, served
        async with gates[number % 2].pass_(entry):
            running += 1
            most = max(most, running)
            await asyncio.sleep(random.uniform(0, 0.01))
            running -= 1
            served += 1

    async with allowed(at_once=5):
        await asyncio.gather(*(caller(number) for number in range(200)))
    assert (most, served) == (5, 200)


async def test_what_is_done_while_a_place_is_asked_for_costs_none_when_it_fails(processes: Processes) -> None:
    entry, gate = model(), processes.start(shared_time=False)
    prepared: list[str] = []

    async def prepare() -> None:
        await asyncio.sleep(0.1)  # the place has come long since
        prepared.append("prepared")

    async def fail() -> None:
        await prepare()
        raise LookupError

    async with allowed(at_once=1):
        with pytest.raises(LookupError):
            async with gate.pass_(entry, meanwhile=fail):
                raise AssertionError("let through")
        held = await hold(gate, entry)
        waiting = asyncio.create_task(call(gate, entry, meanwhile=prepare))
        await until(lambda: len(prepared) == 2)  # while the only place is taken
        assert not waiting.done()
        await held.end()
        await waiting
        assert gate.load(entry.provider) == (0, 0)


async def test_a_turn_that_is_given_up_before_its_call_fails_leaves_no_error_behind(
    processes: Processes,
) -> None:
    entry, gate = model(), processes.start(shared_time=False)
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))

    async def fail() -> None:
        await asyncio.sleep(0.1)  # nobody waits for so long
        raise LookupError

    async with allowed(at_once=1):
        held = await hold(gate, entry)
        with pytest.raises(LookupError):
            async with gate.pass_(entry, wait=0.01, meanwhile=fail):
                raise AssertionError("let through")
        gc.collect()
        assert left == []
        await held.end()
        assert gate.load(entry.provider) == (0, 0)


async def test_whoever_waits_longest_goes_first_in_one_process(processes: Processes) -> None:
    entry, gate, order = model(), processes.start(shared_time=False), list[int]()

    async def caller(number: int) -> None:
        async with gate.pass_(entry):
            order.append(number)
            await asyncio.sleep(0)

    async with allowed(at_once=1):
        await asyncio.gather(*(caller(number) for number in range(30)))
    assert order == list(range(30))


async def test_whoever_waits_longest_goes_first_among_processes(processes: Processes) -> None:
    entry, gates = model(), [processes.start() for _ in range(2)]
    order: list[int] = []

    async def caller(number: int) -> None:
        async with gates[number % 2].pass_(entry):
            order.append(number)

    async with allowed(at_once=1):
        first = await hold(gates[0], entry)
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(caller(number)))
            await asyncio.sleep(0)
            processes.clock.now += 0.02
        for gate in gates:
            await gate.refresh(entry)  # every process has said who waits in it
        await first.end()
        await asyncio.gather(*tasks)
    assert order == list(range(6))


async def test_the_places_of_a_killed_process_are_free_after_its_lease(processes: Processes) -> None:
    entry, killed, other = model(), processes.start(), processes.start()
    async with allowed(at_once=2):
        held = [await hold(killed, entry) for _ in range(2)]
        processes.kill(killed)
        assert not await is_let_through(other, entry)
        processes.clock.now += books.LEASE - 1
        assert not await is_let_through(other, entry)
        processes.clock.now += 2
        await call(other, entry)
        for call_ in held:
            await call_.stop()


async def test_those_who_waited_in_a_killed_process_hold_nobody_up(processes: Processes) -> None:
    entry, killed, other = model(), processes.start(), processes.start()
    async with allowed(at_once=1):
        held = await hold(other, entry)
        waiting = Held(killed, entry)
        await asyncio.sleep(2 * books.POLL)
        processes.kill(killed)
        processes.clock.now += books.WAITING_LEASE + 0.1
        await held.end()
        await call(other, entry)
        await waiting.stop()


async def test_a_process_that_lives_keeps_its_places(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "RENEW", 0.02)
    entry, holder, other = model(), processes.start(), processes.start()
    async with allowed(at_once=1):
        held = await hold(holder, entry)
        for _ in range(4):
            processes.clock.now += books.LEASE * 0.8
            await asyncio.sleep(0.2)
            assert not await is_let_through(other, entry, wait=0.05)
        await held.end()


async def test_a_place_given_back_is_free_for_another_process_at_once(processes: Processes) -> None:
    entry, first, second = model(), processes.start(shared_time=False), processes.start(shared_time=False)
    async with allowed(at_once=1):
        for _ in range(3):
            held = await hold(first, entry)
            waiting = asyncio.create_task(call(second, entry))
            await asyncio.sleep(0.05)
            began = time.monotonic()
            await held.end()
            await waiting
            assert time.monotonic() - began < 0.9


async def test_a_reply_that_is_stopped_gives_its_place_back_at_every_moment(processes: Processes) -> None:
    entry, gate = model(), processes.start(shared_time=False)
    chance = random.Random(7)

    async def caller() -> None:
        async with gate.pass_(entry):
            await asyncio.sleep(chance.uniform(0, 0.01))

    async with allowed(at_once=3):
        tasks = [asyncio.create_task(caller()) for _ in range(200)]
        for task in chance.sample(tasks, 120):
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [error for error in ended if error and not isinstance(error, asyncio.CancelledError)]
        assert gate.load(entry.provider) == (0, 0)
        held = [await hold(gate, entry) for _ in range(3)]
        for call_ in held:
            await call_.end()


async def test_a_reply_stopped_just_as_its_turn_comes_gives_its_place_back(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, gate = model(), processes.start(shared_time=False)
    async with allowed(at_once=1):
        held = await hold(gate, entry)
        waiting = Held(gate, entry)
        await until(lambda: gate.load(entry.provider) == (1, 1))
        apply = gate._apply

        def apply_and_stop(door: Any, answer: Answer) -> None:
            apply(door, answer)
            if answer.granted:
                waiting.task.cancel()

        monkeypatch.setattr(gate, "_apply", apply_and_stop)
        await held.end()
        await asyncio.gather(waiting.task, return_exceptions=True)
        assert waiting.task.cancelled()
        assert not waiting.began.is_set()
        assert gate.load(entry.provider) == (0, 0)
        await call(gate, entry)


async def test_nobody_waits_longer_than_told(processes: Processes) -> None:
    entry, gate = model(), processes.start(shared_time=False)
    async with allowed(at_once=1, wait=0.2):
        held = await hold(gate, entry)
        began = time.monotonic()
        ended = await asyncio.gather(*(call(gate, entry) for _ in range(50)), return_exceptions=True)
        assert 0.15 < time.monotonic() - began < 3
        assert {type(error) for error in ended} == {ProviderBusy}
        assert gate.load(entry.provider) == (1, 0)
        await held.end()


async def test_a_process_that_ends_gives_its_places_to_others_at_once(processes: Processes) -> None:
    entry, ending, other = model(), processes.start(), processes.start()
    async with allowed(at_once=1):
        held, waiting = await hold(ending, entry), Held(ending, entry)
        await asyncio.sleep(0)
        await ending.aclose()
        with pytest.raises(ProviderBusy):
            await waiting.task
        await call(other, entry)
        await held.end()


async def test_without_limits_everybody_goes_at_once(processes: Processes) -> None:
    entry, gate = model(), processes.start()
    async with allowed():
        held = await asyncio.gather(*(hold(gate, entry) for _ in range(600)))
        assert gate.load(entry.provider) == (600, 0)
        await asyncio.gather(*(call_.end() for call_ in held))


async def test_the_local_model_has_as_many_places_as_slots_and_no_minute(processes: Processes) -> None:
    entry, gate = model(is_local=True), processes.start()
    async with allowed(at_once=1, per_minute=1):
        held = [await hold(gate, entry) for _ in range(SLOTS)]
        assert not await is_let_through(gate, entry)
        for call_ in held:
            await call_.end()


# --- Requests a minute --------------------------------------------------------------------------------------


async def test_a_minute_takes_so_many_requests_over_all_processes(processes: Processes) -> None:
    entry, gates = model(), [processes.start() for _ in range(2)]
    async with allowed(per_minute=4):
        for number in range(4):
            await call(gates[number % 2], entry)
            processes.clock.now += 10
        assert not await is_let_through(gates[0], entry)
        assert not await is_let_through(gates[1], entry)
        processes.clock.now += 21  # the first is now a minute old, the second is not
        await call(gates[0], entry)
        assert not await is_let_through(gates[1], entry)


async def test_who_waits_for_the_minute_goes_when_it_is_over(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "MINUTE", 0.5)
    entry, gates = model(), [processes.start(shared_time=False) for _ in range(2)]
    went: list[float] = []

    async def caller(number: int) -> None:
        async with gates[number % 2].pass_(entry):
            went.append(time.monotonic())

    async with allowed(per_minute=5):
        await asyncio.gather(*(caller(number) for number in range(15)))
    went.sort()
    assert went[5] - went[0] > 0.45
    assert went[10] - went[5] > 0.45
    assert went[-1] - went[0] < 3


async def test_providers_are_counted_apart(processes: Processes) -> None:
    one, other, gate = model(), model(), processes.start()
    async with allowed(per_minute=1):
        await call(gate, one)
        assert not await is_let_through(gate, one)
        await call(gate, other)


# --- Round trips --------------------------------------------------------------------------------------------


class Counting:
    """A client that counts its round trips, and can be away."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.trips = 0
        self.is_away = False

    async def evalsha(self, *arguments: Any) -> Any:
        self.trips += 1
        if self.is_away:
            raise RedisAway("away")
        return await self._client.evalsha(*arguments)

    async def script_load(self, script: str) -> Any:
        return await self._client.script_load(script)

    def pipeline(self, **how: Any) -> Any:
        self.trips += 1
        return self._client.pipeline(**how)


@pytest.fixture
async def counting(processes: Processes) -> Counting:
    client = processes.connect()
    await client.script_load(RedisBook(client, Rules.from_settings()).script)
    return Counting(client)


async def test_a_pass_is_one_round_trip(processes: Processes, counting: Counting) -> None:
    entry, gate = model(), processes.start_with(counting)
    async with allowed(at_once=64, per_minute=60):
        for _ in range(10):
            async with gate.pass_(entry) as passage:
                passage.answered()
    assert counting.trips == 10


async def test_those_who_come_together_share_a_round_trip(processes: Processes, counting: Counting) -> None:
    entry, gate = model(), processes.start_with(counting)
    async with allowed(at_once=1000):
        await asyncio.gather(*(call(gate, entry) for _ in range(200)))
    assert counting.trips <= 3


async def test_places_are_renewed_together(
    processes: Processes, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "RENEW", 0.3)
    entries, gate = [model() for _ in range(12)], processes.start_with(counting)
    async with allowed(at_once=4):
        held = await asyncio.gather(*(hold(gate, entry) for entry in entries for _ in range(3)))
        before = counting.trips
        await asyncio.sleep(0.5)
        assert 1 <= counting.trips - before <= 2
        await asyncio.gather(*(call_.end() for call_ in held))


async def test_a_server_that_has_lost_the_script_is_given_it_again(processes: Processes) -> None:
    entry, gate = model(), processes.start()
    client = processes.connect()
    async with allowed(at_once=1):
        for _ in range(2):
            await client.script_flush()
            await call(gate, entry)
            assert gate._broken_until == 0


async def test_nothing_runs_and_nothing_is_kept_when_nobody_calls(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "RELEASE_LATE", 0.02)
    entry, gate = model(), processes.start()
    async with allowed(at_once=4):
        await call(gate, entry)
    await until(lambda: gate._pump is not None and gate._pump.done())
    assert await processes.connect().keys(f"*{entry.provider}*") == []


# --- Redis away ---------------------------------------------------------------------------------------------

NOWHERE = "redis://127.0.0.1:1/0"


async def test_limits_hold_in_each_process_while_redis_is_away(processes: Processes) -> None:
    entry, gates = model(), [processes.start(url=NOWHERE, shared_time=False) for _ in range(2)]
    running, most = [0, 0], [0, 0]

    async def caller(number: int) -> None:
        process = number % 2
        async with gates[process].pass_(entry):
            running[process] += 1
            most[process] = max(most[process], running[process])
            await asyncio.sleep(0.002)
            running[process] -= 1

    async with allowed(at_once=5):
        await asyncio.gather(*(caller(number) for number in range(100)))
    assert most == [5, 5]
    async with allowed(per_minute=2):
        other = model()
        assert [await is_let_through(gates[0], other) for _ in range(3)] == [True, True, False]


async def test_the_breaker_works_while_redis_is_away(processes: Processes) -> None:
    entry, gate = model(), processes.start(url=NOWHERE)
    async with allowed():
        for _ in range(5):
            await call(gate, entry, ProviderFailed())
        with pytest.raises(ProviderUnavailable):
            await call(gate, entry)
        processes.clock.now += 31
        assert gate.state(entry.provider) == State.HALF_OPEN
        await call(gate, entry)
        assert gate.state(entry.provider) == State.CLOSED


async def test_what_was_taken_while_redis_was_away_counts_when_it_is_back(
    processes: Processes, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "BREAKER_SECONDS", 0.05)
    entry, cut_off, other = model(), processes.start_with(counting), processes.start()
    async with allowed(at_once=2):
        counting.is_away = True
        held = [await hold(cut_off, entry) for _ in range(2)]
        assert not await is_let_through(cut_off, entry)
        counting.is_away = False
        await asyncio.sleep(0.1)
        await cut_off.refresh(entry)
        assert not await is_let_through(other, entry)
        for call_ in held:
            await call_.end()


async def test_requests_of_this_minute_count_when_redis_goes_away(
    processes: Processes, counting: Counting
) -> None:
    entry, gate = model(), processes.start_with(counting)
    async with allowed(per_minute=2):
        await call(gate, entry)
        counting.is_away = True
        await call(gate, entry)
        assert not await is_let_through(gate, entry)


# --- The breaker --------------------------------------------------------------------------------------------


async def fail(gate: Gate, entry: ModelEntry, times: int) -> None:
    for _ in range(times):
        await call(gate, entry, ProviderFailed())


async def test_a_provider_that_fails_for_two_processes_is_left_alone_by_both(processes: Processes) -> None:
    entry, gates = model(), [processes.start() for _ in range(2)]
    async with allowed():
        await fail(gates[0], entry, 3)
        await fail(gates[1], entry, 2)
        for gate in gates:
            began = time.monotonic()
            with pytest.raises(ProviderUnavailable) as caught:
                await call(gate, entry)
            assert time.monotonic() - began < 1
            assert gate.state(entry.provider) == State.OPEN
            assert caught.value.detail == "Example did not answer lately. Parley tries again in 30 s."
            assert caught.value.retry_after == pytest.approx(30)


async def test_while_it_is_open_nobody_asks_redis(processes: Processes, counting: Counting) -> None:
    entry, gate = model(), processes.start_with(counting)
    async with allowed():
        await fail(gate, entry, 5)
        await gate.refresh(entry)
        before = counting.trips
        for _ in range(50):
            with pytest.raises(ProviderUnavailable):
                await call(gate, entry)
    assert counting.trips == before


async def test_those_who_wait_are_told_when_it_opens(processes: Processes) -> None:
    entry, gate = model(), processes.start()
    async with allowed(at_once=1):
        held = await hold(gate, entry)
        waiting = asyncio.create_task(call(gate, entry))
        await asyncio.sleep(0.05)
        for _ in range(5):
            gate.record(entry, ConnectionFailed())
        with pytest.raises(ProviderUnavailable):
            async with asyncio.timeout(2):
                await waiting
        await held.end()


@pytest.mark.parametrize(
    "error",
    [
        RateLimited(status=429, retry_after=5),
        RateLimited(status=429),
        AuthenticationFailed(status=401),
        RequestRefused(status=400),
        errors.ContextLengthExceeded(status=413),
        errors.StreamInterrupted(),
        asyncio.CancelledError(),
        RuntimeError("a fault of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_does_not_mean_that_it_is_down_leaves_it_closed(
    processes: Processes, error: BaseException
) -> None:
    entry, gate = model(), processes.start()
    async with allowed():
        for _ in range(20):
            await call(gate, entry, error)
    assert await gate.refresh(entry) == State.CLOSED


@pytest.mark.parametrize("kind", [ProviderFailed, errors.Overloaded, ConnectionFailed, TimedOut])
async def test_what_means_that_it_is_down_opens_it(processes: Processes, kind: type[LLMError]) -> None:
    entry, gate = model(), processes.start()
    async with allowed():
        for _ in range(5):
            await call(gate, entry, kind())
    assert await gate.refresh(entry) == State.OPEN


async def test_failures_of_long_ago_do_not_count(processes: Processes) -> None:
    entry, gate = model(), processes.start()
    async with allowed():
        await fail(gate, entry, 4)
        await gate.refresh(entry)
        processes.clock.now += 61
        await fail(gate, entry, 4)
    assert await gate.refresh(entry) == State.CLOSED


async def test_an_answer_in_between_clears_the_failures(processes: Processes) -> None:
    entry, gates = model(), [processes.start() for _ in range(2)]
    async with allowed():
        await fail(gates[0], entry, 4)
        await gates[0].refresh(entry)
        await call(gates[1], entry)  # a process that has not seen any of them
        await gates[1].refresh(entry)
        await fail(gates[0], entry, 1)
    assert await gates[0].refresh(entry) == State.CLOSED


async def test_the_end_of_a_call_from_before_the_failures_does_not_clear_them(processes: Processes) -> None:
    entry, gate = model(), processes.start()
    async with allowed():
        held = await hold(gate, entry)
        processes.clock.now += 10
        await fail(gate, entry, 4)
        await held.end()
        await fail(gate, entry, 1)
    assert await gate.refresh(entry) == State.OPEN


async def half_open(processes: Processes, entry: ModelEntry, count: int = 2) -> list[Gate]:
    gates = [processes.start() for _ in range(count)]
    await fail(gates[0], entry, 5)
    for gate in gates:
        assert await gate.refresh(entry) == State.OPEN
    processes.clock.now += 30.5
    assert {gate.state(entry.provider) for gate in gates} == {State.HALF_OPEN}
    return gates


async def test_one_of_twenty_racers_is_the_probe_and_its_answer_lets_all_through(
    processes: Processes,
) -> None:
    entry = model()
    may_answer, probes = asyncio.Event(), list[int]()

    async def racer(number: int, gate: Gate) -> None:
        async with gate.pass_(entry) as passage:
            probes.append(number)
            await may_answer.wait()
            passage.answered()

    async with allowed():
        gates = await half_open(processes, entry)
        racers = [asyncio.create_task(racer(number, gates[number % 2])) for number in range(20)]
        _, going = await asyncio.wait(racers, timeout=1)
        assert len(probes) == len(going) == 1
        may_answer.set()
        ended = await asyncio.gather(*racers, return_exceptions=True)
        refused = [error for error in ended if error is not None]
        assert len(refused) == 19
        assert {type(error) for error in refused} == {ProviderUnavailable}
        for gate in gates:
            assert await gate.refresh(entry) == State.CLOSED
            await call(gate, entry)


async def test_others_may_go_as_soon_as_the_probe_has_its_first_words(processes: Processes) -> None:
    entry = model()
    async with allowed():
        first, second = await half_open(processes, entry)
        async with first.pass_(entry) as passage:
            with pytest.raises(ProviderUnavailable):
                await call(second, entry)
            passage.answered()
            await first.refresh(entry)
            await call(second, entry)


async def test_each_probe_that_fails_doubles_the_time_up_to_five_minutes(processes: Processes) -> None:
    entry = model()
    async with allowed():
        gate, other = await half_open(processes, entry)
        for seconds in (60, 120, 240, 300, 300):
            await call(gate, entry, TimedOut())
            await gate.refresh(entry)
            assert await other.refresh(entry) == State.OPEN
            assert other.retry_in(entry.provider) == pytest.approx(seconds)
            processes.clock.now += seconds + 0.5
        await call(other, entry)
        assert await other.refresh(entry) == await gate.refresh(entry) == State.CLOSED
        await fail(gate, entry, 5)
        await gate.refresh(entry)
        assert gate.retry_in(entry.provider) == pytest.approx(30)


@pytest.mark.parametrize("next_one", [0, 1], ids=["of the same process", "of another process"])
async def test_a_probe_that_is_stopped_leaves_the_try_to_another(processes: Processes, next_one: int) -> None:
    entry = model()
    async with allowed():
        gates = await half_open(processes, entry)
        first, second = gates
        probe = await hold(first, entry)
        with pytest.raises(ProviderUnavailable):
            await call(second, entry)
        await probe.stop()
        await first.refresh(entry)
        await call(gates[next_one], entry)
        assert await gates[next_one].refresh(entry) == State.CLOSED


async def test_the_probe_of_a_killed_process_is_taken_over(processes: Processes) -> None:
    entry = model()
    async with allowed():
        first, second = await half_open(processes, entry)
        probe = await hold(first, entry)
        processes.kill(first)
        with pytest.raises(ProviderUnavailable):
            await call(second, entry)
        processes.clock.now += books.LEASE + 1
        await call(second, entry)
        assert second.state(entry.provider) == State.CLOSED
        await probe.stop()


async def test_a_provider_that_answers_with_a_refusal_is_alive(processes: Processes) -> None:
    entry = model()
    async with allowed():
        gate, _ = await half_open(processes, entry)
        await call(gate, entry, AuthenticationFailed(status=401))
        assert await gate.refresh(entry) == State.CLOSED


async def test_calls_outside_of_a_pass_count_too(processes: Processes) -> None:
    entry, gate = model(), processes.start()
    for _ in range(5):
        gate.record(entry, ConnectionFailed())
    assert await gate.refresh(entry) == State.OPEN
    processes.clock.now += 31
    gate.record(entry, None)
    assert await gate.refresh(entry) == State.CLOSED


# --- Both books ---------------------------------------------------------------------------------------------

RULES = Rules(failures=3, window=20, open_seconds=8, open_max=30)


class Blocking:
    """A client for `asyncio.run`, which cannot keep a connection of another loop."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def evalsha(self, *arguments: Any) -> Any:
        return self._client.evalsha(*arguments)

    async def script_load(self, script: str) -> Any:
        return self._client.script_load(script)


@pytest.fixture(scope="module")
def blocking() -> Iterator[Blocking]:
    client = blocking_redis.Redis.from_url(settings.REDIS_URL, decode_responses=True)
    yield Blocking(client)
    client.close()


quarters = st.integers(0, 60).map(lambda number: number / 4)
reports = st.builds(
    Report, is_alive=st.sampled_from([False, False, True]), age=quarters, is_probe=st.booleans()
)
statements: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    process=st.sampled_from(["a", "b", "c"]),
    held=st.integers(0, 4),
    is_probing=st.booleans(),
    waits=st.lists(quarters, max_size=5).map(lambda ages: sorted(ages, reverse=True)),
    reports=st.lists(reports, max_size=3),
)


@hypothesis_settings(max_examples=60)
@given(
    at_once=st.integers(0, 6),
    per_minute=st.integers(0, 8),
    story=st.lists(st.tuples(quarters, statements), max_size=20),
)
def test_memory_and_redis_keep_the_same_book(
    blocking: Blocking, at_once: int, per_minute: int, story: list[tuple[float, dict[str, Any]]]
) -> None:
    provider = f"p{uuid.uuid4().hex}"
    shared, memory = RedisBook(blocking, RULES), MemoryBook(RULES)
    now = 1_000.0
    for seconds, said in story:
        now += seconds
        statement = Statement(provider=provider, at_once=at_once, per_minute=per_minute, **said)
        (answer,) = asyncio.run(shared.sync([statement], now))
        assert rounded(answer) == rounded(memory.sync(statement, now))
        assert answer.granted <= len(statement.waits)
        assert answer.state is State.CLOSED or answer.granted <= 1
        assert answer.ask_again is None or 0 < answer.ask_again <= books.LONGEST_POLL


def rounded(answer: Answer) -> Answer:
    again = None if answer.ask_again is None else round(answer.ask_again, 3)
    return replace(answer, ask_again=again, retry_in=round(answer.retry_in, 3))


@given(
    at_once=st.integers(1, 6),
    story=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 4)), max_size=40),
)
def test_the_book_never_gives_more_places_than_there_are(
    at_once: int, story: list[tuple[str, int, int]]
) -> None:
    book, held = MemoryBook(RULES), {"a": 0, "b": 0, "c": 0}
    for number, (process, waiting, ended) in enumerate(story):
        held[process] = max(0, held[process] - ended)
        statement = Statement(
            process=process, provider="p", at_once=at_once, held=held[process], waits=[0.0] * waiting
        )
        held[process] += book.sync(statement, 1_000 + number / 100).granted
        assert sum(held.values()) <= at_once


# --- The delay before another try ---------------------------------------------------------------------------

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LLMError) and kind is not LLMError
]


@given(
    kind=st.sampled_from(KINDS),
    attempt=st.integers(1, 50),
    retry_after=st.none() | st.floats(),
    chance=st.floats(0, 1),
)
def test_a_delay_is_short_or_there_is_none(
    kind: type[LLMError], attempt: int, retry_after: float | None, chance: float
) -> None:
    delay = retry_delay(kind(retry_after=retry_after), attempt, chance=lambda: chance)
    if not kind.retryable or attempt >= settings.REPLY_TRIES:
        assert delay is None
    elif retry_after is None:
        assert delay is not None
        assert 0 <= delay <= 2**attempt
    elif 0 <= retry_after <= 60:
        assert delay == retry_after
    else:
        assert delay is None


def test_delays_grow_and_end_with_the_third_try() -> None:
    assert [retry_delay(ProviderFailed(), attempt, chance=lambda: 1.0) for attempt in (1, 2, 3)] == [
        2,
        4,
        None,
    ]


@pytest.mark.parametrize("kind", [ProviderBusy, ProviderUnavailable])
def test_a_closed_gate_is_a_reason_to_ask_another_provider_not_to_try_again(kind: type[LLMError]) -> None:
    assert kind.falls_back and not kind.retryable and not kind.billable
    assert retry_delay(kind(), 1) is None
    assert kind.sentence().endswith(".")
