"""What the page shows of a conversation: one path of its tree, with the reply that wrote each answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from uuid import UUID

from django.utils.safestring import SafeString

from conversations import memory, summaries
from conversations.database import one_snapshot
from conversations.markdown import render_markdown, render_user_text
from conversations.models import (
    Conversation,
    ConversationSummary,
    MemoryItem,
    Message,
    Reply,
    ReplyAttempt,
    ReplyState,
)
from conversations.reports import Paid, paid_for

PAGE = 50
#: What a page shows of one message that a person wrote: a browser takes 4 s to lay out 900,000 lines.
SHOWN_LINES, SHOWN_CHARACTERS = 2_000, 100_000
#: A conversation of fewer messages has no summary; of those that one has, the newest are looked at.
FEWEST_SUMMARISED, MOST_SUMMARIES = 2, 20


@dataclass
class Item:
    """A message, or a reply that has no text (yet)."""

    message: Message | None = None
    reply: Reply | None = None
    attempt: ReplyAttempt | None = None
    paid: Paid | None = None  #: what the reply has cost
    siblings: list[UUID] = field(
        default_factory=list
    )  #: versions of this message, itself included, oldest first
    is_last: bool = False
    waiting: Reply | None = None  #: the reply to this message of a person, which has not begun
    remembered: list[MemoryItem] = field(default_factory=list)  #: what is kept of this message of a person
    is_behind: bool = False  #: that reply waits for another one of this conversation
    summary: ConversationSummary | None = None  #: stands for all up to this message
    is_summarised: bool = False  #: the model was shown that summary last time

    @cached_property
    def html(self) -> SafeString:
        if self.message is None:
            return SafeString("")
        return (
            render_user_text(self.beginning)
            if self.message.is_from_user
            else render_markdown(self.message.content)
        )

    @cached_property
    def beginning(self) -> str:
        """As much of the message as a page shows."""
        text = self.message.content if self.message else ""
        return "\n".join(text[:SHOWN_CHARACTERS].split("\n", SHOWN_LINES)[:SHOWN_LINES])

    @property
    def is_shortened(self) -> bool:
        return self.message is not None and len(self.beginning) < len(self.message.content)

    @property
    def position(self) -> int:
        """Which of its siblings this is, from 1."""
        return self.siblings.index(self.message.pk) + 1 if self.message and self.siblings else 1

    @property
    def previous_version(self) -> UUID | None:
        return self.siblings[self.position - 2] if self.position > 1 else None

    @property
    def next_version(self) -> UUID | None:
        return self.siblings[self.position] if self.position < len(self.siblings) else None


@dataclass
class Thread:
    items: list[Item]
    earlier: UUID | None  #: oldest message shown, when there are older ones
    leaf_id: UUID | None
    running: Reply | None
    is_partial: bool = False  #: later messages are not shown


def load_thread(
    conversation: Conversation,
    *,
    leaf_id: UUID | None = None,
    before: UUID | None = None,
    around: UUID | None = None,
    limit: int = PAGE,
) -> Thread:
    """The newest `limit` messages of the path to `leaf_id` (the conversation's leaf), or those before or around one.

    A leaf that is inside the tree stands for the newest path through it. All is of one moment: a message that waits
    moves when the reply before it ends, and would else be in neither place. `conversation` is brought to that moment.
    """
    with one_snapshot():
        conversation.refresh_from_db(fields=["leaf", "cut"])
        return _load(conversation, leaf_id, before, around, limit)


def _load(
    conversation: Conversation, leaf_id: UUID | None, before: UUID | None, around: UUID | None, limit: int
) -> Thread:
    end = _newest_below(leaf_id) if leaf_id else conversation.leaf_id
    if around:
        end = _leaf_through(conversation, around)
        before = Message.objects.after_on_path(around, end, steps=limit // 2)
    start = _parent_of(conversation, before) if before else end
    path = Message.objects.path_to(start, limit=limit + 1)
    has_earlier = len(path) > limit
    path = path[-limit:]
    reply = _newest_reply(conversation, path) if before is None else None
    if reply is not None and reply.answer is not None:
        path.append(reply.answer)  # the leaf is the question still
        end, reply = reply.answer.pk, None
    items = _items(conversation, path)
    if reply is not None and not reply.is_waiting:
        items.append(_without_text(reply))
    _add_receipts(items)
    _add_summary(items, conversation, end)
    if items and before is None:
        items[-1].is_last = True
    running = conversation.replies.unfinished().first()
    if before is None and end == conversation.leaf_id:
        _add_waiting(items, conversation, running)
    _add_remembered(items)
    return Thread(
        items=items,
        earlier=path[0].pk if has_earlier else None,
        leaf_id=end,
        running=running,
        is_partial=before is not None,
    )


def _add_summary(items: list[Item], conversation: Conversation, leaf_id: UUID | None) -> None:
    """Mark where the part ends that a summary stands for: the one in use, or the one that is ready."""
    last = next((item.message for item in reversed(items) if item.message), None)
    if leaf_id is None or last is None or last.path_messages < FEWEST_SUMMARISED:
        return
    found = list(
        ConversationSummary.objects.of_path(conversation.pk, leaf_id).newest_first()[:MOST_SUMMARIES]
    )
    used = summaries.in_use(conversation)
    summary = next((row for row in found if str(row.pk) == used), found[0] if found else None)
    for item in items:
        if summary is not None and item.message is not None and item.message.pk == summary.covers_until_id:
            item.summary, item.is_summarised = summary, str(summary.pk) == used


def _add_remembered(items: list[Item]) -> None:
    said = memory.said_by(item.message.pk for item in items if item.message and item.message.is_from_user)
    for item in items:
        item.remembered = said.get(item.message.pk, []) if item.message else []


def load_reply_item(reply: Reply) -> Item:
    """The article of one reply, for whoever watched it end."""
    attempt = reply.attempts.order_by("-number").first()
    message = reply.answer
    item = Item(message=message, reply=reply, attempt=attempt, is_last=True)
    if message:
        item.siblings = _more_than_one(_versions([message]).get(message.parent_id, []))
    else:
        item.siblings = _answers_to(reply.question_id)
    _add_receipts([item])
    return item


def _add_receipts(items: list[Item]) -> None:
    """What each reply has cost, in one query."""
    ended = [item.reply.pk for item in items if item.reply and not item.reply.is_unfinished]
    paid = paid_for(ended)
    for item in items:
        item.paid = paid.get(item.reply.pk) if item.reply else None


def _items(conversation: Conversation, path: list[Message]) -> list[Item]:
    answers = [message.pk for message in path if not message.is_from_user]
    replies = {r.answer_id: r for r in conversation.replies.filter(answer__in=answers)}
    attempts = _last_attempts(replies.values())
    versions = _versions(path)
    silent = _without_answer(conversation, path)
    items = []
    for message in path:
        reply = replies.get(message.pk)
        item = Item(message=message, reply=reply, attempt=attempts.get(reply.pk) if reply else None)
        item.siblings = _more_than_one(versions.get(message.parent_id, []))
        items.append(item)
        if message.pk in silent:
            items.append(_without_text(silent[message.pk]))
    return items


def _without_answer(conversation: Conversation, path: list[Message]) -> dict[UUID, Reply]:
    """Replies that came to nothing, by their messages, where the next message was waiting already."""
    asked = [m.pk for m, after in pairwise(path) if m.is_from_user and after.is_from_user]
    if not asked:
        return {}
    replies = conversation.replies.filter(question__in=asked, answer=None).exclude(state=ReplyState.WAITING)
    return {reply.question_id: reply for reply in replies.order_by("created_at")}


def _more_than_one(versions: list[UUID]) -> list[UUID]:
    return versions if len(versions) > 1 else []


def _newest_reply(conversation: Conversation, path: list[Message]) -> Reply | None:
    """The newest reply to the last message, if a person wrote that."""
    if not path or not path[-1].is_from_user:
        return None
    replies = conversation.replies.filter(question=path[-1]).select_related("answer")
    return replies.order_by("-created_at").first()


def _add_waiting(items: list[Item], conversation: Conversation, running: Reply | None) -> None:
    """Mark the last message if it waits for its reply, and add those that wait behind it, in their order."""
    last = items[-1].message if items else None
    for reply in conversation.replies.waiting().select_related("question"):
        if last is not None and reply.question_id == last.pk:
            items[-1].waiting = reply
        else:
            items.append(Item(message=reply.question, waiting=reply))
        items[-1].is_behind = running is not None or reply.question_id != conversation.leaf_id


def _without_text(reply: Reply) -> Item:
    """A reply that is on its way, or came to nothing."""
    attempt = _last_attempts([reply]).get(reply.pk)
    return Item(reply=reply, attempt=attempt, siblings=_answers_to(reply.question_id))


def _answers_to(question_id: UUID) -> list[UUID]:
    """The answers that a message has, oldest first: a reply without text leads back to them."""
    answers = Message.objects.filter(parent=question_id, role=Message.Role.ASSISTANT)
    return list(answers.order_by("id").values_list("pk", flat=True))


def _last_attempts(replies: Iterable[Reply]) -> dict[UUID, ReplyAttempt]:
    attempts = ReplyAttempt.objects.filter(reply__in=[reply.pk for reply in replies]).order_by("number")
    return {attempt.reply_id: attempt for attempt in attempts}


def _versions(messages: list[Message]) -> dict[UUID | None, list[UUID]]:
    """Messages that hang under the same parent and are of the same role, oldest first."""
    if not messages:
        return {}
    versions: dict[UUID | None, list[UUID]] = {}
    shown = {message.parent_id: message.role for message in messages}
    rows = (
        Message.objects.filter(conversation_id=messages[0].conversation_id, parent_id__in=shown)
        .order_by("id")
        .values_list("pk", "parent_id", "role")
    )
    for pk, parent_id, role in rows:
        if shown[parent_id] == role:
            versions.setdefault(parent_id, []).append(pk)
    if None in shown:
        roots = Message.objects.filter(conversation_id=messages[0].conversation_id, parent=None)
        versions[None] = list(roots.order_by("id").values_list("pk", flat=True))
    return versions


def _newest_below(message_id: UUID) -> UUID:
    """The leaf that one reaches from a message by always taking the newest child.

    A message that waits for a reply to end is not a child yet: it hangs where that reply's question hangs.
    """
    rows = Message.objects.raw(
        """
        WITH RECURSIVE down AS (
            SELECT id, 1 AS step FROM messages WHERE id = %s
            UNION ALL
            SELECT (
                SELECT m.id FROM messages m WHERE m.parent_id = down.id AND NOT EXISTS (
                    SELECT FROM replies r JOIN conversations c ON c.id = r.conversation_id
                    WHERE r.question_id = m.id AND r.state = 'waiting' AND c.leaf_id IS DISTINCT FROM m.id
                ) ORDER BY m.id DESC LIMIT 1
            ), step + 1
            FROM down WHERE down.id IS NOT NULL
        )
        SELECT id FROM down WHERE id IS NOT NULL ORDER BY step DESC LIMIT 1
        """,
        [message_id],
    )
    return next(iter(rows)).pk


def _leaf_through(conversation: Conversation, message_id: UUID) -> UUID:
    """The conversation's leaf, if the message is on the path to it; else the newest leaf below the message."""
    leaf = conversation.leaf_id
    if leaf and Message.objects.after_on_path(message_id, leaf, steps=0):
        return leaf
    return _newest_below(message_id)


def _parent_of(conversation: Conversation, message_id: UUID) -> UUID | None:
    return conversation.messages.values_list("parent_id", flat=True).get(pk=message_id)
