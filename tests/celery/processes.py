"""Celery workers and a clock as processes of their own, with a Valkey that can be restarted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers import PROJECT, START_SECONDS

RUNS = "tests:runs"  #: a list of “begin” and “end” in the order in which they happened
DEADLINE = 20.0  # seconds that any wait of a test may take


def until(question: Callable[[], object], what: str, *, seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.05)


class Program:
    """A Celery program in a process group of its own, so that its children can be killed with it."""

    def __init__(self, folder: Path, name: str, environment: dict[str, str]) -> None:
        self.log = folder / f"{name}.log"
        self.ready = folder / f"{name}.ready"
        kind = name.partition("-")[0]
        options = {
            "worker": [
                "--concurrency",
                "1",
                "--without-gossip",
                "--without-mingle",
                "--hostname",
                f"{name}@test",
            ],
            "beat": ["--schedule", str(folder / "beat"), "--pidfile", ""],
        }
        self.command = [sys.executable, "-m", "celery", "-A", "tests.celery.workers", kind, *options[kind]]
        self.environment = os.environ | environment | {"READY_FILE": str(self.ready)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=PROJECT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        until(self.ready.exists, f"{self.command}\n{self.log.read_text()[-2000:]}", seconds=START_SECONDS)

    def children(self) -> list[int]:
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def kill(self) -> None:
        """SIGKILL for it and its children: none has a chance to tidy up."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=5)
            self.process = None
