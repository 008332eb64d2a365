"""Each minute: abandoned holds end, suspended people are stopped, days open, alerts go out, daily sums are right."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from unittest import mock
from uuid import uuid4

from django.db import OperationalError
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from conversations import budgets, enforcement
from conversations.enforcement import enforce, expire_stale, open_days, roll_up, stop_suspended
from conversations.exclusive import exclusive
from conversations.models import (
    Budget,
    DailySpend,
    Hold,
    LedgerEntry,
    Purpose,
    Reply,
    ReplyState,
    Scope,
    SpendAlert,
    User,
)
from conversations.money import DOLLAR
from conversations.parking import parked
from conversations.reconciliation import compare
from conversations.tasks import enforce_budgets
from tests import cast
from tests.admin.test_people import queued_reply
from tests.budgets.common import ask, reserve
from tests.test_reconciliation import day_of, line


def reply_of(user: User, state: str) -> Reply:
    reply = queued_reply(user)
    Reply.objects.filter(pk=reply.pk).update(state=state)
    reply.refresh_from_db()
    return reply


def no_drift() -> bool:
    return not any(row.drift for row in compare())


@override_settings(DAILY_LIMIT=5 * DOLLAR, INSTALLATION_DAILY_LIMIT=None)
class StaleHoldTests(TestCase):
    def setUp(self) -> None:
        self.alice = cast.alice()

    def held(self, *, is_sent: bool = False, is_over: bool = False, **fields: Any) -> Hold:
        """1,000 nano-USD for a prompt of 100 tokens."""
        reserved = reserve(ask(self.alice.pk, **fields))
        changes: dict[str, Any] = {}
        if is_sent:
            changes["sent_at"] = timezone.now()
        if is_over:
            changes["lease_expires_at"] = timezone.now() - timedelta(seconds=1)
        Hold.objects.filter(pk=reserved.hold_id).update(**changes) if changes else None
        return Hold.objects.get(pk=reserved.hold_id)

    def charged(self, hold: Hold) -> int | None:
        """What its line charges; None: it is still open."""
        entry = LedgerEntry.objects.filter(hold_id=hold.pk).first()
        hold.refresh_from_db()
        self.assertEqual(hold.state == Hold.State.HELD, entry is None)
        return entry.charged if entry else None

    def test_a_sent_one_is_charged_its_input_and_another_is_released(self) -> None:
        sent, unsent = self.held(is_sent=True, is_over=True), self.held(is_over=True)
        self.assertEqual(expire_stale(), 2)
        self.assertEqual((self.charged(sent), self.charged(unsent)), (100, 0))
        today = Budget.objects.get(scope=Scope.USER)
        self.assertEqual((today.spent, today.held), (100, 0))
        self.assertTrue(no_drift())

    def test_it_ends_once(self) -> None:
        self.held(is_sent=True, is_over=True)
        self.assertEqual((expire_stale(), expire_stale()), (1, 0))
        self.assertEqual(LedgerEntry.objects.count(), 1)

    def test_before_its_lease_is_over_it_stays(self) -> None:
        hold = self.held(is_sent=True)
        self.assertEqual(expire_stale(), 0)
        self.assertIsNone(self.charged(hold))

    def test_whoever_ends_a_reply_resolves_its_hold(self) -> None:
        for state in (ReplyState.WAITING, ReplyState.QUEUED, ReplyState.RUNNING):
            reply = reply_of(self.alice, state)
            self.held(is_sent=True, is_over=True, reply_id=reply.pk)
        self.assertEqual(expire_stale(), 0)

    def test_a_hold_of_a_reply_that_has_ended_or_is_gone_waits_for_no_lease(self) -> None:
        ended = reply_of(self.alice, ReplyState.STOPPED)
        holds = [self.held(is_sent=True, reply_id=ended.pk), self.held(reply_id=uuid4())]
        self.assertEqual(expire_stale(), 2)
        self.assertEqual([self.charged(hold) for hold in holds], [100, 0])

    def test_a_title_is_written_after_its_reply_has_ended(self) -> None:
        ended = reply_of(self.alice, ReplyState.COMPLETE)
        self.held(is_sent=True, reply_id=ended.pk, purpose=Purpose.TITLE)
        self.assertEqual(expire_stale(), 0)

    def test_holds_of_a_deleted_person_end_too(self) -> None:
        reply = reply_of(self.alice, ReplyState.RUNNING)
        hold = self.held(is_sent=True, reply_id=reply.pk)
        self.alice.delete()
        self.assertEqual(expire_stale(), 1)
        self.assertEqual(self.charged(hold), 100)
        self.assertTrue(no_drift())

    def test_one_that_cannot_be_resolved_keeps_no_other_back(self) -> None:
        broken, other = self.held(is_sent=True, is_over=True), self.held(is_over=True)
        Hold.objects.filter(pk=broken.pk).update(price={"source": "nonsense"})
        with self.assertLogs("conversations.enforcement", "ERROR"):
            self.assertEqual(expire_stale(), 1)
        self.assertEqual((self.charged(broken), self.charged(other)), (None, 0))


class SuspendedTests(TestCase):
    def test_what_is_written_or_waits_for_them_is_stopped(self) -> None:
        alice, bob = cast.alice(), cast.bob()
        waiting, queued, running, done = (
            reply_of(alice, state)
            for state in (ReplyState.WAITING, ReplyState.QUEUED, ReplyState.RUNNING, ReplyState.COMPLETE)
        )
        other = reply_of(bob, ReplyState.RUNNING)
        User.objects.filter(pk=alice.pk).update(is_active=False)
        self.assertEqual(stop_suspended(), 3)
        states = [Reply.objects.get(pk=reply.pk).state for reply in (waiting, queued, done)]
        self.assertEqual(states, ["stopped", "stopped", "complete"])
        self.assertIsNotNone(Reply.objects.get(pk=running.pk).stop_requested_at)
        self.assertIsNone(Reply.objects.get(pk=other.pk).stop_requested_at)
        self.assertEqual(stop_suspended(), 0)


class ParkingTests(TestCase):
    def setUp(self) -> None:
        self.alice, self.bob = cast.alice(), cast.bob()

    def may_work(self, user: User) -> bool:
        waiting = parked()
        return waiting is not None and user.pk not in waiting

    def test_work_waits_while_nothing_is_left(self) -> None:
        today = day_of(str(self.alice.pk), spent=4 * DOLLAR, held=DOLLAR)
        self.assertFalse(self.may_work(self.alice))
        self.assertTrue(self.may_work(self.bob))
        self.assertEqual(parked(), [self.alice.pk])
        Budget.objects.filter(pk=today.pk).update(extra=1)
        self.assertTrue(self.may_work(self.alice))
        Budget.objects.filter(pk=today.pk).update(limit=None)
        self.assertTrue(self.may_work(self.alice))

    def test_tomorrow_it_goes_on(self) -> None:
        ended = timezone.now() - timedelta(minutes=1)
        day_of(str(self.alice.pk), spent=5 * DOLLAR, starts_at=ended - timedelta(days=1), ends_at=ended)
        self.assertTrue(self.may_work(self.alice))

    def test_everybodys_waits_when_the_installation_has_nothing_left(self) -> None:
        day_of("", scope=Scope.INSTALLATION, spent=5 * DOLLAR)
        self.assertFalse(self.may_work(self.alice))
        self.assertIsNone(parked())


@override_settings(DAILY_LIMIT=5 * DOLLAR, INSTALLATION_DAILY_LIMIT=None)
class DayTests(TestCase):
    def setUp(self) -> None:
        self.alice, self.bob = cast.alice(), cast.bob()

    def open_rows(self, user: User) -> int:
        return Budget.objects.filter(subject=str(user.pk), ends_at__gt=timezone.now()).count()

    def test_a_day_opens_after_one_with_spend_and_for_nobody_else(self) -> None:
        ended = timezone.now() - timedelta(minutes=1)
        day_of(str(self.alice.pk), spent=1, starts_at=ended - timedelta(days=1), ends_at=ended)
        day_of(str(self.bob.pk), spent=0, starts_at=ended - timedelta(days=1), ends_at=ended)
        self.assertEqual((open_days(), open_days()), (1, 0))
        self.assertEqual((self.open_rows(self.alice), self.open_rows(self.bob)), (1, 0))

    def test_the_installations_day_opens_when_it_has_a_limit(self) -> None:
        open_days()
        self.assertFalse(Budget.objects.exists())
        with override_settings(INSTALLATION_DAILY_LIMIT=60 * DOLLAR):
            open_days()
            open_days()
        self.assertEqual(Budget.objects.get().limit, 60 * DOLLAR)

    def test_what_was_said_elsewhere_reaches_todays_rows(self) -> None:
        today = day_of(str(self.alice.pk))
        User.objects.filter(pk=self.alice.pk).update(daily_limit=DOLLAR)
        open_days()
        today.refresh_from_db()
        self.assertEqual(today.limit, DOLLAR)


class RollUpTests(TestCase):
    TODAY = date(2026, 11, 20)

    def rows(self) -> list[tuple[Any, ...]]:
        fields = (
            "user_id",
            "day",
            "model",
            "purpose",
            "requests",
            "input_tokens",
            "output_tokens",
            "charged",
        )
        return list(DailySpend.objects.order_by(*fields).values_list(*fields))

    def enter(self, charged: int, **fields: Any) -> None:
        given = {"day": self.TODAY, "input_tokens": 10, "output_tokens": 2}
        line(charged, **given | fields)

    def test_one_row_for_each_person_day_model_and_purpose(self) -> None:
        self.enter(5)
        self.enter(7)
        self.enter(1, purpose="title")
        self.enter(0, kind="void", input_tokens=0, output_tokens=0)
        self.enter(0, kind="free", model="local/m", hold_id=None)
        self.enter(99, kind="opening", hold_id=None, purpose="", user_id=None)
        self.assertEqual(roll_up(), 3)
        self.assertEqual(
            self.rows(),
            [
                (1, self.TODAY, "a/b", "reply", 3, 20, 4, 12),
                (1, self.TODAY, "a/b", "title", 1, 10, 2, 1),
                (1, self.TODAY, "local/m", "reply", 1, 10, 2, 0),
            ],
        )

    def test_made_again_it_is_the_same_and_new_lines_come_to_it(self) -> None:
        self.enter(5)
        self.assertEqual((roll_up(), roll_up()), (1, 0))
        self.enter(6)
        self.assertEqual(roll_up(), 1)
        self.assertEqual([row[-1] for row in self.rows()], [11])

    def test_a_late_line_of_an_old_day_is_counted_with_the_others_of_that_day(self) -> None:
        then = timezone.now() - timedelta(days=9)
        self.enter(5, day=then.date(), created_at=then)
        self.enter(1, day=timezone.now().date())
        roll_up()
        self.enter(2, day=then.date())
        roll_up()
        self.assertEqual([row[-1] for row in self.rows() if row[1] == then.date()], [7])

    def test_days_that_nobody_rolled_up_are_found(self) -> None:
        then = timezone.now() - timedelta(days=40)
        for back in range(3):
            self.enter(5, day=(then + timedelta(days=back)).date(), created_at=then + timedelta(days=back))
        self.assertEqual(roll_up(), 3)


@override_settings(ALERT_SHARES=[50], DAILY_LIMIT=5 * DOLLAR, INSTALLATION_DAILY_LIMIT=None)
class RoundTests(TestCase):
    def test_all_of_it_in_one_round_and_nothing_in_the_next(self) -> None:
        alice = cast.alice()
        reserved = reserve(ask(alice.pk))
        Hold.objects.filter(pk=reserved.hold_id).update(
            sent_at=timezone.now(), lease_expires_at=timezone.now()
        )
        budgets.set_user_limit(alice, 150)
        self.assertEqual(
            enforce(),
            {
                "expire_stale": 1,
                "stop_suspended": 0,
                "open_days": 0,
                "raise_alerts": 1,
                "send_mails": 0,
                "roll_up": 1,
            },
        )
        self.assertEqual(set(enforce().values()), {0})
        self.assertTrue(no_drift())

    def test_a_step_that_fails_keeps_none_of_the_others_back(self) -> None:
        def failing() -> int:
            raise ZeroDivisionError

        with (
            mock.patch.object(enforcement, "STEPS", (failing, stop_suspended)),
            self.assertLogs("conversations.enforcement", "ERROR"),
        ):
            self.assertEqual(enforce(), {"stop_suspended": 0})

    def test_a_database_that_is_away_ends_the_round(self) -> None:
        def away() -> int:
            raise OperationalError

        with (
            mock.patch.object(enforcement, "STEPS", (away, stop_suspended)),
            self.assertRaises(OperationalError),
        ):
            enforce()


class TaskTests(TransactionTestCase):
    def test_while_one_worker_is_in_it_another_does_nothing(self) -> None:
        day_of(str(cast.alice().pk), spent=5 * DOLLAR)
        with exclusive("enforce_budgets"):
            enforce_budgets()
            self.assertFalse(SpendAlert.objects.exists())
        enforce_budgets()
        self.assertTrue(SpendAlert.objects.exists())
