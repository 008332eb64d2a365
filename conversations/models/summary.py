"""Summaries: shorter texts that stand for the beginning of a path. Originals stay."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .conversation import Conversation
from .fields import new_id
from .message import Message, ids_on_path
from .user import User


class SummaryQuerySet(models.QuerySet["ConversationSummary"]):
    def owned_by(self, user: User) -> SummaryQuerySet:
        return self.filter(conversation__user=user, conversation__deleted_at=None)

    def of_path(self, conversation_id: UUID, leaf_id: UUID) -> SummaryQuerySet:
        """What may stand for a part of the path from the root to `leaf_id`: its last message is on that path."""
        return self.filter(
            conversation_id=conversation_id,
            state=ConversationSummary.State.IN_FORCE,
            covers_until__in=ids_on_path(conversation_id, leaf_id),
        )

    def newest_first(self) -> SummaryQuerySet:
        """Of those in force the first is the one to be used: it stands for the most, and was written last."""
        return self.order_by("-message_count_at_creation", "-version")


class ConversationSummary(models.Model):
    """A shorter text that stands for the messages of a path up to one of them."""

    class State(models.TextChoices):
        WANTED = "wanted"  # a person has asked for it, and it is not written yet
        IN_FORCE = "in_force"  # may stand in a request from the next cut on
        REFUSED = "refused"  # did not pass the gate: kept with its reason, and never sent
        RETIRED = "retired"  # a newer one or a person took its place, or something in it was forgotten

    class Origin(models.TextChoices):
        MODEL = "model"
        PERSON = "person"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="summaries")
    summary = models.TextField()
    #: Messages from the root to `covers_until`: what it stands for.
    message_count_at_creation = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    #: From 1 in its conversation, refused ones included.
    version = models.PositiveIntegerField(default=1, db_default=1)
    covers_until = models.ForeignKey(Message, null=True, on_delete=models.CASCADE, related_name="+")
    #: The one that it was made from: with the messages since, or by a person's hand.
    made_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    token_count = models.PositiveIntegerField(default=0, db_default=0)
    state = models.CharField(max_length=8, choices=State, default=State.IN_FORCE, db_default=State.IN_FORCE)
    origin = models.CharField(max_length=6, choices=Origin, default=Origin.MODEL, db_default=Origin.MODEL)
    model_used = models.CharField(max_length=200, default="", db_default="", blank=True)
    #: Why it was refused or retired, as one sentence.
    reason = models.CharField(max_length=300, default="", db_default="", blank=True)
    #: A person wrote or chose it: it does not wait for a cut.
    acts_at_once = models.BooleanField(default=False, db_default=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects: ClassVar[SummaryQuerySet] = SummaryQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "conversation_summaries"
        verbose_name_plural = "conversation summaries"
        indexes = [
            models.Index(fields=["created_at"], condition=models.Q(state="wanted"), name="summaries_to_write")
        ]
        constraints = [
            models.UniqueConstraint(fields=["conversation", "version"], name="summaries_versions"),
            models.CheckConstraint(
                condition=models.Q(state__in=["wanted", "in_force", "refused", "retired"]),
                name="summaries_state_known",
            ),
        ]

    def __str__(self) -> str:
        return f"Summary of {self.message_count_at_creation} messages"
