"""The bounds of one call: how much a model is shown, how much it may write, and what that can cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

from django.conf import settings

from conversations.budgets import Ask
from conversations.catalog import ModelEntry
from conversations.context.bound import NOTHING_BESIDE, Beside, most_input_tokens
from conversations.context.plan import GO_ON
from conversations.context.policy import Policy
from conversations.context.presets import CHAT, RANGES, Preset
from conversations.llm.tokens import (
    COUNTED_AT_ONCE,
    USUAL_MODEL,
    count_tokens,
    count_tokens_aside,
    is_exact,
    scaled,
)
from conversations.models import Conversation, Purpose

#: Characters: shorter pieces would be counted as more tokens than their text has in one.
LEAST_PIECE = 200

#: An answer this many times as long as it may be is one that its provider does not bound. Where its tokens are
#: estimated, an honest one may seem to be too long in a rare script.
TOO_LONG, SURELY_TOO_LONG = 1.25, 4.0

#: Pieces of an answer that are kept as they came.
MOST_PIECES = 64


class Allowance:
    """Whether an answer is far longer than its hold pays for. Counted piece by piece, and only when it may be."""

    def __init__(self, max_tokens: int, model_id: str) -> None:
        self._most = int(max_tokens * (TOO_LONG if is_exact(model_id) else SURELY_TOO_LONG))
        self._counted = 0
        self._pieces: list[str] = []
        self._length = 0  #: of the pieces, in characters

    def add(self, text: str) -> bool:
        """Take in a piece; true when it is time to ask whether the bound is passed."""
        self._pieces.append(text)
        if len(self._pieces) == MOST_PIECES:
            self._pieces = ["".join(self._pieces)]  # a piece is dearer than its letters
        self._length += len(text)
        return self._length > min(max(self._most - self._counted, LEAST_PIECE), COUNTED_AT_ONCE)

    async def is_passed(self) -> bool:
        self._counted += await count_tokens_aside("".join(self._pieces), USUAL_MODEL)
        self._pieces.clear()
        self._length = 0
        return self._counted > self._most


def preset_of(chosen: Conversation | Mapping[str, Any]) -> Preset:
    """What a conversation's model is shown and how it answers: its own preset as far as it can be read.

    The conversation's own columns come before it: its prompt, its temperature, and the length of its replies.
    """
    data = chosen.preset if isinstance(chosen, Conversation) else chosen
    return Preset.stored(data) if data else _usual(settings.HIGH_WATER, settings.DEFAULT_REPLY_TOKENS)


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
    preset = preset or preset_of({})
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


def _within(name: str, value: int) -> int:
    allowed = RANGES[name]
    return int(min(max(value, allowed.least), allowed.most))


def policy_in(conversation: Conversation, entry: ModelEntry) -> Policy:
    """How much of this conversation a model is shown, and what it may write."""
    return policy_of(entry, preset_of(conversation), reply_tokens=conversation.reply_tokens)


def reply_tokens(conversation: Conversation, entry: ModelEntry) -> int:
    """The bound of a reply: the conversation's wish, a quarter of its budget or window, the model's own maximum."""
    return policy_in(conversation, entry).reply_tokens


def ask_before(
    entry: ModelEntry,
    policy: Policy,
    *,
    user_id: int,
    conversation_id: UUID | None,
    reply_id: UUID | None,
    max_tokens: int,
    system_prompt: str,
    earlier_tokens: int,
    path_messages: int,
    question_tokens: int,
    continued: str = "",
    beside: Beside = NOTHING_BESIDE,
) -> Ask:
    """What a reply needs before its request is planned: it can only turn out smaller. Raises NoPrice.

    `earlier_tokens` are those kept of all messages before the question, `question_tokens` its own for this model;
    `path_messages` counts it, too. `beside` has sums of kept tokens.
    """
    count = partial(count_tokens, model_id=entry.model_id)
    # Each message is rounded up by itself when the request is planned.
    earlier = scaled(earlier_tokens, entry.model_id) + max(path_messages - 1, 0)
    most = most_input_tokens(
        policy,
        system_tokens=count(system_prompt) if system_prompt.strip() else 0,
        path_tokens=earlier + question_tokens,
        path_messages=path_messages,
        question_tokens=question_tokens,
        begun_tokens=count(continued + GO_ON) + 2 * policy.message_overhead if continued else 0,
        beside=_read_by(entry, beside),
        count_tokens=count,
    )
    return Ask(
        user_id=user_id,
        conversation_id=conversation_id,
        reply_id=reply_id,
        purpose=Purpose.REPLY,
        caused_by=user_id,
        model=entry.id,
        price=entry.known_price(),
        input_tokens=most,
        max_tokens=max_tokens,
    )


def _read_by(entry: ModelEntry, beside: Beside) -> Beside:
    """The same in tokens of this model, each line rounded up by itself."""
    if not beside.lines and not beside.summary_tokens:
        return beside
    return replace(
        beside,
        line_tokens=scaled(beside.line_tokens, entry.model_id) + beside.lines,
        constraint_tokens=scaled(beside.constraint_tokens, entry.model_id) + beside.constraints,
        summary_tokens=scaled(beside.summary_tokens, entry.model_id),
    )
