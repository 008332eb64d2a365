"""A hold is made, attached to its call, and resolved once; what does not fit shrinks or is refused with a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.db import IntegrityError, connection, transaction
from django.test import TestCase, override_settings

from conversations import budgets
from conversations.budgets import BudgetRefused
from conversations.models import Budget, Conversation, Hold, LedgerEntry, Scope
from conversations.models.fields import new_id
from conversations.prices import Price
from tests.budgets.common import FREE, PRICE, ask, drift, reserve, settle, usage
from tests.cast import alice, bob

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class HoldTests(TestCase):
    def setUp(self) -> None:
        self.alice = alice()

    def day(self) -> Budget:
        return Budget.objects.get(scope=Scope.USER, subject=str(self.alice.pk))

    def test_a_hold_sets_aside_the_worst_case_and_keeps_its_rates(self) -> None:
        held = reserve(ask(self.alice.pk))
        self.assertEqual((held.amount, held.max_tokens, held.shrunk), (1_000, 900, False))
        self.assertEqual(self.day().held, 1_000)
        hold = Hold.objects.get()
        self.assertEqual(hold.user_budget_id, self.day().pk)
        self.assertEqual(Price.from_snapshot(hold.price), PRICE)

    def test_a_settlement_charges_the_cost_and_releases_the_rest(self) -> None:
        held = reserve(ask(self.alice.pk))
        self.assertEqual(settle(held, usage(100, 250)), 350)
        line = LedgerEntry.objects.get()
        self.assertEqual((line.kind, line.held, line.charged, line.released), ("settled", 1_000, 350, 650))
        self.assertEqual(line.day, self.day().day)
        self.assertEqual((self.day().spent, self.day().held), (350, 0))
        self.assertFalse(line.is_underestimate)

    def test_a_cost_above_the_hold_is_charged_in_full_and_marked(self) -> None:
        held = reserve(ask(self.alice.pk))
        self.assertEqual(settle(held, usage(100, 5_000)), 5_100)
        self.assertTrue(LedgerEntry.objects.get().is_underestimate)
        self.assertEqual(self.day().spent, 5_100)

    def test_a_hold_is_settled_by_its_attempt_and_only_once(self) -> None:
        attempt = new_id()
        held = reserve(ask(self.alice.pk))
        with connection.cursor() as cursor:
            self.assertTrue(budgets.attach(cursor, held.hold_id, attempt))
            spent = {"attempt_id": attempt, "usage": usage(100), "usage_reported": True}
            self.assertEqual(budgets.settle(cursor, **spent), 100)  # type: ignore[arg-type]
            self.assertIsNone(budgets.settle(cursor, **spent))  # type: ignore[arg-type]
            self.assertIsNone(budgets.void(cursor, hold_id=held.hold_id))
            self.assertIsNone(budgets.expire(cursor, hold_id=held.hold_id))
            self.assertFalse(budgets.attach(cursor, held.hold_id, attempt))
            self.assertIsNone(budgets.void(cursor, hold_id=new_id()))
        self.assertEqual(LedgerEntry.objects.count(), 1)

    def test_a_void_hold_is_released_and_leaves_a_line(self) -> None:
        held = reserve(ask(self.alice.pk))
        with connection.cursor() as cursor:
            self.assertEqual(budgets.void(cursor, hold_id=held.hold_id), 0)
        line = LedgerEntry.objects.get()
        self.assertEqual((line.kind, line.charged, line.released), ("void", 0, 1_000))
        self.assertEqual(self.day().held, 0)

    def test_a_call_that_was_never_sent_expires_at_no_charge(self) -> None:
        held = reserve(ask(self.alice.pk))
        with connection.cursor() as cursor:
            self.assertEqual(budgets.expire(cursor, hold_id=held.hold_id, usage=usage(100, 5)), 0)

    def test_a_call_that_was_sent_expires_at_the_price_of_its_prompt_or_of_what_is_known(self) -> None:
        first, second = reserve(ask(self.alice.pk)), reserve(ask(self.alice.pk))
        with connection.cursor() as cursor:
            budgets.attach(cursor, first.hold_id)
            budgets.attach(cursor, second.hold_id)
            self.assertEqual(budgets.expire(cursor, hold_id=first.hold_id), 100)
            self.assertEqual(budgets.expire(cursor, hold_id=second.hold_id, usage=usage(90, 40)), 130)

    def test_a_free_call_needs_no_hold_and_leaves_a_line_without_money(self) -> None:
        free = ask(self.alice.pk, price=FREE)
        budgets.set_user_limit(self.alice, 0)
        with connection.cursor() as cursor:
            self.assertIsNone(budgets.reserve(cursor, free))
            budgets.record_free(cursor, free, usage=usage(10, 20), usage_reported=True)
        line = LedgerEntry.objects.get()
        self.assertEqual(
            (line.kind, line.charged, line.input_tokens, line.output_tokens), ("free", 0, 10, 20)
        )
        self.assertEqual(line.day, self.day().day)

    def test_a_reply_belongs_to_the_day_of_its_hold(self) -> None:
        held = reserve(ask(self.alice.pk), now=NOON)
        tomorrow = NOON + timedelta(days=1)
        reserve(ask(self.alice.pk), now=tomorrow)
        settle(held, usage(100, 5), now=tomorrow)
        self.assertEqual(
            list(Budget.objects.order_by("starts_at").values_list("spent", "held")), [(105, 0), (0, 1_000)]
        )

    def test_usage_that_no_column_holds_is_cut_and_settles_all_the_same(self) -> None:
        held = reserve(ask(self.alice.pk))
        self.assertIsNotNone(settle(held, usage(10**30, -5)))
        self.assertEqual(drift(), [])


class FitTests(TestCase):
    def setUp(self) -> None:
        self.alice = alice()

    def test_an_answer_shrinks_to_what_fits(self) -> None:
        budgets.set_user_limit(self.alice, 700)
        held = reserve(ask(self.alice.pk, floor=256))
        self.assertEqual((held.amount, held.max_tokens, held.shrunk), (700, 600, True))

    def test_below_the_floor_it_is_refused_with_what_is_left_and_when_it_resets(self) -> None:
        budgets.set_user_limit(self.alice, 355)
        with self.assertRaises(BudgetRefused) as caught:
            reserve(ask(self.alice.pk, floor=256), now=NOON)
        refused = caught.exception
        self.assertEqual((refused.scope, refused.left, refused.limit), (Scope.USER, 355, 355))
        self.assertEqual(refused.needed, 1_000)
        self.assertEqual(refused.resets_at, datetime(2026, 11, 20, 23, tzinfo=UTC))  # midnight in Oslo
        self.assertEqual(refused.sentence, "This message does not fit in what is left today.")
        self.assertFalse(Hold.objects.exists())

    def test_the_floor_is_a_setting(self) -> None:
        budgets.set_user_limit(self.alice, 355)
        with override_settings(SHRINK_FLOOR=255):
            self.assertEqual(reserve(ask(self.alice.pk, floor=None)).max_tokens, 255)

    @override_settings(INSTALLATION_DAILY_LIMIT=1_500, CONVERSATION_CAP=10_000)
    def test_a_refusal_of_a_later_scope_holds_nothing_in_the_earlier_ones(self) -> None:
        talk = Conversation.objects.create(user=self.alice, model="m")
        reserve(ask(self.alice.pk, conversation_id=talk.pk))
        with connection.cursor() as cursor, self.assertRaises(BudgetRefused) as caught:
            budgets.reserve(cursor, ask(self.alice.pk, conversation_id=talk.pk))
        self.assertEqual(caught.exception.scope, Scope.INSTALLATION)
        self.assertEqual(set(Budget.objects.values_list("held", flat=True)), {1_000})

    @override_settings(INSTALLATION_DAILY_LIMIT=1_500)
    def test_the_installation_is_everybodys(self) -> None:
        reserve(ask(self.alice.pk))
        with self.assertRaises(BudgetRefused):
            reserve(ask(bob().pk))

    def test_nobody_who_was_deleted_gets_a_hold(self) -> None:
        number = self.alice.pk
        self.alice.delete()
        with self.assertRaises(BudgetRefused):
            reserve(ask(number))

    def test_a_deleted_person_s_open_hold_settles_and_the_amounts_stay(self) -> None:
        held = reserve(ask(self.alice.pk))
        self.alice.delete()
        self.assertEqual(settle(held, usage(100, 50)), 150)
        self.assertEqual(Budget.objects.get().spent, 150)
        self.assertEqual(LedgerEntry.objects.get().charged, 150)

    def test_an_amount_beyond_all_limits_is_refused_not_wrapped(self) -> None:
        with self.assertRaises(BudgetRefused):
            reserve(ask(self.alice.pk, input_tokens=10**30, max_tokens=10**30))

    def test_a_quote_says_about_and_at_most_and_what_fits(self) -> None:
        budgets.set_user_limit(self.alice, 700)
        room = budgets.room(self.alice.pk, None)
        quote = budgets.quote_in(room, ask(self.alice.pk, floor=256))
        self.assertEqual((quote.about, quote.at_most, quote.left), (500, 1_000, 700))
        self.assertEqual((quote.fits, quote.shrunk_max_tokens), (True, 600))
        self.assertFalse(budgets.quote_in(room, ask(self.alice.pk)).fits)
        self.assertFalse(Budget.objects.exists())

    def test_remaining_counts_what_is_held(self) -> None:
        self.assertEqual(budgets.remaining(self.alice.pk).left, 5 * 10**9)
        settle(reserve(ask(self.alice.pk)), usage(100))
        reserve(ask(self.alice.pk))
        left = budgets.remaining(self.alice.pk)
        self.assertEqual((left.spent, left.held, left.left), (100, 1_000, 5 * 10**9 - 1_100))
        with self.assertRaises(LookupError):
            budgets.remaining(0)


class LedgerTests(TestCase):
    def setUp(self) -> None:
        settle(reserve(ask(alice().pk)), usage(100))

    def refused(self, statement: str) -> None:
        with (
            self.assertRaisesMessage(IntegrityError, "never changed or deleted"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            # Tests alone may empty the ledger: see `conftest`.
            cursor.execute("ALTER TABLE ledger_entries ENABLE TRIGGER ledger_is_not_emptied")
            cursor.execute(statement)

    def test_a_line_is_never_changed(self) -> None:
        self.refused("UPDATE ledger_entries SET charged = 0")

    def test_a_line_is_never_deleted(self) -> None:
        self.refused("DELETE FROM ledger_entries")

    def test_the_ledger_is_never_emptied(self) -> None:
        self.refused("TRUNCATE ledger_entries")
