"""What the load benchmark measures: PostgreSQL, Valkey, a provider, a relay and one web process, all real."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from chatapp.embedded import folder, paths
from chatapp.embedded.postgres import Postgres
from chatapp.embedded.service import Service
from chatapp.embedded.valkey import Valkey

MODEL = "openai/bench"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Stack:
    web: int  #: process ids
    postgres: int
    valkey: int
    web_port: int
    relay_port: int
    provider_port: int
    data: Path

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far of each part of the product, its ended children included."""
        return {
            "web": cpu_of(self.web),
            "postgres": cpu_of(self.postgres) + sum(cpu_of(pid) for pid in children_of(self.postgres)),
            "valkey": cpu_of(self.valkey),
        }


def empty_data(tidy: ExitStack, name: str) -> Path:
    """A data folder of this process in `.cache`, which is gone when it is tidied up."""
    data = paths.PROJECT / ".cache" / name / str(os.getpid())
    folder.make_data_dir(data)
    tidy.callback(shutil.rmtree, data, ignore_errors=True)
    tidy.enter_context(folder.locked(data))
    tidy.callback(shutil.rmtree, paths.make_runtime_dir(data), ignore_errors=True)
    return data


@contextmanager
def running() -> Iterator[Stack]:
    """The whole product on empty data, and Django set up in this process to write into it."""
    with ExitStack() as tidy:
        data = empty_data(tidy, "bench")
        services: list[Service] = [Valkey(data), Postgres(data)]
        for service in services:
            tidy.callback(service.stop)
            service.start()
        for service in services:
            service.wait_ready()
        provider_port, relay_port, web_port = (free_port() for _ in range(3))
        for name in ("DATABASE_URL", "REDIS_URL"):
            os.environ.pop(name, None)
        provider = f"http://127.0.0.1:{provider_port}"
        os.environ |= {
            "DATA_DIR": str(data),
            "DJANGO_SETTINGS_MODULE": "chatapp.settings",
            "SECRET_KEY": "only for benchmarks",
            "OPENAI_API_KEY": "bench",
            "OPENAI_BASE_URL": f"{provider}/v1",
            "OPENAI_MODELS": "bench",
            "OPENAI_PRICE": "2.00/8.00",
            "BENCH_PROVIDER": provider,
            # The provider of the benchmark has no limits to keep to.
            "PROVIDER_REQUESTS_PER_MINUTE": "1000000",
            "PROVIDER_CONCURRENCY": "1000000",
        }
        subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity=0"], check=True)
        start(tidy, provider_port, "-m", "bench.provider", "--port", str(provider_port))
        options = ("--no-access-log", "--log-level", "warning", "--host", "127.0.0.1", "--port")
        start(tidy, relay_port, "-m", "uvicorn", *options, str(relay_port), "bench.relay:application")
        web = start(tidy, web_port, "-m", "bench.web", *options, str(web_port), "chatapp.asgi:application")
        import django

        django.setup()
        set_price()
        assert services[0].process is not None and services[1].process is not None
        yield Stack(
            web=web,
            valkey=services[0].process.pid,
            postgres=services[1].process.pid,
            web_port=web_port,
            relay_port=relay_port,
            provider_port=provider_port,
            data=data,
        )


def start(tidy: ExitStack, port: int, *arguments: str) -> int:
    """Start a Python process that will listen on `port`; returns its id when it does."""
    with (paths.PROJECT / ".cache" / "bench" / "log").open("ab") as log:  # stays, to be read afterwards
        process = subprocess.Popen([sys.executable, *arguments], cwd=paths.PROJECT, stdout=log, stderr=log)

    def stop() -> None:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()

    tidy.callback(stop)
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process.pid
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{arguments} did not start") from None
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def watch(port: int, viewers: list[dict[str, Any]], **plan: Any) -> list[dict[str, Any]]:
    """Let a client process play the viewers; returns the figures of each send."""
    words = json.dumps({"port": port, "viewers": viewers, **plan})
    with tempfile.NamedTemporaryFile() as figures:
        client = [sys.executable, "-m", "bench.client", figures.name]
        subprocess.run(client, input=words, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(Path(figures.name).read_text(encoding="utf-8"))
    for send in found:
        if send.get("leaf"):  # where this viewer's conversation goes on
            viewers[send["viewer"]]["leaf"] = send["leaf"]
    return found


# --- What /proc says ------------------------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@dataclass
class Peak:
    """The most of each that was seen of the web process while it was watched."""

    memory_mb: float = 0.0
    threads: int = 0
    connections: int = 0
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    @classmethod
    @contextmanager
    def of(cls, stack: Stack) -> Iterator[Peak]:
        peak = cls()
        looker = threading.Thread(target=peak._look, args=[stack])
        looker.start()
        try:
            yield peak
        finally:
            peak._over.set()
            looker.join()

    def _look(self, stack: Stack) -> None:
        while not self._over.wait(0.5):
            pages = int(Path(f"/proc/{stack.web}/statm").read_text().split()[1])
            self.memory_mb = max(self.memory_mb, pages * PAGE / 1e6)
            self.threads = max(self.threads, len(os.listdir(f"/proc/{stack.web}/task")))
            backends = [name for pid in children_of(stack.postgres) if "parley" in (name := title_of(pid))]
            self.connections = max(self.connections, len(backends))


def title_of(pid: int) -> str:
    """What PostgreSQL says of a process of its own: `postgres: user database …`, or the name of its job."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def set_price() -> None:
    """A dollar for a million tokens: each reply is paid for, as those of most providers are."""
    from conversations.models import PriceOverride

    rates = {"input_rate": 10**9, "output_rate": 10**9}  # nano-USD a million
    PriceOverride.objects.create(model=MODEL, **rates)


# --- Who watches ----------------------------------------------------------------------------------------------


def make_viewers(count: int, *, messages: int = 10, prefix: str = "viewer") -> list[dict[str, Any]]:
    """People with a session and a conversation each, written straight into the database."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    from conversations.models import Conversation, Message, User

    users = User.objects.bulk_create(
        [User(email=f"{prefix}{n}@example.org", name=f"Viewer {n}", password="!") for n in range(count)]
    )
    store, expires = SessionStore(), timezone.now() + timedelta(days=1)
    sessions, conversations, said, viewers = [], [], [], []
    for number, user in enumerate(users):
        key = f"{prefix}{number:0>10}".ljust(32, "x")
        login = {
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        }
        sessions.append(Session(session_key=key, session_data=store.encode(login), expire_date=expires))
        # Named, so that no title is asked of a worker that is not part of the measurement.
        conversation = Conversation(user=user, model=MODEL, title="Benchmark", title_source="person")
        conversations.append(conversation)
        path = chain_of(conversation, messages)
        said += path
        viewers.append(
            {
                "session": key,
                "csrf": "c" * 32,
                "conversation": str(conversation.pk),
                "leaf": str(path[-1].pk) if path else "",
                "model": MODEL,
            }
        )
    Session.objects.bulk_create(sessions)
    Conversation.objects.bulk_create(conversations)
    Message.objects.bulk_create(said, batch_size=1000)
    for conversation, viewer in zip(conversations, viewers, strict=True):
        conversation.leaf_id = viewer["leaf"] or None
    Conversation.objects.bulk_update(conversations, ["leaf"], batch_size=500)
    return viewers


def settle() -> None:
    """What autovacuum does within minutes to what was written at once: what is long was not written just now."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def chain_of(conversation: Any, count: int) -> list[Any]:
    """So many messages, each under the one before: a sentence asked, a paragraph answered."""
    from conversations.models import Message

    question = "What do we know of the harbour of Bergen, and who wrote it down first?"
    answer = (
        "It is told in the sagas that the town was founded by Olav Kyrre in 1070, at the head of a bay. " * 3
    )
    path: list[Message] = []
    for number in range(count):
        is_question = number % 2 == 0
        path.append(
            Message(
                conversation=conversation,
                parent=path[-1] if path else None,
                role="user" if is_question else "assistant",
                content=question if is_question else answer,
                token_count=20 if is_question else 90,
            )
        )
    return path
