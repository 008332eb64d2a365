"""What the tests of memory share: a conversation, and a model that says which facts it has found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

from conversations import memory
from conversations.catalog import Catalog, ModelEntry
from conversations.llm.scripted import Script, ScriptedProvider
from conversations.llm.types import CompletionRequest, Finish, FinishReason, Usage
from conversations.memory import Fact
from conversations.models import Conversation, MemoryItem, Message, User
from conversations.providers import replaced
from tests.pages import base
from tests.test_titles import ENTRY, model

Kind, Scope, State = MemoryItem.Kind, MemoryItem.Scope, MemoryItem.State


def fact(
    text: str, kind: MemoryItem.Kind = Kind.PREFERENCE, scope: MemoryItem.Scope = Scope.CONVERSATION
) -> Fact:
    return Fact(kind=kind, text=text, scope=scope)


def say(conversation: Conversation, text: str, *, answer: str = "", under: Message | None = None) -> Message:
    """The message that says it, or its answer. What others have written of the conversation meanwhile stays."""
    conversation.refresh_from_db()
    return base.say(conversation, text, answer=answer, under=under)


def state(conversation: Conversation, text: str) -> list[MemoryItem]:
    """Say it in a conversation, as a send does."""
    message = say(conversation, text)
    return memory.note_stated(conversation.user, message)


def told(conversation: Conversation, *, leaf: Message | None = None, user: User | None = None) -> list[str]:
    conversation.refresh_from_db()
    owner = User.objects.get(pk=user.pk if user else conversation.user_id)
    items = MemoryItem.objects.told_in(owner, conversation.pk, leaf.pk if leaf else conversation.leaf_id)
    return [item.text for item in items]


def proposed(conversation: Conversation) -> list[MemoryItem]:
    return list(MemoryItem.objects.filter(conversation=conversation, state=State.PROPOSED).order_by("id"))


def an_entry(**fields: object) -> ModelEntry:
    """The background model, at a provider of its own: the gate lets through so many calls of one in a minute."""
    return replace(ENTRY, **{"provider": f"scripted-{uuid4().hex}", **fields})  # type: ignore[arg-type]


@contextmanager
def finds(*facts: dict[str, object], answer: str | None = None) -> Iterator[ScriptedProvider]:
    """The background model finds these facts."""
    text = json.dumps({"facts": facts}) if answer is None else answer
    usage = Usage(input_tokens=100, output_tokens=30)
    with model(text, Finish(reason=FinishReason.STOP, usage=usage), entry=an_entry()) as provider:
        yield provider


@contextmanager
def answers(script: Callable[[CompletionRequest], Script]) -> Iterator[ScriptedProvider]:
    """The background model answers each request by this script."""
    entry, provider = an_entry(), ScriptedProvider(script)
    with replaced(Catalog(entries=(entry,)), {entry.provider: provider}):
        yield provider


def found(
    text: str, kind: str = "preference", message: int = 1, replaces: int | None = None
) -> dict[str, object]:
    return {"kind": kind, "text": text, "message": message, "replaces": replaces}
