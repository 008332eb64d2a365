"""The whole product as real processes, and the hand that kills them."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.chaos.money import PRICE
from bench.stack import children_of, empty_data, free_port, title_of
from chatapp.embedded import paths
from chatapp.embedded.postgres import Postgres
from chatapp.embedded.service import Service
from chatapp.embedded.valkey import Valkey

MODEL = "openai/fake-large"
#: Where a web process dies, and how often relative to the others.
CRASH_POINTS = {
    "before_hold": 2,
    "after_hold": 2,
    "before_commit": 2,
    "after_commit": 2,
    "between_claim_and_plan": 2,
    "after_request_sent": 2,
    "before_first_delta": 2,
    "mid_stream": 6,
    "between_checkpoints": 2,
    "before_finish": 2,
    "in_finish": 4,
    "between_finish_and_publish": 2,
    "in_recovery": 2,
    "in_drain": 2,
    "": 4,  # from outside, anywhere
}
#: How much of the killing each of the others gets, beside 100 for all web processes together.
OTHERS = {"worker": 14, "beat": 3, "valkey": 8, "postgres": 6, "a session of postgres": 6, "provider": 8}
#: A web process that has not come by its crash point after this time is killed where it is.
LONGEST_LIFE = 8.0


def read_lines(file: IO[bytes], into: queue.Queue[dict[str, Any]], log: Path | None = None) -> None:
    with (log or Path(os.devnull)).open("ab") as copy:
        for line in file:
            copy.write(line)
            into.put(json.loads(line))


class Teller:
    """A child process that takes JSON lines and says JSON lines."""

    def __init__(
        self, module: str, *, log: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=paths.PROJECT,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.facts: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(
            target=read_lines, args=[self.process.stdout, self.facts, log], daemon=True
        )
        self._reader.start()

    def tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def news(self) -> Iterator[dict[str, Any]]:
        while not self.facts.empty():
            yield self.facts.get_nowait()

    def close(self, *, seconds: float = 10.0) -> None:
        """End its input, wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)


@dataclass
class Slot:
    """A place for one process, which is born again whenever it dies."""

    role: str
    number: int
    port: int = 0
    pid: int = 0
    crash_at: str = ""
    dies_at: float = float("inf")
    is_draining: bool = False
    is_asked_for: bool = False
    from_outside: bool = False


@dataclass
class Outage:
    """When a service was away, until it answered again."""

    name: str
    began: float
    ended: float = 0.0


@dataclass
class Stack:
    data: Path
    valkey: Service
    postgres: Service
    provider: Slot
    webs: list[Slot]
    others: list[Slot]
    settings: dict[str, str]
    nursery: Teller | None = None
    kills: Counter[str] = field(default_factory=Counter)
    deaths: list[tuple[int, float]] = field(default_factory=list)  #: of web processes
    outages: list[Outage] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    restarts: list[float] = field(
        default_factory=list
    )  #: seconds from the death of a web process to the next birth
    returns_at: dict[str, float] = field(default_factory=dict)

    @property
    def ports(self) -> list[int]:
        return [slot.port for slot in self.webs]

    @property
    def slots(self) -> list[Slot]:
        return [self.provider, *self.webs, *self.others]

    @property
    def calls(self) -> Path:
        return self.data / "calls.jsonl"

    # --- Life -----------------------------------------------------------------------------------------------

    def open_nursery(self, **environment: str) -> None:
        """Begin a round under these settings; nothing runs before."""
        self.settings = environment
        self.nursery = Teller("bench.chaos.nursery", environment=environment)
        assert self.nursery.facts.get(timeout=60)["ready"]

    def close_nursery(self) -> None:
        """End every process but PostgreSQL and Valkey."""
        if self.nursery is not None:
            self.nursery.close()
        for slot in self.slots:
            slot.pid, slot.is_asked_for = 0, False

    def bear(self, slot: Slot, *, armed: bool = False) -> None:
        """Start a process; an armed web process knows where it will die."""
        order = {"role": slot.role, "slot": slot.number, "port": slot.port}
        order["log"] = str(self.data / "logs" / f"{slot.role}-{slot.number}.log")
        slot.crash_at, slot.dies_at, slot.is_draining, slot.from_outside = "", float("inf"), False, False
        if slot.role == "web" and armed:
            # What has been killed least is the likeliest, so that every place gets its share.
            shares = [share / (1 + self.kills[f"web: {name}"]) for name, share in CRASH_POINTS.items()]
            slot.crash_at = random.choices([*CRASH_POINTS], shares)[0]
            passes = {"mid_stream": 150, "in_drain": 1, "in_recovery": 2}.get(slot.crash_at, 4)
            order["crash_at"] = f"{slot.crash_at}:{random.randint(1, passes)}" if slot.crash_at else ""
            slot.dies_at = time.time() + (
                random.uniform(0.5, 3.0) if slot.crash_at in {"", "in_drain"} else LONGEST_LIFE
            )
        elif slot.role == "beat":
            order["schedule"] = str(self.data / "beat-schedule")
        elif slot.role == "provider":
            order["record"] = str(self.calls)
        slot.pid, slot.is_asked_for = 0, True
        assert self.nursery is not None
        self.nursery.tell(order)

    def listen(self) -> list[Slot]:
        """Take in who was born and who died; returns the slots that are empty now."""
        assert self.nursery is not None
        empty = []
        for fact in self.nursery.news():
            if "born" in fact:
                slot = self.slot(fact["role"], fact["slot"])
                slot.pid, slot.is_asked_for = fact["born"], False
                continue
            for slot in self.slots:
                if slot.pid == fact["died"]:
                    self.count(slot, fact["signal"])
                    slot.pid = 0
                    empty.append(slot)
        return empty

    def slot(self, role: str, number: int) -> Slot:
        return next(slot for slot in self.slots if (slot.role, slot.number) == (role, number))

    def count(self, slot: Slot, how: int) -> None:
        if slot.role == "web":
            self.deaths.append((slot.pid, time.time()))
        if how == signal.SIGKILL:
            place = slot.crash_at if slot.crash_at and not slot.from_outside else "from outside"
            self.kills[f"web: {place}" if slot.role == "web" else slot.role] += 1
        elif not slot.is_draining:
            self.unexpected.append(f"{slot.role} {slot.number} ended by itself, with signal {how}")

    # --- Death ----------------------------------------------------------------------------------------------

    def kill(self, slot: Slot) -> None:
        if slot.pid:
            slot.from_outside = True
            with suppress(ProcessLookupError):  # it was faster
                os.killpg(slot.pid, signal.SIGKILL)

    def kill_service(self, service: Service, *, away: float) -> None:
        """SIGKILL; `tend` brings it back after so many seconds."""
        if service.process is None or service.name in self.returns_at or self.is_away(service.name):
            return
        service.process.kill()
        service.process.wait()
        self.kills[service.name] += 1
        self.outages.append(Outage(service.name, time.time()))
        self.returns_at[service.name] = time.time() + away

    def kill_session(self) -> None:
        """One session of PostgreSQL: it ends all others with it and recovers."""
        if self.postgres.process is None or self.is_away("postgres"):
            return
        sessions = [pid for pid in children_of(self.postgres.process.pid) if "parley" in title_of(pid)]
        if sessions:
            os.kill(random.choice(sessions), signal.SIGKILL)
            self.kills["a session of postgres"] += 1
            self.outages.append(Outage("postgres", time.time()))

    def is_away(self, name: str) -> bool:
        return any(outage.name == name and not outage.ended for outage in self.outages)

    def tend(self) -> None:
        """Bring services back whose time has come, and notice when they answer."""
        for service in (self.valkey, self.postgres):
            if self.returns_at.get(service.name, float("inf")) <= time.time():
                del self.returns_at[service.name]
                service.start()
            if service.name in self.returns_at or not self.is_away(service.name):
                continue
            if not service.is_running():
                service.start()
            elif service.is_ready():
                for outage in self.outages:
                    if outage.name == service.name and not outage.ended:
                        outage.ended = time.time()

    def settle(self, *, seconds: float = 30.0) -> None:
        """Everything runs, nothing is armed."""
        end = time.time() + seconds
        for slot in self.webs:
            if slot.crash_at:
                slot.dies_at = 0.0
        while time.time() < end:
            self.tend()
            for slot in self.webs:
                if slot.dies_at <= time.time() and slot.pid and not slot.from_outside:
                    self.kill(slot)
            for slot in self.listen():
                self.bear(slot)
            for slot in self.slots:
                if not slot.pid and not slot.is_asked_for:
                    self.bear(slot)
            armed = [slot for slot in self.webs if slot.crash_at or not slot.pid]
            if not armed and not self.is_away("valkey") and not self.is_away("postgres"):
                return
            time.sleep(0.02)
        raise SystemExit("the processes did not come back: see the logs")

    def rage(self, *, kills: int, seconds: float, per_second: float) -> None:
        """Kill until so many have died or the time is over."""
        total = 100 + sum(OTHERS.values())
        start, before = time.time(), sum(self.kills.values())
        for slot in self.webs:
            slot.dies_at = time.time() + random.uniform(0, 2)
            slot.crash_at = ""
        waits = {name: per_second * share / total for name, share in OTHERS.items()}
        due = {name: start + random.expovariate(rate) for name, rate in waits.items()}
        next_birth = 0.0
        while time.time() < start + seconds and sum(self.kills.values()) - before < kills:
            self.tend()
            now = time.time()
            for slot in self.listen():
                slot.dies_at = float("inf")
            for slot in self.slots:
                if slot.pid or slot.is_asked_for:
                    continue
                if slot.role == "web":
                    if now < next_birth:
                        continue
                    next_birth = now + total / 100 / per_second * 0.5
                self.bear(slot, armed=True)
            for slot in self.webs:
                if not slot.pid or now < slot.dies_at or slot.from_outside:
                    continue
                if slot.crash_at == "in_drain" and not slot.is_draining:
                    slot.is_draining, slot.dies_at = True, now + 3
                    with suppress(ProcessLookupError):
                        os.kill(slot.pid, signal.SIGTERM)
                else:
                    self.kill(slot)
            for name, at in due.items():
                if now >= at:
                    due[name] = now + random.expovariate(waits[name])
                    self.strike(name)
            time.sleep(0.01)

    def strike(self, name: str) -> None:
        match name:
            case "valkey":
                self.kill_service(self.valkey, away=random.choice([0.0, 0.0, 1.0]))
            case "postgres":
                self.kill_service(self.postgres, away=random.choice([0.0, 0.0, 2.0]))
            case "a session of postgres":
                self.kill_session()
            case _:
                slots = [slot for slot in self.slots if slot.role == name and slot.pid]
                if slots:
                    self.kill(random.choice(slots))


@contextmanager
def running(*, webs: int, workers: int = 2) -> Iterator[Stack]:
    """PostgreSQL and Valkey on empty data, Django set up in this process; a nursery for the rest is still to open."""
    with ExitStack() as tidy:
        data = empty_data(tidy, "chaos")
        (data / "logs").mkdir(exist_ok=True)
        postgres, valkey = Postgres(data), Valkey(data)
        for service in (valkey, postgres):
            tidy.callback(service.stop)
            service.start()
        for service in (valkey, postgres):
            service.wait_ready()
        stack = Stack(
            data=data,
            valkey=valkey,
            postgres=postgres,
            provider=Slot("provider", 0, free_port()),
            webs=[Slot("web", number, free_port()) for number in range(webs)],
            others=[*(Slot("worker", number) for number in range(workers)), Slot("beat", 0)],
            settings={},
        )
        os.environ |= {
            # Named, as on a server: a setup that is not has one web process, and knows it.
            "DATABASE_URL": paths.database_url(data),
            "REDIS_URL": paths.redis_url(data),
            "LOG_FORMAT": "text",
            "DATA_DIR": str(data),
            "DJANGO_SETTINGS_MODULE": "chatapp.settings",
            "SECRET_KEY": "only for chaos",
            "OPENAI_API_KEY": "chaos",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{stack.provider.port}/v1",
            "OPENAI_MODELS": "fake-large,fake-small",
            "OPENAI_PRICE": PRICE,
            "BACKGROUND_MODEL": "openai/fake-small",
            "DRAIN_GRACE": "2",
            # A call in the background takes ten seconds at most; beat looks for abandoned holds each minute.
            "HOLD_LEASE": "20",
            # A provider that dies every few seconds would be left alone for most of the run.
            "PROVIDER_REQUESTS_PER_MINUTE": "0",
            "PROVIDER_CONCURRENCY": "0",
            "BREAKER_FAILURES": "1000000",
        }
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"], cwd=paths.PROJECT, check=True
        )
        tidy.callback(stack.close_nursery)
        import django

        django.setup()
        yield stack
