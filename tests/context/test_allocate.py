"""The shares of a token budget, and the presets that set them."""

from __future__ import annotations

import json

import pytest

from conversations.context.allocate import reply_share, split_for
from conversations.context.policy import Strategy, policy_for
from conversations.context.presets import PRESETS, Preset
from conversations.context.strategies import high_water, low_water


@pytest.mark.parametrize(
    ("messages", "summary", "recent"), [(20, 15, 50), (21, 20, 45), (50, 20, 45), (51, 25, 40)]
)
def test_the_split_moves_with_the_length_of_the_conversation(
    messages: int, summary: int, recent: int
) -> None:
    split = split_for(messages)
    assert (split.summary, split.recent) == (summary, recent)
    assert split.system + split.summary + split.recent + split.reply + split.margin == 100


def test_the_reply_has_at_most_a_quarter_of_the_budget() -> None:
    assert reply_share(wanted=2_048, budget=12_000) == 2_048
    assert reply_share(wanted=5_000, budget=12_000) == 3_000
    assert reply_share(wanted=10, budget=1) == 1


def test_the_high_water_mark_stays_below_what_the_window_holds() -> None:
    policy = policy_for(window=8_192, reply_tokens=512)
    assert policy.high_water == int(0.85 * 7_680) and policy.low_water == policy.high_water // 4


def test_a_long_system_prompt_leaves_room_for_the_conversation() -> None:
    policy = policy_for(window=128_000, reply_tokens=2_048)
    assert (low_water(policy, 500), high_water(policy, 500)) == (4_000, 16_000)
    assert (low_water(policy, 12_000), high_water(policy, 12_000)) == (14_000, 28_000)
    assert (low_water(policy, 20_000), high_water(policy, 20_000)) == (22_000, 36_000)


def test_the_presets_are_what_they_are_said_to_be() -> None:
    policies = {slug: preset.policy(window=128_000, max_output=16_000) for slug, preset in PRESETS.items()}
    assert policies["chat"].strategy is Strategy.ADAPTIVE and policies["chat"].high_water == 16_000
    assert policies["chat"].recall_tokens == 1_000 and policies["chat"].reply_tokens == 2_048
    assert policies["support"].strategy is Strategy.SLIDING_WINDOW and policies["support"].last_turns == 8
    assert policies["code"].strategy is Strategy.MEMORY and policies["code"].uses_summary
    assert policies["code"].budget == 12_000 and policies["code"].reply_tokens == 3_000
    assert policies["creative"].strategy is Strategy.FULL and PRESETS["creative"].temperature == 1.0
    assert policies["agents"].strategy is Strategy.FULL and policies["agents"].budget == 128_000
    assert policies["economy"].high_water == 4_000 and PRESETS["economy"].model == "cheapest"
    assert all(policy.summary_tokens <= 400 for policy in policies.values())


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 2.1},
        {"high_water": 10},
        {"recall_tokens": -1},
        {"soft_mark": 1.0},
        {"on_overflow": "explode"},
    ],
)
def test_a_preset_with_a_value_out_of_range_says_so(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is between|is cut or refused"):
        Preset(slug="own", name="Own", **values)  # type: ignore[arg-type]


def test_a_preset_is_stored_and_read_as_json() -> None:
    for preset in PRESETS.values():
        assert Preset.from_json(json.loads(json.dumps(preset.to_json()))) == preset
    with pytest.raises(ValueError, match="no colour"):
        Preset.from_json({"slug": "own", "name": "Own", "colour": "red"})
    with pytest.raises(ValueError, match="is between"):
        Preset.from_json({"slug": "own", "name": "Own", "high_water": "many"})


def test_a_slow_model_has_a_lower_mark() -> None:
    policy = PRESETS["chat"].policy(window=8_192, max_output=512, high_water=1_500)
    assert (policy.high_water, policy.low_water, policy.recall_tokens) == (1_500, 375, 375)
