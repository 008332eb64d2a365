"""Presets in the browser: chosen by keyboard without losing a word, changed for a conversation and put back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from conversations import presets
from conversations.context.presets import CHAT
from conversations.models import Conversation, User

from .conftest import SignIn, too_wide, until, write
from .test_reading import conversation_of

pytestmark = pytest.mark.browser


@pytest.fixture
def page(sign_in: SignIn, alice: User) -> Page:
    return sign_in(alice)


#: What is wider than its place.
WIDE = """[...document.querySelectorAll('html, main, .page, .panel-body, .menu:popover-open')]
    .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.className || e.tagName)"""


def high_water(alice: User) -> int:
    return presets.preset_of(Conversation.objects.get(user=alice)).high_water


def test_a_preset_is_chosen_by_keyboard_and_the_draft_stays(page: Page, alice: User) -> None:
    write(page, "How do I undo this? [[deltas=2]]")
    page.get_by_role("button", name="Preset: Chat").press("Enter")
    expect(page.get_by_role("link", name="Chat The default")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Preset: Code assistant")).to_be_visible()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    expect(page.get_by_label("Message", exact=True)).to_have_value("How do I undo this? [[deltas=2]]")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/conversations/"))
    begun = Conversation.objects.get(user=alice)
    assert (begun.preset["slug"], begun.temperature) == ("code", 0.2)
    assert begun.system_prompt.startswith("You help with code")
    expect(page.get_by_role("link", name="Preset: Code assistant")).to_be_visible()


def test_the_numbers_of_a_conversation_are_changed_seen_and_put_back(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "How much?"))
    page.get_by_role("link", name="Preset: Chat").click()
    mark = page.get_by_label("High-water mark")
    mark.fill("4,000")
    mark.press("Tab")
    expect(page.locator("#figures")).to_contain_text("not saved yet")
    expect(page.locator("#figures")).to_contain_text("4,000 tokens")
    page.locator("#panel").get_by_role("button", name="Save").click()
    expect(page.locator(".toast")).to_contain_text("It holds from the next message on.")
    assert high_water(alice) == 4_000
    page.get_by_role("button", name="Undo").click()
    expect(mark).to_have_value("16,000")
    assert high_water(alice) == 16_000


def test_a_wrong_number_gets_the_focus_and_what_the_others_mean_stays_in_sight(
    page: Page, alice: User
) -> None:
    page.goto(conversation_of(alice, "How much?"))
    page.locator(".topbar").get_by_role("link", name="Context").press("Enter")
    mark = page.get_by_label("High-water mark")
    mark.fill("12")
    expect(page.locator("#figures")).to_be_in_viewport(ratio=0.9)
    mark.press("Enter")
    expect(page.get_by_text("The high-water mark is between")).to_be_visible()
    expect(mark).to_be_focused()
    assert high_water(alice) == 16_000


def test_escape_leaves_a_panel_that_has_a_page_of_its_own(page: Page, alice: User) -> None:
    conversation = conversation_of(alice, "How much?")
    page.goto(conversation + "context/")
    page.get_by_label("Temperature").press("Escape")
    page.wait_for_url("**" + conversation)
    expect(page.locator("#panel")).to_be_hidden()


def test_what_means_nothing_for_a_strategy_is_not_shown(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "How much?") + "context/")
    expect(page.get_by_label("High-water mark")).to_be_visible()
    page.get_by_text("Last turns", exact=True).first.click()
    expect(page.get_by_label("High-water mark")).to_be_hidden()
    expect(page.get_by_role("textbox", name="Last turns")).to_be_visible()


def test_it_all_works_without_script(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, java_script_enabled=False)
    page.get_by_role("button", name="Preset: Chat").click()
    page.get_by_role("link", name="Economy").click()
    write(page, "Hello [[deltas=2]]")
    page.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_url(re.compile("/conversations/"))
    assert high_water(alice) == 4_000
    page.get_by_role("link", name="Preset: Economy").click()
    page.get_by_label("High-water mark").fill("5,000")
    page.get_by_role("button", name="Save").click()
    until(lambda: high_water(alice) == 5_000)
    page.get_by_role("button", name="Undo").click()
    until(lambda: high_water(alice) == 4_000)


def test_a_narrow_page_does_not_scroll_sideways(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, viewport={"width": 390, "height": 844})
    conversation = conversation_of(alice, "How much?")
    named = replace(
        CHAT, slug="", name="<b>Wide</b>" + "W" * 49, description="W" * 200, system_prompt="W" * 3_000
    )
    kept = presets.keep(alice, named)
    presets.apply(Conversation.objects.get(user=alice), kept.preset)
    chosen, edited = f"/?preset={kept.pk}", f"/presets/{kept.pk}/"
    for address in (
        "/",
        chosen,
        "/presets/",
        edited,
        "/presets/new/",
        conversation,
        conversation + "context/",
    ):
        page.goto(address)
        if address == "/":
            page.get_by_role("button", name="Preset: Chat").click()
            box = page.locator("#preset-menu").bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390, box
        assert too_wide(page, WIDE) == [], address
        send = page.get_by_role("button", name="Send", exact=True)
        if send.is_visible():
            box = send.bounding_box()
            assert box and box["x"] + box["width"] <= 390, address
