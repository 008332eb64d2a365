"""Conversations as trees, and what a path is by walking it message by message."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID

from conversations.context.view import Recalled
from conversations.database import make_pool
from conversations.llm.embeddings import embed
from conversations.models import Conversation, Message, MessagePlace
from conversations.retrieval import recall
from tests.cast import alice


def keep_meaning(message: Message) -> None:
    """Give a message its vector at once, which a worker does later."""
    MessagePlace.objects.filter(message=message).update(embedding=embed(message.content))


def start() -> Conversation:
    return Conversation.objects.create(user=alice(), model="scripted/echo")


def say(
    conversation: Conversation,
    parent: Message | None,
    content: str,
    *,
    role: str | None = None,
    embedded: bool = True,
    **fields: Any,
) -> Message:
    """A message as a person sends it; without `role`, the other one than its parent's."""
    fields.setdefault("token_count", max(len(content) // 4, 1))
    message = Message.objects.create(
        conversation=conversation,
        parent=parent,
        role=role or ("assistant" if parent is not None and parent.role == "user" else "user"),
        content=content,
        **fields,
    )
    if embedded:
        keep_meaning(message)
    return message


def say_all(conversation: Conversation, *contents: str, parent: Message | None = None) -> list[Message]:
    said: list[Message] = []
    for content in contents:
        parent = say(conversation, parent, content)
        said.append(parent)
    return said


def path_of(leaf: Message) -> list[UUID]:
    """From the root to the leaf."""
    path: list[UUID] = []
    parents = dict(leaf.conversation.messages.values_list("pk", "parent_id"))
    at: UUID | None = leaf.pk
    while at is not None:
        path.insert(0, at)
        at = parents[at]
    return path


def recalled(
    leaf: Message, question: str, *, room: int = 100_000, before: UUID | None = None, **arguments: Any
) -> list[Recalled]:
    """What is said about a question above a leaf, or above `before` on its path."""
    if before is not None:
        arguments["last"] = Message.objects.get(pk=before).path_messages - 1

    async def ask() -> list[Recalled]:
        pool = make_pool(1)
        await pool.open()
        try:
            return await recall(
                pool,
                conversation_id=leaf.conversation_id,
                leaf_id=leaf.pk,
                question=question,
                room=room,
                **arguments,
            )
        finally:
            await pool.close()

    return asyncio.run(ask())


def ids(found: list[Recalled]) -> list[UUID]:
    return [one.message.id for one in found]


def grow(conversation: Conversation, source: random.Random, size: int) -> list[Message]:
    """A random tree of messages that all have the word `harbour` and one word of their own, and some are moved."""
    said: list[Message] = []
    for number in range(size):
        parent = source.choice([None, *said, *said[-1:] * 6]) if said else None
        role = source.choice(["user", "assistant"])
        said.append(
            say(conversation, parent, f"harbour number{number}x", role=role, embedded=source.random() < 0.7)
        )
        if source.random() < 0.15:
            moved = source.choice(said)
            below = {message.pk for message in said if moved.pk in path_of(message)}
            places = [message.pk for message in said if message.pk not in below]
            Message.objects.filter(pk=moved.pk).update(parent=source.choice([None, *places]))
        if source.random() < 0.05:
            Message.objects.filter(pk=said[-1].pk).update(is_set_aside=True)
    return list(conversation.messages.all())
