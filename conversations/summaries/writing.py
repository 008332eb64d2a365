"""Writing a summary: from the one before and the messages since, piece by piece, past the gate."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from conversations import catalog
from conversations.background import Completion, complete
from conversations.catalog import ModelEntry
from conversations.context.adoption import Source, Verdict, examine, sentences, without
from conversations.forgotten import Forgotten
from conversations.llm.errors import LLMError
from conversations.llm.tokens import kept_tokens
from conversations.llm.types import FinishReason
from conversations.models import Conversation, ConversationSummary, MemoryItem, Message, Purpose, User
from conversations.prices import NoPrice
from conversations.text import clean_text

from .prompt import Piece, next_piece, request_for, room_for_messages
from .versions import current, keep, policy_of

logger = logging.getLogger(__name__)

#: Calls that one run makes; a longer conversation goes on in the next run.
MOST_PASSES = 8
#: Messages that are read for one call.
READ_AT_ONCE = 400
#: Tokens that a model needs to say anything: a smaller summary is none.
LEAST_TOKENS = 50
#: Characters from which PostgreSQL tells a language, and how many such parts of the messages are looked at.
LANGUAGE_PART, LANGUAGE_PARTS = 1_000, 24
#: A language that fewer of the parts are in is a quotation.
LANGUAGE_SHARE = 0.2

FORGOTTEN = "Nothing is left of it without what was to be forgotten."


class Outcome(Enum):
    WRITTEN = auto()  # all that is worth a summary has one
    GOES_ON = auto()  # as much as one run may write; there is more
    NOTHING = auto()  # there was nothing to write
    FAILED = auto()  # the model did not answer, or its text was refused: the reason is kept


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one run is to write, and with which numbers."""

    conversation: Conversation
    entry: ModelEntry
    limit: int  #: tokens of the summary
    fold_at_least: int  #: messages
    wanted: ConversationSummary | None = None  #: what a person asked for


def write_next(conversation_id: UUID) -> Outcome:
    """Bring the summary of the path that is shown up to its newest whole turn.

    Called by whoever has claimed the conversation (`schedule`). Raises BudgetRefused before anything is sent.
    """
    job = _job(conversation_id)
    return Outcome.NOTHING if job is None else write(job, current(job.conversation))


def _job(conversation_id: UUID) -> Job | None:
    found = Conversation.objects.filter(pk=conversation_id, deleted_at=None, user__is_active=True).first()
    return None if found is None else job_of(found)


def job_of(conversation: Conversation) -> Job | None:
    """None: it has nothing to say yet, its strategy uses no summary, or there is no model or no room for one."""
    policy = policy_of(conversation)
    entry = catalog.load_catalog().summary()
    if conversation.leaf_id is None or entry is None or not policy.uses_summary:
        return None
    if policy.summary_tokens < LEAST_TOKENS:
        return None
    return Job(
        conversation=conversation,
        entry=entry,
        limit=policy.summary_tokens,
        fold_at_least=policy.fold_at_least,
    )


def write(job: Job, base: ConversationSummary | None) -> Outcome:
    """From `base` on, in as many passes as it takes and one run may make."""
    written = False
    for _ in range(MOST_PASSES):
        end = newest_whole_turn(job.conversation)
        if end is None or end.path_messages - _covered(base) < job.fold_at_least:
            break
        piece = first_piece(job, base, end)
        if piece is None:  # the model cannot even read an excerpt
            break
        made = _write_piece(job, base, piece, is_last=piece.last.pk == end.pk)
        if made is None:  # what it was to be made from has changed meanwhile
            base = current(job.conversation)
        elif made.state == ConversationSummary.State.REFUSED:
            return Outcome.FAILED
        else:
            base, written = made, True
            if job.wanted is not None and made.pk == job.wanted.pk:
                break
    else:
        return Outcome.GOES_ON
    return Outcome.WRITTEN if written else Outcome.NOTHING


def newest_whole_turn(conversation: Conversation) -> Message | None:
    """The newest answer on the path that is shown: what comes after it is not over. None: nobody wants it any more."""
    here = Conversation.objects.filter(pk=conversation.pk, deleted_at=None, user__is_active=True)
    path = Message.objects.of_path(conversation.pk, here.values_list("leaf_id", flat=True).first())
    answers = path.filter(role=Message.Role.ASSISTANT, is_set_aside=False).exclude(content="")
    return answers.order_by("-path_messages").first()


def first_piece(job: Job, base: ConversationSummary | None, end: Message) -> Piece | None:
    """What the next call reads: None, if not even an excerpt of a message fits."""
    messages = (
        Message.objects.of_path(job.conversation.pk, end.pk)
        .filter(path_messages__gt=_covered(base))
        .order_by("path_messages")
    )
    room = room_for_messages(job.entry, before=_text(base), limit=job.limit)
    return next_piece(list(messages[:READ_AT_ONCE]), entry=job.entry, room=room)


def _write_piece(
    job: Job, base: ConversationSummary | None, piece: Piece, *, is_last: bool
) -> ConversationSummary | None:
    """One call, and the version that comes of it. None: it could not be kept."""
    languages = languages_of(piece.texts)
    try:
        completion = _ask(job, piece, base, next(iter(languages), None))
        verdict = _judge(job, piece, base, completion, languages)
    except (LLMError, NoPrice) as error:
        logger.info("no summary from the model: %s", type(error).__name__)
        verdict = Verdict(text="", reason=_sentence(error))
    with transaction.atomic():
        # What is forgotten in this moment has come to its end before, or waits for this version.
        User.objects.lock(job.conversation.user_id)
        if verdict.is_adopted:
            verdict = _without_forgotten(job.conversation.user_id, verdict)
        return keep(
            job.conversation,
            text=verdict.text,
            reason=verdict.reason,
            covers_until=piece.last,
            made_from=base,
            model_used=job.entry.id,
            instead_of=job.wanted if is_last or verdict.reason else None,
            acts_at_once=job.wanted is not None and is_last and verdict.is_adopted,
        )


def _ask(job: Job, piece: Piece, base: ConversationSummary | None, language: str | None) -> Completion:
    request = request_for(piece, before=_text(base), entry=job.entry, limit=job.limit, language=language)
    return complete(
        job.entry,
        request,
        purpose=Purpose.SUMMARY,
        user_id=job.conversation.user_id,
        conversation_id=job.conversation.pk,
        seconds=settings.SUMMARY_TIME_OUT,
    )


def _judge(
    job: Job,
    piece: Piece,
    base: ConversationSummary | None,
    completion: Completion,
    languages: dict[str, float],
) -> Verdict:
    before = _text(base)
    text = "\n\n".join(part for part in (before, piece.text) if part)
    source = Source(
        text=text,
        tokens=kept_tokens(text),
        limit=job.limit,
        before=before,
        since=piece.text,
        pinned=pinned_lines(job.conversation),
        languages=frozenset(languages),
    )
    said = clean_text(completion.text).text
    if languages and len(said) < 20_000:
        source = replace(source, language=language_of(said, next(iter(languages))))
    verdict = examine(
        said,
        tokens=kept_tokens(said),
        is_whole=completion.reason is FinishReason.STOP,
        source=source,
    )
    if not said.strip() and completion.reasoning.strip():
        return replace(verdict, reason="The model thought until its time was over, and wrote nothing.")
    return verdict


def _without_forgotten(user_id: int, verdict: Verdict) -> Verdict:
    """What somebody wants forgotten is still in the messages, so a model may write it again."""
    forgotten = Forgotten.by(user_id)
    gone = [sentence for sentence in sentences(verdict.text) if forgotten.holds(sentence)]
    if not gone:
        return verdict
    left = without(verdict.text, gone)
    return Verdict(text=left, reason="" if left else FORGOTTEN)


def pinned_lines(conversation: Conversation) -> Sequence[str]:
    """What a summary must not lose: rules, and what a person has pinned."""
    memory = MemoryItem.objects.told_in(conversation.user, conversation.pk, conversation.leaf_id)
    on_top = memory.filter(Q(is_pinned=True) | Q(kind=MemoryItem.Kind.CONSTRAINT))
    return list(on_top.values_list("text", flat=True))


def languages_of(texts: Sequence[str]) -> dict[str, float]:
    """The languages of some messages and their shares, the commonest first, as PostgreSQL reads them."""
    text = "\n".join(texts)
    step = max(len(text) // LANGUAGE_PARTS, LANGUAGE_PART)
    parts = [text[at : at + LANGUAGE_PART] for at in range(0, len(text), step)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT message_language(part, NULL) FROM unnest(%s::text[]) AS part", [parts])
        found = Counter(language for (language,) in cursor.fetchall() if language)
    total = sum(found.values())
    return {name: count / total for name, count in found.most_common() if count >= LANGUAGE_SHARE * total}


def language_of(text: str, spoken: str) -> str | None:
    """The language of a text; of two that are as likely, the one that was spoken before."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT message_language(%s, %s)", [text, spoken])
        row = cursor.fetchone()
    return row[0] if row else None


def _covered(base: ConversationSummary | None) -> int:
    return base.message_count_at_creation if base else 0


def _text(base: ConversationSummary | None) -> str:
    return base.summary if base else ""


def _sentence(error: Exception) -> str:
    return error.sentence() if isinstance(error, LLMError) else str(error)
