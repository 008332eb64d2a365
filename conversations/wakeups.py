"""What tells the workers that something is due. A web process knows no more of Celery than this."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from django.dispatch import receiver

from conversations import summaries
from conversations.models import ReplyState
from conversations.publisher import Publisher
from conversations.replies.signals import reply_finished

publisher = Publisher()


@receiver(reply_finished)
def enqueue_what_is_due(
    *,
    conversation_id: UUID,
    state: str,
    is_unnamed: bool,
    compaction_due: bool = False,
    vectors_due: bool = False,
    **_: Any,
) -> None:
    if is_unnamed and state in {ReplyState.COMPLETE, ReplyState.STOPPED}:
        publisher.send("write_title", str(conversation_id))
    if compaction_due:
        publisher.send("compact_conversation", str(conversation_id))
    if vectors_due:
        publisher.send("embed_conversation", str(conversation_id))


@receiver(summaries.summary_wanted)
def enqueue_what_is_wanted(*, summary_id: UUID, **_: Any) -> None:
    transaction.on_commit(lambda: publisher.send("write_wanted_summary", str(summary_id)))
