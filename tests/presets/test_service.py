"""What a preset sets of a conversation, who may use which, and what becomes of copies."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from django.db import IntegrityError, transaction
from django.test import TestCase, override_settings

from conversations import presets
from conversations.catalog import LOCAL_MODEL, Catalog, ModelEntry
from conversations.context.presets import CHAT, CHEAPEST, PRESETS, Preset
from conversations.models import Conversation, SavedPreset, User
from conversations.providers import replaced
from conversations.tasks import remove_deleted
from tests import cast
from tests.pages.base import LARGE, LOCAL, conversation_of, entry
from tests.prices.cheap import a_price

SMALL = entry("nano")
UNPRICED = entry("mystery", price=None)
OWN = replace(CHAT, slug="", name="Own", system_prompt="Be brief.", temperature=0.1, reply_tokens=300)


class PresetTests(TestCase):
    models: tuple[ModelEntry, ...] = (LARGE, SMALL, UNPRICED, LOCAL)
    alice: User
    bob: User
    charlie: User

    @classmethod
    def setUpTestData(cls) -> None:
        cls.alice, cls.bob, cls.charlie = cast.alice(), cast.bob(), cast.charlie()

    def setUp(self) -> None:
        self.enterContext(replaced(Catalog(entries=self.models), {}))

    def keys(self, user: User) -> list[str]:
        return [choice.preset.name for choice in presets.presets_for(user) if choice.saved]


class ChoosingTests(PresetTests):
    def test_the_order_is_built_in_then_own_then_shared(self) -> None:
        shared = presets.keep(self.bob, replace(OWN, name="Aardvark"))
        presets.share(shared, True)
        presets.keep(self.alice, replace(OWN, name="zebra"))
        presets.keep(self.alice, replace(OWN, name="Bear"))
        choices = presets.presets_for(self.alice)
        self.assertEqual([choice.key for choice in choices[: len(PRESETS)]], list(PRESETS))
        self.assertEqual(self.keys(self.alice), ["Bear", "zebra", "Aardvark"])
        self.assertEqual(presets.presets_for(self.alice), choices)

    def test_nobody_uses_what_another_keeps_until_it_is_shared(self) -> None:
        saved = presets.keep(self.alice, OWN)
        for person in (self.bob, self.charlie):
            with self.assertRaises(presets.PresetGone):
                presets.find(person, str(saved.pk))
        presets.share(saved, True)
        self.assertEqual(presets.find(self.charlie, str(saved.pk)).preset.name, "Own")
        presets.share(saved, False)
        with self.assertRaises(presets.PresetGone):
            presets.find(self.charlie, str(saved.pk))

    def test_what_is_shared_is_changed_by_administrators_alone(self) -> None:
        saved = presets.keep(self.alice, OWN)
        self.assertIn(saved, SavedPreset.objects.changeable_by(self.alice))
        presets.share(saved, True)
        ada = cast.ada()
        for person, may in ((self.alice, False), (self.bob, False), (ada, True)):
            self.assertEqual(saved in SavedPreset.objects.changeable_by(person), may, person)

    def test_a_default_that_is_gone_is_chat_again_and_comes_back_with_it(self) -> None:
        saved = presets.keep(self.alice, OWN)
        presets.make_default(self.alice, presets.find(self.alice, str(saved.pk)))
        self.assertEqual(presets.default_for(self.alice).preset.name, "Own")
        presets.delete(saved)
        self.assertEqual(presets.default_for(self.alice).key, "chat")
        presets.restore(saved)
        self.assertEqual(presets.default_for(self.alice).preset.name, "Own")

    def test_a_key_that_means_nothing_is_no_preset(self) -> None:
        for key in ("", "nothing", str(uuid4()), "CHAT", "0" * 500):
            with self.assertRaises(presets.PresetGone):
                presets.find(self.alice, key)


class ConversationTests(PresetTests):
    def test_a_preset_begins_a_conversation_with_all_that_it_has(self) -> None:
        choice = presets.find(self.alice, "creative")
        begun, answerer = presets.begin_with(self.alice, choice)
        self.assertEqual((begun.temperature, begun.reply_tokens, begun.model), (1.0, 4_096, LARGE.id))
        self.assertEqual(begun.system_prompt, PRESETS["creative"].system_prompt)
        self.assertEqual((begun.preset["slug"], begun.preset["token_budget"]), ("creative", 48_000))
        self.assertEqual(answerer.remark, "")

    def test_chat_leaves_its_numbers_to_the_installation(self) -> None:
        begun, _ = presets.begin_with(self.alice, presets.default_for(self.alice))
        self.assertEqual((begun.preset, begun.temperature, begun.reply_tokens), ({}, None, None))
        with override_settings(HIGH_WATER=8_000):
            self.assertEqual(presets.preset_of(begun).high_water, 8_000)

    def test_economy_is_the_cheapest_that_is_paid_for_and_else_the_local_one(self) -> None:
        economy = presets.find(self.alice, "economy")
        self.assertEqual(presets.begin_with(self.alice, economy)[0].model, SMALL.id)
        with replaced(Catalog(entries=(UNPRICED, LOCAL)), {}):
            self.assertEqual(presets.begin_with(self.alice, economy)[0].model, f"local/{LOCAL_MODEL}")
        with replaced(Catalog(), {}):
            self.assertEqual(presets.begin_with(self.alice, economy)[0].model, "")

    def test_a_model_that_is_gone_or_without_a_price_is_said_and_the_usual_one_answers(self) -> None:
        for model, said in (("scripted/retired", "is not available."), (UNPRICED.id, "has no price yet.")):
            found = presets.answerer_of(replace(OWN, model=model), usual=SMALL.id)
            self.assertEqual(found.entry, SMALL)
            self.assertIn(said, found.remark)
            self.assertIn("nano answers.", found.remark)
        self.assertEqual(presets.answerer_of(replace(OWN, model="x/y"), usual="x/y").entry, LARGE)

    def test_applying_one_to_a_conversation_keeps_its_model_unless_it_names_one(self) -> None:
        conversation = conversation_of(self.alice)
        presets.apply(conversation, OWN)
        conversation.refresh_from_db()
        self.assertEqual((conversation.model, conversation.system_prompt), (LARGE.id, "Be brief."))
        self.assertEqual((conversation.temperature, conversation.reply_tokens), (0.1, 300))
        presets.apply(conversation, PRESETS["economy"])
        conversation.refresh_from_db()
        self.assertEqual((conversation.model, conversation.preset["high_water"]), (SMALL.id, 4_000))

    def test_a_conversation_keeps_its_copy_whatever_becomes_of_the_preset(self) -> None:
        saved = presets.keep(self.bob, OWN)
        presets.share(saved, True)
        conversation = conversation_of(self.alice)
        presets.apply(conversation, presets.find(self.alice, str(saved.pk)).preset)
        before = presets.snapshot(Conversation.objects.get(pk=conversation.pk))
        presets.rewrite(saved, replace(OWN, name="Other", system_prompt="Talk a lot.", high_water=900))
        presets.share(saved, False)
        presets.delete(saved)
        self.bob.delete()
        after = Conversation.objects.get(pk=conversation.pk)
        self.assertEqual(presets.snapshot(after), before)
        self.assertEqual(presets.preset_of(after).name, "Own")
        self.assertIsNone(presets.origin_of(after, self.alice))

    def test_an_edit_changes_one_conversation_and_reset_takes_it_back(self) -> None:
        first, second = conversation_of(self.alice), conversation_of(self.alice)
        for conversation in (first, second):
            presets.apply(conversation, PRESETS["code"])
        presets.change(first, replace(presets.preset_of(first), last_turns=3), temperature=1.5)
        first.refresh_from_db()
        second.refresh_from_db()
        self.assertEqual((presets.preset_of(first).last_turns, first.temperature), (3, 1.5))
        self.assertEqual((presets.preset_of(second).last_turns, second.temperature), (8, 0.2))
        origin = presets.origin_of(first, self.alice)
        assert origin is not None
        self.assertEqual(presets.changed_since(first, origin), ["temperature", "last_turns"])
        presets.apply(first, origin.preset)
        self.assertEqual(presets.changed_since(first, origin), [])

    def test_what_was_there_can_be_put_back(self) -> None:
        conversation = conversation_of(self.alice, system_prompt="Mine.", temperature=0.4)
        before = presets.snapshot(conversation)
        presets.apply(conversation, PRESETS["economy"])
        presets.put_back(conversation, before)
        conversation.refresh_from_db()
        self.assertEqual(presets.snapshot(conversation), before)
        self.assertEqual(
            (before["system_prompt"], before["temperature"], before["preset"]), ("Mine.", 0.4, {})
        )

    def test_the_figures_are_what_the_price_says(self) -> None:
        model = entry("million", context_window=1_000_000, price=a_price("scripted/million"))
        policy = CHAT.policy(window=model.context_window, max_output=model.max_output)
        figures = presets.figures_of(policy, model)
        assert model.price is not None
        self.assertEqual((policy.high_water, figures.left_percent), (16_000, 25))
        self.assertEqual(figures.left_cost, (figures.request_cost or 0) // 4)
        self.assertIsNone(presets.figures_of(policy, UNPRICED).request_cost)


class KeepingTests(PresetTests):
    def test_a_name_is_a_persons_once_and_another_persons_too(self) -> None:
        presets.keep(self.alice, OWN)
        with self.assertRaisesMessage(presets.NameTaken, "You have a preset with this name already."):
            presets.keep(self.alice, replace(OWN, name="OWN"))
        presets.keep(self.bob, OWN)
        other = presets.keep(self.alice, replace(OWN, name="Other"))
        with self.assertRaises(presets.NameTaken):
            presets.rewrite(other, replace(OWN, name="own"))
        presets.rewrite(other, replace(OWN, name="OTHER"))
        with transaction.atomic(), self.assertRaises(IntegrityError):
            SavedPreset.objects.create(owner=self.alice, name="oWn")

    def test_there_are_at_most_a_hundred(self) -> None:
        rows = [SavedPreset(owner=self.alice, name=f"n{n}") for n in range(presets.MOST)]
        SavedPreset.objects.bulk_create(rows)
        with self.assertRaisesMessage(presets.TooManyPresets, "100 presets"):
            presets.keep(self.alice, OWN)
        presets.delete(rows[0])
        presets.keep(self.alice, OWN)
        with self.assertRaises(presets.TooManyPresets):
            presets.restore(rows[0])
        presets.keep(self.bob, OWN)

    def test_a_deleted_one_comes_back_under_a_free_name(self) -> None:
        saved = presets.keep(self.alice, OWN)
        presets.delete(saved)
        self.assertEqual(self.keys(self.alice), [])
        presets.keep(self.alice, replace(OWN, name="own"))
        presets.restore(saved)
        self.assertEqual(self.keys(self.alice), ["own", "Own (2)"])

    def test_a_free_name_is_never_longer_than_a_name_may_be(self) -> None:
        long = "n" * 60
        presets.keep(self.alice, replace(OWN, name=long))
        name = presets.free_name(self.alice, long)
        self.assertEqual((len(name), name[-4:]), (60, " (2)"))

    def test_what_a_person_kept_goes_with_them_and_what_is_shared_stays(self) -> None:
        presets.keep(self.bob, OWN)
        shared = presets.keep(self.bob, replace(OWN, name="House style"))
        presets.share(shared, True)
        self.bob.delete()
        remove_deleted()
        self.assertEqual([row.name for row in SavedPreset.objects.all()], ["House style"])
        self.assertEqual(self.keys(self.alice), ["House style"])

    def test_a_stored_preset_of_an_older_version_is_read_as_far_as_it_can_be(self) -> None:
        values = {"mood": 1, "last_turns": -2, "model": CHEAPEST}
        saved = SavedPreset.objects.create(owner=self.alice, name="Old", values=values)
        read = presets.find(self.alice, str(saved.pk)).preset
        self.assertEqual(read, Preset(slug=str(saved.pk), name="Old", model=CHEAPEST))
