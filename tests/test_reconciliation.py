"""Balances are compared with the ledger; what differs is shown, line by line, and left as it is."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any
from unittest import mock
from uuid import uuid4

import redis
from django.core.management import call_command
from django.test import TestCase
from django.utils import timezone

from conversations import reconciliation
from conversations.models import Budget, Hold, LedgerEntry, Scope
from conversations.money import DOLLAR
from conversations.reconciliation import compare, kept, reconcile


def day_of(subject: str = "1", *, scope: str = Scope.USER, **fields: Any) -> Budget:
    now = timezone.now()
    given = {
        "scope": scope,
        "subject": subject,
        "day": now.date(),
        "starts_at": now - timedelta(hours=1),
        "ends_at": now + timedelta(hours=20),
        "limit": 5 * DOLLAR,
    }
    return Budget.objects.create(**given | fields)


def line(charged: int, **fields: Any) -> LedgerEntry:
    given = {"kind": "settled", "purpose": "reply", "hold_id": uuid4(), "user_id": 1, "model": "a/b"}
    return LedgerEntry.objects.create(charged=charged, **given | fields)


def open_hold(amount: int, **fields: Any) -> Hold:
    given = {
        "purpose": "reply",
        "user_id": 1,
        "model": "a/b",
        "amount": amount,
        "input_tokens": 10,
        "max_tokens": 10,
        "price": {},
        "lease_expires_at": timezone.now() + timedelta(minutes=5),
    }
    return Hold.objects.create(**given | fields)


class ComparisonTests(TestCase):
    def test_a_balance_is_compared_with_all_lines_and_open_holds_that_name_it(self) -> None:
        person, everybody = day_of(spent=7, held=5), day_of("", scope=Scope.INSTALLATION, spent=4, held=5)
        line(3, user_budget_id=person.pk)
        line(4, user_budget_id=person.pk, installation_budget_id=everybody.pk)
        open_hold(5, user_budget_id=person.pk, installation_budget_id=everybody.pk)
        open_hold(9, user_budget_id=person.pk, state="void", resolved_at=timezone.now())
        self.assertEqual([row.drift for row in compare()], [0, 0])
        self.assertEqual({row.id: row.ledger for row in compare()}, {person.pk: 7, everybody.pk: 4})

    def test_a_single_nano_dollar_is_a_drift(self) -> None:
        budget = day_of(spent=DOLLAR)
        line(DOLLAR - 1, user_budget_id=budget.pk)
        self.assertEqual([row.drift for row in compare()], [1])

    def test_one_difference_does_not_make_up_for_another(self) -> None:
        first = day_of("1", spent=2, held=3)
        line(4, user_budget_id=first.pk)
        open_hold(1, user_budget_id=first.pk)
        second = day_of("2", spent=4)
        line(2, user_budget_id=second.pk)
        self.assertEqual([row.drift for row in compare()], [4, 2])

    def test_lines_of_a_budget_that_is_gone_are_a_drift(self) -> None:
        line(6, conversation_budget_id=uuid4())
        open_hold(2, conversation_budget_id=uuid4())
        self.assertEqual([(row.scope, row.drift) for row in compare()], [("", 6), ("", 2)])


class ReconcileTests(TestCase):
    def setUp(self) -> None:
        reconciliation._client().delete(reconciliation.KEPT)

    def test_the_result_is_kept_and_nothing_is_mended(self) -> None:
        self.assertIsNone(kept())
        budget = day_of(spent=10)
        with self.assertLogs("conversations.reconciliation", "WARNING") as logs:
            result = reconcile()
        self.assertIn(
            f"the budget {budget.pk} (user) says 10 spent and 0 held, the ledger 0 and 0", logs.output[0]
        )
        self.assertEqual((result.budgets, result.drifted, result.drift), (1, 1, 10))
        self.assertEqual(kept(), result)
        self.assertEqual(result.sentence, "1 balance differs from the ledger")
        budget.refresh_from_db()
        self.assertEqual(budget.spent, 10)

    def test_without_a_drift_the_log_is_silent(self) -> None:
        day_of(spent=10)
        line(10, user_budget_id=Budget.objects.get().pk)
        with self.assertNoLogs("conversations.reconciliation"):
            self.assertEqual(reconcile().sentence, "Ledger equals balances")

    def test_a_redis_that_is_away_stops_no_comparison(self) -> None:
        away = redis.Redis.from_url("redis://127.0.0.1:1/0", decode_responses=True)
        with mock.patch.object(reconciliation, "_client", lambda: away):
            self.assertEqual(reconcile().budgets, 0)
            self.assertIsNone(kept())


class CommandTests(TestCase):
    def run_command(self, *arguments: str) -> tuple[int, list[str]]:
        out, code = StringIO(), 0
        try:
            call_command("reconcile", *arguments, stdout=out)
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, out.getvalue().splitlines()

    def test_it_says_that_they_are_equal(self) -> None:
        day_of()
        self.assertEqual(
            self.run_command(), (0, ["Ledger equals balances. Compared: 1 balance. Drift: $0.00."])
        )

    def test_it_prints_what_differs_and_ends_with_one(self) -> None:
        right, wrong = day_of("7"), day_of("8", spent=1_500_000_001, held=2 * DOLLAR)
        line(DOLLAR, user_budget_id=wrong.pk)
        open_hold(2 * DOLLAR, user_budget_id=wrong.pk)
        code, lines = self.run_command()
        self.assertEqual(code, 1)
        self.assertEqual(
            lines[0].split(), ["scope", "subject", "day", "spent", "ledger", "held", "open", "holds", "drift"]
        )
        self.assertEqual(
            lines[1].split(),
            ["user", "8", str(wrong.day), "1.500000001", "1.00", "2.00", "2.00", "(1)", "0.500000001"],
        )
        self.assertEqual(
            lines[2], "1 balance differs from the ledger. Compared: 2 balances. Drift: $0.500000001."
        )
        self.assertNotIn(f"user   {right.subject}", "\n".join(lines))

    def test_all_prints_what_is_right_too(self) -> None:
        day_of("7")
        code, lines = self.run_command("--all")
        self.assertEqual((code, len(lines)), (0, 3))
