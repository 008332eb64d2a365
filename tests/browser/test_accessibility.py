"""The pages by keyboard and for assistive technology: axe-core finds nothing, and nothing needs a pointer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from conversations.models import Conversation, User
from conversations.money import DOLLAR
from tests.servers import Server
from tests.spending import hold, line

from .conftest import STILL, SignIn, ask, finished, write
from .test_reading import conversation_of

pytestmark = pytest.mark.browser

AXE = Axe()
#: A model may begin with a small heading.
OPTIONS = {"resultTypes": ["violations"], "rules": {"heading-order": {"enabled": False}}}
REPLY = (Path(__file__).parent.parent / "corpus" / "reply.md").read_text(encoding="utf-8")


def assert_accessible(page: Page, what: str) -> None:
    page.wait_for_function(STILL)
    found = AXE.run(page, options=OPTIONS).response["violations"]
    said = [
        f"{v['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for v in found
        for node in v["nodes"]
    ]
    assert said == [], what


def open_help(page: Page) -> None:
    page.get_by_label("Message", exact=True).evaluate("field => field.blur()")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


def open_models(page: Page) -> None:
    page.get_by_role("button", name="Model: ").click()
    expect(page.get_by_role("radiogroup")).to_be_visible()


def open_row_menu(page: Page) -> None:
    page.get_by_role("button", name="Options for").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Rename")).to_be_focused()


def search(page: Page) -> None:
    page.keyboard.press("Control+k")
    page.keyboard.type("fees")
    expect(page.locator(".hit").first).to_be_visible()


def open_numbers(page: Page) -> None:
    page.get_by_text("Numbers by day").click()
    expect(page.get_by_role("columnheader", name="Limit")).to_be_visible()


def open_presets(page: Page) -> None:
    page.get_by_role("button", name="Preset: ").click()
    expect(page.get_by_role("link", name="Code assistant")).to_be_visible()


def nothing(page: Page) -> None: ...


STATES: list[tuple[str, Callable[[Page], None]]] = [
    ("/", nothing),
    ("/archived/", nothing),
    ("/search/?q=fees", nothing),
    ("/preferences/", nothing),
    ("/spend/", nothing),
    ("/spend/", open_numbers),
    ("/spend/?purpose=reply", nothing),
    ("/spend/?month=2020-01", nothing),
    ("/nowhere/", nothing),
    ("{conversation}", nothing),
    ("{conversation}settings/", nothing),
    ("{conversation}context/", nothing),
    ("{conversation}cost-lab/", nothing),
    ("/", open_presets),
    ("/presets/", nothing),
    ("/presets/new/?from=code", nothing),
    ("{conversation}", open_help),
    ("{conversation}", open_models),
    ("{conversation}", open_row_menu),
    ("{conversation}", search),
]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_axe_finds_nothing_on_any_page(sign_in: SignIn, alice: User, scheme: str, width: int) -> None:
    conversation = conversation_of(alice, "What are the fees?", REPLY, "And in short?", "None.", title="Fees")
    conversation_of(alice, "Old fees", title="Archived fees")
    Conversation.objects.filter(title="Archived fees").update(is_archived=True)
    for marks in ({}, {"kind": "expired", "usage_reported": False}, {"is_underestimate": True}):
        line(alice, DOLLAR, **marks)
    hold(alice)
    page = sign_in(
        alice, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    for address, act in STATES:
        if width < 820 and act in (open_row_menu, search):
            continue
        page.goto(address.format(conversation=conversation))
        act(page)
        assert_accessible(page, f"{address} {act.__name__}")


def test_axe_finds_nothing_while_a_reply_runs_or_after_it_failed(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, reduced_motion="reduce")
    ask(page, "Go on [[endless pace=50ms]]")
    expect(page.locator(".msg--assistant .prose")).to_contain_text("on and on")
    assert_accessible(page, "running")
    page.keyboard.press("Escape")
    finished(page)
    ask(page, "Fail [[status=401]]")
    expect(page.get_by_role("alert")).to_be_visible()
    assert_accessible(page, "failed")
    page.context.set_offline(True)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    assert_accessible(page, "offline")


def test_axe_finds_nothing_where_one_signs_in(sign_in: SignIn, site: Server, alice: User) -> None:
    page = sign_in(alice, reduced_motion="reduce")
    page.context.clear_cookies()
    for address in ("/accounts/login/", "/accounts/password/reset/", "/accounts/signup/"):
        page.goto(address)
        assert_accessible(page, address)


def test_tab_walks_through_the_page_in_order_and_the_focus_is_seen(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, reduced_motion="reduce")
    page.goto(conversation_of(alice, "Hello", "Some `code`:\n\n```sql\nSELECT 1\n```", title="Fees"))
    page.evaluate(
        "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"
    )
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop is None:
            break
        stops.append(stop)
    names = [stop["name"] for stop in stops]
    assert names[0] == "Skip to the conversation"
    in_order = ["New chat", "Search conversations", "Fees", "Options for Fees", "Settings", "Copy", "Message"]
    places = [next(n for n, name in enumerate(names) if name.startswith(wanted)) for wanted in in_order]
    assert places == sorted(places), names
    assert names[-1] == "Send"
    for stop in stops:
        assert stop["name"], stop["html"]
        assert stop["isSeen"], stop


#: What has the focus: its name, and whether a person sees that it has it.
FOCUSED = """async () => {
    await new Promise(requestAnimationFrame);
    await Promise.allSettled(document.getAnimations().map(one => one instanceof CSSTransition && one.finished));
    const element = document.activeElement;
    if (element === document.body) return null;
    const [style, box] = [getComputedStyle(element), element.getBoundingClientRect()];
    const hasRing = parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== 'none';
    const composer = element.closest('.composer');
    const isMarked = hasRing || (composer && getComputedStyle(composer).boxShadow.includes('3px'));
    const isThere = box.bottom > 0 && box.top < innerHeight && style.visibility === 'visible'
        && element.checkVisibility({ opacityProperty: true });
    return {
        name: (element.getAttribute('aria-label') ?? element.textContent).trim().replace(/\\s+/g, ' '),
        isSeen: isMarked && isThere,
        html: element.outerHTML.slice(0, 200),
    };
}"""


def test_a_conversation_is_held_by_keyboard_alone(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.keyboard.type("Hello")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Model: fake-large")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="fake-large")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/conversations/**")
    finished(page)
    expect(page.locator(".receipt")).to_contain_text("fake-small")
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    expect(page.locator(".msg--assistant")).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator(".msg--user")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("r")
    expect(page.get_by_role("navigation", name="Versions of this message")).to_contain_text("2 / 2")
    page.keyboard.press("Control+Shift+O")
    page.wait_for_url(lambda address: address.endswith("/"))
    write(page, "Next")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_the_settings_are_opened_saved_and_left_by_keyboard(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    opens = page.locator(".topbar").get_by_role("link", name="Settings")
    opens.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Close the settings")).to_be_focused()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").press("Enter")
    expect(page.get_by_text("Saved. It holds from the next message on.")).to_be_visible()
    expect(page.locator("#panel").get_by_role("button", name="Save")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Temperature")).to_have_count(0)
    expect(opens).to_be_focused()
