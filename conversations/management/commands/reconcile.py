"""`manage.py reconcile`: what each budget says beside what its ledger says."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from conversations.money import exact
from conversations.reconciliation import Row, compare, result_of

COLUMNS = ("scope", "subject", "day", "spent", "ledger", "held", "open holds", "drift")


class Command(BaseCommand):
    help = "Compare every balance with the ledger. Changes nothing; ends with 1 if one of them differs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="print the balances that are right, too")

    def handle(self, *args: Any, all: bool, **options: Any) -> None:
        try:
            rows = compare()
        except DatabaseError:
            raise CommandError(
                "The ledger cannot be read: the database does not answer, or lacks its tables."
            ) from None
        result = result_of(rows)
        self._print([row for row in rows if all or row.drift])
        compared = "1 balance" if result.budgets == 1 else f"{result.budgets} balances"
        self.stdout.write(f"{result.sentence}. Compared: {compared}. Drift: ${exact(result.drift)}.")
        if result.drifted:
            sys.exit(1)

    def _print(self, rows: list[Row]) -> None:
        if not rows:
            return
        table = [COLUMNS, *(cells(row) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            self.stdout.write(
                "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            )


def cells(row: Row) -> tuple[str, ...]:
    opened = f"{exact(row.open_amount)} ({row.open_holds})"
    amounts = (exact(row.spent), exact(row.ledger), exact(row.held), opened, exact(row.drift))
    return (row.scope or "missing", row.subject or "-", f"{row.day or '-'}", *amounts)
