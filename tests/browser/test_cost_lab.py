"""The cost lab in the browser: its lines by keyboard, its files, a replay that fails, and all of it on a phone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from conversations import presets
from conversations.models import Conversation, User
from tests.lab.test_page import talk

from .conftest import SignIn, finished, too_wide, until, write
from .test_accessibility import assert_accessible
from .test_presets import WIDE
from .test_reading import conversation_of

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}

#: Styles of the lines of the first picture that are drawn whole.
STRONG = """[...document.querySelector('#lab .cols .chart').querySelectorAll('.ln')]
    .filter((line) => getComputedStyle(line).opacity === '1').map((line) => line.textContent)"""


def lab_of(alice: User, turns: int) -> str:
    """The address of the lab of a conversation with numbers of its own: one line more than there are strategies."""
    conversation = Conversation.objects.create(user=alice, model="openai/fake-large", title="Harbour fees")
    talk(conversation, turns)
    presets.change(conversation, replace(presets.preset_of(conversation), high_water=2_000))
    return f"/conversations/{conversation.pk}/cost-lab/"


@pytest.fixture
def page(sign_in: SignIn, alice: User) -> Page:
    return sign_in(alice, reduced_motion="reduce")


def test_a_line_is_chosen_by_keyboard_and_shown_under_the_pointer(page: Page, alice: User) -> None:
    page.goto(lab_of(alice, 5))
    until(lambda: len(page.evaluate(STRONG)) == 8)
    page.get_by_role("radio", name="All lines").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Chat")).to_be_focused()
    until(lambda: page.evaluate(STRONG) == ["Chat"])
    page.locator(".lines label", has_text="Last turns").hover()
    until(lambda: page.evaluate(STRONG) == ["Last turns"])
    page.mouse.move(0, 0)
    until(lambda: page.evaluate(STRONG) == ["Chat"])
    page.keyboard.press("ArrowLeft")
    until(lambda: len(page.evaluate(STRONG)) == 8)


def test_no_two_lines_look_alike_without_their_colour(page: Page, alice: User) -> None:
    page.goto(lab_of(alice, 5))
    patterns = page.evaluate(
        """[...document.querySelector('#lab .cols .chart').querySelectorAll('.ln')].map((line) => {
            const style = getComputedStyle(line);
            return style.strokeDasharray + ' ' + style.strokeWidth;
        })"""
    )
    assert len(set(patterns)) == 8


def test_what_the_page_shows_is_taken_along(page: Page, alice: User) -> None:
    page.goto(lab_of(alice, 5))
    for link, head in (("CSV", "strategy,in_use,turns"), ("CSV by turn", "turn,strategy,input_tokens")):
        with page.expect_download() as download:
            page.get_by_role("link", name=link, exact=True).press("Enter")
        assert download.value.path().read_text().startswith(head)


def test_a_replay_that_does_not_come_says_so_and_is_tried_again(page: Page, alice: User) -> None:
    address = lab_of(alice, 35)
    page.route("**/cost-lab/?result", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("The replay failed.")
    assert_accessible(page, "a replay that failed")
    page.unroute("**/cost-lab/?result")
    page.get_by_role("link", name="Try again").press("Enter")
    expect(page.get_by_role("heading", name="Strategies and models")).to_be_visible(timeout=20_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_is_too_wide(
    sign_in: SignIn, alice: User, scheme: str, width: int
) -> None:
    page = sign_in(
        alice, viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.goto(lab_of(alice, 5))
    page.get_by_role("radio", name="Summary").focus()
    page.keyboard.press("Space")
    assert_accessible(page, "the cost lab with one line chosen")
    assert too_wide(page, WIDE) == []


def test_on_a_phone_all_of_a_conversation_is_two_touches_away(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, viewport=PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce")
    address = conversation_of(alice, "How much?", "A lot", title="A long title about the fees of a harbour")
    page.goto(address)
    bar = page.locator(".topbar")
    small = [
        box
        for control in bar.locator("a:visible, button:visible").all()
        if (box := control.bounding_box()) and min(box["width"], box["height"]) < 44
    ]
    assert small == []
    options = page.get_by_role("button", name="Options for this conversation")
    for name, where in (
        ("Settings", "settings/"),
        ("Context", "context/"),
        ("Summaries", "summaries/"),
        ("Memory", "memory/"),
        ("Cost lab", "cost-lab/"),
        ("What it has cost", "spend/"),
    ):
        page.goto(address)
        options.tap()
        item = page.locator("#row-menu").get_by_role("link", name=name, exact=True)
        box = item.bounding_box()
        assert box and box["height"] >= 44, name
        item.tap()
        page.wait_for_url(f"**/{where}*")
        assert too_wide(page, WIDE) == [], name
    page.goto(address)
    write(page, "And then? [[deltas=2]]")
    page.get_by_role("button", name="Send", exact=True).tap()
    expect(page.locator(".msg--user")).to_have_count(2)
    finished(page)
    options.tap()
    page.get_by_role("link", name="What the model saw last").tap()
    expect(page.get_by_role("heading", name="What the model saw")).to_be_visible()
    page.goto(address)
    bar.get_by_role("link", name="Context").tap()
    expect(page.get_by_label("High-water mark")).to_be_visible()
    page.get_by_role("navigation", name="Panels").get_by_role("link", name="Memory").tap()
    expect(page.get_by_role("heading", name="What Parley remembers")).to_be_visible()
