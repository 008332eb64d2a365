"""Token counts are right, quick, and never touch the network."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.llm import tokens
from conversations.llm.tokens import count_tokens


@pytest.mark.parametrize(
    ("text", "model_id", "expected"),
    [
        ("", "gpt-4o", 0),
        ("hello world", "gpt-4o", 2),
        ("hello world", "gpt-4", 2),
        ("<|endoftext|>", "gpt-4o", 7),
        ("お誕生日おめでとう", "gpt-4o", 8),
        ("お誕生日おめでとう", "gpt-3.5-turbo", 9),
        ("lone \ud83d surrogate", "gpt-4o", 4),
    ],
)
def test_openai_counts_are_exact(text: str, model_id: str, expected: int) -> None:
    assert count_tokens(text, model_id) == expected


def test_other_models_are_estimated_on_the_high_side() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    exact = count_tokens(text, "gpt-4o")
    assert count_tokens(text, "gpt-6.1-sol") == exact < count_tokens(text, "claude-sonnet-5-5")
    assert exact < count_tokens(text, "gemini-3.8-flash") < count_tokens(text, "some-model")
    assert count_tokens(text, "claude-haiku-4-5") < count_tokens(text, "claude-haiku-5-5")


@given(st.text(max_size=200))
def test_slices_lose_no_text(text: str) -> None:
    long = text * (3 * tokens._SLICE // (len(text) or 1))
    assert "".join(tokens._slices(long)) == long


def test_slicing_hardly_changes_the_count() -> None:
    text = "Some words, 42 numbers and\nlines of text. " * 5_000
    whole = len(tokens._load("o200k_base").encode_ordinary(text))
    assert abs(count_tokens(text, "gpt-4o") - whole) <= len(text) // tokens._SLICE


def quickest(call: Callable[[], object], times: int) -> float:
    """Seconds of this process: what else the machine does is no concern of these."""
    durations = []
    for _ in range(times):
        start = time.process_time()
        call()
        durations.append(time.process_time() - start)
    return sorted(durations)[len(durations) // 4]


def test_a_kilobyte_takes_far_less_than_a_millisecond() -> None:
    text = ("What does it cost to keep a promise that nobody asked for? It depends. " * 15)[:1024]
    tokens.warm_up()
    assert quickest(lambda: count_tokens(text, "gpt-4o"), 40) < 0.001


@pytest.mark.parametrize(
    "unit", ["a", "\n", " ", "A", "!", "1", "漢", "\n ", "e\u0301", "aA", "\u200d", "\0", "😀"]
)
def test_a_million_of_one_character_does_not_take_seconds(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    tokens.warm_up()
    assert quickest(lambda: count_tokens(text, "gpt-4o"), 1) < 1.5


def test_threads_may_load_and_count_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_encodings", {})
    with ThreadPoolExecutor(8) as pool:
        counts = set(pool.map(lambda _: count_tokens("hello world " * 50, "gpt-4o"), range(32)))
    assert counts == {101}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network call")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(tokens, "_encodings", {})


@pytest.mark.usefixtures("no_network")
class TestRankFiles:
    def test_they_come_from_the_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        assert count_tokens("hello world", "gpt-4o") == 2

    def test_a_damaged_file_is_passed_over_and_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        damaged = tmp_path / tokens._RANK_FILES["o200k_base"][0]
        damaged.write_bytes(b"not ranks")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        assert count_tokens("hello world", "gpt-4o") == 2
        assert damaged.read_bytes() == b"not ranks"

    def test_missing_ones_are_an_error_and_not_a_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(tokens, "_WHEEL", "a-wheel-that-nobody-installed")
        with pytest.raises(tokens.RanksMissing, match=r"Install the pinned requirements again\."):
            count_tokens("hello", "gpt-4o")

    def test_their_names_are_what_tiktoken_looks_for(self) -> None:
        for name, (file_name, _) in tokens._RANK_FILES.items():
            url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
            assert file_name == hashlib.sha1(url.encode()).hexdigest()
