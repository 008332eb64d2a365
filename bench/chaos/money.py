"""What the killing did to the money: a witness that looks into the budgets all the while, and the final sums."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bench.chaos.words import ORDERS
from chatapp.embedded import paths

#: Dollars per million tokens in and out, of both models of the provider.
PRICE = "2.00/8.00"
#: The same in nano-USD a token.
INPUT, OUTPUT = 2_000, 8_000

ABOVE = """
SELECT id::text AS id, spent, held, "limit", extra FROM budgets
WHERE "limit" IS NOT NULL AND spent + held > "limit" + extra
"""

SUMS = """
SELECT b.id::text AS id, b.scope, b.spent, b.held,
    coalesce((SELECT sum(charged) FROM ledger_entries l
        WHERE b.id IN (l.user_budget_id, l.installation_budget_id, l.conversation_budget_id)), 0)::bigint AS ledger,
    coalesce((SELECT sum(amount) FROM budget_holds h WHERE h.state = 'held'
        AND b.id IN (h.user_budget_id, h.installation_budget_id, h.conversation_budget_id)), 0)::bigint AS open
FROM budgets b
"""

HOLDS = """
SELECT h.id::text AS id, h.state, h.attempt_id::text AS attempt, h.amount, l.charged, l.usage_reported,
    l.is_underestimate, l.input_tokens, l.output_tokens, l.kind, extract(epoch FROM h.created_at)::float AS held_at,
    (SELECT count(*) FROM ledger_entries o WHERE o.hold_id = h.id)::int AS lines
FROM budget_holds h LEFT JOIN ledger_entries l ON l.hold_id = h.id
"""

ATTEMPTS = """
SELECT a.id::text AS id, a.state, a.error_code, q.content AS question, extract(epoch FROM a.started_at)::float AS began
FROM reply_attempts a JOIN replies r ON r.id = a.reply_id JOIN messages q ON q.id = r.question_id
"""


@dataclass
class Sampler:
    """Looks for a budget above its limit, some twenty times a second, for as long as PostgreSQL answers."""

    url: str
    looks: int = 0
    above: list[dict[str, Any]] = field(default_factory=list)
    most_held: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join(10)

    def _run(self) -> None:
        while not self._over.is_set():
            with (
                suppress(psycopg.Error),
                psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection,
            ):
                while not self._over.wait(0.05):
                    self._look(connection)
            self._over.wait(0.2)

    def _look(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self.above += connection.execute(ABOVE).fetchall()
        row = connection.execute("SELECT coalesce(sum(held), 0)::bigint AS held FROM budgets").fetchone()
        self.most_held = max(self.most_held, row["held"] if row else 0)
        self.looks += 1


@dataclass
class Money:
    """Figures, and a line for each broken promise. Amounts are nano-USD."""

    looks: int = 0  #: of the sampler
    over_limit: int = 0  #: times that it found a budget above its limit
    most_held: int = 0
    holds: dict[str, int] = field(default_factory=dict)  #: by state
    holds_open: int = 0  #: holds that nobody resolved
    holds_twice: int = 0  #: holds with more than one line in the ledger, or with none
    budgets: int = 0
    drift: int = 0  #: budgets that are not the sum of their ledger and of their open holds
    calls_unpaid: int = 0  #: calls of the provider without a hold that was there before them
    calls_uncharged: int = 0  #: calls that began an answer and were charged nothing
    wrong_charges: int = 0  #: reported usage that was not charged at its price
    underestimates: int = 0
    charged: int = 0
    broken: list[str] = field(default_factory=list)

    def note(self, name: str, sentence: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
        self.broken.append(f"{name}: {sentence}")


def hold_of_a_beginning(data: Path) -> int:
    """Nano-USD of the largest hold so far for a message that begins a conversation, as those of the race do."""
    return _number(
        data,
        """
        SELECT max(h.amount) FROM budget_holds h JOIN replies r ON r.id = h.reply_id
        JOIN messages q ON q.id = r.question_id WHERE q.path_messages = 1 AND h.purpose = 'reply'
        """,
    )


def spent_today(data: Path) -> int:
    """Nano-USD: what an installation's day that opens now begins with."""
    return _number(
        data, "SELECT coalesce(sum(charged), 0) FROM ledger_entries WHERE created_at > now()::date"
    )


def _number(data: Path, query: str) -> int:
    with psycopg.connect(paths.database_url(data)) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def cost_of(row: dict[str, Any]) -> int:
    """By hand: tokens times rate."""
    cost: int = row["input_tokens"] * INPUT + row["output_tokens"] * OUTPUT
    return cost


def check(data: Path, sampler: Sampler, calls: list[dict[str, Any]]) -> Money:
    """P2 and P3, from the tables, the sampler and the provider's own record of its calls."""
    money = Money(looks=sampler.looks, over_limit=len(sampler.above), most_held=sampler.most_held)
    money.broken += [f"over_limit: {row}" for row in sampler.above[:5]]
    with psycopg.connect(paths.database_url(data), row_factory=dict_row) as connection:
        sums, holds = connection.execute(SUMS).fetchall(), connection.execute(HOLDS).fetchall()
        attempts = connection.execute(ATTEMPTS).fetchall()
    money.budgets = len(sums)
    for row in sums:
        if (row["spent"], row["held"]) != (row["ledger"], row["open"]):
            money.note("drift", str(row))
    for row in holds:
        money.holds[row["state"]] = money.holds.get(row["state"], 0) + 1
        if row["state"] == "held":
            money.note("holds_open", row["id"])
        elif row["lines"] != 1:
            money.note("holds_twice", f"{row['id']} has {row['lines']} lines")
        if row["is_underestimate"]:
            money.note("underestimates", row["id"])
        if row["usage_reported"] and row["charged"] != cost_of(row):
            money.note("wrong_charges", f"{row['id']}: {row['charged']}, by hand {cost_of(row)}")
        money.charged += row["charged"] or 0
    check_calls(money, holds, attempts, calls)
    return money


def check_calls(
    money: Money, holds: list[dict[str, Any]], attempts: list[dict[str, Any]], calls: list[dict[str, Any]]
) -> None:
    """Each call that reached the provider had its hold before, and whatever it may have cost was charged."""
    by_attempt = {row["attempt"]: row for row in holds if row["attempt"]}
    by_tag: dict[str, list[dict[str, Any]]] = {}
    for attempt in attempts:
        if found := ORDERS.search(attempt["question"]):
            by_tag.setdefault(found[1], []).append(attempt)
    for call in calls:
        if call["what"] != "called":
            continue
        # The clock of the provider and the database's are one.
        before = [
            attempt
            for attempt in by_tag.get(call["tag"], [])
            if (hold := by_attempt.get(attempt["id"])) and hold["held_at"] <= call["at"] + 0.001
        ]
        if not before:
            money.note("calls_unpaid", call["tag"])
        elif not any(by_attempt[attempt["id"]]["charged"] for attempt in before):
            money.note("calls_uncharged", call["tag"])
