"""What recall reads instead of the messages: where each stands, which words it has, what it means.

The database fills these tables in the transaction that writes the message, whoever writes it. The vector alone comes
from the product.
"""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from pgvector.django import VectorField

from .conversation import Conversation
from .message import Message


class MessageBranch(models.Model):
    """A line of messages without a fork: the path to a leaf is a few of them, each up to a depth.

    A message goes on in the line of the one it answers; the second answer to a message begins a line of its own.
    """

    id = models.BigAutoField(primary_key=True)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="branches")
    #: The line that this one left, and the depth of the last message they share. A root leaves none.
    parent_id = models.BigIntegerField(null=True)
    until = models.PositiveIntegerField(default=0, db_default=0)
    #: Text-search configurations that its messages were read with, the latest last.
    languages = ArrayField(models.CharField(max_length=20), default=list, db_default=[])
    #: The transaction that last changed or took away a place that it had already; not those that come at its end.
    changed_in = models.BigIntegerField(default=0, db_default=0)

    class Meta:
        db_table = "message_branches"
        verbose_name_plural = "message branches"

    def __str__(self) -> str:
        return f"Branch {self.pk}"


class MessagePlace(models.Model):
    """One narrow row for each message, so that all of a conversation's can be read on each turn."""

    id = models.BigAutoField(primary_key=True)
    message = models.OneToOneField(Message, on_delete=models.CASCADE, related_name="place")
    conversation_id = models.UUIDField()
    branch_id = models.BigIntegerField()
    depth = models.PositiveIntegerField()  #: messages from the root to this one, itself included
    tokens = models.PositiveIntegerField()
    is_set_aside = models.BooleanField()
    #: NULL in a short conversation, where the workers have not been yet, and without word vectors: see `meanings`.
    embedding = VectorField(dimensions=256, null=True)
    #: Which pieces of words it has (`llm.embeddings.Meaning`), written with the vector, and true only beside one.
    pieces = models.BinaryField(null=True)

    class Meta:
        db_table = "message_places"
        indexes: ClassVar = [
            models.Index(fields=["conversation_id", "branch_id", "depth"], name="message_places_line"),
        ]

    def __str__(self) -> str:
        return f"Place {self.depth} on branch {self.branch_id}"


class MessagePosting(models.Model):
    """That a message has a word, and how often. The rows of one word in one conversation are a stretch of the key."""

    pk = models.CompositePrimaryKey("conversation_id", "lexeme", "place_id")
    #: A trigger takes its words along when a place is deleted; a key would look the place up for each of them.
    place = models.ForeignKey(MessagePlace, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    conversation_id = models.UUIDField()
    #: Which message of its conversation with this word it is, from 1: the last one's is the document frequency.
    number = models.PositiveIntegerField()
    frequency = models.PositiveSmallIntegerField()
    lexeme = models.CharField(max_length=100, db_collation="C")

    class Meta:
        db_table = "message_postings"

    def __str__(self) -> str:
        return f"{self.lexeme} in {self.place_id}"
