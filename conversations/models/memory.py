"""Memory: what Parley keeps of what a person said, one fact a row, with its source and its history."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .conversation import Conversation
from .fields import new_id
from .message import Message
from .user import User


class MemoryQuerySet(models.QuerySet["MemoryItem"]):
    def owned_by(self, user: User) -> MemoryQuerySet:
        return self.filter(user=user)

    def in_force(self) -> MemoryQuerySet:
        """In the order in which it was learned."""
        return self.filter(state=MemoryItem.State.ACTIVE).order_by("id")

    def for_conversation(self, user: User, conversation_id: UUID) -> MemoryQuerySet:
        """What may be told in a conversation: its own, and what holds in all of this person's."""
        return self.owned_by(user).filter(
            models.Q(scope=MemoryItem.Scope.PERSON) | models.Q(conversation=conversation_id)
        )


class MemoryItem(models.Model):
    """One version of a fact. A change is a new row that names the old one; nothing is overwritten."""

    class Kind(models.TextChoices):
        PROFILE = "profile", "About me"
        PREFERENCE = "preference", "Preference"
        DECISION = "decision", "Decision"
        CONSTRAINT = "constraint", "Constraint"
        TASK = "task", "Task context"
        QUESTION = "question", "Open question"

    class Scope(models.TextChoices):
        CONVERSATION = "conversation", "This conversation"
        PERSON = "person", "All of mine"

    class State(models.TextChoices):
        PROPOSED = "proposed"  # not from the person's own words: waits for their yes
        ACTIVE = "active"
        SUPERSEDED = "superseded"  # a newer item says otherwise
        FORGOTTEN = "forgotten"  # its text is erased; what it was made of must not come back

    class Origin(models.TextChoices):
        MODEL = "model"
        PERSON = "person"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memory")
    #: Where it was learned; NULL for what a person wrote on the memory page.
    conversation = models.ForeignKey(
        Conversation, null=True, blank=True, on_delete=models.CASCADE, related_name="memory"
    )
    scope = models.CharField(max_length=12, choices=Scope, default=Scope.CONVERSATION)
    kind = models.CharField(max_length=10, choices=Kind)
    text = models.TextField()
    token_count = models.PositiveIntegerField(default=0, db_default=0)
    is_pinned = models.BooleanField(default=False, db_default=False)
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE, db_default=State.ACTIVE)
    origin = models.CharField(max_length=6, choices=Origin, default=Origin.MODEL, db_default=Origin.MODEL)
    #: The message that said it.
    source = models.ForeignKey(Message, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    supersedes = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="superseded_by"
    )
    #: Of a forgotten item: digests of its words, by which it is known when a model writes it again.
    traces = models.JSONField(default=list, db_default=models.Value([], models.JSONField()), blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    #: When it was superseded or forgotten.
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[MemoryQuerySet] = MemoryQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "memory_items"
        indexes = [
            models.Index(
                fields=["user", "id"], condition=models.Q(state="active"), name="memory_items_in_force"
            )
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=["proposed", "active", "superseded", "forgotten"]),
                name="memory_items_state_known",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    kind__in=["profile", "preference", "decision", "constraint", "task", "question"]
                ),
                name="memory_items_kind_known",
            ),
            models.CheckConstraint(
                condition=models.Q(scope="person")
                | models.Q(scope="conversation", conversation__isnull=False),
                name="memory_items_scope_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"
