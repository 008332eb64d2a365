"""Empties the database after a test that has committed, in a few milliseconds.

Django truncates every table, which gives each of them and each of its indexes a new file, and then writes its
permissions again. Most tests leave a dozen rows: deleting those costs a tenth.
"""

from __future__ import annotations

from django.db import OperationalError, connection, transaction
from django.test import TransactionTestCase
from psycopg.errors import DeadlockDetected

#: What migrations write, and Django's own emptying keeps or writes again.
KEPT = ("django_migrations", "django_content_type", "auth_permission")
#: Refuses to lose a row; its trigger against being emptied is switched off for the tests.
LEDGER = "ledger_entries"
#: Deleting more rows than this takes longer than new files.
MANY = 1_000
#: Against others who are at work in the same tables.
TRIES = 5

TABLES = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> ALL (%s)
"""


def empty_tables() -> None:
    """A server that a test has left at work, at a title for example, may hold some of the rows and wait for others."""
    for tries_left in reversed(range(TRIES)):
        try:
            return empty_once()
        except OperationalError as error:
            if not tries_left or not isinstance(error.__cause__, DeadlockDetected):
                raise


def empty_once() -> None:
    quoted = connection.ops.quote_name
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TABLES, [list(KEPT)])
        tables = [str(name) for (name,) in cursor.fetchall()]
        rows = (f"(SELECT count(*) FROM (SELECT 1 FROM {quoted(name)} LIMIT {MANY}) few)" for name in tables)
        cursor.execute(f"SELECT {', '.join(rows)}")
        found = cursor.fetchone()
        assert found is not None
        used = {name: count for name, count in zip(tables, found, strict=True) if count}
        if any(count >= MANY for count in used.values()):
            cursor.execute(f"TRUNCATE {', '.join(map(quoted, tables))}")
            return
        if used.pop(LEDGER, 0):
            cursor.execute(f"TRUNCATE {quoted(LEDGER)}")
        if used:
            # Keys are looked at when all are gone, or take their rows with them: the order is of no concern.
            cursor.execute(";".join(f"DELETE FROM {quoted(name)}" for name in used))


def empty_quickly() -> None:
    """From now on, all tests that commit tidy up in this way."""

    def tidy_up(self: TransactionTestCase) -> None:
        empty_tables()

    TransactionTestCase._fixture_teardown = tidy_up  # type: ignore[attr-defined]
