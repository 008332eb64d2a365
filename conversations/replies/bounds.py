"""The bounds of one call: how much a model may write, and what it can cost before its request is planned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import UUID

from conversations.budgets import Ask
from conversations.catalog import ModelEntry
from conversations.context.bound import NOTHING_BESIDE, Beside, most_input_tokens
from conversations.context.plan import GO_ON
from conversations.context.policy import Policy
from conversations.llm.tokens import (
    COUNTED_AT_ONCE,
    USUAL_MODEL,
    count_tokens,
    count_tokens_aside,
    is_exact,
    scaled,
)
from conversations.models import Purpose

#: Characters: shorter pieces would be counted as more tokens than their text has in one.
LEAST_PIECE = 200

#: An answer this many times as long as it may be is one that its provider does not bound. Where its tokens are
#: estimated, an honest one may seem to be too long in a rare script.
TOO_LONG, SURELY_TOO_LONG = 1.25, 4.0


class Allowance:
    """Whether an answer is far longer than its hold pays for. Counted piece by piece, and only when it may be."""

    def __init__(self, max_tokens: int, model_id: str) -> None:
        self._most = int(max_tokens * (TOO_LONG if is_exact(model_id) else SURELY_TOO_LONG))
        self._counted = 0
        self.uncounted = 0  #: characters

    def add(self, text: str) -> bool:
        """Note a piece; true when it is time to ask whether the bound is passed."""
        self.uncounted += len(text)
        return self.uncounted > min(max(self._most - self._counted, LEAST_PIECE), COUNTED_AT_ONCE)

    async def is_passed(self, said: str) -> bool:
        """Count what is `uncounted`, the last characters of the answer."""
        self.uncounted = 0
        self._counted += await count_tokens_aside(said, USUAL_MODEL)
        return self._counted > self._most


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
