"""The pages of memory: everything can be seen, changed, forgotten and brought back, with and without a script."""

from __future__ import annotations

import json
import re
from typing import Any

from django.db import connection
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from conversations import memory
from conversations.models import Conversation, Hold, MemoryItem, Reply, User
from tests import cast
from tests.pages.base import HTMX, LARGE, PageTests, cast_response, conversation_of, form, say, signed_in

from .base import Kind, Scope, State, fact

IN_LIST = {**HTMX, "HX-Target": "facts"}


def written(prefix: str = "fact", **fields: str) -> dict[str, Any]:
    """The form of a fact as a browser sends it."""
    return {f"{prefix}-{name}": value for name, value in fields.items()}


class MemoryPageTests(PageTests):
    conversation: Conversation

    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        cls.conversation = conversation_of(cls.alice)

    def keep(self, text: str, kind: MemoryItem.Kind = Kind.PREFERENCE) -> MemoryItem:
        return memory.remember(self.alice, fact(text, kind), conversation=self.conversation)

    def press(self, name: str, *args: object, at: str = "", script: bool = True, **data: str) -> HttpResponse:
        address = reverse(name, args=args) + at
        return cast_response(self.client.post(address, data, headers=IN_LIST if script else {}))

    @property
    def here(self) -> str:
        return f"?in={self.conversation.pk}"

    @property
    def panel(self) -> str:
        return reverse("conversation_memory", args=[self.conversation.pk])

    def undo_in(self, response: HttpResponse) -> str:
        found = re.search(r'name="undo" value="([^"]+)"', response.content.decode())
        assert found
        return found[1]


class ReadingTests(MemoryPageTests):
    def test_a_page_of_facts_reads_no_message(self) -> None:
        known = self.keep("Likes tea.")
        MemoryItem.objects.update(source=say(self.conversation, "I like tea. " * 1_000))
        memory.edit(known, fact("Likes coffee."))
        MemoryItem.objects.create(
            user=self.alice, conversation=self.conversation, kind=Kind.TASK, text="A", state=State.PROPOSED
        )
        with CaptureQueriesContext(connection) as found:
            self.client.get(self.panel, headers=IN_LIST)
        self.assertTrue(found.captured_queries)
        self.assertNotIn('."content"', "".join(query["sql"] for query in found))

    def test_an_empty_memory_says_how_it_fills(self) -> None:
        for page in (self.page("memory"), self.page("conversation_memory", self.conversation.pk)):
            self.assertIn("remember that", page)
            self.assertNotIn("Filter facts", page)

    def test_facts_stand_in_groups_with_their_source_and_the_pinned_first(self) -> None:
        message = say(self.conversation, "Never mention prices.", answer="Agreed.").parent
        assert message is not None
        memory.note_stated(self.alice, message)
        self.keep("Short answers")
        memory.pin(self.keep("No tables"), on=True)
        page = self.page("memory")
        self.assertIn(f"?around={message.pk}#m-{message.pk}", page)
        self.assertIn("message 1", page)
        self.assertLess(page.index(">Rules"), page.index(">Preferences "))
        self.assertLess(page.index("No tables"), page.index("Short answers"))
        self.assertIn("Harbour fees", page)

    def test_a_conversation_shows_what_it_is_told(self) -> None:
        other = conversation_of(self.alice, "Elsewhere")
        self.keep("Short answers")
        memory.remember(self.alice, fact("Likes tea"), conversation=other)
        memory.remember(self.alice, fact("Lives in Oslo", Kind.PROFILE))
        page = self.page("conversation_memory", self.conversation.pk)
        self.assertIn("Short answers", page)
        self.assertIn("Lives in Oslo", page)
        self.assertNotIn("Likes tea", page)
        self.assertIn("2 facts", page)
        panel = self.fragment("conversation_memory", self.conversation.pk)
        self.assertTrue(panel.strip().startswith("<aside"))

    def test_text_of_people_and_models_is_text(self) -> None:
        self.keep("<script>alert(1)</script>")
        MemoryItem.objects.create(
            user=self.alice,
            conversation=self.conversation,
            kind=Kind.TASK,
            text="<b>x</b>",
            state=State.PROPOSED,
        )
        for page in (self.page("memory"), self.page("conversation_memory", self.conversation.pk)):
            self.assertNotIn("<script>alert", page)
            self.assertNotIn("<b>x</b>", page)

    def test_a_filter_finds_and_says_when_it_does_not(self) -> None:
        self.keep("Short answers")
        self.keep("No tables")
        page = self.page("memory", q="table")
        self.assertIn("No tables", page)
        self.assertNotIn("Short answers", page)
        self.assertIn("No fact contains", self.page("memory", q="<zebra>"))
        self.assertEqual(self.client.get(reverse("memory"), {"q": "\x00%_" * 90}).status_code, 200)

    def test_many_facts_take_as_many_queries_as_few(self) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as found:
                self.page("memory")
            return len(found)

        memory.edit(self.keep("Fact 0"), fact("Fact zero"))
        few = queries()
        for n in range(1, 30):
            memory.edit(self.keep(f"Fact {n}"), fact(f"Fact number {n}"))
        self.assertEqual(queries(), few)

    def test_history_is_folded_below_its_fact(self) -> None:
        memory.edit(memory.edit(self.keep("One"), fact("Two")), fact("Three"))
        page = self.page("memory")
        self.assertIn("2 earlier versions", page)
        self.assertLess(page.index("Three"), page.index("Two"))
        self.assertLess(page.index("Two"), page.index("One"))

    def test_nobody_sees_what_another_person_said(self) -> None:
        self.keep("Alice likes tea")
        memory.remember(self.alice, fact("Alice lives in Oslo", Kind.PROFILE))
        for other in (cast.bob(), cast.ada()):
            client = signed_in(other)
            for address in (reverse("memory"), reverse("memory_export")):
                self.assertNotContains(client.get(address), "Alice")

    def test_the_admin_shows_nothing_of_it(self) -> None:
        self.keep("Alice likes tea")
        client = signed_in(cast.ada())
        for name in ("conversations_conversation_change", "conversations_user_change"):
            pk = self.conversation.pk if "conversation_" in name else self.alice.pk
            response = client.get(reverse(f"admin:{name}", args=[pk]))
            self.assertEqual(response.status_code, 200)
            self.assertNotContains(response, "likes tea")
        self.assertNotContains(client.get(reverse("admin:index")), "memory item")

    def test_a_deleted_conversation_is_not_shown_and_what_holds_in_all_is(self) -> None:
        self.keep("Short answers")
        memory.change_scope(self.keep("Likes tea"), Scope.PERSON)
        Conversation.objects.update(deleted_at=self.conversation.created_at)
        page = self.page("memory")
        self.assertNotIn("Short answers", page)
        self.assertIn("Likes tea", page)

    def test_the_export_has_all_with_its_history_and_nothing_that_is_forgotten(self) -> None:
        memory.edit(self.keep("One"), fact("Two"))
        memory.forget(self.keep("Secret"))
        response = self.client.get(reverse("memory_export"))
        rows = json.loads(response.content)["memory"]
        self.assertEqual(
            [(row["text"], row["state"]) for row in rows], [("One", "replaced"), ("Two", "active")]
        )
        self.assertIn("attachment", response["Content-Disposition"])


class ChangingTests(MemoryPageTests):
    def test_a_fact_is_added_by_hand(self) -> None:
        data = written(text="Lives in Oslo", kind="profile")
        self.assertContains(self.press("memory", **data), "Lives in Oslo")
        response = self.press(
            "conversation_memory",
            self.conversation.pk,
            script=False,
            **written(text="No tables", kind="constraint", scope="conversation"),
        )
        self.assertEqual(
            (response.status_code, response["Location"]),
            (303, self.panel),
        )
        found = {
            item.text: (item.kind, item.scope, item.conversation_id) for item in MemoryItem.objects.all()
        }
        self.assertEqual(found["Lives in Oslo"], ("profile", "person", None))
        self.assertEqual(found["No tables"], ("constraint", "conversation", self.conversation.pk))

    def test_what_is_wrong_is_said_in_a_sentence_and_keeps_the_words(self) -> None:
        for text in ("", "x" * 301):
            for script in (True, False):
                response = self.press("memory", script=script, **written(text=text, kind="task"))
                self.assertEqual(response.status_code, 422)
                self.assertIn("wrong", response.content.decode())
                self.assertIn(text, response.content.decode())
        item = self.keep("Short answers")
        response = self.press("memory_edit", item.pk, **written("edit", text="x" * 301, kind="task"))
        self.assertEqual(response.status_code, 422)

    def test_a_fact_is_edited_in_its_place(self) -> None:
        item = self.keep("Short answers")
        page = self.client.get(reverse("memory_edit", args=[item.pk])).content.decode()
        self.assertIn("Short answers</textarea>", page)
        response = self.press("memory_edit", item.pk, **written("edit", text="Long answers", kind="decision"))
        self.assertContains(response, "Long answers")
        self.assertEqual(MemoryItem.objects.in_force().get().kind, "decision")
        again = self.client.post(
            reverse("memory_edit", args=[item.pk]), {"edit-text": "x", "edit-kind": "task"}
        )
        self.assertEqual(again.status_code, 404)

    def test_scope_and_pin_change_by_one_press(self) -> None:
        item = self.keep("Short answers")
        self.press("memory_pin", item.pk, on="1")
        self.press("memory_scope", item.pk, scope="person")
        item.refresh_from_db()
        self.assertEqual((item.is_pinned, item.scope), (True, "person"))
        response = self.press("memory_pin", item.pk, at=self.here, script=False, on="")
        self.assertEqual(
            (response.status_code, response["Location"]),
            (303, self.panel),
        )
        self.assertEqual(self.press("memory_scope", item.pk, scope="world").status_code, 404)
        self.assertEqual(self.press("memory_pin", item.pk, at="?in=nowhere").status_code, 404)

    def test_a_refusal_is_a_sentence_above_the_list(self) -> None:
        item = memory.remember(self.alice, fact("Lives in Oslo"))
        response = self.press("memory_scope", item.pk, scope="conversation")
        self.assertContains(response, "belongs to no conversation", status_code=422)

    def test_a_fact_is_forgotten_and_comes_back(self) -> None:
        for script in (True, False):
            item = self.keep("Short answers")
            response = self.press("memory_forget", item.pk, script=script)
            self.assertContains(response, "Forgot 1 fact.")
            self.assertNotIn("Short answers", response.content.decode())
            self.press("memory_restore", script=script, undo=self.undo_in(response))
            self.assertIn("Short answers", self.page("memory"))

    def test_what_cannot_come_back_is_said(self) -> None:
        self.assertContains(self.press("memory_restore", undo="x"), "too long ago", status_code=422)

    def test_the_switch_turns_remembering_off_and_on(self) -> None:
        self.press("memory_switch", on="")
        self.assertFalse(User.objects.get(pk=self.alice.pk).is_remembering)
        self.press("memory_switch", script=False, on="1")
        self.assertTrue(User.objects.get(pk=self.alice.pk).is_remembering)


class ProposalTests(MemoryPageTests):
    def propose(self) -> MemoryItem:
        return MemoryItem.objects.create(
            user=self.alice,
            conversation=self.conversation,
            kind=Kind.CONSTRAINT,
            text="Never mention prices",
            state=State.PROPOSED,
            note="It would be a rule: only you make these.",
        )

    def test_yes_makes_it_hold(self) -> None:
        item = self.propose()
        page = self.page("conversation_memory", self.conversation.pk)
        self.assertIn("Shall this be remembered?", page)
        self.assertIn("only you make these", page)
        self.press("memory_answer", item.pk, at=self.here)
        item.refresh_from_db()
        self.assertEqual(item.state, State.ACTIVE)

    def test_no_erases_it_and_can_be_taken_back(self) -> None:
        item = self.propose()
        response = self.press("memory_forget", item.pk)
        self.assertContains(response, "It will not be remembered.")
        self.press("memory_restore", undo=self.undo_in(response))
        item.refresh_from_db()
        self.assertEqual((item.state, item.text), (State.PROPOSED, "Never mention prices"))


class ThreadTests(MemoryPageTests):
    def send(self, text: str) -> str:
        self.conversation.refresh_from_db()
        data = form(text, leaf=self.conversation.leaf_id)
        return self.act("message_send", self.conversation.pk, **data).content.decode()

    def test_the_answer_to_a_send_says_what_was_remembered(self) -> None:
        self.assertIn("Remembered: Never mention prices", self.send("Never mention prices."))
        self.assertIn("Remembered: Never mention prices", self.page("conversation", self.conversation.pk))
        self.assertEqual(MemoryItem.objects.get().kind, "constraint")

    def test_a_usual_message_says_nothing_about_it(self) -> None:
        self.assertNotIn("emembered", self.send("How high are the fees?"))

    def test_undo_in_the_thread_forgets_and_undo_of_that_brings_it_back(self) -> None:
        self.send("Never mention prices.")
        item = MemoryItem.objects.get()
        address = reverse("memory_forget", args=[item.pk]) + "?at=thread"
        line = self.client.post(address, headers=HTMX).content.decode()
        self.assertIn("Forgotten.", line)
        self.assertNotIn("prices", line)
        self.assertNotIn("Remembered:", self.page("conversation", self.conversation.pk))
        undo = re.search(r"&quot;undo&quot;: &quot;([^&]+)&quot;|\"undo\": \"([^\"]+)\"", line)
        assert undo
        back = self.client.post(
            reverse("memory_restore") + "?at=thread", {"undo": undo[1] or undo[2]}, headers=HTMX
        )
        self.assertContains(back, "Remembered: Never mention prices")

    def test_a_first_message_is_remembered_too(self) -> None:
        self.act("conversation_create", **form("Never mention prices."))
        item = MemoryItem.objects.get()
        self.assertEqual(item.source, Reply.objects.get().question)

    def test_a_message_that_is_taken_back_is_not_remembered(self) -> None:
        self.send("Hello")
        self.send("Never mention prices.")
        self.assertEqual(MemoryItem.objects.count(), 1)
        self.act("reply_withdraw", Reply.objects.get(state="waiting").pk)
        self.assertFalse(MemoryItem.objects.exists())

    def test_the_same_form_twice_remembers_once(self) -> None:
        data = form("Never mention prices.")
        for _ in range(2):
            self.act("message_send", self.conversation.pk, **data)
        self.assertEqual(MemoryItem.objects.count(), 1)

    def test_the_estimate_of_a_rule_is_what_is_held_for_it(self) -> None:
        rule = "Never mention prices."
        posted = {"text": rule, "model": LARGE.id, "conversation": str(self.conversation.pk)}
        shown = self.client.post(reverse("estimate"), posted, headers=HTMX).context["estimate"]
        self.send(rule)
        self.assertEqual(shown.quote.at_most, Hold.objects.get().amount)
