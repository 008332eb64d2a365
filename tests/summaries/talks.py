"""Conversations that are long enough to be summarised, and models that summarise them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

from conversations.catalog import Catalog, ModelEntry
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.tokens import kept_tokens
from conversations.llm.types import CompletionRequest
from conversations.models import Conversation, ConversationSummary, Message, User
from conversations.providers import replaced
from tests.prices.cheap import a_price

ENTRY = ModelEntry(
    id="scripted/small",
    provider="scripted",
    provider_label="Scripted",
    model_id="small",
    label="small",
    dialect="openai",
    context_window=32_000,
    max_output=4_096,
    price=a_price("scripted/small"),
)
GOOD = "Alice plans the move of the harbour office to Bergen and asked about its fees and its staff."


@contextmanager
def summariser(*scripts: Any, entry: ModelEntry = ENTRY, **changes: Any) -> Iterator[ScriptedProvider]:
    """The model that writes summaries plays these scripts, one for each call, the last again and again."""
    provider = ScriptedProvider(*scripts)
    entry = replace(entry, **changes)
    with replaced(Catalog(entries=(entry,)), {entry.provider: provider}):
        yield provider


def echoing(request: CompletionRequest) -> Sequence[str]:
    """A summary in English that keeps the numbers and names it can."""
    return [GOOD]


def talk(user: User, *, turns: int = 4, about: str = "the harbour office", **fields: Any) -> Conversation:
    fields.setdefault("model", ENTRY.id)
    conversation = Conversation.objects.create(user=user, title="Harbour", **fields)
    for number in range(1, turns + 1):
        say(
            conversation,
            f"What do you think about {about}, part {number}? I plan to move it, and what are the fees of it?",
            f"It is a good plan for {about}, and the fees of part {number} are what they were in the year before.",
        )
    return conversation


def say(
    conversation: Conversation, question: str, answer: str | None, *, under: UUID | None = None
) -> Message:
    """A turn below the leaf, or below another message; the leaf follows it."""
    parent = under or Conversation.objects.values_list("leaf_id", flat=True).get(pk=conversation.pk)
    last = _message(conversation, "user", question, parent)
    if answer is not None:
        last = _message(conversation, "assistant", answer, last.pk)
    Conversation.objects.filter(pk=conversation.pk).update(leaf=last)
    conversation.refresh_from_db()
    return last


def _message(conversation: Conversation, role: str, text: str, parent: UUID | None) -> Message:
    made = Message.objects.create(
        conversation=conversation, role=role, content=text, parent_id=parent, token_count=kept_tokens(text)
    )
    made.refresh_from_db()
    return made


def versions(conversation: Conversation) -> list[tuple[int, str, str]]:
    found = ConversationSummary.objects.filter(conversation=conversation).order_by("version")
    return [(row.version, row.state, row.reason) for row in found]
