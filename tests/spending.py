"""Money as rows, for tests of those who only read it: days, holds and ledger lines that add up."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from django.db.models import F
from django.utils import timezone

from conversations.models import Budget, Conversation, Hold, LedgerEntry, User
from conversations.money import CENT, DOLLAR

MODEL = "openai/gpt-5-mini"


def today_of(user: User) -> date:
    return timezone.now().astimezone(ZoneInfo(user.time_zone)).date()


def budget_of(
    user: User, day: date | None = None, *, limit: int | None = 5 * DOLLAR, **fields: Any
) -> Budget:
    """The person's day, today by default: made once, then as it is."""
    day = day or today_of(user)
    zone = ZoneInfo(user.time_zone)
    starts_at = datetime.combine(day, time(), zone).astimezone(UTC)
    ends_at = datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)
    values = {"day": day, "ends_at": ends_at, "limit": limit, **fields}
    return Budget.objects.get_or_create(
        scope="user", subject=str(user.pk), starts_at=starts_at, defaults=values
    )[0]


def line(
    user: User,
    charged: int = CENT,
    *,
    day: date | None = None,
    held: int | None = None,
    conversation: Conversation | None = None,
    at: datetime | None = None,
    **fields: Any,
) -> LedgerEntry:
    """A settled call. At noon of its day, now by default; its budget says so, too."""
    budget = budget_of(user, day)
    at = at or (timezone.now() if day is None else budget.starts_at + timedelta(hours=12))
    values: dict[str, Any] = {
        "kind": LedgerEntry.Kind.SETTLED,
        "purpose": "reply",
        "hold_id": uuid4(),
        "model": MODEL,
        "input_tokens": 1000,
        "output_tokens": 100,
        "usage_reported": True,
        "day": budget.day,
        "user_budget_id": budget.pk,
        "conversation_id": conversation.pk if conversation else None,
        "held_at": at,
        "created_at": at,
    }
    Budget.objects.filter(pk=budget.pk).update(spent=F("spent") + charged)
    return LedgerEntry.objects.create(
        user_id=user.pk, charged=charged, held=2 * charged if held is None else held, **(values | fields)
    )


def hold(
    user: User,
    amount: int = 14 * CENT,
    *,
    day: date | None = None,
    conversation: Conversation | None = None,
    **fields: Any,
) -> Hold:
    """A call on its way. Its budget holds the amount."""
    budget = budget_of(user, day)
    Budget.objects.filter(pk=budget.pk).update(held=F("held") + amount)
    values: dict[str, Any] = {
        "purpose": "reply",
        "model": MODEL,
        "input_tokens": 1000,
        "max_tokens": 2000,
        "price": {},
        "user_budget_id": budget.pk,
        "conversation_id": conversation.pk if conversation else None,
        "lease_expires_at": timezone.now() + timedelta(minutes=5),
        "sent_at": timezone.now(),
    }
    return Hold.objects.create(user_id=user.pk, amount=amount, **(values | fields))
