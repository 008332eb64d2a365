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

    def told_in(self, user: User, conversation_id: UUID, leaf_id: UUID | None) -> MemoryQuerySet:
        """What a request that ends in this leaf is told: the one definition, of which the claim has a copy in SQL.

        What holds in all of a person's conversations, unless they have switched remembering off; and of this one what
        nobody said in a message, or what a message of this path said.
        """
        return self.owned_by(user).in_force().filter(self._reaches(user, conversation_id, leaf_id))

    def proposed_in(self, user: User, conversation_id: UUID, leaf_id: UUID | None) -> MemoryQuerySet:
        """What waits for a yes where it would be told."""
        own = self.owned_by(user).filter(conversation=conversation_id, state=MemoryItem.State.PROPOSED)
        return own.filter(self._said_on_path(conversation_id, leaf_id)).order_by("id")

    def not_to_be_recalled(self, conversation_id: UUID) -> MemoryQuerySet:
        """Forgotten facts of a conversation whose message is still there: it is not quoted back."""
        forgotten = self.filter(conversation=conversation_id, state=MemoryItem.State.FORGOTTEN)
        return forgotten.exclude(source=None)

    def visible_to(self, user: User) -> MemoryQuerySet:
        """Of a person's own what they can see; what a deleted conversation knew is gone with it."""
        person = models.Q(scope=MemoryItem.Scope.PERSON)
        return self.owned_by(user).filter(person | models.Q(conversation__deleted_at=None))

    def _reaches(self, user: User, conversation_id: UUID, leaf_id: UUID | None) -> models.Q:
        here = models.Q(conversation=conversation_id) & self._said_on_path(conversation_id, leaf_id)
        return here | models.Q(scope=MemoryItem.Scope.PERSON) if user.is_remembering else here

    def _said_on_path(self, conversation_id: UUID, leaf_id: UUID | None) -> models.Q:
        path = Message.objects.of_path(conversation_id, leaf_id)
        return models.Q(source=None) | models.Q(source__in=path)


class MemoryItem(models.Model):
    """One version of a fact. A change is a new row that names the old one; nothing is overwritten."""

    class Kind(models.TextChoices):
        PROFILE = "profile", "About me"
        PREFERENCE = "preference", "Preference"
        DECISION = "decision", "Decision"
        CONSTRAINT = "constraint", "Rule"
        TASK = "task", "Task context"
        QUESTION = "question", "Open question"

    class Scope(models.TextChoices):
        CONVERSATION = "conversation", "This conversation"
        PERSON = "person", "All of mine"

    class State(models.TextChoices):
        PROPOSED = "proposed"  # not from the person's own words: waits for their yes
        ACTIVE = "active"
        SUPERSEDED = "superseded"  # a newer item says otherwise; a request may show it until the next cut
        REPLACED = "replaced"  # a person wrote it anew: no request shows it any more
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
    #: Why it waits for a yes, as one sentence.
    note = models.CharField(max_length=200, default="", db_default="", blank=True)
    #: When it was superseded, replaced or forgotten.
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[MemoryQuerySet] = MemoryQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "memory_items"
        indexes = [
            models.Index(
                fields=["user", "id"], condition=models.Q(state="active"), name="memory_items_in_force"
            ),
            models.Index(
                fields=["user", "state"], condition=models.Q(scope="person"), name="memory_items_of_person"
            ),
            models.Index(
                fields=["conversation", "source"],
                condition=models.Q(state="forgotten", source__isnull=False),
                name="memory_items_not_recalled",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=["proposed", "active", "superseded", "replaced", "forgotten"]),
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
