"""What was charged: by day, model, purpose, person and conversation, and what it will have been at the month's end.

A day that is over and rolled up is read from `daily_spend`, every other one from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Count, QuerySet, Sum
from django.utils import timezone
from psycopg.rows import tuple_row

from conversations.database import plain_cursor
from conversations.models import Budget, LedgerEntry, Scope

from .months import Month

Key = TypeVar("Key", bound=Hashable)

#: A day's lines are made after it began, wherever on Earth that was.
EARLIEST = timedelta(days=2)
#: Days with spend that a forecast goes by.
FORECAST_DAYS = 7


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which calls: of a person or of everybody, of which days, of one model, purpose or conversation, or of all."""

    user_id: int | None  #: None: everybody
    first: date
    last: date
    model: str = ""
    purpose: str = ""
    conversation_id: UUID | None = None

    @property
    def is_narrow(self) -> bool:
        return bool(self.model or self.purpose or self.conversation_id)

    @property
    def begins(self) -> datetime:
        """No line of these days was written before."""
        return datetime.combine(self.first, time(), UTC) - EARLIEST

    def entries(self) -> QuerySet[LedgerEntry]:
        """Its lines. What a late limit took over is not among them: those calls have their own."""
        found = LedgerEntry.objects.exclude(kind=LedgerEntry.Kind.OPENING).filter(
            created_at__gte=self.begins, day__range=(self.first, self.last)
        )
        if self.user_id is not None:
            found = found.filter(user_id=self.user_id)
        if self.model:
            found = found.filter(model=self.model)
        if self.purpose:
            found = found.filter(purpose=self.purpose)
        if self.conversation_id is not None:
            found = found.filter(conversation_id=self.conversation_id)
        return found


@dataclass(frozen=True, kw_only=True)
class Total:
    """A sum of calls. Cached input is part of the input, reasoning part of the output."""

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    charged: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            charged=self.charged + other.charged,
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The calls of one day, model and purpose."""

    day: date
    model: str
    purpose: str
    total: Total


@dataclass(frozen=True, kw_only=True)
class Share:
    """One part of a breakdown, the largest being the measure of all."""

    key: Any
    total: Total
    largest: int

    @property
    def share(self) -> int:
        """Its length beside the largest one, in per mille."""
        return self.total.charged * 1000 // self.largest if self.largest else 0


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day of a chart."""

    day: date
    total: Total = field(default_factory=Total)
    held: int = 0
    has_budget: bool = False  #: something was called that day
    limit: int | None = None  #: None: unlimited, where there was a budget

    @property
    def used(self) -> int:
        return self.total.charged + self.held


@dataclass(frozen=True, kw_only=True)
class Spend:
    """A month or a part of it, from one reading."""

    cells: tuple[Cell, ...]

    @property
    def total(self) -> Total:
        return sum((cell.total for cell in self.cells), Total())

    @property
    def by_day(self) -> dict[date, Total]:
        return _grouped(self.cells, lambda cell: cell.day)

    @property
    def by_model(self) -> list[Share]:
        return _shares(_grouped(self.cells, lambda cell: cell.model))

    @property
    def by_purpose(self) -> list[Share]:
        return _shares(_grouped(self.cells, lambda cell: cell.purpose))

    def on(self, day: date) -> Spend:
        return replace(self, cells=tuple(cell for cell in self.cells if cell.day == day))


#: A rolled-up day counts when nothing can come to it any more and it says what the budget says. A day takes in calls
#: that end after it: those hold money until then, or are free and over within a day. Of the other days the ledger is
#: read, from the first one on: who has called has a budget of that day.
PARTS = """
WITH days AS (
    SELECT subject::bigint AS user_id, day, sum(spent) AS spent,
        max(ends_at) < %(now)s - interval '1 day' AND sum(held) = 0 AS is_closed
    FROM budgets WHERE scope = 'user' AND day BETWEEN %(first)s AND %(last)s AND {subject}
    GROUP BY subject, day
), rolled AS (
    SELECT days.user_id, days.day
    FROM days JOIN daily_spend s ON s.user_id = days.user_id AND s.day = days.day
    WHERE days.is_closed AND %(conversation)s::uuid IS NULL
    GROUP BY days.user_id, days.day, days.spent HAVING sum(s.charged) = days.spent
), open AS (
    SELECT user_id, day FROM days EXCEPT SELECT user_id, day FROM rolled
)
SELECT {keys}, sum(requests)::bigint, sum(input_tokens)::bigint, sum(cached_tokens)::bigint,
    sum(output_tokens)::bigint, sum(charged)::bigint
FROM (
    SELECT s.user_id, s.day, s.model, s.purpose, s.requests, s.input_tokens, s.cached_tokens, s.output_tokens, s.charged
    FROM daily_spend s JOIN rolled USING (user_id, day)
    UNION ALL
    SELECT e.user_id, e.day, e.model, e.purpose, 1, e.input_tokens, e.cached_tokens, e.output_tokens, e.charged
    FROM ledger_entries e JOIN open USING (user_id, day)
    WHERE e.kind <> 'opening' AND {owner}
        AND e.created_at >= (SELECT min(day) FROM open)::timestamp AT TIME ZONE 'UTC' - interval '2 days'
        AND (%(conversation)s::uuid IS NULL OR e.conversation_id = %(conversation)s)
) part
WHERE (%(model)s = '' OR model = %(model)s) AND (%(purpose)s = '' OR purpose = %(purpose)s)
GROUP BY {keys}
"""


def read_spend(selection: Selection) -> Spend:
    """What was called and charged, by day, model and purpose."""
    return Spend(
        cells=tuple(
            Cell(day=day, model=model, purpose=purpose, total=total)
            for (day, model, purpose), total in _read(selection, "day", "model", "purpose")
        )
    )


def shares_of_people(selection: Selection) -> list[Share]:
    """By the id of the person."""
    return _shares({user_id: total for (user_id,), total in _read(selection, "user_id")})


def _read(selection: Selection, *keys: str) -> list[tuple[tuple[Any, ...], Total]]:
    values = {
        "user": selection.user_id,
        "first": selection.first,
        "last": selection.last,
        "model": selection.model,
        "purpose": selection.purpose,
        "conversation": selection.conversation_id,
        "now": timezone.now(),
    }
    everybody = selection.user_id is None
    query = PARTS.format(
        keys=", ".join(keys),
        owner="true" if everybody else "e.user_id = %(user)s",
        subject="true" if everybody else "subject = %(user)s::text",
    )
    with plain_cursor(tuple_row) as cursor:
        rows = cursor.execute(query, values).fetchall()
    return [(row[: len(keys)], _total(*row[len(keys) :])) for row in rows]


def _total(calls: int, input_tokens: int, cached_tokens: int, output_tokens: int, charged: int) -> Total:
    return Total(
        calls=calls,
        input_tokens=input_tokens,
        cached_tokens=cached_tokens,
        output_tokens=output_tokens,
        charged=charged,
    )


def _grouped(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> dict[Key, Total]:
    found: dict[Key, Total] = {}
    for cell in cells:
        found[key(cell)] = found.get(key(cell), Total()) + cell.total
    return found


def _shares(totals: dict[Any, Total]) -> list[Share]:
    """The most expensive first, then the most called."""
    largest = max((total.charged for total in totals.values()), default=0)
    parts = [Share(key=key, total=total, largest=largest) for key, total in totals.items()]
    return sorted(parts, key=lambda part: (-part.total.charged, -part.total.calls, str(part.key)))


def shares_of_conversations(selection: Selection) -> list[Share]:
    """By the id of the conversation; None: calls that belong to none. The roll-up knows no conversations."""
    rows = (
        selection.entries()
        .values("conversation_id")
        .annotate(
            calls=Count("pk"),
            input=Sum("input_tokens"),
            cached=Sum("cached_tokens"),
            output=Sum("output_tokens"),
            sum=Sum("charged"),
        )
    )
    return _shares(
        {
            row["conversation_id"]: _total(
                row["calls"], row["input"], row["cached"], row["output"], row["sum"]
            )
            for row in rows
        }
    )


def days_of(month: Month, spend: Spend, selection: Selection) -> list[Day]:
    """Every day of the month with what was charged, held and allowed; for everybody, the installation's limit.

    What was held and allowed is said of whole days alone, and not of one model, purpose or conversation.
    """
    charged = spend.by_day
    budgets = {} if selection.is_narrow else _budgets_of(month, selection.user_id)
    return [
        Day(
            day=day,
            total=charged.get(day, Total()),
            held=sum(budget.held for budget in budgets.get(day, [])),
            has_budget=day in budgets,
            limit=_limit_of(budgets.get(day, [])),
        )
        for day in month.days
    ]


def _budgets_of(month: Month, user_id: int | None) -> dict[date, list[Budget]]:
    scope, subject = (Scope.INSTALLATION, "") if user_id is None else (Scope.USER, str(user_id))
    by_day: dict[date, list[Budget]] = {}
    for budget in Budget.objects.filter(scope=scope, subject=subject, day__range=(month.first, month.last)):
        assert budget.day is not None  # it lies in the range
        by_day.setdefault(budget.day, []).append(budget)
    return by_day


def _limit_of(budgets: list[Budget]) -> int | None:
    """Two days may end on one date, after a change of time zone: what both allow counts for it."""
    limits = [budget.allowance for budget in budgets]
    return sum(limit or 0 for limit in limits) if limits and None not in limits else None


# --- The rest of the month ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a month will have cost at its end, between what it has cost and what it can cost.

    Each day left is taken to be the mean of the last seven days with spend. At most: the limit on each of these days;
    where there is none, the highest of the seven, and then it is a guess and no bound.
    """

    least: int
    about: int
    most: int
    mean: int
    days_with_spend: int
    days_left: int  #: after today
    limit: int | None  #: of a day


def forecast(user_id: int | None, *, today: date, so_far: int, limit: int | None) -> Forecast | None:
    """For the month of `today`, of which `so_far` was charged. None: there was no day with spend to go by."""
    budgets = Budget.objects.filter(scope=Scope.USER, day__lte=today)
    if user_id is not None:
        budgets = budgets.filter(subject=str(user_id))
    by_day = budgets.values("day").annotate(charged=Sum("spent")).order_by("-day")
    recent = list(
        by_day.filter(charged__gt=0, day__lt=today)[:FORECAST_DAYS].values_list("charged", flat=True)
    )
    if not recent:
        return None
    spent_today = by_day.filter(day=today).values_list("charged", flat=True).first() or 0
    mean, highest = sum(recent) // len(recent), max(recent)
    left = (Month.of(today).last - today).days
    # Today is one of the days to come until it has cost as much as they do.
    before = max(0, so_far - spent_today)
    ceiling = highest if limit is None else limit
    most = before + max(spent_today, ceiling) + ceiling * left
    return Forecast(
        least=so_far,
        about=min(before + max(spent_today, mean) + mean * left, most),
        most=most,
        mean=mean,
        days_with_spend=len(recent),
        days_left=left,
        limit=limit,
    )
