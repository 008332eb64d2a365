"""Replies: one answer on its way, and the attempts (provider calls) that it took."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .conversation import Conversation
from .fields import new_id
from .message import Message
from .user import User


class ReplyState(models.TextChoices):
    WAITING = "waiting"  # committed, but behind another reply: of its conversation, or of its owner's limit
    QUEUED = "queued"  # committed with the person's message; no process has claimed it yet
    RUNNING = "running"  # a process holds its lease and talks to the provider
    COMPLETE = "complete"  # the model ended its answer
    STOPPED = "stopped"  # a person stopped it; what had come is kept
    FAILED = "failed"  # the provider refused or failed before any text
    INTERRUPTED = "interrupted"  # cut off after it had begun, or its process died; the text is kept


#: At most one of these per conversation, and a few per person.
UNFINISHED = (ReplyState.QUEUED, ReplyState.RUNNING)
#: With those that wait for their turn: whatever has not come to its end.
ON_THEIR_WAY = (ReplyState.WAITING, *UNFINISHED)


class ReplyQuerySet(models.QuerySet["Reply"]):
    def owned_by(self, user: User) -> ReplyQuerySet:
        return self.filter(user=user, conversation__deleted_at=None)

    def unfinished(self) -> ReplyQuerySet:
        return self.filter(state__in=UNFINISHED)

    def on_their_way(self) -> ReplyQuerySet:
        return self.filter(state__in=ON_THEIR_WAY)

    def waiting(self) -> ReplyQuerySet:
        """Those that begin when the ones before them have ended, in the order in which they were sent."""
        return self.filter(state=ReplyState.WAITING).order_by("id")


class Reply(models.Model):
    """The answer to one message of a person. `answer` is the message it became, when any text came."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="replies", db_index=False
    )
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="replies")
    question = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="replies")
    answer = models.OneToOneField(
        Message, null=True, blank=True, on_delete=models.SET_NULL, related_name="reply"
    )
    #: The cut-off text that this reply goes on from: its own text begins with it.
    continues = models.ForeignKey(
        Message,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="continuations",
        db_index=False,
    )
    model = models.CharField(max_length=200)
    temperature = models.FloatField(null=True, blank=True)
    max_tokens = models.PositiveIntegerField()
    #: `max_tokens` is less than was asked for: no more fitted in the budget.
    is_shortened = models.BooleanField(default=False, db_default=False)
    state = models.CharField(max_length=11, choices=ReplyState, default=ReplyState.QUEUED)
    #: Rendered into the form by the server; the same key again gives the same reply.
    idempotency_key = models.UUIDField()
    #: SHA-256 of what was sent with the key: the same key with another body is refused.
    body_hash = models.CharField(max_length=64)
    #: Rises with every claim. Each later write carries it: a runner that lost its lease changes nothing.
    epoch = models.PositiveIntegerField(default=0)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    #: The web process that holds the lease, which is also the name of its journal.
    runner = models.CharField(max_length=64, default="", blank=True)
    stop_requested_at = models.DateTimeField(null=True, blank=True)
    #: The checkpoint: text as of about a second ago, and where the journal goes on from it.
    text = models.TextField(default="", blank=True)
    reasoning = models.TextField(default="", blank=True)
    journal_position = models.CharField(max_length=40, default="", blank=True)
    error_code = models.CharField(max_length=40, default="", blank=True)
    error_detail = models.CharField(max_length=300, default="", blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    first_token_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    #: Nano-USD that the send has just held for it; None: to be asked of the database.
    held: int | None = None

    objects: ClassVar[ReplyQuerySet] = ReplyQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "replies"
        verbose_name_plural = "replies"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=ReplyState.values), name="replies_state_known"
            ),
            models.UniqueConstraint(fields=["user", "idempotency_key"], name="replies_sent_once"),
            models.UniqueConstraint(
                fields=["conversation"],
                condition=models.Q(state__in=["queued", "running"]),
                name="replies_one_unfinished",
            ),
        ]
        # None holds what a checkpoint writes: it stays on its row's page, and touches no index.
        indexes = [
            models.Index(
                fields=["user"],
                condition=models.Q(state__in=["waiting", "queued", "running"]),
                name="replies_on_their_way",
            ),
            models.Index(
                fields=["continues"], condition=models.Q(continues__isnull=False), name="replies_continuing"
            ),
        ]

    def __str__(self) -> str:
        return f"reply {self.pk} ({self.state})"

    @property
    def is_unfinished(self) -> bool:
        return self.state in UNFINISHED

    @property
    def is_waiting(self) -> bool:
        return self.state == ReplyState.WAITING


class ReplyAttempt(models.Model):
    """One call of a provider: what it was shown, what it reported, how it ended."""

    class State(models.TextChoices):
        RUNNING = "running"  # the request is about to be sent, or was
        COMPLETE = "complete"
        STOPPED = "stopped"
        FAILED = "failed"  # answered with an error before any output
        INTERRUPTED = "interrupted"  # cut off, or outcome unknown

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    reply = models.ForeignKey(Reply, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveSmallIntegerField()
    epoch = models.PositiveIntegerField()
    model = models.CharField(max_length=200)
    state = models.CharField(max_length=11, choices=State, default=State.RUNNING)
    #: What the model saw: sections, message ids, token counts, what was left out and why.
    manifest = models.JSONField(default=dict)
    finish_reason = models.CharField(max_length=10, default="", blank=True)
    input_tokens = models.PositiveIntegerField(null=True, blank=True)
    cached_tokens = models.PositiveIntegerField(null=True, blank=True)
    output_tokens = models.PositiveIntegerField(null=True, blank=True)
    reasoning_tokens = models.PositiveIntegerField(null=True, blank=True)
    #: False: the provider reported no usage, so the counts are our own.
    usage_reported = models.BooleanField(default=False)
    error_code = models.CharField(max_length=40, default="", blank=True)
    error_detail = models.CharField(max_length=300, default="", blank=True)
    started_at = models.DateTimeField(default=timezone.now, db_default=Now())
    first_token_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "reply_attempts"
        constraints = [
            models.UniqueConstraint(fields=["reply", "number"], name="reply_attempts_numbered"),
            models.CheckConstraint(
                condition=models.Q(state__in=["running", "complete", "stopped", "failed", "interrupted"]),
                name="reply_attempts_state_known",
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.reply_id}"
