"""Many at once: what fits is held, nothing more, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from django.test import TransactionTestCase, override_settings

from conversations import budgets
from conversations.budgets import BudgetRefused, Held
from conversations.budgets.opening import open_conversation, open_installation
from conversations.budgets.steps import run
from conversations.database import connection_arguments
from conversations.models import Budget, BudgetGrant, Conversation, Hold, LedgerEntry, Scope, User
from conversations.money import DOLLAR
from tests.budgets.common import ask, at_once, connect, drift, reserve, settle, usage
from tests.cast import ada, alice, bob


class Witness:
    """Looks into the budgets all the while, from a connection of its own."""

    def __init__(self) -> None:
        self.looks = 0
        self.seen: list[Any] = []
        self._over = threading.Event()

    @classmethod
    @contextmanager
    def watching(cls) -> Iterator[Witness]:
        witness = cls()
        thread = threading.Thread(target=witness._look)
        thread.start()
        try:
            yield witness
        finally:
            witness._over.set()
            thread.join(30)

    def _look(self) -> None:
        with connect() as own:
            while not self._over.is_set():
                self.looks += 1
                self.seen += own.execute(
                    'SELECT scope, spent, held FROM budgets WHERE spent + held > "limit" + extra'
                ).fetchall()


class FiveHoldsTests(TransactionTestCase):
    def test_64_clients_racing_room_for_five_holds_get_exactly_five(self) -> None:
        user = alice()
        budgets.set_user_limit(user, 5_999)
        with Witness.watching() as witness:
            found = at_once(*[partial(budgets.reserve, ask=ask(user.pk))] * 64)
        self.assertEqual(sum(isinstance(one, Held) for one in found), 5)
        self.assertEqual(sum(isinstance(one, BudgetRefused) for one in found), 59)
        self.assertEqual(Budget.objects.get().held, 5_000)
        self.assertEqual((witness.seen, drift()), ([], []))
        self.assertGreater(witness.looks, 3)

    @override_settings(INSTALLATION_DAILY_LIMIT=5_999, CONVERSATION_CAP=3_000)
    def test_the_scope_with_the_least_room_decides(self) -> None:
        alices = [Conversation.objects.create(user=alice(), model="m") for _ in range(3)]
        bobs = [Conversation.objects.create(user=bob(), model="m") for _ in range(3)]
        movements = [
            partial(budgets.reserve, ask=ask(talk.user_id, conversation_id=talk.pk))
            for talk in (alices + bobs) * 8
        ]
        with Witness.watching() as witness:
            found = at_once(*movements)
        self.assertEqual(sum(isinstance(one, Held) for one in found), 5)
        self.assertEqual(sum(isinstance(one, BudgetRefused) for one in found), 43)
        self.assertEqual(Budget.objects.get(scope=Scope.INSTALLATION).held, 5_000)
        self.assertEqual((witness.seen, drift()), ([], []))

    def test_holds_that_shrink_share_what_is_left_to_the_last_token(self) -> None:
        user = alice()
        budgets.set_user_limit(user, 5_500)
        found = at_once(*[partial(budgets.reserve, ask=ask(user.pk, floor=300))] * 32)
        held = [one for one in found if isinstance(one, Held)]
        self.assertEqual(sorted(one.max_tokens for one in held), [400, 900, 900, 900, 900, 900])
        self.assertEqual(Budget.objects.get().held, 5_500)

    async def test_async_clients_race_the_same(self) -> None:
        user = await User.objects.acreate(email="dora@example.org", daily_limit=5_999)

        async def race() -> Held | BudgetRefused | None:
            connecting = psycopg.AsyncConnection.connect(**connection_arguments(), autocommit=True)
            async with await connecting as own:
                try:
                    async with own.transaction():
                        return await budgets.areserve(own, ask(user.pk))
                except BudgetRefused as refused:
                    return refused

        async with asyncio.timeout(60):
            found = await asyncio.gather(*[race() for _ in range(32)])
        self.assertEqual(sum(isinstance(one, Held) for one in found), 5)
        self.assertEqual(sum(isinstance(one, BudgetRefused) for one in found), 27)


class OnceTests(TransactionTestCase):
    def test_a_day_opens_once_however_many_begin_it(self) -> None:
        user = alice()
        found = at_once(*[partial(budgets.reserve, ask=ask(user.pk))] * 16)
        self.assertTrue(all(isinstance(one, Held) for one in found), found)
        self.assertEqual(Budget.objects.get().held, 16_000)

    def test_rows_open_in_a_transaction_only_because_their_locks_end_with_it(self) -> None:
        user = alice()
        with connect() as own, own.cursor() as cursor:
            with self.assertRaisesMessage(RuntimeError, "inside a transaction"):
                budgets.reserve(cursor, ask(user.pk))
            with own.transaction():
                budgets.reserve(cursor, ask(user.pk))
            # The row is there: the movement is one statement, and needs none.
            budgets.reserve(cursor, ask(user.pk))
        self.assertEqual(Budget.objects.get().held, 2_000)

    def test_a_hold_that_many_resolve_is_resolved_once(self) -> None:
        held = reserve(ask(alice().pk))
        settling = partial(budgets.settle, hold_id=held.hold_id, usage=usage(100, 50), usage_reported=True)
        ways = [settling, partial(budgets.void, hold_id=held.hold_id)]
        ways.append(partial(budgets.expire, hold_id=held.hold_id))
        found = at_once(*ways * 4)
        self.assertEqual(sum(one is not None for one in found), 1, found)
        self.assertEqual(LedgerEntry.objects.count(), 1)
        self.assertEqual(Budget.objects.get().held, 0)
        self.assertEqual(drift(), [])

    def test_two_extras_granted_at_once_both_count(self) -> None:
        user, by = alice(), ada()
        reserve(ask(user.pk))

        def grant(_: Any) -> None:
            from django.db import connection

            try:
                budgets.grant_extra(user, DOLLAR, reason="Deadline.", by=by)
            finally:
                connection.close()

        at_once(*[grant] * 2)
        self.assertEqual(Budget.objects.get().extra, 2 * DOLLAR)
        self.assertEqual(BudgetGrant.objects.count(), 2)


class StormTests(TransactionTestCase):
    """Reservations, ends and openings in all orders: no deadlock, and the sums hold."""

    def storm(self, moves: Any, *, clients: int, rounds: int) -> None:
        failures: list[Any] = []

        def client(seed: int) -> None:
            chance = random.Random(seed)
            with connect() as own, own.cursor() as cursor:
                for _ in range(rounds):
                    try:
                        moves(own, cursor, chance)
                    except BudgetRefused:
                        pass
                    except Exception as error:
                        failures.append(error)

        threads = [threading.Thread(target=client, args=[seed]) for seed in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            self.assertFalse(thread.is_alive())
        self.assertEqual(failures, [])

    def reserve_and_end(self, talks: list[Conversation], own: Any, cursor: Any, chance: Any) -> None:
        talk = chance.choice(talks)
        wanted = ask(talk.user_id, conversation_id=talk.pk, floor=chance.choice([1, 900]))
        with own.transaction():
            held = budgets.reserve(cursor, wanted)
        assert held is not None
        with own.transaction():
            if chance.random() < 0.7:
                spent = usage(100, chance.randrange(held.max_tokens + 1))
                budgets.settle(cursor, hold_id=held.hold_id, usage=spent, usage_reported=True)
            else:
                budgets.void(cursor, hold_id=held.hold_id)

    @override_settings(INSTALLATION_DAILY_LIMIT=100_000, CONVERSATION_CAP=60_000)
    def test_three_scopes_never_wait_for_each_other_in_a_circle(self) -> None:
        talks = [Conversation.objects.create(user=user, model="m") for user in (alice(), bob()) * 2]
        with Witness.watching() as witness:
            self.storm(partial(self.reserve_and_end, talks), clients=12, rounds=25)
        self.assertEqual((witness.seen, drift()), ([], []))
        self.assertEqual(Hold.objects.filter(state=Hold.State.HELD).count(), 0)

    def test_rows_that_open_late_take_over_all_that_is_on_its_way(self) -> None:
        talks = [Conversation.objects.create(user=user, model="m") for user in (alice(), bob()) * 6]
        opened = threading.Event()

        def open_late(own: Any, cursor: Any, chance: Any) -> None:
            with own.transaction():
                run(cursor, open_conversation(talks[0].pk, None, DOLLAR))
            for talk in talks[1:]:
                with own.transaction():
                    run(cursor, open_conversation(talk.pk, None, DOLLAR))
            with own.transaction():
                run(cursor, open_installation(None, DOLLAR))

        def moves(own: Any, cursor: Any, chance: Any) -> None:
            if chance.random() < 0.03 and not opened.is_set():
                opened.set()
                open_late(own, cursor, chance)
            else:
                self.reserve_and_end(talks, own, cursor, chance)

        self.storm(moves, clients=12, rounds=40)
        self.assertTrue(opened.is_set())
        self.assertEqual(Budget.objects.exclude(scope=Scope.USER).count(), 13)
        self.assertEqual(drift(), [])
        whole = sum(LedgerEntry.objects.exclude(kind="opening").values_list("charged", flat=True))
        self.assertEqual(Budget.objects.get(scope=Scope.INSTALLATION).spent, whole)
        self.assertEqual(
            sum(Budget.objects.filter(scope="conversation").values_list("spent", flat=True)), whole
        )


class LateTests(TransactionTestCase):
    """The interleavings of an opening with a movement, one by one."""

    def setUp(self) -> None:
        self.user = alice()
        self.talk = Conversation.objects.create(user=self.user, model="m")
        self.ask = ask(self.user.pk, conversation_id=self.talk.pk)

    def test_an_opening_waits_for_a_reservation_and_takes_it_over(self) -> None:
        with connect() as own, own.cursor() as cursor:
            opening = threading.Thread(target=self.open)
            with own.transaction():
                budgets.reserve(cursor, self.ask)
                opening.start()
                opening.join(0.3)
                self.assertTrue(opening.is_alive())
            opening.join(30)
        self.assertEqual(Budget.objects.get(scope=Scope.CONVERSATION).held, 1_000)

    def test_a_reservation_waits_for_an_opening_and_joins_it(self) -> None:
        with connect() as own, own.cursor() as cursor:
            reserving = threading.Thread(target=at_once, args=[partial(budgets.reserve, ask=self.ask)])
            with own.transaction():
                run(cursor, open_conversation(self.talk.pk, None, 5_000))
                reserving.start()
                reserving.join(0.3)
                self.assertTrue(reserving.is_alive())
            reserving.join(30)
        self.assertEqual(Budget.objects.get(scope=Scope.CONVERSATION).held, 1_000)

    def test_a_settlement_that_waits_for_an_opening_finds_its_row(self) -> None:
        held = reserve(self.ask)
        settling = partial(budgets.settle, hold_id=held.hold_id, usage=usage(100, 5), usage_reported=True)
        with connect() as own, own.cursor() as cursor:
            waiting = threading.Thread(target=at_once, args=[settling])
            with own.transaction():
                run(cursor, open_conversation(self.talk.pk, None, 5_000))
                waiting.start()
                waiting.join(0.3)
                self.assertTrue(waiting.is_alive())
            waiting.join(30)
        row = Budget.objects.get(scope=Scope.CONVERSATION)
        self.assertEqual((row.spent, row.held, drift()), (105, 0, []))

    def test_an_opening_that_waits_for_a_settlement_counts_its_charge(self) -> None:
        held = reserve(self.ask)
        with connect() as own, own.cursor() as cursor:
            opening = threading.Thread(target=self.open)
            with own.transaction():
                budgets.settle(cursor, hold_id=held.hold_id, usage=usage(100, 5), usage_reported=True)
                opening.start()
                opening.join(0.3)
                self.assertTrue(opening.is_alive())
            opening.join(30)
        row = Budget.objects.get(scope=Scope.CONVERSATION)
        self.assertEqual((row.spent, row.held, drift()), (105, 0, []))

    def test_a_cap_that_is_set_late_begins_with_what_was_spent(self) -> None:
        settle(reserve(self.ask), usage(100, 5))
        reserve(self.ask)
        budgets.set_conversation_cap(self.talk, 2_000)
        row = Budget.objects.get(scope=Scope.CONVERSATION)
        self.assertEqual((row.spent, row.held, row.limit), (105, 1_000, 2_000))
        line = LedgerEntry.objects.get(kind=LedgerEntry.Kind.OPENING)
        self.assertEqual((line.charged, line.conversation_budget_id), (105, row.pk))
        with self.assertRaises(BudgetRefused):
            reserve(self.ask)

    def open(self) -> None:
        at_once(lambda cursor: run(cursor, open_conversation(self.talk.pk, None, 5_000)))
