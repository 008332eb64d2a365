"""The cost lab's page: what it shows, what it never does, and what Use changes."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from unittest import mock
from uuid import UUID

from django.urls import reverse
from django.utils import timezone

from conversations.catalog import load_catalog
from conversations.context.presets import Preset
from conversations.cost_lab import lab
from conversations.cost_lab.lab import MOST_TURNS, PLANS, lab_of
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.tokens import kept_tokens
from conversations.models import Conversation, Hold, LedgerEntry, Message, Reply
from conversations.money import exact
from conversations.presets import change, preset_of
from conversations.views.cost_lab_chart import APART, BASE, TOP, Line, _apart, cost_chart, tokens_chart
from tests.cast import bob
from tests.pages.base import PageTests
from tests.prices.cheap import a_price
from tests.replies.harness import MODEL, catalog_of
from tests.spending import line

WAS = "As it really was"
VIEW = "conversations.views.cost_lab"
FAILED = "a conversation could not be replayed: RuntimeError"
TEXT = "The harbour master of Zwolle wrote about case {n}, and what it may cost us. " * 12


def talk(conversation: Conversation, turns: int, *, gap: timedelta = timedelta(minutes=1)) -> Message:
    """A straight line of turns, a number of the first ones asked for again in the last."""
    parent: Message | None = None
    at = timezone.now() - gap * turns
    for number in range(turns):
        asked = "What is the number of the gate? It is 4711." if number == 0 else TEXT.format(n=number)
        if number == turns - 1:
            asked = "Was it 4711?"
        for role, text in (("user", asked), ("assistant", TEXT.format(n=f"{number} again"))):
            parent = Message.objects.create(
                conversation=conversation,
                parent=parent,
                role=role,
                content=text,
                token_count=kept_tokens(text),
                created_at=at + gap * number,
            )
    assert parent is not None
    Conversation.objects.filter(pk=conversation.pk).update(leaf=parent)
    conversation.refresh_from_db()
    return parent


class LabTests(PageTests):
    def setUp(self) -> None:
        super().setUp()
        lab._kept.clear()
        self.provider = ScriptedProvider()
        self.enterContext(
            catalog_of(self.provider, is_free=False, price=a_price(MODEL), context_window=128_000)
        )
        self.shown = Conversation.objects.create(user=self.alice, model=MODEL, title="Harbour")
        self.address = reverse("cost_lab", args=[self.shown.pk])

    def look(self, query: str = "", **headers: Any) -> str:
        response = self.client.get(self.address + query, headers=headers)
        self.assertEqual(response.status_code, 200)
        return response.content.decode()

    def test_fewer_than_two_turns_have_nothing_to_compare(self) -> None:
        for turns in (0, 1):
            if turns:
                talk(self.shown, turns)
            page = self.look()
            self.assertIn("nothing to compare yet", page)
            self.assertNotIn("<table", page)

    def test_every_strategy_has_its_tokens_its_cost_and_what_it_keeps(self) -> None:
        talk(self.shown, 25)
        page = self.look()
        for plan in PLANS.values():
            self.assertIn(plan.name, page)
        self.assertIn("1 of 1", page)
        self.assertIn("Adaptive costs $", page)
        self.assertIn("in use", page)
        self.assertEqual(page.count('role="img"'), 2)

    def test_it_calls_nobody_and_costs_nothing(self) -> None:
        talk(self.shown, 25)
        self.look()
        self.assertEqual(self.provider.requests, [])
        for model in (Hold, LedgerEntry, Reply):
            self.assertFalse(model.objects.exists())

    def test_a_long_conversation_is_replayed_once_its_page_is_there(self) -> None:
        talk(self.shown, 70)
        page = self.look()
        self.assertIn("is being replayed", page)
        self.assertIn(f'hx-get="{self.address}?result"', page)
        self.assertIn(f'href="{self.address}?now"', page)
        part = self.look("?result", hx_request="true")
        self.assertNotIn("<html", part)
        self.assertIn("Strategies and models", part)
        with mock.patch.object(lab, "_replayed") as replayed:
            self.assertIn("Strategies and models", self.look())
        replayed.assert_not_called()

    def test_nobody_waits_in_a_thread_for_the_replay_of_another_conversation(self) -> None:
        talk(self.shown, 3)
        with lab._replaying:
            for page in (self.look(), self.look("?now"), self.look("?result", hx_request="true")):
                self.assertIn("Another conversation is being replayed.", page)
                self.assertIn('hx-trigger="load delay:2s"', page)
        self.assertIn("Strategies and models", self.look("?result", hx_request="true"))
        with lab._replaying:
            self.assertIn("Strategies and models", self.look("?now"))

    def test_what_is_too_long_is_replayed_from_its_newest_turns_and_says_so(self) -> None:
        talk(self.shown, 9)
        with mock.patch.object(lab, "MOST_TURNS", 5):
            page = self.look()
        self.assertIn("The newest 5 turns are replayed", page)
        self.assertIn("4 came before them", page)
        self.assertLessEqual(MOST_TURNS, 200)

    def test_a_new_message_another_strategy_or_another_price_is_another_replay(self) -> None:
        talk(self.shown, 5)
        with mock.patch.object(lab, "_replayed", wraps=lab._replayed) as replayed:
            self.look()
            self.look()
            self.assertEqual(replayed.call_count, 1)
            Conversation.objects.filter(pk=self.shown.pk).update(system_prompt="Be brief.")
            self.look()
            self.assertEqual(replayed.call_count, 2)
            said = Message.objects.create(
                conversation=self.shown, parent=self.shown.leaf, role="user", content="And?", token_count=2
            )
            Conversation.objects.filter(pk=self.shown.pk).update(leaf=said)
            self.look()
            self.assertEqual(replayed.call_count, 3)

    def test_another_branch_is_not_replayed(self) -> None:
        leaf = talk(self.shown, 4)
        first = Message.objects.get(conversation=self.shown, parent=None)
        Message.objects.create(
            conversation=self.shown, parent=first, role="assistant", content="Another.", token_count=1
        )
        with mock.patch.object(lab, "_run", wraps=lab._run) as run:
            self.look()
        (turns, *_), _ = run.call_args_list[0]
        self.assertEqual(turns[-1].answer.id, leaf.pk)
        self.assertEqual(len(turns), 4)
        self.assertNotIn("Another.", [turn.answer.content for turn in turns])

    def test_what_would_be_refused_now_is_replayed_as_if_it_were_cut(self) -> None:
        talk(self.shown, 5)
        small = replace(preset_of(self.shown), high_water=600, recall_tokens=0, on_overflow="refuse")
        change(self.shown, small)
        self.assertIn("with numbers of its own", self.look())
        self.client.post(self.address, {"plan": "adaptive"})
        self.shown.refresh_from_db()
        self.assertEqual(preset_of(self.shown).on_overflow, "cut")

    def test_what_was_used_before_can_be_put_back(self) -> None:
        talk(self.shown, 5)
        change(self.shown, replace(preset_of(self.shown), high_water=5_000))
        used = self.client.post(self.address, {"plan": "full"}, follow=True)
        self.assertContains(used, ">Undo</button>")
        back = self.client.post(self.address, {"act": "undo"}, follow=True)
        self.assertContains(back, "Put back as it was.")
        self.assertNotContains(back, ">Undo</button>")
        self.shown.refresh_from_db()
        found = preset_of(self.shown)
        self.assertEqual((found.strategy, found.high_water), ("adaptive", 5_000))

    def test_use_changes_the_strategy_and_nothing_else(self) -> None:
        talk(self.shown, 5)
        self.shown.system_prompt, self.shown.temperature = "Be brief.", 0.4
        self.shown.save()
        response = self.client.post(self.address, {"plan": "sliding-window"}, follow=True)
        self.assertContains(response, "Last turns holds from the next message on.")
        self.shown.refresh_from_db()
        self.assertEqual(Preset.stored(self.shown.preset).strategy, "sliding_window")
        self.assertEqual((self.shown.system_prompt, self.shown.temperature), ("Be brief.", 0.4))
        self.assertEqual(self.shown.model, MODEL)
        page = self.look()
        self.assertRegex(page, r"Last turns <span[^>]*>current")
        self.client.post(self.address, {"plan": "adaptive"})
        self.shown.refresh_from_db()
        self.assertEqual(preset_of(self.shown).strategy, "adaptive")
        self.assertRegex(self.look(), r"Adaptive <span[^>]*>current")

    def test_numbers_of_its_own_are_a_row_of_their_own(self) -> None:
        talk(self.shown, 5)
        preset = Preset(slug="mine", name="My own numbers", high_water=2_000, recall_tokens=100)
        Conversation.objects.filter(pk=self.shown.pk).update(preset=preset.to_json())
        self.assertRegex(self.look(), r"My own numbers <span[^>]*>current")

    def test_an_unknown_strategy_and_a_stranger_get_404(self) -> None:
        self.assertEqual(self.client.post(self.address, {"plan": "none"}).status_code, 404)
        other = Conversation.objects.create(user=bob(), model=MODEL)
        self.assertEqual(self.client.get(reverse("cost_lab", args=[other.pk])).status_code, 404)
        self.assertEqual(self.client.get(reverse("cost_lab", args=[UUID(int=1)])).status_code, 404)

    def test_a_model_without_a_price_and_a_free_one(self) -> None:
        talk(self.shown, 5)
        with catalog_of(self.provider, is_free=False):
            self.assertIn("has no price yet", self.look())
        with catalog_of(self.provider):
            page = self.look()
        self.assertIn("is free.", page)
        self.assertEqual(page.count('role="img"'), 1)

    def test_what_it_really_cost_is_the_ledgers(self) -> None:
        leaf = talk(self.shown, 3)
        reply = Reply.objects.create(
            user=self.alice,
            conversation=self.shown,
            question_id=leaf.parent_id or leaf.pk,
            answer=leaf,
            model=MODEL,
            max_tokens=10,
            state="complete",
            idempotency_key=UUID(int=1),
            body_hash="",
            finished_at=timezone.now(),
        )
        line(
            self.alice,
            conversation=self.shown,
            reply_id=reply.pk,
            purpose="reply",
            input_tokens=1_000,
            cached_tokens=250,
            output_tokens=9,
        )
        line(self.alice, conversation=self.shown, purpose="title")
        found = lab.reality_of(self.shown)
        self.assertEqual((found.calls, found.input_tokens, found.cache_percent), (1, 1_000, 25))
        self.assertEqual(found.charged, found.background)
        page = self.look()
        self.assertIn("1 call for these replies", page)
        self.assertIn("1,000 in, 9 out", page)

    def table(self, query: str = "") -> list[dict[str, str]]:
        response = self.client.get(reverse("cost_lab_export", args=[self.shown.pk]) + query)
        self.assertEqual(response.headers["Content-Type"], "text/csv; charset=utf-8")
        self.assertIn("attachment", response.headers["Content-Disposition"])
        return list(csv.DictReader(response.content.decode().splitlines()))

    def test_the_table_can_be_taken_along_with_its_units(self) -> None:
        talk(self.shown, 5)
        rows = self.table()
        self.assertEqual([row["strategy"] for row in rows], [plan.name for plan in PLANS.values()] + [WAS])
        found = lab_of(self.shown, load_catalog(), load_catalog().entries[0])
        assert found
        used = next(row for row in rows if row["in_use"])
        self.assertEqual(used["median_tokens_per_turn"], str(found.current.simulation.median_tokens))
        self.assertEqual(used["input_tokens"], str(found.current.simulation.input_tokens))
        self.assertEqual(used[f"cost_usd {MODEL}"], exact(found.current.simulation.cost))
        by_turn = self.table("?by=turn")
        self.assertEqual(len(by_turn), 5 * len(PLANS))
        last = [row for row in by_turn if row["strategy"] == used["strategy"]][-1]
        self.assertEqual((last["turn"], last["cost_so_far_usd"]), ("5", used[f"cost_usd {MODEL}"]))

    def test_a_name_that_looks_like_a_formula_stays_a_name(self) -> None:
        talk(self.shown, 3)
        named = replace(preset_of(self.shown), slug="mine", name="=1+1", high_water=2_000)
        Conversation.objects.filter(pk=self.shown.pk).update(preset=named.to_json())
        for query in ("", "?by=turn"):
            self.assertEqual(self.table(query)[0]["strategy"], "'=1+1")

    def test_without_a_replay_there_is_a_page_that_says_why_and_no_file(self) -> None:
        address = reverse("cost_lab_export", args=[self.shown.pk])
        self.assertRedirects(self.client.get(address), self.address)
        talk(self.shown, 5)
        with lab._replaying:
            self.assertRedirects(self.client.get(address), self.address)
        with mock.patch.object(lab, "_replayed", side_effect=RuntimeError), self.assertLogs(VIEW):
            self.assertRedirects(self.client.get(address), self.address)

    def test_a_replay_that_fails_says_so_and_can_be_tried_again(self) -> None:
        talk(self.shown, 5)
        failing = mock.patch.object(lab, "_replayed", side_effect=RuntimeError("what Alice wrote"))
        for query, headers in (("", {}), ("?now", {}), ("?result", {"hx_request": "true"})):
            with failing, self.assertLogs(VIEW) as logs:
                page = self.look(query, **headers)
            self.assertIn("The replay failed. The conversation is as it was, and nothing was charged.", page)
            self.assertIn("Try again", page)
            self.assertNotIn("Alice wrote", page)
            self.assertEqual([record.getMessage() for record in logs.records], [FAILED])
        self.assertIn("Strategies and models", self.look())

    def test_each_of_eight_lines_has_a_style_of_its_own(self) -> None:
        talk(self.shown, 5)
        change(self.shown, replace(preset_of(self.shown), high_water=2_000))
        page = self.look()
        for style in range(1, 9):
            self.assertIn(f'value="{style}" autocomplete="off"', page)
            self.assertRegex(page, rf'class="ln l{style}( cur)?" d="M5')

    def test_rows_are_read_in_a_bounded_number_of_queries(self) -> None:
        entry = load_catalog().entries[0]
        for turns in (3, 30):
            conversation = Conversation.objects.create(user=self.alice, model=MODEL)
            talk(conversation, turns)
            with self.assertNumQueries(4):
                lab_of(conversation, load_catalog(), entry)


def test_lines_stay_in_the_picture_and_their_names_apart() -> None:
    ends = _apart([200.0, 201.0, 202.0, 223.0, 224.0, 12.0, 12.0])
    ordered = sorted(ends)
    assert all(b - a >= APART - 1e-9 for a, b in pairwise(ordered))
    assert ordered[0] >= TOP and ordered[-1] <= BASE
    tokens = tokens_chart([Line(name="A", values=[0, 500, 77_000], label="77k", is_current=True)])
    assert [tick.label for tick in tokens.rows] == ["0", "20k", "40k", "60k", "80k"]
    assert tokens.lines[0].path.startswith("M58.0 224.0 ")
    long = cost_chart([Line(name="A", values=list(range(10_000)), label="x")])
    assert long.lines[0].path.count(" ") < 600 and long.lines[0].path.split()[-2] == "420.0"
    assert tokens_chart([Line(name="A", values=[0, 0], label="0")]).rows[0].label == "0"
