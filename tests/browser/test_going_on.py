"""What goes on from a thread in a real browser: waiting messages, continued replies, messages written again."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from conversations.models import Conversation, Message, Reply, ReplyState, User

from .conftest import SignIn, ask, finished, until, write

pytestmark = pytest.mark.browser


def path_of(page: Page) -> list[str]:
    """Who speaks, from the top down."""
    return [
        "user" if "msg--user" in (article.get_attribute("class") or "") else "assistant"
        for article in page.locator("#thread article").all()
    ]


def test_the_title_comes_while_the_next_message_is_answered(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "First [[deltas=40 pace=40ms]]")
    expect(page.locator(".msg--assistant .prose")).not_to_be_empty()
    write(page, "Second [[first=20s]]")
    page.keyboard.press("Enter")
    expect(page.locator("article[data-state=complete]")).to_have_count(1, timeout=20_000)
    Conversation.objects.update(title="Harbour fees", title_source=Conversation.TitleSource.MODEL)
    expect(page.locator("h1")).to_contain_text("Harbour fees", timeout=12_000)


def test_messages_sent_while_a_reply_runs_wait_and_are_answered_in_order(
    sign_in: SignIn, alice: User
) -> None:
    page = sign_in(alice)
    ask(page, "First [[deltas=60 pace=50ms]]")
    expect(page.locator(".msg--assistant .prose")).not_to_be_empty()
    send = page.get_by_role("button", name="Send", exact=True)
    expect(send).to_be_hidden()
    write(page, "Second [[deltas=10 pace=30ms]]")
    expect(send).to_be_visible()
    expect(page.get_by_role("button", name="Stop the reply")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Waits for the reply before it.")).to_have_count(1)
    write(page, "Third")
    send.click()
    expect(page.get_by_text("Waits for the reply before it.")).to_have_count(2)
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    expect(page.locator("[data-stream]")).to_have_count(1)
    expect(page.locator(".msg--assistant[data-state=complete]")).to_have_count(3, timeout=20_000)
    assert path_of(page) == ["user", "assistant"] * 3
    asked = page.locator(".msg--user .bubble").all_inner_texts()
    assert [text.split()[0] for text in asked] == ["First", "Second", "Third"]
    assert set(Reply.objects.values_list("state", flat=True)) == {ReplyState.COMPLETE}
    write(page, "Fourth")
    page.keyboard.press("Enter")
    expect(page.locator(".msg--assistant[data-state=complete]")).to_have_count(4, timeout=20_000)


def test_a_message_that_waits_is_taken_back_into_the_composer(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "First [[endless pace=30ms]]")
    expect(page.locator(".msg--assistant .prose")).not_to_be_empty()
    write(page, "Second,\nin two lines")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Take back").click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Second,\nin two lines")
    expect(page.locator(".msg--user")).to_have_count(1)
    words = len(page.locator(".msg--assistant .prose").inner_text())
    until(lambda: len(page.locator(".msg--assistant .prose").inner_text()) > words)
    page.get_by_role("button", name="Stop the reply").click()
    finished(page)
    assert not Message.objects.filter(content__startswith="Second").exists()


def test_a_cut_reply_goes_on_and_its_first_part_stays_a_version(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Tell me [[deltas=30 cut=10]]")
    kept = finished(page).strip()
    assert kept
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".msg--assistant[data-state=complete]")).to_be_visible(timeout=20_000)
    whole = finished(page)
    assert whole.startswith(kept) and len(whole) > len(kept)
    expect(page.locator(".branch")).to_contain_text("2 / 2")
    page.get_by_role("link", name="Previous version").click()
    page.wait_for_url(re.compile("leaf="))
    assert finished(page).strip() == kept


def test_a_message_written_again_is_a_version_and_the_old_one_can_be_read(
    sign_in: SignIn, alice: User
) -> None:
    page = sign_in(alice)
    ask(page, "What is a harbour?")
    finished(page)
    edit = page.get_by_role("link", name="Edit")
    edit.click()
    field = page.get_by_label("Your message")
    expect(field).to_be_focused()
    expect(field).to_have_value("What is a harbour?")
    page.keyboard.press("Escape")
    expect(page.locator(".msg--user .bubble")).to_be_visible()
    expect(edit).to_be_focused()
    edit.click()
    field.fill("What is a quay?")
    page.keyboard.press("Enter")
    expect(page.locator(".msg--user .bubble")).to_have_text("What is a quay?")
    finished(page)
    expect(page.locator(".msg--user .branch")).to_contain_text("2 / 2")
    page.locator(".msg--user").get_by_role("link", name="Previous version").click()
    page.wait_for_url(re.compile("leaf="))
    expect(page.locator(".msg--user .bubble")).to_have_text("What is a harbour?")
    assert Message.objects.filter(role="user", parent=None).count() == 2


def test_the_caret_of_a_message_that_is_edited_is_not_moved_under_who_writes_already(
    sign_in: SignIn, alice: User
) -> None:
    page = sign_in(alice)
    ask(page, "What is a harbour?")
    finished(page)
    # Somebody quick: all of the old text is selected in the moment in which the field appears.
    page.evaluate(
        """() => {
          new MutationObserver((_, observer) => {
            const field = document.querySelector('form.edit textarea');
            if (field) { field.select(); observer.disconnect(); }
          }).observe(document.querySelector('#thread'), { childList: true, subtree: true });
        }"""
    )
    page.get_by_role("link", name="Edit").click()
    page.wait_for_selector("form.edit textarea[data-begun]")
    page.keyboard.type("What is a quay?")
    expect(page.get_by_label("Your message")).to_have_value("What is a quay?")


def test_without_script_a_message_is_written_again_on_a_page_of_its_own(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, java_script_enabled=False)
    write(page, "What is a harbour?")
    page.get_by_role("button", name="Send", exact=True).click()
    until(lambda: Reply.objects.filter(state=ReplyState.COMPLETE).exists())
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Your message", exact=True).fill("What is a quay?")
    page.get_by_role("button", name="Send as a branch").click()
    expect(page.locator(".msg--user .bubble")).to_have_text("What is a quay?")
