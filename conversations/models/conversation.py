"""Conversations: a tree of messages, of which the page and the model see one path."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .fields import new_id
from .user import User

if TYPE_CHECKING:
    from .message import Message

DEFAULT_TITLE = "New Conversation"
#: How long a deleted conversation can be brought back.
KEPT_AFTER_DELETE = timedelta(days=30)


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def owned_by(self, user: User) -> ConversationQuerySet:
        """What this person may open. Deleted conversations are gone for them, until restored."""
        return self.filter(user=user, deleted_at=None)

    def restorable_by(self, user: User) -> ConversationQuerySet:
        """What this person has deleted and may still bring back."""
        return self.filter(user=user, deleted_at__gte=timezone.now() - KEPT_AFTER_DELETE)

    def deleted_for_good(self) -> ConversationQuerySet:
        """What nobody may bring back any more."""
        return self.filter(deleted_at__lt=timezone.now() - KEPT_AFTER_DELETE)

    def recent_first(self) -> ConversationQuerySet:
        return self.order_by("-last_updated", "-id")


class Conversation(models.Model):
    class TitleSource(models.TextChoices):
        DEFAULT = "default", "not named yet"
        MODEL = "model", "named by a model"
        PERSON = "person", "named by a person"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, db_index=False)
    title = models.CharField(max_length=200, default=DEFAULT_TITLE, db_default=DEFAULT_TITLE)
    title_source = models.CharField(
        max_length=7, choices=TitleSource, default=TitleSource.DEFAULT, db_default=TitleSource.DEFAULT
    )
    system_prompt = models.TextField(default="", blank=True)
    model = models.CharField(max_length=200, help_text="A model id of the catalogue, provider/name.")
    temperature = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.0), MaxValueValidator(2.0)]
    )
    reply_tokens = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(16), MaxValueValidator(1_000_000)]
    )
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    last_updated = models.DateTimeField(default=timezone.now, db_default=Now())
    metadata = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()), blank=True)
    is_archived = models.BooleanField(default=False, db_default=False)
    is_pinned = models.BooleanField(default=False, db_default=False)
    deleted_at = models.DateTimeField(null=True, blank=True)
    #: The newest message of the path that the page shows and the next message continues.
    leaf: models.ForeignKey[Message | None, Message | None] = models.ForeignKey(
        "Message", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    #: Times that a worker set out to name it, and until when the last one has it to itself.
    title_attempts = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)
    title_lease_expires_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: What its model is shown and how it answers: `context.presets.Preset.to_json`, empty for the default.
    preset = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()), blank=True)
    #: What the last request has in common with the next: `context.cut.Cut.to_json`. And when it ended.
    cut = models.JSONField(null=True, blank=True, editable=False)
    cut_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: Since when its next summary and memory lines are wanted (NULL while a worker writes them), how often in a row
    #: they could not be written, and until when a worker has them to itself or nobody tries again.
    compaction_due_at = models.DateTimeField(null=True, blank=True, editable=False)
    compaction_attempts = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)
    compaction_lease_expires_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: Since when a worker is wanted for the vectors of its messages, or until when one has it to itself; and how often
    #: in a row none has come to the end: `meanings.catch_up`.
    vectors_due_at = models.DateTimeField(null=True, blank=True, editable=False)
    vectors_attempts = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)
    #: The last message that facts were looked for in, and how often a model has failed at what follows.
    memory_read_until = models.UUIDField(null=True, blank=True, editable=False)
    memory_attempts = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)

    #: Nano-USD that all of it may cost; NULL: no cap.
    cost_cap = models.BigIntegerField(null=True, blank=True, validators=[MinValueValidator(0)])

    objects: ClassVar[ConversationQuerySet] = ConversationQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "conversations"
        indexes = [
            models.Index(fields=["user", "-last_updated"], name="conversations_recent"),
            models.Index(
                fields=["last_updated"],
                condition=models.Q(title_source="default", deleted_at=None),
                name="conversations_unnamed",
            ),
            models.Index(
                fields=["compaction_due_at"],
                condition=models.Q(compaction_due_at__isnull=False)
                | models.Q(compaction_lease_expires_at__isnull=False),
                name="conversations_to_compact",
            ),
            models.Index(
                fields=["vectors_due_at"],
                condition=models.Q(vectors_due_at__isnull=False),
                name="conversations_without_vectors",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(temperature=None) | models.Q(temperature__range=(0.0, 2.0)),
                name="conversations_temperature_range",
            ),
            models.CheckConstraint(
                condition=models.Q(cost_cap=None) | models.Q(cost_cap__gte=0),
                name="conversations_cost_cap_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def is_unnamed(self) -> bool:
        return self.title_source == self.TitleSource.DEFAULT
