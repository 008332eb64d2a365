"""The admin site and its first page: the day's money, who is near the limit, what was spent, whether the ledger agrees.

Not among the modules of `admin`: those register with the site, which must be there before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Sum
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils import timezone
from psycopg.rows import class_row

from conversations import reconciliation
from conversations.database import plain_cursor
from conversations.models import Budget, Hold, LedgerEntry, Scope, User
from conversations.reports import NEAR, Selection, Total, read_spend

MOST_PEOPLE = 20
DAYS = 30

#: The lists of the admin, by what they are about.
HEADINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("People", ("User", "Group", "Invitation")),
    ("Conversations", ("Conversation", "Reply", "SavedPreset")),
    ("Money", ("Budget", "Hold", "LedgerEntry", "PriceOverride")),
    ("Models", ("Provider",)),
)

PEOPLE = """
SELECT
    person.id, person.email, person.name, today.spent, today.held, today."limit" + today.extra AS "limit",
    today.ends_at AS resets_at,
    (
        SELECT count(*) FROM replies
        WHERE replies.user_id = person.id AND state IN ('waiting', 'queued', 'running')
    ) AS running
FROM (
    SELECT DISTINCT ON (subject) * FROM budgets
    WHERE scope = 'user' AND ends_at > %(now)s ORDER BY subject, starts_at DESC
) AS today
JOIN users AS person ON person.id::text = today.subject
WHERE today.spent + today.held > 0
ORDER BY
    (today.spent + today.held) / nullif(today."limit" + today.extra, 0)::numeric DESC NULLS LAST,
    today.spent + today.held DESC, person.email
"""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who has used something of their day; amounts in nano-USD."""

    id: int
    email: str
    name: str
    spent: int
    held: int
    limit: int | None  #: with what was granted; None: unlimited
    resets_at: datetime
    running: int  #: replies that are written or wait

    @property
    def share(self) -> int | None:
        """Per cent of the limit that is spent or held; None: unlimited."""
        if self.limit is None:
            return None
        return (self.spent + self.held) * 100 // self.limit if self.limit else 100

    @property
    def is_near(self) -> bool:
        return self.share is not None and self.share >= NEAR

    @property
    def spent_width(self) -> int:
        """Its part of a gauge of 100."""
        return min(100, self.spent * 100 // self.limit) if self.limit else 100

    @property
    def held_width(self) -> int:
        return min(100 - self.spent_width, self.held * 100 // self.limit) if self.limit else 0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One day of the chart, in its units: 720 wide, the axis 180 down."""

    day: date
    total: Total
    x: float
    height: int
    is_labelled: bool

    @property
    def y(self) -> int:
        return 180 - self.height

    @property
    def middle(self) -> float:
        return self.x + 9


@dataclass(frozen=True, kw_only=True)
class Everybody:
    """The installation's day, in the server's time zone."""

    spent: int
    limit: int | None
    held: int
    holds: int
    resets_at: datetime


def read_people() -> list[Person]:
    with plain_cursor(class_row(Person)) as cursor:
        return cursor.execute(PEOPLE, {"now": timezone.now()}).fetchall()


def read_everybody() -> Everybody:
    """Its budget if it has a limit, else what the ledger says since midnight."""
    now = timezone.now()
    zone = ZoneInfo(settings.TIME_ZONE)
    today = now.astimezone(zone).date()
    midnight = datetime.combine(today, time(), zone)
    held = Hold.objects.filter(state=Hold.State.HELD).aggregate(
        amount=Sum("amount", default=0), count=Count("id")
    )
    budget = Budget.objects.filter(scope=Scope.INSTALLATION, ends_at__gt=now).order_by("starts_at").last()
    if budget is not None and budget.allowance is not None and budget.ends_at is not None:
        spent, limit, resets_at = budget.spent, budget.allowance, budget.ends_at
    else:
        lines = LedgerEntry.objects.filter(created_at__gte=midnight, held_at__gte=midnight)
        lines = lines.exclude(kind=LedgerEntry.Kind.OPENING)
        spent, limit = lines.aggregate(charged=Sum("charged", default=0))["charged"], None
        resets_at = datetime.combine(today + timedelta(days=1), time(), zone)
    return Everybody(spent=spent, limit=limit, held=held["amount"], holds=held["count"], resets_at=resets_at)


def read_bars() -> list[Bar]:
    """The last thirty days, the newest on the right."""
    today = timezone.localdate()
    days = [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]
    totals = read_spend(Selection(user_id=None, first=days[0], last=days[-1])).by_day
    most = max((total.charged for total in totals.values()), default=0)
    return [
        Bar(
            day=day,
            total=(total := totals.get(day, Total())),
            x=4 + number * 23.8,
            # A day with any spend at all can be seen.
            height=max(2, total.charged * 160 // most) if total.charged else 0,
            is_labelled=number % 7 == (DAYS - 1) % 7,
        )
        for number, day in enumerate(days)
    ]


def read_today() -> dict[str, Any]:
    """What the first page shows."""
    people, bars = read_people(), read_bars()
    return {
        "everybody": read_everybody(),
        "people": people[:MOST_PEOPLE],
        "more_people": len(people[MOST_PEOPLE:]),
        "active_people": len(people),
        "all_people": User.objects.filter(is_active=True).count(),
        "running": sum(person.running for person in people),
        "near": sum(person.is_near for person in people),
        "near_share": NEAR,
        "bars": bars,
        "bars_total": sum((bar.total for bar in bars), Total()),
        "bars_most": max((bar.total.charged for bar in bars), default=0),
        "reconciled": reconciliation.kept(),
        "underestimates": LedgerEntry.objects.filter(
            is_underestimate=True, created_at__gte=timezone.now() - timedelta(days=DAYS)
        ).count(),
        "stale_holds": Hold.objects.filter(
            state=Hold.State.HELD, lease_expires_at__lt=timezone.now()
        ).count(),
    }


class ParleySite(admin.AdminSite):
    """The admin with money on its first page."""

    site_title = site_header = "Parley"
    index_title = "Administration"

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        return super().index(request, {"today": read_today(), **(extra_context or {})})

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[dict[str, Any]]:
        """All lists under Parley's own headings, whatever Django application a table belongs to."""
        found: list[dict[str, Any]] = super().get_app_list(request, app_label)
        if app_label is not None:
            return found
        models = {model["object_name"]: model for app in found for model in app["models"]}
        placed = [(name, [models.pop(noun) for noun in nouns if noun in models]) for name, nouns in HEADINGS]
        return [
            {
                "name": name,
                "app_label": name.lower(),
                "app_url": reverse("admin:index"),
                "has_module_perms": True,
                "models": rows,
            }
            for name, rows in [*placed, ("Others", list(models.values()))]
            if rows
        ]

    def get_urls(self) -> list[URLPattern | URLResolver]:
        page = self.admin_view(self.reconciliation_view)
        return [path("reconciliation/", page, name="reconciliation"), *super().get_urls()]

    def reconciliation_view(self, request: HttpRequest) -> TemplateResponse:
        """Compares now; changes nothing."""
        if not request.user.is_superuser:
            raise PermissionDenied
        rows = reconciliation.compare()
        context = {
            **self.each_context(request),
            "title": "Reconciliation",
            "result": reconciliation.result_of(rows),
            "rows": [row for row in rows if row.drift],
            "kept": reconciliation.kept(),
        }
        return TemplateResponse(request, "admin/reconciliation.html", context)
