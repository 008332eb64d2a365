"""Who may spend what: the person's own limit, the most generous group, the default; changed today's row and all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase, TestCase, override_settings

from chatapp.settings import _dollars
from conversations import budgets
from conversations.budgets import UNLIMITED, BadAmount, BudgetRefused
from conversations.models import Budget, BudgetGrant, Conversation, LedgerEntry, Scope
from conversations.money import DOLLAR, MOST
from tests.budgets.common import ask, reserve, settle, usage
from tests.cast import ada, alice, bob

LATE = datetime(2026, 11, 20, 22, 59, tzinfo=UTC)  # 23:59 in Oslo


class LimitTests(TestCase):
    def setUp(self) -> None:
        self.alice = alice()
        self.authors = Group.objects.create(name="Authors")
        self.editors = Group.objects.create(name="Editors")

    def limit(self) -> int | None:
        return budgets.remaining(self.alice.pk).limit

    def test_five_dollars_unless_somebody_said_otherwise(self) -> None:
        self.assertEqual(self.limit(), 5 * DOLLAR)
        with override_settings(DAILY_LIMIT=None):
            self.assertIsNone(self.limit())

    def test_the_most_generous_group_counts(self) -> None:
        self.alice.groups.add(self.authors, self.editors)
        budgets.set_group_limit(self.authors, 2 * DOLLAR)
        self.assertEqual(self.limit(), 2 * DOLLAR)
        budgets.set_group_limit(self.editors, 3 * DOLLAR)
        self.assertEqual(self.limit(), 3 * DOLLAR)
        budgets.set_group_limit(self.editors, UNLIMITED)
        self.assertIsNone(self.limit())
        budgets.set_group_limit(self.editors, None)
        self.assertEqual(self.limit(), 2 * DOLLAR)

    def test_a_person_s_own_word_goes_before_the_groups(self) -> None:
        self.alice.groups.add(self.authors)
        budgets.set_group_limit(self.authors, 2 * DOLLAR)
        budgets.set_user_limit(self.alice, 0)
        self.assertEqual(self.limit(), 0)
        budgets.set_user_limit(self.alice, UNLIMITED)
        self.assertIsNone(self.limit())
        budgets.set_user_limit(self.alice, None)
        self.assertEqual(self.limit(), 2 * DOLLAR)

    def test_changes_count_for_the_day_that_has_begun(self) -> None:
        reserve(ask(self.alice.pk))
        self.alice.groups.add(self.authors)
        budgets.set_group_limit(self.authors, 7 * DOLLAR)
        self.assertEqual(Budget.objects.get().limit, 7 * DOLLAR)
        budgets.set_user_limit(self.alice, UNLIMITED)
        self.assertIsNone(Budget.objects.get().limit)

    def test_a_limit_lowered_under_what_is_held_takes_nothing_back(self) -> None:
        held = reserve(ask(self.alice.pk))
        budgets.set_user_limit(self.alice, 500)
        self.assertEqual(budgets.remaining(self.alice.pk).left, 0)
        with self.assertRaises(BudgetRefused) as caught:
            reserve(ask(self.alice.pk, max_tokens=1))
        self.assertEqual(caught.exception.left, 0)
        self.assertEqual(settle(held, usage(100, 600)), 700)

    def test_who_joined_a_group_is_found_by_applying(self) -> None:
        reserve(ask(self.alice.pk))
        budgets.set_group_limit(self.authors, 7 * DOLLAR)
        self.alice.groups.add(self.authors)
        self.assertEqual(budgets.apply_limits(), 1)
        self.assertEqual(budgets.apply_limits(), 0)
        self.assertEqual(Budget.objects.get().limit, 7 * DOLLAR)

    def test_changed_settings_are_applied_to_rows_that_are_open(self) -> None:
        talk = Conversation.objects.create(user=self.alice, model="m")
        with override_settings(INSTALLATION_DAILY_LIMIT=9_000, CONVERSATION_CAP=8_000):
            reserve(ask(self.alice.pk, conversation_id=talk.pk))
        with override_settings(INSTALLATION_DAILY_LIMIT=7_000):
            budgets.apply_limits()
        limits = dict(Budget.objects.exclude(scope=Scope.USER).values_list("scope", "limit"))
        self.assertEqual(limits, {"installation": 7_000, "conversation": None})

    def test_an_extra_counts_for_today_alone_and_says_why(self) -> None:
        budgets.set_user_limit(self.alice, 0)
        by = ada()
        grant = budgets.grant_extra(self.alice, 1_000, reason="Deadline.", by=by, now=LATE)
        self.assertEqual((grant.reason, grant.granted_by), ("Deadline.", by))
        reserve(ask(self.alice.pk), now=LATE)
        with self.assertRaises(BudgetRefused):
            reserve(ask(self.alice.pk), now=LATE + timedelta(minutes=1))

    def test_amounts_are_whole_and_in_range(self) -> None:
        talk = Conversation.objects.create(user=self.alice, model="m")
        bad: list[Any] = [-1, MOST + 1, 1.5, float("nan"), "5", True]
        for amount in bad:
            with self.subTest(amount=amount):
                with self.assertRaises(BadAmount):
                    budgets.set_user_limit(self.alice, amount)
                with self.assertRaises(BadAmount):
                    budgets.set_group_limit(self.authors, amount)
                with self.assertRaises(BadAmount):
                    budgets.set_conversation_cap(talk, amount)
                with self.assertRaises(BadAmount):
                    budgets.grant_extra(self.alice, amount, reason="", by=None)
        with self.assertRaises(BadAmount):
            budgets.grant_extra(self.alice, 0, reason="", by=None)
        self.assertFalse(BudgetGrant.objects.exists())

    def test_a_time_zone_changed_at_2359_waits_for_the_reset(self) -> None:
        reserve(ask(self.alice.pk), now=LATE)
        self.alice.time_zone = "Pacific/Apia"
        self.alice.save()
        reserve(ask(self.alice.pk), now=LATE + timedelta(seconds=30))
        self.assertEqual(Budget.objects.get().held, 2_000)
        reserve(ask(self.alice.pk), now=LATE + timedelta(minutes=1))
        old, new = Budget.objects.order_by("starts_at")
        self.assertEqual(new.starts_at, old.ends_at)
        self.assertGreaterEqual(new.ends_at - new.starts_at, timedelta(hours=20))  # type: ignore[operator]

    def test_a_clock_that_jumps_back_opens_no_second_day(self) -> None:
        reserve(ask(self.alice.pk), now=LATE)
        reserve(ask(self.alice.pk), now=LATE + timedelta(minutes=1))
        reserve(ask(self.alice.pk), now=LATE - timedelta(hours=3))
        self.assertEqual(
            list(Budget.objects.order_by("starts_at").values_list("held", flat=True)), [1_000, 2_000]
        )

    def test_an_installation_limit_that_comes_late_counts_what_was_spent_today(self) -> None:
        settle(reserve(ask(self.alice.pk), now=LATE - timedelta(days=1)), usage(100, 1))
        settle(reserve(ask(self.alice.pk), now=LATE), usage(100, 5), now=LATE)
        reserve(ask(bob().pk), now=LATE)
        with override_settings(INSTALLATION_DAILY_LIMIT=2_000):
            with self.assertRaises(BudgetRefused):
                reserve(ask(self.alice.pk), now=LATE)
            budgets.open_installation_day(now=LATE)
        row = Budget.objects.get(scope=Scope.INSTALLATION)
        self.assertEqual((row.spent, row.held), (105, 1_000))
        self.assertEqual(LedgerEntry.objects.get(kind=LedgerEntry.Kind.OPENING).charged, 105)


class SettingTests(SimpleTestCase):
    def test_amounts_in_the_environment_are_dollars_or_unlimited(self) -> None:
        self.assertEqual(_dollars("DAILY_LIMIT", "4.50"), 4_500_000_000)
        self.assertEqual(_dollars("DAILY_LIMIT", "0"), 0)
        self.assertIsNone(_dollars("DAILY_LIMIT", "Unlimited"))
        for text in ("-1", "nan", "1e30", "1,2,3", "five", "99999999"):
            with self.subTest(text=text), self.assertRaisesMessage(ImproperlyConfigured, "DAILY_LIMIT"):
                _dollars("DAILY_LIMIT", text)
