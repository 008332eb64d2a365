"""A real Chromium on a real server: one of each for this folder, and a fresh database for each test."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from conversations.models import User
from tests import cast
from tests.servers import Server, fake_provider, running, web_server

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW = 20  # seconds after which nothing more is waited for: a busy machine is no failure
UNREACHABLE = "http://nowhere.invalid/v1"  # a name that no DNS server knows

SignIn = Callable[..., Page]


def chromium_path() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        # A skip would let a machine without a browser pass: nothing here may be skipped.
        pytest.fail("The browser tests need Chromium. Install Debian's package `chromium`.")
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Playwright's synchronous interface keeps an event loop in this thread: Django would refuse the ORM there, and
    # asynchronous tests would not run, so it ends with the tests of this folder.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    expect.set_options(timeout=SLOW * 1_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="package")
def shared_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = fake_provider(tmp_path_factory.mktemp("provider"))
    with running(server):
        yield server


@pytest.fixture(scope="package")
def shared_site(
    django_db_setup: None, tmp_path_factory: pytest.TempPathFactory, shared_provider: Server
) -> Iterator[Server]:
    """Starting a server takes 3 s: the tests of this folder share one, each on a database of its own."""
    server = web_server(
        tmp_path_factory.mktemp("site"),
        shared_provider,
        OPENAI_MODELS="fake-large,fake-small",
        DEFAULT_MODEL="openai/fake-large",
        # A tenth of the price of the others.
        GEMINI_API_KEY="test-key",
        GEMINI_BASE_URL=f"{shared_provider.url}/v1",
        GEMINI_MODELS="fake-cheap",
        GEMINI_PRICE="0.20/0.80",
        DEEPSEEK_API_KEY="test-key",
        DEEPSEEK_BASE_URL=UNREACHABLE,
        DEEPSEEK_MODELS="lost",
        DEEPSEEK_PRICE="0.50/1.00",
    )
    with running(server):
        yield server


@pytest.fixture
def provider(shared_provider: Server) -> Server:
    httpx.post(shared_provider.url + "/_reset")
    return shared_provider


@pytest.fixture
def site(transactional_db: None, shared_site: Server, provider: Server) -> Server:
    if shared_site.process is None:
        shared_site.start()  # a test that failed half-way has left it so
    return shared_site


@pytest.fixture
def alice(transactional_db: None) -> User:
    return cast.alice()


@pytest.fixture
def sign_in(browser: Browser, site: Server) -> Iterator[SignIn]:
    """A browser of its own with a person signed in, on the first page. Errors of the page fail the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(user: User, **options: object) -> Page:
        context = browser.new_context(base_url=site.url, **options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(SLOW * 1_000)
        context.add_cookies([session_of(user, site)])  # type: ignore[list-item]
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto("/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def session_of(user: User, site: Server) -> dict[str, str]:
    """The cookie of somebody who has signed in: the form itself is tried in `test_drafts.py` and with the accounts."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": site.url}


# --- What the tests say ---------------------------------------------------------------------------------------

ENDED = re.compile("complete|stopped|failed|interrupted")


def write(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)


def ask(page: Page, text: str) -> str:
    """Send a message in the open conversation, or begin one; returns the conversation's address."""
    write(page, text)
    page.keyboard.press("Enter")
    # The draft is let go with the answer: in an open conversation all else may be so before it.
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    page.wait_for_url(re.compile("/conversations/"))
    expect(page.locator(".msg--user").last).to_be_visible()
    return page.url


#: What fades in or moves stands still: a panel on its way is beyond its edge, and a colour has too little contrast.
STILL = """
() => document.getAnimations().every(
  ({ playState, effect }) => playState != 'running' || effect.getTiming().iterations == Infinity)
"""


def too_wide(page: Page, script: str) -> list[str]:
    """What a script finds wider than its place, once the page stands still."""
    page.wait_for_function(STILL)
    found: list[str] = page.evaluate(script)
    return found


def finished(page: Page) -> str:
    """The text of the last reply, once it has ended."""
    last = page.locator(".msg--assistant").last
    expect(last).to_have_attribute("data-state", ENDED, timeout=20_000)
    return last.locator(".prose").inner_text()


def until(question: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
