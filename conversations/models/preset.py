"""Presets that people made: named bundles of prompt, strategy and numbers. Those that come with Parley are code."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .fields import new_id
from .user import User


class PresetQuerySet(models.QuerySet["SavedPreset"]):
    def owned_by(self, user: User) -> PresetQuerySet:
        return self.filter(owner=user)

    def usable_by(self, user: User) -> PresetQuerySet:
        """A person's own, and what an administrator shares with all."""
        return self.filter(models.Q(owner=user) | models.Q(is_shared=True)).order_by("name", "id")


class SavedPreset(models.Model):
    """A preset for `context.presets.Preset.from_json`. Conversations keep a copy: a change acts on new ones."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    #: Who made it; NULL once they are gone: what is shared stays.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="presets"
    )
    name = models.CharField(max_length=60)
    values = models.JSONField(default=dict)
    is_shared = models.BooleanField(default=False, db_default=False)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    changed_at = models.DateTimeField(default=timezone.now, db_default=Now())

    objects: ClassVar[PresetQuerySet] = PresetQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "presets"
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="presets_named_once")]

    def __str__(self) -> str:
        return self.name
