"""System prompts that were replaced: a trigger of the database keeps each one that a model may have seen."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .conversation import Conversation


class SystemPrompt(models.Model):
    """An earlier system prompt of a conversation. Manifests name it by its digest; it goes with its conversation."""

    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="system_prompts", db_index=False
    )
    #: Of the text as UTF-8, in hexadecimal digits.
    sha256 = models.CharField(max_length=64)
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        db_table = "system_prompts"
        constraints = [
            models.UniqueConstraint(fields=["conversation", "sha256"], name="system_prompts_kept_once")
        ]

    def __str__(self) -> str:
        return f"system prompt {self.sha256[:12]}"
