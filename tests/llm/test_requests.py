"""What is sent: each dialect's way to say the same request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conversations.llm import anthropic, openai
from conversations.llm.types import ChatMessage, CompletionRequest

OPENAI = "https://api.openai.com/v1"

REQUEST = CompletionRequest(
    model_id="gpt-4.1-mini",
    messages=(
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hi"),
        ChatMessage(role="assistant", content="Hello"),
        ChatMessage(role="user", content="Why?"),
    ),
    max_tokens=100,
    temperature=1.5,
)
CLAUDE = replace(REQUEST, model_id="claude-haiku-4-5")


def test_openai_gets_messages_a_limit_and_the_wish_for_usage() -> None:
    assert openai.build_body(REQUEST, base_url="http://127.0.0.1:8080/v1") == {
        "model": "gpt-4.1-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Why?"},
        ],
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.5,
    }


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        (OPENAI, "max_completion_tokens"),
        ("https://team.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://api.deepseek.com", "max_tokens"),
        ("https://openrouter.ai/api/v1", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_host_takes(base_url: str, name: str) -> None:
    body = openai.build_body(replace(REQUEST, model_id="o3"), base_url=base_url)
    assert body[name] == 100
    assert len({"max_tokens", "max_completion_tokens"} & set(body)) == 1


@pytest.mark.parametrize(
    "model_id", ["o3-mini", "gpt-5", "gpt-5.6-sol", "gpt-6.1-terra", "openai/gpt-5-mini"]
)
def test_temperature_is_left_out_for_models_that_refuse_it(model_id: str) -> None:
    assert "temperature" not in openai.build_body(replace(REQUEST, model_id=model_id), base_url=OPENAI)


def test_temperature_is_left_out_when_there_is_none() -> None:
    assert "temperature" not in openai.build_body(replace(REQUEST, temperature=None), base_url=OPENAI)
    assert "temperature" not in anthropic.build_body(replace(CLAUDE, temperature=None))


def test_anthropic_gets_the_system_prompt_apart_and_a_temperature_of_at_most_one() -> None:
    assert anthropic.build_body(CLAUDE) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Why?"},
        ],
        "stream": True,
        "temperature": 1.0,
    }


@pytest.mark.parametrize("model_id", ["claude-opus-4-7", "claude-sonnet-5-5", "claude-of-the-future"])
def test_newer_claudes_get_no_temperature(model_id: str) -> None:
    assert "temperature" not in anthropic.build_body(replace(CLAUDE, model_id=model_id))


def test_anthropic_goes_on_from_an_answer_without_trailing_space() -> None:
    messages = (ChatMessage(role="user", content="Hi"), ChatMessage(role="assistant", content="Hello, \n"))
    assert anthropic.build_body(replace(CLAUDE, messages=messages))["messages"][-1]["content"] == "Hello,"


def test_anthropic_marks_what_the_next_turn_repeats() -> None:
    body = anthropic.build_body(replace(CLAUDE, breakpoints=(0, len(CLAUDE.messages) - 1)))
    mark = {"cache_control": {"type": "ephemeral"}}
    assert body["system"] == [{"type": "text", "text": "Be brief.", **mark}]
    assert body["messages"][-1]["content"] == [{"type": "text", "text": "Why?", **mark}]
    assert body["messages"][:-1] == anthropic.build_body(CLAUDE)["messages"][:-1]


def test_anthropic_marks_the_question_of_an_answer_to_go_on_from() -> None:
    messages = (ChatMessage(role="user", content="Hi"), ChatMessage(role="assistant", content="Hello, "))
    asked, begun = anthropic.build_body(replace(CLAUDE, messages=messages, breakpoints=(0,)))["messages"]
    assert asked["content"][0]["cache_control"] == {"type": "ephemeral"} and begun["content"] == "Hello,"


def test_anthropic_takes_four_marks_and_the_last_ones_reach_furthest() -> None:
    turns = tuple(ChatMessage(role=("user", "assistant")[n % 2], content=f"{n}") for n in range(7))
    body = anthropic.build_body(replace(CLAUDE, messages=turns, breakpoints=tuple(range(7))))
    assert [isinstance(turn["content"], list) for turn in body["messages"]] == [False] * 3 + [True] * 4


def test_openai_alone_is_told_which_requests_begin_alike() -> None:
    request = replace(CLAUDE, cache_key="one-conversation", breakpoints=(0,))
    for address, expected in (
        ("https://api.openai.com/v1", "one-conversation"),
        ("https://mine.openai.azure.com/openai/v1", None),
        ("https://api.deepseek.com/v1", None),
        ("http://127.0.0.1:8080/v1", None),
    ):
        body = openai.build_body(request, base_url=address)
        assert body.get("prompt_cache_key") == expected
        assert all(isinstance(message["content"], str) for message in body["messages"])
    assert "prompt_cache_key" not in openai.build_body(CLAUDE, base_url="https://api.openai.com/v1")
    assert "prompt_cache_key" not in anthropic.build_body(request)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, None),
        ({"prompt_tokens": None, "completion_tokens": 4}, None),
        ({"prompt_tokens": 5, "completion_tokens": -4}, (5, 0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": None, "completion_tokens": 1}, (5, 0, 1)),
        (
            {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}, "completion_tokens": 1},
            (5, 5, 1),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 2}, (5, 0, 3)),
    ],
)
def test_usage_is_sane_whatever_the_provider_says(
    raw: dict[str, object], expected: tuple[int, int, int] | None
) -> None:
    usage = openai.usage_of(raw)
    assert (usage and (usage.input_tokens, usage.cached_tokens, usage.output_tokens)) == expected
