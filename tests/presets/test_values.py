"""Each preset is a policy for each model, and each value that cannot be is refused with a sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.context.policy import Policy
from conversations.context.presets import CHAT, FIELDS, LENGTHS, PRESETS, RANGES, Preset, faults_of
from conversations.llm.known_models import lookup
from conversations.presets import PresetError, from_file, to_file

WINDOWS = (2_000, 4_096, 8_192, 32_000, 128_000, 200_000, 1_000_000)
OUTPUTS = (16, 512, 4_096, 128_000)

NUMBERS = st.fixed_dictionaries(
    {
        name: st.integers(int(bounds.least), int(bounds.most))
        if bounds.is_whole
        else st.floats(bounds.least, bounds.most)
        for name, bounds in RANGES.items()
    },
    optional={},
)
STRATEGIES = st.sampled_from(["full", "sliding_window", "importance", "summary", "memory", "adaptive"])
#: Anything that JSON may hold.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def assert_fits(policy: Policy, window: int) -> None:
    assert 0 < policy.reply_tokens <= window // 4
    assert 0 < policy.low_water <= policy.high_water <= policy.ceiling
    assert policy.ceiling + policy.reply_tokens <= window
    assert 0 <= policy.recall_tokens <= policy.high_water // 4


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("slug", PRESETS)
def test_each_preset_is_a_policy_for_each_model(slug: str, window: int) -> None:
    for most in OUTPUTS:
        assert_fits(PRESETS[slug].policy(window=window, max_output=most), window)


@pytest.mark.parametrize("slug", PRESETS)
def test_each_preset_fits_each_model_that_is_known(slug: str) -> None:
    names = (
        "gpt-5-mini",
        "gpt-4o",
        "o3",
        "claude-sonnet-5",
        "gemini-2.5-flash",
        "deepseek-chat",
        "a-model-of-ones-own",
    )
    for known in map(lookup, names):
        policy = PRESETS[slug].policy(window=known.context_window, max_output=known.max_output)
        assert_fits(policy, known.context_window)
        assert policy.reply_tokens <= known.max_output


@given(numbers=NUMBERS, strategy=STRATEGIES, window=st.sampled_from(WINDOWS))
def test_whatever_is_in_range_is_a_policy_that_fits(
    numbers: dict[str, Any], strategy: str, window: int
) -> None:
    preset = Preset.from_json({"slug": "own", "name": "Own", "strategy": strategy, **numbers})
    policy = preset.policy(window=window, max_output=window // 2)
    assert 0 < policy.reply_tokens <= window // 4
    assert 0 <= policy.low_water <= policy.high_water <= policy.ceiling <= window - policy.reply_tokens
    assert 0 <= policy.recall_tokens <= policy.high_water // 4


@given(numbers=NUMBERS, strategy=STRATEGIES)
def test_a_preset_is_read_as_it_was_written(numbers: dict[str, Any], strategy: str) -> None:
    preset = Preset.from_json({"slug": "own", "name": "Own", "strategy": strategy, **numbers})
    assert Preset.from_json(json.loads(json.dumps(preset.to_json()))) == preset
    assert Preset.stored(json.loads(json.dumps(preset.to_json()))) == preset
    read, unknown = from_file(to_file(preset).encode())
    assert (replace(read, slug="own"), unknown) == (preset, [])


@given(name=st.sampled_from(sorted(RANGES)), value=st.integers() | st.floats() | st.booleans() | st.text())
def test_a_number_out_of_its_range_is_said(name: str, value: Any) -> None:
    bounds, faults = RANGES[name], faults_of({name: value})
    is_number = isinstance(value, int) or (isinstance(value, float) and not bounds.is_whole)
    if is_number and not isinstance(value, bool) and bounds.least <= value <= bounds.most:
        assert not faults
    else:
        assert "between" in faults[name] and faults[name].endswith(".")


@given(values=st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON))
def test_nonsense_is_a_sentence_and_never_a_crash(values: dict[str, Any]) -> None:
    try:
        Preset.from_json({"slug": "own", "name": "Own", **values})
    except ValueError as error:
        assert str(error).endswith(".")
    Preset.stored(values)  # reads what it can
    try:
        from_file(json.dumps(values).encode())
    except PresetError as error:
        assert str(error).endswith(".")


@given(stored=JSON)
def test_a_conversation_with_broken_json_has_the_default(stored: Any) -> None:
    assert Preset.stored(stored) == CHAT or isinstance(stored, dict)


def test_one_broken_value_does_not_take_the_others_with_it() -> None:
    stored = PRESETS["code"].to_json() | {"high_water": -3, "strategy": "magic", "colour": "red"}
    read = Preset.stored(stored)
    assert (read.name, read.temperature) == ("Code assistant", 0.2)
    assert (read.high_water, read.strategy) == (CHAT.high_water, CHAT.strategy)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"temperature": "hot"}, "The temperature is between 0.0 and 2.0."),
        ({"high_water": -1}, "The high-water mark is between 500 and 1,000,000."),
        ({"last_turns": 2.5}, "The number of last turns is a whole number between 1 and 1,000."),
        ({"last_turns": True}, "The number of last turns is between 1 and 1,000."),
        ({"strategy": "magic"}, "The strategy is one of"),
        ({"strategy": ["full"]}, "The strategy is one of"),
        ({"system_prompt": "x" * 100_001}, "The system prompt has at most 100,000 characters."),
        ({"name": "x" * 61}, "The name has at most 60 characters."),
        ({"description": 7}, "The description is a text."),
        ({"uses_memory": "yes"}, "The use of memory is true, false or null."),
        ({"keywords": "api"}, "Keywords are at most 50 words"),
        ({"keywords": [""]}, "Keywords are at most 50 words"),
        ({"on_overflow": "explode"}, "An overflow is cut or refused."),
        ({"on_stream_failure": None}, "A failed stream is kept or discarded."),
    ],
)
def test_what_cannot_be_is_said(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        Preset.from_json({"slug": "own", "name": "Own", **values})
    assert str(refused.value).startswith(sentence)


def test_the_bound_of_a_prompt_is_that_of_a_conversation() -> None:
    from conversations.forms import InstructionsForm

    assert LENGTHS["system_prompt"] == InstructionsForm.declared_fields["system_prompt"].max_length  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "This file is not JSON."),
        (b"\xff\xfe{}", "This file is not JSON."),
        (b"{", "This file is not JSON."),
        (b"[" * 100_000, "This file is not JSON."),
        (b"[1]", "This file holds no preset: it begins"),
        (b"{}", "This file holds no preset: it has no name."),
        (b'{"name": "  "}', "This file holds no preset: it has no name."),
        (b'{"name": 3}', "This file holds no preset: it has no name."),
        (b'{"name": "N", "high_water": -5}', "The high-water mark is between"),
        (b'{"name": "N", "high_water": NaN}', "The high-water mark is"),
        (b'{"name": "N", "temperature": 1e999}', "The temperature is between"),
        (b'{"name": "N", "keywords": {"a": 1}}', "Keywords are"),
        (b'{"name": "' + b"n" * 61 + b'"}', "The name has at most 60"),
        (b" " * (1024 * 1024 + 1), "This file is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_with_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(PresetError) as refused:
        from_file(content)
    assert str(refused.value).startswith(sentence)


def test_a_file_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    preset, unknown = from_file(
        b'\xef\xbb\xbf{"parley_preset": 2, "name": " N\\u0000 ", "last_turns": 3, "mood": 1}'
    )
    assert (preset.name, preset.last_turns, unknown) == ("N\N{REPLACEMENT CHARACTER}", 3, ["mood"])
