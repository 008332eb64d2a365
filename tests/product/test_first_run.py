"""The whole product as a person meets it: a clean copy, `make run`, a browser, the real local model."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import CHROMIUM_ARGUMENTS, chromium_path
from tests.servers import PROJECT, free_port

pytestmark = [pytest.mark.product, pytest.mark.browser, pytest.mark.timeout(900)]

INSTALL_SECONDS = 600.0  # a cold package cache on a slow line
PASSWORD = "a long enough password"


class Product:
    """`make run` in a copy of the project, its output in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder.parent / "make-run.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self, *, seconds: float) -> float:
        """Run until the address is printed; returns how many seconds that took."""
        # What the tests' own services need must not reach the product: it has to start its own.
        ours = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DATA_DIR", "DEBUG", "DJANGO_SETTINGS_MODULE"}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["make", "run", f"PORT={self.port}"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        while self.url not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < began + seconds, self.log.read_text(errors="replace")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        """What Ctrl-C at a terminal does: SIGINT to the whole foreground group."""
        if self.process is None:
            return
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)
        self.process = None


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A clean copy of what is tracked, in a folder with a space in its name."""
    folder = tmp_path / "a friend's folder" / "parley"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")
    for name in filter(None, names):
        source, target = PROJECT / os.fsdecode(name), folder / os.fsdecode(name)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    found = Product(folder)
    yield found
    if found.process is not None:
        os.killpg(found.process.pid, signal.SIGINT)
        try:
            found.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(found.process.pid, signal.SIGKILL)


@pytest.fixture
def page(product: Product) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS)
        context = browser.new_context(base_url=product.url, timezone_id="Europe/Oslo")
        context.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        yield context.new_page()
        browser.close()


def test_from_a_clean_copy_to_a_conversation_that_is_still_there_after_a_restart(
    product: Product, page: Page
) -> None:
    product.start(seconds=INSTALL_SECONDS)

    # The first visit makes the first account.
    page.goto("/")
    page.get_by_label("Name", exact=True).fill("Ingrid Berg")
    page.get_by_label("E-mail").fill("ingrid@example.org")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Make account and begin").click()
    expect(page.get_by_text("SmolLM2-135M running on this machine")).to_be_visible()

    # A question to the real model; its words stream; a reload in the middle loses none.
    ask(page, "Explain in several paragraphs how a bicycle stays upright.")
    prose = page.locator(".msg--assistant .prose").last
    expect(prose).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=60_000)
    early = prose.inner_text()
    page.reload()
    state, whole = ended(page)
    assert state == "complete" and len(whole) > len(early)
    assert whole.startswith(early.strip()[:10])

    # One that is stopped keeps what it had.
    ask(page, "Write a very long story about a lighthouse keeper.")
    expect(page.locator(".msg--assistant .prose").last).to_contain_text(
        re.compile(r"\w+ \w+ \w+"), timeout=60_000
    )
    page.get_by_role("button", name="Stop the reply").click()
    state, stopped = ended(page)
    assert state == "stopped" and stopped

    # Everything is there after a restart, which is quick.
    address = page.url
    product.stop()
    seconds = product.start(seconds=180)
    print(f"second start: {seconds:.1f} s")
    page.goto(address)
    assert ended(page) == ("stopped", stopped)
    expect(page.locator(".msg--user")).to_have_count(2)
    expect(page.locator(".msg--assistant").first.locator(".prose")).to_contain_text(whole[:20])
    product.stop()
    assert "Traceback" not in product.log.read_text(errors="replace")


def ask(page: Page, text: str) -> None:
    page.wait_for_load_state()  # until its script runs, Enter begins a new line
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".msg--user").last).to_contain_text(text)


def ended(page: Page) -> tuple[str, str]:
    """State and text of the last reply, once it has ended."""
    last = page.locator(".msg--assistant").last
    expect(last).to_have_attribute(
        "data-state", re.compile("complete|stopped|failed|interrupted"), timeout=120_000
    )
    return str(last.get_attribute("data-state")), last.locator(".prose").inner_text()
