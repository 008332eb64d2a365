"""Real processes for tests: web servers on the test database, and a provider that counts its calls."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from django.conf import settings
from django.db import connection

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0

FAKE_MODEL = "openai/fake-large"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_database_url() -> str:
    """The address of the database that this test uses, for a process of its own."""
    found = connection.settings_dict
    credentials = quote(str(found["USER"]), safe="")
    if found["PASSWORD"]:
        credentials += ":" + quote(str(found["PASSWORD"]), safe="")
    host = str(found["HOST"])
    if host.startswith("/"):
        return f"postgresql://{credentials}@/{found['NAME']}?host={quote(host, safe='/')}"
    return f"postgresql://{credentials}@{host}:{found['PORT'] or 5432}/{found['NAME']}"


test_database_url.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever its name begins with


@dataclass
class Server:
    """A child process that answers HTTP on a loopback port."""

    command: list[str]
    port: int
    environment: dict[str, str]
    log: Path
    ready_path: str = "/"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=PROJECT, env=os.environ | self.environment, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + self.ready_path).status_code < 500:
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{self.command} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: the process has no chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=5)
        self.process = None


def fake_provider(folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "tests.fake_provider", "--port", str(port)]
    return Server(command, port, {}, folder / "provider.log", "/_stats")


def stats(provider: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(provider.url + "/_stats").json()
    return found


def web_server(folder: Path, provider: Server, **environment: str) -> Server:
    """One web process on the test database, whose only model is the fake provider's."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "chatapp.asgi:application", "--host", "127.0.0.1"),
        *("--port", str(port), "--timeout-graceful-shutdown", "1", "--log-level", "warning"),
    ]
    values = {
        "DATABASE_URL": test_database_url(),
        "REDIS_URL": settings.REDIS_URL,
        "SECRET_KEY": settings.SECRET_KEY,
        "DATA_DIR": str(folder),
        "OPENAI_API_KEY": "test-key",
        "OPENAI_BASE_URL": provider.url + "/v1",
        "OPENAI_MODELS": "fake-large",
        "OPENAI_PRICE": "2.00/8.00",
        "DRAIN_GRACE": "1",
    }
    return Server(command, port, values | environment, folder / f"web-{port}.log", "/healthz")


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in reversed(servers):
            server.kill()
