"""Replies with a record, as the runner leaves them, made by hand: a path, memory, a summary, a hold and its line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from conversations.context.plan import ContextPlan, Continuation, HistoryMessage, plan_context
from conversations.context.policy import Policy, policy_for
from conversations.context.view import Background, MemoryKind, Recalled
from conversations.context.view import MemoryItem as Fact
from conversations.context.view import Summary as SummaryText
from conversations.llm.types import Usage
from conversations.models import (
    Conversation,
    ConversationSummary,
    MemoryItem,
    Message,
    Reply,
    ReplyAttempt,
    User,
)
from conversations.prices import Price
from tests.pages.base import LARGE, reply_to
from tests.prices.cheap import a_price
from tests.spending import hold, line

#: What a reply of these tests cost the provider's counter, which is not ours.
BILLED = Usage(input_tokens=1_234, cached_tokens=600, cache_write_tokens=100, output_tokens=77)


def words(text: str) -> int:
    return len(text.split())


def told(conversation: Conversation, *texts: str) -> list[Message]:
    """Messages by turns, a person's first, below the leaf. The last one is the new leaf."""
    made: list[Message] = []
    parent_id = conversation.leaf_id
    for text in texts:
        before = made[-1] if made else None
        role = "user" if before is None or before.role == "assistant" else "assistant"
        message = Message.objects.create(
            conversation=conversation, parent_id=parent_id, role=role, content=text, token_count=words(text)
        )
        parent_id = message.pk
        made.append(message)
    conversation.leaf = made[-1]
    conversation.save()
    return made


def learned(
    conversation: Conversation, text: str, kind: str = "profile", source: Message | None = None, **fields: Any
) -> MemoryItem:
    return MemoryItem.objects.create(
        user=conversation.user,
        conversation=conversation,
        kind=kind,
        text=text,
        token_count=words(text),
        source=source,
        **fields,
    )


def summed_up(conversation: Conversation, text: str, until: Message, **fields: Any) -> ConversationSummary:
    count = until.path_messages or Message.objects.get(pk=until.pk).path_messages
    return ConversationSummary.objects.create(
        conversation=conversation,
        summary=text,
        covers_until=until,
        message_count_at_creation=count,
        token_count=words(text),
        **fields,
    )


def as_said(message: Message) -> HistoryMessage:
    return HistoryMessage(
        id=message.pk,
        role="user" if message.is_from_user else "assistant",
        content=message.content,
        tokens=words(message.content),
        is_set_aside=message.is_set_aside,
    )


def planned(
    conversation: Conversation,
    path: Sequence[Message],
    *,
    policy: Policy | None = None,
    since: int = 0,
    recalled: Sequence[tuple[Message, float]] = (),
    continuation: Continuation | None = None,
    **background: Any,
) -> ContextPlan:
    """The plan for the last message of a path of which `since` messages are not handed in."""
    facts = MemoryItem.objects.filter(conversation=conversation).exclude(state="forgotten").order_by("id")
    summaries = ConversationSummary.objects.filter(conversation=conversation, state="in_force")
    return plan_context(
        system_prompt=conversation.system_prompt,
        history=[as_said(message) for message in path[since:]],
        policy=policy or policy_for(window=8_000, reply_tokens=500, model=LARGE.id),
        count_tokens=words,
        continuation=continuation,
        background=Background(
            memory=[
                Fact(
                    id=item.pk,
                    kind=MemoryKind(item.kind),
                    text=item.text,
                    tokens=item.token_count,
                    is_pinned=item.is_pinned,
                    source_id=item.source_id,
                )
                for item in facts
            ],
            summaries=[
                SummaryText(
                    id=row.pk,
                    version=row.version,
                    text=row.summary,
                    tokens=row.token_count,
                    covers_until=row.covers_until_id or UUID(int=0),
                    covered_messages=row.message_count_at_creation,
                )
                for row in summaries.order_by("message_count_at_creation")
            ],
            recalled=[Recalled(message=as_said(message), score=score) for message, score in recalled],
            path_messages=len(path),
            path_tokens=sum(words(message.content) for message in path),
            **background,
        ),
    )


def attempt_of(
    reply: Reply,
    plan: ContextPlan,
    *,
    usage: Usage | None = BILLED,
    number: int = 1,
    state: str = "complete",
    **fields: Any,
) -> ReplyAttempt:
    """A call with this plan; with `usage` it ended, and its provider has counted."""
    counts = (
        {
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "usage_reported": True,
        }
        if usage
        else {}
    )
    values = {"model": reply.model, "epoch": 1, "manifest": plan.manifest(), **counts, **fields}
    return ReplyAttempt.objects.create(reply=reply, number=number, state=state, **values)


def charge(
    user: User, attempt: ReplyAttempt, usage: Usage = BILLED, price: Price | None = None, **fields: Any
) -> None:
    """The hold of a call, settled, and its line in the ledger."""
    price = price or a_price(attempt.model)
    charged = price.cost(usage)
    reply = attempt.reply
    held = hold(
        user,
        3 * charged,
        conversation=reply.conversation,
        reply_id=reply.pk,
        attempt_id=attempt.pk,
        price=price.snapshot(),
        max_tokens=reply.max_tokens,
    )
    values: dict[str, Any] = {
        "held": held.amount,
        "hold_id": held.pk,
        "reply_id": reply.pk,
        "attempt_id": attempt.pk,
        "model": attempt.model,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "price": price.snapshot(),
    }
    line(user, fields.pop("charged", charged), conversation=reply.conversation, **(values | fields))


def answered(
    conversation: Conversation, question: Message, plan: ContextPlan, answer: str = "Yes.", **fields: Any
) -> Reply:
    """A complete reply with one attempt that was paid for."""
    reply = reply_to(conversation, question, answer=answer, **fields)
    charge(conversation.user, attempt_of(reply, plan))
    return reply
