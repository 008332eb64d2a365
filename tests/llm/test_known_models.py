from __future__ import annotations

import pytest

from conversations.llm.known_models import UNKNOWN_WINDOW, looks_like_chat, lookup, min_cacheable_prefix
from conversations.llm.registry import DIALECTS, KNOWN_PROVIDERS, build_provider


@pytest.mark.parametrize(
    ("model_id", "window"),
    [
        ("gpt-4", 8_192),
        ("gpt-4o-mini-2024-07-18", 128_000),
        ("gpt-4.1-nano", 1_047_576),
        ("gpt-5-mini", 400_000),
        ("gpt-5.6-luna", 400_000),
        ("gpt-6.1-sol", 1_050_000),
        ("openai/gpt-4o", 128_000),
        ("o4-mini", 200_000),
        ("claude-3-5-haiku-latest", 200_000),
        ("anthropic/claude-opus-4.6", 1_000_000),
        ("claude-sonnet-4-20250514", 200_000),
        ("claude-haiku-5-5", 1_000_000),
        ("models/gemini-2.5-flash", 1_048_576),
        ("deepseek-v4-flash", 1_000_000),
        ("SmolLM2-135M-Instruct", 8_192),
        ("somebody/some-model", UNKNOWN_WINDOW),
    ],
)
def test_a_model_has_the_window_of_its_family(model_id: str, window: int) -> None:
    assert lookup(model_id).context_window == window


@pytest.mark.parametrize(
    ("model_id", "tokens"),
    [
        ("gpt-4.1-2025-04-14", 1_024),
        ("gpt-6.1-terra", 1_024),
        ("o4-mini", 1_024),
        ("gpt-4-turbo", None),
        ("gpt-3.5-turbo", None),
        ("claude-sonnet-4-5-20250929", 1_024),
        ("anthropic/claude-sonnet-4.5", 1_024),
        ("claude-haiku-4-5", 4_096),
        ("claude-opus-4-6", 4_096),
        ("claude-opus-4-7", 2_048),
        ("claude-opus-4-8", 1_024),
        ("claude-opus-5-5", 512),
        ("claude-3-5-haiku-latest", 2_048),
        ("models/gemini-2.5-flash", 2_048),
        ("gemini-3.8-flash", 4_096),
        ("deepseek-v4-flash", 64),
        ("somebody/some-model", None),
    ],
)
def test_a_cache_wants_a_prefix_of_a_length(model_id: str, tokens: int | None) -> None:
    assert min_cacheable_prefix(model_id) == tokens


def test_what_is_not_known_says_so() -> None:
    assert not lookup("some-model").is_known
    assert lookup("gpt-4o").is_known


def test_only_chat_models_are_offered() -> None:
    offered = ["gpt-4o", "gpt-6.1-sol", "claude-sonnet-5-5", "models/gemini-3.8-flash", "deepseek-v4-pro"]
    others = [
        "text-embedding-3-small",
        "whisper-1",
        "gpt-image-1",
        "tts-1-hd",
        "gpt-realtime",
        "models/veo-3",
    ]
    assert [name for name in offered + others if looks_like_chat(name)] == offered


@pytest.mark.parametrize("slug", KNOWN_PROVIDERS)
def test_a_known_provider_is_complete(slug: str) -> None:
    known = KNOWN_PROVIDERS[slug]
    assert known.dialect in DIALECTS
    assert known.env_prefix == slug.upper()
    for model_id in known.default_models:
        assert lookup(model_id).is_known and looks_like_chat(model_id)


@pytest.mark.parametrize(
    ("dialect", "base_url"),
    [
        ("cobol", "https://example.com"),
        ("openai", "example.com/v1"),
        ("openai", "ftp://example.com"),
        ("openai", "http://"),
        ("openai", "https://example.com/v1?key=1"),
        ("anthropic", "https://exa mple.com:port"),
    ],
)
def test_a_wrong_configuration_is_told_in_a_sentence(dialect: str, base_url: str) -> None:
    with pytest.raises(ValueError, match=r"^The .*\.$"):
        build_provider(dialect, name="x", base_url=base_url, api_key="")
