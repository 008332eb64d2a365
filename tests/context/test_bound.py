"""No plan is longer than what was counted on before it was made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conversations.context.bound import most_input_tokens
from conversations.context.policy import Policy, policy_for

from .chats import plan, said, words

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
