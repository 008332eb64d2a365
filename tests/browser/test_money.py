"""Money around the text field in a real browser: estimates, refusals with their offers, and what a reply has cost."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Request, Route, expect

from conversations.budgets import set_conversation_cap, set_user_limit
from conversations.models import Conversation, LedgerEntry, Message, Reply, User
from conversations.money import CENT, DOLLAR

from .conftest import SignIn, ask, finished, until, write
from .test_accessibility import assert_accessible
from .test_reading import conversation_of

pytestmark = pytest.mark.browser

#: Fits for no answer of the dear models, for a whole one of the cheap model.
LITTLE = CENT // 5


def estimate(page: Page) -> str:
    return " ".join(page.locator("#estimate").inner_text().split())


def most(page: Page) -> float:
    found = re.search(r"at most \$([\d.]+)", estimate(page))
    return float(found.group(1)) if found else 0.0


def refused(page: Page) -> None:
    expect(page.get_by_role("alert")).to_contain_text("This message does not fit in what is left today.")


def choose(page: Page, model: str) -> None:
    page.get_by_role("button", name="Model: ").click()
    page.get_by_role("radio", name=model).locator("xpath=..").click()


def test_the_estimate_follows_what_is_typed_and_the_model(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if "/estimate/" in request.url else None)
    expect(page.locator("#estimate")).to_contain_text("$5.00 left today")
    empty = most(page)
    page.get_by_label("Message", exact=True).press_sequentially("Why is it slow? " * 4)
    page.get_by_label("Message", exact=True).fill("Why is it slow? " * 500)
    until(lambda: most(page) > empty)
    assert len(asked) < 12, "a request for each key"
    choose(page, "fake-cheap")
    until(lambda: 0 < most(page) < empty)
    expect(page.locator(".est-small")).to_have_text(re.compile(re.escape(f"{most(page)}")))


def test_a_long_draft_is_estimated_from_pieces_of_it(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    empty = most(page)
    with page.expect_request("**/estimate/") as request:
        page.evaluate(
            """() => {
                const data = new DataTransfer();
                data.setData('text/plain', 'a word\\n'.repeat(100_000));
                const event = { inputType: 'insertFromPaste', dataTransfer: data, bubbles: true, cancelable: true };
                document.querySelector('#draft').dispatchEvent(new InputEvent('beforeinput', event));
            }"""
        )
    assert len(request.value.post_data or "") < 50_000
    until(lambda: most(page) > empty)


def test_a_draft_that_this_device_has_kept_is_estimated_again(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    empty = most(page)
    write(page, "Why is it slow? " * 500)
    until(lambda: most(page) > empty)
    page.reload()
    until(lambda: most(page) > empty)


def test_an_estimate_on_its_way_does_not_hold_up_a_send(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    held_up: list[Route] = []
    page.route("**/estimate/", lambda route: held_up.append(route))
    write(page, "And then?")
    until(lambda: page.evaluate("true") and held_up)
    page.keyboard.press("Enter")
    expect(page.locator(".msg--user")).to_have_count(2)
    finished(page)


def test_an_estimate_that_fails_says_nothing_of_a_message(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.route("**/estimate/", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        write(page, "Hello")
    expect(page.locator("#connection")).to_be_empty()


def test_over_budget_the_draft_stays_and_an_offer_sends_it(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    set_user_limit(alice, LITTLE)
    write(page, "Second [[deltas=3]]")
    expect(page.locator("#estimate")).to_contain_text("Does not fit in the $0.0020 left today")
    page.keyboard.press("Enter")
    refused(page)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Second [[deltas=3]]")
    expect(page.locator("#budget")).to_contain_text("of $0.0020 today")
    assert Reply.objects.filter(question__content__startswith="Second").count() == 0
    page.get_by_role("button", name="Send with fake-cheap").click()
    finished(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    expect(page.get_by_role("button", name="Model: fake-cheap")).to_be_visible()
    expect(page.locator(".receipt").last).to_contain_text("fake-cheap")
    assert Reply.objects.get(question__content__startswith="Second").model == "gemini/fake-cheap"


def test_a_first_message_that_does_not_fit(sign_in: SignIn, alice: User) -> None:
    set_user_limit(alice, LITTLE)
    page = sign_in(alice)
    write(page, "First [[deltas=3]]")
    page.keyboard.press("Enter")
    refused(page)
    page.get_by_role("button", name="Send with fake-cheap").click()
    page.wait_for_url("**/conversations/**")
    finished(page)
    assert Conversation.objects.get().model == "gemini/fake-cheap"


def test_an_edit_that_does_not_fit_is_offered_in_its_place(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    set_user_limit(alice, LITTLE)
    write(page, "An unsent draft")
    page.locator(".msg--user").hover()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Your message").fill("Good evening [[deltas=3]]")
    page.get_by_role("button", name="Send as a branch").click()
    notice = page.locator("form.edit").get_by_role("alert")
    expect(notice).to_contain_text("does not fit")
    assert_accessible(page, "an edit over budget")
    notice.get_by_role("button", name="Send with fake-cheap").click()
    finished(page)
    expect(page.locator(".bubble")).to_contain_text("Good evening")
    expect(page.get_by_label("Message", exact=True)).to_have_value("An unsent draft")
    assert Message.objects.get(content__startswith="Good evening").parent_id is None


def test_another_answer_that_does_not_fit(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    ask(page, "Hello [[deltas=3]]")
    finished(page)
    set_user_limit(alice, LITTLE)
    page.get_by_role("button", name="Another answer").click()
    refused(page)
    page.get_by_role("button", name="Ask fake-cheap").click()
    expect(page.get_by_role("navigation", name="Versions of this message")).to_contain_text("2 / 2")
    assert Reply.objects.latest("created_at").model == "gemini/fake-cheap"


def test_the_cap_of_a_conversation_is_set_where_it_is_named(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    address = conversation_of(alice, "Hello", "Good day")
    set_conversation_cap(Conversation.objects.get(), LITTLE)
    page.goto(address)
    write(page, "Second [[deltas=3]]")
    expect(page.locator("#estimate")).to_contain_text("left in this conversation")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("this conversation's cap")
    page.get_by_role("link", name="Change what it may cost").click()
    page.get_by_label("Most that this conversation may cost").fill("1,2,3")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Write an amount in dollars")
    page.get_by_label("Most that this conversation may cost").fill("1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert Conversation.objects.get().cost_cap == DOLLAR
    expect(page.get_by_label("Message", exact=True)).to_have_value("Second [[deltas=3]]")
    page.get_by_label("Message", exact=True).press("Enter")
    finished(page)


def test_what_is_saved_in_the_settings_counts_at_once(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    page.get_by_role("link", name="Settings").click()
    page.get_by_label("Most that this conversation may cost").fill("0.05")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#estimate")).to_contain_text("$0.05 left in this conversation")


def test_instructions_of_a_new_conversation_are_part_of_the_estimate(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    empty = most(page)
    page.get_by_role("button", name="System prompt").click()
    page.get_by_label("System prompt", exact=True).fill("Answer in verse. " * 500)
    page.keyboard.press("Escape")
    until(lambda: most(page) > empty)


def test_without_script_the_draft_stays_and_an_offer_sends_it(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, java_script_enabled=False)
    expect(page.locator("#estimate")).to_contain_text("$5.00 left today")
    set_user_limit(alice, LITTLE)
    write(page, "First [[deltas=3]]")
    page.get_by_role("button", name="Send", exact=True).click()
    refused(page)
    expect(page.get_by_label("Message", exact=True)).to_have_value("First [[deltas=3]]")
    page.get_by_role("button", name="Send with fake-cheap").click()
    page.wait_for_url("**/conversations/**")

    def is_paid() -> bool:
        page.reload()
        return page.locator(".msg--assistant[data-state=complete] .receipt a").count() > 0

    until(is_paid)
    expect(page.locator(".receipt")).to_contain_text("$0.0")


def test_a_reply_says_what_it_holds_then_what_it_has_cost(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    page.evaluate(
        """() => {
            window.said = [];
            new MutationObserver(() => said.push(document.querySelector('#announce').textContent))
                .observe(document.querySelector('#announce'), { childList: true, characterData: true, subtree: true });
        }"""
    )
    ask(page, "Second [[deltas=40 pace=50ms]]")
    expect(page.locator("#estimate")).to_have_text(re.compile(r"\$0\.\d+ held\s*·\s*Esc stops"))
    finished(page)
    cost = page.locator(".receipt").last.get_by_role("link", name="its line in the ledger")
    expect(cost).to_have_text(re.compile(r"^\$0\.0\d+$"))
    until(lambda: f"Reply finished. It cost {cost.inner_text()}." in page.evaluate("said"))
    expect(page.locator("#estimate")).to_contain_text("left today")
    cost.click()
    page.wait_for_url("**/spend/**")
    entry = LedgerEntry.objects.get(reply_id__isnull=False)
    expect(page.locator(f"#line-{entry.pk}")).to_be_in_viewport()


def test_a_stopped_reply_says_both_halves_of_its_hold(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[endless pace=50ms]]")
    expect(page.locator(".msg--assistant .prose").last).to_contain_text("on and on")
    page.keyboard.press("Escape")
    finished(page)
    expect(page.locator(".receipt").last).to_contain_text(
        re.compile(r"Stopped by you after \d+ words · about \$0\.\d+ charged, \$0\.\d+ released")
    )


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_axe_finds_nothing_where_money_is_spoken_of(
    sign_in: SignIn, alice: User, scheme: str, width: int
) -> None:
    page = sign_in(
        alice, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[deltas=3]]")
    finished(page)
    assert_accessible(page, "a receipt")
    ask(page, "Third [[status=401]]")
    expect(page.get_by_role("alert")).to_contain_text("hold is released")
    assert_accessible(page, "a failure that cost nothing")
    set_user_limit(alice, LITTLE)
    write(page, "Fourth")
    page.keyboard.press("Enter")
    expect(page.locator("#composer-notice").get_by_role("alert")).to_be_visible()
    assert_accessible(page, "over budget")
