"""The list of conversations and what can be done with a row."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

from django.test import SimpleTestCase
from django.utils import timezone

from conversations.forms import SettingsForm
from conversations.models import Conversation, ReplyState
from conversations.views import sidebar
from conversations.views.sidebar import group_by_day, heading_of

from .base import PageTests, conversation_of, reply_to, say


class GroupingTests(SimpleTestCase):
    today = date(2026, 11, 20)

    def test_headings_by_age(self) -> None:
        for days, heading in (
            (0, "Today"),
            (1, "Yesterday"),
            (2, "Previous 7 days"),
            (7, "Previous 7 days"),
            (8, "November"),
            (50, "October"),
            (400, "October 2025"),
        ):
            with self.subTest(days=days):
                self.assertEqual(heading_of(self.today - timedelta(days=days), self.today), heading)

    def test_the_day_is_the_persons_own(self) -> None:
        late = Conversation(title="Late", last_updated=datetime(2026, 11, 19, 23, 30, tzinfo=UTC))
        for zone, heading in (("Europe/Oslo", "Today"), ("UTC", "Yesterday")):
            with self.subTest(zone=zone), timezone.override(ZoneInfo(zone)):
                groups = group_by_day([late], pinned=[], today=self.today)
                self.assertEqual([group.heading for group in groups], [heading])


class ListTests(PageTests):
    def test_an_empty_list_says_what_will_be_there(self) -> None:
        self.assertIn("Your conversations will be listed here.", self.page("home"))

    def test_pinned_ones_come_first_and_once(self) -> None:
        conversation_of(self.alice, "Newest")
        pinned = conversation_of(self.alice, "Kept on top", is_pinned=True)
        page = self.page("home")
        self.assertLess(page.index("Kept on top"), page.index("Newest"))
        self.assertEqual(page.count(f'id="c-{pinned.pk}"'), 1)

    def test_a_long_list_is_cut_but_keeps_its_pinned_ones(self) -> None:
        old = timezone.now() - timedelta(days=90)
        conversation_of(self.alice, "Old but pinned", is_pinned=True, last_updated=old)
        for n in range(3):
            conversation_of(self.alice, f"New {n}")
        with mock.patch.object(sidebar, "ROWS", 2):
            page = self.page("home")
        self.assertIn("Old but pinned", page)
        self.assertIn("Older conversations", page)
        self.assertNotIn("New 0", page)
        self.assertIn("New 0", self.page("home", all=""))

    def test_rows_show_a_reply_on_its_way_and_one_that_was_cut(self) -> None:
        running, cut = conversation_of(self.alice, "Running"), conversation_of(self.alice, "Cut")
        reply_to(running, say(running, "x"), state=ReplyState.RUNNING)
        reply_to(cut, say(cut, "x"), state=ReplyState.INTERRUPTED, answer="half")
        page = self.page("home")
        self.assertIn('aria-label="Reply in progress"', page)
        self.assertIn("The last reply was interrupted", page)

    def test_rename_in_place_is_a_persons_title(self) -> None:
        row = conversation_of(self.alice)
        self.assertIn('<input class="input" name="title"', self.fragment("conversation_rename", row.pk))
        response = self.act("conversation_rename", row.pk, title="  Port <fees>  ")
        self.assertContains(response, "Port &lt;fees&gt;")
        row.refresh_from_db()
        self.assertEqual((row.title, row.title_source), ("Port <fees>", Conversation.TitleSource.PERSON))

    def test_an_empty_name_changes_nothing(self) -> None:
        row = conversation_of(self.alice)
        self.assertContains(self.act("conversation_rename", row.pk, title="   "), "Harbour fees")
        row.refresh_from_db()
        self.assertEqual(row.title_source, Conversation.TitleSource.DEFAULT)

    def test_pin_and_unpin(self) -> None:
        row = conversation_of(self.alice)
        self.assertContains(self.act("conversation_pin", row.pk, on="1"), "Pinned")
        self.assertNotContains(self.act("conversation_pin", row.pk, on=""), "Pinned")

    def test_archive_takes_it_out_of_the_list_with_undo(self) -> None:
        row = conversation_of(self.alice)
        response = self.act("conversation_archive", row.pk, on="1")
        self.assertNotContains(response, f'id="c-{row.pk}"')
        self.assertContains(response, "Archived “Harbour fees”.")
        self.assertContains(response, "Undo")
        self.assertIn("Harbour fees", self.page("archived"))
        self.assertContains(self.act("conversation_archive", row.pk, on=""), f'id="c-{row.pk}"')

    def test_delete_is_soft_stops_the_reply_and_can_be_undone(self) -> None:
        row = conversation_of(self.alice)
        running = reply_to(row, say(row, "x"), state=ReplyState.RUNNING)
        response = self.act("conversation_delete", row.pk)
        self.assertContains(response, "Deleted “Harbour fees”.")
        running.refresh_from_db()
        self.assertIsNotNone(running.stop_requested_at)
        self.assertEqual(self.client.get(f"/conversations/{row.pk}/").status_code, 404)
        self.assertContains(self.act("conversation_restore", row.pk), "Harbour fees")
        self.assertEqual(self.client.get(f"/conversations/{row.pk}/").status_code, 200)

    def test_deleting_the_open_one_leads_home_where_undo_waits(self) -> None:
        row = conversation_of(self.alice)
        address = f"http://testserver/conversations/{row.pk}/"
        response = self.client.post(
            f"/conversations/{row.pk}/delete/", headers={"HX-Request": "true", "HX-Current-URL": address}
        )
        self.assertEqual(response["HX-Redirect"], f"/?deleted={row.pk}")
        self.assertIn("Deleted “Harbour fees”.", self.page("home", deleted=str(row.pk)))

    def test_after_thirty_days_nothing_brings_it_back(self) -> None:
        row = conversation_of(self.alice, deleted_at=timezone.now() - timedelta(days=31))
        self.assertEqual(self.act("conversation_restore", row.pk).status_code, 404)
        self.assertNotIn("Harbour fees", self.page("archived"))

    def test_without_script_each_action_is_a_form_on_the_settings_page(self) -> None:
        row = conversation_of(self.alice)
        page = self.page("conversation_settings", row.pk)
        for action in ("rename", "pin", "archive", "delete"):
            with self.subTest(action=action):
                self.assertIn(f'action="/conversations/{row.pk}/{action}/"', page)
                response = self.act(f"conversation_{action}", row.pk, htmx=False, title="x", on="1")
                self.assertEqual(response.status_code, 302)

    def test_settings_are_saved_or_say_what_is_wrong(self) -> None:
        row = conversation_of(self.alice)
        sent: dict[str, Any] = {"system_prompt": "Be brief.\x00", "temperature": "0.2", "reply_tokens": "300"}
        self.assertContains(self.act("conversation_settings", row.pk, **sent), "Saved.")
        row.refresh_from_db()
        self.assertEqual(
            (row.system_prompt, row.temperature, row.reply_tokens), ("Be brief.\ufffd", 0.2, 300)
        )
        response = self.act("conversation_settings", row.pk, **(sent | {"temperature": "7"}))
        self.assertContains(response, "less than or equal to 2")
        row.refresh_from_db()
        self.assertEqual(row.temperature, 0.2)

    def test_settings_change_nothing_else_of_a_conversation(self) -> None:
        row = conversation_of(self.alice)
        read_before = Conversation.objects.get(pk=row.pk)
        leaf = say(row, "Which harbour?")
        Conversation.objects.filter(pk=row.pk).update(title="Fees", deleted_at=timezone.now())
        form = SettingsForm({"system_prompt": "Be brief."}, instance=read_before)
        self.assertTrue(form.is_valid())
        form.save()
        row.refresh_from_db()
        self.assertEqual((row.system_prompt, row.leaf, row.title), ("Be brief.", leaf, "Fees"))
        self.assertIsNotNone(row.deleted_at)

    def test_settings_without_script_are_a_whole_page(self) -> None:
        row = conversation_of(self.alice)
        page = self.page("conversation_settings", row.pk)
        self.assertIn("<html", page)
        self.assertIn('id="panel"', page)
        self.assertIn("System prompt", page)
