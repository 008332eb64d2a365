"""Whether the balances equal the ledger: what each budget says against the lines and open holds that name it.

A difference is shown and never mended: nobody could say afterwards which of the two was right.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from django.db import connection
from django.utils import timezone

logger = logging.getLogger(__name__)

#: The last result, for the admin's front page and for /metrics of any web process: fields of one Redis hash.
KEPT = "parley:reconciliation"

EQUAL = "Ledger equals balances"

#: One statement sees one state of the tables: a settlement in between would look like a drift.
STATEMENT = """
WITH lines AS (
    SELECT named.id, sum(entry.charged)::bigint AS charged
    FROM ledger_entries AS entry
    CROSS JOIN LATERAL (
        VALUES (entry.conversation_budget_id), (entry.user_budget_id), (entry.installation_budget_id)
    ) AS named (id)
    WHERE named.id IS NOT NULL
    GROUP BY named.id
), open_holds AS (
    SELECT named.id, sum(hold.amount)::bigint AS amount, count(*) AS count
    FROM budget_holds AS hold
    CROSS JOIN LATERAL (
        VALUES (hold.conversation_budget_id), (hold.user_budget_id), (hold.installation_budget_id)
    ) AS named (id)
    WHERE hold.state = 'held' AND named.id IS NOT NULL
    GROUP BY named.id
), compared AS (
    SELECT
        id, coalesce(budget.scope, '') AS scope, coalesce(budget.subject, '') AS subject, budget.day,
        coalesce(budget.spent, 0) AS spent, coalesce(lines.charged, 0) AS ledger,
        coalesce(budget.held, 0) AS held, coalesce(open_holds.amount, 0) AS open_amount,
        coalesce(open_holds.count, 0) AS open_holds
    FROM budgets AS budget FULL JOIN lines USING (id) FULL JOIN open_holds USING (id)
)
SELECT id, scope, subject, day, spent, ledger, held, open_amount, open_holds
FROM compared ORDER BY scope, subject, day
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One budget; amounts in nano-USD. Without a scope: lines or holds name a budget that does not exist."""

    id: UUID
    scope: str
    subject: str
    day: date | None
    spent: int
    ledger: int  #: charged by the lines that name this budget
    held: int
    open_amount: int  #: of the holds that name it and are not resolved
    open_holds: int

    @property
    def drift(self) -> int:
        """Both differences, without their signs: one does not make up for the other."""
        return abs(self.spent - self.ledger) + abs(self.held - self.open_amount)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a comparison found: of `budgets` budgets, these `drifted`."""

    at: datetime
    budgets: int
    drifted: int
    drift: int  #: nano-USD

    @property
    def sentence(self) -> str:
        if not self.drifted:
            return EQUAL
        rows = "1 balance differs" if self.drifted == 1 else f"{self.drifted} balances differ"
        return f"{rows} from the ledger"


def compare() -> list[Row]:
    """Every budget, by scope, subject and day."""
    with connection.cursor() as cursor:
        cursor.execute(STATEMENT)
        columns = [column.name for column in cursor.description or ()]
        return [Row(**dict(zip(columns, values, strict=True))) for values in cursor]


def result_of(rows: list[Row]) -> Result:
    drifts = [row.drift for row in rows if row.drift]
    return Result(at=timezone.now(), budgets=len(rows), drifted=len(drifts), drift=sum(drifts))


def reconcile() -> Result:
    """Compare, warn of each difference in the log, and keep the result for those who ask. Changes no balance."""
    rows = compare()
    for row in rows:
        if row.drift:
            logger.warning(
                "the budget %s (%s) says %d spent and %d held, the ledger %d and %d",
                row.id,
                row.scope or "missing",
                row.spent,
                row.held,
                row.ledger,
                row.open_amount,
            )
    result = result_of(rows)
    keep(result)
    return result


# --- The last result ----------------------------------------------------------------------------------------


@functools.cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1, decode_responses=True
    )


def keep(result: Result) -> None:
    """Best effort: a Redis that is away misses one result of many."""
    fields: dict[Any, Any] = {
        "at": result.at.timestamp(),
        "budgets": result.budgets,
        "drifted": result.drifted,
        "drift": result.drift,
    }
    try:
        _client().hset(KEPT, mapping=fields)
    except (redis.RedisError, OSError):
        logger.info("the comparison with the ledger could not be kept: Redis is away")


def kept() -> Result | None:
    """The last result; None: nothing was compared yet, or Redis is away."""
    try:
        fields: dict[str, str] = _client().hgetall(KEPT)  # type: ignore[assignment]
        return Result(
            at=datetime.fromtimestamp(float(fields["at"]), UTC),
            **{name: int(fields[name]) for name in ("budgets", "drifted", "drift")},
        )
    except (redis.RedisError, OSError, KeyError, ValueError):
        return None
