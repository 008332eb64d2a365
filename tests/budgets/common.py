"""Helpers of the tests of money: a price that is easy to reckon with, and asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
from django.db import connection, transaction

from conversations import budgets
from conversations.budgets import Ask, Held
from conversations.database import connection_arguments
from conversations.llm.types import Usage
from conversations.prices import MILLION, Price, Rates, free_price

MODEL = "openai/test"
#: A nano-USD for each token, of the prompt and of the answer: an ask for 100 and 900 tokens holds 1,000.
PRICE = Price(
    model=MODEL, rates=Rates(input=MILLION, cached=MILLION // 10, cache_write=MILLION, output=MILLION)
)
FREE = free_price("local/test")


def ask(user_id: int, **fields: Any) -> Ask:
    usual = Ask(user_id=user_id, model=MODEL, price=PRICE, input_tokens=100, max_tokens=900, floor=900)
    return replace(usual, **fields)


def usage(input_tokens: int = 100, output_tokens: int = 0) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens)


def reserve(wanted: Ask, **fields: Any) -> Held:
    with transaction.atomic(), connection.cursor() as cursor:
        held = budgets.reserve(cursor, wanted, **fields)
    assert held is not None
    return held


def settle(held: Held, spent: Usage, **fields: Any) -> int | None:
    with transaction.atomic(), connection.cursor() as cursor:
        return budgets.settle(cursor, hold_id=held.hold_id, usage=spent, usage_reported=True, **fields)


def connect() -> psycopg.Connection[tuple[Any, ...]]:
    """A connection of one's own, as another process has it."""
    return psycopg.connect(**connection_arguments(), autocommit=True, cursor_factory=psycopg.ClientCursor)


def at_once(*movements: Callable[[psycopg.Cursor[Any]], Any], within: float = 60) -> list[Any]:
    """Make movements at the same time, each on a connection and in a transaction of its own.

    Returns what each gave, or the exception that it raised.
    """
    start = threading.Barrier(len(movements))

    def move(movement: Callable[[psycopg.Cursor[Any]], Any]) -> Any:
        with connect() as own, own.cursor() as cursor:
            start.wait(within)
            try:
                with own.transaction():
                    return movement(cursor)
            except Exception as error:
                return error

    with ThreadPoolExecutor(len(movements)) as threads:
        return [done.result(within) for done in [threads.submit(move, movement) for movement in movements]]


DRIFT = """
SELECT b.scope, b.subject, b.spent, b.held, l.charged, h.held
FROM budgets b, LATERAL (
    SELECT coalesce(sum(charged), 0)::bigint AS charged FROM ledger_entries
    WHERE b.id IN (conversation_budget_id, user_budget_id, installation_budget_id)
) l, LATERAL (
    SELECT coalesce(sum(amount), 0)::bigint AS held FROM budget_holds
    WHERE state = 'held' AND b.id IN (conversation_budget_id, user_budget_id, installation_budget_id)
) h
WHERE (b.spent, b.held) IS DISTINCT FROM (l.charged, h.held)
"""


def drift() -> list[Any]:
    """Budgets that are not the sum of their ledger and of their open holds."""
    with connection.cursor() as cursor:
        cursor.execute(DRIFT)
        return list(cursor.fetchall())
