"""Presets on the pages: chosen for a new chat, changed for one conversation, kept, shared, exported and imported."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.urls import reverse

from conversations import presets
from conversations.catalog import ModelEntry
from conversations.context.presets import CHAT, PRESETS
from conversations.models import Conversation, Reply, SavedPreset
from conversations.preset_forms import ConversationPolicyForm, PresetForm
from tests import cast
from tests.pages.base import (
    LARGE,
    LOCAL,
    PageTests,
    cast_response,
    conversation_of,
    entry,
    form,
    say,
    signed_in,
)

NANO = entry("nano")
OWN = replace(CHAT, slug="", name="Own", system_prompt="Be brief.", temperature=0.1, reply_tokens=300)


def numbers_of(conversation: Conversation, **changed: str) -> dict[str, Any]:
    """The form of a conversation's numbers as a browser sends it."""
    shown = ConversationPolicyForm(conversation=conversation)
    sent = {
        field.name: field.field.prepare_value(field.initial) for field in shown if field.name != "keywords"
    }
    return {name: "" if value is None else str(value) for name, value in sent.items()} | changed


def preset_form(**changed: str) -> dict[str, Any]:
    shown = PresetForm(preset=replace(CHAT, slug="", name="Mine"))
    sent = {field.name: field.field.prepare_value(field.initial) for field in shown}
    return {name: "" if value is None else str(value) for name, value in sent.items()} | changed


class NewChatTests(PageTests):
    models: tuple[ModelEntry, ...] = (LARGE, NANO, LOCAL)

    def begin(self, **sent: Any) -> Conversation:
        response = self.act("conversation_create", **form("Hello?", **sent))
        self.assertIn(response.status_code, {200, 303}, response.content.decode())
        return Conversation.objects.latest("id")

    def test_the_empty_page_offers_each_preset(self) -> None:
        presets.keep(self.alice, OWN)
        page = self.page("home")
        for choice in presets.presets_for(self.alice):
            self.assertIn(f'href="/?preset={choice.key}"', page)
        self.assertIn('name="preset" value="chat"', page)

    def test_a_preset_is_an_address_that_works_without_script(self) -> None:
        page = self.page("home", preset="economy")
        self.assertIn('name="preset" value="economy"', page)
        self.assertRegex(page, r'value="scripted/nano"[^>]* checked')
        self.assertIn("You help with code", self.page("home", preset="code"))

    def test_choosing_one_changes_the_tools_and_leaves_the_text_alone(self) -> None:
        fragment = self.fragment("home", preset="code")
        self.assertIn('name="preset" value="code"', fragment)
        self.assertIn("You help with code", fragment)
        self.assertNotIn('id="draft"', fragment)
        self.assertIn("Runnable code, versions named, rollback shown", fragment.split('id="talking"')[1])

    def test_a_preset_of_somebody_else_is_not_found(self) -> None:
        saved = presets.keep(cast.bob(), OWN)
        for key in (str(saved.pk), "nothing"):
            self.assertEqual(self.client.get("/", {"preset": key}).status_code, 404)
            self.assertEqual(
                self.client.post(reverse("estimate"), {"preset": key, "model": LARGE.id}).status_code, 404
            )

    def test_a_conversation_begins_with_the_preset(self) -> None:
        begun = self.begin(preset="code", system_prompt="You help with code. Only.")
        self.assertEqual((begun.temperature, begun.reply_tokens), (0.2, 4_096))
        self.assertEqual(begun.system_prompt, "You help with code. Only.")
        self.assertEqual(presets.preset_of(begun).strategy, PRESETS["code"].strategy)
        reply = Reply.objects.get(conversation=begun)
        self.assertEqual(reply.temperature, 0.2)

    def test_without_one_it_begins_with_the_persons_usual_preset(self) -> None:
        self.assertEqual(self.begin().preset, {})
        presets.make_default(self.alice, presets.find(self.alice, "support"))
        begun = self.begin()
        self.assertEqual((begun.preset["slug"], begun.temperature), ("support", 0.3))
        self.assertEqual(begun.system_prompt, PRESETS["support"].system_prompt)
        self.assertIn('name="preset" value="support"', self.page("home"))

    def test_a_preset_that_was_deleted_meanwhile_sends_nothing_and_keeps_the_draft(self) -> None:
        saved = presets.keep(self.alice, OWN)
        presets.delete(saved)
        response = self.act("conversation_create", htmx=False, **form("My words", preset=str(saved.pk)))
        page = response.content.decode()
        self.assertEqual(response.status_code, 422)
        self.assertIn("This preset is not there any more.", page)
        self.assertIn("My words", page)
        self.assertFalse(Conversation.objects.exists())

    def test_a_refused_message_keeps_its_preset(self) -> None:
        page = self.act("conversation_create", htmx=False, **form(" ", preset="code")).content.decode()
        self.assertIn('name="preset" value="code"', page)

    def test_a_preset_whose_model_is_gone_says_so_on_the_page(self) -> None:
        saved = presets.keep(self.alice, replace(OWN, model="scripted/retired"))
        page = self.page("home", preset=str(saved.pk))
        self.assertIn("retired, which “Own” asks for, is not available. large answers.", page)


class ContextTests(PageTests):
    models: tuple[ModelEntry, ...] = (LARGE, NANO, LOCAL)
    conversation: Conversation

    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        cls.conversation = conversation_of(cls.alice, system_prompt="Mine.")
        say(cls.conversation, "How much?", answer="A lot.")

    def post(self, htmx: bool = True, **sent: Any) -> HttpResponse:
        return self.act("conversation_context", self.conversation.pk, htmx=htmx, **sent)

    def stored(self) -> Conversation:
        return Conversation.objects.get(pk=self.conversation.pk)

    def undo_of(self, response: HttpResponse) -> str:
        return response.content.decode().split('name="before" value="')[1].split('"')[0]

    def test_the_panel_says_what_the_numbers_mean(self) -> None:
        page = self.page("conversation_context", self.conversation.pk)
        for words in (
            "A request has at most",
            "tokens",
            "After a cut",
            "25 %",
            "A reply has at most",
            "Adaptive",
        ):
            self.assertIn(words, page)
        self.assertIn("How much?", page)  # a whole page without script

    def test_numbers_are_changed_and_put_back(self) -> None:
        for htmx in (True, False):
            response = self.post(
                htmx=htmx, **numbers_of(self.stored(), high_water="4,000", strategy="adaptive")
            )
            self.assertEqual(presets.preset_of(self.stored()).high_water, 4_000)
            self.assertIn("It holds from the next message on.", response.content.decode())
            self.post(htmx=htmx, act="undo", before=self.undo_of(response))
            self.assertEqual((self.stored().preset, self.stored().system_prompt), ({}, "Mine."))

    def test_a_wrong_number_is_said_and_what_was_typed_stays(self) -> None:
        sent = numbers_of(
            self.stored(), high_water="12", last_turns="many", temperature="-1", reply_tokens="2.5"
        )
        page = self.post(**sent).content.decode()
        for sentence in (
            "The high-water mark is between 500 and 1,000,000.",
            "Write a number, such as 16,000.",
            "It cannot be negative.",
            "Write a whole number, such as 16,000.",
        ):
            self.assertIn(sentence, page)
        for typed in ('value="12"', 'value="many"', 'value="-1"', 'value="2.5"'):
            self.assertIn(typed, page)
        self.assertEqual(self.stored().preset, {})

    def test_nonsense_changes_nothing(self) -> None:
        for nonsense in ({}, {"strategy": "magic"}, {"high_water": "9" * 400}, {"keywords": "x" * 5_000}):
            response = self.post(**(numbers_of(self.stored()) | nonsense if nonsense else {}))
            self.assertEqual(response.status_code, 200)
            self.assertEqual(self.stored().preset, {})

    def test_empty_fields_leave_it_to_the_installation(self) -> None:
        Conversation.objects.filter(pk=self.conversation.pk).update(temperature=1.0, reply_tokens=99)
        self.post(**numbers_of(self.stored(), temperature="", reply_tokens=""))
        self.assertEqual((self.stored().temperature, self.stored().reply_tokens), (None, None))

    def test_figures_are_shown_for_numbers_that_are_not_saved(self) -> None:
        sent = numbers_of(self.stored(), high_water="2000")
        page = self.post(act="figures", **sent).content.decode()
        self.assertIn("not saved yet", page)
        self.assertIn("2,000 tokens", page)
        self.assertEqual(self.post(act="figures", **(sent | {"high_water": "x"})).status_code, 204)
        self.assertEqual(self.stored().preset, {})

    def test_another_preset_is_used_reset_and_undone(self) -> None:
        used = self.post(act="use", preset="economy")
        self.assertEqual((self.stored().model, self.stored().preset["slug"]), (NANO.id, "economy"))
        self.assertIn("“Economy” holds from the next message on.", used.content.decode())
        self.post(**numbers_of(self.stored(), high_water="5000"))
        self.assertIn(">changed<", self.page("conversation_context", self.conversation.pk))
        self.post(act="reset")
        self.assertEqual(presets.preset_of(self.stored()).high_water, 4_000)
        self.post(act="undo", before=self.undo_of(used))
        self.assertEqual((self.stored().model, self.stored().system_prompt), (LARGE.id, "Mine."))

    def test_a_preset_of_somebody_else_is_not_found(self) -> None:
        saved = presets.keep(cast.bob(), OWN)
        self.assertEqual(self.post(act="use", preset=str(saved.pk)).status_code, 404)

    def test_an_undo_of_another_conversation_or_of_nobody_does_nothing(self) -> None:
        other = conversation_of(self.alice)
        undo = self.undo_of(self.act("conversation_context", other.pk, act="use", preset="code"))
        self.assertEqual(self.post(act="undo", before=undo).status_code, 404)
        self.assertIn("too long ago", self.post(act="undo", before="forged").content.decode())
        self.assertEqual(self.stored().system_prompt, "Mine.")

    def test_a_conversation_whose_preset_is_gone_says_so_and_goes_on(self) -> None:
        saved = presets.keep(self.alice, OWN)
        self.post(act="use", preset=str(saved.pk))
        presets.delete(saved)
        page = self.page("conversation_context", self.conversation.pk)
        self.assertIn("This conversation keeps its copy.", page)
        self.assertEqual(self.post(act="reset").status_code, 404)

    def test_a_local_model_is_free(self) -> None:
        Conversation.objects.filter(pk=self.conversation.pk).update(model=LOCAL.id)
        page = self.page("conversation_context", self.conversation.pk)
        self.assertIn("which is free", page)
        self.assertNotIn("$0.00", page.split('id="figures"')[1].split("</section>")[0])


class ListTests(PageTests):
    models: tuple[ModelEntry, ...] = (LARGE, NANO, LOCAL)

    def make(self, **changed: str) -> HttpResponse:
        return cast_response(self.client.post(reverse("presets_new"), preset_form(**changed)))

    def test_who_has_none_is_told_how_to_get_one(self) -> None:
        page = self.page("presets")
        self.assertIn("You have none of your own.", page)
        self.assertIn("New chats begin with it", page)

    def test_one_is_made_changed_deleted_and_brought_back(self) -> None:
        self.assertEqual(self.make(name="Mine", high_water="8,000").status_code, 302)
        saved = SavedPreset.objects.get()
        self.assertEqual((saved.owner, saved.preset.high_water), (self.alice, 8_000))
        self.client.post(
            reverse("preset_edit", args=[saved.pk]), preset_form(name="Mine too", temperature="1.1")
        )
        saved.refresh_from_db()
        self.assertEqual((saved.name, saved.preset.temperature), ("Mine too", 1.1))
        response = self.client.post(reverse("preset_delete", args=[saved.pk]), follow=True)
        self.assertIn("Deleted “Mine too”.", response.content.decode())
        self.assertNotIn(f"/presets/{saved.pk}/delete/", response.content.decode())
        self.act("preset_restore", saved.pk)
        self.assertIn(f"/presets/{saved.pk}/delete/", self.page("presets"))

    def test_a_name_that_is_taken_and_a_wrong_number_are_said_with_what_was_typed(self) -> None:
        presets.keep(self.alice, OWN)
        response = self.make(name="own")
        self.assertEqual(response.status_code, 422)
        self.assertIn("You have a preset with this name already.", response.content.decode())
        page = self.make(name="", soft_mark="2").content.decode()
        self.assertIn("The soft mark is between 0.5 and 0.95.", page)
        self.assertIn('value="2"', page)
        self.assertEqual(SavedPreset.objects.count(), 1)

    def test_a_built_in_one_is_copied_and_a_conversation_is_saved_as_one(self) -> None:
        self.assertIn('value="Code assistant (copy)"', self.page("presets_new", **{"from": "code"}))
        conversation = conversation_of(self.alice, title="Ports", system_prompt="Speak of ports.")
        page = self.page("presets_new", conversation=str(conversation.pk))
        self.assertIn('value="Ports"', page)
        self.assertIn("Speak of ports.", page)

    def test_nobody_copies_what_is_not_theirs(self) -> None:
        saved = presets.keep(cast.bob(), OWN)
        foreign = conversation_of(cast.bob())
        for query in (
            {"from": str(saved.pk)},
            {"conversation": str(foreign.pk)},
            {"conversation": "x"},
            {"from": "x"},
        ):
            self.assertEqual(self.client.get(reverse("presets_new"), query).status_code, 404, query)
        self.assertEqual(self.act("presets_default", preset=str(saved.pk)).status_code, 404)
        self.assertEqual(self.client.get(reverse("preset_export", args=[saved.pk])).status_code, 404)

    def test_a_preset_whose_model_is_gone_says_so_in_the_list(self) -> None:
        presets.keep(self.alice, replace(OWN, model="scripted/retired"))
        self.assertIn("retired, which “Own” asks for, is not available. large answers.", self.page("presets"))

    def test_the_default_is_what_a_person_makes_it(self) -> None:
        self.act("presets_default", preset="knowledge")
        self.alice.refresh_from_db()
        self.assertEqual(self.alice.preset, "knowledge")
        self.act("presets_default", preset="chat")
        self.alice.refresh_from_db()
        self.assertEqual(self.alice.preset, "")

    def test_administrators_alone_share(self) -> None:
        ada = cast.ada()
        mine, theirs = presets.keep(self.alice, OWN), presets.keep(ada, OWN)
        self.assertEqual(self.act("preset_share", mine.pk, on="1").status_code, 404)
        self.assertNotIn("/share/", self.page("presets"))
        self.client = signed_in(ada)
        self.assertEqual(
            self.act("preset_share", mine.pk, on="1").status_code, 404
        )  # a stranger's, not shared
        self.act("preset_share", theirs.pk, on="1")
        self.assertIn("/share/", self.page("presets"))
        self.client = signed_in(cast.charlie())
        self.assertIn(f"/?preset={theirs.pk}", self.page("presets"))
        for name in ("preset_edit", "preset_delete", "preset_restore", "preset_share"):
            self.assertEqual(self.act(name, theirs.pk).status_code, 404, name)
        self.assertEqual(self.client.get(reverse("preset_export", args=[theirs.pk])).status_code, 200)
        self.client = signed_in(ada)
        self.act("preset_share", theirs.pk, on="")
        self.client = signed_in(cast.charlie())
        self.assertNotIn(str(theirs.pk), self.page("presets"))


class FileTests(PageTests):
    def upload(self, content: bytes) -> tuple[int, str]:
        file = SimpleUploadedFile("preset.json", content, "application/json")
        response = self.client.post(reverse("presets_import"), {"file": file}, follow=True)
        return response.redirect_chain[-1][
            1
        ] if response.redirect_chain else response.status_code, response.content.decode()

    def test_what_is_exported_is_imported_as_it_was(self) -> None:
        saved = presets.keep(self.alice, replace(OWN, system_prompt="Størrelse “1”.\n<script>"))
        exported = self.client.get(reverse("preset_export", args=[saved.pk]))
        self.assertIn('filename="own.json"', exported.headers["Content-Disposition"])
        self.assertEqual(json.loads(exported.content)["name"], "Own")
        status, page = self.upload(exported.content)
        self.assertEqual(status, 302)
        self.assertIn("“Own (2)” is one of your presets now.", page)
        again = SavedPreset.objects.get(name="Own (2)")
        self.assertEqual(replace(again.preset, slug="", name="Own"), replace(saved.preset, slug=""))

    def test_what_it_does_not_know_is_named_and_left_out(self) -> None:
        _, page = self.upload(b'{"name": "N", "mood": 1, "model": "scripted/retired"}')
        self.assertIn("Left out, because no preset has it here: mood.", page)
        self.assertIn("is not available", page)

    def test_a_file_that_is_none_is_refused_with_a_sentence(self) -> None:
        for content, sentence in (
            (b"no", "This file is not JSON."),
            (b"", "This file is empty."),
            (b'{"name": "N", "last_turns": -1}', "The number of last turns is between 1 and 1,000."),
            (b'{"name": "N", "temperature": "warm"}', "The temperature is between"),
            (b'{"name": "' + b"n" * 99 + b'"}', "The name has at most 60 characters."),
            (b"x" * (1024 * 1024 + 1), "This file is larger than 1 MiB"),
        ):
            status, page = self.upload(content)
            self.assertEqual(status, 422, sentence)
            self.assertIn(sentence, page)
        self.assertFalse(SavedPreset.objects.exists())

    def test_a_hostile_file_is_refused_or_named_with_a_sentence(self) -> None:
        for content, sentence in (
            (b'{"name": "N", "keywords": ' + b"[" * 600 + b"]" * 600 + b"}", "Keywords are at most 50 words"),
            (b'{"name": "N", "last_turns": ' + b"9" * 5_000 + b"}", "This file is not JSON."),
            (b'{"name": "N", "temperature": NaN}', "The temperature is between"),
            (b'{"name": "N", "high_water": 1e999}', "The high-water mark is"),
            (b'{"name": "N", "\\ud800<b>": 1}', "Left out, because no preset has it here: \ufffd&lt;b&gt;."),
        ):
            _, page = self.upload(content)
            self.assertIn(sentence, page)

    def test_no_file_at_all_is_said(self) -> None:
        response = self.client.post(reverse("presets_import"))
        self.assertContains(response, "Choose a file that was exported from Parley.", status_code=422)

    def test_a_hundred_are_enough(self) -> None:
        rows = [SavedPreset(owner=self.alice, name=f"n{n}") for n in range(presets.MOST)]
        SavedPreset.objects.bulk_create(rows)
        status, page = self.upload(b'{"name": "N"}')
        self.assertEqual(status, 422)
        self.assertIn("You have 100 presets, which is the most. Delete one first.", page)


class AdminTests(PageTests):
    def test_what_is_anothers_alone_is_not_shared_to_be_read(self) -> None:
        saved = presets.keep(self.alice, OWN)
        self.client = signed_in(cast.ada())
        address = reverse("admin:conversations_savedpreset_change", args=[saved.pk])
        changelist = reverse("admin:conversations_savedpreset_changelist")
        self.assertNotContains(self.client.get(address), "Be brief.")
        chosen = {"action": "share_with_all", "_selected_action": [str(saved.pk)]}
        said = self.client.post(changelist, chosen, follow=True)
        self.assertContains(said, "1 preset is its owner&#x27;s alone", html=False)
        self.client.post(address, {"is_shared": "on"})
        saved.refresh_from_db()
        self.assertFalse(saved.is_shared)

    def test_administrators_share_their_own_and_see_what_is_shared(self) -> None:
        saved = presets.keep(cast.ada(), OWN)
        self.client = signed_in(cast.ada())
        address = reverse("admin:conversations_savedpreset_change", args=[saved.pk])
        chosen = {"action": "share_with_all", "_selected_action": [str(saved.pk)]}
        changelist = reverse("admin:conversations_savedpreset_changelist")
        self.assertContains(
            self.client.post(changelist, chosen, follow=True), "1 preset shared with everyone."
        )
        self.assertContains(self.client.get(address), "Be brief.")
        self.assertContains(self.client.get(changelist, {"is_shared__exact": "1"}), "Own")
        self.client.post(changelist, chosen | {"action": "stop_sharing"})
        saved.refresh_from_db()
        self.assertFalse(saved.is_shared)

    def test_one_that_is_deleted_in_the_admin_can_be_brought_back(self) -> None:
        saved = presets.keep(self.alice, OWN)
        ada = signed_in(cast.ada())
        ada.post(reverse("admin:conversations_savedpreset_delete", args=[saved.pk]), {"post": "yes"})
        self.act("preset_restore", saved.pk)
        self.assertEqual(SavedPreset.objects.owned_by(self.alice).get(), saved)
