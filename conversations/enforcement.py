"""What Celery does each minute so that budgets hold while nobody looks. Each step is safe to run twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from django.db import OperationalError, connection, transaction
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils import timezone

from conversations import alerts, budgets
from conversations.budgets.opening import open_day
from conversations.budgets.steps import run
from conversations.models import Budget, Hold, Purpose, Reply, Scope, User
from conversations.replies.sending import stop_reply

logger = logging.getLogger(__name__)

#: Holds that one round resolves; the next round is a minute later.
MOST_HOLDS = 1000

#: The days that have new lines, with two days before the newest that is rolled up already (it may have been
#: unfinished, somewhere on Earth); nothing rolled up yet: all of them. A line is written at most a day before its
#: day begins in Greenwich, which lets the index by time find the lines.
ROLL_UP = """
WITH since AS (
    SELECT least(now() - interval '2 days', max(day)::timestamptz - interval '2 days') AS moment FROM daily_spend
    HAVING max(day) IS NOT NULL
), days AS (
    SELECT DISTINCT day FROM ledger_entries
    WHERE day IS NOT NULL AND created_at >= coalesce((SELECT moment FROM since), '-infinity')
)
INSERT INTO daily_spend (
    id, user_id, day, model, purpose, requests, input_tokens, cached_tokens, output_tokens, charged
)
SELECT
    gen_random_uuid(), user_id, day, model, purpose, count(*),
    sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(charged)
FROM ledger_entries
WHERE
    user_id IS NOT NULL AND kind <> 'opening'
    AND created_at >= (SELECT min(day) FROM days)::timestamptz - interval '2 days'
    AND day IN (SELECT day FROM days)
GROUP BY user_id, day, model, purpose
ON CONFLICT (user_id, day, model, purpose) DO UPDATE SET
    requests = excluded.requests, input_tokens = excluded.input_tokens,
    cached_tokens = excluded.cached_tokens, output_tokens = excluded.output_tokens, charged = excluded.charged
WHERE
    (daily_spend.requests, daily_spend.input_tokens, daily_spend.cached_tokens, daily_spend.output_tokens,
     daily_spend.charged)
    IS DISTINCT FROM
    (excluded.requests, excluded.input_tokens, excluded.cached_tokens, excluded.output_tokens, excluded.charged)
"""


def roll_up() -> int:
    """Make `daily_spend` again from the ledger, for the days that may have changed. Returns how many rows did.

    Refused calls count as requests, as they do in the reports.
    """
    with connection.cursor() as cursor:
        cursor.execute(ROLL_UP)
        changed: int = cursor.rowcount
        return changed


def expire_stale() -> int:
    """Resolve holds that nobody comes back for: sent ones are charged at least their input, the others released.

    That is a hold whose lease is over, unless its reply is still on its way (whoever ends the reply resolves it), and
    one whose reply has ended or is gone. Each in a transaction of its own, so that nothing waits for the whole round.
    """
    expired = 0
    for hold_id in abandoned():
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                expired += budgets.expire(cursor, hold_id=hold_id) is not None
        except (LookupError, TypeError, ValueError):
            logger.exception("the hold %s cannot be expired", hold_id)  # and keeps no other back
    return expired


def abandoned() -> list[UUID]:
    """The holds that are to be expired, the oldest first."""
    on_its_way = Reply.objects.filter(pk=OuterRef("reply_id")).on_their_way()
    is_over = Q(lease_expires_at__lt=Now())
    holds = Hold.objects.filter(~Exists(on_its_way), state=Hold.State.HELD)
    holds = holds.filter(
        is_over | (Q(reply_id__isnull=False) & Q(purpose__in=[Purpose.REPLY, Purpose.RETRY]))
    )
    return list(holds.order_by("lease_expires_at").values_list("pk", flat=True)[:MOST_HOLDS])


def stop_suspended() -> int:
    """Stop what is written, or waits, for people who may not sign in any more: it costs money and has no reader."""
    found = list(Reply.objects.filter(user__is_active=False, stop_requested_at=None).on_their_way())
    for reply in found:
        stop_reply(reply)
    return len(found)


def open_days() -> int:
    """Open the installation's day, and a new one for whoever spent something in the last; bring limits up to date.

    Others' days open with their first call. Returns how many people's days are open now.
    """
    budgets.open_installation_day()
    ended = timezone.now() - timedelta(days=2)
    newest = Budget.objects.filter(scope=Scope.USER, subject=OuterRef("subject")).order_by("-starts_at")
    over = Budget.objects.filter(
        pk=Subquery(newest.values("pk")[:1]), ends_at__range=(ended, timezone.now()), spent__gt=0
    )
    subjects = over.filter(scope=Scope.USER).values_list("subject", flat=True)
    people = User.objects.filter(pk__in=[int(subject) for subject in subjects], is_active=True)
    for user_id in people.values_list("pk", flat=True):
        with transaction.atomic(), connection.cursor() as cursor:
            run(cursor, open_day(user_id, None))
    budgets.apply_limits()
    return len(people)


#: In this order: what is resolved first is counted by what follows.
STEPS: tuple[Callable[[], int], ...] = (
    expire_stale,
    stop_suspended,
    open_days,
    alerts.raise_alerts,
    alerts.send_mails,
    roll_up,
)


def enforce() -> dict[str, int]:
    """All steps; one that fails is logged and keeps none of the others back. Says what each has done."""
    done = {}
    for take in STEPS:
        try:
            done[take.__name__] = take()
        except OperationalError:
            raise  # the database is away: the others would fail as well
        except Exception:
            logger.exception("budgets are not fully enforced: %s failed", take.__name__)
    return done
