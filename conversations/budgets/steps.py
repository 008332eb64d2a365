"""Statements written once and run by either world: a step is sent to the database, its rows come back.

A movement of money is a generator of steps. `run` drives it on a cursor of Django's connection, `arun` on an
asynchronous psycopg connection; both inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

T = TypeVar("T")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Statements that go together: a lock, and what is to be read under it. The rows are those of the last."""

    statements: tuple[str, ...]
    values: Mapping[str, Any]


def step(*statements: str, **values: Any) -> Step:
    return Step(statements, values)


Steps = Generator[Step, list[Row], T]


class Cursor(Protocol):
    def execute(self, sql: Any, params: Any = None) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    @property
    def connection(self) -> Any: ...


def run(cursor: Cursor, steps: Steps[T]) -> T:
    """Drive the steps to their end on a cursor of Django's or psycopg's."""
    try:
        wanted = next(steps)
        while True:
            if len(wanted.statements) > 1:
                _must_be_in_transaction(cursor.connection)
            for statement in wanted.statements:
                cursor.execute(statement, wanted.values)
            wanted = steps.send(cursor.fetchall())
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(connection: AsyncConnection[Any], steps: Steps[T]) -> T:
    cursor = connection.cursor(row_factory=tuple_row)
    try:
        wanted = next(steps)
        while True:
            if len(wanted.statements) > 1:
                _must_be_in_transaction(connection)
            for statement in wanted.statements:
                await cursor.execute(statement, wanted.values)
            wanted = steps.send(await cursor.fetchall())
    except StopIteration as end:
        result: T = end.value
        return result


def _must_be_in_transaction(connection: Any) -> None:
    """A lock that the next statement counts on would be gone."""
    if connection.info.transaction_status == TransactionStatus.IDLE and connection.autocommit:
        raise RuntimeError("Rows of budgets open inside a transaction only.")
