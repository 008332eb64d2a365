"""Administrators set limits, grant extra and look at the money; what is wrong is said and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import uuid4

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client, TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from conversations import budgets, reconciliation
from conversations.admin.limits import effective, group_limit, own_limit, written
from conversations.budgets import UNLIMITED, remaining
from conversations.budgets.limits import Limit
from conversations.dashboard import read_people
from conversations.models import Budget, BudgetGrant, GroupLimit, Scope, User
from conversations.money import CENT, DOLLAR
from tests import cast
from tests.admin.test_people import queued_reply
from tests.test_reconciliation import day_of, line, open_hold

PEOPLE = reverse("admin:conversations_user_changelist")
#: What is no limit, and a part of what is said about it.
WRONG = {
    "-1": "cannot be negative",
    "NaN": "Write an amount",
    "1e30": "Write an amount",
    "1,2,3": "Write an amount",
    "1,000,000,000": "The most is",
    "5.0000000001": "at most nine decimals",
    "9" * 400: "The most is",
    "five": "Write an amount",
}


@override_settings(DAILY_LIMIT=5 * DOLLAR)
class MoneyTestCase(TestCase):
    def setUp(self) -> None:
        self.ada, self.alice, self.bob = cast.ada(), cast.alice(), cast.bob()
        self.client.force_login(self.ada)

    def limit_today(self, user: User) -> int | None:
        return remaining(user.pk).limit

    def last_log(self) -> str:
        entry = LogEntry.objects.latest("id")
        self.assertEqual(entry.user, self.ada)
        return entry.get_change_message()

    def says(self, response: Any) -> str:
        return " ".join(str(message) for message in response.context["messages"])


class LimitInTheListTests(MoneyTestCase):
    def save(self, *, meanwhile: Callable[[], None] | None = None, **limits: str) -> Any:
        """Press Save under the list: every row is sent, those named with another limit."""
        people = User.objects.order_by("email")
        form: dict[str, Any] = {
            "form-TOTAL_FORMS": len(people),
            "form-INITIAL_FORMS": len(people),
            "_save": "Save",
        }
        for number, person in enumerate(people):
            shown = written(own_limit(person))
            form[f"form-{number}-id"] = person.pk
            form[f"initial-form-{number}-daily_limit"] = shown
            form[f"form-{number}-daily_limit"] = limits.get(person.email.split("@")[0], shown)
        if meanwhile is not None:
            meanwhile()
        return self.client.post(PEOPLE, form, follow=True)

    def test_an_amount_unlimited_and_nothing(self) -> None:
        response = self.save(alice="7.50", bob="Unlimited")
        self.assertEqual((self.limit_today(self.alice), self.limit_today(self.bob)), (7_500_000_000, None))
        self.assertContains(response, "$7.50 · own")
        self.assertContains(response, "unlimited · own")
        self.assertContains(response, "$5.00 · default")  # Ada's
        self.save(alice="", bob="")
        self.assertEqual((self.limit_today(self.alice), self.limit_today(self.bob)), (5 * DOLLAR, 5 * DOLLAR))

    def test_what_another_administrator_has_set_meanwhile_stays(self) -> None:
        self.save(bob="3", meanwhile=lambda: budgets.set_user_limit(self.alice, 10 * DOLLAR))
        self.assertEqual(
            [self.limit_today(user) for user in (self.alice, self.bob)], [10 * DOLLAR, 3 * DOLLAR]
        )

    def test_the_log_says_from_what_to_what(self) -> None:
        self.save(alice="7.50")
        self.assertEqual(self.last_log(), "Changed limit a day from default to $7.50.")
        self.assertEqual(LogEntry.objects.count(), 1)  # who was not changed is not logged

    def test_zero_is_a_limit(self) -> None:
        self.save(alice="0")
        self.assertEqual(self.limit_today(self.alice), 0)
        self.alice.refresh_from_db()
        self.assertEqual((self.alice.daily_limit, self.alice.is_unlimited), (0, False))

    def test_what_is_wrong_is_said_and_changes_nothing(self) -> None:
        for text, part in WRONG.items():
            with self.subTest(text[:20]):
                response = self.save(alice=text, bob="3")
                self.assertContains(response, part)
                self.assertEqual(self.limit_today(self.alice), 5 * DOLLAR)
                self.assertEqual(self.limit_today(self.bob), 5 * DOLLAR)

    def test_a_limit_below_what_is_used_is_set_and_said_plainly(self) -> None:
        day_of(str(self.alice.pk), spent=120 * CENT, held=30 * CENT)
        response = self.save(alice="1")
        self.assertEqual(self.limit_today(self.alice), DOLLAR)
        self.assertIn("$1.20 is spent and $0.30 held already: nothing more fits today.", self.says(response))
        self.assertContains(response, "$1.50 of $1.00")

    def test_the_list_asks_as_often_for_many_as_for_few(self) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as counted:
                self.client.get(PEOPLE)
            return len(counted)

        self.client.get(PEOPLE)
        few = queries()
        for number in range(20):
            User.objects.create_user(f"person{number}@example.org")
        self.assertEqual(queries(), few)


class LimitOnThePageTests(MoneyTestCase):
    def change(self, limit: str) -> Any:
        form = {
            "email": self.alice.email,
            "name": self.alice.name,
            "time_zone": "Europe/Oslo",
            "is_active": "on",
            "initial-daily_limit": written(own_limit(User.objects.get(pk=self.alice.pk))),
            "daily_limit": limit,
        }
        return self.client.post(
            reverse("admin:conversations_user_change", args=[self.alice.pk]), form, follow=True
        )

    def test_it_is_set_and_taken_back(self) -> None:
        self.change("unlimited")
        self.assertIsNone(self.limit_today(self.alice))
        self.assertEqual(self.last_log(), "Changed limit a day from default to unlimited.")
        self.change("")
        self.assertEqual(self.limit_today(self.alice), 5 * DOLLAR)
        self.assertEqual(self.last_log(), "Changed limit a day from unlimited to default.")

    def test_what_is_wrong_is_said(self) -> None:
        self.assertContains(self.change("-3"), "An amount cannot be negative.")

    def test_saving_something_else_leaves_the_limit(self) -> None:
        budgets.set_user_limit(self.alice, 2_345_678_901)
        page = self.client.get(reverse("admin:conversations_user_change", args=[self.alice.pk]))
        self.assertContains(page, 'value="2.345678901"')
        self.change("2.345678901")
        self.assertEqual(self.limit_today(self.alice), 2_345_678_901)
        self.assertNotIn("limit", self.last_log())


class LimitInBulkTests(MoneyTestCase):
    def post(self, **form: str) -> Any:
        chosen = {"action": "set_limit", "_selected_action": [self.alice.pk, self.bob.pk]}
        return self.client.post(PEOPLE, chosen | form, follow=True)

    def test_the_page_in_between_asks_and_changes_nothing(self) -> None:
        response = self.post()
        self.assertContains(response, "For 2 people: Alice Ahlgren, Bob Berg")
        self.assertFalse(LogEntry.objects.exists())

    def test_all_of_a_long_list_are_set_without_naming_each(self) -> None:
        for number in range(120):
            User.objects.create_user(f"person{number}@example.org")
        page = self.post(select_across="1")
        self.assertContains(page, "For 123 people")
        self.assertContains(page, 'name="_selected_action"', count=1)
        page = self.post(select_across="1", apply="yes", kind="amount", amount="2")
        self.assertIn("The limit of 123 people is now: $2.00.", self.says(page))

    def test_each_kind(self) -> None:
        for kind, amount, limit in (
            ("amount", "2", 2 * DOLLAR),
            ("unlimited", "", None),
            ("default", "", 5 * DOLLAR),
        ):
            with self.subTest(kind):
                response = self.post(apply="yes", kind=kind, amount=amount)
                self.assertIn("The limit of 2 people is now", self.says(response))
                self.assertEqual([self.limit_today(user) for user in (self.alice, self.bob)], [limit, limit])
        self.assertEqual(LogEntry.objects.count(), 6)
        self.assertEqual(self.last_log(), "Changed limit a day from unlimited to default.")

    def test_what_is_wrong_is_said_and_changes_nothing(self) -> None:
        for text, part in (WRONG | {"": "Write an amount"}).items():
            with self.subTest(text[:20]):
                self.assertContains(self.post(apply="yes", kind="amount", amount=text), part)
        self.assertContains(self.post(apply="yes", kind="other", amount="1"), "Select a valid choice.")
        self.assertEqual(self.limit_today(self.alice), 5 * DOLLAR)


class GroupTests(MoneyTestCase):
    def save(self, group: Group | None = None, **form: Any) -> Any:
        address = (
            reverse("admin:auth_group_change", args=[group.pk]) if group else reverse("admin:auth_group_add")
        )
        shown = written(group_limit(GroupLimit.objects.filter(group=group).first())) if group else ""
        given = {
            "name": "Research",
            "initial-daily_limit": shown,
            "daily_limit": "",
            "members": [self.alice.pk],
        }
        given |= form
        return self.client.post(address, given, follow=True)

    def test_members_get_its_limit_at_once_and_lose_it_when_they_leave(self) -> None:
        day_of(str(self.alice.pk))
        response = self.save(daily_limit="20")
        self.assertContains(response, "$20.00")
        self.assertEqual(self.limit_today(self.alice), 20 * DOLLAR)
        self.assertContains(self.client.get(PEOPLE), "$20.00 · group Research")
        group = Group.objects.get()
        self.save(group, daily_limit="20", members=[self.bob.pk])
        self.assertEqual(
            [self.limit_today(user) for user in (self.alice, self.bob)], [5 * DOLLAR, 20 * DOLLAR]
        )

    def test_unlimited_zero_and_nothing(self) -> None:
        self.save(daily_limit="unlimited")
        group = Group.objects.get()
        self.assertIsNone(self.limit_today(self.alice))
        self.assertContains(
            self.client.get(reverse("admin:auth_group_change", args=[group.pk])), 'value="unlimited"'
        )
        self.save(group, daily_limit="0")
        self.assertEqual(self.limit_today(self.alice), 0)
        self.save(group, daily_limit="")
        self.assertEqual(self.limit_today(self.alice), 5 * DOLLAR)
        self.assertFalse(GroupLimit.objects.exists())

    def test_the_most_generous_group_counts_and_an_own_limit_before_it(self) -> None:
        for name, limit in (("Research", "20"), ("Support", "3"), ("Quiet", "")):
            self.save(name=name, daily_limit=limit)
        self.assertEqual(self.limit_today(self.alice), 20 * DOLLAR)
        self.assertContains(self.client.get(PEOPLE), "$20.00 · group Research")
        budgets.set_user_limit(self.alice, DOLLAR)
        self.assertContains(self.client.get(PEOPLE), "$1.00 · own")

    def test_the_limit_that_is_shown_is_the_one_that_a_day_opens_with(self) -> None:
        owns: list[Limit] = [None, 0, 7, UNLIMITED]
        groups: list[list[Limit]] = [[], [None], [0], [3, 20], [20, UNLIMITED, 3]]
        for own, theirs, default in product(owns, groups, (5, None)):
            with self.subTest(own=own, groups=theirs), override_settings(DAILY_LIMIT=default):
                Group.objects.all().delete()
                for number, limit in enumerate(theirs):
                    group = Group.objects.create(name=f"Group {number}")
                    budgets.set_group_limit(group, limit)
                    self.alice.groups.add(group)
                budgets.set_user_limit(self.alice, own)
                shown, _ = effective(User.objects.get(pk=self.alice.pk))
                self.assertEqual(None if shown is UNLIMITED else shown, self.limit_today(self.alice))

    def test_a_deleted_group_takes_its_limit_along(self) -> None:
        day_of(str(self.alice.pk))
        self.save(daily_limit="20")
        self.client.post(reverse("admin:auth_group_delete", args=[Group.objects.get().pk]), {"post": "yes"})
        self.assertEqual(self.limit_today(self.alice), 5 * DOLLAR)

    def test_the_log_says_from_what_to_what(self) -> None:
        self.save(daily_limit="3")
        self.save(Group.objects.get(), daily_limit="unlimited")
        self.assertEqual(self.last_log(), "Changed limit a day from $3.00 to unlimited.")

    def test_what_is_wrong_is_said(self) -> None:
        for text, part in WRONG.items():
            with self.subTest(text[:20]):
                self.assertContains(self.save(daily_limit=text), part)
        self.assertFalse(Group.objects.exists())
        self.save()
        self.assertContains(self.save(name="research"), "There is a group with this name already.")


class GrantTests(MoneyTestCase):
    def grant(self, amount: str, reason: str = "Quarterly report") -> Any:
        address = reverse("admin:conversations_user_grant", args=[self.alice.pk])
        return self.client.post(address, {"amount": amount, "reason": reason}, follow=True)

    def test_it_counts_today_and_is_shown_with_who_and_why(self) -> None:
        page = self.grant("2.50")
        self.assertEqual(self.limit_today(self.alice), 7_500_000_000)
        for text in ("Quarterly report", "$2.50", "Ada", "$7.50"):
            self.assertContains(page, text)
        self.assertEqual(BudgetGrant.objects.get().granted_by, self.ada)
        self.assertEqual(self.last_log(), "Granted $2.50 extra for today: Quarterly report")

    def test_it_needs_an_amount_and_a_reason(self) -> None:
        for text, part in (WRONG | {"": "This field is required.", "0": "The least is"}).items():
            with self.subTest(text[:20]):
                self.assertContains(self.grant(text), part)
        self.assertContains(self.grant("1", reason="  "), "This field is required.")
        self.assertFalse(BudgetGrant.objects.exists())

    def test_a_person_that_is_not_there(self) -> None:
        self.assertEqual(self.client.get("/admin/conversations/user/987654/grant/").status_code, 404)


@override_settings(DAILY_LIMIT=5 * DOLLAR)
class TwoGrantsTests(TransactionTestCase):
    def test_two_at_once_both_count(self) -> None:
        alice, ada = cast.alice(), cast.ada()
        address = reverse("admin:conversations_user_grant", args=[alice.pk])
        start = threading.Barrier(2)
        statuses: list[int] = []

        def grant(amount: str) -> None:
            client = Client()
            client.force_login(ada)
            start.wait(timeout=10)
            statuses.append(client.post(address, {"amount": amount, "reason": "At once"}).status_code)
            connection.close()

        threads = [threading.Thread(target=grant, args=[amount]) for amount in ("1", "2")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        self.assertEqual(statuses, [302, 302])
        self.assertEqual(remaining(alice.pk).limit, 8 * DOLLAR)
        self.assertEqual(BudgetGrant.objects.count(), 2)


class FirstPageTests(MoneyTestCase):
    def setUp(self) -> None:
        super().setUp()
        reconciliation._client().delete(reconciliation.KEPT)

    def test_people_stand_by_the_share_of_their_day(self) -> None:
        near = day_of(str(self.alice.pk), spent=4 * DOLLAR, held=40 * CENT)
        day_of(str(self.bob.pk), spent=10 * DOLLAR, limit=20 * DOLLAR)
        day_of(str(self.ada.pk), spent=99 * DOLLAR, limit=None)
        queued_reply(self.alice)
        response = self.client.get("/admin/")
        people = response.context["today"]["people"]
        self.assertEqual([person.email[:3] for person in people], ["ali", "bob", "ada"])
        self.assertEqual([person.share for person in people], [88, 50, None])
        self.assertEqual([person.running for person in people], [1, 0, 0])
        self.assertEqual(response.context["today"]["near"], 1)
        self.assertContains(response, "$4.00 spent and $0.40 held of $5.00")
        self.assertEqual(people[0].resets_at, near.ends_at)

    def test_those_near_their_limit_are_counted_and_an_extra_takes_them_out(self) -> None:
        day_of(str(self.alice.pk), spent=4 * DOLLAR)
        day_of(str(self.bob.pk), spent=4 * DOLLAR, held=50 * CENT)
        day_of(str(cast.charlie().pk), spent=3 * DOLLAR)
        day_of(str(self.ada.pk), spent=90 * DOLLAR, limit=None)
        near = [person for person in read_people() if person.is_near]
        self.assertEqual(
            [(person.name, person.share) for person in near], [("Bob Berg", 90), ("Alice Ahlgren", 80)]
        )
        Budget.objects.filter(subject=str(self.bob.pk)).update(extra=5 * DOLLAR)
        self.assertEqual([person.name for person in read_people() if person.is_near], ["Alice Ahlgren"])

    def test_a_day_that_has_ended_is_not_shown(self) -> None:
        ended = timezone.now() - timedelta(minutes=1)
        day_of(str(self.alice.pk), spent=DOLLAR, starts_at=ended - timedelta(days=1), ends_at=ended)
        self.assertContains(self.client.get("/admin/"), "Nobody has spent anything today.")

    def test_everybodys_day_with_and_without_a_limit(self) -> None:
        line(3 * DOLLAR)
        line(
            9 * DOLLAR,
            held_at=timezone.now() - timedelta(days=2),
            created_at=timezone.now() - timedelta(days=2),
        )
        open_hold(25 * CENT)
        page = self.client.get("/admin/")
        self.assertEqual(
            (page.context["today"]["everybody"].spent, page.context["today"]["everybody"].limit),
            (3 * DOLLAR, None),
        )
        self.assertContains(page, "$0.25 held for 1 call · no limit")
        day_of("", scope=Scope.INSTALLATION, spent=7 * DOLLAR, limit=60 * DOLLAR)
        self.assertContains(self.client.get("/admin/"), "$7.00 <small>of $60.00</small>")

    def test_the_bars_say_what_the_ledger_says(self) -> None:
        today = timezone.localdate()
        then = timezone.now() - timedelta(days=4)
        day_of("1", day=today, spent=3 * DOLLAR)
        line(3 * DOLLAR, day=today)
        day_of(
            "1", day=today - timedelta(days=4), spent=DOLLAR, starts_at=then, ends_at=then + timedelta(days=1)
        )
        line(DOLLAR, day=today - timedelta(days=4), created_at=then)
        page = self.client.get("/admin/")
        bars = page.context["today"]["bars"]
        self.assertEqual(len(bars), 30)
        self.assertEqual(
            [(bar.day, bar.total.charged) for bar in bars if bar.height],
            [(today - timedelta(days=4), DOLLAR), (today, 3 * DOLLAR)],
        )
        self.assertContains(page, "$4.00 for 2 calls")

    def test_drift_is_shown_and_not_mended(self) -> None:
        self.assertContains(self.client.get("/admin/"), "Not compared yet")
        reconciliation.reconcile()
        self.assertContains(self.client.get("/admin/"), "Ledger equals balances")
        budget = day_of(str(self.alice.pk), spent=1)
        with self.assertLogs("conversations.reconciliation", "WARNING"):
            reconciliation.reconcile()
        self.assertContains(self.client.get("/admin/"), "1 balance differs from the ledger")
        page = self.client.get(reverse("admin:reconciliation"))
        self.assertContains(page, "1 balance differs from the ledger")
        self.assertContains(page, "0.000000001")
        budget.refresh_from_db()
        self.assertEqual(budget.spent, 1)


class ListTests(MoneyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.budget = day_of(str(self.alice.pk), spent=3 * DOLLAR, held=CENT)
        self.entry = line(3 * DOLLAR, held=4 * DOLLAR, user_id=self.alice.pk, user_budget_id=self.budget.pk)
        self.hold = open_hold(CENT, user_id=self.alice.pk, conversation_id=uuid4())
        line(DOLLAR, user_id=987654)

    def test_the_ledger_is_read_filtered_and_searched(self) -> None:
        address = reverse("admin:conversations_ledgerentry_changelist")
        page = self.client.get(address)
        for text in ("alice@example.org", "$3.00", "$4.00", "987654 (account is gone)"):
            self.assertContains(page, text)
        for query, count in (
            ("?q=Ahlgren", 1),
            (f"?q={self.entry.hold_id}", 1),
            ("?q=charlie", 0),
            ("?kind__exact=void", 0),
            ("?purpose__exact=reply", 2),
        ):
            with self.subTest(query):
                self.assertEqual(self.client.get(address + query).context["cl"].result_count, count)

    def test_holds_and_balances_are_read(self) -> None:
        holds = self.client.get(reverse("admin:conversations_hold_changelist") + "?state__exact=held&q=alice")
        self.assertContains(holds, "$0.01")
        balances = self.client.get(reverse("admin:conversations_budget_changelist") + "?q=alice")
        self.assertContains(balances, "$3.00")
        self.assertEqual(balances.context["cl"].result_count, 1)

    def test_nothing_of_it_is_changed_by_hand(self) -> None:
        for noun, row in (("ledgerentry", self.entry), ("hold", self.hold), ("budget", self.budget)):
            with self.subTest(noun):
                page = self.client.get(reverse(f"admin:conversations_{noun}_change", args=[row.pk]))
                self.assertEqual(page.status_code, 200)
                self.assertNotContains(page, 'name="_save"')
                for name, arguments in (("add", []), ("delete", [row.pk])):
                    address = reverse(f"admin:conversations_{noun}_{name}", args=arguments)
                    self.assertEqual(self.client.post(address, {"post": "yes"}).status_code, 403)
        self.assertTrue(Budget.objects.exists())
