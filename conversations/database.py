"""The pool of asynchronous connections that replies and streams use, and the care for Django's own connections."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.conf import settings
from django.db import OperationalError as DjangoOperationalError
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from psycopg import AsyncConnection, Cursor, OperationalError
from psycopg.rows import DictRow, RowFactory, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

Row = TypeVar("Row")
Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

#: What PostgreSQL's absence looks like to those who use the pool.
DATABASE_AWAY = (OperationalError, DjangoOperationalError, PoolTimeout)

#: Statements that are prepared look rows up by their keys, whatever the values: the first plan is as good as any. By
#: itself PostgreSQL plans the first five of each connection anew, which took longer than the statements do.
PLAN_ONCE = "SET plan_cache_mode = force_generic_plan"

#: Keys of Django's connection parameters that are Django's alone.
_DJANGO_ONLY = {"pool", "cursor_factory", "server_side_binding", "context", "prepare_threshold"}


def connection_arguments() -> dict[str, Any]:
    """What psycopg needs to reach the database that Django uses, the test database included."""
    wrapper = connections["default"]
    parameters = wrapper.get_connection_params()
    return {key: value for key, value in parameters.items() if key not in _DJANGO_ONLY}


def make_pool(size: int = settings.REPLY_DATABASE_POOL) -> Pool:
    """A closed pool of autocommitting connections; open it on the event loop that uses it."""
    return AsyncConnectionPool(
        kwargs={
            **connection_arguments(),
            "autocommit": True,
            "row_factory": dict_row,
            "prepare_threshold": 0,
        },
        min_size=1,
        max_size=size,
        timeout=10,
        open=False,
        name="replies",
        configure=_plan_once,
        check=None,
        # By default each pause between two tries is twice as long: after 20 s away, up to 16 s more.
        reconnect_timeout=1.0,
        reconnect_failed=_try_again,
    )


async def _plan_once(connection: AsyncConnection[Any]) -> None:
    await connection.execute(PLAN_ONCE)


@receiver(connection_created)
def plan_once(connection: BaseDatabaseWrapper, **signal: object) -> None:
    """For the statements of `plain_cursor`; those of the ORM are planned each time."""
    with connection.cursor() as cursor:
        cursor.execute(PLAN_ONCE)


@contextmanager
def plain_cursor(row_factory: RowFactory[Row]) -> Iterator[Cursor[Row]]:
    """psycopg's own cursor on this thread's connection, for what every request needs.

    PostgreSQL plans its statements once for each connection. Django's errors are raised, and its transactions hold.
    """
    wrapper = connections["default"]  # `connection` would look for it each time
    wrapper.ensure_connection()
    with wrapper.wrap_database_errors, Cursor(wrapper.connection, row_factory=row_factory) as cursor:
        yield cursor


@contextmanager
def one_snapshot() -> Iterator[None]:
    """Queries inside see one moment of the database. For reading: what is written in it may have to be tried again.

    Inside another transaction it is that one's view that counts.
    """
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


async def _try_again(pool: Pool) -> None:
    """Called about a second after a connection could not be made: begin anew, for as long as it takes."""
    await pool.check()


def close_lost_connections() -> None:
    """Close this thread's connection if PostgreSQL has ended it while it was idle: the next query opens another.

    Something to read on an idle connection is its end. This costs 10 µs where a query would cost a round trip.
    """
    for wrapper in connections.all(initialized_only=True):
        raw = wrapper.connection
        if raw is None:
            continue
        readable = select.poll()
        if not raw.closed:
            readable.register(raw.fileno(), select.POLLIN)
        if raw.closed or readable.poll(0):
            wrapper.close()
