"""The list of conversations: rename, pin, archive, delete, each with its way back."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from conversations import titles
from conversations.models import Conversation, User

from .conftest import SignIn
from .test_reading import conversation_of

pytestmark = pytest.mark.browser


def choose(page: Page, title: str, item: str) -> None:
    page.locator(".convo", has_text=title).hover()
    page.get_by_role("button", name=f"Options for {title}").first.click()
    page.get_by_role("button", name=item, exact=True).click()


def rows(page: Page) -> list[str]:
    return [row.strip() for row in page.locator("#convo-list .convo").all_inner_texts()]


def test_a_row_holds_its_options_within_its_bounds(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Hi"))
    row, options = page.locator(".convo"), page.get_by_role("button", name="Options for Harbour fees")
    outer, inner = row.bounding_box(), options.first.bounding_box()
    assert outer and inner
    assert inner["x"] + inner["width"] <= outer["x"] + outer["width"]


def test_a_title_that_somebody_typed_stays(sign_in: SignIn, alice: User) -> None:
    address = conversation_of(alice, "Hello", "Hi", title="New Conversation")
    page = sign_in(alice)
    page.goto(address)
    choose(page, "New Conversation", "Rename F2")
    expect(page.get_by_label("Name of the conversation")).to_be_focused()
    page.keyboard.type("Mine, for good")
    page.keyboard.press("Enter")
    expect(page.locator(".convo")).to_have_text(re.compile("Mine, for good"))
    expect(page.locator(".topbar .name")).to_have_text("Mine, for good")
    made = Conversation.objects.get()
    assert made.title_source == Conversation.TitleSource.PERSON
    assert not titles.title_due(made), "the model would replace it"
    page.reload()
    assert rows(page) == ["Mine, for good"]
    page.locator(".convo a").first.focus()
    page.keyboard.press("F2")
    expect(page.get_by_label("Name of the conversation")).to_be_focused()
    page.keyboard.type("Not this")
    page.keyboard.press("Escape")
    expect(page.locator(".convo")).to_have_text(re.compile("Mine, for good"))


def test_pinned_ones_are_on_top_and_archived_ones_out_of_the_list(sign_in: SignIn, alice: User) -> None:
    conversation_of(alice, "One", title="Oldest")
    conversation_of(alice, "Two", title="Newest")
    page = sign_in(alice)
    assert rows(page) == ["Newest", "Oldest"]
    choose(page, "Oldest", "Pin")
    expect(page.get_by_role("heading", name="Pinned")).to_be_visible()
    assert rows(page) == ["Oldest", "Newest"]
    choose(page, "Newest", "Archive")
    expect(page.locator(".convo")).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".convo")).to_have_count(2)


def test_delete_can_be_undone_at_once_and_for_thirty_days(sign_in: SignIn, alice: User) -> None:
    address = conversation_of(alice, "Words", title="Harbour fees")
    page = sign_in(alice)
    page.goto(address)
    for way_back in ("toast", "page"):
        choose(page, "Harbour fees", "Delete")
        page.wait_for_url("**/?deleted=*")
        expect(page.locator(".convo")).to_have_count(0)
        if way_back == "toast":
            page.get_by_role("button", name="Undo").click()
        else:
            page.goto(reverse("archived"))
            page.get_by_role("button", name="Restore Harbour fees").click()
        expect(page.locator(".convo")).to_have_count(1)
        page.goto(address)
        expect(page.locator(".bubble")).to_have_text("Words")
