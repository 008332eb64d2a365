"""How much of a conversation its model is shown: what the conversation keeps of a preset, as numbers for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from django.conf import settings

from conversations.catalog import ModelEntry
from conversations.context.policy import Policy
from conversations.context.presets import CHAT, RANGES, Preset
from conversations.models import Conversation


def stored_preset(stored: Mapping[str, Any]) -> Preset:
    """What is stored with a conversation, as far as it can be read; the installation's numbers where nothing is.

    The conversation's own columns come before it: its prompt, its temperature, and the length of its replies.
    """
    return Preset.stored(stored) if stored else _usual(settings.HIGH_WATER, settings.DEFAULT_REPLY_TOKENS)


@lru_cache(maxsize=8)
def _usual(high_water: int, reply_tokens: int) -> Preset:
    return replace(
        CHAT,
        high_water=_within("high_water", high_water),
        reply_tokens=_within("reply_tokens", reply_tokens),
    )


def policy_of(
    entry: ModelEntry, preset: Preset | None = None, *, reply_tokens: int | None = None, share: float = 1.0
) -> Policy:
    """How much of a conversation this model is shown, in `share` of its window.

    `reply_tokens`: what the conversation wishes its replies to have at most, in place of the preset's number.
    """
    preset = preset or stored_preset({})
    wish = preset.reply_tokens if reply_tokens is None else reply_tokens
    high_water = min(preset.high_water, settings.LOCAL_HIGH_WATER if entry.is_local else preset.high_water)
    if wish != preset.reply_tokens:
        preset = replace(preset, reply_tokens=_within("reply_tokens", wish))
    if share < 1.0 and preset.token_budget:
        preset = replace(preset, token_budget=_within("token_budget", int(preset.token_budget * share)))
    return preset.policy(
        window=int(entry.context_window * share),
        max_output=min(entry.max_output, max(wish, 1)),
        model=entry.id,
        high_water=int(high_water * share),
    )


def policy_in(conversation: Conversation, entry: ModelEntry) -> Policy:
    """How much of this conversation a model is shown, and what it may write."""
    return policy_of(entry, stored_preset(conversation.preset), reply_tokens=conversation.reply_tokens)


def _within(name: str, value: int) -> int:
    allowed = RANGES[name]
    return int(min(max(value, allowed.least), allowed.most))
