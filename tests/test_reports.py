"""The reports read money and add it up: never more and never less than the ledger."""

from __future__ import annotations

import random
from dataclasses import astuple, replace
from datetime import date, datetime, timedelta
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

from django.contrib.auth.models import Group
from django.db import connection
from django.db.models import Count, Sum
from django.test import SimpleTestCase, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import budgets, enforcement, reports
from conversations.models import (
    Budget,
    DailySpend,
    GroupLimit,
    LedgerEntry,
    User,
)
from conversations.money import CENT, DOLLAR
from conversations.reports import Month, Selection
from tests import cast
from tests.spending import MODEL, budget_of, hold, line, today_of

OSLO = ZoneInfo("Europe/Oslo")


def month_of(user: User | None, month: Month) -> Selection:
    return Selection(user_id=user.pk if user else None, first=month.first, last=month.last)


def rolled_up(user: User, day: date, *, charged: int, requests: int = 1) -> DailySpend:
    return DailySpend.objects.create(
        user_id=user.pk,
        day=day,
        model=MODEL,
        purpose="reply",
        requests=requests,
        input_tokens=7,
        cached_tokens=0,
        output_tokens=7,
        charged=charged,
    )


class MonthTests(SimpleTestCase):
    def test_a_month_knows_its_days_and_its_neighbours(self) -> None:
        december = Month.parse("2026-12")
        self.assertEqual((december.first, december.last), (date(2026, 12, 1), date(2026, 12, 31)))
        self.assertEqual((str(december.next), str(december.previous)), ("2027-01", "2026-11"))
        self.assertEqual(len(Month.parse("2028-02").days), 29)

    def test_what_is_no_month_is_refused(self) -> None:
        for text in ("", "2026", "2026-13", "2026-00", "1999-01", "2026-11-01", "٢٠٢٦-11", "2026-1\n"):
            with self.subTest(text), self.assertRaises(ValueError):
                Month.parse(text)


class MeterTests(TestCase):
    def setUp(self) -> None:
        self.alice = cast.alice()

    def test_it_is_one_query(self) -> None:
        hold(self.alice)
        with CaptureQueriesContext(connection) as queries:
            # psycopg's own cursor is not captured: nothing else may be asked.
            meter = reports.meter_of(self.alice.pk)
        self.assertEqual(len(queries), 0)
        self.assertEqual(meter.calls, 1)

    def test_it_says_what_is_spent_held_and_left(self) -> None:
        line(self.alice, 123 * CENT)
        hold(self.alice, 14 * CENT)
        hold(self.alice, 1 * CENT, purpose="title")
        meter = reports.meter_of(self.alice.pk)
        self.assertEqual((meter.spent, meter.held, meter.left), (123 * CENT, 15 * CENT, 362 * CENT))
        self.assertEqual((meter.calls, meter.replies, meter.share), (2, 1, 27))
        self.assertFalse(meter.is_near or meter.is_out)

    def test_what_was_granted_on_top_counts(self) -> None:
        budget_of(self.alice, extra=DOLLAR)
        meter = reports.meter_of(self.alice.pk)
        self.assertEqual((meter.limit, meter.extra, meter.left), (6 * DOLLAR, DOLLAR, 6 * DOLLAR))

    def test_a_hold_of_the_day_before_is_not_held_today(self) -> None:
        hold(self.alice, day=today_of(self.alice) - timedelta(days=1))
        meter = reports.meter_of(self.alice.pk)
        self.assertEqual((meter.held, meter.calls), (0, 0))

    def test_the_day_of_somebody_else_is_not_theirs(self) -> None:
        line(cast.bob(), DOLLAR)
        self.assertEqual(reports.meter_of(self.alice.pk).spent, 0)

    def test_a_day_that_nothing_has_opened_is_empty(self) -> None:
        line(self.alice, DOLLAR, day=today_of(self.alice) - timedelta(days=1))
        meter = reports.meter_of(self.alice.pk)
        self.assertEqual((meter.spent, meter.held, meter.limit), (0, 0, 5 * DOLLAR))
        self.assertEqual(meter.day, today_of(self.alice))
        self.assertEqual(meter.resets_at.astimezone(OSLO).hour, 0)

    def test_it_says_what_the_writer_of_budgets_says(self) -> None:
        for prepare in (
            lambda: None,
            lambda: line(self.alice, 3, day=today_of(self.alice) - timedelta(days=1)),
            lambda: hold(self.alice),
            lambda: Budget.objects.update(extra=7),
        ):
            prepare()
            meter, remaining = reports.meter_of(self.alice.pk), budgets.remaining(self.alice.pk)
            self.assertEqual(
                (meter.spent, meter.held, meter.limit, meter.left, meter.resets_at),
                (remaining.spent, remaining.held, remaining.limit, remaining.left, remaining.resets_at),
            )

    def test_its_limit_is_the_persons_own_then_the_groups_then_the_installations(self) -> None:
        def limit() -> int | None:
            return reports.meter_of(self.alice.pk).limit

        with override_settings(DAILY_LIMIT=3 * DOLLAR):
            self.assertEqual(limit(), 3 * DOLLAR)
        with override_settings(DAILY_LIMIT=None):
            self.assertIsNone(limit())
        for name, amount in (("A", 7), ("B", 9)):
            group = Group.objects.create(name=name)
            GroupLimit.objects.create(group=group, daily_limit=amount * DOLLAR)
            self.alice.groups.add(group)
        self.assertEqual(limit(), 9 * DOLLAR)
        GroupLimit.objects.filter(group__name="A").update(daily_limit=None)
        self.assertIsNone(limit())
        User.objects.update(daily_limit=0)
        self.assertEqual(limit(), 0)
        User.objects.update(daily_limit=None, is_unlimited=True)
        self.assertIsNone(limit())

    def test_a_limit_of_zero_is_out_and_no_limit_never_is(self) -> None:
        budget = budget_of(self.alice, limit=0)
        zero = reports.meter_of(self.alice.pk)
        self.assertEqual((zero.left, zero.share, zero.is_out, zero.is_near), (0, 100, True, False))
        Budget.objects.filter(pk=budget.pk).update(limit=None, spent=DOLLAR)
        unlimited = reports.meter_of(self.alice.pk)
        self.assertEqual((unlimited.left, unlimited.is_out, unlimited.is_near), (None, False, False))

    def test_a_limit_below_what_is_spent_leaves_nothing_and_not_less(self) -> None:
        line(self.alice, 6 * DOLLAR)
        meter = reports.meter_of(self.alice.pk)
        self.assertEqual((meter.left, meter.share, meter.is_out), (0, 120, True))
        self.assertEqual(meter.scale, 6 * DOLLAR)

    def test_it_is_out_when_the_cheapest_call_does_not_fit(self) -> None:
        line(self.alice, 499 * CENT)
        self.assertTrue(reports.meter_of(self.alice.pk, least=CENT + 1).is_out)
        self.assertTrue(reports.meter_of(self.alice.pk, least=CENT).is_near)

    def test_nobody_has_no_meter(self) -> None:
        with self.assertRaises(User.DoesNotExist):
            reports.meter_of(0)


class SpendTests(TestCase):
    def setUp(self) -> None:
        self.alice, self.bob = cast.alice(), cast.bob()
        self.today = today_of(self.alice)
        self.month = Month.of(self.today)
        self.enterContext(timezone.override(OSLO))

    def read(self, user: User | None) -> reports.Spend:
        return reports.read_spend(month_of(user, self.month))

    def test_the_parts_add_up_to_the_ledger(self) -> None:
        line(self.alice, 3, model="openai/a")
        line(self.alice, 5, model="openai/b", purpose="title")
        line(self.alice, 0, model="openai/b", kind="void", input_tokens=0, output_tokens=0)
        line(self.alice, 7, day=self.month.first)
        line(self.bob, 11)
        mine = self.read(self.alice)
        self.assertEqual((mine.total.charged, mine.total.calls, mine.total.input_tokens), (15, 4, 3000))
        self.assertEqual(
            {part.key: part.total.charged for part in mine.by_model}, {"openai/a": 3, "openai/b": 5, MODEL: 7}
        )
        self.assertEqual([part.key for part in mine.by_purpose], ["reply", "title"])
        self.assertEqual(sum(total.charged for total in mine.by_day.values()), 15)
        everybody = self.read(None)
        people = {
            part.key: part.total.charged for part in reports.shares_of_people(month_of(None, self.month))
        }
        self.assertEqual(everybody.total.charged, LedgerEntry.objects.aggregate(sum=Sum("charged"))["sum"])
        self.assertEqual(
            people,
            {self.alice.pk: 15, self.bob.pk: 11},
        )

    def test_a_line_counts_for_the_day_of_its_hold(self) -> None:
        """It began at 23:59 of the last day of the month, and ended in the next month."""
        last = self.month.previous.last
        midnight = datetime.combine(self.month.first, datetime.min.time(), OSLO)
        line(self.alice, 3, day=last, at=midnight + timedelta(minutes=1))
        self.assertEqual(self.read(self.alice).total.charged, 0)
        before = reports.read_spend(month_of(self.alice, self.month.previous))
        self.assertEqual(list(before.by_day), [last])

    def test_what_an_opened_limit_takes_over_is_not_charged_twice(self) -> None:
        line(self.alice, 3)
        line(self.alice, 3, kind=LedgerEntry.Kind.OPENING, hold_id=None)
        self.assertEqual(self.read(self.alice).total.charged, 3)
        self.assertEqual(
            reports.shares_of_conversations(month_of(self.alice, self.month))[0].total.charged, 3
        )
        self.assertEqual(len(reports.lines_of_page(month_of(self.alice, self.month)).lines), 1)

    def test_a_closed_day_is_read_from_the_roll_up(self) -> None:
        day = self.today - timedelta(days=40)
        line(self.alice, 3, day=day)
        rolled_up(self.alice, day, charged=3, requests=1)
        found = reports.read_spend(month_of(self.alice, Month.of(day)))
        self.assertEqual((found.total.charged, found.total.input_tokens), (3, 7))

    def test_a_roll_up_that_says_something_else_than_the_budget_is_not_believed(self) -> None:
        day = self.today - timedelta(days=40)
        line(self.alice, 3, day=day)
        line(self.alice, 4, day=day)
        rolled_up(self.alice, day, charged=3)
        found = reports.read_spend(month_of(self.alice, Month.of(day)))
        self.assertEqual((found.total.charged, found.total.calls), (7, 2))

    def test_a_day_that_is_open_or_still_holds_money_is_read_from_the_ledger(self) -> None:
        line(self.alice, 3)
        rolled_up(self.alice, self.today, charged=3)
        old = self.today - timedelta(days=40)
        line(self.alice, 3, day=old)
        hold(self.alice, day=old)
        rolled_up(self.alice, old, charged=3)
        for day in (self.today, old):
            found = reports.read_spend(month_of(self.alice, Month.of(day)))
            with self.subTest(day):
                self.assertEqual((found.total.charged, found.total.input_tokens), (3, 1000))

    def test_whatever_is_rolled_up_the_reports_are_the_ledger(self) -> None:
        """A line that comes late is written late. One that charges nothing counts at the next roll-up, a minute on."""
        chance = random.Random(11)
        for turn in range(6):
            for _ in range(15):
                kind = chance.choice(["settled", "expired", "opening"] + ([] if turn else ["void"]))
                line(
                    chance.choice([self.alice, self.bob]),
                    0 if kind in {"void", "opening"} else chance.randrange(1, 10**9),
                    day=self.today - timedelta(days=chance.randrange(0, 45)),
                    at=timezone.now() if turn else None,
                    kind=kind,
                    model=chance.choice(["openai/a", "openai/b"]),
                    purpose=chance.choice(["reply", "title"]),
                    cached_tokens=chance.randrange(900),
                )
            if turn % 2:
                enforcement.roll_up()
            for user in (self.alice, self.bob, None):
                with self.subTest(turn=turn, user=user):
                    self._assert_equals_ledger(user)

    def _assert_equals_ledger(self, user: User | None) -> None:
        first, last = self.today - timedelta(days=44), self.today - timedelta(days=1)
        lines = LedgerEntry.objects.exclude(kind="opening").filter(day__range=(first, last))
        lines = lines.filter(user_id=user.pk) if user else lines
        sums = lines.values_list("day", "model", "purpose").annotate(
            Count("pk"), Sum("input_tokens"), Sum("cached_tokens"), Sum("output_tokens"), Sum("charged")
        )
        read = reports.read_spend(Selection(user_id=user.pk if user else None, first=first, last=last))
        self.assertEqual(
            sorted((cell.day, cell.model, cell.purpose, *astuple(cell.total)) for cell in read.cells),
            sorted(sums),
        )

    def test_the_roll_up_of_one_person_says_nothing_about_another(self) -> None:
        day = self.today - timedelta(days=40)
        line(self.alice, 3, day=day)
        line(self.bob, 5, day=day)
        rolled_up(self.alice, day, charged=3)
        found = reports.read_spend(month_of(None, Month.of(day)))
        self.assertEqual((found.total.charged, found.total.calls), (8, 2))

    def test_a_model_a_purpose_and_a_conversation_select(self) -> None:
        old = self.today - timedelta(days=40)
        for day in (None, old):
            line(self.alice, 3, day=day, model="openai/a", purpose="title")
            line(self.alice, 5, day=day)
        rolled_up(self.alice, old, charged=8)
        first, last = old, self.today
        cases: list[tuple[dict[str, Any], int]] = [
            ({"model": "openai/a"}, 3),
            ({"purpose": "title"}, 3),
            ({}, 16),
        ]
        for chosen, charged in cases:
            selection = Selection(user_id=self.alice.pk, first=first, last=last, **chosen)
            with self.subTest(chosen):
                self.assertEqual(reports.read_spend(selection).total.charged, charged)

    def test_the_days_of_a_month_have_their_limits(self) -> None:
        first, second = self.month.previous.first, self.month.previous.first + timedelta(days=1)
        budget_of(self.alice, first, limit=2 * DOLLAR, extra=DOLLAR)
        budget_of(self.alice, second, limit=None)
        line(self.alice, 3, day=first)
        hold(self.alice, 5, day=first)
        month = self.month.previous
        selection = month_of(self.alice, month)
        days = reports.days_of(month, reports.read_spend(selection), selection)
        self.assertEqual(len(days), month.last.day)
        self.assertEqual((days[0].limit, days[0].used, days[0].held), (3 * DOLLAR, 8, 5))
        self.assertEqual(
            [(day.has_budget, day.limit) for day in days[:3]],
            [(True, 3 * DOLLAR), (True, None), (False, None)],
        )

    def test_what_is_held_and_allowed_is_said_of_whole_days_alone(self) -> None:
        line(self.alice, 3)
        hold(self.alice, 5)
        selection = replace(month_of(self.alice, self.month), model=MODEL)
        days = reports.days_of(self.month, reports.read_spend(selection), selection)
        today = days[self.today.day - 1]
        self.assertEqual((today.used, today.held, today.limit, today.has_budget), (3, 0, None, False))

    def test_conversations_have_their_sums(self) -> None:
        from tests.pages.base import conversation_of

        fees = conversation_of(self.alice, "Fees")
        line(self.alice, 3, conversation=fees)
        line(self.alice, 4, conversation=fees)
        line(self.alice, 5)
        parts = reports.shares_of_conversations(month_of(self.alice, self.month))
        self.assertEqual(
            [(part.key, part.total.charged, part.share) for part in parts],
            [(fees.pk, 7, 1000), (None, 5, 714)],
        )


class LedgerTests(TestCase):
    def setUp(self) -> None:
        self.alice = cast.alice()
        self.selection = month_of(self.alice, Month.of(today_of(self.alice)))
        self.enterContext(timezone.override(OSLO))

    def test_pages_follow_each_other_without_gap_or_repeat(self) -> None:
        moment = timezone.now()
        made = [line(self.alice, n, at=moment - timedelta(seconds=n // 3)) for n in range(120)]
        found, before, pages = [], None, 0
        while pages == 0 or before is not None:
            page = reports.lines_of_page(self.selection, before=before)
            found += [one.entry.pk for one in page.lines]
            before, pages = page.before, pages + 1
        self.assertEqual(pages, 3)
        self.assertEqual(sorted(found), sorted(entry.pk for entry in made))

    def test_a_line_of_somebody_else_begins_no_page(self) -> None:
        theirs = line(cast.bob())
        with self.assertRaises(LedgerEntry.DoesNotExist):
            reports.lines_of_page(self.selection, before=theirs.pk)

    def test_open_holds_are_the_persons_own(self) -> None:
        hold(cast.bob())
        mine = hold(self.alice)
        hold(self.alice, state="void", resolved_at=timezone.now())
        self.assertEqual([open.hold.pk for open in reports.open_holds(self.alice.pk)], [mine.pk])

    def test_counts_of_our_own_are_marked(self) -> None:
        line(self.alice, usage_reported=False)
        line(self.alice, 0, kind="void", usage_reported=False)
        line(self.alice)
        marks = [one.is_estimated for one in reports.lines_of_page(self.selection).lines]
        self.assertEqual(marks, [False, False, True])


class ForecastTests(TestCase):
    """On 20 November 2026, with ten days left."""

    today = date(2026, 11, 20)

    def setUp(self) -> None:
        self.alice = cast.alice()
        now = datetime(2026, 11, 20, 12, tzinfo=OSLO)
        self.enterContext(mock.patch("django.utils.timezone.now", return_value=now))

    def forecast(self, *, limit: int | None) -> reports.Forecast | None:
        month = reports.read_spend(month_of(self.alice, Month.of(self.today)))
        return reports.forecast(self.alice.pk, today=self.today, so_far=month.total.charged, limit=limit)

    def test_without_a_day_with_spend_there_is_none(self) -> None:
        line(self.alice, 0, kind="free", day=self.today - timedelta(days=1))
        self.assertIsNone(self.forecast(limit=DOLLAR))

    def test_it_is_the_mean_of_the_last_seven_days_with_spend_and_at_most_the_limit(self) -> None:
        line(self.alice, 900, day=date(2026, 10, 1))  # the eighth day back does not count
        for n in range(7):
            line(self.alice, 100 + 10 * n, day=self.today - timedelta(days=2 * n + 1))
        found = self.forecast(limit=500)
        assert found is not None
        so_far = sum(100 + 10 * n for n in range(7))
        self.assertEqual((found.mean, found.days_with_spend, found.days_left), (130, 7, 10))
        self.assertEqual(
            (found.least, found.about, found.most), (so_far, so_far + 130 * 11, so_far + 500 * 11)
        )

    def test_what_today_has_cost_already_is_not_expected_again(self) -> None:
        line(self.alice, 100, day=self.today - timedelta(days=1))
        line(self.alice, 250, day=self.today)
        found = self.forecast(limit=500)
        assert found is not None
        self.assertEqual((found.least, found.about, found.most), (350, 350 + 100 * 10, 100 + 500 * 11))

    def test_it_never_says_more_than_the_limit_allows(self) -> None:
        line(self.alice, 1000, day=self.today - timedelta(days=1))
        found = self.forecast(limit=10)
        assert found is not None
        self.assertEqual(found.about, found.most)

    def test_without_a_limit_its_end_is_the_dearest_day_each_day(self) -> None:
        line(self.alice, 100, day=self.today - timedelta(days=1))
        line(self.alice, 300, day=self.today - timedelta(days=2))
        found = self.forecast(limit=None)
        assert found is not None
        self.assertEqual((found.about, found.most), (400 + 200 * 11, 400 + 300 * 11))
