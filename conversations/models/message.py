"""Messages: what was said, each hanging under the one it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .conversation import Conversation
from .fields import new_id

if TYPE_CHECKING:
    from .reply import Reply


_PATH = """
WITH RECURSIVE line AS (
    SELECT branch_id AS id, path_messages AS until FROM messages WHERE id = %s AND conversation_id = %s
    UNION ALL
    SELECT b.parent_id, least(line.until, b.until)
    FROM line JOIN message_branches b ON b.id = line.id WHERE b.parent_id IS NOT NULL
)
SELECT p.message_id FROM message_places p JOIN line ON p.branch_id = line.id AND p.depth <= line.until
WHERE p.conversation_id = %s
"""


def ids_on_path(conversation_id: UUID, leaf_id: UUID) -> models.expressions.RawSQL:
    """The messages from the root to a leaf, by the lines it stands on: see `MessageBranch`.

    They are read by their conversation, which the index of lines begins with.
    """
    return models.expressions.RawSQL(_PATH, [leaf_id, conversation_id, conversation_id])


def texts_of(relation: str) -> list[str]:
    """What to defer of a related message where its place is all that is asked for: it may have a megabyte of text."""
    return [f"{relation}__{name}" for name in ("content", "content_blocks", "reasoning")]


class MessageQuerySet(models.QuerySet["Message"]):
    def path_to(self, leaf_id: UUID | None, *, limit: int, until: UUID | None = None) -> list[Message]:
        """The newest `limit` messages from the root to `leaf_id`, oldest first; `until` is the last to read.

        Walks from the leaf upwards, so that its cost depends on `limit` and not on the conversation.
        """
        if leaf_id is None:
            return []
        rows = self.raw(
            """
            WITH RECURSIVE path AS (
                SELECT m.*, 1 AS step FROM messages m WHERE m.id = %s
                UNION ALL
                SELECT m.*, path.step + 1 FROM messages m JOIN path ON m.id = path.parent_id
                WHERE path.step < %s AND path.id IS DISTINCT FROM %s::uuid
            )
            SELECT * FROM path ORDER BY step DESC
            """,
            [leaf_id, limit, until],
        )
        return list(rows)

    def of_path(self, conversation_id: UUID, leaf_id: UUID | None) -> MessageQuerySet:
        """The messages from the root to `leaf_id`, by the lines they stand on: `path_messages` is their place."""
        if leaf_id is None:
            return self.none()
        return self.filter(conversation=conversation_id, pk__in=ids_on_path(conversation_id, leaf_id))

    def after_on_path(self, message_id: UUID, leaf_id: UUID, *, steps: int) -> UUID | None:
        """The message `steps` after another on the path to `leaf_id`; None past its end, or off the path."""
        rows = self.raw(
            """
            WITH RECURSIVE path AS (
                SELECT id, parent_id, 0 AS back FROM messages WHERE id = %s
                UNION ALL
                SELECT m.id, m.parent_id, path.back + 1 FROM messages m JOIN path ON m.id = path.parent_id
                WHERE path.id <> %s
            )
            SELECT after.id FROM path AS after JOIN path AS named ON named.id = %s AND after.back = named.back - %s
            """,
            [leaf_id, message_id, message_id, steps],
        )
        return next((row.pk for row in rows), None)


class Message(models.Model):
    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="messages", db_index=False
    )
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.CASCADE, related_name="children"
    )
    role = models.CharField(max_length=9, choices=Role)
    content = models.TextField()
    content_blocks = models.JSONField(null=True, blank=True)
    reasoning = models.TextField(default="", db_default="", blank=True)
    input_tokens = models.PositiveIntegerField(default=0, db_default=0)
    output_tokens = models.PositiveIntegerField(default=0, db_default=0)
    #: Tokens of the content alone in the usual vocabulary, counted once when it is written: `llm.tokens.scaled` makes
    #: those of a model of them.
    token_count = models.PositiveIntegerField(default=0, db_default=0)
    #: Sums over the path from the root to this message, itself included. A trigger of the database fills them in.
    path_tokens = models.BigIntegerField(default=0, db_default=0, editable=False)
    path_messages = models.PositiveIntegerField(default=1, db_default=1, editable=False)
    #: The line of messages without a fork that it stands on, see `MessageBranch`. Another trigger of the database.
    branch_id = models.BigIntegerField(null=True, editable=False)
    model_used = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001  # NULL for what people write
    #: Shown, but sent to no model until its owner keeps it: the text of a reply that was cut off.
    is_set_aside = models.BooleanField(default=False, db_default=False)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    reply: Reply  # the reply that wrote it, on an assistant's message
    objects: ClassVar[MessageQuerySet] = MessageQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "messages"
        indexes = [models.Index(fields=["conversation", "created_at"], name="messages_in_order")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(role__in=["user", "assistant"]), name="messages_role_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.role} message {self.pk}"

    @property
    def is_from_user(self) -> bool:
        return self.role == self.Role.USER
