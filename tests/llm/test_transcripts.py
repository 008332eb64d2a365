"""Recorded streams of each dialect, replayed whole, byte by byte and at random splits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.llm.anthropic import AnthropicParser
from conversations.llm.client import StreamParser
from conversations.llm.errors import (
    InvalidResponse,
    LLMError,
    Overloaded,
    ProviderFailed,
    RateLimited,
    StreamInterrupted,
)
from conversations.llm.openai import OpenAIParser
from conversations.llm.sse import SSEDecoder
from conversations.llm.types import Finish, FinishReason, PromptCounted, ReasoningDelta, TextDelta, Usage

FOLDER = Path(__file__).parent.parent / "transcripts"


@dataclass(kw_only=True)
class Replay:
    """What came of a transcript."""

    text: str = ""
    reasoning: str = ""
    reason: FinishReason | None = None
    usage: Usage | None = None
    error: type[LLMError] | None = None
    malformed: int = 0


def new_parser(name: str) -> StreamParser:
    return AnthropicParser() if name.startswith("anthropic") else OpenAIParser()


def replay(name: str, chunks: Iterable[bytes]) -> Replay:
    decoder, parser, result = SSEDecoder(), new_parser(name), Replay()

    def take(events: Iterable[object]) -> None:
        for event in events:
            match event:
                case TextDelta(text=text):
                    result.text += text
                case ReasoningDelta(text=text):
                    result.reasoning += text
                case Finish(reason=reason, usage=usage):
                    assert result.reason is None, "exactly one Finish"
                    result.reason, result.usage = reason, usage

    try:
        for chunk in chunks:
            for event in decoder.feed(chunk):
                take(parser.feed(event))
        for event in decoder.end():
            take(parser.feed(event))
        take(parser.end())
    except LLMError as error:
        result.error = type(error)
    result.malformed = parser.malformed
    return result


STOP, LENGTH, FILTERED, OTHER = (
    FinishReason.STOP,
    FinishReason.LENGTH,
    FinishReason.FILTERED,
    FinishReason.OTHER,
)

EXPECTED = {
    "openai_plain": Replay(
        text="Grüße aus 東京 🗼\n",
        reason=STOP,
        usage=Usage(input_tokens=1200, cached_tokens=1024, output_tokens=9),
    ),
    "openai_reasoning_model": Replay(
        text="42", reason=LENGTH, usage=Usage(input_tokens=31, output_tokens=513, reasoning_tokens=512)
    ),
    "openai_refusal": Replay(text="I cannot help with that.", reason=FILTERED),
    "azure_filter_chunk": Replay(text="Hello", reason=STOP),
    "deepseek_reasoner": Replay(
        text="Four.",
        reasoning="Two and two make four.",
        reason=STOP,
        usage=Usage(input_tokens=100, cached_tokens=64, output_tokens=20, reasoning_tokens=15),
    ),
    # 61 tokens of thinking are in the total alone.
    "gemini_compatible": Replay(
        text="Paris is the capital.",
        reason=STOP,
        usage=Usage(input_tokens=8, output_tokens=66, reasoning_tokens=61),
    ),
    "openrouter_relay": Replay(
        text="Yes.",
        reasoning="Let me see.",
        reason=STOP,
        usage=Usage(
            input_tokens=10, cached_tokens=4, cache_write_tokens=2, output_tokens=6, reasoning_tokens=4
        ),
    ),
    "relay_split_emoji": Replay(text="ok 😀 and \ufffd half \ufffd", reason=STOP),
    "relay_malformed_lines": Replay(text="before after", reason=STOP, malformed=4),
    "relay_no_done": Replay(text="No end mark", reason=STOP, usage=Usage(input_tokens=3, output_tokens=3)),
    "relay_parts": Replay(text="in parts", reason=OTHER),
    "relay_crlf_bom": Replay(text="crlf é two lines", reason=STOP),
    "relay_cr_only": Replay(text="old mac", reason=STOP),
    "openai_cut": Replay(text="Only the beg", error=StreamInterrupted, malformed=1),
    "openai_error_midway": Replay(text="So far", error=ProviderFailed),
    "openrouter_error_midway": Replay(text="So far", error=RateLimited),
    "deepseek_out_of_resources": Replay(text="So far", error=StreamInterrupted),
    "anthropic_plain": Replay(
        text="Grüße aus 東京 🗼",
        reason=STOP,
        usage=Usage(input_tokens=2360, cached_tokens=2048, cache_write_tokens=300, output_tokens=15),
    ),
    "anthropic_thinking": Replay(
        text="Four.",
        reasoning="Two and two make four.",
        reason=LENGTH,
        usage=Usage(input_tokens=41, output_tokens=60, reasoning_tokens=52),
    ),
    "anthropic_refusal": Replay(reason=FILTERED, usage=Usage(input_tokens=9, output_tokens=4)),
    "anthropic_no_stop": Replay(text="Complete", reason=STOP, usage=Usage(input_tokens=9, output_tokens=4)),
    "anthropic_cut": Replay(text="Only the beg", error=StreamInterrupted, malformed=1),
    "anthropic_overloaded_midway": Replay(text="So far", error=Overloaded),
}


def stream_of(name: str) -> bytes:
    return (FOLDER / f"{name}.sse").read_bytes()


def test_every_transcript_has_its_expectation() -> None:
    assert {path.stem for path in FOLDER.glob("*.sse")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_transcript_gives_its_reply(name: str) -> None:
    assert replay(name, [stream_of(name)]) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_transcript_gives_its_reply_byte_by_byte(name: str) -> None:
    assert replay(name, (bytes([byte]) for byte in stream_of(name))) == EXPECTED[name]


@given(name=st.sampled_from(sorted(EXPECTED)), cuts=st.sets(st.integers(0, 4000), max_size=40))
def test_a_transcript_gives_its_reply_however_it_is_split(name: str, cuts: set[int]) -> None:
    stream = stream_of(name)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert replay(name, chunks) == EXPECTED[name]


@given(name=st.sampled_from(sorted(EXPECTED)), length=st.integers(0, 4000))
def test_a_stream_cut_anywhere_ends_or_is_interrupted(name: str, length: int) -> None:
    """Never another exception, never text that the whole stream does not begin with."""
    whole = EXPECTED[name]
    part = replay(name, [stream_of(name)[:length]])
    assert whole.text.startswith(part.text.rstrip("\ufffd"))
    if part.error is None:
        assert part.text == whole.text
    else:
        assert part.error in {whole.error, StreamInterrupted, InvalidResponse}


def test_anthropic_says_what_it_counts_of_the_prompt_before_it_answers() -> None:
    parser, decoder = AnthropicParser(), SSEDecoder()
    first = next(iter(decoder.feed(stream_of("anthropic_plain"))))
    said = Usage(input_tokens=2360, cached_tokens=2048, cache_write_tokens=300)
    assert parser.feed(first) == [PromptCounted(usage=said)]


@given(name=st.sampled_from(["openai", "anthropic"]), data=st.binary(max_size=300))
def test_nonsense_raises_nothing_but_llm_errors(name: str, data: bytes) -> None:
    assert replay(name, [b"data: " + data + b"\n\n"]).error is not None


KEYS = ["type", "choices", "delta", "content", "usage", "error", "message", "index", "finish_reason", "text"]
KEYS += ["code", "prompt_tokens", "stop_reason", "content_block", "details"]

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON: st.SearchStrategy[object] = st.deferred(
    lambda: SCALARS | st.lists(JSON, max_size=3) | st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4)
)


@given(name=st.sampled_from(["openai", "anthropic"]), payload=JSON)
def test_json_of_any_shape_raises_nothing_but_llm_errors(name: str, payload: object) -> None:
    replay(name, [f"data: {json.dumps(payload)}\n\n".encode()])
