"""The numbers of a conversation for one model: its own before its preset's, its preset's before the installation's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conversations.context.plan import plan_context
from conversations.context.presets import CHAT, PRESETS
from conversations.context.view import HistoryMessage
from conversations.models import Conversation
from conversations.models.fields import new_id
from conversations.policies import policy_in, policy_of, stored_preset
from conversations.replies.context import _worth_marking
from tests.summaries.talks import ENTRY

MEMORY = next(preset for preset in PRESETS.values() if preset.token_budget)


def test_a_model_that_reads_slowly_is_shown_less(settings: object) -> None:
    settings.LOCAL_HIGH_WATER = 1_500  # type: ignore[attr-defined]
    slow = replace(ENTRY, is_local=True, is_free=True)
    assert (policy_of(ENTRY).high_water, policy_of(slow).high_water) == (16_000, 1_500)
    assert policy_of(slow, replace(CHAT, high_water=1_000)).high_water == 1_000


def test_a_share_of_the_window_is_one_of_the_budget_too() -> None:
    wide = replace(ENTRY, context_window=1_000_000)
    whole, half = policy_of(wide, MEMORY), policy_of(wide, MEMORY, share=0.5)
    assert half.input_limit < 0.6 * whole.input_limit


def test_the_installation_says_what_a_conversation_without_a_preset_has(settings: object) -> None:
    settings.HIGH_WATER, settings.DEFAULT_REPLY_TOKENS = 4_000, 300  # type: ignore[attr-defined]
    usual = policy_in(Conversation(), ENTRY)
    assert (usual.high_water, usual.reply_tokens) == (4_000, 300)
    own = policy_in(Conversation(preset=CHAT.to_json(), reply_tokens=200), ENTRY)
    assert (own.high_water, own.reply_tokens) == (16_000, 200)


@pytest.mark.parametrize("high_water", [1, 10**12])
def test_what_the_installation_says_is_bounded_as_in_a_form(high_water: int, settings: object) -> None:
    settings.HIGH_WATER = high_water  # type: ignore[attr-defined]
    assert 500 <= stored_preset({}).high_water <= 1_000_000


@pytest.mark.parametrize(("words", "marks"), [(10, []), (2_000, [0, 1])])
def test_a_beginning_too_short_to_be_kept_is_not_marked(words: int, marks: list[int]) -> None:
    entry = replace(ENTRY, model_id="claude-sonnet-4-5")  # keeps 1,024 tokens and more
    said = HistoryMessage(id=new_id(), role="user", content="Hello", tokens=1)
    plan = plan_context(
        system_prompt="word " * words,
        history=[said],
        policy=policy_of(entry),
        count_tokens=lambda text: len(text.split()),
    )
    assert plan.breakpoints == (0, 1)
    assert list(_worth_marking(plan, entry)) == marks
