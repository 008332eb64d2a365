"""Turns of a conversation by the product's own statements and planner, without a model: ask, claim, plan, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgiref.sync import sync_to_async

from conversations.catalog import ModelEntry, load_catalog
from conversations.context.plan import ContextPlan
from conversations.database import Pool, make_pool
from conversations.llm.tokens import kept_tokens
from conversations.models import Conversation, Message, Reply, ReplyState
from conversations.replies.claims import Claim, Known
from conversations.replies.context import Requests
from conversations.replies.store import Outcome, ReplyStore
from tests.retrieval.trees import keep_meaning

from .harness import MODEL, ReplyTestCase

#: Small marks, so that a few turns pass them.
SMALL = {"slug": "small", "name": "Small", "high_water": 600, "recall_tokens": 150}


def say(conversation: Conversation, parent: Message | None, role: str, text: str, **values: Any) -> Message:
    """A message as the product keeps one, with its words and its meaning."""
    values.setdefault("token_count", kept_tokens(text))
    message = Message.objects.create(
        conversation=conversation, parent=parent, role=role, content=text, **values
    )
    keep_meaning(message)
    Conversation.objects.filter(pk=conversation.pk).update(leaf=message)
    message.refresh_from_db()
    return message


def dialogue(conversation: Conversation, *texts: str) -> list[Message]:
    """Messages by turns, a person's first, after what is there."""
    conversation.refresh_from_db()
    parent = conversation.leaf
    said: list[Message] = []
    for number, text in enumerate(texts):
        parent = say(conversation, parent, ("user", "assistant")[number % 2], text)
        said.append(parent)
    return said


def flat(plan_or_request: Any) -> str:
    """A request as its provider reads it: one text, so that a prefix is a prefix."""
    return "".join(f"<{message.role}>{message.content}" for message in plan_or_request.messages)


class TurnsTestCase(ReplyTestCase):
    def conversation(self, preset: dict[str, Any] | None = None, **values: Any) -> Conversation:
        values.setdefault("user", self.alice)
        return Conversation.objects.create(model=MODEL, preset=preset or {}, **values)

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[Pool]:
        async with make_pool(1) as pool:
            yield pool

    async def plan(
        self, pool: Pool, reply: Reply, entry: ModelEntry | None = None
    ) -> tuple[ContextPlan, Requests, Known]:
        """The plan of a queued reply, by the claim of it."""
        claimed = await ReplyStore(pool).claim(reply.pk, "test")
        assert claimed is not None
        claim, known = claimed
        requests = Requests(claim, known, pool)
        entry = entry or (await sync_to_async(load_catalog)()).get(claim.model)
        return await requests.plan(entry), requests, known

    async def turn(
        self, pool: Pool, conversation: Conversation, text: str, *, answer: str = "I see."
    ) -> tuple[ContextPlan, Requests, Known]:
        """Ask and answer; what the plan leaves for the next turn is stored as the runner stores it."""
        reply = await self.asend(conversation, text)
        planned = await self.plan(pool, reply)
        await self.end(pool, planned[1].claim, planned[0], answer)
        return planned

    async def end(self, pool: Pool, claim: Claim, plan: ContextPlan, answer: str) -> None:
        ended = await ReplyStore(pool).finish(
            reply_id=claim.reply_id,
            epoch=claim.epoch,
            model=MODEL,
            outcome=Outcome(state=ReplyState.COMPLETE, text=answer, token_count=kept_tokens(answer)),
            cut=plan.cut,
            preset_digest=claim.preset_digest,
            compaction_due=plan.compaction_due,
        )
        assert ended is not None
