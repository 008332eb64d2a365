"""The summaries of a conversation on its page: what stands for what, why one was refused, and what can be done."""

from __future__ import annotations

from typing import Any
from unittest import mock

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from conversations import summaries
from conversations.budgets import set_user_limit
from conversations.models import Conversation, ConversationSummary, Message
from conversations.summaries.versions import keep
from tests import cast
from tests.pages.base import HTMX, LARGE, LOCAL, PageTests, entry, signed_in
from tests.summaries.talks import say

PANEL = "conversation_summaries"
DASH = "\N{EN DASH}"
TEXT = "Alice plans a new harbour office in Bergen."


class SummaryTests(PageTests):
    conversation: Conversation

    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        cls.conversation = Conversation.objects.create(user=cls.alice, title="Harbour", model=LARGE.id)
        for number in range(1, 5):
            say(cls.conversation, f"Question {number}?", f"Answer {number}.")

    def setUp(self) -> None:
        super().setUp()
        self.sent = self.enterContext(mock.patch("conversations.wakeups.publisher.send"))

    def kept(self, text: str = TEXT, *, place: int = 6, reason: str = "") -> ConversationSummary:
        until = Message.objects.get(conversation=self.conversation, path_messages=place)
        made = keep(self.conversation, text=text, covers_until=until, made_from=None, reason=reason)
        assert made is not None
        return made

    def panel(self, **query: str) -> str:
        return self.fragment(PANEL, self.conversation.pk, **query)

    def do(self, act: str, summary: ConversationSummary | None = None, **more: Any) -> tuple[int, str]:
        named = {"summary": str(summary.pk)} if summary else {}
        response = self.act(PANEL, self.conversation.pk, **{"act": act, **named, **more})
        return response.status_code, response.content.decode()


class ReadingTests(SummaryTests):
    def test_the_panel_and_forgetting_read_no_message(self) -> None:
        self.kept()
        with CaptureQueriesContext(connection) as found:
            self.panel(part="list")
            summaries.forget(self.alice.pk, ["Alice plans a harbour office."])
        self.assertEqual(ConversationSummary.objects.filter(state="retired").count(), 1)
        self.assertNotIn('."content"', "".join(query["sql"] for query in found))


class MarkerTests(SummaryTests):
    def thread(self, **query: str) -> str:
        return self.page("conversation", self.conversation.pk, **query)

    def test_without_a_summary_there_is_none(self) -> None:
        self.assertNotIn('class="compact"', self.thread())

    def test_it_stands_behind_the_last_message_that_is_covered(self) -> None:
        made = self.kept()
        page = self.thread()
        self.assertIn("Summary of 6 messages is ready", page)
        place = page.index('class="compact"')
        self.assertLess(page.index("Answer 3."), place)
        self.assertLess(place, page.index("Question 4?"))
        self.assertIn(f"#summary-{made.version}", page)

    def test_once_the_model_was_shown_it_the_messages_are_summarised(self) -> None:
        made = self.kept()
        self.kept(text="A newer one.", place=8)
        Conversation.objects.update(cut={"summary_id": str(made.pk)})
        page = self.thread()
        self.assertIn(f"Messages 1{DASH}6 are summarised", page)
        self.assertEqual(page.count('class="compact"'), 1)

    def test_what_was_refused_or_removed_has_no_marker(self) -> None:
        self.kept(reason="The model wrote nothing.")
        summaries.remove(self.kept())
        self.assertNotIn('class="compact"', self.thread())

    def test_another_branch_has_none(self) -> None:
        self.kept()
        root = Message.objects.get(conversation=self.conversation, path_messages=2)
        leaf = say(self.conversation, "Another way?", "Another way.", under=root.pk)
        self.assertNotIn('class="compact"', self.thread(leaf=str(leaf.pk)))


class PanelTests(SummaryTests):
    def test_an_empty_one_says_what_will_be_there(self) -> None:
        panel = self.panel()
        self.assertIn("There is no summary yet", panel)
        self.assertIn("Write one now", panel)

    def test_all_versions_the_newest_first_with_what_they_are(self) -> None:
        self.kept(place=2)
        self.kept("<think>Let me see", reason="The model wrote its own thoughts in place of a summary.")
        self.kept("Newest.", place=8)
        panel = self.panel()
        places = [panel.index(f"Version {number}") for number in (3, 2, 1)]
        self.assertEqual(places, sorted(places))
        self.assertIn("The model wrote its own thoughts in place of a summary.", panel)
        self.assertIn("&lt;think&gt;Let me see", panel)
        self.assertIn(f"Messages 1{DASH}8", panel)
        for chip in ("ready", "refused", "earlier"):
            self.assertIn(f">{chip}</span>", panel)

    def test_markup_in_a_summary_is_text(self) -> None:
        self.kept("<img src=x onerror=alert(1)> <b>Bergen</b>")
        self.assertNotIn("<img src=x", self.panel())

    def test_it_is_a_page_without_script(self) -> None:
        self.kept()
        page = self.page(PANEL, self.conversation.pk)
        self.assertIn("<title>Harbour", page)
        self.assertIn(TEXT, page)

    def test_a_strategy_without_summaries_says_so(self) -> None:
        Conversation.objects.update(preset={"slug": "x", "name": "x", "strategy": "full"})
        panel = self.panel()
        self.assertIn("uses no summary", panel)
        self.assertNotIn("Write one now", panel)

    def test_a_stranger_finds_nothing(self) -> None:
        made = self.kept()
        for user in (cast.bob(), cast.ada()):
            client = signed_in(user)
            address = reverse(PANEL, args=[self.conversation.pk])
            self.assertEqual(client.get(address).status_code, 404)
            posted = {"act": "remove", "summary": str(made.pk)}
            self.assertEqual(client.post(address, posted).status_code, 404)
        made.refresh_from_db()
        self.assertEqual(made.state, "in_force")

    def test_a_version_of_another_conversation_is_not_found(self) -> None:
        made = self.kept()
        other = Conversation.objects.create(user=self.alice, model=LARGE.id)
        for act in ("save", "restore", "remove"):
            response = self.act(PANEL, other.pk, act=act, summary=str(made.pk), text="x")
            self.assertEqual(response.status_code, 404)
        for named in ("", "x", str(other.pk)):
            response = self.act(PANEL, self.conversation.pk, act="remove", summary=named)
            self.assertEqual(response.status_code, 404)
        self.assertEqual(self.do("nothing", made)[0], 404)


class ChangeTests(SummaryTests):
    def test_a_persons_text_is_a_new_version(self) -> None:
        made = self.kept()
        form = self.panel(edit=str(made.pk))
        self.assertIn(f"Summary of messages 1{DASH}6", form)
        self.assertIn(f">{TEXT}</textarea>", form)
        status, panel = self.do("save", made, text="Hers.")
        self.assertEqual(status, 200)
        self.assertIn("Saved as version 2. The next message uses it.", panel)
        self.assertIn("edited by you", panel)
        current = summaries.current(self.conversation)
        assert current is not None
        self.assertEqual((current.summary, current.created_by), ("Hers.", self.alice))

    def test_a_text_that_is_too_long_comes_back_with_the_reason(self) -> None:
        made = self.kept()
        text = "word " * 3_000
        status, panel = self.do("save", made, text=text)
        self.assertEqual(status, 422)
        self.assertIn("Shorten it.", panel)
        self.assertIn(text.strip(), panel)
        self.assertEqual(self.do("save", made, text=" ")[0], 422)
        self.assertEqual(self.conversation.summaries.count(), 1)

    def test_a_failure_is_not_called_a_refusal_and_says_why_at_once(self) -> None:
        self.kept(place=2)
        self.kept("", reason="The provider could not be reached.")
        newest = self.panel().split("Version 2")[1].split("Version 1")[0]
        self.assertIn(">failed</span>", newest)
        self.assertIn("The provider could not be reached.", newest)
        self.assertRegex(self.panel(), r'id="summary-2" open>')

    def test_one_that_says_the_same_of_more_messages_is_not_an_older_one_again(self) -> None:
        before = self.kept(place=2)
        until = Message.objects.get(conversation=self.conversation, path_messages=6)
        keep(self.conversation, text=TEXT, covers_until=until, made_from=before)
        self.assertNotIn("version 1 again", self.panel())
        self.assertIn("version 1 again", self.do("restore", before)[1])

    def test_an_older_one_is_restored_as_a_new_one(self) -> None:
        older = self.kept(place=2)
        self.kept("Newest.", place=8)
        status, panel = self.do("restore", older)
        self.assertEqual(status, 200)
        self.assertIn("Version 1 is back, as version 3.", panel)
        self.assertIn("version 1 again", panel)

    def test_removing_can_be_undone(self) -> None:
        made = self.kept()
        _, panel = self.do("remove", made)
        self.assertIn("the model sees the newest messages", panel)
        self.assertIn("Undo", panel)
        self.assertIsNone(summaries.current(self.conversation))
        self.do("restore", made)
        current = summaries.current(self.conversation)
        assert current is not None
        self.assertEqual(current.summary, TEXT)

    def test_one_of_another_branch_says_what_to_do(self) -> None:
        made = self.kept()
        root = Message.objects.get(conversation=self.conversation, path_messages=2)
        say(self.conversation, "Another way?", "Another way.", under=root.pk)
        self.assertIn("another branch", self.panel())
        status, panel = self.do("restore", made)
        self.assertEqual(status, 409)
        self.assertIn("Switch to that branch first.", panel)

    def test_without_script_it_works_the_same(self) -> None:
        made = self.kept()
        address = reverse(PANEL, args=[self.conversation.pk])
        response = self.client.post(address, {"act": "remove", "summary": str(made.pk)})
        self.assertContains(response, "Undo")
        response = self.client.post(address, {"act": "save", "summary": str(made.pk), "text": ""})
        self.assertContains(response, "Remove it instead", status_code=422)


class WritingTests(SummaryTests):
    models = (entry("large", context_window=32_000), LOCAL)

    def test_a_new_one_is_written_in_the_background(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            status, panel = self.do("write")
        self.assertEqual(status, 200)
        self.assertIn("A summary is being written.", panel)
        self.assertIn('hx-trigger="every 2s"', panel)
        self.assertNotIn("Write one now", panel)
        self.assertEqual(self.sent.call_count, 1)

    def test_nobody_waits_for_more_than_three_at_once(self) -> None:
        for number in range(4):
            other = Conversation.objects.create(user=self.alice, title="Quay", model=LARGE.id)
            say(other, "Question?", "Answer.")
            answer = self.client.post(reverse(PANEL, args=[other.pk]), {"act": "write"}, headers=HTMX)
            self.assertEqual(answer.status_code, 200 if number < 3 else 409)
        self.assertContains(answer, "3 summaries that you asked for are being written.", status_code=409)
        self.assertEqual(ConversationSummary.objects.filter(state="wanted").count(), 3)

    def test_the_list_asks_again_until_it_is_written(self) -> None:
        self.do("write")
        self.assertIn("every 2s", self.panel(part="list"))
        ConversationSummary.objects.update(state="in_force", summary=TEXT)
        shown = self.panel(part="list")
        self.assertNotIn("every 2s", shown)
        self.assertNotIn("<aside", shown)
        self.assertIn(TEXT, shown)

    def test_over_budget_it_is_refused_with_the_reason(self) -> None:
        set_user_limit(self.alice, 10)
        for htmx in (True, False):
            headers = HTMX if htmx else {}
            address = reverse(PANEL, args=[self.conversation.pk])
            response = self.client.post(address, {"act": "write"}, headers=headers)
            self.assertContains(response, "A summary does not fit in what is left today.", status_code=402)
        self.assertFalse(self.conversation.summaries.exists())
        self.sent.assert_not_called()

    def test_an_empty_conversation_says_so(self) -> None:
        empty = Conversation.objects.create(user=self.alice, model=LARGE.id)
        response = self.act(PANEL, empty.pk, act="write")
        self.assertIn("nothing to summarise yet", response.content.decode())
