"""What was said: order, earlier messages, versions, and what can be done with a reply in each of its states."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from conversations.models import Message, Reply, ReplyAttempt, ReplyState

from .base import HTMX, LOCAL, PageTests, conversation_of, form, reply_to, say


class ThreadTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)

    def shown(self, **query: str) -> str:
        return self.page("conversation", self.conversation.pk, **query)

    def test_messages_come_in_order(self) -> None:
        say(self.conversation, "First", answer="One")
        say(self.conversation, "Second", answer="Two")
        page = self.shown()
        places = [page.index(text) for text in ("First", "One", "Second", "Two")]
        self.assertEqual(places, sorted(places))

    def test_a_message_of_very_many_lines_is_shown_by_its_beginning(self) -> None:
        short = say(self.conversation, "line\n" * 1_999 + "end of the short one")
        self.assertNotIn("Only its beginning is shown.", self.shown())
        self.assertIn("end of the short one", self.shown())
        for text in ("begins\n" * 2_000 + "the rest", "begins " * 20_000 + "the rest"):
            long = say(self.conversation, text, under=short)
            page = self.shown()
            self.assertIn(f'<a class="link" href="/messages/{long.pk}/text/">Show all of it</a>', page)
            self.assertNotIn("the rest", page)
            self.assertIn("the rest", self.page("message_text", long.pk))

    def test_earlier_messages_come_on_demand_with_script_and_without(self) -> None:
        for n in range(30):
            say(self.conversation, f"Question-{n}.", answer=f"Answer-{n}.")
        page = self.shown()
        self.assertNotIn("Question-4.", page)
        self.assertIn("Show earlier messages", page)
        before = str(Message.objects.get(content="Question-5.").pk)
        for earlier in (
            self.shown(before=before),
            self.fragment("messages_earlier", self.conversation.pk, before=before),
        ):
            self.assertIn("Question-4.", earlier)
            self.assertNotIn("Question-5.", earlier)
        self.assertNotIn("<html", earlier)

    def test_versions_have_arrows_and_the_other_branch_can_be_read(self) -> None:
        first = say(self.conversation, "First", answer="One")
        question = first.parent
        assert question is not None
        reply_to(self.conversation, question, answer="Another one")
        page = self.shown()
        self.assertIn("2 / 2", page)
        self.assertIn(f"?leaf={first.pk}#m-{first.pk}", page)
        other = self.shown(leaf=str(first.pk))
        self.assertIn("1 / 2", other)
        self.assertNotIn("Another one", other)
        self.assertIn('name="place" value="branch"', other)

    def test_a_message_of_another_conversation_is_no_leaf_of_this_one(self) -> None:
        foreign = say(conversation_of(self.alice, "Other"), "Elsewhere", answer="Far away")
        for parameter in ("leaf", "before"):
            for value in (str(foreign.pk), "nonsense"):
                response = self.client.get(f"/conversations/{self.conversation.pk}/", {parameter: value})
                self.assertEqual(response.status_code, 404)

    def test_a_page_that_is_up_to_date_gets_nothing_new(self) -> None:
        say(self.conversation, "First", answer="One")
        page = self.shown()
        known = page.split('data-version="')[1].split('"')[0]
        address = f"/conversations/{self.conversation.pk}/"
        self.assertEqual(self.client.get(address, {"known": known}, headers=HTMX).status_code, 204)
        say(self.conversation, "Second", answer="Two")
        fresh = self.client.get(address, {"known": known}, headers=HTMX)
        self.assertContains(fresh, "Second")
        self.assertNotContains(fresh, "<html")

    def test_a_message_can_be_copied_as_it_was_written(self) -> None:
        message = say(self.conversation, "**bold** <b>")
        response = self.client.get(f"/messages/{message.pk}/text/")
        self.assertEqual(response.content.decode(), "**bold** <b>")
        self.assertEqual(response["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(response["X-Content-Type-Options"], "nosniff")


class ReplyTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.question = say(self.conversation, "First")

    def reply(self, state: str, **fields: object) -> Reply:
        return reply_to(self.conversation, self.question, state=state, **fields)  # type: ignore[arg-type]

    def shown(self) -> str:
        return self.page("conversation", self.conversation.pk)

    def test_the_line_below_a_reply_says_what_it_took(self) -> None:
        now = timezone.now()
        reply = self.reply(
            ReplyState.COMPLETE,
            answer="One",
            created_at=now,
            first_token_at=now + timedelta(seconds=0.31),
            finished_at=now + timedelta(seconds=75),
        )
        ReplyAttempt.objects.create(
            reply=reply,
            number=1,
            epoch=1,
            model=reply.model,
            state="complete",
            input_tokens=1234,
            cached_tokens=1024,
            output_tokens=56,
            usage_reported=True,
        )
        page = self.shown()
        for part in (
            "<b>large</b>",
            "1,234 in (1,024 cached)",
            "56 out",
            "first token after 0.3 s",
            "1 min 15 s in all",
        ):
            self.assertIn(part, page)

    def test_counts_that_the_provider_did_not_report_are_marked(self) -> None:
        reply = self.reply(ReplyState.COMPLETE, answer="One")
        ReplyAttempt.objects.create(
            reply=reply, number=1, epoch=1, model=reply.model, input_tokens=10, output_tokens=2
        )
        self.assertIn("≈ 10 in", self.shown())

    def test_a_reply_that_saw_an_excerpt_or_was_cut_says_so(self) -> None:
        reply = self.reply(ReplyState.COMPLETE, answer="One")
        ReplyAttempt.objects.create(
            reply=reply,
            number=1,
            epoch=1,
            model=reply.model,
            finish_reason="length",
            manifest={"excerpted": [str(reply.question_id)]},
        )
        page = self.shown()
        self.assertIn("it was shown an excerpt", page)
        self.assertIn("Cut at the reply length", page)

    def test_an_excerpt_of_an_earlier_message_is_no_excerpt_of_this_one(self) -> None:
        reply = self.reply(ReplyState.COMPLETE, answer="One")
        ReplyAttempt.objects.create(
            reply=reply, number=1, epoch=1, model=reply.model, manifest={"excerpted": ["x"]}
        )
        self.assertNotIn("it was shown an excerpt", self.shown())

    def test_a_running_reply_shows_its_text_so_far_and_can_be_stopped(self) -> None:
        reply = self.reply(ReplyState.RUNNING, text="So <far>")
        page = self.shown()
        self.assertIn("So &lt;far&gt;", page)
        self.assertIn(f'data-stream="/replies/{reply.pk}/stream/"', page)
        self.assertIn(f'formaction="/replies/{reply.pk}/stop/"', page)
        self.assertIn('aria-label="Reply in progress"', page)

    def test_a_wait_for_its_turn_is_not_laid_to_the_model(self) -> None:
        now = timezone.now()
        self.reply(
            ReplyState.COMPLETE,
            answer="One",
            created_at=now,
            started_at=now + timedelta(seconds=14),
            first_token_at=now + timedelta(seconds=14.2),
            finished_at=now + timedelta(seconds=16),
        )
        self.assertIn("waited 14 s · first token after 0.2 s · 16 s in all", self.shown())

    def test_stop_is_heard_with_script_and_without(self) -> None:
        reply = self.reply(ReplyState.RUNNING)
        self.assertEqual(self.act("reply_stop", reply.pk).status_code, 204)
        reply.refresh_from_db()
        self.assertIsNotNone(reply.stop_requested_at)
        self.assertEqual(self.act("reply_stop", reply.pk, htmx=False).status_code, 303)

    def test_a_failure_names_the_provider_fault_and_offers_another_try(self) -> None:
        reply = self.reply(ReplyState.FAILED, error_code="RateLimited", error_detail="slow down <b>")
        page = self.shown()
        self.assertIn("The model is busy. Try again in a moment.", page)
        self.assertIn("slow down &lt;b&gt;", page)
        self.assertIn(f'formaction="/replies/{reply.pk}/retry/"', page)
        self.assertIn("Switch model", page)
        self.assertIn("Your message is saved.", page)

    def test_only_what_a_provider_said_is_put_into_its_mouth(self) -> None:
        reply = self.reply(ReplyState.FAILED, error_code="Overloaded", error_detail="All servers are busy.")
        self.assertIn("It said: “All servers are busy”. Your message is saved.", self.shown())
        Reply.objects.filter(pk=reply.pk).update(
            error_code="InvalidResponse", error_detail="a page in place of a reply"
        )
        self.assertIn("What came: a page in place of a reply. Your message is saved.", self.shown())
        for ours in ("ConnectionFailed", "TimedOut", "ProviderBusy", "ProviderUnavailable"):
            with self.subTest(ours):
                Reply.objects.filter(pk=reply.pk).update(error_code=ours, error_detail="ConnectError")
                self.assertNotIn("ConnectError", self.shown())

    def test_a_failed_retry_leads_back_to_the_answer_before(self) -> None:
        answer = self.reply(ReplyState.COMPLETE, answer="The one before").answer
        assert answer is not None
        self.conversation.leaf = self.question
        self.conversation.save()
        failed = self.reply(ReplyState.FAILED, error_code="Overloaded")
        for page in (self.shown(), self.fragment("reply", failed.pk)):
            self.assertIn(f"?leaf={answer.pk}#m-{answer.pk}", page)
            self.assertNotIn("The one before", page)

    def test_an_unknown_failure_is_still_a_sentence(self) -> None:
        self.reply(ReplyState.FAILED, error_code="SomethingNew")
        self.assertIn("The model could not answer.", self.shown())

    def test_a_cut_reply_keeps_its_text_out_of_the_next_request_until_kept(self) -> None:
        reply = self.reply(
            ReplyState.INTERRUPTED, answer="Two kinds of session", error_code="StreamInterrupted"
        )
        page = self.shown()
        self.assertIn("The connection to the model was lost after 4 words.", page)
        self.assertIn("Keep", page)
        kept = self.act("reply_keep", reply.pk)
        self.assertContains(kept, "Two kinds of session")
        self.assertContains(kept, "the model sees it with the next message")
        self.assertFalse(Message.objects.get(reply=reply).is_set_aside)

    def test_a_stopped_reply_says_after_how_many_words(self) -> None:
        self.reply(ReplyState.STOPPED, answer="One")
        self.assertIn("Stopped by you after 1 word", self.shown())

    def test_retry_uses_the_model_that_was_chosen(self) -> None:
        failed = self.reply(ReplyState.FAILED, error_code="Overloaded")
        response = self.act("reply_retry", failed.pk, **form("a draft", model=LOCAL.id))
        again = Reply.objects.exclude(pk=failed.pk).get()
        self.assertEqual((again.question, again.model), (self.question, LOCAL.id))
        self.assertEqual(response["HX-Retarget"], "#thread")
        self.assertContains(response, f'data-reply="{again.pk}"')

    def test_retry_without_script_keeps_a_draft_that_was_in_the_field(self) -> None:
        failed = self.reply(ReplyState.FAILED, error_code="Overloaded")
        response = self.act("reply_retry", failed.pk, htmx=False, **form("half a thought"))
        self.assertContains(response, "half a thought</textarea>")
        self.assertEqual(Reply.objects.count(), 2)

    def test_a_second_retry_while_one_runs_is_refused_in_words(self) -> None:
        failed = self.reply(ReplyState.FAILED, error_code="Overloaded")
        self.act("reply_retry", failed.pk, **form(""))
        response = self.act("reply_retry", failed.pk, **form(""))
        self.assertContains(response, "A reply is being written.", status_code=409)

    def test_a_reply_by_itself_is_its_article_or_its_place_in_the_thread(self) -> None:
        reply = self.reply(ReplyState.COMPLETE, answer="One")
        self.assertTrue(self.fragment("reply", reply.pk).strip().startswith("<article"))
        response = self.client.get(f"/replies/{reply.pk}/")
        self.assertEqual(response["Location"], f"/conversations/{self.conversation.pk}/#latest")
