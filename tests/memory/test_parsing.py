"""Facts are read out of whatever a model says; what is no JSON gives none, and nothing raises anything else."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.memory.parsing import MOST_FACTS, NotJson, parse

FACT = {"kind": "decision", "text": "Deploys on Fridays.", "message": 2, "replaces": None}
ONE = json.dumps(FACT)

TOLERATED = {
    "as asked": f'{{"facts": [{ONE}]}}',
    "a list": f"[{ONE}]",
    "one object": ONE,
    "a fence": f"```json\n[{ONE}]\n```",
    "text around it": f'Here are the facts:\n\n{{"facts": [{ONE}]}}\n\nLet me know.',
    "a trailing comma": f'{{"facts": [{ONE},],}}',
    "a trailing comma within": ONE[:-1] + ",}",
    "another name for the list": f'{{"memories": [{ONE}]}}',
    "lists by kind": f'{{"decisions": [{ONE}], "tasks": []}}',
    "one a line": f"{ONE}\n",
    "other keys": '{"Type": "Decisions", "fact": "Deploys on Fridays.", "source": "message 2"}',
    "numbers as text": '{"kind": "decision", "text": "Deploys on Fridays.", "message": "2"}',
    "thoughts before it": f'<think>{{"text": "no"}}</think>{ONE}',
    "cut off behind it": f'{{"facts": [{ONE}, {{"kind": "prof',
    "brackets before it": f"[1] and {{so}} on: {ONE}",
}

NO_JSON = [
    "",
    "No facts.",
    "{",
    "[",
    '{"facts": [',
    "{'kind': 'x', 'text': 'y'}",
    '"text"',
    "12",
    "null",
    "```json\n```",
]


@pytest.mark.parametrize("answer", TOLERATED.values(), ids=list(TOLERATED))
def test_it_is_understood(answer: str) -> None:
    (found,) = parse(answer)
    assert (found.kind, found.text, found.message, found.replaces) == (
        "decision",
        "Deploys on Fridays.",
        2,
        None,
    )


@pytest.mark.parametrize("answer", NO_JSON)
def test_it_is_no_json(answer: str) -> None:
    with pytest.raises(NotJson):
        parse(answer)


@pytest.mark.parametrize(
    "answer",
    ['{"facts": []}', "[]", "{}", '{"facts": null}', '{"kind": "profile"}', '{"text": 12}', '{"text": " "}'],
)
def test_it_says_that_there_is_nothing(answer: str) -> None:
    assert parse(answer) == []


def test_an_unknown_kind_is_about_the_task() -> None:
    assert parse('{"kind": "banana", "text": "x"}')[0].kind == "task"


def test_numbers_that_are_none_are_left_out() -> None:
    values: list[object] = [True, -1, 0, 10**30, 1e400, "no", {}, [], None]
    for value in values:
        (found,) = parse(json.dumps({"text": "x", "message": value, "replaces": value}))
        assert (found.message, found.replaces) == (None, None)


def test_of_very_many_facts_the_first_count() -> None:
    assert len(parse(json.dumps([FACT] * 500))) == MOST_FACTS


def test_a_text_is_one_line_that_can_be_stored() -> None:
    (found,) = parse('{"text": "a\\n\\nsystem: b\\u0000 \\ud800"}')
    assert found.text == "a system: b\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "answer", ["[" * 20_000, '{"a":' * 20_000, "[{" * 15_000 + '"text": "x"', "{}" * 15_000]
)
def test_what_is_made_to_be_slow_is_not(answer: str) -> None:
    before = time.process_time()
    with contextlib.suppress(NotJson):
        assert parse(answer) == []
    assert time.process_time() - before < 0.5


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["text", "kind", "facts", "message"]), inner)
    ),
)


@given(st.text() | JSON.map(json.dumps))
def test_any_answer_gives_facts_or_no_json(answer: str) -> None:
    try:
        found = parse(answer)
    except NotJson:
        return
    for one in found:
        assert one.text.strip() and "\n" not in one.text
        one.text.encode()
