"""The budget of the day: what is spent, held and left, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from django.conf import settings
from django.utils import timezone
from psycopg.rows import dict_row

from conversations.budgets.days import day_at
from conversations.budgets.statements import EFFECTIVE_LIMIT, GROUP_LIMITS
from conversations.database import plain_cursor
from conversations.models import User

#: From this share of the limit on, in per cent, a person is near it.
NEAR = 80


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A person's day: at admission `spent + held + new hold <= limit`."""

    day: date
    spent: int
    held: int
    limit: int | None  #: what was granted on top included; None: unlimited
    extra: int  #: granted on top
    resets_at: datetime
    calls: int  #: that hold money
    replies: int  #: of these calls, those that answer a person
    least: int = 0  #: the least that a paid call holds

    @property
    def used(self) -> int:
        return self.spent + self.held

    @property
    def left(self) -> int | None:
        """None: unlimited. Never below zero, whatever a lowered limit has made of it."""
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def share(self) -> int:
        """What is used of the limit, in whole per cent; 100 and more: nothing is left."""
        if self.limit is None:
            return 0
        return self.used * 100 // self.limit if self.limit else 100

    @property
    def is_out(self) -> bool:
        """No paid call fits any more."""
        return self.left is not None and self.left < max(self.least, 1)

    @property
    def is_near(self) -> bool:
        return self.share >= NEAR and not self.is_out

    @property
    def scale(self) -> int:
        """What the whole gauge stands for."""
        return max(self.limit or 0, self.used, 1)


#: The newest day of a person, with what they would get where it is over. Days follow each other without gap or
#: overlap, so that the newest one ends last.
CURRENT = f"""
SELECT
    b.day, b.ends_at, b."limit" + b.extra AS "limit", b.extra, b.spent, b.held, u.time_zone,
    {EFFECTIVE_LIMIT} AS effective_limit, h.calls, h.replies
FROM users u
{GROUP_LIMITS}
LEFT JOIN LATERAL (
    SELECT * FROM budgets WHERE scope = 'user' AND subject = u.id::text ORDER BY starts_at DESC LIMIT 1
) b ON true
CROSS JOIN LATERAL (
    SELECT count(*) AS calls, count(*) FILTER (WHERE purpose IN ('reply', 'retry')) AS replies
    FROM budget_holds WHERE user_id = u.id AND state = 'held' AND user_budget_id = b.id
) h
WHERE u.id = %(user)s
"""
OF_DAY = ("day", "spent", "held", "limit", "extra", "calls", "replies")


def meter_of(user_id: int, *, least: int = 0) -> Meter:
    """The person's day, in one query. One that nothing has opened yet is empty. Raises User.DoesNotExist."""
    with plain_cursor(dict_row) as cursor:
        values = {"user": user_id, "default_limit": settings.DAILY_LIMIT}
        row = cursor.execute(CURRENT, values).fetchone()
    if row is None:
        raise User.DoesNotExist
    now = timezone.now()
    if row["ends_at"] is not None and row["ends_at"] > now:
        return Meter(resets_at=row["ends_at"], least=least, **{name: row[name] for name in OF_DAY})
    day = day_at(now, row["time_zone"], previous_end=row["ends_at"])
    return Meter(
        day=day.label,
        spent=0,
        held=0,
        limit=row["effective_limit"],
        extra=0,
        resets_at=day.ends_at,
        calls=0,
        replies=0,
        least=least,
    )
