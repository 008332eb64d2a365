"""What goes on from a thread: messages that wait, replies that continue, messages written again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone

from conversations.models import Conversation, Message, Reply, ReplyAttempt, ReplyState
from conversations.replies.sending import retry_reply, withdraw_reply
from conversations.thread import load_thread

from .base import LARGE, LOCAL, PageTests, cast_response, conversation_of, form, reply_to, say


class WaitingTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.question = say(self.conversation, "First")
        self.running = reply_to(self.conversation, self.question, state=ReplyState.RUNNING, text="So far")

    def send(self, text: str, **more: Any) -> HttpResponse:
        data = form(text, **({"leaf": self.question.pk} | more))
        return self.act("message_send", self.conversation.pk, **data)

    def waiting(self, text: str) -> Reply:
        self.send(text)
        return Reply.objects.get(question__content=text)

    def shown(self, **query: str) -> str:
        return self.page("conversation", self.conversation.pk, **query)

    def test_messages_that_wait_come_below_the_running_reply_in_their_order(self) -> None:
        second, third = self.waiting("Second"), self.waiting("Third")
        page = self.shown()
        places = [page.index(text) for text in ("First", "So far", "Second", "Third")]
        self.assertEqual(places, sorted(places))
        self.assertEqual(page.count("Waits for the reply before it."), 2)
        for reply in (second, third):
            self.assertIn(f'formaction="/replies/{reply.pk}/withdraw/"', page)
        self.assertIn(f'data-stream="/replies/{self.running.pk}/stream/"', page)

    def test_with_script_the_waiting_message_alone_is_added(self) -> None:
        self.waiting("Second")
        body = self.send("Third").content.decode()
        self.assertEqual(body.count("<article"), 1)
        self.assertIn("Third", body)
        self.assertIn('id="composer-tools"', body)

    def test_the_composer_can_send_and_stop_while_a_reply_is_written(self) -> None:
        page = self.shown()
        self.assertIn('aria-label="Stop the reply"', page)
        self.assertIn('aria-label="Send"', page)
        self.assertIn("Write the next message; it waits for this reply", page)

    def test_the_next_message_follows_what_waits_however_far_that_has_come(self) -> None:
        second = self.waiting("Second")
        self.assertIn(f'name="leaf" value="{second.question_id}"', self.shown())
        self.assertEqual(self.send("Third", leaf=second.question_id).status_code, 200)
        # The first reply has ended, and the second message has begun to be answered.
        Reply.objects.filter(pk=self.running.pk).update(state=ReplyState.STOPPED)
        Reply.objects.filter(pk=second.pk).update(state=ReplyState.RUNNING)
        Conversation.objects.update(leaf=second.question_id)
        self.assertEqual(self.send("Fourth", leaf=second.question_id).status_code, 200)
        second.question.delete()
        self.assertEqual(self.send("Fifth", leaf=second.question_id).status_code, 409)

    def test_one_that_waits_for_another_conversation_says_so(self) -> None:
        with self.settings(MAX_RUNNING_REPLIES=1):
            self.act("conversation_create", **form("Elsewhere"))
        other = Reply.objects.get(question__content="Elsewhere")
        page = self.page("conversation", other.conversation_id)
        self.assertIn("Waits for one of your other replies to end.", page)
        self.assertNotIn("data-stream", page)
        self.act("message_send", other.conversation_id, **form("Behind it", leaf=other.question_id))
        page = self.page("conversation", other.conversation_id)
        self.assertIn("Waits for the reply before it.", page)
        self.assertEqual(page.count("Elsewhere</p>"), 1)

    def test_taken_back_it_leaves_the_thread_and_its_text_comes_back(self) -> None:
        waiting = self.waiting("Second <b>")
        self.waiting("Third")
        response = self.act("reply_withdraw", waiting.pk)
        body = response.content.decode()
        self.assertIn('<div id="taken-back" hx-swap-oob="innerHTML">Second &lt;b&gt;</div>', body)
        self.assertNotIn(f"m-{waiting.question_id}", body)
        self.assertIn("Third", body)
        self.assertFalse(Message.objects.filter(content="Second <b>").exists())

    def test_taken_back_without_script_it_stands_above_the_draft(self) -> None:
        waiting = self.waiting("Second")
        response = self.act("reply_withdraw", waiting.pk, htmx=False, **form("half a thought"))
        self.assertContains(response, "Second\n\nhalf a thought</textarea>")

    def test_what_is_being_answered_cannot_be_taken_back(self) -> None:
        response = self.act("reply_withdraw", self.running.pk)
        self.assertContains(response, "This message is being answered already.", status_code=409)
        self.assertTrue(Message.objects.filter(content="First").exists())

    def test_one_taken_back_at_this_moment_is_not_there_to_be_answered_again(self) -> None:
        waiting = self.waiting("Second")

        def late(asked: Reply, **named: Any) -> Reply:
            withdraw_reply(waiting)
            Reply.objects.filter(pk=self.running.pk).update(state=ReplyState.STOPPED)
            return retry_reply(asked, **named)

        with mock.patch("conversations.views.replies.retry_reply", late):
            response = self.act("reply_retry", waiting.pk, **form(""))
        self.assertEqual((response.status_code, Reply.objects.count()), (404, 1))

    def test_one_taken_back_leaves_those_behind_it(self) -> None:
        with self.settings(MAX_RUNNING_REPLIES=1):
            self.act("conversation_create", **form("Elsewhere"))
        first = Reply.objects.get(question__content="Elsewhere")
        self.act("message_send", first.conversation_id, **form("Behind it", leaf=first.question_id))
        self.act("reply_withdraw", first.pk)
        behind = Message.objects.get(content="Behind it")
        first.conversation.refresh_from_db()
        self.assertEqual((behind.parent, first.conversation.leaf), (None, behind))

    def test_a_version_arrow_does_not_lead_to_a_message_that_waits(self) -> None:
        self.waiting("Second")
        thread = load_thread(self.conversation, leaf_id=self.question.pk)
        self.assertEqual(thread.leaf_id, self.question.pk)

    def test_a_page_is_out_of_date_when_what_waits_has_changed(self) -> None:
        before = self.shown().split('data-version="')[1].split('"')[0]
        self.waiting("Second")
        after = self.shown().split('data-version="')[1].split('"')[0]
        self.assertNotEqual(before, after)

    def test_a_reply_that_failed_before_one_that_waited_is_still_shown(self) -> None:
        Reply.objects.update(state=ReplyState.FAILED, error_code="Overloaded")
        say(self.conversation, "Second", answer="Two")
        page = self.shown()
        places = [page.index(text) for text in ("First", "is overloaded", "Second", "Two")]
        self.assertEqual(places, sorted(places))

    def test_a_deleted_conversation_asks_for_nothing_more(self) -> None:
        waiting = self.waiting("Second")
        self.act("conversation_delete", self.conversation.pk)
        waiting.refresh_from_db()
        self.assertEqual(waiting.state, ReplyState.STOPPED)


class ContinueTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.question = say(self.conversation, "First")

    def test_a_cut_or_stopped_reply_with_text_can_go_on(self) -> None:
        for state in (ReplyState.INTERRUPTED, ReplyState.STOPPED):
            reply = reply_to(self.conversation, self.question, state=state, answer="Half an ans")
            page = self.page("conversation", self.conversation.pk)
            self.assertIn(f'formaction="/replies/{reply.pk}/continue/"', page)

    def test_without_text_or_after_its_end_there_is_no_button(self) -> None:
        reply_to(self.conversation, self.question, state=ReplyState.INTERRUPTED)
        self.assertNotIn("/continue/", self.page("conversation", self.conversation.pk))
        reply_to(self.conversation, self.question, state=ReplyState.COMPLETE, answer="All of it")
        self.assertNotIn("/continue/", self.page("conversation", self.conversation.pk))

    def test_while_it_goes_on_the_kept_text_is_there(self) -> None:
        cut = reply_to(self.conversation, self.question, state=ReplyState.INTERRUPTED, answer="Half an ans")
        response = self.act("reply_continue", cut.pk, **form("a draft"))
        more = Reply.objects.exclude(pk=cut.pk).get()
        self.assertEqual(more.continues, cut.answer)
        self.assertContains(response, f'data-stream="/replies/{more.pk}/stream/"')
        self.assertContains(response, '<div class="open">Half an ans')

    def test_without_script_the_draft_stays(self) -> None:
        cut = reply_to(self.conversation, self.question, state=ReplyState.STOPPED, answer="Half an ans")
        response = self.act("reply_continue", cut.pk, htmx=False, **form("half a thought"))
        self.assertContains(response, "half a thought</textarea>")

    def test_it_is_refused_in_words(self) -> None:
        empty = reply_to(self.conversation, self.question, state=ReplyState.STOPPED)
        response = self.act("reply_continue", empty.pk, **form(""))
        self.assertContains(response, "There is no text to go on from.", status_code=409)
        response = self.act("reply_continue", empty.pk, **form("", key=None) | {"key": "?"})
        self.assertEqual(response.status_code, 422)


class EditTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        say(self.conversation, "First", answer="One")
        say(self.conversation, "Second", answer="Two")
        self.first = Message.objects.get(content="First")
        self.second = Message.objects.get(content="Second")

    def test_each_own_message_can_be_edited_and_no_answer(self) -> None:
        page = self.page("conversation", self.conversation.pk)
        for message in (self.first, self.second):
            self.assertIn(f'href="/messages/{message.pk}/edit/"', page)
        answer = self.first.children.get()
        self.assertEqual(self.client.get(f"/messages/{answer.pk}/edit/").status_code, 404)

    def test_the_form_has_the_text_and_where_it_goes(self) -> None:
        for show in (self.page, self.fragment):
            edit = show("message_edit", self.second.pk, model=LOCAL.id)
            self.assertIn("Second</textarea>", edit)
            self.assertIn(f'name="leaf" value="{self.second.parent_id}"', edit)
            self.assertIn('name="place" value="branch"', edit)
            self.assertIn(f'name="model" value="{LOCAL.id}"', edit)
        self.assertNotIn("<html", edit)

    def test_it_becomes_a_version_and_the_old_one_stays(self) -> None:
        response = self.act(
            "message_send",
            self.conversation.pk,
            **form("Second again", leaf=self.second.parent_id, place="branch"),
        )
        self.assertContains(response, "2 / 2")
        self.assertContains(response, f"?leaf={self.second.pk}#m-{self.second.pk}")
        self.assertIn("Two", self.page("conversation", self.conversation.pk, leaf=str(self.second.pk)))

    def test_the_first_message_can_be_edited_too(self) -> None:
        edit = self.page("message_edit", self.first.pk)
        self.assertIn('name="leaf" value=""', edit)
        response = self.act(
            "message_send", self.conversation.pk, htmx=False, **form("First again", place="branch")
        )
        self.assertEqual(response.status_code, 303)
        page = self.page("conversation", self.conversation.pk)
        self.assertIn("2 / 2", page)
        self.assertNotIn("Two", page)
        self.assertEqual(Message.objects.get(content="First again").parent, None)

    def test_while_a_reply_is_written_it_is_refused_and_kept(self) -> None:
        reply_to(self.conversation, self.second, state=ReplyState.RUNNING)
        sent = form("Second again", leaf=self.second.parent_id, place="branch")
        response = self.act("message_send", self.conversation.pk, htmx=False, **sent)
        self.assertContains(response, "Second again</textarea>", status_code=409)
        self.assertContains(response, "A reply is being written.", status_code=409)


class TriesTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.question = say(self.conversation, "First")

    def shown(self, number: int, *, model: str = LARGE.id, **fields: Any) -> str:
        reply = reply_to(self.conversation, self.question, **fields)
        if reply.answer:
            Message.objects.filter(pk=reply.answer.pk).update(model_used=model)
        ReplyAttempt.objects.create(reply=reply, number=number, epoch=1, model=model)
        return self.page("conversation", self.conversation.pk)

    def test_the_line_says_which_try_it_was(self) -> None:
        self.assertNotIn(" try.", self.shown(1, answer="One"))
        self.assertIn("Second try.", self.shown(2, answer="Two"))
        self.assertIn("Third try.", self.shown(3, answer="Three"))

    def test_the_line_says_who_answered_instead(self) -> None:
        page = self.shown(4, model=LOCAL.id, answer="One")
        self.assertIn("Answered by SmolLM2-135M because large was unavailable.", page)
        self.assertIn("<b>SmolLM2-135M</b>", page)
        self.assertNotIn(" try.", page)

    def test_a_failure_says_how_often_and_how_long_it_was_tried(self) -> None:
        now = timezone.now()
        times: dict[str, Any] = {"started_at": now, "finished_at": now + timedelta(seconds=14.2)}
        page = self.shown(3, state=ReplyState.FAILED, error_code="Overloaded", **times)
        self.assertIn("Three tries in 14 seconds failed.", page)

    def test_one_try_is_not_counted(self) -> None:
        self.assertNotIn("tries", self.shown(1, state=ReplyState.FAILED, error_code="Overloaded"))


class FallbackTests(PageTests):
    def save(self, model: str) -> HttpResponse:
        values = {"name": "Alice", "time_zone": "UTC", "theme": "", "fallback_model": model}
        return cast_response(self.client.post(reverse("preferences"), values))

    def test_a_person_chooses_the_model_that_answers_instead(self) -> None:
        self.assertEqual(self.save(LOCAL.id).status_code, 302)
        self.alice.refresh_from_db()
        self.assertEqual(self.alice.fallback_model, LOCAL.id)
        self.assertEqual(self.save("").status_code, 302)
        self.alice.refresh_from_db()
        self.assertEqual(self.alice.fallback_model, "")

    def test_one_that_is_not_there_is_refused(self) -> None:
        self.assertContains(self.save("gone/model"), "Select a valid choice")

    def test_one_that_went_away_stays_chosen(self) -> None:
        self.alice.fallback_model = "gone/model"
        self.alice.save()
        self.assertIn("gone/model (not available now)", self.page("preferences"))
        self.assertEqual(self.save("gone/model").status_code, 302)
