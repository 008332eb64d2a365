"""A provider that plays a script: for tests and demonstrations, a real implementation without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from conversations.llm.errors import LLMError, StreamInterrupted
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


@dataclass(frozen=True, kw_only=True)
class Pause:
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The connection is lost here."""


@dataclass(frozen=True, kw_only=True)
class Endless:
    """The same text for ever, until the stream is closed."""

    text: str = "and "
    pace: float = 0.01  #: seconds between two deltas


Step = (
    str | PromptCounted | TextDelta | ReasoningDelta | Finish | Pause | Cut | Endless | LLMError
)  #: a string is a TextDelta
Script = Sequence[Step]


class ScriptedProvider:
    """Plays one script per call, the last one again and again; a function makes its script from the request.

    A script that does not say how it ends finishes with STOP and a usage by the count of words and deltas.
    """

    def __init__(
        self,
        *scripts: Script | Callable[[CompletionRequest], Script],
        name: str = "scripted",
        models: Iterable[str] = ("scripted",),
    ) -> None:
        self.name = name
        self.requests: list[CompletionRequest] = []  #: what it was asked, in order
        self.open_streams = 0
        self.closed_early = 0  #: streams that were closed or cancelled before their end
        self._scripts = scripts or (("Hello", " there."),)
        self._models = tuple(models)

    async def stream(self, request: CompletionRequest, *, pause: object = None) -> AsyncIterator[StreamEvent]:
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        self.open_streams += 1
        ended = False
        try:
            async for event in _play(script(request) if callable(script) else script, request):
                ended = isinstance(event, Finish)
                yield event
        except LLMError:
            ended = True
            raise
        finally:
            self.open_streams -= 1
            self.closed_early += not ended

    async def list_models(self) -> tuple[ModelInfo, ...]:
        return tuple(ModelInfo(model_id=model_id) for model_id in self._models)

    async def aclose(self) -> None:
        pass


async def _play(script: Script, request: CompletionRequest) -> AsyncIterator[StreamEvent]:
    deltas = 0
    for step in script:
        match step:
            case str():
                deltas += 1
                yield TextDelta(text=step)
            case TextDelta() | ReasoningDelta():
                deltas += 1
                yield step
            case PromptCounted():
                yield step
            case Pause(seconds=seconds):
                await asyncio.sleep(seconds)
            case Endless(text=text, pace=pace):
                while True:
                    yield TextDelta(text=text)
                    await asyncio.sleep(pace)
            case Finish():
                yield step
                return
            case Cut():
                raise StreamInterrupted("the script cuts here")
            case LLMError():
                raise step
    words = sum(len(message.content.split()) for message in request.messages)
    yield Finish(reason=FinishReason.STOP, usage=Usage(input_tokens=words, output_tokens=deltas))
