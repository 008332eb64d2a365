"""The money below a reply: what the ledger says of all its calls."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from unittest.mock import patch

from django.utils.html import strip_tags

from conversations.models import Reply, ReplyAttempt
from conversations.money import CENT
from tests.spending import line

from .base import PageTests, conversation_of, reply_to, say


class ReceiptCase(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.question = say(self.conversation, "First")

    def shown(self, state: str, *lines: dict[str, Any], answer: str = "", **fields: Any) -> str:
        """The words of the reply's article, whose calls have left these lines."""
        reply = reply_to(self.conversation, self.question, state=state, answer=answer, **fields)
        self.attempt_of(reply, state, len(lines))
        self.lines = [
            line(self.alice, conversation=self.conversation, reply_id=reply.pk, **of_line)
            for of_line in lines
        ]
        page = self.page("conversation", self.conversation.pk)
        self.article = page[page.index("msg--assistant") :]
        self.article = self.article[: self.article.index("</article>")]
        self.reply = reply
        return " ".join(strip_tags("<p " + self.article).split())

    def attempt_of(self, reply: Reply, state: str, number: int) -> None:
        ReplyAttempt.objects.create(
            reply=reply,
            number=max(number, 1),
            epoch=1,
            model=reply.model,
            state=state,
            input_tokens=16_611,
            cached_tokens=12_288,
            output_tokens=1_356,
            usage_reported=True,
        )


class ReceiptTests(ReceiptCase):
    def test_a_complete_reply(self) -> None:
        said = self.shown("complete", {"charged": 4_100_000}, answer="One")
        self.assertIn("large · 16,611 in (12,288 cached) · 1,356 out · $0.0041", said)
        self.assertIn('data-cost="$0.0041"', self.article)

    def test_its_amount_leads_to_its_line(self) -> None:
        self.shown("complete", {"charged": 4_100_000}, answer="One")
        found = re.search(r'href="(/spend/[^"]*)#([^"]*)"', self.article)
        assert found is not None
        ledger = self.client.get(found.group(1).replace("&amp;", "&"))
        self.assertContains(ledger, f'id="{found.group(2)}"')
        self.assertIn(str(self.lines[0].pk), found.group(2))

    def test_a_free_reply(self) -> None:
        said = self.shown("complete", {"charged": 0, "held": 0, "kind": "free"}, answer="One")
        self.assertIn("1,356 out · free", said)
        self.assertNotIn("data-cost", self.article)

    def test_a_reply_of_before_there_was_a_ledger(self) -> None:
        self.assertIn("1,356 out", self.shown("complete", answer="One"))
        self.assertNotIn("$", self.article)

    def test_tokens_of_our_own_count_make_the_amount_about(self) -> None:
        lines = {"charged": 2_100_000, "usage_reported": False}
        self.assertIn("about $0.0021", self.shown("complete", lines, answer="One"))

    def test_a_stopped_reply_says_both_halves_of_its_hold(self) -> None:
        lines = {"charged": 1_500_000, "held": 21_000_000}
        said = self.shown("stopped", lines, answer="one two three")
        self.assertIn("Stopped by you after 3 words · $0.0015 charged, $0.0195 released · large", said)

    def test_one_that_was_stopped_before_it_began(self) -> None:
        said = self.shown("stopped", {"charged": 0, "held": 21_000_000, "kind": "void"})
        self.assertIn("before the first word · nothing charged, $0.021 released", said)

    def test_a_stopped_free_reply(self) -> None:
        said = self.shown("stopped", {"charged": 0, "held": 0, "kind": "free"}, answer="one two")
        self.assertRegex(said, "Stopped by you after 2 words · large.* · free")

    def test_an_interrupted_reply(self) -> None:
        said = self.shown("interrupted", {"charged": 2_200_000, "held": 21_000_000}, answer="one two")
        self.assertIn("$0.0022 charged for what arrived, $0.0188 released. The text is saved.", said)

    def test_a_failed_reply_gives_its_hold_back(self) -> None:
        said = self.shown(
            "failed", {"charged": 0, "held": 128_000_000, "kind": "void"}, error_code="Overloaded"
        )
        self.assertIn("Your message is saved, nothing was charged, and the $0.128 hold is released.", said)
        self.assertIn('href="/spend/', self.article)

    def test_several_tries_are_summed(self) -> None:
        void = {"charged": 0, "held": 128_000_000, "kind": "void"}
        said = self.shown("failed", void, void | {"purpose": "retry"}, error_code="Overloaded")
        self.assertIn("nothing was charged, and the two holds, $0.256 in all, are released.", said)

    def test_a_try_that_was_charged_its_prompt_says_so(self) -> None:
        lines = {"charged": 2_000_000, "held": 128_000_000, "usage_reported": False}
        said = self.shown("failed", lines, error_code="TimedOut")
        self.assertIn(
            "Your message is saved. About $0.0020 was charged: a provider may bill the prompt of a call whose end "
            "is not known. $0.126 is released.",
            said,
        )

    def test_an_answer_after_a_try_that_was_charged(self) -> None:
        tries = {"charged": 1_000_000, "usage_reported": False}, {"charged": 3_000_000, "purpose": "retry"}
        said = self.shown("complete", *tries, answer="One")
        self.assertIn("about $0.0040", said)
        self.assertIn("The amount includes the prompt of an earlier try.", said)

    def test_more_than_was_held(self) -> None:
        lines = {"charged": 4 * CENT, "held": CENT, "is_underestimate": True}
        self.assertIn("It cost more than was held for it", self.shown("complete", lines, answer="One"))

    def test_a_shortened_answer_says_so_where_it_was_cut(self) -> None:
        fields: dict[str, Any] = {"max_tokens": 400, "is_shortened": True, "answer": "One"}
        self.assertNotIn("shortened", self.shown("complete", {"charged": CENT}, **fields))
        ReplyAttempt.objects.update(finish_reason="length")
        page = self.page("conversation", self.conversation.pk)
        self.assertIn("Answer shortened to 400 tokens to fit the budget.", page)
        self.assertNotIn("Settings can allow more", page)

    def test_what_the_stream_ends_with_says_the_same(self) -> None:
        self.shown("complete", {"charged": 4_100_000}, answer="One")
        self.assertIn("$0.0041", self.fragment("reply", self.reply.pk))

    def test_all_replies_of_a_page_are_asked_for_at_once(self) -> None:
        for number in range(5):
            say(self.conversation, f"Again {number}", answer="Yes")
        with patch("conversations.thread.paid_for", return_value={}) as asked:
            self.page("conversation", self.conversation.pk)
        self.assertEqual(asked.call_count, 1)
        self.assertEqual(len(asked.call_args.args[0]), 5)


class FailureTests(ReceiptCase):
    def test_no_money_for_another_try(self) -> None:
        said = self.shown(
            "failed",
            {"charged": 0, "held": CENT, "kind": "void"},
            error_code="OverBudget",
            error_detail="This message does not fit in what is left today.",
        )
        self.assertIn("There was not enough left today for another try.", said)

    def test_no_money_when_its_turn_came(self) -> None:
        for detail, where in (
            ("This message does not fit in what is left today.", "today"),
            (
                "This message does not fit in what is left of this conversation's cap.",
                "of this conversation's cap",
            ),
            (
                "This message does not fit in what is left today for everybody here.",
                "today for everybody here",
            ),
        ):
            reply = reply_to(
                self.conversation, self.question, state="failed", error_code="OverBudget", error_detail=detail
            )
            page = self.page("conversation", self.conversation.pk)
            self.assertIn(f"There was not enough left {where} when its turn came.", unescape(page))
            reply.delete()

    def test_no_price(self) -> None:
        reply_to(
            self.conversation,
            self.question,
            state="failed",
            error_code="NoPrice",
            error_detail="large has no price. An administrator can set one under Prices.",
        )
        page = self.page("conversation", self.conversation.pk)
        self.assertIn("large has no price. An administrator can set one under Prices.", page)
        self.assertNotIn("It said", page)
