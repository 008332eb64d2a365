"""Anthropic's Messages dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conversations.llm import known_models
from conversations.llm.client import HttpProvider
from conversations.llm.errors import InvalidResponse, StreamInterrupted
from conversations.llm.refusals import error_from_payload
from conversations.llm.sse import ServerSentEvent
from conversations.llm.types import (
    CompletionRequest,
    Finish,
    FinishReason,
    ModelInfo,
    PromptCounted,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    Usage,
)
from conversations.llm.unicode import TextJoiner

API_VERSION = "2023-06-01"  # 2026-10-21 refuses `temperature` for every model, older ones included

#: Marks for the cache that one request may have.
MOST_MARKS = 4

_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.FILTERED,
}


def build_body(request: CompletionRequest) -> dict[str, Any]:
    """The JSON of one call. `max_tokens` is mandatory here, and the system prompt stands apart."""
    marked = set(sorted(request.breakpoints)[-MOST_MARKS:])
    messages = [
        (message.role, _content(message.content, is_marked=place in marked))
        for place, message in enumerate(request.messages)
    ]
    system = [content for role, content in messages if role == "system"]
    said = [{"role": role, "content": content} for role, content in messages if role != "system"]
    if request.messages and request.messages[-1].role == "assistant":
        # White space at the end of an answer to go on from is refused.
        said[-1]["content"] = request.messages[-1].content.rstrip()
    body: dict[str, Any] = {
        "model": request.model_id,
        "max_tokens": request.max_tokens,
        "messages": said,
        "stream": True,
    }
    if system:
        body["system"] = system[0]
    if request.temperature is not None and known_models.lookup(request.model_id).supports_temperature:
        # The page offers 0 to 2, as others take it; Anthropic's scale ends at 1 and more is refused.
        body["temperature"] = min(request.temperature, 1.0)
    return body


def _content(text: str, *, is_marked: bool) -> str | list[dict[str, Any]]:
    """A text, with a mark up to which the prompt is cached: the next turn reads what this one wrote."""
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}] if is_marked else text


class AnthropicParser:
    """Events of a message stream, to deltas. Events and blocks that are not known are skipped."""

    def __init__(self) -> None:
        self.done = False
        self.malformed = 0
        self._understood = 0
        self._reason: FinishReason | None = None
        self._counts: dict[str, int] = {}
        self._text = TextJoiner()
        self._reasoning = TextJoiner()

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def feed(self, event: ServerSentEvent) -> list[StreamEvent]:
        try:
            payload = json.loads(event.data)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            self.malformed += 1
            return []
        self._understood += 1
        match payload.get("type", event.event):
            case "content_block_delta":
                return self._read_delta(payload.get("delta"))
            case "content_block_start":  # may carry the first words
                return self._read_delta(payload.get("content_block"))
            case "message_start":
                message = payload.get("message")
                self._read_usage(message.get("usage") if isinstance(message, dict) else None)
                return self._prompt()
            case "message_delta":
                delta = payload.get("delta")
                self._read_reason(delta.get("stop_reason") if isinstance(delta, dict) else None)
                self._read_usage(payload.get("usage"))
            case "message_stop":
                self.done = True
            case "error" if not self.finished:
                raise error_from_payload(payload)
        return []

    def feed_document(self, payload: dict[str, Any]) -> list[StreamEvent]:
        blocks = payload.get("content")
        if not isinstance(blocks, list):
            raise InvalidResponse("a document that is not a message")
        self._understood += 1
        self._read_usage(payload.get("usage"))
        self._read_reason(payload.get("stop_reason"))
        return [event for block in blocks for event in self._read_delta(block)]

    def end(self) -> list[StreamEvent]:
        """The last events. A missing `message_stop` is forgiven when the stop reason came."""
        if self._reason is None:
            if self.malformed and not self._understood:
                raise InvalidResponse("nothing in the answer was a message event")
            raise StreamInterrupted("the stream ended before the reply did")
        events: list[StreamEvent] = []
        if thought := self._reasoning.end():
            events.append(ReasoningDelta(text=thought))
        if text := self._text.end():
            events.append(TextDelta(text=text))
        return [*events, Finish(reason=self._reason, usage=self._usage())]

    def _read_delta(self, delta: object) -> list[StreamEvent]:
        match delta:
            case {"type": "text_delta" | "text", "text": str(text)}:
                text = self._text.feed(text)
                return [TextDelta(text=text)] if text else []
            case {"type": "thinking_delta" | "thinking", "thinking": str(thought)}:
                thought = self._reasoning.feed(thought)
                return [ReasoningDelta(text=thought)] if thought else []
        return []

    def _read_reason(self, reason: object) -> None:
        if reason and isinstance(reason, str):
            self._reason = _REASONS.get(reason, FinishReason.OTHER)

    def _read_usage(self, usage: object) -> None:
        """Counts are cumulative: a later one replaces an earlier one."""
        if isinstance(usage, dict):
            self._counts |= {k: v for k, v in usage.items() if isinstance(v, int) and v >= 0}
            details = usage.get("output_tokens_details")
            if isinstance(details, dict) and isinstance(details.get("thinking_tokens"), int):
                self._counts["thinking_tokens"] = details["thinking_tokens"]

    def _prompt(self) -> list[StreamEvent]:
        usage = self._usage()
        return [PromptCounted(usage=replace(usage, output_tokens=0, reasoning_tokens=0))] if usage else []

    def _usage(self) -> Usage | None:
        """Anthropic's `input_tokens` is what was neither read from the cache nor written to it."""
        if "input_tokens" not in self._counts:
            return None
        counts = self._counts
        read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
        output = counts.get("output_tokens", 0)
        return Usage(
            input_tokens=counts["input_tokens"] + read + written,
            cached_tokens=read,
            cache_write_tokens=written,
            output_tokens=output,
            reasoning_tokens=min(counts.get("thinking_tokens", 0), output),
        )


class AnthropicProvider(HttpProvider):
    def _headers(self) -> dict[str, str]:
        return {"x-api-key": self._api_key, "anthropic-version": API_VERSION}

    def _path(self, path: str) -> str:
        """The base URL is written with and without its /v1."""
        return path.removeprefix("/v1") if self._base_url.endswith("/v1") else path

    def _chat_path(self) -> str:
        return self._path("/v1/messages")

    def _models_path(self) -> str:
        return self._path("/v1/models?limit=1000")

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        return build_body(request)

    def _new_parser(self) -> AnthropicParser:
        return AnthropicParser()

    def _model_of(self, row: Mapping[str, Any]) -> ModelInfo:
        window = row.get("max_input_tokens")
        return ModelInfo(
            model_id=str(row["id"]),
            context_window=window if isinstance(window, int) and window > 0 else None,
        )
