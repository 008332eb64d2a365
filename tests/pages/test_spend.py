"""What a person sees of money: the meter on every page, the page of a month, the ledger, and its export."""

from __future__ import annotations

import csv
import io
import re
from datetime import date, datetime, timedelta
from unittest import mock
from uuid import uuid4
from zoneinfo import ZoneInfo

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from conversations.models import Budget, BudgetGrant, Conversation, LedgerEntry
from conversations.money import CENT, DOLLAR
from tests import cast
from tests.spending import MODEL, budget_of, hold, line, today_of

from .base import PageTests, conversation_of, signed_in

OSLO = ZoneInfo("Europe/Oslo")


def words(page: str) -> str:
    """The page as it is read."""
    return " ".join(strip_tags(page.replace("<", " <")).split())


class NovemberTests(PageTests):
    """At noon in Oslo on 20 November 2026."""

    today = date(2026, 11, 20)

    def setUp(self) -> None:
        super().setUp()
        now = datetime(2026, 11, 20, 17, 48, tzinfo=OSLO)
        self.enterContext(mock.patch("django.utils.timezone.now", return_value=now))


class MeterTests(NovemberTests):
    def meter(self) -> str:
        found = re.search(r'<a class="budget.*?</a>', self.fragment("budget"), re.DOTALL)
        assert found is not None
        return found.group()

    def test_it_says_what_is_spent_held_and_left_and_when_it_resets(self) -> None:
        line(self.alice, 123 * CENT)
        hold(self.alice, 14 * CENT)
        meter = self.meter()
        self.assertEqual(
            words(meter), "$1.37 of $5.00 today resets in 6 h 12 m $0.14 held for 1 reply $3.63 left"
        )
        self.assertIn('aria-valuetext="$1.23 spent and $0.14 held of $5.00"', meter)
        self.assertIn('aria-valuenow="1.37"', meter)
        self.assertIn('aria-valuemax="5.00"', meter)
        self.assertIn('href="/spend/"', meter)
        self.assertIn('width="24.6%"', meter)

    def test_every_page_has_it_without_script(self) -> None:
        line(self.alice, 123 * CENT)
        fees = conversation_of(self.alice)
        for name, arguments in (("home", ()), ("conversation", (fees.pk,)), ("archived", ()), ("spend", ())):
            with self.subTest(name):
                self.assertIn("$1.23 of $5.00 today", words(self.page(name, *arguments)))

    def test_without_script_its_address_leads_to_the_page(self) -> None:
        self.assertRedirects(self.client.get(reverse("budget")), reverse("spend"))

    def test_it_costs_one_query_beside_those_of_every_request(self) -> None:
        hold(self.alice)
        self.fragment("budget")
        with CaptureQueriesContext(connection) as queries:
            self.fragment("budget")
        # The session and the person; the meter's own statement does not go through Django.
        self.assertEqual([query for query in queries if "budget" in query["sql"]], [])
        self.assertLessEqual(len(queries), 2)

    def test_the_page_of_spend_shows_the_same_in_large(self) -> None:
        line(self.alice, 123 * CENT)
        self.assertEqual(self.fragment("budget").count("$1.23"), 2)
        at_page = {"HX-Request": "true", "HX-Current-URL": "http://testserver/spend/?month=2026-11"}
        both = self.client.get("/budget/", headers=at_page).content.decode()
        self.assertIn('<div id="today" hx-swap-oob="true"', both)
        self.assertIn("$1.23 of $5.00 · resets in 6 h 12 m spent $1.23 held $0.00 left $3.77", words(both))

    def test_calls_that_are_no_replies_are_called_calls(self) -> None:
        hold(self.alice, CENT)
        hold(self.alice, CENT, purpose="title")
        self.assertIn("$0.02 held for 2 calls", words(self.meter()))

    def test_nothing_held(self) -> None:
        line(self.alice, 62 * CENT)
        self.assertIn("Nothing held $4.38 left", words(self.meter()))

    def test_near_the_limit_it_says_how_near(self) -> None:
        line(self.alice, 421 * CENT)
        hold(self.alice, 16 * CENT)
        self.assertIn("87 % used · $0.16 held $0.63 left", words(self.meter()))
        self.assertIn('class="budget near"', self.meter())

    def test_when_nothing_is_left_only_free_models_fit(self) -> None:
        line(self.alice, 5 * DOLLAR)
        self.assertIn("Only free models fit $0.00 left", words(self.meter()))
        self.assertIn('class="budget out"', self.meter())

    def test_a_lowered_limit_is_over_and_nothing_is_negative(self) -> None:
        line(self.alice, 6 * DOLLAR)
        self.assertIn("$6.00 of $5.00 today", words(self.meter()))
        self.assertIn("$0.00 left", words(self.meter()))
        self.assertIn('aria-valuemax="6.00"', self.meter())
        self.assertNotIn("-$", self.meter())

    def test_a_limit_of_zero(self) -> None:
        budget_of(self.alice, limit=0)
        self.assertIn("$0.00 of $0.00 today", words(self.meter()))
        self.assertIn("Only free models fit", words(self.meter()))

    def test_without_a_limit_there_is_no_scale(self) -> None:
        budget_of(self.alice, limit=None)
        line(self.alice, 123 * CENT)
        self.assertEqual(words(self.meter()), "$1.23 today resets in 6 h 12 m Nothing held no limit")
        self.assertNotIn("role=", self.meter())


class SpendPageTests(NovemberTests):
    def test_a_month_without_a_call_says_so(self) -> None:
        page = words(self.page("spend"))
        self.assertIn("Nothing was called in November 2026.", page)
        self.assertIn("No line in November 2026.", page)
        self.assertIn("of $5.00 · resets in 6 h 12 m", page)

    def test_every_number_is_in_a_table(self) -> None:
        fees = conversation_of(self.alice, "Fees")
        line(self.alice, 123 * CENT, conversation=fees)
        line(self.alice, 30 * CENT, purpose="summary", model="openai/small", day=date(2026, 11, 3))
        hold(self.alice, 14 * CENT)
        page = words(self.page("spend"))
        self.assertIn("Friday 20 November 1 1,000 100 $1.23 $0.14 $5.00", page)
        self.assertIn("Tuesday 3 November 1 1,000 100 $0.30 $0.00 $5.00", page)
        self.assertIn("gpt-5-mini 1 call $1.23", page)
        self.assertIn("Fees 1 call $1.23", page)
        self.assertIn("No conversation 1 call $0.30", page)
        self.assertIn("Summaries 1 call $0.30", page)
        self.assertIn("November so far $1.53", page)
        self.assertIn("$1.53 in 2 calls", page)

    def test_the_picture_says_what_it_shows(self) -> None:
        line(self.alice, 123 * CENT)
        line(self.alice, 498 * CENT, day=date(2026, 11, 15))
        page = self.page("spend")
        self.assertIn(
            'aria-label="Charged per day in November 2026. Highest: $4.98 on 15 November. The limit is $5.00 a day."',
            page,
        )
        self.assertIn('<path class="limit" d="M60', page)

    def test_a_limit_far_above_the_bars_is_named_and_not_drawn(self) -> None:
        line(self.alice, CENT)
        page = self.page("spend")
        self.assertIn("limit $5.00 a day, above these bars", words(page))
        self.assertNotIn('<path class="limit" d="M60', page)

    def test_a_line_tells_a_call_from_its_hold_to_what_was_released(self) -> None:
        fees = conversation_of(self.alice, "Fees")
        line(self.alice, 4_100_000, held=21_000_000, conversation=fees, cached_tokens=800)
        self.assertIn(
            "Fees · reply $0.02 $0.0041 $0.02 1,000 in (800 cached) · 100 out gpt-5-mini",
            words(self.page("spend")),
        )

    def test_lines_are_marked(self) -> None:
        line(self.alice, 2, held=1, is_underestimate=True)
        line(self.alice, usage_reported=False)
        line(self.alice, kind="expired")
        line(self.alice, 0, kind="void", input_tokens=0, output_tokens=0)
        line(self.alice, 0, held=0, kind="free", hold_id=None)
        page = words(self.page("spend"))
        for mark in ("above the hold", "estimated", "≈ 1,000 in", "expired", "nothing charged", "free"):
            with self.subTest(mark):
                self.assertIn(mark, page)

    def test_what_is_held_is_listed_until_it_is_a_line(self) -> None:
        hold(self.alice, 14 * CENT)
        self.assertIn("under way", words(self.page("spend")))
        self.assertNotIn("under way", words(self.page("spend", month="2026-10")))

    def test_a_deleted_conversation_keeps_its_amount_without_its_name(self) -> None:
        fees = conversation_of(self.alice, "Fees")
        line(self.alice, CENT, conversation=fees)
        Conversation.objects.update(deleted_at=timezone.now())
        page = words(self.page("spend"))
        self.assertIn("Deleted conversation 1 call $0.01", page)
        self.assertNotIn("Fees", page)

    def test_nobody_sees_what_is_not_theirs(self) -> None:
        fees = conversation_of(self.alice, "Fees of Alice")
        theirs = line(self.alice, 77 * CENT, conversation=fees)
        hold(self.alice, 55 * CENT, conversation=fees)
        bob = signed_in(cast.bob())
        addresses = ("/spend/", f"/spend/?conversation={fees.pk}", "/spend/export.csv", "/budget/")
        for address in addresses:
            page = bob.get(address, headers={"HX-Request": "true"}).content.decode()
            with self.subTest(address):
                self.assertNotIn("0.77", page)
                self.assertNotIn("0.55", page)
                self.assertNotIn("Fees", page)
        self.assertEqual(bob.get(f"/spend/?before={theirs.pk}").status_code, 404)

    def test_a_title_is_text(self) -> None:
        line(self.alice, conversation=conversation_of(self.alice, "<img src=x>"))
        self.assertNotIn("<img", self.page("spend"))

    def test_what_was_granted_on_top_is_said_with_its_reason(self) -> None:
        budget = budget_of(self.alice, extra=DOLLAR)
        BudgetGrant.objects.create(budget=budget, amount=DOLLAR, reason="Release week")
        page = words(self.page("spend"))
        self.assertIn("of $6.00", page)
        self.assertIn("$1.00 extra today: Release week", page)

    def test_times_are_the_persons_own(self) -> None:
        line(self.alice, at=datetime(2026, 11, 20, 23, 30, tzinfo=ZoneInfo("UTC")) - timedelta(hours=12))
        self.assertIn("20 Nov 12:30", words(self.page("spend")))

    def test_an_estimate_has_its_bound_and_says_how_it_is_made(self) -> None:
        line(self.alice, DOLLAR, day=date(2026, 11, 19))
        page = words(self.page("spend"))
        self.assertIn("≈ $12.00 from $1.00 to $56.00 at most", page)
        self.assertIn(
            "the mean of the last 1 day with spend. At most: the limit of $5.00 on each of these days.", page
        )
        self.assertNotIn("≈", words(self.page("spend", month="2026-10")))

    def test_without_a_limit_the_estimate_says_that_nothing_bounds_it(self) -> None:
        Budget.objects.all().delete()
        budget_of(self.alice, limit=None)
        line(self.alice, DOLLAR, day=date(2026, 11, 19))
        page = words(self.page("spend"))
        self.assertIn("$12.00 if each day is like the dearest", page)
        self.assertIn("nothing bounds it", page)


class ChoiceTests(NovemberTests):
    def setUp(self) -> None:
        super().setUp()
        self.fees = conversation_of(self.alice, "Fees")
        line(self.alice, 3 * CENT, conversation=self.fees)
        line(self.alice, 5 * CENT, model="openai/other", purpose="title", day=date(2026, 11, 3))
        line(self.alice, 7 * CENT, day=date(2026, 10, 31))

    def charged(self, **query: str) -> str:
        found = re.search(r"(\$[0-9.]+) in ([0-9]+) call", words(self.page("spend", **query)))
        assert found is not None
        return found.group()

    def test_month_day_model_purpose_and_conversation_choose(self) -> None:
        self.assertEqual(self.charged(), "$0.08 in 2 call")
        self.assertEqual(self.charged(month="2026-10"), "$0.07 in 1 call")
        self.assertEqual(self.charged(day="2026-11-03"), "$0.05 in 1 call")
        self.assertEqual(self.charged(model=MODEL), "$0.03 in 1 call")
        self.assertEqual(self.charged(purpose="title"), "$0.05 in 1 call")
        self.assertEqual(self.charged(conversation=str(self.fees.pk)), "$0.03 in 1 call")
        self.assertEqual(self.charged(model=MODEL, purpose="title"), "$0.00 in 0 call")

    def test_a_choice_is_a_link_that_keeps_the_others(self) -> None:
        page = self.page("spend", model=MODEL, day="2026-11-20")
        self.assertIn('href="?model=openai%2Fgpt-5-mini&amp;day=2026-11-20&amp;purpose=reply"', page)
        self.assertIn('href="?day=2026-11-20"', page)
        self.assertIn('href="?model=openai%2Fgpt-5-mini&amp;month=2026-11"', page)

    def test_a_script_gets_the_choice_alone(self) -> None:
        address = reverse("spend") + "?purpose=title"
        response = self.client.get(
            address, headers={"HX-Request": "true", "HX-Target": "spend", "HX-Boosted": "true"}
        )
        self.assertTrue(response.content.decode().strip().startswith('<div id="spend">'))
        self.assertNotContains(response, "<html")
        restored = self.client.get(
            address, headers={"HX-Request": "true", "HX-History-Restore-Request": "true"}
        )
        self.assertContains(restored, "<html")

    def test_what_is_no_choice_is_not_there(self) -> None:
        for query in (
            "month=2026-13",
            "month=11",
            "month=0000-01",
            "day=2026-02-30",
            "day=20261120",
            "day=1999-01-01",
            "purpose=bribe",
            "model=a%00b",
            "conversation=1",
            "before=1",
            f"before={uuid4()}",
        ):
            with self.subTest(query):
                self.assertEqual(self.client.get(f"/spend/?{query}").status_code, 404)
                if "before" not in query:
                    self.assertEqual(self.client.get(f"/spend/export.csv?{query}").status_code, 404)

    def test_any_month_can_be_opened(self) -> None:
        for month in ("2000-01", "2999-12", "2027-01"):
            with self.subTest(month):
                self.assertIn("Nothing was called", self.page("spend", month=month))


class PagingTests(NovemberTests):
    def setUp(self) -> None:
        super().setUp()
        for n in range(60):
            line(self.alice, 1000 + n, model=f"openai/m{n}", at=timezone.now() - timedelta(minutes=n))

    def test_earlier_lines_are_a_link_away(self) -> None:
        first = self.page("spend")
        link = re.search(r'href="(\?before=[^"]*)#ledger"', first)
        assert link is not None
        second = self.client.get(f"/spend/{link[1]}").content.decode()
        shown = [re.findall(r'<td class="quiet model"[^>]*>(m\d+)</td>', page) for page in (first, second)]
        self.assertEqual(shown[0] + shown[1], [f"m{n}" for n in range(60)])
        self.assertIn("Newest lines", second)
        self.assertNotIn("Earlier lines", second)

    def test_a_script_gets_the_lines_alone(self) -> None:
        link = re.search(r'href="(\?before=[^"]*)#ledger"', self.page("spend"))
        assert link is not None
        lines = self.client.get(
            f"/spend/{link[1]}", headers={"HX-Request": "true", "HX-Target": "ledger-more"}
        )
        self.assertEqual(lines.content.decode().count("<tr"), 10)
        self.assertNotContains(lines, "<table")


class ExportTests(NovemberTests):
    def rows(self, query: str = "") -> list[dict[str, str]]:
        response = self.client.get(f"/spend/export.csv{query}")
        self.assertEqual(response["Content-Type"], "text/csv; charset=utf-8")
        return list(csv.DictReader(io.StringIO(response.content.decode())))

    def test_amounts_are_exact_and_add_up_to_the_ledger(self) -> None:
        line(self.alice, 4_100_001, held=21_000_000)
        line(self.alice, 1, day=date(2026, 11, 3))
        rows = self.rows()
        self.assertEqual([row["charged_usd"] for row in rows], ["0.004100001", "0.000000001"])
        self.assertEqual((rows[0]["held_usd"], rows[0]["released_usd"]), ("0.021", "0.016899999"))
        self.assertEqual(rows[1]["day"], "2026-11-03")
        self.assertEqual(rows[1]["time"], "2026-11-03T12:00:00+01:00")

    def test_the_month_and_the_choice_hold_for_it(self) -> None:
        line(self.alice, day=date(2026, 10, 31))
        line(self.alice)
        self.assertEqual(len(self.rows("?month=2026-10")), 1)
        self.assertEqual(len(self.rows("?day=2026-11-20&model=other")), 0)
        name = self.client.get("/spend/export.csv?month=2026-10")["Content-Disposition"]
        self.assertEqual(name, 'attachment; filename="parley-spend-2026-10.csv"')

    def test_a_title_is_no_formula(self) -> None:
        hostile = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"]  # noqa: RUF001
        for title in hostile:
            line(self.alice, conversation=conversation_of(self.alice, title))
        line(self.alice, conversation=conversation_of(self.alice, "Fees, and “more”\n=1"))
        titles = [row["conversation"] for row in self.rows()]
        self.assertEqual(sorted(titles[1:]), sorted(f"'{title}" for title in hostile))
        self.assertEqual(titles[0], "Fees, and “more”\n=1")

    def test_every_line_of_the_month_is_in_it(self) -> None:
        for _ in range(120):
            line(self.alice, 1)
        self.assertEqual(len(self.rows()), LedgerEntry.objects.count())
        self.assertEqual(today_of(self.alice), self.today)
