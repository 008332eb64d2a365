"""Sending from the page: with script and without, and every refusal keeps the draft."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import psycopg
from django.http import HttpResponse
from django.template.loader import render_to_string
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from conversations.catalog import Catalog
from conversations.models import Conversation, Message, Reply, ReplyState
from conversations.providers import replaced
from conversations.thread import Item
from tests import cast

from .base import LARGE, LOCAL, PageTests, conversation_of, entry, form, reply_to, say


class NewConversationTests(PageTests):
    def test_without_script_the_first_message_leads_to_its_conversation(self) -> None:
        response = self.act("conversation_create", htmx=False, **form("Good morning"))
        begun = Conversation.objects.get()
        self.assertEqual(response.status_code, 303)
        self.assertEqual(response["Location"], f"/conversations/{begun.pk}/#latest")
        self.assertIn("Good morning", self.page("conversation", begun.pk))

    def test_with_script_the_page_learns_that_it_was_sent_and_where_to_go(self) -> None:
        response = self.act("conversation_create", **form("Good morning"))
        begun = Conversation.objects.get()
        self.assertEqual(response["HX-Redirect"], f"/conversations/{begun.pk}/")
        self.assertIn("parley:sent", response["HX-Trigger"])

    def test_it_begins_with_the_model_and_the_instructions_that_were_chosen(self) -> None:
        self.act("conversation_create", **form("Hello", model=LOCAL.id), system_prompt="Answer in Norwegian.")
        begun = Conversation.objects.get()
        self.assertEqual((begun.model, begun.system_prompt), (LOCAL.id, "Answer in Norwegian."))

    def test_a_refused_first_message_keeps_draft_and_instructions(self) -> None:
        sent = form("Hello", model="gone/model")
        response = self.act("conversation_create", htmx=False, **sent, system_prompt="Answer in Norwegian.")
        self.assertContains(response, "Hello</textarea>", status_code=422)
        self.assertContains(response, "Answer in Norwegian.", status_code=422)
        self.assertContains(response, "is not available any more", status_code=422)
        self.assertFalse(Conversation.objects.exists())


class SendingTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        self.conversation = conversation_of(self.alice)
        self.leaf = say(self.conversation, "First", answer="Answered")

    def send(self, text: str, *, htmx: bool = True, **more: Any) -> HttpResponse:
        data = form(text, **({"leaf": self.leaf.pk} | more))
        return self.act("message_send", self.conversation.pk, htmx=htmx, **data)

    def test_without_script_it_goes_back_to_the_end_of_the_conversation(self) -> None:
        response = self.send("Second", htmx=False)
        self.assertEqual(response.status_code, 303)
        self.assertTrue(response["Location"].endswith("#latest"))
        page = self.page("conversation", self.conversation.pk)
        self.assertIn("Second", page)
        # A link to this same page and anchor would load nothing: the reply's own address leads back here.
        self.assertRegex(page, r'href="/replies/[^"]+/">.*Refresh</a>')
        self.assertNotIn("http-equiv", page)  # a page that reloads by itself takes a half-written draft away

    def test_with_script_both_articles_come_and_a_new_key(self) -> None:
        key = uuid4()
        response = self.send("Second", key=str(key))
        body = response.content.decode()
        reply = Reply.objects.get(idempotency_key=key)
        self.assertEqual(re.findall(r'<article class="msg msg--(\w+)', body), ["user", "assistant"])
        self.assertIn(f'data-stream="/replies/{reply.pk}/stream/"', body)
        self.assertIn('id="composer-tools"', body)
        self.assertNotIn(str(key), body)
        self.assertIn(f'id="c-{self.conversation.pk}" hx-swap-oob="true"', body)
        self.assertNotIn("First", body)

    def test_both_articles_are_as_the_templates_of_the_thread_make_them(self) -> None:
        """They come from a stencil that the templates made once: see `views.stencil`."""
        awkward = entry(', 03:03"</b><text/>')
        for model, text in (
            (LARGE, "Second"),
            (awkward, '<text/> \U0001f642\n\n, 04:04" & more'),
            (LARGE, "x" * 200_000),
        ):
            with self.subTest(model.id), replaced(Catalog(entries=(model,)), {}):
                body = self.send(text, model=model.id).content.decode()
            reply = Reply.objects.latest("created_at")
            with timezone.override(self.alice.time_zone):
                shown = [
                    render_to_string("conversations/thread.html#item", {"item": item, "request": True})
                    for item in (Item(message=reply.question), Item(reply=reply, is_last=True))
                ]
            self.assertIn(
                "".join(shown).replace(" ", "").replace("\n", ""), body.replace(" ", "").replace("\n", "")
            )
            self.leaf = reply.question
            Reply.objects.update(state=ReplyState.STOPPED)

    def test_a_send_needs_no_template(self) -> None:
        """It is what a thousand people may do at once."""
        self.send("First")
        self.leaf = Reply.objects.latest("created_at").question
        Reply.objects.update(state=ReplyState.STOPPED)
        with patch("django.template.base.Template.render", side_effect=AssertionError) as rendered:
            self.send("Second")
        rendered.assert_not_called()

    def test_the_database_is_asked_seldom(self) -> None:
        """A thousand people may send at once, and each statement is CPU three times: here, there and in between."""
        self.send("Second")  # the row of the day is there from now on
        Reply.objects.update(state=ReplyState.STOPPED)
        leaf = Message.objects.get(content="Second").pk
        execute = psycopg.Cursor.execute
        with patch.object(psycopg.Cursor, "execute", autospec=True, side_effect=execute) as asked:
            self.send("Third", leaf=leaf)
        statements = [str(call.args[1]).split("(")[0].strip()[:60] for call in asked.call_args_list]
        # Session, person, lock, conversation, message with reply, hold; and a savepoint where a transaction would be.
        self.assertLessEqual(len(statements), 8, statements)

    def test_a_conversation_of_somebody_else_or_that_was_deleted_is_not_found(self) -> None:
        theirs = conversation_of(cast.bob())
        Conversation.objects.filter(pk=self.conversation.pk).update(deleted_at=timezone.now())
        for conversation in (theirs, self.conversation):
            for fields in (form("Hello"), form("Hello") | {"key": "not a key"}, form(" ")):
                response = self.act("message_send", conversation.pk, **fields)
                self.assertEqual(response.status_code, 404, fields)
        self.assertFalse(Reply.objects.filter(question__content="Hello").exists())

    def test_the_same_key_again_sends_nothing_twice(self) -> None:
        key = str(uuid4())
        first, again = self.send("Second", key=key), self.send("Second", key=key)
        self.assertEqual((first.status_code, again.status_code), (200, 200))
        self.assertEqual(Message.objects.filter(content="Second").count(), 1)

    def test_the_same_key_with_another_text_is_refused(self) -> None:
        key = str(uuid4())
        self.send("Second", key=key)
        self.assertEqual(self.send("Other", key=key).status_code, 422)

    def test_a_refusal_leaves_the_text_field_alone_and_renews_the_key(self) -> None:
        response = self.send(" \n ")
        self.assertEqual(response.status_code, 422)
        self.assertEqual(response["HX-Retarget"], "#composer-notice")
        self.assertContains(response, 'role="alert"', status_code=422)
        self.assertContains(response, 'name="key"', status_code=422)
        self.assertNotContains(response, "<textarea", status_code=422)

    def test_a_moved_leaf_offers_the_end_or_a_branch(self) -> None:
        say(self.conversation, "From another tab", answer="Yes")
        response = self.send("Second")
        self.assertContains(response, "Send at the end", status_code=409)
        self.assertContains(response, "Send as a branch", status_code=409)
        self.assertContains(response, f'name="leaf" value="{self.leaf.pk}"', status_code=409)

    def test_sent_at_the_end_the_page_shows_what_it_had_missed(self) -> None:
        say(self.conversation, "From another tab", answer="Yes")
        response = self.send("Second", place="end")
        self.assertEqual(response["HX-Retarget"], "#thread")
        self.assertContains(response, "From another tab")
        self.assertContains(response, "Second")

    def test_a_moved_leaf_without_script_keeps_the_draft_and_both_choices(self) -> None:
        say(self.conversation, "From another tab", answer="Yes")
        response = self.send("Second", htmx=False)
        self.assertContains(response, "Second</textarea>", status_code=409)
        self.assertContains(response, 'form="composer-form" name="place" value="branch"', status_code=409)

    def test_while_a_reply_is_written_a_message_is_sent_and_waits(self) -> None:
        reply_to(self.conversation, say(self.conversation, "Second"), state=ReplyState.RUNNING)
        response = self.send("Third", htmx=False, leaf=str(self.conversation.leaf_id))
        self.assertEqual(response.status_code, 303)
        self.assertEqual(Reply.objects.get(question__content="Third").state, ReplyState.WAITING)
        page = self.page("conversation", self.conversation.pk)
        self.assertIn("Waits for the reply before it.", page)
        self.assertIn('aria-label="Stop the reply"', page)

    def test_more_than_a_mebibyte_is_413_with_the_draft(self) -> None:
        text = "é" * (512 * 1024 + 1)
        response = self.send(text, htmx=False)
        self.assertEqual(response.status_code, 413)
        self.assertContains(response, f"{text}</textarea>", status_code=413)

    @override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000)
    def test_a_body_that_django_does_not_read_is_413_beside_the_field(self) -> None:
        response = self.send("x" * 2000)
        self.assertEqual(response.status_code, 413)
        self.assertEqual(response["HX-Retarget"], "#composer-notice")
        self.assertContains(response, "longer than 1 MiB", status_code=413)
        self.assertContains(self.send("x" * 2000, htmx=False), "Go back", status_code=413)

    def test_nul_becomes_a_replacement_and_the_person_is_told(self) -> None:
        response = self.send("a\x00b")
        self.assertContains(response, "cannot be stored")
        self.assertTrue(Message.objects.filter(content="a\ufffdb").exists())

    def test_without_script_the_person_is_told_of_replacements_on_the_next_page(self) -> None:
        self.send("a\x00b", htmx=False)
        self.assertIn("cannot be stored", self.page("conversation", self.conversation.pk))

    def test_text_is_stored_as_typed_and_shown_as_text(self) -> None:
        self.send("  <script>alert(1)</script>\r\n  שלום e\u0301  ")
        stored = Message.objects.get(role="user", parent=self.leaf)
        self.assertEqual(stored.content, "  <script>alert(1)</script>\n  שלום e\u0301  ")
        page = self.page("conversation", self.conversation.pk)
        self.assertNotIn("<script>alert", page)
        self.assertIn("&lt;script&gt;alert(1)", page)

    def test_a_form_without_its_key_is_refused_with_the_draft(self) -> None:
        response = self.send("Second", htmx=False, key="not a key")
        self.assertContains(response, "Second</textarea>", status_code=422)
        self.assertContains(response, "This page was out of date.", status_code=422)

    def test_a_draft_that_looks_like_markup_comes_back_as_typed(self) -> None:
        response = self.send("</textarea><img src=x>", htmx=False, key="?")
        self.assertContains(response, "&lt;/textarea&gt;&lt;img src=x&gt;</textarea>", status_code=422)

    def test_a_signed_out_sender_is_sent_to_sign_in_and_nothing_is_stored(self) -> None:
        self.client.logout()
        response = self.send("Second")
        self.assertEqual(response.status_code, 302)
        self.assertTrue(response["Location"].startswith(reverse("account_login")))
        self.assertFalse(Message.objects.filter(content="Second").exists())
