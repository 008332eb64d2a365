"""A provider that fails is named in the reply's place, in a sentence, with Retry and Switch model."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from conversations.models import Reply, User

from .conftest import SignIn, ask, until, write

pytestmark = pytest.mark.browser

FAULTS = {
    "status=401": "OpenAI refused the key.",
    "status=429": "The model is busy. Try again in a moment.",
    "status=500": "OpenAI had an internal error.",
    "html": "OpenAI answered with something that is not a model's reply.",
}


def failure(page: Page, sentence: str) -> None:
    notice = page.locator(".msg--assistant").last.get_by_role("alert")
    expect(notice).to_contain_text(sentence, timeout=20_000)
    expect(notice).to_contain_text("Your message is saved")
    expect(notice.get_by_role("button", name="Switch model")).to_be_visible()
    expect(notice.get_by_role("button", name="Retry")).to_be_visible()
    assert not re.search("Traceback|Exception|httpx", page.content())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_named_and_retry_works(sign_in: SignIn, alice: User, fault: str) -> None:
    page = sign_in(alice)
    ask(page, f"Hello [[{fault} code=fake retry_after=0]]")
    failure(page, FAULTS[fault])
    page.reload()
    failure(page, FAULTS[fault])


def test_a_reply_that_is_tried_again_says_so_until_text_comes(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Hello [[status=429 code=fake retry_after=4 times=1]]")
    line = page.locator(".msg--assistant").last.locator(".receipt")
    expect(line).to_contain_text("The model is busy. Trying again in 4 s, second try.", timeout=10_000)
    page.reload()
    expect(line).to_contain_text("The model is busy. Trying again in 4 s, second try.")
    expect(page.locator(".msg--assistant").last).to_have_attribute("data-state", "complete", timeout=10_000)
    expect(line).not_to_contain_text("busy")


def test_retry_brings_the_answer(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Hello [[status=401 times=1]]")
    failure(page, FAULTS["status=401"])
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".msg--assistant").last).to_have_attribute("data-state", "complete")
    expect(page.locator(".msg--user")).to_have_count(1)


def test_a_name_that_no_server_knows_and_another_model_instead(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.get_by_role("button", name="Model: fake-large").click()
    page.get_by_text("lost", exact=True).click()
    ask(page, "Hello there")
    failure(page, "DeepSeek could not be reached.")
    page.get_by_role("button", name="Switch model").click()
    page.get_by_text("fake-small", exact=True).click()
    expect(page.locator(".msg--assistant").last).to_have_attribute("data-state", "complete")
    expect(page.locator(".receipt").last).to_contain_text("fake-small")


def test_a_time_out_is_named(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Hello [[status=401]]")
    failure(page, FAULTS["status=401"])
    Reply.objects.update(error_code="TimedOut", error_detail="")  # after 30 s, which a test need not wait for
    page.reload()
    failure(page, "OpenAI did not answer in time.")


def test_a_cut_reply_keeps_its_text_and_says_what_the_model_will_see(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Hello [[cut=5]]")
    last = page.locator(".msg--assistant").last
    expect(last).to_contain_text("The connection to the model was lost after")
    expect(last.locator(".prose")).to_contain_text("word0 word1")
    last.get_by_role("button", name="Keep").click()
    expect(last).to_contain_text("The text is kept, and the model sees it with the next message.")


def test_escape_stops_and_the_draft_of_the_next_message_stays(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Go on [[endless pace=20ms]]")
    expect(page.locator(".msg--assistant .prose")).to_contain_text("on and on")
    write(page, "Next")
    page.keyboard.press("Escape")
    expect(page.locator(".msg--assistant")).to_contain_text("Stopped by you")
    assert page.get_by_label("Message", exact=True).input_value() == "Next"
    page.keyboard.press("Enter")
    expect(page.locator(".msg--user").last).to_have_text("Next")
    until(lambda: not Reply.objects.unfinished().exists())
