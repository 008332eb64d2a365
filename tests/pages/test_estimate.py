"""What the composer says of the money of the next message: by the hold's own arithmetic, and without keeping a word."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from django.conf import settings
from django.test import override_settings
from django.urls import reverse
from django.utils.html import strip_tags

from conversations import budgets
from conversations.budgets import UNLIMITED
from conversations.llm import tokens
from conversations.llm.tokens import count_tokens
from conversations.models import Budget, Conversation, Hold, LedgerEntry, Message, Reply, ReplyState
from conversations.money import CENT, DOLLAR, closely
from conversations.prices import NoPrice, Price, Rates
from conversations.replies.quoting import Words
from tests import cast
from tests.spending import budget_of, hold, line

from .base import LARGE, LOCAL, PageTests, conversation_of, entry, form, reply_to, say

#: A tenth of the price of `large`.
SMALL = entry(
    "small",
    price=Price(
        model="scripted/small",
        rates=Rates(input=200_000_000, cached=20_000_000, cache_write=250_000_000, output=800_000_000),
        source="test",
    ),
)
UNPRICED = entry("unpriced", price=None)


class EstimateTests(PageTests):
    models = (LARGE, SMALL, LOCAL, UNPRICED)

    def estimate(
        self, text: str = "", conversation: Conversation | None = None, *, status: int = 200, **more: Any
    ) -> str:
        """What stands beside the text field, as a person reads it."""
        data = {"text": text, "model": LARGE.id, "conversation": str(conversation.pk) if conversation else ""}
        response = self.client.post(reverse("estimate"), data | more)
        self.assertEqual(response.status_code, status)
        return words(response.content.decode())


def words(html: str) -> str:
    return " ".join(strip_tags(html).split())


def composer_says(page: str) -> str:
    found = re.search(r'<output class="estimate".*?</output>', page, re.DOTALL)
    assert found is not None
    return words(found.group())


class HoldTests(EstimateTests):
    """The most that is named is what the send then holds."""

    def assert_holds(self, text: str, conversation: Conversation | None, **more: Any) -> None:
        said = self.estimate(text, conversation, **more)
        if conversation is None:
            self.act("conversation_create", **form(text, **more))
        else:
            conversation.refresh_from_db()
            self.act("message_send", conversation.pk, **form(text, leaf=conversation.leaf_id, **more))
        held = Hold.objects.get(state="held")
        self.assertIn(f"at most {closely(held.amount)}", said)

    def test_of_a_first_message(self) -> None:
        self.assert_holds("Why is the query slow?", None)

    def test_of_a_first_message_with_instructions(self) -> None:
        self.assert_holds("Hello", None, system_prompt="Answer in verse. " * 300)

    def test_of_a_message_that_follows_others(self) -> None:
        conversation = conversation_of(self.alice, system_prompt="Be brief.")
        said = Message.objects.create(
            conversation=conversation, role="user", content="x", token_count=count_tokens("word " * 900, "x")
        )
        conversation.leaf = said
        conversation.save()
        self.assert_holds("And then?", conversation)

    def test_of_twenty_thousand_characters(self) -> None:
        self.assert_holds("A word of it. " * 1_428, None)

    def test_where_only_a_shorter_answer_fits(self) -> None:
        budgets.set_user_limit(self.alice, CENT)
        self.assertIn("with a shorter answer · $0.01 left today", self.estimate("Hello"))
        self.assert_holds("Hello", None)


class WordsTests(EstimateTests):
    def test_about_at_most_and_what_is_left(self) -> None:
        line(self.alice, 137 * CENT)
        said = self.estimate("Hello")
        self.assertRegex(said, r"^≈ \$0\.\d+, at most \$0\.\d+ · \$3\.63 left today$")

    def test_without_a_limit_nothing_is_left(self) -> None:
        budgets.set_user_limit(self.alice, UNLIMITED)
        self.assertRegex(self.estimate("Hello"), r"^≈ \$0\.\d+, at most \$0\.\d+$")

    def test_what_does_not_fit(self) -> None:
        budgets.set_user_limit(self.alice, CENT // 10)
        self.assertEqual(self.estimate("Hello"), "Does not fit in the $0.0010 left today")

    def test_free_models(self) -> None:
        self.assertEqual(self.estimate("Hello", model=LOCAL.id), "Free on this machine")

    def test_a_model_without_a_price(self) -> None:
        self.assertEqual(self.estimate("Hello", model=UNPRICED.id), "No price")
        with self.assertRaises(NoPrice):
            UNPRICED.known_price()

    def test_a_model_that_is_gone_costs_nothing_and_says_nothing(self) -> None:
        self.assertEqual(self.estimate("Hello", model="scripted/gone"), "")

    def test_the_cap_of_a_conversation(self) -> None:
        conversation = conversation_of(self.alice)
        budgets.set_conversation_cap(conversation, CENT)
        self.assertIn("$0.01 left in this conversation", self.estimate("Hello", conversation))

    @override_settings(CONVERSATION_CAP=CENT)
    def test_the_cap_of_all_conversations_before_the_first_hold(self) -> None:
        conversation = conversation_of(self.alice)
        line(self.alice, CENT // 4, conversation=conversation)
        self.assertIn("$0.01 left in this conversation", self.estimate("Hello"))
        self.assertIn("$0.0075 left in this conversation", self.estimate("Hello", conversation))

    @override_settings(INSTALLATION_DAILY_LIMIT=2 * CENT)
    def test_the_day_of_everybody(self) -> None:
        self.assertIn("$0.02 left today for everybody", self.estimate("Hello"))
        budgets.open_installation_day()
        Budget.objects.filter(scope="installation").update(spent=CENT)
        self.assertIn("$0.01 left today for everybody", self.estimate("Hello"))

    def test_what_others_hold_is_not_left(self) -> None:
        hold(self.alice, 4 * DOLLAR)
        self.assertIn("$1.00 left today", self.estimate("Hello"))


class PageLoadTests(EstimateTests):
    """Without script: for the text that is in the field, usually none."""

    def test_a_new_conversation(self) -> None:
        self.assertEqual(composer_says(self.page("home")), self.estimate())

    def test_a_conversation(self) -> None:
        conversation = conversation_of(self.alice)
        say(conversation, "First " * 200, answer="One")
        Message.objects.update(token_count=300)
        said = composer_says(self.page("conversation", conversation.pk))
        self.assertEqual(said, self.estimate("", conversation))

    def test_while_a_reply_is_written_it_says_what_that_holds(self) -> None:
        conversation = conversation_of(self.alice)
        reply = reply_to(conversation, say(conversation, "First"), state=ReplyState.RUNNING)
        hold(self.alice, 21_000_000, reply_id=reply.pk)
        page = self.page("conversation", conversation.pk)
        self.assertEqual(composer_says(page), "$0.021 held · Esc stops")
        self.assertNotIn('hx-post="/estimate/"', page)

    def test_a_send_brings_what_is_held_without_asking_for_it(self) -> None:
        conversation = conversation_of(self.alice)
        leaf = say(conversation, "First", answer="One")
        body = self.act("message_send", conversation.pk, **form("Second", leaf=leaf.pk)).content.decode()
        self.assertEqual(composer_says(body), f"{closely(Hold.objects.get().amount)} held · Esc stops")

    def test_a_reply_of_a_free_model_holds_nothing(self) -> None:
        conversation = conversation_of(self.alice)
        leaf = say(conversation, "First", answer="One")
        data = form("Second", leaf=leaf.pk) | {"model": LOCAL.id}
        body = self.act("message_send", conversation.pk, **data).content.decode()
        self.assertEqual(composer_says(body), "Esc stops")


class WhoMayAskTests(EstimateTests):
    def test_for_a_conversation_of_somebody_else_there_is_nothing(self) -> None:
        theirs = conversation_of(cast.charlie())
        say(theirs, "Charlie's secret", answer="One")
        self.assertNotIn("$", self.estimate("Hello", theirs, status=404))

    def test_a_message_of_somebody_else_counts_nothing(self) -> None:
        theirs = say(conversation_of(cast.charlie()), "Charlie's secret")
        Message.objects.update(token_count=5_000)
        mine = conversation_of(self.alice)
        said = self.estimate("Hello", mine, leaf=str(theirs.pk))
        self.assertEqual(said, self.estimate("Hello", mine))

    def test_what_is_no_id_is_not_found(self) -> None:
        for named in ({"conversation": "x"}, {"leaf": "' OR 1=1"}, {"conversation": str(uuid4())}):
            response = self.client.post(reverse("estimate"), {"text": "Hello", "model": LARGE.id} | named)
            self.assertEqual(response.status_code, 404, named)

    def test_it_is_a_post(self) -> None:
        self.assertEqual(self.client.get(reverse("estimate")).status_code, 405)

    def test_nothing_is_kept(self) -> None:
        before = counts()
        with self.assertNoLogs(level="INFO"):
            self.estimate("A secret")
        self.assertEqual(counts(), before)


def counts() -> list[int]:
    tables = (Conversation, Message, Reply, Hold, LedgerEntry, Budget)
    return [table._default_manager.count() for table in tables]


class CostOfAskingTests(EstimateTests):
    """It is asked for at each pause of somebody who types."""

    def test_a_free_model_asks_the_database_for_the_person_alone(self) -> None:
        self.estimate("Hello", model=LOCAL.id)
        with self.assertNumQueries(0):  # session and person are read by statements of their own
            self.estimate("Hello", model=LOCAL.id)

    def test_of_a_long_draft_a_part_is_counted(self) -> None:
        counted = []

        def count(text: str, model_id: str) -> int:
            counted.append(len(text))
            return tokens.count_tokens(text, model_id)

        with patch("conversations.replies.quoting.count_tokens", count):
            self.estimate("word and word\n" * 70_000)
        self.assertEqual(sum(counted), tokens.COUNTED_AT_ONCE)

    def test_what_is_not_counted_is_estimated_upwards(self) -> None:
        prose, dense = "The quick brown fox jumps over it. ", "Ж1Я!@#ΩЧ"
        for text in (prose * 3_000, prose * 2_000 + dense * 5_000, dense * 5_000 + prose * 2_000):
            with self.subTest(text[:8]):
                estimated = Words(text=text).tokens("gpt-5-mini")
                self.assertGreaterEqual(estimated, count_tokens(text, "gpt-5-mini"))

    def test_pieces_of_a_draft_count_as_the_whole(self) -> None:
        """A script sends a long draft in five pieces, with its length."""
        text = "The quick brown fox. " * 10_000
        step = (len(text) - 4_000) // 4
        pieces = "".join(text[n * step : n * step + 4_000] for n in range(5))
        whole, sample = Words(text=text), Words(text=pieces, length=len(text))
        self.assertAlmostEqual(whole.tokens("gpt-5"), sample.tokens("gpt-5"), delta=len(text) // 100)
        self.assertEqual(self.estimate(text), self.estimate(pieces, length=str(len(text))))

    def test_a_length_that_is_none_is_left_out(self) -> None:
        said = self.estimate("Hello")
        for length in ("-5", "x", "9" * 30, "٣"):
            self.assertEqual(self.estimate("Hello", length=length), said)

    def test_the_most_is_bounded_by_what_a_model_reads(self) -> None:
        said = self.estimate("Hello", length="999999999")
        most = LARGE.known_price().worst(LARGE.context_window, settings.DEFAULT_REPLY_TOKENS)
        found = re.search(r"at most \$([\d.]+)", said)
        assert found is not None
        self.assertLessEqual(float(found.group(1)), most / DOLLAR)


class DayTests(EstimateTests):
    def test_a_day_that_nothing_has_opened_is_whole(self) -> None:
        self.assertFalse(Budget.objects.exists())
        self.assertIn("$5.00 left today", self.estimate("Hello"))

    def test_extra_counts(self) -> None:
        budget_of(self.alice)
        budgets.grant_extra(self.alice, DOLLAR, reason="a deadline", by=None)
        self.assertIn("$6.00 left today", self.estimate("Hello"))
