"""People: who signs in, by e-mail, in which time zone; and how strangers are let in."""

from __future__ import annotations

import zoneinfo
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone

from .fields import new_id


def validate_time_zone(name: str) -> None:
    """Accept the names of the IANA time zone database only."""
    if name not in zoneinfo.available_timezones():
        raise ValidationError(f"“{name}” is not a time zone. Use a name such as Europe/Oslo.")


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        if not email:
            raise ValueError("A user needs an e-mail address.")
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email__iexact=username)

    def lock(self, pk: int) -> None:
        """One transaction at a time goes on from here for a person. A send takes the same lock."""
        self.select_for_update(no_key=True).filter(pk=pk).values_list("pk").first()


class User(AbstractUser):
    """A person with an account. An administrator has `is_staff` and `is_superuser`."""

    username = None  # type: ignore[assignment]  # the e-mail address takes its place
    first_name = None  # type: ignore[assignment]
    last_name = None  # type: ignore[assignment]
    email = models.EmailField("e-mail", unique=True)
    name = models.CharField(max_length=120, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])
    theme = models.CharField(
        max_length=5, blank=True, choices=[("", "As the system"), ("light", "Light"), ("dark", "Dark")]
    )
    fallback_model = models.CharField(
        max_length=200,
        blank=True,
        help_text="Answers when the chosen model is not available. Empty: none does.",
    )
    #: Whether new facts are remembered, and what holds in all conversations is told in each.
    is_remembering = models.BooleanField(
        "remember what I say", default=True, db_default=True, help_text="Facts are kept with their source."
    )
    #: What new conversations begin with: the slug of a preset that comes with Parley or the id of a saved one.
    preset = models.CharField(max_length=36, default="", db_default="", blank=True)
    #: Nano-USD that this person may spend in a day; NULL: what their groups, or the installation, say.
    daily_limit = models.BigIntegerField(null=True, blank=True, validators=[MinValueValidator(0)])
    #: No limit at all, whatever the groups say.
    is_unlimited = models.BooleanField(default=False, db_default=False)
    single_keys = models.BooleanField(default=True, help_text="Shortcuts of a single key.")

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()  # type: ignore[assignment]

    class Meta:
        db_table = "users"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(daily_limit=None) | models.Q(daily_limit__gte=0, is_unlimited=False),
                name="users_limit_not_negative",
            )
        ]

    def __str__(self) -> str:
        return self.display_name

    def save(self, *args: Any, **kwargs: Any) -> None:
        # Addresses are compared as they are stored, here and in allauth.
        self.email = self.email.lower()
        super().save(*args, **kwargs)

    @property
    def display_name(self) -> str:
        return self.name or self.email

    @property
    def initials(self) -> str:
        words = (self.name or self.email.split("@")[0].replace(".", " ")).split()
        return "".join(word[0] for word in words[:2]).upper()

    def get_full_name(self) -> str:
        return self.display_name

    def get_short_name(self) -> str:
        return self.display_name


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def usable(self) -> InvitationQuerySet:
        return self.filter(accepted_at=None, expires_at__gt=timezone.now())


class Invitation(models.Model):
    """One person may make an account with this code, once, until it expires. Only the code's hash is kept."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    email = models.EmailField("e-mail", blank=True, help_text="Empty: whoever has the link.")
    code_hash = models.CharField(max_length=64, unique=True)
    invited_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="invitations")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    accepted_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    accepted_at = models.DateTimeField(null=True, blank=True)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        db_table = "invitations"

    def __str__(self) -> str:
        return f"Invitation for {self.email or 'anyone with the link'}"
