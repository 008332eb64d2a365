"""`manage.py up` starts everything, survives every SIGKILL, and says in one sentence why it cannot start."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from chatapp.embedded import address, folder, paths
from chatapp.embedded.paths import EmbeddedError
from chatapp.embedded.service import start_time, wait_until
from chatapp.embedded.supervisor import MOST_DEATHS, Supervisor, Watched
from chatapp.embedded.valkey import Valkey
from tests.embedded.conftest import Up

Start = Callable[..., Up]
PROGRAMS = {"postgres", "valkey", "web", "worker", "beat"}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not start_time(pid), seconds=30)


@pytest.mark.product
@pytest.mark.timeout(600)
def test_it_starts_stops_and_starts_again_quickly(data: Path, up: Start) -> None:
    first = up()
    ready = httpx.get(f"{first.wait_ready()}readyz", timeout=10)
    assert ready.status_code == 200
    assert {path.name for path in (data / "pids").iterdir()} == PROGRAMS
    pids = [first.pid_of(name) for name in PROGRAMS]
    assert first.stop() == 0
    assert first.lines[-1] == "Parley has stopped."
    assert sum("http://" in line for line in first.lines) == 1
    assert not any(start_time(pid) for pid in pids)
    assert not list((data / "pids").iterdir())

    began = time.monotonic()
    second = up()
    second.wait_ready()
    assert time.monotonic() - began < 60, "5 s on an idle machine; this one may be busy"
    assert not any("database update" in line for line in second.lines)
    assert second.stop(signal.SIGTERM) == 0


@pytest.mark.product
@pytest.mark.timeout(600)
def test_a_killed_child_is_started_again_and_a_killed_supervisor_leaves_nothing(
    data: Path, up: Start
) -> None:
    first = up()
    url = first.wait_ready()
    for name in sorted(PROGRAMS):
        killed = first.pid_of(name)
        kill(killed)
        assert wait_until(lambda: first.pid_of(name) not in {0, killed}, seconds=60), name  # noqa: B023

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    assert wait_until(is_ready, seconds=90)

    pids = [first.pid_of(name) for name in PROGRAMS]
    first.process.kill()
    first.wait_ended()
    if sys.platform == "linux":  # elsewhere the next start ends them
        assert wait_until(lambda: not any(start_time(pid) for pid in pids), seconds=60)
    second = up()
    second.wait_ready()
    assert second.stop() == 0


@pytest.mark.product
@pytest.mark.timeout(600)
def test_open_to_the_network_the_first_account_needs_a_code(data: Path, up: Start) -> None:
    started = up(HOST="0.0.0.0")
    code = started.wait_for("The first account needs this code: (.+)")[1]
    port = httpx.URL(started.wait_ready()).port
    environment = (
        Path(f"/proc/{started.pid_of('web')}/environ").read_bytes() if sys.platform == "linux" else b""
    )
    if environment:
        assert f"PARLEY_SETUP_CODE={code}".encode() in environment
    name = socket.gethostname().lower()
    answers = [
        httpx.get(f"http://127.0.0.1:{port}/healthz", headers={"Host": host}).status_code
        for host in (name, "evil.example")
    ]
    assert answers == [200, 400]
    assert started.stop() == 0


def sentence(started: Up) -> str:
    """The one line that it ends with, after a failure."""
    assert started.wait_ended() == 1
    assert not any("Traceback" in line for line in started.lines), "\n".join(started.lines)
    said = [
        line for line in started.lines if not line.startswith(("Starting Parley", "  ", "Parley has stopped"))
    ]
    assert len(said) == 1, said
    return said[0]


def test_a_taken_port_is_said_in_a_sentence(up: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert sentence(up(PORT=str(port))).startswith(
            f"Port {port} is taken by another program: choose another"
        )


def test_a_folder_in_use_is_said_in_a_sentence(data: Path, up: Start) -> None:
    with folder.locked(data):
        said = sentence(up())
    assert "is in use by another Parley" in said
    assert str(os.getpid()) in said


def test_a_damaged_folder_is_said_in_a_sentence(data: Path, up: Start) -> None:
    (data / "postgres").mkdir()
    assert "is damaged" in sentence(up())


def test_a_file_in_the_place_of_the_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    started = Up(tmp_path / "file" / "data")
    try:
        assert "cannot be written to: Not a directory" in sentence(started)
    finally:
        assert started.process.stdout is not None
        started.process.stdout.close()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "eighty", "PORT is “eighty”, but must be a whole number."),
        ("PORT", "99999", "PORT is 99999, but must be between 1 and 65535."),
        ("HOST", "256.1.1.1", "HOST is “256.1.1.1”, which is not an address of this machine."),
        ("HOST", "203.0.113.9", "HOST is “203.0.113.9”, which is not an address of this machine."),
        ("SIGN_UP", "perhaps", "SIGN_UP is “perhaps”, but must be invite"),
        ("PUBLIC_URL", "chat", "PUBLIC_URL must be a whole address"),
        ("LOCAL_MODEL", "perhaps", "LOCAL_MODEL is “perhaps”, but must be true"),
        ("REDIS_URL", "redis://127.0.0.1:1/0", "The server in REDIS_URL does not answer."),
        ("REDIS_URL", "nonsense", "The server in REDIS_URL does not answer."),
    ],
)
def test_a_wrong_setting_is_said_in_a_sentence(up: Start, name: str, value: str, said: str) -> None:
    assert sentence(up(**{name: value})).startswith(said)


def test_a_database_that_does_not_answer_is_said_in_a_sentence(up: Start) -> None:
    started = up(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", SECRET_KEY="")
    assert sentence(started) == "The database in DATABASE_URL does not answer."


def test_a_full_disk_is_said_in_a_sentence(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(EmbeddedError, match=r"^The disk that holds .* is full: 1 MB are free"):
        folder.make_data_dir(data)


def test_an_old_python_is_said_in_a_sentence() -> None:
    pretend = "import sys, runpy; sys.version_info = (3, 9); sys.argv = ['manage.py', 'up']"
    done = subprocess.run(
        [sys.executable, "-c", f"{pretend}; runpy.run_path('manage.py', run_name='__main__')"],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Parley needs Python 3.11 or newer")
    assert done.stderr.count("\n") == 1


def test_a_process_that_keeps_dying_stops_everything_with_its_log_named(data: Path) -> None:
    class Hopeless(Valkey):
        label = "The hopeless one"

        def start(self) -> None:
            starts.append(now)

    starts: list[float] = []
    supervisor = Supervisor(data, host="127.0.0.1", port=0, local_model=False, out=io.StringIO())
    watched, now = Watched(service=Hopeless(data)), 0.0
    with pytest.raises(EmbeddedError, match=r"The hopeless one does not run: see .*valkey\.log"):
        while now < 100:
            supervisor._look_after(watched, now)
            now += 0.25
    assert len(starts) == MOST_DEATHS - 1
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == sorted(gaps), "each wait is longer than the one before"


def test_names_and_addresses() -> None:
    assert [
        address.is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.0.2.7")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert address.url("127.0.0.1", 8000) == "http://127.0.0.1:8000/"
    assert address.url("::1", 8000) == "http://[::1]:8000/"
    assert "192.0.2.7" in address.names_of("192.0.2.7")
    assert socket.gethostname().lower() in address.names_of("0.0.0.0")
    assert "0.0.0.0" not in address.names_of("0.0.0.0")
