"""What the inspector shows: sections, money, what is left out, what is gone; and to whom."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import strip_tags

from conversations.context.manifest import request_digest
from conversations.context.plan import Continuation
from conversations.context.policy import Strategy, policy_for
from conversations.inspection import inspect
from conversations.inspection.request import ShownRequest
from conversations.inspection.sections import SHOWN_OF_ONE
from conversations.llm.types import ChatMessage, Usage
from conversations.memory import items
from conversations.models import Conversation, LedgerEntry, Message, Reply, ReplyAttempt, SystemPrompt
from conversations.prices import free_price
from tests import cast
from tests.pages.base import LARGE, LOCAL, PageTests, conversation_of, reply_to, signed_in
from tests.prices.cheap import a_price
from tests.spending import hold

from .made import BILLED, answered, attempt_of, charge, learned, planned, summed_up, told

SMALL = policy_for(
    window=4_000, reply_tokens=200, high_water=1_200, recall_tokens=300, cut_to_percent=60, model=LARGE.id
)


class InspectorTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice, system_prompt="Be brief.")

    def told(self, *texts: str) -> list[Message]:
        made = told(self.conversation, *texts)
        return [Message.objects.get(pk=message.pk) for message in made]

    def long_one(self) -> Reply:
        """A reply to a message that does not fit beside all that came before: every kind of section is in it."""
        path = self.told(*[f"Number {n} " + "and so on " * 60 for n in range(20)], "What was number 3?")
        learned(self.conversation, "Never mention prices", "constraint")
        learned(self.conversation, "Likes tea", source=path[0])
        summed_up(self.conversation, "They counted.", path[9])
        plan = planned(self.conversation, path, policy=SMALL, since=12, recalled=[(path[3], 0.86)])
        self.plan, self.path = plan, path
        return answered(self.conversation, path[-1], plan, model=LARGE.id)

    def request_of(self, reply: Reply, **query: int) -> ShownRequest:
        fresh = Reply.objects.select_related("conversation", "continues", "question").get(pk=reply.pk)
        shown = inspect(fresh, **query).request
        assert shown is not None
        return shown

    def words(self, reply: Reply, **query: str) -> str:
        page = self.page("reply_request", reply.pk, **query)
        main = page[page.index("<main") : page.index("</main>")]
        return " ".join(strip_tags(main.replace("<", " <")).split())

    def download(self, reply: Reply, **query: Any) -> Any:
        response = self.client.get(reverse("reply_request_download", args=[reply.pk]), query)
        self.assertEqual(response.status_code, 200)
        return json.loads(response.content)


class SectionTests(InspectorTests):
    def test_all_sections_in_their_order(self) -> None:
        sections = self.request_of(self.long_one()).sections
        labels = [section.label for section in sections]
        self.assertEqual(
            labels,
            [
                "System prompt",
                "Rules",
                "Memory",
                "Summary v1",
                "Word for word",
                "Recalled messages",
                "Your message",
            ],
        )

    def test_tokens_and_money_add_up(self) -> None:
        request = self.request_of(self.long_one())
        entry = LedgerEntry.objects.get()
        self.assertEqual(sum(s.tokens for s in request.sections), request.planned)
        self.assertEqual(sum(s.counted for s in request.sections), entry.input_tokens)
        self.assertEqual(sum(s.cached for s in request.sections), entry.cached_tokens)
        reply = next(line for line in request.bill.lines if line.label == "Reply")
        self.assertEqual(sum(s.amount or 0 for s in request.sections) + reply.amount, entry.charged)
        self.assertAlmostEqual(sum(s.share for s in request.sections), 1)

    def test_texts_as_they_were_sent(self) -> None:
        reply = self.long_one()
        page = self.page("reply_request", reply.pk)
        for text in ("Be brief.", "Never mention prices", "Likes tea", "They counted.", "What was number 3?"):
            self.assertIn(text, page)
        self.assertNotIn("Number 5 and", page)  # it is not in the request

    def test_recalled_messages_lead_to_their_originals_with_their_scores(self) -> None:
        reply = self.long_one()
        recalled = self.request_of(reply).sections[5]
        (part,) = recalled.parts
        self.assertEqual((part.number, part.score), (4, 0.86))
        page = self.client.get(part.href.partition("#")[0])
        self.assertContains(page, f'id="m-{self.path[3].pk}"')

    def test_what_is_left_out_and_why(self) -> None:
        said = self.words(self.long_one())
        self.assertIn("Messages 1 to 12", said)
        self.assertIn("Said before the last cut.", said)
        self.assertIn("There was no room for them under this policy.", said)
        self.assertIn("Summary v1 stands for the first 10 messages.", said)
        self.assertIn("1 earlier message came back by recall.", said)

    def test_a_request_without_recall_says_so(self) -> None:
        reply = self.long_one()
        attempt = reply.attempts.get()
        self.assertNotIn("could not be searched", self.words(reply))
        attempt.manifest["recall"] = {"unavailable": "TimeoutError", "ms": 1_000.0, "found": 0}
        attempt.save()
        self.assertIn("could not be searched in time", self.words(reply))

    def test_a_short_conversation_leaves_nothing_out(self) -> None:
        path = self.told("Hello?")
        said = self.words(answered(self.conversation, path[0], planned(self.conversation, path)))
        self.assertIn("Nothing. The model saw the whole conversation", said)
        self.assertIn("This is the whole history", said)

    def test_an_excerpt_is_marked(self) -> None:
        path = self.told("word and. " * 9_000)
        reply = answered(self.conversation, path[0], planned(self.conversation, path, policy=SMALL))
        page = self.page("reply_request", reply.pk)
        self.assertIn("<mark>[… the middle of this message was left out …]</mark>", page)
        self.assertIn("characters are not in the request.", page)

    def test_a_very_long_text_is_shown_in_part_and_downloaded_whole(self) -> None:
        text = "long " * SHOWN_OF_ONE
        path = self.told(text)
        plan = planned(
            self.conversation, path, policy=policy_for(window=10**6, reply_tokens=10, high_water=10**6)
        )
        reply = answered(self.conversation, path[0], plan)
        self.assertLess(len(self.page("reply_request", reply.pk)), len(text))
        self.assertIn("more characters were sent than are shown here.", self.words(reply))
        self.assertEqual(self.download(reply)["messages"][-1]["content"], text)

    def test_hostile_text_is_text(self) -> None:
        path = self.told("<script>alert(1)</script> <b>bold</b>")
        reply = answered(self.conversation, path[0], planned(self.conversation, path))
        page = self.page("reply_request", reply.pk)
        self.assertNotIn("<script>alert", page)
        self.assertIn("&lt;b&gt;bold", page)

    def test_how_it_was_put_together(self) -> None:
        said = self.words(self.long_one())
        self.assertIn("It was cut in one step", said)
        self.assertIn("Grows to 1,200 tokens, then is cut to 720", said)
        self.assertIn("Remembered facts in it 100 %", said)

    def test_each_strategy_and_start_has_words(self) -> None:
        path = self.told("One", "Two", "Three")
        for strategy in Strategy:
            plan = planned(
                self.conversation, path, policy=policy_for(window=2_000, reply_tokens=10, strategy=strategy)
            )
            reply = answered(self.conversation, path[-1], plan)
            with self.subTest(strategy):
                self.assertTrue(self.request_of(reply).start)
                self.assertNotIn("unknown", " ".join(value for _, value in self.request_of(reply).policy))
                self.page("reply_request", reply.pk)

    def test_the_rows_are_bounded_by_what_the_manifest_names(self) -> None:
        reply = self.long_one()
        for n in range(30):
            learned(self.conversation, f"Fact {n}")
        told(self.conversation, *[f"More {n}" for n in range(40)])
        fresh = Reply.objects.select_related("conversation", "continues", "question").get(pk=reply.pk)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            rows = inspect(fresh).request
            assert rows is not None
            self.assertTrue(rows.sections and rows.left_out and rows.against and rows.is_exact)
        self.assertLessEqual(len(queries), 9)
        self.assertLessEqual(len(rows.rows.messages), rows.shown_messages + 1 + 2)
        self.assertEqual(len(rows.rows.memory), 2)


class MoneyTests(InspectorTests):
    def replied(self, usage: Usage | None = BILLED, **fields: Any) -> ReplyAttempt:
        path = self.told("Hello?")
        reply = reply_to(self.conversation, path[0], answer="Hi", **fields)
        return attempt_of(reply, planned(self.conversation, path), usage=usage)

    def test_a_paid_reply(self) -> None:
        attempt = self.replied()
        charge(self.alice, attempt)
        said = self.words(attempt.reply)
        self.assertIn("Prompt, from the cache 600 0.20 $0.00012", said)
        self.assertIn("Prompt, written to the cache 100 2.50 $0.00025", said)
        self.assertIn("Charged $0.002054", said)
        self.assertIn("cache, 49 % of the prompt", said)

    def test_a_free_reply(self) -> None:
        attempt = self.replied(model=LOCAL.id)
        charge(self.alice, attempt, price=free_price(LOCAL.id), kind="free", charged=0)
        self.assertIn("Free: this model costs nothing.", self.words(attempt.reply))
        self.assertIsNone(self.request_of(attempt.reply).sections[0].amount)

    def test_nothing_charged(self) -> None:
        attempt = self.replied(usage=None, state="failed")
        charge(self.alice, attempt, kind="void", charged=0)
        self.assertIn("Nothing was charged", self.words(attempt.reply))

    def test_a_price_that_nobody_knows(self) -> None:
        self.assertIn("The price of this request is not known", self.words(self.replied().reply))

    def test_tokens_that_nobody_reported_are_an_estimate(self) -> None:
        attempt = self.replied(usage=None)
        charge(self.alice, attempt, Usage(input_tokens=30), usage_reported=False)
        said = self.words(attempt.reply)
        self.assertIn("the tokens, and with them the amount, are an estimate", said)
        self.assertIn("cache not reported", said)
        self.assertIn("≈ 30 tokens sent", said)

    def test_a_reply_that_is_still_written(self) -> None:
        path = self.told("Hello?")
        reply = reply_to(self.conversation, path[0], state="running")
        attempt = attempt_of(reply, planned(self.conversation, path), usage=None, state="running")
        hold(
            self.alice,
            9_000_000,
            conversation=self.conversation,
            reply_id=reply.pk,
            attempt_id=attempt.pk,
            price=a_price().snapshot(),
        )
        said = self.words(reply)
        self.assertIn("are held until the reply has ended", said)
        self.assertIn("So far, by our own count", said)


class WithoutRequestTests(InspectorTests):
    def test_each_state_has_a_sentence(self) -> None:
        question = self.told("Hello?")[0]
        for state, sentence in {
            "waiting": "waits for its turn",
            "queued": "is being put together",
            "running": "is being put together",
            "stopped": "was stopped before a request was sent",
            "failed": "failed before a request was sent",
            "interrupted": "failed before a request was sent",
        }.items():
            reply = reply_to(self.conversation, question, state=state)
            with self.subTest(state):
                self.assertIn(sentence, self.words(reply))
                address = reverse("reply_request_download", args=[reply.pk])
                self.assertEqual(self.client.get(address).status_code, 404)
            reply.delete()

    def test_a_refusal_is_quoted(self) -> None:
        reply = reply_to(
            self.conversation,
            self.told("Hello?")[0],
            state="failed",
            error_code="NoPrice",
            error_detail="large has no price.",
        )
        self.assertIn("large has no price.", self.words(reply))

    def test_an_old_manifest_shows_what_it_has(self) -> None:
        reply = reply_to(self.conversation, self.told("Hello?")[0], answer="Hi")
        old = {"first_message_id": str(uuid4()), "messages": 3, "input_tokens": 44, "was_cut": False}
        later = {"version": 9, "sections": [{"kind": "tea leaves", "tokens": 3}], "input_tokens": 44}
        for manifest in (old | {"excerpted": []}, {}, later):
            ReplyAttempt.objects.filter(reply=reply).delete()
            attempt = ReplyAttempt.objects.create(
                reply=reply, number=1, epoch=1, model=reply.model, state="complete", manifest=manifest
            )
            charge(self.alice, attempt, Usage(input_tokens=47))
            with self.subTest(manifest):
                said = self.words(reply)
                self.assertIn("from before requests were recorded by section", said)
                self.assertIn("47 tokens sent", said)
        address = reverse("reply_request_download", args=[reply.pk])
        self.assertEqual(self.client.get(address).status_code, 404)


class AttemptTests(InspectorTests):
    def test_the_last_one_is_shown_and_the_others_are_tabs(self) -> None:
        path = self.told("Hello?")
        plan = planned(self.conversation, path)
        reply = reply_to(self.conversation, path[0], answer="Hi")
        attempt_of(reply, plan, usage=None, state="failed")
        charge(self.alice, attempt_of(reply, plan, number=2, model="scripted/other"))
        page = self.page("reply_request", reply.pk)
        self.assertIn("First try <small>failed</small>", page)
        self.assertRegex(page, r'attempt=2" aria-current="page"')
        self.assertIn("other", self.words(reply))
        self.assertIn("The price of this request is not known", self.words(reply, attempt="1"))
        self.assertEqual(self.download(reply, attempt=1)["parley"]["attempt"], 1)

    def test_one_that_is_not_there(self) -> None:
        path = self.told("Hello?")
        reply = answered(self.conversation, path[0], planned(self.conversation, path))
        for number in ("2", "0", "-1", "one", "9" * 30, "1e1", "\u0661"):
            address = reverse("reply_request", args=[reply.pk])
            with self.subTest(number):
                expected = 200 if number == "\u0661" else 404
                self.assertEqual(self.client.get(address, {"attempt": number}).status_code, expected)


class DownloadTests(InspectorTests):
    def test_it_is_the_request_and_its_digest_is_the_stored_one(self) -> None:
        reply = self.long_one()
        found = self.download(reply)
        messages = [ChatMessage(**message) for message in found["messages"]]
        self.assertEqual(tuple(messages), self.plan.messages)
        self.assertEqual(request_digest(messages), found["parley"]["sha256"])
        self.assertTrue(found["parley"]["is_exact"])
        self.assertEqual((found["model"], found["max_tokens"]), (LARGE.id, reply.max_tokens))

    def test_it_is_a_file_with_a_name(self) -> None:
        reply = self.long_one()
        response = self.client.get(reverse("reply_request_download", args=[reply.pk]))
        self.assertEqual(
            response.headers["Content-Disposition"], f'attachment; filename="request-{reply.pk}-1.json"'
        )
        self.assertEqual(response.headers["Cache-Control"], "private, no-store")

    def test_a_prompt_that_was_changed_is_still_known(self) -> None:
        reply = self.long_one()
        for prompt in ("Be long.", "", "Be quiet."):
            Conversation.objects.filter(pk=self.conversation.pk).update(system_prompt=prompt)
            self.assertEqual(self.download(reply)["messages"][0]["content"].split("\n")[0], "Be brief.")
            self.assertTrue(self.download(reply)["parley"]["is_exact"])
        self.assertIn("changed since", self.words(reply))

    def test_one_that_nobody_was_asked_with_is_not_kept(self) -> None:
        Conversation.objects.filter(pk=self.conversation.pk).update(system_prompt="Another.")
        self.assertFalse(SystemPrompt.objects.exists())

    def test_superseded_facts_are_still_there(self) -> None:
        reply = self.long_one()
        item = self.conversation.memory.get(text="Likes tea")
        item.state = "superseded"
        item.save()
        learned(self.conversation, "Likes coffee", supersedes=item)
        self.assertTrue(self.download(reply)["parley"]["is_exact"])
        self.assertIn("replaced since", self.words(reply))

    def test_a_continuation(self) -> None:
        path = self.told("Tell me a story.")
        begun = reply_to(self.conversation, path[0], state="interrupted", answer="Once upon a  ")
        for prefill in (True, False):
            continuation = Continuation(text="Once upon a  ", prefill=prefill)
            plan = planned(self.conversation, path, continuation=continuation)
            reply = answered(self.conversation, path[0], plan, "Once upon a time", continues=begun.answer)
            with self.subTest(prefill=prefill):
                found = self.download(reply)
                self.assertTrue(found["parley"]["is_exact"])
                self.assertIn("Once upon a", found["messages"][-1 if prefill else -2]["content"])
        assert begun.answer is not None
        begun.answer.delete()
        found = self.download(reply)
        self.assertFalse(found["parley"]["is_exact"])
        self.assertIn("The cut-off text that the reply went on from.", self.words(reply))


class ErasureTests(InspectorTests):
    def test_what_is_gone_is_told_item_by_item_and_the_rest_is_shown(self) -> None:
        reply = self.long_one()
        self.path[3].children.update(parent=None)
        Message.objects.filter(pk=self.path[3].pk).delete()
        fact = self.conversation.memory.get(text="Likes tea")
        fact.state, fact.text = "forgotten", ""
        fact.save()
        learned(self.conversation, "Likes coffee")
        self.conversation.summaries.all().delete()
        said = self.words(reply)
        self.assertIn("Not all of it can be shown.", said)
        for sentence in (
            "A remembered fact that was forgotten since.",
            "A summary that is not kept any more.",
            "A recalled message that was deleted since.",
        ):
            self.assertIn(sentence, said)
        self.assertIn("Never mention prices", said)
        self.assertIn("What was number 3?", said)
        found = self.download(reply)
        self.assertFalse(found["parley"]["is_exact"])
        self.assertEqual(len(found["parley"]["gone"]), 3)
        self.assertNotIn("Likes tea", json.dumps(found))

    def test_what_is_really_forgotten_is_told_here_too(self) -> None:
        reply = self.long_one()
        undo = items.forget(self.conversation.memory.get(text="Likes tea"))
        self.assertIn("A remembered fact that was forgotten since.", self.words(reply))
        self.assertNotIn("Likes tea", json.dumps(self.download(reply)))
        items.restore(self.alice, undo)
        self.assertTrue(self.download(reply)["parley"]["is_exact"])

    def test_a_summary_that_lost_what_was_forgotten(self) -> None:
        reply = self.long_one()
        self.conversation.summaries.update(summary="They.")
        said = self.words(reply)
        self.assertIn("Sentences of the summary that were taken out since", said)
        self.assertIn("of messages 1 to 10 · shorter since", said)
        found = self.download(reply)
        self.assertFalse(found["parley"]["is_exact"])
        self.assertEqual(len(found["parley"]["gone"]), 1)

    def test_a_prompt_that_is_not_known_any_more(self) -> None:
        reply = self.long_one()
        Conversation.objects.filter(pk=self.conversation.pk).update(system_prompt="Another.")
        SystemPrompt.objects.all().delete()
        self.assertIn("the old one is not known any more", self.words(reply))
        self.assertNotIn("Another.", json.dumps(self.download(reply)))

    def test_a_deleted_conversation_takes_it_along_and_brings_it_back(self) -> None:
        reply = self.long_one()
        addresses = [reverse(name, args=[reply.pk]) for name in ("reply_request", "reply_request_download")]
        self.act("conversation_delete", self.conversation.pk)
        self.assertEqual([self.client.get(address).status_code for address in addresses], [404, 404])
        self.act("conversation_restore", self.conversation.pk)
        self.assertEqual([self.client.get(address).status_code for address in addresses], [200, 200])
        self.assertTrue(self.download(reply)["parley"]["is_exact"])

    def test_prompts_go_with_their_conversation(self) -> None:
        self.long_one()
        Conversation.objects.filter(pk=self.conversation.pk).update(system_prompt="Another.")
        self.assertTrue(SystemPrompt.objects.exists())
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM conversations WHERE id = %s", [self.conversation.pk])
        self.assertFalse(SystemPrompt.objects.exists())


class WhoseTests(InspectorTests):
    def test_strangers_colleagues_and_administrators_find_nothing(self) -> None:
        reply = self.long_one()
        for person in (cast.bob(), cast.charlie(), cast.ada()):
            for name in ("reply_request", "reply_request_download"):
                response = signed_in(person).get(reverse(name, args=[reply.pk]))
                with self.subTest(person=person.name, name=name):
                    self.assertEqual(response.status_code, 404)
                    self.assertNotIn("Never mention prices", response.content.decode())

    def test_ids_of_another_persons_things_in_a_manifest_show_nothing_of_them(self) -> None:
        """A manifest names ids alone: whose they are is asked again."""
        theirs = conversation_of(cast.bob())
        secret = told(theirs, "Bob's secret")[0]
        fact = learned(theirs, "Bob's fact")
        path = self.told("Hello?")
        reply = reply_to(self.conversation, path[0], answer="Hi")
        attempt = attempt_of(reply, planned(self.conversation, path))
        attempt.manifest["sections"].insert(0, {"kind": "recalled", "tokens": 5, "ids": [str(secret.pk)]})
        attempt.manifest["sections"].insert(0, {"kind": "memory", "tokens": 5, "ids": [str(fact.pk)]})
        attempt.save()
        self.assertNotIn("Bob's", self.words(reply))
        self.assertNotIn("Bob's", json.dumps(self.download(reply)))


class PlaceTests(InspectorTests):
    def test_a_script_gets_the_panel_and_a_person_a_page(self) -> None:
        reply = self.long_one()
        self.assertTrue(
            self.fragment("reply_request", reply.pk).lstrip().startswith('<aside class="panel" id="panel"')
        )
        page = self.page("reply_request", reply.pk)
        self.assertIn("<h1>What the model saw</h1>", page)
        self.assertIn("Back to the conversation", page)

    def test_the_line_below_an_answer_leads_to_it(self) -> None:
        reply = self.long_one()
        page = self.page("conversation", self.conversation.pk)
        address = reverse("reply_request", args=[reply.pk])
        self.assertIn(f'href="{address}" hx-get="{address}" hx-target="#panel"', page)
        said = " ".join(strip_tags(page).split())
        self.assertIn("What the model saw: ", said)
        self.assertRegex(
            said, r"\d+ of 21 messages, summary v1, 2 facts, 1 recalled · 49 % cached · \d+ % saved"
        )

    def test_it_leads_to_memory_summaries_and_the_cost_lab(self) -> None:
        page = self.page("reply_request", self.long_one().pk)
        memory = reverse("conversation_memory", args=[self.conversation.pk])
        fact = self.conversation.memory.get(text="Likes tea")
        self.assertIn(f'href="{memory}#fact-{fact.pk}"', page)
        summaries = reverse("conversation_summaries", args=[self.conversation.pk])
        self.assertIn(f'href="{summaries}#summary-1"', page)
        self.assertIn(f'href="{reverse("cost_lab", args=[self.conversation.pk])}"', page)
        self.assertContains(self.client.get(memory), f'id="fact-{fact.pk}"')
        self.assertContains(self.client.get(summaries), 'id="summary-1"')

    def test_a_failed_reply_leads_to_it_if_anything_was_sent(self) -> None:
        path = self.told("Hello?")
        reply = reply_to(self.conversation, path[0], state="failed", error_code="TimedOut")
        address = reverse("reply_request", args=[reply.pk])
        self.assertNotIn(address, self.page("conversation", self.conversation.pk))
        attempt_of(reply, planned(self.conversation, path), usage=None, state="failed")
        self.assertIn(address, self.page("conversation", self.conversation.pk))
