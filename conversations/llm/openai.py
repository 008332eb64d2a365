"""The Chat Completions dialect: OpenAI, DeepSeek, Gemini's compatible endpoint, relays and local servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import httpx

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
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    Usage,
)
from conversations.llm.unicode import TextJoiner

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.FILTERED,
}
_decode = json.JSONDecoder().decode  # for every delta: `json.loads` would ask each time what it was given
_OPENAI_HOST = "api.openai.com"
_OPENAI_HOSTS = (_OPENAI_HOST, ".openai.azure.com", ".services.ai.azure.com")


def build_body(request: CompletionRequest, *, base_url: str) -> dict[str, Any]:
    """The JSON of one call.

    OpenAI's own hosts refuse `max_tokens` for o* and gpt-5 and later, and take `max_completion_tokens` for
    all; elsewhere `max_tokens` is what everyone knows.
    """
    host = _host_of(base_url)
    own_host = host.endswith(_OPENAI_HOSTS)
    body: dict[str, Any] = {
        "model": request.model_id,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_completion_tokens" if own_host else "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature is not None and known_models.lookup(request.model_id).supports_temperature:
        body["temperature"] = request.temperature
    if request.cache_key and host == _OPENAI_HOST:
        # Others refuse what they do not know, or send it on to who does.
        body["prompt_cache_key"] = request.cache_key
    return body


@lru_cache(maxsize=100)
def _host_of(base_url: str) -> str:
    return httpx.URL(base_url).host


class OpenAIParser:
    """Chunks of a chat completion, to deltas. Only the first choice is read."""

    def __init__(self) -> None:
        self.done = False
        self.malformed = 0
        self._understood = 0
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._text = TextJoiner()
        self._reasoning = TextJoiner()

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def feed(self, event: ServerSentEvent) -> list[StreamEvent]:
        if event.data == "[DONE]" or event.data.strip() == "[DONE]":
            self.done = True
            return []
        try:
            payload = _decode(event.data)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            self.malformed += 1
            return []
        if payload.get("error") or event.event == "error":
            if self.finished:  # the text is complete: nothing that comes now can harm it
                return []
            raise error_from_payload(payload)
        return self.feed_document(payload)

    def feed_document(self, payload: dict[str, Any]) -> list[StreamEvent]:
        self._understood += 1
        if isinstance(payload.get("usage"), dict):  # some relays send it in every chunk: the last one counts
            self._usage = usage_of(payload["usage"]) or self._usage
        choice = _first_choice(payload)
        if choice is None:
            return []
        events: list[StreamEvent] = []
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, dict):
            # `reasoning_content` is DeepSeek's and llama.cpp's word, `reasoning` OpenRouter's and vLLM's.
            thinking = delta.get("reasoning_content") or delta.get("reasoning")
            if thinking and (thought := self._reasoning.feed(_text_of(thinking))):
                events.append(ReasoningDelta(text=thought))
            text = _text_of(delta.get("content")) or _text_of(delta.get("refusal"))
            if text and (text := self._text.feed(text)):
                events.append(TextDelta(text=text))
        reason = choice.get("finish_reason")
        if reason == "insufficient_system_resource":  # DeepSeek's word for an answer it broke off
            raise StreamInterrupted("the provider ran out of resources")
        if reason and isinstance(reason, str):
            self._reason = _REASONS.get(reason, FinishReason.OTHER)
        return events

    def end(self) -> list[StreamEvent]:
        """The last events. A missing [DONE] is forgiven when the model has said why it stopped."""
        if self._reason is None:
            if self.malformed and not self._understood:
                raise InvalidResponse("nothing in the answer was a chat completion")
            raise StreamInterrupted("the stream ended before the reply did")
        events: list[StreamEvent] = []
        if thought := self._reasoning.end():
            events.append(ReasoningDelta(text=thought))
        if text := self._text.end():
            events.append(TextDelta(text=text))
        return [*events, Finish(reason=self._reason, usage=self._usage)]


def usage_of(raw: Mapping[str, Any]) -> Usage | None:
    """Tokens as they are billed; None when the provider gave no prompt tokens.

    Gemini's endpoint and xAI leave reasoning out of `completion_tokens` but have it in `total_tokens`, so the
    output is what the total leaves after the prompt, if that is more.
    """
    if not isinstance(raw.get("prompt_tokens"), int):
        return None
    prompt = _count(raw, "prompt_tokens")
    completion = _count(raw, "completion_tokens")
    details_in, details_out = _part(raw, "prompt_tokens_details"), _part(raw, "completion_tokens_details")
    output = max(completion, _count(raw, "total_tokens") - prompt)
    cached = max(_count(details_in, "cached_tokens"), _count(raw, "prompt_cache_hit_tokens"))
    written = max(_count(details_in, "cache_write_tokens"), _count(details_in, "cache_creation_tokens"))
    reasoning = max(_count(details_out, "reasoning_tokens"), output - completion)
    cached = min(cached, prompt)
    return Usage(
        input_tokens=prompt,
        cached_tokens=cached,
        cache_write_tokens=min(written, prompt - cached),
        output_tokens=output,
        reasoning_tokens=min(reasoning, output),
    )


def _part(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _count(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    return max(value, 0) if isinstance(value, int) else 0


def _first_choice(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = payload.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                return choice
    return None


def _text_of(content: object) -> str:
    """Content is a string, or with some relays a list of parts of which the text ones count."""
    if not content:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


class OpenAIProvider(HttpProvider):
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}

    def _chat_path(self) -> str:
        return "/chat/completions"

    def _models_path(self) -> str:
        return "/models"

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        return build_body(request, base_url=self._base_url)

    def _new_parser(self) -> OpenAIParser:
        return OpenAIParser()

    def _model_of(self, row: Mapping[str, Any]) -> ModelInfo:
        """OpenRouter calls the window `context_length`, vLLM `max_model_len`, llama.cpp `meta.n_ctx`."""
        sizes = [row.get("context_length"), row.get("context_window"), row.get("max_model_len")]
        sizes.append(_part(row, "meta").get("n_ctx"))
        window = next((size for size in sizes if isinstance(size, int) and size > 0), None)
        model_id = str(row["id"]).removeprefix("models/")  # Gemini lists resource names
        return ModelInfo(model_id=model_id, context_window=window)
