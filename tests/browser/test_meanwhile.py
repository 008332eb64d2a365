"""Answers come when they come: no press is lost meanwhile, nothing that is typed, and nobody's focus is taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import APIResponse, Locator, Page, Request, Route, expect

from conversations import memory
from conversations.memory import Fact
from conversations.models import Conversation, ConversationSummary, MemoryItem, Message, Reply, User

from .conftest import SignIn, ask, finished, until, write
from .test_reading import conversation_of

pytestmark = pytest.mark.browser


@pytest.fixture
def page(sign_in: SignIn, alice: User) -> Page:
    page = sign_in(alice, reduced_motion="reduce")
    # Requests are looked at from the first one on: what is sent in the moment in which that begins is lost to the test.
    page.route("**/nowhere/**", lambda route: route.fallback())
    page.goto("/")
    return page


@contextmanager
def held_up(page: Page, address: str | re.Pattern[str], method: str = "GET") -> Iterator[Callable[[], None]]:
    """Answers from this address are kept back until the block ends, or until what it is given is called."""
    waiting: list[tuple[Route, APIResponse]] = []
    released: list[Request] = []
    done: list[Request] = []

    def hold(route: Route) -> None:
        if route.request.method == method and not released:
            waiting.append((route, route.fetch(max_redirects=0)))
        else:
            route.fallback()

    def release() -> None:
        until(lambda: look(page) and waiting)
        while waiting:
            route, response = waiting.pop()
            released.append(route.request)
            route.fulfill(response=response)
        until(lambda: look(page) and set(released) <= set(done))
        page.unroute(address, hold)

    page.on("requestfinished", lambda request: done.append(request))
    page.on("requestfailed", lambda request: done.append(request))
    page.route(address, hold)
    yield release
    if not released:
        release()


def look(page: Page) -> bool:
    """Let the browser say what has happened."""
    page.wait_for_timeout(10)
    return True


def draft(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def test_what_is_typed_while_a_message_goes_out_is_the_next_one(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    write(page, "Second [[deltas=2]]")
    with held_up(page, "**/messages/", "POST"):
        page.keyboard.press("Enter")
        page.keyboard.type("Third [[deltas=2]]")
    expect(page.locator(".msg--user")).to_have_count(2)
    expect(draft(page)).to_have_value("Third [[deltas=2]]")
    finished(page)
    page.keyboard.press("Enter")
    expect(page.locator(".msg--user")).to_have_count(3)
    assert Message.objects.filter(role="user", content="Third [[deltas=2]]").count() == 1


def test_a_message_that_is_sent_before_the_one_before_it_has_come_goes_out_then(
    page: Page, alice: User
) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    write(page, "Second [[deltas=2]]")
    with held_up(page, "**/messages/", "POST"):
        page.keyboard.press("Enter")
        page.keyboard.type("Third [[deltas=2]]")
        page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".msg--user")).to_have_count(3)
    asked = Message.objects.filter(role="user").order_by("created_at").values_list("content", flat=True)
    until(lambda: list(asked.all())[1:] == ["Second [[deltas=2]]", "Third [[deltas=2]]"])
    expect(draft(page)).to_have_value("")


def test_an_impatient_second_enter_sends_nothing_twice(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    write(page, "Second [[deltas=2]]")
    with held_up(page, "**/messages/", "POST"):
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
    finished(page)
    assert Message.objects.filter(role="user").count() == 2


def test_a_message_goes_out_while_stop_is_on_its_way(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[endless pace=50ms]]")
    write(page, "Third [[deltas=2]]")
    with held_up(page, "**/stop/", "POST"):
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        until(lambda: look(page) and Message.objects.filter(content__startswith="Third").exists())
    finished(page)
    expect(page.locator(".msg--user")).to_have_text(
        [re.compile("Hello"), re.compile("Second"), re.compile("Third")]
    )


#: The word of a reply's end comes half a second later.
LATE_ENDS = """{
    const { addEventListener } = EventSource.prototype;
    EventSource.prototype.addEventListener = function (name, act) {
        addEventListener.call(this, name, (event) => setTimeout(act, name === 'done' ? 500 : 0, event));
    };
}"""


def test_a_reply_is_followed_that_began_before_the_end_of_the_last_was_heard_of(
    page: Page, alice: User
) -> None:
    page.add_init_script(LATE_ENDS)
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[endless pace=50ms]]")
    write(page, "Third [[deltas=2]]")
    page.keyboard.press("Escape")
    until(lambda: look(page) and not Reply.objects.unfinished().exists())
    page.keyboard.press("Enter")
    expect(page.locator(".msg--assistant")).to_have_count(3)
    finished(page)


def test_what_is_typed_while_a_conversation_begins_goes_with_it(page: Page) -> None:
    write(page, "First [[deltas=2]]")
    with held_up(page, "**/conversations/", "POST"):
        page.keyboard.press("Enter")
        page.keyboard.type("and the next one")
    page.wait_for_url(re.compile("/conversations/"))
    expect(draft(page)).to_have_value("and the next one")
    page.goto("/")
    expect(draft(page)).to_have_value("")


def test_a_draft_stays_when_somebody_types_before_the_script_is_there(page: Page) -> None:
    write(page, "Words that took an hour")
    page.reload()
    with held_up(page, "**/drafts*.js"):
        page.reload(wait_until="commit")
        draft(page).press_sequentially("and more")
    expect(draft(page)).to_have_value("Words that took an hour\n\nand more")


def test_a_press_on_a_button_that_is_replaced_under_the_pointer_counts(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    write(page, "Second [[deltas=2]]")
    send = page.get_by_role("button", name="Send", exact=True)
    send.hover()
    page.mouse.down()
    page.evaluate(
        "htmx.ajax('GET', thread.dataset.composer, { target: '#composer-tools', swap: 'outerHTML' })"
    )
    page.mouse.up()
    expect(page.locator(".msg--user")).to_have_count(2)


def test_the_focus_stays_on_a_button_that_comes_anew_when_a_reply_ends(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[deltas=60 pace=40ms]]")
    page.get_by_role("button", name=re.compile("^Model")).focus()
    finished(page)
    expect(page.get_by_role("button", name="Stop the reply")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("^Model"))).to_be_focused()


def test_an_open_menu_stays_in_its_place_when_a_reply_ends(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[deltas=60 pace=40ms]]")
    model = page.get_by_role("button", name=re.compile("^Model"))
    model.click()
    menu = page.locator("#model-menu")
    expect(menu).to_be_visible()
    before = menu.bounding_box()
    finished(page)
    expect(page.get_by_role("button", name="Stop the reply")).to_have_count(0)
    expect(menu).to_be_visible()
    assert menu.bounding_box() == before
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(model).to_be_focused()
    model.click()
    expect(menu).to_be_visible()
    assert menu.bounding_box() == before


def test_a_message_that_is_read_by_keyboard_stays_in_the_focus_when_it_ends(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[deltas=60 pace=40ms]]")
    expect(page.locator("article[data-stream]")).to_be_visible()
    page.locator("#thread").focus()
    page.keyboard.press("j")
    expect(page.locator("article[data-stream]")).to_be_focused()
    finished(page)
    expect(page.locator("article.msg--assistant").last).to_be_focused()


def test_sending_still_works_where_the_tools_after_a_reply_do_not_come(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    page.route("**/composer/", lambda route: route.abort())
    ask(page, "Second [[deltas=2]]")
    finished(page)
    page.unroute("**/composer/")
    write(page, "Third [[deltas=2]]")
    page.keyboard.press("Enter")
    expect(page.locator(".msg--user")).to_have_count(3)


def test_a_panel_takes_no_focus_from_who_writes_by_then(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    with held_up(page, "**/memory/"):
        page.locator(".topbar").get_by_role("link", name="Memory").click()
        draft(page).click()
        page.keyboard.type("half a w")
    expect(page.locator("#panel")).to_contain_text("What Parley remembers")
    page.keyboard.type("ord")
    expect(draft(page)).to_have_value("half a word")


def test_the_answer_to_a_message_takes_no_focus_from_a_search(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    write(page, "Second [[deltas=2]]")
    with held_up(page, "**/messages/", "POST"):
        page.keyboard.press("Enter")
        page.get_by_label("Search conversations").click()
    expect(page.locator(".msg--user")).to_have_count(2)
    expect(page.get_by_label("Search conversations")).to_be_focused()


def test_the_panel_shows_what_was_pressed_last(page: Page, alice: User) -> None:
    address = conversation_of(alice, "Hello", "Good day")
    page.goto(address + "settings/")
    tabs = page.get_by_role("navigation", name="Panels")
    with held_up(page, "**/context/"):
        tabs.get_by_role("link", name="Context").click()
        tabs.get_by_role("link", name="Memory").click()
        expect(page.get_by_role("heading", name="What Parley remembers")).to_be_visible()
    expect(page.get_by_role("heading", name="What Parley remembers")).to_be_visible()


def test_what_is_typed_in_a_panel_while_it_is_saved_stays(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day") + "settings/")
    prompt = page.get_by_label("System prompt")
    prompt.fill("Answer in verse")
    with held_up(page, "**/settings/", "POST"):
        page.locator("#panel").get_by_role("button", name="Save").click()
        prompt.click()
        prompt.press("End")
        page.keyboard.type(", and br")
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.keyboard.type("iefly")
    expect(prompt).to_have_value("Answer in verse, and briefly")


def test_a_fact_that_is_being_written_stays_when_another_one_is_pinned(page: Page, alice: User) -> None:
    memory.remember(alice, Fact(kind=MemoryItem.Kind.PREFERENCE, text="Short answers"))
    page.goto("/memory/")
    page.get_by_label("Add a fact", exact=True).last.fill("No tables")
    page.get_by_role("button", name="Pin: Short answers").click()
    expect(page.locator(".fact.pinned")).to_have_count(1)
    expect(page.locator(".facts textarea").last).to_have_value("No tables")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".fact")).to_have_count(2)
    expect(page.locator(".facts textarea").last).to_have_value("")


def test_a_message_that_is_written_again_stays_when_another_tab_sends(page: Page, alice: User) -> None:
    address = conversation_of(alice, "Hello", "Good day")
    page.goto(address)
    page.locator(".msg--user").hover()
    page.get_by_role("link", name="Edit").click()
    edit = page.get_by_label("Your message")
    edit.fill("Hello again")
    other = page.context.new_page()
    other.goto(address)
    ask(other, "Second [[deltas=2]]")
    finished(other)
    page.bring_to_front()
    expect(page.locator(".bubble")).to_have_count(2)
    expect(edit).to_have_value("Hello again")
    expect(edit).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_count(1)
    expect(page.locator(".bubble")).to_contain_text("Hello again")


def refresh_list(page: Page) -> None:
    page.evaluate("htmx.trigger(document.body, 'sidebar-stale')")


@pytest.mark.parametrize("where", ["row", "title"])
def test_a_name_that_is_being_written_stays_when_the_list_comes_anew(
    page: Page, alice: User, where: str
) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    with held_up(page, "**/sidebar/*") as release:
        refresh_list(page)
        if where == "row":
            page.locator(".convo a").first.focus()
            page.keyboard.press("F2")
        else:
            page.get_by_role("button", name="Options for this conversation").click()
            page.get_by_role("button", name="Rename").click()
        name = page.get_by_label("Name of the conversation")
        expect(name).to_be_focused()
        page.keyboard.type("Fees of the har")
        release()
    page.keyboard.type("bour")
    page.keyboard.press("Enter")
    expect(page.locator(".topbar .name")).to_have_text("Fees of the harbour")
    assert Conversation.objects.get().title == "Fees of the harbour"


def test_a_row_is_named_though_the_list_came_anew_meanwhile(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    with held_up(page, "**/rename/"):
        page.locator(".convo a").first.focus()
        page.keyboard.press("F2")
        with page.expect_response("**/sidebar/"):
            refresh_list(page)
    expect(page.get_by_label("Name of the conversation")).to_be_focused()


def test_a_search_stays_when_the_list_comes_anew(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    with held_up(page, "**/sidebar/*"):
        refresh_list(page)
        page.get_by_label("Search conversations").press_sequentially("kubernetes")
        expect(page.locator("#convo-list")).to_contain_text("No message contains")
    expect(page.locator("#convo-list")).to_contain_text("No message contains")


def test_a_thread_from_before_another_answer_was_asked_for_is_not_shown(page: Page, alice: User) -> None:
    page.goto(conversation_of(alice, "Hello", "Good day"))
    ask(page, "Second [[deltas=30 pace=50ms]]")
    finished(page)
    page.evaluate("document.querySelector('#composer-tools').dataset.version = 'old'")
    with held_up(page, re.compile(r"/conversations/[^/]+/\?known=")) as release:
        page.evaluate("htmx.trigger('#thread', 'thread-stale')")
        page.get_by_role("button", name="Another answer").click()
        expect(page.locator("[data-stream]")).to_have_count(1)
        release()
    finished(page)
    expect(page.get_by_role("navigation", name="Versions of this message")).to_contain_text("2 / 2")
    assert Reply.objects.count() == 2


def test_versions_stay_open_while_a_summary_is_written(page: Page, alice: User) -> None:
    address = conversation_of(alice, "Hello", "Good day")
    conversation = Conversation.objects.get()
    leaf = conversation.messages.get(role="assistant")
    State = ConversationSummary.State
    for version, state in enumerate((State.IN_FORCE, State.IN_FORCE, State.WANTED), 1):
        conversation.summaries.create(
            version=version,
            state=state,
            summary="" if state == State.WANTED else f"Text {version}",
            token_count=2,
            message_count_at_creation=2,
            covers_until=leaf,
        )
    page.goto(address)
    page.goto(address + "summaries/")
    first = page.locator("#summary-1 summary")
    first.press("Enter")
    with page.expect_response("**/summaries/*"):
        pass
    expect(page.locator("#summary-1")).to_have_attribute("open", "")
    expect(first).to_be_focused()
