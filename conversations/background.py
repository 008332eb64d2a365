"""Calls of a model that nobody waits for: through the provider's gate, paid from their owner's day, bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connection, transaction

from conversations import journal
from conversations.budgets import Ask, Held, attach, record_free, reserve, settle, void
from conversations.catalog import ModelEntry
from conversations.context.policy import MESSAGE_OVERHEAD
from conversations.gate import Gate, Passage
from conversations.llm.errors import LLMError, ProviderBusy, TimedOut, has_refused
from conversations.llm.tokens import count_tokens
from conversations.llm.types import (
    CompletionRequest,
    Finish,
    FinishReason,
    PromptCounted,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from conversations.models import Purpose
from conversations.models.fields import new_id
from conversations.providers import open_provider

#: Characters for each token asked for: what is longer is far more than was asked for, and is not read to its end.
LONGEST = 32


@dataclass(kw_only=True)
class Completion:
    """What a model has said, as far as it came."""

    text: str = ""
    reasoning: str = ""
    reason: FinishReason | None = None  #: None: it did not come to its end
    prompt: Usage | None = None  #: what the provider counted before it answered
    usage: Usage | None = None  #: as the provider reports it
    was_sent: bool = False


def complete(
    entry: ModelEntry,
    request: CompletionRequest,
    *,
    purpose: Purpose,
    user_id: int,
    conversation_id: UUID | None,
    seconds: float,
) -> Completion:
    """Ask a model in `seconds` at most. Its tokens are charged to this person, whatever becomes of the answer.

    Raises BudgetRefused and NoPrice before anything is sent, LLMError when the model could not answer.
    """
    ask = Ask(
        user_id=user_id,
        conversation_id=conversation_id,
        attempt_id=new_id(),
        purpose=purpose,
        model=entry.id,
        price=entry.known_price(),
        input_tokens=prompt_tokens(request),
        max_tokens=request.max_tokens,
        floor=request.max_tokens,  # half a summary is worth nothing
    )
    with transaction.atomic(), connection.cursor() as cursor:
        held = reserve(cursor, ask)
        if held is not None:
            attach(cursor, held.hold_id, ask.attempt_id)
    completion = Completion()
    failure: LLMError | None = None
    try:
        _call(entry, request, completion, seconds)
    except LLMError as error:
        failure = error
        raise
    finally:
        _pay(ask, held, completion, failure)
    return completion


def prompt_tokens(request: CompletionRequest) -> int:
    """Tokens of the whole prompt, by our own count."""
    return sum(
        count_tokens(message.content, request.model_id) + MESSAGE_OVERHEAD for message in request.messages
    )


@async_to_sync
async def _call(
    entry: ModelEntry, request: CompletionRequest, completion: Completion, seconds: float
) -> None:
    try:
        async with (
            asyncio.timeout(seconds),
            _passing(entry, seconds) as passage,
            open_provider(entry) as model,
            aclosing(model.stream(request)) as events,  # type: ignore[type-var]
        ):
            completion.was_sent = True
            async for event in events:
                passage.answered()
                match event:
                    case TextDelta(text=text):
                        completion.text += text
                    case ReasoningDelta(text=text):
                        completion.reasoning += text
                    case PromptCounted():
                        completion.prompt = event.usage
                    case Finish():
                        completion.reason, completion.usage = event.reason, event.usage
                if len(completion.text) + len(completion.reasoning) > LONGEST * request.max_tokens:
                    break  # its provider does not bound it
    except TimeoutError:
        raise (TimedOut if completion.was_sent else ProviderBusy)(f"no end in {seconds:g} s") from None


@asynccontextmanager
async def _passing(entry: ModelEntry, seconds: float) -> AsyncIterator[Passage]:
    """A place at the provider, among those of all processes."""
    client = journal.connect(settings.REDIS_URL)
    gate = Gate(client, f"background-{uuid4().hex}")
    try:
        async with gate.pass_(entry, wait=seconds) as passage:
            yield passage
    finally:
        await gate.aclose()
        await client.aclose()


def _pay(ask: Ask, held: Held | None, completion: Completion, failure: LLMError | None) -> None:
    """Resolve the hold: charged what the provider reports, else by our own count whatever it may have billed."""
    has_output = bool(completion.text or completion.reasoning)
    usage = completion.usage
    billed = usage or replace(
        completion.prompt or Usage(input_tokens=ask.input_tokens),
        output_tokens=count_tokens(completion.text + completion.reasoning, ask.model),
    )
    with transaction.atomic(), connection.cursor() as cursor:
        if has_refused(failure, has_output=has_output) or not completion.was_sent:
            if held is not None:
                void(cursor, hold_id=held.hold_id)
        elif held is not None:
            settle(cursor, hold_id=held.hold_id, usage=billed, usage_reported=usage is not None)
        else:
            record_free(cursor, ask, usage=billed, usage_reported=usage is not None)
