"""Says once, for each share and day, how much of a day's money is used: in the page, and by e-mail if there is any."""

from __future__ import annotations

import logging
import zoneinfo
from dataclasses import dataclass
from datetime import datetime
from smtplib import SMTPException
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connection
from django.db.models import F, QuerySet
from django.utils import timezone

from conversations.models import Budget, Scope, SpendAlert, User
from conversations.money import dollars

logger = logging.getLogger(__name__)

#: The newest row of each day that has not ended, with a limit of which a share can be used.
DUE = """
INSERT INTO spend_alerts (id, budget_id, share, created_at)
SELECT gen_random_uuid(), today.id, share, now()
FROM (
    SELECT DISTINCT ON (scope, subject) *
    FROM budgets WHERE ends_at > now() ORDER BY scope, subject, starts_at DESC
) AS today
CROSS JOIN unnest(%s::smallint[]) AS share
WHERE today."limit" + today.extra > 0 AND today.spent::numeric * 100 >= share * (today."limit" + today.extra)::numeric
ON CONFLICT (budget_id, share) DO NOTHING
"""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What a person is told: the highest share that is reached. Amounts in nano-USD."""

    alert_id: UUID
    share: int
    spent: int
    limit: int  #: with what was granted for this day
    resets_at: datetime

    @property
    def is_over(self) -> bool:
        return self.spent >= self.limit

    @property
    def sentence(self) -> str:
        return used_up("today's budget", self.spent, self.limit)


def raise_alerts() -> int:
    """Write down which shares of today's limits have been reached; returns how many are new. Safe to run twice."""
    with connection.cursor() as cursor:
        cursor.execute(DUE, [list(settings.ALERT_SHARES)])
        new: int = cursor.rowcount
        return new


def used_up(what: str, spent: int, limit: int) -> str:
    if spent >= limit:
        return f"All of {what} is used."
    return f"{spent * 100 // limit} % of {what} is used."


# --- In the page --------------------------------------------------------------------------------------------


def notice_for(user: User) -> Notice | None:
    """What the person has not put away yet, unless more was granted since and it is not true any more."""
    limit = F("budget__limit") + F("budget__extra")
    unseen = alerts_of(user).filter(seen_at=None, budget__ends_at__gt=timezone.now())
    reached = unseen.alias(used=F("budget__spent") * 100, needed=F("share") * limit).filter(
        used__gte=F("needed")
    )
    alert = reached.select_related("budget").order_by("-budget__starts_at", "-share").first()
    if alert is None or alert.budget.allowance is None or alert.budget.ends_at is None:
        return None
    return Notice(
        alert_id=alert.pk,
        share=alert.share,
        spent=alert.budget.spent,
        limit=alert.budget.allowance,
        resets_at=alert.budget.ends_at,
    )


def put_away(alert: SpendAlert) -> None:
    """Hide the notice, and with it those of lower shares of the same day."""
    SpendAlert.objects.filter(budget=alert.budget_id, share__lte=alert.share, seen_at=None).update(
        seen_at=timezone.now()
    )


def alerts_of(user: User) -> QuerySet[SpendAlert]:
    return SpendAlert.objects.filter(budget__scope=Scope.USER, budget__subject=str(user.pk))


# --- By e-mail ----------------------------------------------------------------------------------------------


def send_mails() -> int:
    """Send what is due today, one mail for the highest share of each budget; returns how many. None without EMAIL_URL.

    An alert is claimed before its mail is sent, so that two workers send one; when the mail server refuses, it is
    given back for the next round.
    """
    if not settings.MAIL:
        return 0
    due = Budget.objects.filter(alerts__mailed_at=None, alerts__isnull=False, ends_at__gt=timezone.now())
    server: BaseEmailBackend = get_connection()
    sent = 0
    for budget in due.distinct():
        claimed = _claim(budget)
        if not claimed:
            continue
        try:
            for message in _messages(budget, max(claimed.values())):
                message.connection = server
                sent += message.send()
        except (SMTPException, OSError) as error:
            SpendAlert.objects.filter(pk__in=claimed).update(mailed_at=None)
            logger.warning("alerts wait for the mail server: %s", type(error).__name__)
            break
    return sent


def _claim(budget: Budget) -> dict[UUID, int]:
    """The shares that nobody has sent a mail for; from now on it is ours to do."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE spend_alerts SET mailed_at = now() WHERE budget_id = %s AND mailed_at IS NULL "
            "RETURNING id, share",
            [budget.pk],
        )
        return dict(cursor.fetchall())


def _messages(budget: Budget, share: int) -> list[EmailMessage]:
    limit = budget.allowance
    if limit is None or budget.ends_at is None:
        return []
    if budget.scope == Scope.USER:
        what, people = "today's budget", User.objects.filter(pk=budget.subject)
    else:
        what, people = "everybody's budget of today", User.objects.filter(is_superuser=True)
    subject = f"Parley: {share} % of {what} is used" if share < 100 else f"Parley: {what} is used up"
    return [
        EmailMessage(subject=subject, body=_text(person, budget, what, limit), to=[person.email])
        for person in people.filter(is_active=True)
    ]


def _text(person: User, budget: Budget, what: str, limit: int) -> str:
    assert budget.ends_at is not None
    reset = budget.ends_at.astimezone(zoneinfo.ZoneInfo(person.time_zone))
    held = f", {dollars(budget.held)} held" if budget.held else ""
    left = max(0, limit - budget.spent - budget.held)
    lines = [
        used_up(what, budget.spent, limit),
        f"{dollars(budget.spent)} of {dollars(limit)} spent{held}, {dollars(left)} left.",
        f"It resets on {reset:%-d %B at %H:%M} ({person.time_zone}).",
        "Models that are free can be used without a limit.",
    ]
    if settings.PUBLIC_URL:
        lines.append(settings.PUBLIC_URL)
    return "\n".join(lines) + "\n"
