"""The values that cross the boundary to a model: request, stream events, usage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class ChatMessage:
    """One message as the model sees it. Content is text without NUL and without lone surrogates."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """One call of a model.

    At most one system message, first; a user message last, or an assistant's to go on from.
    """

    model_id: str  #: the provider's own name for the model
    messages: tuple[ChatMessage, ...]
    max_tokens: int  #: upper bound of the reply, reasoning included
    temperature: float | None = None  #: 0.0-2.0; left out when None, and for models known to refuse it
    #: Messages, by index, that end a beginning which later requests repeat: marked where one must ask (Anthropic).
    breakpoints: tuple[int, ...] = ()
    cache_key: str = (
        ""  #: the same for requests that begin alike, where a provider brings these together by it
    )


class FinishReason(StrEnum):
    STOP = "stop"  #: the model ended its answer
    LENGTH = "length"  #: `max_tokens` reached
    FILTERED = "filtered"  #: the provider withheld the rest
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one call, the same meaning for every provider."""

    input_tokens: int  #: whole prompt, cached tokens included
    cached_tokens: int = 0  #: part of input_tokens read from the provider's cache
    cache_write_tokens: int = 0  #: part of input_tokens written to the provider's cache
    output_tokens: int = 0  #: includes reasoning
    reasoning_tokens: int = 0  #: part of output_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCounted:
    """What the provider counts of the prompt, said before its answer: it is billed even if no Finish comes."""

    usage: Usage  #: without any output


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """The last event of a stream. A stream that ends without one has failed."""

    reason: FinishReason
    usage: Usage | None  #: None: the provider did not say


StreamEvent = PromptCounted | TextDelta | ReasoningDelta | Finish

#: Awaited between two reads of a stream: what comes meanwhile is read, and told, in one piece.
Pause = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model as its provider lists it."""

    model_id: str
    context_window: int | None = None  #: tokens, None when the provider does not say


class Provider(Protocol):
    """Where a model lives. Safe for any number of concurrent streams on one event loop."""

    name: str

    def stream(self, request: CompletionRequest, *, pause: Pause | None = None) -> AsyncIterator[StreamEvent]:
        """Yield deltas, then exactly one Finish, or raise an `LLMError`.

        Closing the iterator (`aclose`) or cancelling the task closes the connection, which stops the model.
        """
        ...

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """What the key may use. Raises `LLMError`; bounded by 5 s."""
        ...

    async def aclose(self) -> None: ...
