"""Rows that open: a person's new day, the installation's, and the cap of a conversation.

The last two may open late, when there were holds and charges without them: they take those over. A reservation that
knows of no such row shares a lock that an opening has alone, so either it sees the row or the row takes over its hold;
a reservation that needs the row waits for nobody. The locks go before all budgets, in the order cap, installation, day.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from django.conf import settings

from conversations.models import Scope
from conversations.models.fields import new_id

from . import statements as sql
from .days import day_at
from .steps import Steps, step

#: Classes of PostgreSQL's advisory locks, which `budget_reserve` knows, too. Two names of the same hash wait for each
#: other, and that is all.
CAP_LOCK, INSTALLATION_LOCK, DAY_LOCK = 330241, 330242, 330243

#: When a conversation's cap begins: a fixed moment, so that it has one row only.
EVER = datetime(1970, 1, 1, tzinfo=UTC)


def open_day(user_id: int, now: datetime | None) -> Steps[UUID | None]:
    """The row of a person's day, made if there is none; None: there is no such person."""
    subject = str(user_id)
    rows = yield step(
        sql.LOCK_OPENING,
        sql.PERSON,
        lock=DAY_LOCK,
        name=subject,
        subject=subject,
        user=user_id,
        now=now,
        default_limit=settings.DAILY_LIMIT,
    )
    if not rows:
        return None
    found, moment, time_zone, limit, previous_end = rows[0]
    if found is not None:
        return cast(UUID, found)
    day = day_at(moment, time_zone, previous_end=previous_end)
    made = yield step(
        sql.OPEN_DAY,
        budget=new_id(),
        subject=subject,
        day=day.label,
        starts_at=day.starts_at,
        ends_at=day.ends_at,
        limit=limit,
    )
    return cast(UUID, made[0][0])


def open_installation(now: datetime | None, limit: int | None) -> Steps[UUID]:
    """The row of the installation's day, made if there is none."""
    rows = yield step(sql.LOCK_INSTALLATION, sql.INSTALLATION, lock=INSTALLATION_LOCK, now=now)
    found, moment, previous_end = rows[0]
    if found is not None:
        return cast(UUID, found)
    day = day_at(moment, settings.TIME_ZONE, previous_end=previous_end)
    values = {
        "scope": Scope.INSTALLATION.value,
        "subject": "",
        "day": day.label,
        "starts_at": day.starts_at,
        "ends_at": day.ends_at,
        "limit": limit,
        "moment": moment,
    }
    return (yield from _open_late(sql.ADOPT_INSTALLATION, sql.OPEN_INSTALLATION, values))


def open_conversation(conversation_id: UUID, now: datetime | None, default: int | None) -> Steps[UUID]:
    """The row of a conversation's cap, made if there is none."""
    subject = str(conversation_id)
    rows = yield step(
        sql.LOCK_OPENING,
        sql.CONVERSATION,
        lock=CAP_LOCK,
        name=subject,
        conversation=subject,
        now=now,
    )
    found, moment, cap = rows[0]
    if found is not None:
        return cast(UUID, found)
    values = {
        "scope": Scope.CONVERSATION.value,
        "subject": subject,
        "conversation": subject,
        "day": None,
        "starts_at": EVER,
        "ends_at": None,
        "limit": default if cap is None else cap,
        "moment": moment,
    }
    return (yield from _open_late(sql.ADOPT_CONVERSATION, sql.OPEN_CONVERSATION, values))


def _open_late(adopt: str, insert: str, values: Mapping[str, Any]) -> Steps[UUID]:
    budget = new_id()
    rows = yield step(adopt, **values, budget=budget)
    yield step(insert, **values, budget=budget, line=new_id(), held=rows[0][0])
    return budget
