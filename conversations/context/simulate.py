"""What a conversation would have cost, and kept, under a policy and a provider's cache rules. Nobody is called.

`replay` plans each turn as it would have been planned; `bill` prices the requests for one model. Replies have the
length they had, and the summaries that would have been written are stand-ins of their greatest length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from uuid import UUID, uuid5

from conversations.llm.types import Usage

from .caching import CacheRules, Priced
from .cut import Cut
from .layout import Piece
from .plan import ContextPlan, RecallWanted, Start, plan_context
from .policy import MESSAGE_OVERHEAD, Policy
from .truncate import CountTokens
from .view import Background, HistoryMessage, MemoryItem, Recalled, Summary

#: What an extraction of facts writes, at most.
EXTRACTION_TOKENS = 300

#: What finds, for a new message, what helps with it in the path before the transcript.
Recall = Callable[[HistoryMessage, Sequence[HistoryMessage], RecallWanted], Sequence[Recalled]]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message and its answer as they were."""

    question: HistoryMessage
    answer: HistoryMessage | None = None
    cites: tuple[UUID, ...] = ()  #: earlier messages that a good answer needs
    learned: tuple[MemoryItem, ...] = ()  #: what was remembered after it


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of a replay, as its bill needs it."""

    start: Start
    input_tokens: int
    repeated_tokens: int  #: that the request before began with, too
    marks: tuple[int, ...]  #: tokens before each break point
    output_tokens: int
    written_after: Usage | None  #: the call that wrote a summary or memory lines after it
    cited: int
    present: int  #: of those, whole in the request
    at: datetime | None


@dataclass(frozen=True, kw_only=True)
class SimulatedTurn:
    number: int  #: from 1
    start: Start
    usage: Usage
    cost: int  #: nano-USD, without the background
    background_cost: int  #: nano-USD of the summary written after it
    cited: int
    present: int


@dataclass(frozen=True, kw_only=True)
class Simulation:
    turns: tuple[SimulatedTurn, ...]

    @property
    def input_tokens(self) -> int:
        return sum(turn.usage.input_tokens for turn in self.turns)

    @property
    def cached_tokens(self) -> int:
        return sum(turn.usage.cached_tokens for turn in self.turns)

    @property
    def cost(self) -> int:
        """Nano-USD, summaries included."""
        return sum(turn.cost + turn.background_cost for turn in self.turns)

    @property
    def cache_share(self) -> float:
        return self.cached_tokens / self.input_tokens if self.input_tokens else 0.0

    @property
    def retention(self) -> float | None:
        """Share of the messages that later turns needed and had; None: nothing was cited."""
        cited = sum(turn.cited for turn in self.turns)
        return sum(turn.present for turn in self.turns) / cited if cited else None

    @property
    def cuts(self) -> int:
        return sum(turn.start in (Start.FULL, Start.COLD) for turn in self.turns)

    @property
    def median_tokens(self) -> int:
        return int(median(turn.usage.input_tokens for turn in self.turns)) if self.turns else 0

    @property
    def most_tokens(self) -> int:
        return max((turn.usage.input_tokens for turn in self.turns), default=0)

    def costs_so_far(self) -> list[int]:
        """Nano-USD up to each turn."""
        total, sums = 0, []
        for turn in self.turns:
            total += turn.cost + turn.background_cost
            sums.append(total)
        return sums


def simulate(
    turns: Sequence[Turn],
    *,
    policy: Policy,
    price: Priced,
    rules: CacheRules | None,
    count_tokens: CountTokens,
    system_prompt: str = "",
    recall: Recall | None = None,
    background_price: Priced | None = None,
) -> Simulation:
    """One policy and one model. For several models with the same lifetime of their cache, replay once and bill each."""
    requests = replay(
        turns,
        policy=policy,
        count_tokens=count_tokens,
        system_prompt=system_prompt,
        recall=recall,
        cache_lifetime=rules.lifetime if rules else None,
    )
    return bill(requests, price=price, rules=rules, background_price=background_price)


def replay(
    turns: Sequence[Turn],
    *,
    policy: Policy,
    count_tokens: CountTokens,
    system_prompt: str = "",
    recall: Recall | None = None,
    cache_lifetime: int | None = None,
) -> list[Request]:
    """The requests of a conversation under a policy."""
    return list(_Replay(policy, count_tokens, system_prompt, recall, cache_lifetime).requests(turns))


def replay_and_ask(
    turns: Sequence[Turn],
    questions: Sequence[Turn],
    *,
    policy: Policy,
    count_tokens: CountTokens,
    system_prompt: str = "",
    recall: Recall | None = None,
    cache_lifetime: int | None = None,
) -> tuple[list[Request], list[float]]:
    """The requests of a conversation, and what share of its `cites` each question, asked next, would find."""
    replaying = _Replay(policy, count_tokens, system_prompt, recall, cache_lifetime)
    requests = list(replaying.requests(turns))
    return requests, [replaying.present_for(question) for question in questions]


def full_history(
    turns: Sequence[Turn], *, system_tokens: int = 0, overhead: int = MESSAGE_OVERHEAD
) -> list[Request]:
    """The requests that send everything each time, whatever the window. Bill them without rules for the naive price."""
    total = system_tokens + overhead if system_tokens else 0
    system, requests, before = total, [], 0
    for turn in turns:
        total += turn.question.tokens + overhead
        requests.append(
            Request(
                start=Start.EXTENDS if before else Start.FIRST,
                input_tokens=total,
                repeated_tokens=before,
                marks=(system, total),
                output_tokens=turn.answer.tokens if turn.answer else 0,
                written_after=None,
                cited=len(turn.cites),
                present=len(turn.cites),
                at=turn.question.created_at,
            )
        )
        before = total
        total += turn.answer.tokens + overhead if turn.answer else 0
    return requests


def bill(
    requests: Sequence[Request],
    *,
    price: Priced,
    rules: CacheRules | None,
    background_price: Priced | None = None,
) -> Simulation:
    """What the requests cost with a model's price and its provider's cache."""
    turns = []
    before: Request | None = None
    for number, request in enumerate(requests, 1):
        cached, written = _cached(request, before, rules) if rules else (0, 0)
        usage = Usage(
            input_tokens=request.input_tokens,
            cached_tokens=cached,
            cache_write_tokens=written,
            output_tokens=request.output_tokens,
        )
        after = request.written_after
        turns.append(
            SimulatedTurn(
                number=number,
                start=request.start,
                usage=usage,
                cost=price.cost(usage),
                background_cost=(background_price or price).cost(after) if after else 0,
                cited=request.cited,
                present=request.present,
            )
        )
        before = request
    return Simulation(turns=tuple(turns))


def _cached(request: Request, before: Request | None, rules: CacheRules) -> tuple[int, int]:
    """Tokens read from the provider's cache, and tokens written to it."""
    known = 0
    if before is not None and not _has_expired(request, before, rules.lifetime):
        known = request.repeated_tokens
        if rules.needs_marks:
            known = max((mark for mark in before.marks if mark <= known), default=0)
    read = known // rules.step * rules.step if known >= rules.minimum else 0
    if not rules.bills_writes:
        return read, 0
    end = max(request.marks, default=0) if rules.needs_marks else request.input_tokens
    return read, max(end - read, 0) if end >= rules.minimum else 0


def _has_expired(request: Request, before: Request, lifetime: int) -> bool:
    return bool(request.at and before.at and (request.at - before.at).total_seconds() > lifetime)


class _Replay:
    """The runner's part, from memory: it keeps the path and hands each plan what the one before left."""

    def __init__(
        self,
        policy: Policy,
        count_tokens: CountTokens,
        system_prompt: str,
        recall: Recall | None,
        cache_lifetime: int | None,
    ) -> None:
        self.policy, self.count, self.system_prompt, self.recall = policy, count_tokens, system_prompt, recall
        self.lifetime = cache_lifetime
        self.path: list[HistoryMessage] = []
        self.places: dict[UUID, int] = {}
        self.path_tokens = 0
        self.memory: list[MemoryItem] = []
        self.summaries: dict[UUID, Summary] = {}
        self.newest: Summary | None = None
        self.cut: Cut | None = None

    def requests(self, turns: Sequence[Turn]) -> Iterator[Request]:
        before: tuple[Piece, ...] = ()
        last_at: datetime | None = None
        for turn in turns:
            self._say(turn.question)
            plan = self._plan(last_at)
            self.cut = plan.cut
            if turn.answer:
                self._say(turn.answer)
            self.memory.extend(turn.learned)
            whole = _whole(plan)
            yield Request(
                start=plan.start,
                input_tokens=plan.input_tokens,
                repeated_tokens=_repeated(before, plan.pieces),
                marks=_marks(plan),
                output_tokens=turn.answer.tokens if turn.answer else 0,
                written_after=self._compact(plan),
                cited=len(turn.cites),
                present=sum(pk in whole for pk in turn.cites),
                at=turn.question.created_at,
            )
            before, last_at = plan.pieces, turn.question.created_at

    def present_for(self, turn: Turn) -> float:
        """The share of what a question cites that its request would hold, whole. Nothing is remembered of it."""
        if not turn.cites:
            return 1.0
        self._say(turn.question)
        try:
            whole = _whole(self._plan(None))
        finally:
            self._unsay(turn.question)
        return sum(pk in whole for pk in turn.cites) / len(turn.cites)

    def _unsay(self, message: HistoryMessage) -> None:
        self.path.pop()
        del self.places[message.id]
        self.path_tokens -= message.tokens

    def _say(self, message: HistoryMessage) -> None:
        self.places[message.id] = len(self.path)
        self.path.append(message)
        self.path_tokens += message.tokens

    def _plan(self, last_at: datetime | None) -> ContextPlan:
        question = self.path[-1]
        is_cold = bool(
            self.lifetime
            and last_at
            and question.created_at
            and (question.created_at - last_at).total_seconds() > self.lifetime
        )
        standing = self.cut.summary_id if self.cut else None
        background = Background(
            cut=self.cut,
            memory=self.memory,
            summaries=[
                *([self.summaries[standing]] if standing else ()),
                *([self.newest] if self.newest and self.newest.id != standing else ()),
            ],
            recalled_before=[
                self.path[self.places[pk]] for pk in (self.cut.recalled_ids if self.cut else ())
            ],
            path_messages=len(self.path),
            path_tokens=self.path_tokens,
            cache_is_cold=is_cold,
        )
        plan = self._planned(background)
        if self.recall and (wanted := plan.recall_wanted):
            found = self.recall(question, self.path[: self.places[wanted.before]], wanted)
            plan = self._planned(replace(background, recalled=found))
        return plan

    def _planned(self, background: Background) -> ContextPlan:
        return plan_context(
            system_prompt=self.system_prompt,
            history=self._view(),
            policy=self.policy,
            count_tokens=self.count,
            background=background,
        )

    def _view(self) -> list[HistoryMessage]:
        """What a plan is given of the path."""
        first = 0
        if self.policy.strategy.is_append_only and self.cut:
            first = self.places[self.cut.first_message_id]
        tokens, start = 0, len(self.path)
        while start > first and tokens <= self.policy.view_tokens:
            start -= 1
            tokens += self.path[start].tokens
        return self.path[start:]

    def _compact(self, plan: ContextPlan) -> Usage | None:
        """The call that writes the next summary and memory lines when they are due."""
        if not plan.compaction_due:
            return None
        old = self.newest
        covered = self.places[old.covers_until] + 1 if old else 0
        segment = sum(message.tokens + self.policy.message_overhead for message in self.path[covered:])
        output = EXTRACTION_TOKENS if self.policy.uses_memory else 0
        if self.policy.uses_summary:
            output += self.policy.summary_tokens
        version = old.version + 1 if old else 1
        last = self.path[-1].id
        self.newest = Summary(
            id=uuid5(last, "summary"),
            version=version,
            text=f"(summary {version})",
            tokens=self.policy.summary_tokens,
            covers_until=last,
            covered_messages=len(self.path),
        )
        self.summaries[self.newest.id] = self.newest
        return Usage(input_tokens=segment + (old.tokens if old else 0), output_tokens=output)


def _whole(plan: ContextPlan) -> set[UUID]:
    """What is in a request, and no excerpt."""
    return {pk for section in plan.sections for pk in section.ids}.difference(plan.excerpted)


def _repeated(before: Sequence[Piece], now: Sequence[Piece]) -> int:
    """Tokens at the beginning of both requests."""
    tokens = 0
    for a, b in zip(before, now, strict=False):
        if a.role != b.role or a.text != b.text:
            break
        tokens += b.tokens
    return tokens


def _marks(plan: ContextPlan) -> tuple[int, ...]:
    system = sum(piece.tokens for piece in plan.pieces if piece.role == "system")
    is_system = [plan.messages[index].role == "system" for index in plan.breakpoints]
    return tuple(system if yes else plan.input_tokens for yes in is_system)
