"""Presets that people made: named bundles of prompt, strategy and numbers. Those that come with Parley are code."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower, Now
from django.utils import timezone

from conversations.context.presets import Preset

from .fields import new_id
from .user import User

#: How long a deleted preset can be brought back.
KEPT_AFTER_DELETE = timedelta(days=30)


class PresetQuerySet(models.QuerySet["SavedPreset"]):
    def owned_by(self, user: User) -> PresetQuerySet:
        return self.filter(owner=user, deleted_at=None)

    def usable_by(self, user: User) -> PresetQuerySet:
        """A person's own, and what an administrator shares with all."""
        usable = self.filter(models.Q(owner=user) | models.Q(is_shared=True), deleted_at=None)
        return usable.order_by(Lower("name"), "id")

    def changeable_by(self, user: User) -> PresetQuerySet:
        """A person's own while it is theirs alone. What is shared is everybody's: administrators change it."""
        own = models.Q(owner=user, is_shared=False)
        return self.filter(own | models.Q(is_shared=True) if user.is_staff else own)

    def deleted_for_good(self) -> PresetQuerySet:
        """What nobody may bring back any more, and what its owner took with them."""
        long_ago = models.Q(deleted_at__lt=timezone.now() - KEPT_AFTER_DELETE)
        return self.filter(long_ago | models.Q(owner=None, is_shared=False))


class SavedPreset(models.Model):
    """A preset for `context.presets.Preset`. Conversations keep a copy: a change acts on new ones."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    #: Who made it; NULL once they are gone: what is shared stays.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="presets"
    )
    name = models.CharField(max_length=60)
    values = models.JSONField(default=dict)
    is_shared = models.BooleanField("shared with everyone", default=False, db_default=False)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    changed_at = models.DateTimeField(default=timezone.now, db_default=Now())
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[PresetQuerySet] = PresetQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "presets"
        verbose_name = "preset"
        constraints = [
            models.UniqueConstraint(
                "owner", Lower("name"), condition=models.Q(deleted_at=None), name="presets_named_once"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def preset(self) -> Preset:
        """Its values, as far as this version can read them."""
        return Preset.stored({**self.values, "slug": str(self.pk), "name": self.name})
