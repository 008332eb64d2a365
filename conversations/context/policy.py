"""How much of a conversation a model is shown, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

#: Tokens that a message costs beside its text, where a provider's own overhead is unknown.
MESSAGE_OVERHEAD = 10

#: Words that make a message important, unless a preset has others.
KEYWORDS = (
    "critical", "error", "urgent", "fix", "problem", "issue", "broken", "failing", "configuration", "deploy",
    "api", "authentication",
)  # fmt: skip

#: The share of what the reply leaves that a request may grow to: token counts are estimates for some models.
CEILING = 0.85

#: Tokens of request and reply together, for the strategies that have a fixed budget.
FIXED_BUDGET = 12_000


class Strategy(StrEnum):
    FULL = "full"  # everything, up to the budget
    SLIDING_WINDOW = "sliding_window"  # the last turns
    IMPORTANCE = "importance"  # what scores highest
    SUMMARY = "summary"  # a summary and the newest messages
    MEMORY = "memory"  # remembered facts and the newest messages
    ADAPTIVE = "adaptive"  # memory, summary, what was said since the last cut, and recalled messages

    @property
    def is_append_only(self) -> bool:
        """Whether a request extends the one before until a cut, which a provider's cache rewards."""
        return self not in (Strategy.SLIDING_WINDOW, Strategy.IMPORTANCE)

    @property
    def has_fixed_budget(self) -> bool:
        return self not in (Strategy.FULL, Strategy.ADAPTIVE)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A request grows to `high_water` and is then cut in one step to `low_water`.

    Between two cuts each request is a prefix of the next one, which is what a provider's cache rewards.
    """

    high_water: int  #: tokens of a request that cause a cut
    low_water: int  #: tokens that a cut leaves, recalled messages not counted
    window: int  #: tokens the model can read and write in one call
    reply_tokens: int  #: tokens kept free for the reply
    message_overhead: int = MESSAGE_OVERHEAD  #: tokens of a message beside its text
    strategy: Strategy = Strategy.ADAPTIVE
    model: str = ""  #: its id; another one is another cache
    budget: int | None = None  #: tokens for request and reply together, if fewer than the window
    uses_summary: bool = True
    uses_memory: bool = True  #: beside constraints, which are always in
    recall_tokens: int = 1_000  #: of recalled messages for each new message; 0: no recall
    last_turns: int = 8  #: of `sliding_window`
    newest_messages: int = 10  #: what `summary` and `memory` keep verbatim at a cut, at most
    latest_decisions: int = 5  #: remembered decisions that enter a request
    keywords: tuple[str, ...] = KEYWORDS
    soft_mark: float = 0.75  #: share of the high-water mark from which the next summary is prepared
    fold_at_least: int = 6  #: messages that a new summary is worth
    summary_tokens: int = 400  #: of one summary, at most
    refuses_overflow: bool = False  #: rather no reply than one to a part of the conversation

    @property
    def input_limit(self) -> int:
        """Tokens that a request may have, whatever else: budget or window less the reply."""
        whole = self.window if self.budget is None else min(self.budget, self.window)
        return max(whole - self.reply_tokens, 0)

    @property
    def ceiling(self) -> int:
        """Tokens that a request grows to at most, if its new message is not longer by itself."""
        return int(CEILING * self.input_limit)

    @property
    def view_tokens(self) -> int:
        """Tokens of the path, newest first, that a plan is given at most; append-only ones end at the last cut.

        Twice what it can show, because a message may be shown as an excerpt.
        """
        return 2 * (self.high_water if self.strategy.is_append_only else self.input_limit)

    @property
    def cut_tokens(self) -> int:
        """The same of a path that has more than `view_tokens`, and no cut: its request begins with one.

        A message that is shown as an excerpt takes a fifth of what a cut leaves, or more, and so it counts for no more.
        """
        if not self.strategy.is_append_only or self.strategy.has_fixed_budget:
            return self.view_tokens
        return self.low_water

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))  # all plain values: a deep copy would take as long as planning


def policy_for(
    *,
    window: int,
    reply_tokens: int,
    high_water: int = 16_000,
    strategy: Strategy = Strategy.ADAPTIVE,
    token_budget: int | None = None,
    cut_to_percent: int = 25,
    **numbers: Any,
) -> Policy:
    """A policy that fits into `window` tokens: never above 85 % of what the reply leaves.

    `reply_tokens` is what the call lets the model write. `token_budget` is for request and reply together; without
    one the fixed-budget strategies have 12,000 and the others the window. `numbers` are other fields of `Policy`.
    """
    budget = budget_of(strategy, window=window, token_budget=token_budget)
    policy = Policy(
        high_water=0,
        low_water=0,
        window=window,
        reply_tokens=reply_tokens,
        strategy=strategy,
        budget=budget,
        **(_parts(strategy) | numbers),
    )
    high = min(high_water, policy.ceiling) if strategy is Strategy.ADAPTIVE else policy.ceiling
    low = high * cut_to_percent // 100
    return replace(
        policy,
        high_water=high,
        low_water=low,
        recall_tokens=min(policy.recall_tokens, high // 4),
        # A summary is under a third of what there is for it: of a fixed budget, or of what a cut leaves.
        summary_tokens=min(policy.summary_tokens, (budget if strategy.has_fixed_budget else low) // 3),
    )


def budget_of(strategy: Strategy, *, window: int, token_budget: int | None) -> int:
    """Tokens of request and reply together."""
    if token_budget is None:
        token_budget = FIXED_BUDGET if strategy.has_fixed_budget else window
    return min(token_budget, window)


def _parts(strategy: Strategy) -> dict[str, Any]:
    """What a strategy puts before the transcript, unless a preset says otherwise."""
    return {
        "uses_summary": strategy in (Strategy.SUMMARY, Strategy.ADAPTIVE),
        "uses_memory": strategy in (Strategy.MEMORY, Strategy.ADAPTIVE),
        "recall_tokens": 1_000 if strategy is Strategy.ADAPTIVE else 0,
    }
