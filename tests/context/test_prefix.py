"""Between two cuts each request is a strict prefix of the next one: that is what a provider's cache rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.context.layout import Kind
from conversations.context.plan import ContextPlan, Start
from conversations.context.policy import Strategy, policy_for
from conversations.context.view import MemoryItem
from tests.context.chats import Chat, constraint, flat, kinds, remembered, text_of

APPEND_ONLY = [strategy for strategy in Strategy if strategy.is_append_only]


def is_extension(before: ContextPlan, after: ContextPlan) -> bool:
    a, b = flat(before), flat(after)
    return len(b) > len(a) and b.startswith(a)


events = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 90)),
        st.tuples(st.just("ask"), st.integers(1, 90)),
        st.tuples(st.just("ask"), st.integers(1, 300)),
        st.tuples(st.just("crash"), st.integers(1, 30)),  # no answer, or an empty one
        st.tuples(st.just("learn"), st.integers(1, 10)),
        st.tuples(st.just("constrain"), st.integers(1, 10)),
        st.tuples(st.just("supersede"), st.integers(0, 5)),
        st.tuples(st.just("summarise"), st.just(0)),
    ),
    min_size=5,
    max_size=45,
)


@settings(max_examples=120)
@given(events, st.sampled_from(APPEND_ONLY), st.integers(0, 200))
def test_a_request_extends_the_one_before_whatever_arrives_between_them(
    story: list[tuple[str, int]], strategy: Strategy, recall: int
) -> None:
    policy = policy_for(
        window=2_400,
        reply_tokens=200,
        high_water=900,
        strategy=strategy,
        recall_tokens=recall,
        uses_memory=True,
    )
    chat = Chat(policy, memory=[remembered(1, "Likes tea"), constraint(2, "Never mention prices")])
    before: ContextPlan | None = None
    for number, (event, size) in enumerate(story):
        match event:
            case "ask":
                after = chat.ask(f"{'q ' * size}{number % 7}", answer="a " * size + str(number % 5))
                if before is not None and after.start is not Start.FULL:
                    assert after.start is Start.EXTENDS
                    assert is_extension(before, after)
                before = after
            case "crash":
                chat.add("user", "lost " * size)
                chat.add("assistant", "" if size % 2 else " \n")
            case "learn":
                chat.memory.append(remembered(100 + number, "fact " * size))
            case "constrain":
                chat.memory.append(constraint(100 + number, "rule " * size))
            case "supersede":
                facts = [item for item in chat.memory if not item.is_constraint and not item.is_superseded]
                if facts:
                    new = remembered(100 + number, "rather coffee")
                    chat.supersede(facts[size % len(facts)], new)
            case "summarise" if chat.path:
                chat.summarise()


def test_a_cut_leaves_no_hole_where_no_excerpt_fits() -> None:
    chat = Chat(policy_for(window=2_400, reply_tokens=200, high_water=900, recall_tokens=0))
    for _ in range(4):
        chat.ask("q " * 90, answer="a " * 90)
    for size in (1, 18):
        chat.add("user", "lost " * size)
        chat.add("assistant", "")
    cut = chat.ask("q " * 162, answer="a " * 90)
    assert cut.start is Start.FULL
    after = chat.ask("And?")
    assert after.start is Start.EXTENDS and is_extension(cut, after)


def test_what_is_learned_between_two_cuts_comes_in_at_the_end_and_goes_to_the_top_at_the_cut() -> None:
    chat = Chat(policy_for(window=10_000, reply_tokens=500, high_water=1_000, recall_tokens=0))
    chat.ask("Hello", answer="Hi")
    chat.memory += [remembered(1, "Likes tea"), constraint(2, "Never mention prices")]
    told = chat.ask("And?", answer="Yes")
    assert kinds(told) == [Kind.SYSTEM, Kind.TRANSCRIPT, Kind.CONSTRAINTS, Kind.MEMORY, Kind.QUESTION]
    later = chat.ask("So?", answer="So.")
    assert text_of(later).count("Likes tea") == 1, "once, and where it was"
    while chat.ask("q " * 40, answer="a " * 40).start is not Start.FULL:
        pass
    cut = chat.plan()
    assert kinds(cut)[:3] == [Kind.SYSTEM, Kind.CONSTRAINTS, Kind.MEMORY]
    assert "Never mention prices" in cut.messages[0].content


def test_a_constraint_is_there_word_for_word_after_fifty_cuts() -> None:
    words = "Never mention prices,\n  not even   in a table."
    chat = Chat(policy_for(window=4_000, reply_tokens=400, high_water=600), memory=[constraint(1, words)])
    cuts = 0
    while cuts < 50:
        result = chat.ask("q " * 90, answer="a " * 90)
        cuts += result.start is Start.FULL
        assert text_of(result).count(words) == 1
    assert words in result.messages[0].content


def test_another_reply_to_the_same_message_is_asked_for_with_the_same_request() -> None:
    chat = Chat(policy_for(window=4_000, reply_tokens=400, high_water=600))
    for n in range(12):
        chat.ask(f"question {n} " + "q " * 40, answer="a " * 40)
    first = chat.ask("question 2 again")
    assert Kind.RECALLED in kinds(first)
    chat.memory.append(remembered(1, "learned meanwhile"))
    assert flat(chat.plan()) == flat(first)


def test_an_excerpt_of_a_recalled_message_stays_as_it_was() -> None:
    chat = Chat(policy_for(window=4_000, reply_tokens=400, high_water=600, recall_tokens=60))
    chat.ask("A very long report. " * 60, answer="a " * 100)
    for _ in range(5):
        chat.ask("q " * 90, answer="b " * 60)
    found = chat.ask("Which report?", answer="The long one.")
    assert found.excerpted, "too long for recall, so it came as an excerpt"
    after = chat.ask("So?")
    assert after.start is Start.EXTENDS and is_extension(found, after)


def forget(chat: Chat) -> None:
    chat.memory = chat.memory[1:]


def pin(chat: Chat) -> None:
    chat.memory[0] = replace(chat.memory[0], is_pinned=True)


def edit(chat: Chat) -> None:
    chat.memory[0] = remembered(9, "Likes coffee")


def change_prompt(chat: Chat) -> None:
    chat.system = "Be long."


def change_model(chat: Chat) -> None:
    chat.policy = replace(chat.policy, model="another")


def write_a_summary(chat: Chat) -> None:
    chat.summarise(acts_at_once=True)


@pytest.mark.parametrize("change", [forget, pin, edit, change_prompt, change_model, write_a_summary])
def test_what_a_person_changes_acts_at_once(change: Callable[[Chat], None]) -> None:
    chat = Chat(policy_for(window=4_000, reply_tokens=400), memory=[remembered(1, "Likes tea")])
    chat.ask("Hello", answer="Hi")
    change(chat)
    after = chat.ask("And?", answer="Yes")
    assert after.start is Start.CHANGED
    assert ("Likes tea" in text_of(after)) is (change not in (forget, edit))
    assert ("Likes coffee" in text_of(after)) is (change is edit)
    assert ("Summary number 1." in text_of(after)) is (change is write_a_summary)
    assert chat.ask("So?").start is Start.EXTENDS, "and the next one extends that"


def test_a_forgotten_line_is_gone_also_when_it_had_come_in_between() -> None:
    chat = Chat(policy_for(window=4_000, reply_tokens=400))
    chat.ask("Hello", answer="Hi")
    secret: MemoryItem = remembered(1, "Has a secret")
    chat.memory.append(secret)
    assert "secret" in text_of(chat.ask("And?", answer="Yes"))
    chat.memory.remove(secret)
    assert "secret" not in text_of(chat.ask("So?"))


def test_another_branch_begins_anew_and_shows_nothing_of_the_first() -> None:
    chat = Chat(policy_for(window=4_000, reply_tokens=400, high_water=600))
    for n in range(12):
        chat.ask(f"first branch {n} " + "q " * 40, answer="a " * 40)
    branch = Chat(chat.policy, path=[], cut=chat.cut)
    branch.path = chat.path[:4]
    branch.made = 1_000
    branch.cut = None
    branch.add("user", "second branch")
    own = branch.plan()
    assert own.start is Start.FIRST and "first branch 5" not in text_of(own)


def test_a_cold_cache_cuts_at_the_soft_mark_and_not_before() -> None:
    chat = Chat(policy_for(window=10_000, reply_tokens=500, high_water=1_000, recall_tokens=0))
    chat.ask("q " * 300, answer="a")
    assert chat.ask("q " * 50, answer="a", cache_is_cold=True).start is Start.EXTENDS
    chat.ask("q " * 380, answer="a")
    cold = chat.ask("So?", cache_is_cold=True)
    assert cold.start is Start.COLD and cold.input_tokens <= 250


def test_only_what_repeats_is_marked_for_the_cache() -> None:
    chat = Chat(policy_for(window=4_000, reply_tokens=400))
    chat.ask("Hello", answer="Hi")
    assert chat.ask("And?").breakpoints == (0, 3)
    sliding = Chat(policy_for(window=4_000, reply_tokens=400, strategy=Strategy.SLIDING_WINDOW))
    sliding.ask("Hello", answer="Hi")
    assert sliding.ask("And?").breakpoints == (0,)
