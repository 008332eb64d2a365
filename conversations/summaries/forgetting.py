"""Taking a fact out of the summaries that tell it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from django.db import transaction

from conversations.context.adoption import sentences, without
from conversations.forgotten import SHARE, Forgotten, share_of_words
from conversations.llm.tokens import kept_tokens
from conversations.models import ConversationSummary
from conversations.models.message import texts_of

from .versions import Origin, State, keep

FORGOTTEN = "Something in it was to be forgotten."


def forget(
    user_id: int, texts: Sequence[str] = (), *, conversation_ids: Collection[UUID] | None = None
) -> int:
    """Take the sentences that tell any of these facts out of all of a person's summaries; returns how many had one.

    What is in force is replaced by a new version without them, or retired if nothing is left; the old texts lose them,
    too, so that no restored version brings them back. Facts that are forgotten already (their digests) count as well.
    """
    found = ConversationSummary.objects.filter(conversation__user=user_id).exclude(summary="")
    if conversation_ids is not None:
        found = found.filter(conversation__in=conversation_ids)
    forgotten = Forgotten.by(user_id)
    changed = 0
    found = found.select_related("conversation", "covers_until").defer(*texts_of("covers_until"))
    for summary in found.order_by("version").iterator():
        gone = [s for s in sentences(summary.summary) if forgotten.holds(s) or _tells(s, texts)]
        if gone:
            _take_out(summary, gone)
            changed += 1
    return changed


def _tells(sentence: str, texts: Sequence[str]) -> bool:
    return any(share_of_words(text, [sentence]) >= SHARE for text in texts)


def _take_out(summary: ConversationSummary, gone: Sequence[str]) -> None:
    left = without(summary.summary, gone)
    with transaction.atomic():
        fields: dict[str, object] = {"summary": left, "token_count": kept_tokens(left)}
        if summary.state == State.IN_FORCE:
            if left and summary.covers_until is not None:
                keep(
                    summary.conversation,
                    text=left,
                    covers_until=summary.covers_until,
                    made_from=summary,
                    by_person=True,
                    origin=Origin.PERSON,
                    acts_at_once=True,
                )
            fields |= {"state": State.RETIRED, "reason": FORGOTTEN}
        ConversationSummary.objects.filter(pk=summary.pk).update(**fields)
