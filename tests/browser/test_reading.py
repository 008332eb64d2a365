"""Reading a conversation: its end, its beginning, its code, its links, and text in any script."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from conversations.models import Conversation, Message, User
from tests.servers import FAKE_MODEL, Server

from .conftest import SignIn, ask, finished, until
from .test_hostile_text import nothing_happens

pytestmark = pytest.mark.browser


def conversation_of(owner: User, *texts: str, title: str = "Harbour fees") -> str:
    """The address of a conversation in which these were said in turn."""
    conversation = Conversation.objects.create(user=owner, model=FAKE_MODEL, title=title)
    leaf = None
    for number, text in enumerate(texts):
        role = "assistant" if number % 2 else "user"
        leaf = Message.objects.create(conversation=conversation, parent=leaf, role=role, content=text)
    conversation.leaf = leaf
    conversation.save()
    return f"/conversations/{conversation.pk}/"


def resting_place(page: Page) -> float:
    """Where the thread stands once it scrolls no more."""
    places: list[float] = []

    def rests() -> bool:
        places.append(page.locator("#thread").evaluate("thread => thread.scrollTop"))
        return len(places) > 4 and len(set(places[-4:])) == 1

    until(rests)
    return places[-1]


def is_at_end(page: Page) -> bool:
    found: bool = page.locator("#thread").evaluate(
        "thread => thread.scrollHeight - thread.scrollTop - thread.clientHeight < 4"
    )
    return found


def test_a_page_opens_at_its_end_and_a_reload_stays_there(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, *["Some words.\n\n" * 10] * 20))
    assert is_at_end(page)
    ask(page, "Tell me [[deltas=400 pace=5ms]]")
    expect(page.locator(".msg--assistant .prose").last).to_contain_text("word9")
    page.reload()
    finished(page)
    until(lambda: is_at_end(page))


def test_who_scrolls_up_is_left_in_peace(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, *["Some words.\n\n" * 10] * 20))
    ask(page, "Tell me [[deltas=300 pace=5ms]]")
    expect(page.locator(".msg--assistant .prose").last).to_contain_text("word9")
    page.locator("#thread").hover()
    page.mouse.wheel(0, -2000)
    expect(page.get_by_role("button", name="Go to the latest message")).to_be_visible()
    top = resting_place(page)
    finished(page)
    assert page.locator("#thread").evaluate("thread => thread.scrollTop") == top
    page.get_by_role("button", name="Go to the latest message").click()
    until(lambda: is_at_end(page))


def test_a_block_that_comes_before_the_word_of_a_scroll_does_not_lose_the_end(
    sign_in: SignIn, alice: User
) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, *["Some words.\n\n" * 10] * 20))
    thread = page.locator("#thread")
    thread.evaluate("thread => { thread.scrollTop -= 40; }")
    page.wait_for_timeout(100)
    thread.evaluate(
        """thread => {
            thread.scrollTop = thread.scrollHeight;
            thread.append(Object.assign(document.createElement("div"), { style: "block-size: 500px" }));
            setTimeout(() => document.dispatchEvent(new CustomEvent("parley:text")), 50);
        }"""
    )
    page.wait_for_timeout(200)
    assert is_at_end(page)


def test_older_messages_come_on_demand_and_nothing_moves(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    page.goto(conversation_of(alice, *[f"Said-{n}." for n in range(120)]))
    expect(page.locator("#thread article")).to_have_count(50)
    page.locator("#thread").evaluate("thread => thread.scrollTop = 300")
    anchor = page.get_by_text("Said-75.")
    before = anchor.bounding_box()
    page.get_by_role("link", name="Show earlier messages").evaluate("link => link.click()")
    expect(page.locator("#thread article")).to_have_count(100)

    def moved() -> float:
        after = anchor.bounding_box()
        assert before and after
        return abs(before["y"] - after["y"])

    until(lambda: moved() < 2)
    expect(page.get_by_text("Said-20.")).to_be_attached()


def test_a_search_leads_to_an_old_message_by_keyboard(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    conversation_of(alice, *[f"Said-{n}." for n in range(30)], "The needle.", *["Hay."] * 89)
    page.keyboard.press("Control+k")
    page.keyboard.type("needle")
    expect(page.get_by_role("status").filter(has_text="1 message in 1 conversation")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The needle.")).to_be_in_viewport()
    page.get_by_role("link", name="Show the latest messages").click()
    expect(page.get_by_text("The needle.")).to_have_count(0)
    until(lambda: is_at_end(page))
    page.keyboard.press("Control+k")
    page.keyboard.type("kubernetes")
    expect(page.get_by_text("No message contains “kubernetes”.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".convo")).to_have_count(1)


def test_a_remote_image_is_a_link_and_asks_nobody(sign_in: SignIn, site: Server, alice: User) -> None:
    page = sign_in(alice)
    with nothing_happens(page, site):
        page.goto(conversation_of(alice, "Show me", "![a boat](https://elsewhere.example/boat.png)"))
        link = page.get_by_role("link", name="a boat")
        expect(link).to_have_attribute("href", "https://elsewhere.example/boat.png")


def test_code_and_messages_are_copied_as_they_are(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice, permissions=["clipboard-read", "clipboard-write"])
    answer = "Run **this**:\n\n```sql\nSELECT '<b>' AS \"x\";\n\n-- end\n```"
    page.goto(conversation_of(alice, "How?", answer))
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator("#announce")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()").strip() == "SELECT '<b>' AS \"x\";\n\n-- end"
    page.locator(".msg--assistant .acts-hover [data-copy]").click()
    until(lambda: page.evaluate("navigator.clipboard.readText()") == answer)


def test_pasted_code_stays_in_its_column_and_headings_break_between_words(
    sign_in: SignIn, alice: User
) -> None:
    page = sign_in(alice)
    code = f"```python\nprint({'1234567890' * 20!r})\n```"
    page.goto(
        conversation_of(alice, code, f"| Name | Value | Path |\n|---|---|---|\n| a | 1 | {'x' * 120} |")
    )
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        bubble, column = page.locator(".bubble").bounding_box(), page.locator(".msg--user").bounding_box()
        assert bubble is not None and column is not None
        assert bubble["x"] >= column["x"]
        assert bubble["x"] + bubble["width"] <= column["x"] + column["width"] + 1
        lines = page.locator("th").first.evaluate(
            "cell => { const words = new Range(); words.selectNodeContents(cell); "
            "return words.getClientRects().length; }"
        )
        assert lines == 1


def test_right_to_left_and_combining_text_stay_in_their_place(sign_in: SignIn, alice: User) -> None:
    page = sign_in(alice)
    towers = "Z" + "\u0310\u0311\u0312" * 60 + " tall"
    page.goto(
        conversation_of(alice, "مرحبا بالعالم\n\nEnglish below", f"שלום\n\n{towers}\n\n\u202eturned\u202c")
    )
    directions = page.locator(".msg--assistant .prose p").evaluate_all(
        "all => all.map(one => getComputedStyle(one).unicodeBidi)"
    )
    assert set(directions) == {"plaintext"}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".prose").evaluate("prose => getComputedStyle(prose).overflow") == "clip"
    page.get_by_label("Message", exact=True).fill("שלום")
    assert page.get_by_label("Message", exact=True).evaluate("field => field.matches(':dir(rtl)')")
