"""A data folder whose path holds a space and a quote, and a whole product in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatapp.embedded import paths
from chatapp.embedded.folder import make_data_dir

# A start takes 5 s on an idle machine, and a busy one must not fail.
START_SECONDS = 120.0
STOP_SECONDS = 60.0


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "it's a folder"
    make_data_dir(folder)
    runtime = paths.make_runtime_dir(folder)
    yield folder
    shutil.rmtree(runtime, ignore_errors=True)


class Up:
    """`manage.py up` in a process of its own, its output line by line."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        clean = {
            name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}
        }
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=paths.PROJECT,
            env=clean | {"DATA_DIR": str(data), "PORT": "0", "LOCAL_MODEL": "off"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line that matches; fails when the process ends or takes too long before."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self.process.poll() is not None
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert not ended and time.monotonic() < deadline, "\n".join(
                [f"no line has {pattern!r}", *self.lines]
            )
            time.sleep(0.02)

    def wait_ready(self) -> str:
        return self.wait_for(r"Parley is ready at (\S+)")[1]

    def pid_of(self, name: str) -> int:
        """The process of that name; 0 in the moment between its death and its next start."""
        try:
            return int((self.data / "pids" / name).read_text().split()[0])
        except (OSError, IndexError):
            return 0

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.wait_ended()

    def wait_ended(self) -> int:
        code = self.process.wait(STOP_SECONDS)
        self._reader.join(5)
        return code


@pytest.fixture
def up(data: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(**environment: str) -> Up:
        started.append(Up(data, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        assert one.process.stdout is not None
        one._reader.join(5)
        one.process.stdout.close()
