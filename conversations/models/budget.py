"""Money: what may be spent, what is held for calls on their way, what was charged. Amounts are integers of nano-USD.

Holds and ledger keep plain ids and no foreign keys: they outlive the people and conversations that caused them. Only
`conversations.budgets` writes these tables.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.contrib.auth.models import Group
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from conversations.money import MOST

from .fields import new_id
from .user import User

_AMOUNT = [MinValueValidator(0), MaxValueValidator(MOST)]


class Purpose(models.TextChoices):
    """What a paid call was for."""

    REPLY = "reply"
    RETRY = "retry"  # another attempt at the same reply
    TITLE = "title"
    SUMMARY = "summary"
    MEMORY = "memory"


class Scope(models.TextChoices):
    """Who a budget bounds, in the order in which they are locked: the hottest row is held shortest."""

    CONVERSATION = "conversation"  # a cap without end: the breaker of a runaway conversation
    USER = "user"  # a person's day, in their time zone
    INSTALLATION = "installation"  # everybody's day, in the server's time zone


class GroupLimit(models.Model):
    """What each member of a group may spend in a day, unless the person has a limit of their own."""

    group = models.OneToOneField(Group, on_delete=models.CASCADE, primary_key=True, related_name="limit")
    #: NULL: unlimited.
    daily_limit = models.BigIntegerField(null=True, blank=True, validators=_AMOUNT)

    class Meta:
        db_table = "group_limits"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(daily_limit=None) | models.Q(daily_limit__range=(0, MOST)),
                name="group_limits_range",
            )
        ]

    def __str__(self) -> str:
        return f"limit of {self.group_id}"


class Budget(models.Model):
    """One scope's money for one of its days: at admission `spent + held + new hold <= limit + extra`.

    A reset is a new row. A conversation's cap has one row, which never ends.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    scope = models.CharField(max_length=12, choices=Scope)
    #: The user's or the conversation's id as text; empty for the installation.
    subject = models.CharField(max_length=36, default="", blank=True)
    #: The local date of the day's last moment, for reports; NULL for a conversation's cap.
    day = models.DateField(null=True, blank=True)
    starts_at = models.DateTimeField()
    #: The reset; NULL: never.
    ends_at = models.DateTimeField(null=True, blank=True)
    #: NULL: unlimited.
    limit = models.BigIntegerField(null=True, blank=True)
    #: Granted for this day on top of the limit.
    extra = models.BigIntegerField(default=0, db_default=0)
    spent = models.BigIntegerField(default=0, db_default=0)
    held = models.BigIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        db_table = "budgets"
        constraints = [
            models.UniqueConstraint(fields=["scope", "subject", "starts_at"], name="budgets_once"),
            models.CheckConstraint(condition=models.Q(scope__in=Scope.values), name="budgets_scope_known"),
            models.CheckConstraint(
                condition=models.Q(spent__gte=0, held__gte=0, extra__gte=0)
                & (models.Q(limit=None) | models.Q(limit__gte=0)),
                name="budgets_not_negative",
            ),
            models.CheckConstraint(
                condition=models.Q(ends_at=None) | models.Q(ends_at__gt=models.F("starts_at")),
                name="budgets_days_have_length",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.subject} {self.day or ''}"

    @property
    def allowance(self) -> int | None:
        """Nano-USD that may be spent, what was granted included; None: unlimited."""
        return None if self.limit is None else self.limit + self.extra


class Hold(models.Model):
    """Money that one provider call may cost at most, set aside before it is made. Resolved exactly once."""

    class State(models.TextChoices):
        HELD = "held"  # the call is about to be made, or on its way
        SETTLED = "settled"  # charged what it cost
        VOID = "void"  # answered with an error before any output, or never sent: nothing charged
        EXPIRED = "expired"  # nobody came back for it: charged what it must have cost

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    state = models.CharField(max_length=7, choices=State, default=State.HELD, db_default=State.HELD)
    purpose = models.CharField(max_length=7, choices=Purpose)
    user_id = models.BigIntegerField()
    #: The person who asked for it; NULL: work in the background.
    caused_by = models.BigIntegerField(null=True, blank=True)
    conversation_id = models.UUIDField(null=True, blank=True)
    reply_id = models.UUIDField(null=True, blank=True)
    #: The provider call it pays for; NULL until that is on record.
    attempt_id = models.UUIDField(null=True, blank=True)
    model = models.CharField(max_length=200)
    amount = models.BigIntegerField()
    #: What was counted on: tokens of the prompt at most, and the `max_tokens` that is sent.
    input_tokens = models.PositiveIntegerField()
    max_tokens = models.PositiveIntegerField()
    #: The rates that were used: see `conversations.prices.Price.snapshot`.
    price = models.JSONField()
    conversation_budget_id = models.UUIDField(null=True, blank=True)
    user_budget_id = models.UUIDField(null=True, blank=True)
    installation_budget_id = models.UUIDField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    #: Before this moment nobody but its owner resolves it.
    lease_expires_at = models.DateTimeField()
    #: When the request may have reached the provider: from then on it is charged at least its input.
    sent_at = models.DateTimeField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "budget_holds"
        constraints = [
            models.CheckConstraint(condition=models.Q(amount__gte=0), name="holds_not_negative"),
            models.CheckConstraint(
                condition=models.Q(state="held", resolved_at=None)
                | models.Q(state__in=["settled", "void", "expired"], resolved_at__isnull=False),
                name="holds_resolved_or_held",
            ),
            models.UniqueConstraint(
                fields=["attempt_id"], condition=~models.Q(attempt_id=None), name="holds_one_per_attempt"
            ),
        ]
        # None by lease: the few open holds are found by this one, and a renewed lease touches no index.
        indexes = [
            models.Index(fields=["user_id", "reply_id"], condition=models.Q(state="held"), name="holds_open"),
        ]

    def __str__(self) -> str:
        return f"hold {self.pk} ({self.state})"


class LedgerEntry(models.Model):
    """One line of the ledger: a hold's end, a free call, or what a budget begins with. Never changed or deleted."""

    class Kind(models.TextChoices):
        SETTLED = "settled"  # a hold: charged, the rest released
        VOID = "void"  # a hold: all of it released
        EXPIRED = "expired"  # a hold that nobody came back for
        FREE = "free"  # a call of a free model: tokens, and no money
        OPENING = "opening"  # what was spent before this budget had a limit

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=7, choices=Kind)
    purpose = models.CharField(max_length=7, choices=Purpose, blank=True)
    hold_id = models.UUIDField(null=True, blank=True)
    user_id = models.BigIntegerField(null=True, blank=True)
    caused_by = models.BigIntegerField(null=True, blank=True)
    conversation_id = models.UUIDField(null=True, blank=True)
    reply_id = models.UUIDField(null=True, blank=True)
    attempt_id = models.UUIDField(null=True, blank=True)
    model = models.CharField(max_length=200, blank=True)
    held = models.BigIntegerField(default=0, db_default=0)
    charged = models.BigIntegerField(default=0, db_default=0)
    input_tokens = models.PositiveIntegerField(default=0, db_default=0)  # all of them, cached included
    cached_tokens = models.PositiveIntegerField(default=0, db_default=0)
    cache_write_tokens = models.PositiveIntegerField(default=0, db_default=0)
    output_tokens = models.PositiveIntegerField(default=0, db_default=0)  # reasoning included
    reasoning_tokens = models.PositiveIntegerField(default=0, db_default=0)
    #: False: the provider reported no usage, so the counts are our own.
    usage_reported = models.BooleanField(default=False, db_default=False)
    #: Charged more than was held: a defect of the estimate, counted and shown.
    is_underestimate = models.BooleanField(default=False, db_default=False)
    price = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()))
    conversation_budget_id = models.UUIDField(null=True, blank=True)
    user_budget_id = models.UUIDField(null=True, blank=True)
    installation_budget_id = models.UUIDField(null=True, blank=True)
    #: The day of the user's budget that it counts for.
    day = models.DateField(null=True, blank=True)
    #: When the hold was made, or the free call.
    held_at = models.DateTimeField(default=timezone.now, db_default=Now())
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        db_table = "ledger_entries"
        verbose_name_plural = "ledger entries"
        constraints = [
            models.UniqueConstraint(
                fields=["hold_id"], condition=~models.Q(hold_id=None), name="ledger_one_per_hold"
            ),
            models.CheckConstraint(
                condition=models.Q(held__gte=0, charged__gte=0), name="ledger_not_negative"
            ),
        ]
        indexes = [
            models.Index(fields=["user_id", "-created_at"], name="ledger_of_user"),
            models.Index(fields=["conversation_id"], name="ledger_of_conversation"),
            models.Index(fields=["reply_id"], condition=~models.Q(reply_id=None), name="ledger_of_reply"),
            models.Index(fields=["created_at"], name="ledger_in_order"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.model} {self.charged}"

    @property
    def released(self) -> int:
        """Nano-USD of the hold that were not charged."""
        return max(0, self.held - self.charged)


class BudgetGrant(models.Model):
    """Extra money for one person's day, with the reason and who gave it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="grants")
    amount = models.BigIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MOST)])
    reason = models.CharField(max_length=300)
    granted_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        db_table = "budget_grants"
        constraints = [
            models.CheckConstraint(condition=models.Q(amount__gt=0), name="budget_grants_positive")
        ]

    def __str__(self) -> str:
        return f"{self.amount} for {self.budget_id}"


class SpendAlert(models.Model):
    """Somebody was told that a share of a day's limit is used up: once for each share and day."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="alerts")
    #: Per cent of the limit.
    share = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())
    #: When its notice in the page was put away.
    seen_at = models.DateTimeField(null=True, blank=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "spend_alerts"
        constraints = [models.UniqueConstraint(fields=["budget", "share"], name="spend_alerts_once")]

    def __str__(self) -> str:
        return f"{self.share} % of {self.budget_id}"


class DailySpend(models.Model):
    """The ledger rolled up: one row per person, day, model and purpose. Made again from the ledger at any time."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user_id = models.BigIntegerField()
    day = models.DateField()
    model = models.CharField(max_length=200)
    purpose = models.CharField(max_length=7, choices=Purpose)
    requests = models.PositiveIntegerField()
    input_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    charged = models.BigIntegerField()

    class Meta:
        db_table = "daily_spend"
        verbose_name_plural = "daily spend"
        constraints = [
            models.UniqueConstraint(fields=["user_id", "day", "model", "purpose"], name="daily_spend_once")
        ]
        indexes = [models.Index(fields=["day"], name="daily_spend_in_order")]

    def __str__(self) -> str:
        return f"{self.user_id} {self.day} {self.model}"


class PriceOverrideQuerySet(models.QuerySet["PriceOverride"]):
    def valid(self, at: datetime | None = None) -> PriceOverrideQuerySet:
        at = at or timezone.now()
        return self.filter(models.Q(valid_until=None) | models.Q(valid_until__gt=at), valid_from__lte=at)


class PriceOverride(models.Model):
    """What an administrator says that a model costs, from one date to another. Rates are nano-USD a million tokens."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    #: A model id of the catalogue, provider/name.
    model = models.CharField(max_length=200)
    is_free = models.BooleanField(default=False)
    input_rate = models.BigIntegerField(default=0, validators=_AMOUNT)
    output_rate = models.BigIntegerField(default=0, validators=_AMOUNT)
    #: NULL: as `input_rate`.
    cached_rate = models.BigIntegerField(null=True, blank=True, validators=_AMOUNT)
    cache_write_rate = models.BigIntegerField(null=True, blank=True, validators=_AMOUNT)
    valid_from = models.DateTimeField(default=timezone.now)
    valid_until = models.DateTimeField(null=True, blank=True)
    note = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    objects: ClassVar[PriceOverrideQuerySet] = PriceOverrideQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "price_overrides"
        verbose_name = "price"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(input_rate__gte=0, output_rate__gte=0)
                & (models.Q(cached_rate=None) | models.Q(cached_rate__gte=0))
                & (models.Q(cache_write_rate=None) | models.Q(cache_write_rate__gte=0)),
                name="price_overrides_not_negative",
            ),
            models.CheckConstraint(
                condition=models.Q(valid_until=None) | models.Q(valid_until__gt=models.F("valid_from")),
                name="price_overrides_dates_in_order",
            ),
        ]
        indexes = [models.Index(fields=["model", "-valid_from"], name="price_overrides_newest")]

    def __str__(self) -> str:
        return f"price of {self.model}"
