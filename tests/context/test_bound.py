"""No plan is longer than what was counted on before it was made."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.context.bound import Beside, most_input_tokens
from conversations.context.plan import Continuation, DoesNotFit, plan_context
from conversations.context.policy import Policy, Strategy, policy_for
from conversations.context.view import MemoryItem, MemoryKind

from .chats import Chat, plan, remembered, said, text_of, words

turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.integers(0, 60).map(lambda n: "word " * n)),
    min_size=1,
    max_size=30,
)


@given(turns, st.integers(0, 40), st.integers(300, 3_000), st.integers(16, 4_000))
def test_a_plan_has_at_most_the_tokens_that_are_held_for(
    spoken: list[tuple[str, str]], system_words: int, window: int, high_water: int
) -> None:
    spoken = [*spoken, ("user", "And now?")]
    history, system = said(*spoken), "word " * system_words
    policy = policy_for(window=window, reply_tokens=100, high_water=high_water)
    planned = plan(history, system=system, policy=policy)
    most = most_input_tokens(
        policy,
        system_tokens=words(system),
        path_tokens=sum(message.tokens for message in history),
        path_messages=len(history),
        question_tokens=history[-1].tokens,
    )
    assert planned.input_tokens <= most


def test_a_long_path_is_not_held_for_whole() -> None:
    policy = Policy(high_water=1_000, low_water=250, window=8_000, reply_tokens=500, recall_tokens=250)
    most = most_input_tokens(
        policy, system_tokens=0, path_tokens=90_000, path_messages=400, question_tokens=20
    )
    assert most == 1_000


def test_a_question_longer_than_the_high_water_mark_is_held_for_up_to_the_window() -> None:
    policy = Policy(high_water=1_000, low_water=250, window=8_000, reply_tokens=500)
    most = most_input_tokens(
        policy, system_tokens=0, path_tokens=90_000, path_messages=2, question_tokens=60_000
    )
    assert most == 7_500


#: What happens in a conversation before the next message is asked.
events = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 120), st.integers(0, 200)),
        st.tuples(st.just("learn"), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("pin"), st.just(0), st.integers(1, 40)),
        st.tuples(st.just("supersede"), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("summarise"), st.just(0), st.booleans()),
        st.tuples(st.just("numbers"), st.integers(300, 3_000), st.integers(16, 4_000)),
        st.tuples(st.just("branch"), st.integers(1, 6), st.just(0)),
    ),
    max_size=25,
)


def sums(chat: Chat) -> Beside:
    """What the database sums up of what a plan is going to be given."""
    shown = chat.cut.memory_ids if chat.cut else ()
    told = [item for item in chat.memory if not item.is_superseded or item.id in shown]
    constraints = [item for item in told if item.is_constraint]
    return Beside(
        lines=len(told),
        line_tokens=sum(item.tokens for item in told),
        constraints=len(constraints),
        constraint_tokens=sum(item.tokens for item in constraints),
        summary_tokens=max((summary.tokens for summary in chat.summaries), default=0),
        inserts=len(chat.cut.inserts) if chat.cut else 0,
        was_cut=chat.cut is not None and chat.cut.first_message_id not in {m.id for m in chat.path[:1]},
    )


def most(chat: Chat, question: int) -> int:
    return most_input_tokens(
        chat.policy,
        system_tokens=words(chat.system),
        path_tokens=sum(message.tokens for message in chat.path) + question,
        path_messages=len(chat.path) + 1,
        question_tokens=question,
        beside=sums(chat),
        count_tokens=words,
    )


@pytest.mark.parametrize("strategy", Strategy)
@given(
    events=events,
    system_words=st.integers(0, 60),
    window=st.integers(300, 3_000),
    high_water=st.integers(16, 4_000),
    recall_tokens=st.sampled_from([0, 50, 1_000]),
    budget=st.sampled_from([None, 600, 2_000]),
)
def test_whatever_is_remembered_summed_up_and_recalled_is_held_for(
    strategy: Strategy,
    events: Sequence[tuple[str, int, int]],
    system_words: int,
    window: int,
    high_water: int,
    recall_tokens: int,
    budget: int | None,
) -> None:
    def policy(window: int, high_water: int) -> Policy:
        return policy_for(
            window=window,
            reply_tokens=100,
            high_water=high_water,
            strategy=strategy,
            token_budget=budget,
            recall_tokens=recall_tokens,
        )

    chat = Chat(policy(window, high_water), system="word " * system_words)
    for number, (event, first, second) in enumerate([*events, ("ask", 8, 0)]):
        match event:
            case "ask":
                # The words of one turn are found again by the next: recall goes by them.
                text = "back then " + "word " * first
                bound = most(chat, words(text))
                try:
                    planned = chat.ask(text, answer="word " * second)
                except DoesNotFit:
                    return
                assert planned.input_tokens <= bound
            case "learn":
                chat.memory.append(
                    remembered(number, f"{number} " + "fact " * second, list(MemoryKind)[first])
                )
            case "pin":
                chat.memory.append(remembered(number, f"{number} " + "fact " * second, is_pinned=True))
            case "supersede" if chat.memory:
                old: MemoryItem = chat.memory[first % len(chat.memory)]
                chat.supersede(old, remembered(number, f"{number} " + "fact " * second, old.kind))
            case "summarise" if chat.path:
                chat.summarise(acts_at_once=bool(second))
            case "numbers":
                chat.policy = policy(first, second)
            case "branch":
                del chat.path[max(len(chat.path) - first, 0) :]
                if chat.cut and chat.cut.first_message_id not in {message.id for message in chat.path}:
                    chat.cut = None
                chat.summaries = [each for each in chat.summaries if each.covered_messages <= len(chat.path)]


@given(st.integers(1, 300), st.integers(0, 300), st.integers(300, 2_000), st.booleans())
def test_a_text_to_go_on_from_is_held_for(asked: int, begun: int, window: int, prefill: bool) -> None:
    history = said(("user", "word " * asked))
    text = "begun " + "word " * begun
    policy = policy_for(window=window, reply_tokens=100)
    try:
        planned = plan_context(
            system_prompt="Be brief.",
            history=history,
            policy=policy,
            count_tokens=words,
            continuation=Continuation(text=text, prefill=prefill),
        )
    except DoesNotFit:
        return
    most = most_input_tokens(
        policy,
        system_tokens=2,
        path_tokens=asked,
        path_messages=1,
        question_tokens=asked,
        begun_tokens=words(text) + 30 + 2 * policy.message_overhead,
        count_tokens=words,
    )
    assert planned.input_tokens <= most


def test_nothing_is_held_for_what_a_short_conversation_cannot_show() -> None:
    policy = policy_for(window=128_000, reply_tokens=2_048)
    most = most_input_tokens(
        policy, system_tokens=5, path_tokens=100, path_messages=3, question_tokens=20, count_tokens=words
    )
    assert most == 5 + 100 + 4 * policy.message_overhead


def test_memory_is_held_for_to_the_line() -> None:
    policy = policy_for(window=128_000, reply_tokens=2_048)
    items = [remembered(n, f"fact number {n}") for n in range(5)]
    planned = plan(said(("user", "And now?")), policy=policy, memory=items)
    beside = Beside(lines=5, line_tokens=sum(item.tokens for item in items))
    most = most_input_tokens(
        policy,
        system_tokens=0,
        path_tokens=2,
        path_messages=1,
        question_tokens=2,
        beside=beside,
        count_tokens=words,
    )
    assert planned.input_tokens <= most <= planned.input_tokens + 80


def test_each_header_that_a_remembered_line_stands_under_is_held_for() -> None:
    chat = Chat(policy_for(window=128_000, reply_tokens=2_048))
    for number in range(6):
        chat.memory.append(remembered(number, f"fact number {number}"))
        bound = most(chat, 2)
        assert chat.ask(f"question {number}", answer="yes").input_tokens <= bound


def test_each_place_where_something_was_recalled_is_held_for() -> None:
    subjects = ["alpha", "beta", "gamma", "delta"]
    chat = Chat(policy_for(window=8_000, reply_tokens=500, high_water=600, recall_tokens=120))
    for subject in subjects:
        chat.ask(f"{subject} " * 20, answer=f"{subject} " * 20)
    chat.ask("word " * 400, answer="yes")
    assert chat.cut and chat.cut.first_message_id == chat.path[-2].id, "nothing of it is shown any more"
    chat.policy = policy_for(window=8_000, reply_tokens=500, high_water=6_000, recall_tokens=120)
    for subject in subjects:
        bound = most(chat, 1)
        planned = chat.ask(subject, answer="yes")
        assert f"[user] {subject}" in text_of(planned)
        assert planned.input_tokens <= bound
