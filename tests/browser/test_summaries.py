"""Summaries in the browser: opened from the thread, read and changed by keyboard, without script and on a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from conversations import summaries
from conversations.models import Conversation, Message, User
from conversations.summaries.versions import keep
from tests.summaries.talks import say

from .conftest import SignIn, too_wide
from .test_accessibility import assert_accessible

pytestmark = pytest.mark.browser

TEXT = "Ingrid moves the primary on 29 November.\n\nThe old one stays as the way back."
WIDE = """[...document.querySelectorAll('html, main, .panel-body, .versions')]
    .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.className || e.tagName)"""


@pytest.fixture
def conversation(alice: User) -> Conversation:
    made = Conversation.objects.create(user=alice, title="Cutover", model="openai/fake-large")
    for number in range(1, 5):
        say(made, f"Question {number}?", f"Answer {number}.")
    for place, text in ((2, "An older one."), (6, TEXT)):
        until = Message.objects.get(conversation=made, path_messages=place)
        keep(made, text=text, covers_until=until, made_from=None, model_used="openai/fake-large")
    return made


def current_text(conversation: Conversation) -> str:
    found = summaries.current(Conversation.objects.get(pk=conversation.pk))
    return found.summary if found else ""


def test_it_is_opened_from_the_thread_and_edited_by_keyboard(
    sign_in: SignIn, alice: User, conversation: Conversation
) -> None:
    page = sign_in(alice)
    page.goto(f"/conversations/{conversation.pk}/")
    page.get_by_role("complementary", name="Summary of what is above").get_by_role("link", name="View").press(
        "Enter"
    )
    panel = page.get_by_role("complementary", name="Summaries of this conversation")
    expect(panel.get_by_text("The old one stays as the way back.")).to_be_visible()
    panel.get_by_role("link", name="Edit version 2").press("Enter")
    field = panel.get_by_label("Summary of messages")
    expect(field).to_be_focused()
    field.fill("Hers alone.")
    panel.get_by_role("button", name="Save").press("Enter")
    expect(panel.get_by_text("Saved as version 3.")).to_be_visible()
    assert current_text(conversation) == "Hers alone."
    expect(page.locator(".htmx-added")).to_have_count(0)
    panel.get_by_role("button", name="Remove version 3").press("Enter")
    expect(panel.get_by_role("button", name="Undo")).to_be_focused()
    # Quicker than anybody: until htmx has seen a new form, the browser sends it itself, and loads the page.
    expect(page.locator(".htmx-added")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(panel.get_by_text("Version 3 is back")).to_be_visible()
    expect(panel.get_by_role("link", name="Close the summaries")).to_be_focused()
    assert current_text(conversation) == "Hers alone."


def test_without_script_all_of_it_works(sign_in: SignIn, alice: User, conversation: Conversation) -> None:
    page = sign_in(alice, java_script_enabled=False)
    page.goto(f"/conversations/{conversation.pk}/summaries/")
    page.locator("summary", has_text="Version 1").click()
    page.get_by_role("button", name="Restore version 1").click()
    expect(page.get_by_text("Version 1 is back, as version 3.")).to_be_visible()
    page.get_by_role("link", name="Edit version 3").click()
    page.get_by_label("Summary of messages").fill("Hers alone.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved as version 4.")).to_be_visible()
    page.get_by_role("button", name="Write it anew").click()
    expect(page.get_by_role("link", name="Refresh")).to_be_visible()
    assert current_text(conversation) == "Hers alone."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(sign_in: SignIn, alice: User, conversation: Conversation, scheme: str) -> None:
    keep(
        conversation,
        text="<think>Let me",
        covers_until=Message.objects.get(conversation=conversation, path_messages=4),
        made_from=None,
        reason="The model wrote its own thoughts in place of a summary.",
    )
    page = sign_in(alice, color_scheme=scheme)
    edited = summaries.current(Conversation.objects.get(pk=conversation.pk))
    assert edited is not None
    for query in ("", f"?edit={edited.pk}"):
        page.goto(f"/conversations/{conversation.pk}/summaries/{query}")
        page.evaluate("document.querySelectorAll('.version details').forEach((row) => { row.open = true })")
        assert_accessible(page, f"summaries {query[:5]} {scheme}")


def test_it_fits_on_a_phone(sign_in: SignIn, alice: User, conversation: Conversation) -> None:
    page: Page = sign_in(alice, viewport={"width": 390, "height": 844})
    page.goto(f"/conversations/{conversation.pk}/summaries/")
    expect(page.get_by_text("Version 2").first).to_be_visible()
    assert too_wide(page, WIDE) == []
    page.goto(f"/conversations/{conversation.pk}/")
    assert too_wide(page, WIDE) == []


def test_the_panel_shows_what_the_worker_has_written_by_itself(
    sign_in: SignIn, alice: User, conversation: Conversation
) -> None:
    page = sign_in(alice)
    page.goto(f"/conversations/{conversation.pk}/summaries/")
    panel = page.get_by_role("complementary", name="Summaries of this conversation")
    panel.get_by_role("button", name="Write it anew").click()
    expect(panel.get_by_text("A summary is being written.")).to_be_visible()
    conversation.summaries.filter(state="wanted").update(state="in_force", summary="From the worker.")
    expect(panel.get_by_text("From the worker.")).to_be_visible()
    expect(panel.get_by_text("A summary is being written.")).to_be_hidden()
