"""What the model saw, in a real browser: beside the conversation, on its own page, by keyboard, without script."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from conversations.models import User

from .conftest import SignIn, ask, finished
from .test_accessibility import assert_accessible

pytestmark = pytest.mark.browser

PANEL = "aside.panel"


def open_panel(page: Page) -> None:
    page.get_by_role("link", name="What the model saw").last.click()
    expect(page.get_by_role("complementary", name="What the model saw")).to_be_visible()


def open_sections(page: Page) -> None:
    for summary in page.locator(".ctx > li > details > summary").all():
        summary.click()
    page.get_by_text("Numbers by section").click()
    expect(page.get_by_role("columnheader", name="Billed")).to_be_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("dark", 390)])
def test_it_opens_beside_the_conversation_and_axe_finds_nothing(
    sign_in: SignIn, alice: User, scheme: str, width: int
) -> None:
    page = sign_in(
        alice, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    ask(page, "Name three boats [[deltas=3]]")
    finished(page)
    open_panel(page)
    expect(page.get_by_label("Close what the model saw")).to_be_focused()
    assert_accessible(page, "panel")
    open_sections(page)
    expect(page.locator(PANEL)).to_contain_text("Name three boats")
    assert_accessible(page, "panel with its texts")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    expect(page.locator(PANEL)).to_have_count(0)
    expect(page.get_by_role("link", name="What the model saw").last).to_be_focused()


def test_the_page_says_the_same(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, reduced_motion="reduce", viewport={"width": 390, "height": 800})
    ask(page, "Name three boats [[deltas=3]]")
    finished(page)
    address = page.get_by_role("link", name="What the model saw").last.get_attribute("href")
    assert address
    page.goto(address)
    open_sections(page)
    assert_accessible(page, "page")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with page.expect_download() as download:
        page.get_by_role("link", name="Request as JSON").click()
    assert re.fullmatch(r"request-[0-9a-f-]{36}-1\.json", download.value.suggested_filename)
    page.get_by_role("link", name="Back to the conversation").click()
    expect(page.locator("article.msg--assistant")).to_be_visible()


def test_one_key_opens_it(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, reduced_motion="reduce")
    ask(page, "Hello [[deltas=3]]")
    finished(page)
    page.get_by_label("Message", exact=True).evaluate("field => field.blur()")
    page.keyboard.press("i")
    expect(page.locator(PANEL)).to_be_visible()


def test_tries_are_tabs(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, reduced_motion="reduce")
    ask(page, "Again [[status=500 times=1]]")
    finished(page)
    open_panel(page)
    tabs = page.get_by_role("navigation", name="Tries of this reply")
    expect(tabs.get_by_role("link", name="Second try")).to_have_attribute("aria-current", "page")
    tabs.get_by_role("link", name="First try").click()
    expect(tabs.get_by_role("link", name="First try")).to_have_attribute("aria-current", "page")
    assert "/request/" not in page.url


def test_it_works_without_script(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, java_script_enabled=False)
    page.get_by_label("Message", exact=True).fill("Hello [[deltas=3]]")
    page.get_by_role("button", name="Send").click()
    for _ in range(40):
        if page.get_by_role("link", name="What the model saw").count():
            break
        page.wait_for_timeout(250)
        page.reload()
    page.get_by_role("link", name="What the model saw").click()
    expect(page.get_by_role("heading", name="What the model saw")).to_be_visible()
    page.locator(".ctx summary").last.click()
    expect(page.locator(".ctx .said").last).to_be_visible()
