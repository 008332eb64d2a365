"""Memory in the browser: said in a message, seen beside it, changed by keyboard, forgotten and brought back."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from conversations import memory
from conversations.memory import Fact
from conversations.models import MemoryItem, User

from .conftest import SignIn, too_wide, write
from .test_accessibility import assert_accessible
from .test_reading import conversation_of

pytestmark = pytest.mark.browser

Kind = MemoryItem.Kind

#: What is wider than its place.
WIDE = """[...document.querySelectorAll('html, main, .page, .panel, .panel-body, .panel-head, .fact, .facts')]
    .filter((e) => e.scrollWidth > e.clientWidth || e.getBoundingClientRect().right > innerWidth)
    .map((e) => e.className || e.tagName)"""


@pytest.fixture
def page(sign_in: SignIn, alice: User) -> Page:
    return sign_in(alice, reduced_motion="reduce")


def keep(alice: User, *texts: str, kind: MemoryItem.Kind = Kind.PREFERENCE) -> None:
    for text in texts:
        memory.remember(alice, Fact(kind=kind, text=text))


def remembered(page: Page, alice: User) -> Locator:
    """The line below a message that says a rule, in a conversation that is open now."""
    page.goto(conversation_of(alice, "How high are the fees?"))
    write(page, "Never mention prices. [[deltas=2]]")
    page.keyboard.press("Enter")
    line = page.locator(".remembered")
    expect(line).to_contain_text("Remembered: Never mention prices")
    return line


def test_a_rule_in_a_message_is_remembered_and_undone_in_its_place(page: Page, alice: User) -> None:
    line = remembered(page, alice)
    line.get_by_role("button", name="Undo: forget").press("Enter")
    expect(line).to_contain_text("Forgotten.")
    assert MemoryItem.objects.get().text == ""
    line.get_by_role("button", name="Undo").press("Enter")
    expect(line).to_contain_text("Remembered: Never mention prices")
    assert MemoryItem.objects.get().state == "active"


def test_a_button_works_from_the_moment_in_which_it_appears(page: Page, alice: User) -> None:
    line = remembered(page, alice)
    page.evaluate("""new MutationObserver((_, observer) => {
        const undo = document.querySelector('.remembered button');
        if (undo) { observer.disconnect(); undo.click(); }
    }).observe(document.body, { childList: true, subtree: true })""")
    with page.expect_response("**/memory/restore/**"):
        line.get_by_role("button", name="Undo: forget").press("Enter")
    expect(line).to_contain_text("Remembered: Never mention prices")
    assert MemoryItem.objects.get().state == "active"


def test_the_panel_is_opened_and_a_fact_added_by_keyboard(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "How high are the fees?"))
    page.locator(".topbar").get_by_role("link", name="Memory").press("Enter")
    expect(page.get_by_role("heading", name="What Parley remembers")).to_be_visible()
    page.get_by_label("Add a fact", exact=True).last.fill("Answer in one sentence")
    page.get_by_role("button", name="Add", exact=True).press("Enter")
    expect(page.locator(".fact")).to_contain_text("Answer in one sentence")
    assert_accessible(page, "the panel of memory")


def test_a_fact_is_pinned_edited_and_forgotten_by_keyboard(page: Page, alice: User) -> None:
    keep(alice, "Short answers", "No tables")
    page.goto("/memory/")
    page.get_by_role("button", name="Pin: Short answers").press("Enter")
    expect(page.locator(".fact.pinned")).to_contain_text("Short answers")
    expect(page.get_by_role("button", name="Pin: Short answers")).to_be_focused()
    page.get_by_role("link", name="Edit: Short answers").press("Enter")
    expect(page.locator(".is-edited textarea")).to_be_focused()
    page.locator(".is-edited textarea").fill("Answers of one line")
    page.get_by_role("button", name="Save", exact=True).press("Enter")
    expect(page.locator(".fact.pinned > p")).to_have_text("Answers of one line")
    page.get_by_role("button", name="Forget: No tables").press("Enter")
    expect(page.get_by_role("status").filter(has_text="Forgot 1 fact.")).to_be_visible()
    page.get_by_role("button", name="Undo").press("Enter")
    expect(page.get_by_text("No tables")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="It is back.")).to_be_focused()
    assert_accessible(page, "the page of memory")


def test_the_filter_narrows_while_one_types(page: Page, alice: User) -> None:
    keep(
        alice, *(f"Fact about {word}" for word in ("tea", "coffee", "milk", "bread", "salt", "rice", "oats"))
    )
    page.goto("/memory/")
    page.get_by_label("Filter facts").press_sequentially("coff")
    expect(page.locator(".fact")).to_have_count(1)
    page.get_by_label("Filter facts").press_sequentially("x")
    expect(page.get_by_text("No fact contains")).to_be_visible()


@pytest.mark.parametrize("dark", [False, True])
def test_long_facts_stay_inside_a_small_screen(sign_in: SignIn, alice: User, dark: bool) -> None:
    scheme = "dark" if dark else "light"
    size = {"width": 390, "height": 844}
    page = sign_in(alice, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    keep(alice, "x" * 300, "\u0e01" * 300, "wide words " * 27)
    address = conversation_of(alice, "How high are the fees?")
    for where in ("/memory/", f"{address}memory/"):
        page.goto(where)
        expect(page.locator(".fact").first).to_be_visible()
        assert too_wide(page, WIDE) == []
        assert_accessible(page, where)


def test_without_a_script_a_fact_is_added_forgotten_and_brought_back(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, java_script_enabled=False)
    page.goto(conversation_of(alice, "How high are the fees?") + "memory/")
    page.get_by_label("Add a fact").last.fill("No tables")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Forget: No tables").click()
    expect(page.get_by_text("Forgot 1 fact.")).to_be_visible()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator(".fact")).to_contain_text("No tables")
    page.get_by_role("link", name="Edit: No tables").click()
    page.locator(".is-edited textarea").fill("No tables at all")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".fact")).to_contain_text("No tables at all")
