"""Limits: what administrators and owners say, and today's rows with it, in one transaction."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models import F

from conversations.models import Budget, BudgetGrant, Conversation, GroupLimit, Scope, User
from conversations.money import MOST

from . import statements as sql
from .opening import CAP_LOCK, DAY_LOCK, open_conversation, open_day, open_installation
from .steps import Steps, run, step


class Unlimited(Enum):
    UNLIMITED = "unlimited"


UNLIMITED = Unlimited.UNLIMITED
Limit = int | None | Unlimited


class BadAmount(ValueError):
    """An amount is a whole number of nano-USD, from nothing to a million dollars."""

    def __str__(self) -> str:
        return "Enter an amount from $0 to $1,000,000."


def set_user_limit(user: User, limit: Limit, *, now: datetime | None = None) -> None:
    """Limit a person's days from today on; None: as their groups or the installation say. Raises BadAmount."""
    with transaction.atomic(), connection.cursor() as cursor:
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        user.daily_limit = None if limit is UNLIMITED else _amount(limit)
        user.is_unlimited = limit is UNLIMITED
        user.save(update_fields=["daily_limit", "is_unlimited"])
        run(cursor, _apply([user.pk], now))


def set_group_limit(group: Group, limit: Limit, *, now: datetime | None = None) -> None:
    """Limit the days of a group's members from today on; None: it says nothing of limits. Raises BadAmount."""
    with transaction.atomic(), connection.cursor() as cursor:
        # Alone against another change of this group, its members included.
        Group.objects.select_for_update(no_key=True).get(pk=group.pk)
        if limit is None:
            GroupLimit.objects.filter(group=group).delete()
        else:
            daily = None if limit is UNLIMITED else _amount(limit)
            GroupLimit.objects.update_or_create(group=group, defaults={"daily_limit": daily})
        members = list(User.objects.filter(groups=group).values_list("pk", flat=True))
        run(cursor, _apply(members, now))


def apply_limits(user_ids: list[int] | None = None, *, now: datetime | None = None) -> int:
    """Bring today's rows of these people, or of all, in line with what is said. Returns how many changed.

    For what is said without the functions above: who is in a group, and the settings.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        changed = run(cursor, _apply(user_ids, now))
        if user_ids is None:
            changed += run(cursor, _apply_settings(now))
        return changed


def grant_extra(
    user: User, amount: int, *, reason: str, by: User | None, now: datetime | None = None
) -> BudgetGrant:
    """Give a person more money for today. Raises BadAmount."""
    if not 0 < _whole(amount) <= MOST:
        raise BadAmount
    with transaction.atomic(), connection.cursor() as cursor:
        budget = run(cursor, open_day(user.pk, now))
        if budget is None:
            raise User.DoesNotExist
        Budget.objects.filter(pk=budget).update(extra=F("extra") + amount)
        return BudgetGrant.objects.create(budget_id=budget, amount=amount, reason=reason[:300], granted_by=by)


def set_conversation_cap(conversation: Conversation, cap: int | None, *, now: datetime | None = None) -> None:
    """Cap what all of a conversation may cost; None: as the settings say. Raises BadAmount."""
    with transaction.atomic(), connection.cursor() as cursor:
        Conversation.objects.select_for_update(no_key=True).get(pk=conversation.pk)
        conversation.cost_cap = _amount(cap)
        conversation.save(update_fields=["cost_cap"])
        limit = settings.CONVERSATION_CAP if cap is None else cap
        rows = Budget.objects.filter(scope=Scope.CONVERSATION, subject=str(conversation.pk))
        # A cap that is taken away stays as a row without a limit, because there may be holds in it.
        if limit is not None or rows.exists():
            run(cursor, open_conversation(conversation.pk, now, limit))
            rows.update(limit=limit)
        else:
            run(cursor, _lock(CAP_LOCK, str(conversation.pk)))
            rows.update(limit=None)


def open_installation_day(*, now: datetime | None = None) -> None:
    """Open the installation's day if it has a limit and there is none yet."""
    if settings.INSTALLATION_DAILY_LIMIT is not None:
        with transaction.atomic(), connection.cursor() as cursor:
            run(cursor, open_installation(now, settings.INSTALLATION_DAILY_LIMIT))


def _apply(user_ids: list[int] | None, now: datetime | None) -> Steps[int]:
    # A day that is being opened at this moment would keep the former limit.
    for user_id in sorted(user_ids or ()):
        yield from _lock(DAY_LOCK, str(user_id))
    rows = yield step(sql.APPLY_LIMITS, users=user_ids, now=now, default_limit=settings.DAILY_LIMIT)
    return len(rows)


def _apply_settings(now: datetime | None) -> Steps[int]:
    caps = yield step(sql.APPLY_CAPS, limit=settings.CONVERSATION_CAP)
    installation = yield step(sql.APPLY_INSTALLATION, limit=settings.INSTALLATION_DAILY_LIMIT, now=now)
    return len(caps) + len(installation)


def _lock(lock: int, name: str) -> Steps[None]:
    yield step(sql.LOCK_OPENING, lock=lock, name=name)


def _amount(amount: int | None) -> int | None:
    if amount is None:
        return None
    if not 0 <= _whole(amount) <= MOST:
        raise BadAmount
    return amount


def _whole(amount: object) -> int:
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise BadAmount
    return amount
