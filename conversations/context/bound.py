"""How many tokens a request can have at most, before it is planned: what its hold must pay for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import strategies
from .allocate import Meter
from .draft import recalled_overhead
from .layout import CONSTRAINTS, LINE_OVERHEAD, MEMORY, SUMMARY
from .policy import Policy
from .truncate import CountTokens


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a request may show beside the path: sums of what `Background` will hold."""

    #: Remembered ones, constraints among them, superseded ones too that the last request showed.
    lines: int = 0
    line_tokens: int = 0  #: of their texts
    constraints: int = 0
    constraint_tokens: int = 0
    summary_tokens: int = 0  #: of the longest summary in force
    inserts: int = 0  #: places of the last request where something was put in before a message
    #: The last request showed less than the path, so that messages of it may be recalled.
    was_cut: bool = False

    def with_lines(self, lines: Sequence[tuple[int, bool]]) -> Beside:
        """The same with more remembered lines: the tokens of each, and whether it is a constraint."""
        tokens = [count for count, _ in lines]
        rules = [count for count, is_constraint in lines if is_constraint]
        return replace(
            self,
            lines=self.lines + len(tokens),
            line_tokens=self.line_tokens + sum(tokens),
            constraints=self.constraints + len(rules),
            constraint_tokens=self.constraint_tokens + sum(rules),
        )


NOTHING_BESIDE = Beside()


def most_input_tokens(
    policy: Policy,
    *,
    system_tokens: int,
    path_tokens: int,
    path_messages: int,
    question_tokens: int,
    begun_tokens: int = 0,
    beside: Beside = NOTHING_BESIDE,
    count_tokens: CountTokens = len,
) -> int:
    """Tokens of a plan for a question at most, by `plan_context`'s own count.

    `path_tokens` and `path_messages` sum up the path from the root to the question, itself included. `begun_tokens` are
    those of a text to go on from, with all that stands around it. A path that does not pass the high-water mark is sent
    whole, with all that there is beside it. Of a longer one at most as much is, or what a cut leaves and what is
    recalled, and always the question.
    """
    meter = Meter(count=count_tokens, overhead=policy.message_overhead)
    lead = begun_tokens + (system_tokens + meter.overhead if system_tokens else 0)
    fixed = lead + _block(CONSTRAINTS, beside.constraints, beside.constraint_tokens, meter)
    high = strategies.high_water(policy, fixed)

    whole = lead + path_tokens + meter.overhead * path_messages + _beside(beside, meter)
    if policy.recall_tokens and (beside.was_cut or whole + policy.recall_tokens > policy.soft_mark * high):
        whole += recalled_overhead(meter) * (beside.inserts + 1)

    rooms = strategies.rooms_after_cut(policy, top=fixed, messages=path_messages)
    background = rooms.background if beside.lines or policy.uses_summary else 0
    left = fixed + max(rooms.whole, background + question_tokens + meter.overhead)
    left = max(left, min(left + policy.recall_tokens, policy.ceiling))
    return min(whole, max(high, left), policy.input_limit)


def _beside(beside: Beside, meter: Meter) -> int:
    """All lines of memory and the summary. Constraints and facts have a block each on top and in each insert."""
    kinds = (beside.constraints > 0) + (beside.lines > beside.constraints)
    blocks = min(beside.lines, kinds * (beside.inserts + 2))
    header = meter.overhead + max(meter.count(CONSTRAINTS), meter.count(MEMORY)) if blocks else 0
    tokens = beside.line_tokens + LINE_OVERHEAD * beside.lines + header * blocks
    if beside.summary_tokens:
        tokens += meter.overhead + meter.count(SUMMARY) + beside.summary_tokens
    return tokens


def _block(header: str, lines: int, tokens: int, meter: Meter) -> int:
    return meter.overhead + meter.count(header) + tokens + LINE_OVERHEAD * lines if lines else 0
