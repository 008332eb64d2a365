"""Sending, stopping and retrying: what a person does, each in one transaction, refused with a sentence."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from psycopg.rows import tuple_row

from conversations import memory
from conversations.budgets import BudgetRefused, Room, reserve, void
from conversations.catalog import ModelEntry, UnknownModel, load_catalog
from conversations.context.bound import Beside
from conversations.context.policy import Policy
from conversations.crash_points import crash_point
from conversations.database import plain_cursor
from conversations.llm.tokens import kept_tokens, scaled
from conversations.models import (
    DEFAULT_TITLE,
    UNFINISHED,
    Conversation,
    Hold,
    MemoryItem,
    Message,
    Reply,
    ReplyState,
    User,
)
from conversations.policies import policy_in
from conversations.prices import NoPrice
from conversations.text import clean_text
from conversations.titles import first_words

from . import statements
from .bounds import ask_before
from .context import Requests
from .quoting import Offer, Prospect, Words, offers
from .runtime import current_runtime
from .statements import Saving, Sending, Standing, lock_sender, read_standing, read_standing_of

Place = Literal["leaf", "end", "branch"]

#: A new reply, with what plans its requests if this process is to answer it.
NewReply = tuple[Reply, Requests | None]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a person wants to send."""

    text: str
    key: UUID  #: idempotency key that the server rendered into the form
    model: str
    leaf_id: UUID | None = None  #: the last message that was on the page
    #: Where it goes: after `leaf_id` if that is still the last message; at the end whatever came; or after
    #: `leaf_id` as another branch.
    place: Place = "leaf"

    def body_hash(self, conversation_id: UUID | None) -> str:
        body = [str(conversation_id or ""), self.text, self.model, str(self.leaf_id or "")]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()


class SendRefused(Exception):
    """Nothing was sent."""

    status = 422

    @property
    def sentence(self) -> str:
        return str(self) or inspect.cleandoc(self.__doc__ or "")


class MessageEmpty(SendRefused):
    """Write something first. Nothing was sent."""


class MessageTooLong(SendRefused):
    """This message is longer than 1 MiB. Nothing was sent, and your draft is below."""

    status = 413


class LeafMoved(SendRefused):
    """This conversation went on in another tab. Nothing was sent, and your draft is below."""

    status = 409


class ReplyRunning(SendRefused):
    """A reply is being written. Try again when it has ended, or stop it first."""

    status = 409


class KeyReused(SendRefused):
    """This form was sent before with another text. Your draft is below: send it again."""


class NothingToContinue(SendRefused):
    """There is no text to go on from."""

    status = 409


class AlreadyBegun(SendRefused):
    """This message is being answered already. Stop the reply if you do not want it."""

    status = 409


class NoModel(SendRefused):
    """No model can answer. Choose another model. Nothing was sent."""


class ModelUnpriced(NoModel):
    """Nobody has said what this model costs. Nothing was sent."""


class NoMoney(SendRefused):
    """This message does not fit in what is left today. Nothing was sent, and your draft is below."""

    status = 402

    def __init__(self, refused: BudgetRefused, entry: ModelEntry, prospect: Prospect) -> None:
        super().__init__(refused.sentence)
        self.refused = refused
        self.entry = entry
        self.prospect = prospect

    def offers(self) -> list[Offer]:
        """What could be asked in its place."""
        refused = self.refused
        room = Room(scope=refused.scope, left=refused.left, limit=refused.limit, resets_at=refused.resets_at)
        return offers(self.prospect, room, but=self.entry)


class BranchUnknown(SendRefused):
    """The message to answer is not part of this conversation. Nothing was sent."""


def start_conversation(*, user: User, draft: Draft, system_prompt: str = "", **chosen: Any) -> Reply:
    """Begin a conversation with its first message. The same key again gives the same reply.

    `chosen`: what a preset has set of the conversation, which is its preset, temperature and reply_tokens.
    """
    return _once(user, draft, None, partial(_begin_conversation, user, draft, system_prompt, chosen))


def start_reply(*, user: User, conversation_id: UUID, draft: Draft) -> Reply:
    """Save a message with its reply, in one transaction. Raises SendRefused; a refusal uses up no key.

    Raises Conversation.DoesNotExist when this person has no such conversation.
    """
    return _once(user, draft, conversation_id, partial(_send, user, conversation_id, draft))


def retry_reply(reply: Reply, *, key: UUID, model: str | None = None) -> Reply:
    """Ask for another answer to the same question, of another model if one is named."""
    draft = Draft(text="", key=key, model=model or reply.model, leaf_id=reply.question_id)
    return _once(reply.user, draft, reply.conversation_id, partial(_retry, reply, draft))


def continue_reply(reply: Reply, *, key: UUID, model: str | None = None) -> Reply:
    """Ask for a reply that goes on from the text of one that was cut off or stopped; the old one stays a version.

    By the model that has begun it unless another is named.
    """
    if reply.answer_id is None:
        raise NothingToContinue
    draft = Draft(text="", key=key, model=model or reply.model, leaf_id=reply.answer_id)
    return _once(reply.user, draft, reply.conversation_id, partial(_continue, reply, draft))


def withdraw_reply(reply: Reply) -> str:
    """Take back a message that still waits for the reply before it. Returns its text. Raises AlreadyBegun."""
    with transaction.atomic():
        lock_sender(reply.user_id)
        waiting = (
            Reply.objects.filter(pk=reply.pk, state=ReplyState.WAITING).select_related("question").first()
        )
        if waiting is None:
            raise AlreadyBegun
        question = waiting.question
        # What was written after it waits on: it takes its place.
        question.children.update(parent=question.parent_id)
        behind = (
            Reply.objects.filter(conversation=reply.conversation_id).exclude(pk=reply.pk).waiting().first()
        )
        leaf_id = behind.question_id if behind else question.parent_id
        Conversation.objects.filter(pk=reply.conversation_id, leaf=question).update(leaf=leaf_id)
        memory.unsay(question.pk)
        question.delete()
    return question.content


def stop_reply(reply: Reply) -> None:
    """Stop a reply wherever it runs; what it has written is kept. One that is over stays as it is."""
    now = timezone.now()
    with transaction.atomic():
        never_ran = Reply.objects.filter(
            pk=reply.pk, state__in=(ReplyState.WAITING, ReplyState.QUEUED)
        ).update(state=ReplyState.STOPPED, stop_requested_at=now, finished_at=now)
        if never_ran:
            _release(reply)
        else:
            Reply.objects.filter(pk=reply.pk, state=ReplyState.RUNNING, stop_requested_at=None).update(
                stop_requested_at=now
            )
    runtime = current_runtime()
    if runtime is not None:
        runtime.request_stop(reply.pk, reply.runner, reply.user_id)


def _release(reply: Reply) -> None:
    """Give back what was held for a reply that never began."""
    with connection.cursor() as cursor:
        for hold in Hold.objects.filter(user_id=reply.user_id, reply_id=reply.pk, state=Hold.State.HELD):
            void(cursor, hold_id=hold.pk)


def keep_reply(reply: Reply) -> None:
    """Let the text of a reply that was cut off count as an answer in what models are shown."""
    Message.objects.filter(reply=reply, is_set_aside=True).update(is_set_aside=False)


def _once(user: User, draft: Draft, conversation_id: UUID | None, send: partial[NewReply]) -> Reply:
    """Run `send` unless its key was used: then give what it gave. Two at the same time: the second waits and loses."""
    try:
        with transaction.atomic():
            reply, requests = send()
            crash_point("before_commit")
            transaction.on_commit(partial(_wake, reply.pk, requests))
    except (IntegrityError, SendRefused) as error:
        # The key's index knows whether it was used; who sends for the first time need not ask.
        if earlier := _earlier(user, draft, conversation_id):
            return earlier
        if _violates(error, "replies_one_unfinished"):
            raise ReplyRunning from None
        raise
    return reply


def _violates(error: Exception, constraint: str) -> bool:
    diagnosis = getattr(error.__cause__, "diag", None)
    return diagnosis is not None and diagnosis.constraint_name == constraint


def _earlier(user: User, draft: Draft, conversation_id: UUID | None) -> Reply | None:
    earlier = Reply.objects.filter(user=user, idempotency_key=draft.key).first()
    if earlier and earlier.body_hash != draft.body_hash(conversation_id):
        raise KeyReused
    return earlier


def _begin_conversation(user: User, draft: Draft, system_prompt: str, chosen: dict[str, Any]) -> NewReply:
    text, entry = _checked(draft)
    running, told = read_standing_of(user.pk)
    conversation = Conversation(
        user=user,
        model=entry.id,
        system_prompt=system_prompt,
        # Until a model has named it, or when none can, the question's first words tell it from others.
        title=first_words(text) or DEFAULT_TITLE,
        **chosen,
    )
    question = _question(conversation, ROOT, text)
    conversation.leaf = question
    policy = policy_in(conversation, entry)
    state = _turn(user, running, text)
    reply = _reply(user, conversation, question, draft, policy, None, state=state)
    return reply, _save(statements.BEGIN, reply, entry, policy, told, text)


def _send(user: User, conversation_id: UUID, draft: Draft) -> NewReply:
    text, entry = _checked(draft)
    found = read_standing(user.pk, conversation_id)
    below = _place(found, draft)
    if found.is_busy and draft.place == "branch":
        raise ReplyRunning
    # Behind another it hangs where that one's question hangs until that reply has ended: see `release_waiting`.
    state = ReplyState.WAITING if found.is_busy else _turn(user, found.running, text)
    conversation = found.conversation
    question = _question(conversation, below, text)
    policy = policy_in(conversation, entry)
    reply = _reply(user, conversation, question, draft, policy, conversation_id, state=state)
    sending = statements.ASK_BEHIND if found.is_busy else statements.ASK
    requests = _save(sending, reply, entry, policy, found.beside, text)
    if not found.is_busy:
        conversation.leaf, conversation.model = question, entry.id
    return reply, requests


class Below(NamedTuple):
    """The message that a new one hangs under, with the sums of its path."""

    id: UUID | None
    tokens: int
    messages: int


ROOT = Below(None, 0, 0)


def _place(found: Standing, draft: Draft) -> Below:
    """Where the new message goes. Raises LeafMoved or BranchUnknown."""
    leaf = Below(found.leaf_id, found.leaf_tokens or 0, found.leaf_messages or 0)
    if draft.place == "end":
        return leaf
    if draft.place == "branch":
        return _branch(found, draft.leaf_id) if draft.leaf_id else ROOT
    if draft.leaf_id == found.leaf_id:
        return leaf
    # The answer that came while the next message was written is what it was meant to follow.
    is_answered = found.leaf_role == Message.Role.ASSISTANT and found.leaf_parent_id == draft.leaf_id
    # A page that shows messages which wait goes on after the last of them.
    is_waiting = Reply.objects.filter(conversation=found.id, question=draft.leaf_id).waiting()
    if draft.leaf_id and (is_answered or is_waiting.exists()):
        return leaf
    raise LeafMoved


def _branch(found: Standing, below_id: UUID) -> Below:
    below = Message.objects.filter(conversation=found.id, pk=below_id)
    sums = below.values_list("id", "path_tokens", "path_messages").first()
    if sums is None:
        raise BranchUnknown
    return Below(*sums)


def _retry(reply: Reply, draft: Draft) -> NewReply:
    return _answer_again(reply, draft, None)


def _continue(reply: Reply, draft: Draft) -> NewReply:
    return _answer_again(reply, draft, reply.answer)


def _answer_again(reply: Reply, draft: Draft, continues: Message | None) -> NewReply:
    """Another reply to the same question, while nothing is written in its conversation. Raises ReplyRunning."""
    entry = _entry(draft.model)
    found = read_standing(reply.user_id, reply.conversation_id)
    if found.is_busy:
        raise ReplyRunning
    conversation, question, state = found.conversation, reply.question, _turn(reply.user, found.running)
    policy = policy_in(conversation, entry)
    again = _reply(reply.user, conversation, question, draft, policy, conversation.pk, state=state)
    again.continues = continues
    requests = _save(statements.ASK_AGAIN, again, entry, policy, found.beside)
    conversation.leaf, conversation.model = question, entry.id
    return again, requests


def _turn(user: User, running: int, text: str = "") -> ReplyState:
    """Whether a reply begins now, in this process if that can, or waits: this person has enough of them on their way.

    What a message states plainly is kept after it was saved, and its own request is told it: that one is claimed anew.
    """
    if running >= settings.MAX_RUNNING_REPLIES:
        return ReplyState.WAITING
    runtime = current_runtime()
    is_taken = runtime is not None and runtime.takes_replies and not _may_state(user, text)
    return ReplyState.RUNNING if is_taken else ReplyState.QUEUED


def _checked(draft: Draft) -> tuple[str, ModelEntry]:
    text = clean_text(draft.text).text
    if not text.strip():
        raise MessageEmpty
    if len(text.encode()) > settings.MAX_MESSAGE_BYTES:
        raise MessageTooLong
    return text, _entry(draft.model)


def _entry(model: str) -> ModelEntry:
    """The model that is to answer. Raises NoModel: also when nobody has said what it costs."""
    try:
        entry = load_catalog().get(model)
        entry.known_price()
    except UnknownModel as error:
        raise NoModel(str(error)) from None
    except NoPrice as error:
        raise ModelUnpriced(str(error)) from None
    return entry


def _question(conversation: Conversation, below: Below, text: str) -> Message:
    tokens = kept_tokens(text)
    return Message(
        conversation=conversation,
        parent_id=below.id,
        role=Message.Role.USER,
        content=text,
        token_count=tokens,
        # As the database sums them up when it is saved.
        path_tokens=below.tokens + tokens,
        path_messages=below.messages + 1,
    )


def _reply(
    user: User,
    conversation: Conversation,
    question: Message,
    draft: Draft,
    policy: Policy,
    hashed_id: UUID | None,
    *,
    state: ReplyState,
) -> Reply:
    runtime = current_runtime() if state == ReplyState.RUNNING else None
    return Reply(
        user=user,
        conversation=conversation,
        question=question,
        state=state,
        epoch=1 if runtime else 0,
        runner=runtime.name if runtime else "",
        model=policy.model,
        temperature=(
            settings.DEFAULT_TEMPERATURE if conversation.temperature is None else conversation.temperature
        ),
        max_tokens=policy.reply_tokens,
        idempotency_key=draft.key,
        body_hash=draft.body_hash(hashed_id),
    )


def _save(
    sending: Sending, reply: Reply, entry: ModelEntry, policy: Policy, beside: Beside, text: str | None = None
) -> Requests | None:
    """Save a reply and hold what it can cost if it begins now, in one round trip: both or neither. Raises NoMoney.

    `text`: of a question that is new. Returns what plans its requests, where this process takes the reply.

    It comes last in the transaction: the row of the person's day is locked for as short as can be.
    """
    with plain_cursor(tuple_row) as cursor:
        saving = Saving(cursor, sending, reply)
        if text is not None and _may_state(reply.user, text):
            # What it states has the message for its source, and this very request is told it: it is held for as well.
            saving.save()
            items = memory.note_stated(reply.user, reply.question)
            rules = MemoryItem.Kind.CONSTRAINT
            beside = beside.with_lines([(item.token_count, item.kind == rules) for item in items])
        if reply.state in UNFINISHED:  # who waits asks when it is their turn
            _hold(saving, reply, entry, policy, beside, text)
        saving.save()  # nothing is held for a model that costs nothing
    runtime, claimed = current_runtime(), saving.claimed
    if runtime is None or claimed is None:
        return None
    return runtime.prepare(claimed.bounded(reply.max_tokens) if reply.is_shortened else claimed)


def _hold(
    cursor: Saving, reply: Reply, entry: ModelEntry, policy: Policy, beside: Beside, text: str | None
) -> None:
    """Hold what a reply can cost; its answer is shortened to what fits. Raises NoMoney."""
    conversation, question = reply.conversation, reply.question
    ask = ask_before(
        entry,
        policy,
        user_id=reply.user_id,
        conversation_id=conversation.pk,
        reply_id=reply.pk,
        max_tokens=reply.max_tokens,
        system_prompt=conversation.system_prompt,
        earlier_tokens=question.path_tokens - question.token_count,
        path_messages=question.path_messages,
        question_tokens=scaled(question.token_count, entry.model_id),
        continued=reply.continues.content if reply.continues else "",
        beside=beside,
    )
    crash_point("before_hold")
    try:
        held = reserve(cursor, ask)
    except BudgetRefused as refused:
        raise NoMoney(refused, entry, _prospect(reply, text, beside)) from None
    crash_point("after_hold")
    reply.held = held.amount if held is not None else 0
    if held is not None and held.shrunk:
        statements.shorten(reply, held.max_tokens)


def _may_state(user: User, text: str) -> bool:
    return user.is_remembering and memory.may_state(text)


def _prospect(reply: Reply, text: str | None, beside: Beside) -> Prospect:
    """What was asked for in vain, to be asked of another model. That counts the tokens of a new question anew."""
    question, is_new = reply.question, text is not None
    return Prospect(
        user_id=reply.user_id,
        conversation=reply.conversation,
        earlier_tokens=question.path_tokens - question.token_count,
        path_messages=question.path_messages - is_new,
        words=None if text is None else Words(text=text),
        question_tokens=question.token_count,
        continued=reply.continues.content if reply.continues else "",
        beside=beside,
    )


def _wake(reply_id: UUID, requests: Requests | None) -> None:
    """Start the reply in this process; without one that runs replies, the next sweep of any other starts it."""
    crash_point("after_commit")
    runtime = current_runtime()
    if runtime is not None:
        runtime.wake(reply_id, requests)
