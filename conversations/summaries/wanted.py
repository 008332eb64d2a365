"""Summaries that a person asks for: a row at once, so that the wish cannot be lost, and the text in the background."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django.dispatch import Signal

from conversations.background import prompt_tokens
from conversations.budgets import Ask, BudgetRefused, quote_in, room
from conversations.models import Conversation, ConversationSummary, Message, Purpose, User
from conversations.money import closely

from .prompt import request_for
from .schedule import LEASE
from .versions import State, current, in_force, lock, next_version
from .writing import Job, Outcome, first_piece, job_of, newest_whole_turn, write

#: Sent with `summary_id: UUID` when a person wants one. Receivers only hand work on.
summary_wanted = Signal()

#: How soon a wish whose wake-up call was lost is found.
OVERDUE = timedelta(seconds=30)

#: Summaries that one person may wait for: others want theirs, too, and a free model costs them nothing.
MOST_AT_ONCE = 3

NOTHING_TO_SAY = "There was nothing to summarise."
INTERRUPTED = "The work on it was interrupted. Ask for it again."
NO_MONEY = "There was no money left for it. Ask for it again when there is."
CHANGED = "The conversation changed while it was written. Ask for it again."
TOO_LONG = "The conversation is too long for one go. Its beginning is summarised now: ask again for the rest."


class TooManyAtOnce(Exception):
    def __str__(self) -> str:
        return f"{MOST_AT_ONCE} summaries that you asked for are being written. Ask for this one when they are done."


class OverBudget(Exception):
    """A summary does not fit in what is left. Carries the sentence for who asked for one."""

    def __init__(self, refused: BudgetRefused) -> None:
        whose = {"conversation": "of this conversation's cap", "installation": "today for everybody here"}
        super().__init__(
            f"A summary does not fit in what is left {whose.get(refused.scope, 'today')}. It could cost up to "
            f"{closely(refused.needed)}, and {closely(refused.left)} is left."
        )
        self.refused = refused


def want(conversation: Conversation, user: User) -> ConversationSummary | None:
    """Ask for a new summary of all so far; the one that is asked for already, if there is one.

    None: there is nothing to summarise. Raises OverBudget, TooManyAtOnce and NoPrice with the sentence for that person.
    """
    job = _job(conversation)
    end = newest_whole_turn(conversation) if job else None
    if job is None or end is None:
        return None
    _refuse_without_money(job, end)
    with transaction.atomic():
        if not lock(conversation):
            return None
        asked = conversation.summaries.filter(state=State.WANTED).first()
        if asked is None:
            others = ConversationSummary.objects.filter(conversation__user=user, state=State.WANTED)
            if others.filter(conversation__deleted_at=None).count() >= MOST_AT_ONCE:
                raise TooManyAtOnce
            asked = ConversationSummary.objects.create(
                conversation=conversation,
                version=next_version(conversation),
                state=State.WANTED,
                summary="",
                covers_until=end,
                message_count_at_creation=end.path_messages,
                created_by=user,
            )
        summary_wanted.send_robust(sender=None, summary_id=asked.pk)
    return asked


def write_wanted(summary_id: UUID) -> Outcome:
    """Write what a person asked for. A second run does nothing; what becomes of it is on the row."""
    found = ConversationSummary.objects.select_related("conversation").filter(pk=summary_id)
    asked = found.filter(conversation__deleted_at=None, conversation__user__is_active=True).first()
    job = _job(asked.conversation) if asked else None
    if asked is None:
        return Outcome.NOTHING
    if job is None:
        return _end(asked, NOTHING_TO_SAY)
    mine = ConversationSummary.objects.filter(pk=summary_id, state=State.WANTED, model_used="")
    if not mine.update(model_used=job.entry.id, created_at=Now()):
        return Outcome.NOTHING
    asked.refresh_from_db()
    try:
        outcome = write(replace(job, wanted=asked), _base(job.conversation))
    except BudgetRefused:
        return _end(asked, NO_MONEY)
    if outcome is not Outcome.FAILED:
        _end(asked, TOO_LONG if outcome is Outcome.GOES_ON else CHANGED)  # unless it is written
    return outcome


def lost(*, limit: int) -> list[UUID]:
    """Wishes whose wake-up call was lost."""
    waiting = ConversationSummary.objects.filter(
        state=State.WANTED,
        model_used="",
        created_at__lt=Now() - OVERDUE,
        conversation__deleted_at=None,
        conversation__user__is_active=True,
    )
    return list(waiting.order_by("created_at").values_list("pk", flat=True)[:limit])


def end_abandoned() -> int:
    """End the wishes whose worker died: a second call would be paid twice, and the person can ask again."""
    begun = ConversationSummary.objects.filter(state=State.WANTED, created_at__lt=Now() - LEASE)
    return begun.exclude(model_used="").update(state=State.REFUSED, reason=INTERRUPTED)


def _job(conversation: Conversation) -> Job | None:
    """As for any summary, but it is worth one whole turn."""
    job = job_of(conversation)
    return job and replace(job, fold_at_least=2)


def _base(conversation: Conversation) -> ConversationSummary | None:
    """What it is made from: the one before the current one, so that what is wrong in that is not carried on."""
    found = current(conversation)
    if found is None:
        return None
    before = in_force(conversation).filter(message_count_at_creation__lt=found.message_count_at_creation)
    return before.newest_first().first()


def _refuse_without_money(job: Job, end: Message) -> None:
    base = _base(job.conversation)
    piece = first_piece(job, base, end)
    if piece is None:
        return
    before = base.summary if base else ""
    request = request_for(piece, before=before, entry=job.entry, limit=job.limit, language=None)
    ask = Ask(
        user_id=job.conversation.user_id,
        conversation_id=job.conversation.pk,
        purpose=Purpose.SUMMARY,
        model=job.entry.id,
        price=job.entry.known_price(),
        input_tokens=prompt_tokens(request),
        max_tokens=request.max_tokens,
        floor=request.max_tokens,
    )
    left = room(job.conversation.user_id, job.conversation.pk)
    quote = quote_in(left, ask)
    if left is not None and (not quote.fits or quote.shrunk_max_tokens is not None):
        raise OverBudget(
            BudgetRefused(
                scope=left.scope,
                left=left.left,
                limit=left.limit,
                needed=quote.at_most,
                resets_at=left.resets_at,
            )
        )


def _end(asked: ConversationSummary, reason: str) -> Outcome:
    waiting = ConversationSummary.objects.filter(pk=asked.pk, state=State.WANTED)
    waiting.update(state=State.REFUSED, reason=reason)
    return Outcome.FAILED
