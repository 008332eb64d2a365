"""Money in a real browser: the meter is right after each turn and in every tab, and the ledger answers to choices."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from conversations.models import Budget, User
from conversations.money import CENT, DOLLAR
from tests.spending import MODEL, budget_of, hold, line, today_of

from .conftest import SignIn, ask, finished
from .test_reading import conversation_of

pytestmark = pytest.mark.browser


def meter(page: Page) -> str:
    return " ".join(page.locator("#budget").inner_text().split())


def spend_behind_the_page(user: User, amount: int) -> None:
    """As another process does it."""
    budget = budget_of(user)
    Budget.objects.filter(pk=budget.pk).update(spent=amount)


def test_the_meter_is_right_after_a_turn_and_in_another_tab(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    other = page.context.new_page()
    other.goto("/archived/")
    for shown in (page, other):
        expect(shown.locator("#budget")).to_contain_text("$0.00 of $5.00 today")
    page.bring_to_front()
    spend_behind_the_page(alice, 123 * CENT)
    ask(page, "Go on")
    finished(page)
    for shown in (page, other):
        expect(shown.locator("#budget")).to_contain_text("$1.23 of $5.00 today")


def test_a_tab_that_is_looked_at_again_shows_what_is_spent_by_now(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    expect(page.locator("#budget")).to_contain_text("$0.00 of $5.00 today")
    spend_behind_the_page(alice, 50 * CENT)
    page.locator("#budget").focus()
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator("#budget")).to_contain_text("$0.50 of $5.00 today")
    expect(page.locator("#budget")).to_be_focused()


def test_the_day_ends_while_somebody_looks_at_it(sign_in: SignIn, alice: User) -> None:
    soon = timezone.now() + timedelta(minutes=30, seconds=30)
    Budget.objects.create(
        scope="user",
        subject=str(alice.pk),
        day=today_of(alice),
        starts_at=timezone.now() - timedelta(hours=20),
        ends_at=soon,
        limit=5 * DOLLAR,
        spent=DOLLAR,
    )
    page = sign_in(alice)
    page.clock.install()
    page.goto("/archived/")
    expect(page.locator("#budget time")).to_have_text("30 m")
    page.clock.run_for(5 * 60_000)
    expect(page.locator("#budget time")).to_have_text("25 m")
    Budget.objects.update(ends_at=timezone.now() - timedelta(seconds=1))
    page.clock.run_for(30 * 60_000)
    expect(page.locator("#budget")).to_contain_text("$0.00 of $5.00 today")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_spent_held_and_left_can_be_told_apart_without_colour(
    sign_in: SignIn, alice: User, scheme: str
) -> None:
    line(alice, 2 * DOLLAR)
    hold(alice, DOLLAR)
    page = sign_in(alice, color_scheme=scheme)
    gauge = page.locator("#budget .gauge")
    expect(gauge).to_have_attribute("aria-valuetext", "$2.00 spent and $1.00 held of $5.00")
    widths = gauge.locator("svg > rect").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width)"
    )
    whole = gauge.bounding_box()
    assert whole is not None
    assert [round(width / whole["width"], 1) for width in widths] == [0.4, 0.2]
    fills = gauge.locator("svg > rect").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
    assert "url(" not in fills[0] and "#hatch-side" in fills[1]


def test_the_page_shows_what_is_spent_meanwhile(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto("/spend/")
    expect(page.locator("#today")).to_contain_text("$0.00 of $5.00")
    spend_behind_the_page(alice, 50 * CENT)
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator("#today")).to_contain_text("$0.50 of $5.00")
    expect(page.locator("#today .gauge")).to_have_attribute("aria-valuenow", "0.50")


def test_a_choice_is_made_without_leaving_the_page(sign_in: SignIn, alice: User) -> None:
    line(alice, 3 * CENT)
    line(alice, 5 * CENT, model="openai/other", day=today_of(alice) - timedelta(days=40))
    line(alice, 7 * CENT, model="openai/other")
    page = sign_in(alice)
    page.goto("/spend/")
    page.evaluate("window.isSamePage = true")
    page.get_by_role("table", name="By model").get_by_role("link", name="other").click()
    expect(page.locator("#chosen")).to_contain_text("$0.07 in 1 call")
    expect(page.locator("#chosen")).to_be_focused()
    expect(page).to_have_url(re.compile(r"\?model=openai%2Fother$"))
    page.get_by_role("link", name="other : show all models").click()
    expect(page.locator("#chosen")).to_contain_text("$0.10 in 2 calls")
    page.locator("g.bar", has=page.locator("rect")).last.click()
    expect(page.locator("#chosen")).to_contain_text(f"{today_of(alice):%-d %B %Y}")
    assert page.evaluate("window.isSamePage")
    page.go_back()
    expect(page.locator("#chosen h2")).to_have_text(f"{today_of(alice):%B %Y}")
    page.go_back()
    expect(page.locator("#chosen")).to_contain_text("$0.07 in 1 call")


def test_earlier_lines_come_below(sign_in: SignIn, alice: User) -> None:
    for n in range(60):
        line(alice, 1000 + n, at=timezone.now() - timedelta(seconds=n))
    page = sign_in(alice)
    page.goto("/spend/")
    lines = page.locator(".ledger tbody tr:not(#ledger-more)")
    expect(lines).to_have_count(50)
    page.get_by_role("link", name="Earlier lines").click()
    expect(lines).to_have_count(60)
    expect(page.get_by_role("link", name="Earlier lines")).to_have_count(0)


def test_the_page_works_without_script(sign_in: SignIn, alice: User) -> None:
    line(alice, 3 * CENT)
    line(alice, 7 * CENT, model="openai/other")
    for n in range(50):
        line(alice, 1, at=timezone.now() - timedelta(minutes=1, seconds=n))
    page = sign_in(alice, java_script_enabled=False)
    page.locator("#budget").click()
    expect(page.get_by_role("heading", name="Spend")).to_be_visible()
    page.get_by_role("link", name="Earlier lines").click()
    expect(page.locator(".ledger tbody tr")).to_have_count(2)
    page.get_by_role("link", name="Newest lines").click()
    page.get_by_role("table", name="By model").get_by_role("link", name="other").click()
    expect(page.locator("#chosen")).to_contain_text("$0.07 in 1 call")
    page.get_by_text("Numbers by day").click()
    page.get_by_role("link", name=f"{today_of(alice):%A %-d %B}").click()
    expect(page.locator("#chosen")).to_contain_text(f"{today_of(alice):%-d %B %Y}")


def test_a_long_name_does_not_widen_the_page(sign_in: SignIn, alice: User) -> None:
    line(alice, 3 * CENT, model=f"{MODEL}-{'preview-' * 20}")
    page = sign_in(alice, viewport={"width": 390, "height": 800})
    page.goto("/spend/")
    assert page.locator("main").evaluate("main => main.scrollWidth") == 390


def test_what_a_reply_holds_is_seen_until_it_is_charged_and_then_in_the_ledger(
    sign_in: SignIn, alice: User
) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day", title="Fees"))
    ask(page, "Go on [[endless pace=50ms]]")
    expect(page.locator("#budget")).to_contain_text("held for 1 reply")
    expect(page.locator(".msg--assistant .prose").last).to_contain_text("on and on")
    page.keyboard.press("Escape")
    finished(page)
    expect(page.locator("#budget")).to_contain_text("Nothing held")
    page.locator("#budget").click()
    settled = page.locator(".ledger tbody tr", has_text="Fees · reply")
    expect(settled).to_have_count(1)
    held, charged, released = settled.locator("td.n").all_inner_texts()[:3]
    assert "$0.00" not in (held, charged, released)
