"""A message that does not fit: nothing is sent, the draft stays, and what would fit is one button away."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from django.http import HttpResponse
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from conversations import budgets
from conversations.catalog import ModelEntry
from conversations.models import (
    Budget,
    Conversation,
    Hold,
    LedgerEntry,
    Message,
    Reply,
    ReplyState,
)
from conversations.money import CENT
from conversations.prices import Price, Rates
from tests import cast
from tests.spending import budget_of, line

from .base import LOCAL, PageTests, conversation_of, entry, form, reply_to, say, signed_in


def priced(name: str, output: int) -> ModelEntry:
    """`output`: dollars for a million tokens; input costs nothing, so that an answer is all that counts."""
    rates = Rates(input=0, cached=0, cache_write=0, output=output * 1_000_000_000)
    return entry(name, price=Price(model=f"scripted/{name}", rates=rates, source="test"))


#: What 2,048 tokens of each hold: $0.1024, $0.02048, $0.002048.
STRONG, MIDDLE, WEAK = priced("strong", 50), priced("middle", 10), priced("weak", 1)
UNPRICED = entry("unpriced", price=None)


def words(response: HttpResponse) -> str:
    html = response.content.decode()
    notice = re.search(r'<section class="notice warn".*?</section>', html, re.DOTALL)
    assert notice is not None, html[:500]
    return " ".join(unescape(strip_tags(notice.group())).split())


def offered(response: HttpResponse) -> list[tuple[str, str]]:
    """Value and words of each offer."""
    html = response.content.decode()
    buttons = re.findall(r'<button[^>]*name="offer" value="([^"]*)"[^>]*>(.*?)</button>', html)
    return [(value, " ".join(said.split())) for value, said in buttons]


class OverBudgetTests(PageTests):
    models = (STRONG, MIDDLE, WEAK, LOCAL, UNPRICED)

    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.leaf = say(self.conversation, "First", answer="One")
        self.leave(CENT)

    def leave(self, nano: int) -> None:
        budgets.set_user_limit(self.alice, nano)

    def send(self, text: str = "Second", *, htmx: bool = True, **more: Any) -> HttpResponse:
        data = form(text, leaf=self.leaf.pk) | {"model": STRONG.id} | more
        return self.act("message_send", self.conversation.pk, htmx=htmx, **data)

    def assert_nothing_was_sent(self) -> None:
        self.assertFalse(Message.objects.filter(content="Second").exists())
        self.assertFalse(Hold.objects.exists() or LedgerEntry.objects.exists())


@override_settings(SHRINK_FLOOR=2_048)  # no answer is shortened
class WordsTests(OverBudgetTests):
    def test_it_says_what_it_could_cost_what_is_left_and_until_when(self) -> None:
        self.leave(5 * 100 * CENT)
        line(self.alice, 494 * CENT)
        budget = budget_of(self.alice)
        with timezone.override(self.alice.time_zone):
            resets = timezone.localtime(budget.ends_at)
        with patch.object(timezone, "now", return_value=resets - timedelta(hours=6, minutes=12)):
            response = self.send()
        self.assertEqual(response.status_code, 402)
        self.assertEqual(
            words(response),
            "This message does not fit in what is left today. It could cost up to $0.102. "
            "You have $0.06 of $5.00 until 00:00, in 6 h 12 m. Nothing was sent, and your draft is below. "
            "Send with middle · at most $0.0205 Send with SmolLM2-135M · free Where it went",
        )

    def test_nothing_is_sent_and_the_meter_is_told(self) -> None:
        response = self.send()
        self.assert_nothing_was_sent()
        self.assertEqual(response["HX-Retarget"], "#composer-notice")
        self.assertIn("budget-stale", response["HX-Trigger"])
        self.assertNotIn("<textarea", response.content.decode())

    def test_a_limit_of_nothing(self) -> None:
        self.leave(0)
        self.assertIn("Your limit is $0.00 a day.", words(self.send()))

    def test_the_cap_of_a_conversation_says_so_and_leads_to_its_settings(self) -> None:
        self.leave(1_000 * CENT)
        budgets.set_conversation_cap(self.conversation, CENT)
        response = self.send()
        self.assertIn("does not fit in what is left of this conversation's cap.", words(response))
        self.assertIn("This conversation has $0.01 left of the $0.01 that it may cost.", words(response))
        self.assertContains(
            response,
            f'href="{reverse("conversation_settings", args=[self.conversation.pk])}"',
            status_code=402,
        )

    @override_settings(INSTALLATION_DAILY_LIMIT=CENT)
    def test_the_day_of_the_installation_is_everybodys(self) -> None:
        self.leave(1_000 * CENT)
        said = words(self.send())
        self.assertIn("does not fit in what is left today for everybody here.", said)
        self.assertRegex(said, r"There is \$0\.01 of \$0\.01 left for everybody here until \d\d:\d\d, in ")

    def test_other_refusals_are_as_they_were(self) -> None:
        self.assertNotIn("offer", self.send(" ").content.decode())


@override_settings(SHRINK_FLOOR=2_048)
class OfferTests(OverBudgetTests):
    def test_the_strongest_other_paid_model_that_fits_and_the_free_one(self) -> None:
        self.leave(3 * CENT)
        self.assertEqual(
            offered(self.send()),
            [
                (MIDDLE.id, "Send with middle · at most $0.0205"),
                (LOCAL.id, "Send with SmolLM2-135M · free"),
            ],
        )
        self.leave(CENT)
        self.assertEqual([value for value, _ in offered(self.send())], [WEAK.id, LOCAL.id])

    @override_settings(SHRINK_FLOOR=256)
    def test_a_whole_answer_goes_before_a_shortened_one(self) -> None:
        self.leave(CENT)  # 1,000 tokens of middle
        self.assertEqual(offered(self.send())[0][0], WEAK.id)

    @override_settings(SHRINK_FLOOR=256)
    def test_where_none_is_whole_the_longest_that_fits_is_offered(self) -> None:
        self.leave(CENT // 10)  # 1,000 tokens of weak
        self.assertEqual(
            offered(self.send())[0], (WEAK.id, "Send with weak · at most $0.0010, a shorter answer")
        )

    def test_the_free_one_alone_where_nothing_is_left(self) -> None:
        self.leave(0)
        self.assertEqual(offered(self.send()), [(LOCAL.id, "Send with SmolLM2-135M · free")])

    def test_what_is_offered_is_sent(self) -> None:
        self.leave(3 * CENT)
        for htmx in (True, False):
            for offer, _ in offered(self.send(htmx=htmx)):
                with self.subTest(offer, htmx=htmx):
                    # The radio buttons of the form are sent beside it.
                    response = self.send(offer=offer, htmx=htmx)
                    self.assertEqual(response.status_code, 200 if htmx else 303)
                    reply = Reply.objects.latest("created_at")
                    self.assertEqual((reply.model, reply.question.content), (offer, "Second"))
                    reply.delete()
                    Hold.objects.all().delete()
                    Budget.objects.update(held=0)
                    self.leaf = Conversation.objects.get().leaf or self.leaf

    def test_the_same_key_may_be_sent_again(self) -> None:
        key = str(uuid4())
        self.assertEqual(self.send(key=key).status_code, 402)
        self.assertEqual(self.send(key=key, offer=WEAK.id).status_code, 200)

    def test_without_script_the_draft_and_the_offers_are_on_the_page(self) -> None:
        response = self.send(htmx=False)
        self.assertContains(response, "Second</textarea>", status_code=402)
        self.assertEqual([value for value, _ in offered(response)], [WEAK.id, LOCAL.id])
        self.assertContains(response, 'form="composer-form" name="offer"', status_code=402)
        self.assertNotContains(response, 'formaction="/conversations/', status_code=402)

    def test_a_long_path_counts_for_each_model(self) -> None:
        Message.objects.update(token_count=3_000)
        dear = priced("dear", 50)
        self.assertEqual(dear.context_window, 8_192)
        self.leave(CENT)
        self.assertEqual(offered(self.send())[0][0], WEAK.id)


@override_settings(SHRINK_FLOOR=2_048)
class OtherWaysTests(OverBudgetTests):
    """The same for a first message, an edit, another answer, and going on."""

    def test_a_first_message_keeps_its_draft_and_instructions(self) -> None:
        sent: dict[str, Any] = form("Second") | {"model": STRONG.id, "system_prompt": "Answer in Norwegian."}
        response = self.act("conversation_create", htmx=False, **sent)
        self.assertEqual(response.status_code, 402)
        self.assertContains(response, "Second</textarea>", status_code=402)
        self.assertContains(response, "Answer in Norwegian.", status_code=402)
        self.assertEqual(Conversation.objects.count(), 1)
        offer = offered(response)[0][0]
        self.assertEqual(self.act("conversation_create", **sent, offer=offer).status_code, 200)
        self.assertEqual(Conversation.objects.latest("created_at").model, offer)

    def test_an_edit_is_refused_in_its_own_form(self) -> None:
        first = Message.objects.get(content="First")
        form_of = self.fragment("message_edit", first.pk)
        self.assertIn(f'id="edit-{first.pk}-notice"', form_of)
        sent = form("Second") | {"model": STRONG.id, "place": "branch", "edits": str(first.pk)}
        response = self.act("message_send", self.conversation.pk, **sent)
        self.assertEqual(response["HX-Retarget"], f"#edit-{first.pk}-notice")
        self.assertContains(response, f'form="edit-{first.pk}" name="offer"', status_code=402)
        self.assertNotContains(response, "composer-tools", status_code=402)
        offer = offered(response)[0][0]
        self.assertEqual(self.act("message_send", self.conversation.pk, **sent, offer=offer).status_code, 200)
        self.assertIsNone(Message.objects.get(content="Second").parent_id)

    def test_without_script_an_edit_stays_a_branch_of_where_it_was(self) -> None:
        first = Message.objects.get(content="First")
        sent = form("Second") | {"model": STRONG.id, "place": "branch", "edits": str(first.pk)}
        response = self.act("message_send", self.conversation.pk, htmx=False, **sent)
        self.assertContains(response, "Second</textarea>", status_code=402)
        self.assertContains(response, 'name="place" value="branch"', status_code=402)
        self.assertContains(response, 'name="leaf" value=""', status_code=402)

    def test_another_answer(self) -> None:
        self.assert_offers("reply_retry", Reply.objects.get())

    def test_going_on(self) -> None:
        reply = reply_to(
            self.conversation,
            say(self.conversation, "Again"),
            state=ReplyState.STOPPED,
            answer="Half",
            model=STRONG.id,
        )
        again = self.assert_offers("reply_continue", reply)
        self.assertEqual(again.continues_id, reply.answer_id)

    def assert_offers(self, name: str, reply: Reply) -> Reply:
        """It is refused, the draft beside it stays, and the offer leads to the same address."""
        address = reverse(name, args=[reply.pk])
        for htmx in (True, False):
            response = self.act(name, reply.pk, htmx=htmx, **form("A draft") | {"model": STRONG.id})
            self.assertEqual(response.status_code, 402)
            self.assertContains(response, f'formaction="{address}"', status_code=402)
            self.assertIn("Nothing was sent. Ask weak", words(response))
        self.assertContains(response, "A draft</textarea>", status_code=402)
        offer = offered(response)[0][0]
        self.assertEqual(self.act(name, reply.pk, **form(""), offer=offer).status_code, 200)
        again = Reply.objects.latest("created_at")
        self.assertEqual((again.model, again.question_id), (offer, reply.question_id))
        return again


class NoPriceTests(OverBudgetTests):
    def test_it_is_said_where_to_set_one(self) -> None:
        response = self.send(model=UNPRICED.id)
        self.assertEqual(response.status_code, 422)
        self.assertEqual(words(response), "unpriced has no price. An administrator can set one under Prices.")

    def test_an_administrator_is_led_there(self) -> None:
        self.client = signed_in(cast.ada())
        response = self.act("conversation_create", **form("Hello") | {"model": UNPRICED.id})
        address = reverse("admin:conversations_priceoverride_changelist")
        self.assertContains(response, f'href="{address}"', status_code=422)


class CapTests(OverBudgetTests):
    """What a conversation may cost, in its settings."""

    def save(self, cap: str) -> HttpResponse:
        data: dict[str, Any] = {
            "system_prompt": "",
            "temperature": "",
            "reply_tokens": "",
            "cost_cap": cap,
        }
        return self.act("conversation_settings", self.conversation.pk, **data)

    def cap(self) -> int | None:
        self.conversation.refresh_from_db()
        return self.conversation.cost_cap

    def test_it_is_set_and_taken_away_with_its_budget(self) -> None:
        self.assertContains(self.save("0.25"), "Saved.")
        self.assertEqual((self.cap(), self.row().limit), (25 * CENT, 25 * CENT))
        self.assertIn('value="0.25"', self.fragment("conversation_settings", self.conversation.pk))
        self.save("")
        self.assertEqual((self.cap(), self.row().limit), (None, None))

    def row(self) -> Budget:
        return Budget.objects.get(scope="conversation", subject=str(self.conversation.pk))

    def test_bad_amounts_are_refused_in_words_and_change_nothing(self) -> None:
        for bad in ("-1", "NaN", "1e30", "1,2,3", "1,0000", "99999999999", "0.0000000001", "five", "$"):
            with self.subTest(bad):
                self.assertContains(self.save(bad), 'id="id_cost_cap_error"')
                self.assertIsNone(self.cap())
        self.assertFalse(Budget.objects.filter(scope="conversation").exists())

    def test_zero_is_a_cap(self) -> None:
        self.save("0")
        self.assertEqual(self.cap(), 0)

    def test_it_shows_what_the_conversation_has_cost(self) -> None:
        line(self.alice, 42 * CENT, conversation=self.conversation)
        line(self.alice, CENT)
        self.assertIn(
            "It has cost $0.42 so far.", self.fragment("conversation_settings", self.conversation.pk)
        )

    @override_settings(CONVERSATION_CAP=100 * CENT)
    def test_empty_is_as_the_installation_says(self) -> None:
        self.assertIn(
            "Empty: $1.00, as for all here.", self.page("conversation_settings", self.conversation.pk)
        )
