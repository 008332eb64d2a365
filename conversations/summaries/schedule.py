"""Who may write the next summary and memory lines of a conversation, and when it is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from conversations import catalog
from conversations.models import Conversation, User
from conversations.models.conversation import ConversationQuerySet
from conversations.parking import parked

#: More than all calls of one run take; less than a task may take, and far less than the broker waits for one.
LEASE = timedelta(minutes=5)
#: Failures in a row after which a conversation is left alone until it goes on.
MOST_ATTEMPTS = 5
#: From one failure to the next try; then twice as long each time.
PAUSES = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=3),
    timedelta(days=1),
)
LONGEST_PAUSE = timedelta(days=7)
#: How soon somebody without money is looked at again, if their day does not end before.
WITHOUT_MONEY = timedelta(hours=1)


def claim(conversation_id: UUID) -> bool:
    """Take it for `LEASE`: false while a worker has it, while it waits after a failure, or when nothing is due.

    What becomes due meanwhile stays due.
    """
    claimed = _claimable().filter(pk=conversation_id)
    return bool(
        claimed.update(
            compaction_due_at=None,
            compaction_attempts=F("compaction_attempts") + 1,
            compaction_lease_expires_at=Now() + LEASE,
        )
    )


def done(conversation_id: UUID, *, goes_on: bool = False) -> None:
    """All is written; `goes_on`: as much as one run may write, and there is more."""
    found = Conversation.objects.filter(pk=conversation_id)
    due = {"compaction_due_at": Coalesce("compaction_due_at", Now())} if goes_on else {}
    found.update(compaction_attempts=0, compaction_lease_expires_at=None, **due)


def failed(conversation_id: UUID) -> None:
    """It is tried again after a pause that grows. After `MOST_ATTEMPTS`, only once the conversation goes on."""
    found = Conversation.objects.filter(pk=conversation_id)
    attempts = found.values_list("compaction_attempts", flat=True).first() or 1
    due = {} if attempts >= MOST_ATTEMPTS else {"compaction_due_at": Coalesce("compaction_due_at", Now())}
    found.update(compaction_lease_expires_at=Now() + pause_after(attempts), **due)


def without_money(conversation_id: UUID, *, resets_at: datetime | None) -> None:
    """Its owner has nothing left for it: this was no try."""
    wait = timezone.now() + WITHOUT_MONEY
    Conversation.objects.filter(pk=conversation_id).update(
        compaction_due_at=Coalesce("compaction_due_at", Now()),
        compaction_attempts=F("compaction_attempts") - 1,
        compaction_lease_expires_at=min(wait, resets_at) if resets_at else wait,
    )


def pause_after(attempts: int) -> timedelta:
    """How long to wait after so many failures in a row."""
    if attempts <= len(PAUSES):
        return PAUSES[max(attempts, 1) - 1]
    doublings = min(attempts - len(PAUSES), 10)
    return min(PAUSES[-1] * (1 << doublings), LONGEST_PAUSE)


def due(*, limit: int) -> list[UUID]:
    """What may be claimed, the longest due first: its wake-up call was lost, it failed before, or its worker died."""
    found = _claimable()
    entry = catalog.load_catalog().summary()
    if entry is not None and not entry.is_free:
        if (people := parked()) is None:
            return []
        found = found.exclude(user_id__in=people)
    return list(found.order_by("compaction_due_at").values_list("pk", flat=True)[:limit])


def _claimable() -> ConversationQuerySet:
    # A lease that is over with nothing due: the worker died, unless it is one that was given up.
    died = Q(compaction_lease_expires_at__lt=Now(), compaction_attempts__lt=MOST_ATTEMPTS)
    return Conversation.objects.filter(
        Q(compaction_due_at__isnull=False) | died,
        Q(compaction_lease_expires_at=None) | Q(compaction_lease_expires_at__lt=Now()),
        Exists(User.objects.filter(pk=OuterRef("user"), is_active=True)),
        deleted_at=None,
    )
