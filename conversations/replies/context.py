"""The request for a running reply: what was claimed with it, counted for a model, planned, completed by recall."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from conversations.catalog import ModelEntry
from conversations.context.caching import rules_for
from conversations.context.cut import Cut
from conversations.context.manifest import Figures
from conversations.context.plan import (
    ContextPlan,
    Continuation,
    HistoryMessage,
    RecallWanted,
    plan_context,
)
from conversations.context.policy import Policy
from conversations.context.view import Background, MemoryItem, MemoryKind, Recalled, Summary
from conversations.database import Pool
from conversations.kept_places import KeptPlaces
from conversations.llm import known_models
from conversations.llm.tokens import COUNTED_AT_ONCE, count_tokens, is_scaled, kept_tokens, recounted, scaled
from conversations.llm.types import CompletionRequest
from conversations.policies import policy_of
from conversations.retrieval import recall

from .claims import Claim, Known, Remembered, Said, Summed

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Longer than this nobody waits for what was said earlier: the reply goes on without.
RECALL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What is kept of a plan once its request is on its way."""

    input_tokens: int  #: our own count
    cut: Cut
    compaction_due: bool
    figures: Figures

    @classmethod
    def of(cls, plan: ContextPlan) -> Sent:
        return cls(
            input_tokens=plan.input_tokens,
            cut=plan.cut,
            compaction_due=plan.compaction_due,
            figures=plan.figures,
        )


class Requests:
    """Plans the requests for one reply: usually one, another for each new try."""

    def __init__(self, claim: Claim, known: Known, pool: Pool, kept_places: KeptPlaces | None = None) -> None:
        self.claim = claim
        self.known = known
        self.pool = pool
        self.kept_places = kept_places
        self.earlier_tokens = known.path_tokens - known.history[-1].tokens  #: of the path before the question
        self._asked: RecallWanted | None = None
        self._found: list[Recalled] = []
        #: What recall did for the last plan: milliseconds and messages found, or why it was not available.
        self._recalling: dict[str, Any] | None = None

    async def plan(self, entry: ModelEntry, *, share: float = 1.0) -> ContextPlan:
        """A request for this model in `share` of its window. Raises NothingToAnswer and DoesNotFit.

        Recall is asked if something is left out; without its answer the plan is what it would be without recall.
        """
        policy = policy_of(entry, self.claim.preset, reply_tokens=self.claim.reply_tokens, share=share)
        planned = await self._where(entry, partial(self._with_background, entry, policy))
        plan = await self._where(entry, planned)
        if plan.recall_wanted is None:
            self._recalling = None
            return plan
        await self._recall(plan.recall_wanted, policy)
        if not self._found:
            return plan
        found = [replace(one, message=_counted(one.message, entry)) for one in self._found]
        return await self._where(entry, partial(planned, recalled=found))

    def manifest(self, entry: ModelEntry, plan: ContextPlan, max_tokens: int) -> dict[str, Any]:
        """What the model saw, on record with its attempt. What it cost by which price is on record with its hold.

        So is the bound of the answer, if less fits in the budget than these `max_tokens`.
        """
        return plan.manifest() | {
            "recall": self._recalling,
            "preset": self.claim.preset.name,
            "call": {
                "model": entry.model_id,
                "max_tokens": max_tokens,
                "temperature": self._temperature(entry),
            },
        }

    def request(self, entry: ModelEntry, plan: ContextPlan, max_tokens: int) -> CompletionRequest:
        return CompletionRequest(
            model_id=entry.model_id,
            messages=plan.messages,
            max_tokens=max_tokens,
            temperature=self._temperature(entry),
            breakpoints=tuple(_worth_marking(plan, entry)),
            cache_key=self.claim.conversation_id.hex,
        )

    def _temperature(self, entry: ModelEntry) -> float | None:
        return self.claim.temperature if entry.supports_temperature else None

    def forget(self) -> None:
        """Let go of all texts: after the first word there is no other try."""
        self.known = replace(self.known, history=(), memory=(), summaries=(), recalled_before=())
        self._found = []

    async def _where(self, entry: ModelEntry, work: Callable[[], T]) -> T:
        """On the event loop, unless a text is long: to count it or to cut it would hold up the other replies."""
        texts = (
            self.claim.system_prompt,
            self.claim.continued_text,
            *(one.content for one in self.known.history),
        )
        if is_scaled(entry.model_id) and max(map(len, texts)) <= COUNTED_AT_ONCE:
            return work()
        return await asyncio.to_thread(work)

    def _with_background(self, entry: ModelEntry, policy: Policy) -> Callable[..., ContextPlan]:
        """The planning of all that was claimed, but for what is recalled."""
        known, model_id, text = self.known, entry.model_id, self.claim.continued_text
        prefill = known_models.lookup(model_id).supports_prefill
        background = Background(
            cut=known.cut,
            memory=[_remembered(item, model_id) for item in known.memory],
            summaries=[_summed(summary, model_id) for summary in known.summaries],
            recalled_before=[_as_history(said, model_id) for said in known.recalled_before],
            path_messages=known.path_messages,
            path_tokens=scaled(known.path_tokens, model_id),
            cache_is_cold=_is_cold(known.cut_age, model_id),
        )
        planned = partial(
            plan_context,
            system_prompt=self.claim.system_prompt,
            history=[_as_history(said, model_id) for said in _in_view(known, policy)],
            policy=policy,
            count_tokens=partial(count_tokens, model_id=model_id),
            continuation=Continuation(text=text, prefill=prefill) if text else None,
        )

        def plan(recalled: Sequence[Recalled] = ()) -> ContextPlan:
            return planned(background=replace(background, recalled=recalled) if recalled else background)

        return plan

    async def _recall(self, wanted: RecallWanted, policy: Policy) -> None:
        """Ask what was said earlier, once: not again for another try that wants the same, nor if it was not there."""
        was_away = self._recalling is not None and "unavailable" in self._recalling
        if was_away or wanted == self._asked:
            return
        self._asked, self._found = wanted, []
        began = time.perf_counter()
        self._recalling = {}
        try:
            async with asyncio.timeout(RECALL_SECONDS):
                self._found = await recall(
                    self.pool,
                    conversation_id=self.claim.conversation_id,
                    leaf_id=self.claim.question_id,
                    question=self.known.history[-1].content,
                    room=wanted.room,
                    before=wanted.before,
                    skip={*wanted.skip, *self.known.forgotten},
                    overhead=policy.message_overhead,
                    kept=self.kept_places,
                )
        except Exception as error:
            # Its message may hold what was asked.
            self._recalling["unavailable"] = type(error).__name__
            logger.warning("reply %s goes on without recall: %s", self.claim.reply_id, type(error).__name__)
        self._recalling |= {
            "ms": round((time.perf_counter() - began) * 1000, 1),
            "found": len(self._found),
        }


def _in_view(known: Known, policy: Policy) -> Sequence[Said]:
    """Of the path what a plan needs: all since the last request began, or as much as this policy looks at."""
    history = known.history
    cut = known.cut if policy.strategy.is_append_only else None
    if cut is not None and history[0].id == cut.first_message_id:
        return history
    total = 0
    for place in range(len(history) - 2, -1, -1):
        if total > policy.view_tokens:
            return history[place + 1 :]
        total += min(history[place].tokens, policy.view_tokens // 2)
    return history


def _is_cold(cut_age: float | None, model_id: str) -> bool:
    """Whether the provider has forgotten the request before this one, by its own rules; False where none are known."""
    rules = rules_for(model_id)
    return cut_age is not None and rules is not None and cut_age > rules.lifetime


def _worth_marking(plan: ContextPlan, entry: ModelEntry) -> Iterator[int]:
    """The break points of a plan whose prefix is long enough for this model's provider to keep it."""
    least = known_models.min_cacheable_prefix(entry.model_id) or 0
    number, tokens, role = -1, 0, ""
    ends: dict[int, int] = {}
    for piece in plan.pieces:
        number += piece.role != role
        role, tokens = piece.role, tokens + piece.tokens
        ends[number] = tokens
    return (point for point in plan.breakpoints if ends[point] >= least)


def _as_history(said: Said, model_id: str) -> HistoryMessage:
    """A message with its tokens for the model that is to read it now."""
    return HistoryMessage(
        id=said.id,
        role=said.role,
        content=said.content,
        tokens=recounted(said.content, said.tokens, model_id),
        is_set_aside=said.is_set_aside,
        created_at=said.created_at,
    )


def _counted(message: HistoryMessage, entry: ModelEntry) -> HistoryMessage:
    return replace(message, tokens=recounted(message.content, message.tokens, entry.model_id))


def _remembered(item: Remembered, model_id: str) -> MemoryItem:
    return MemoryItem(
        id=item.id,
        kind=MemoryKind(item.kind),
        text=item.text,
        tokens=recounted(item.text, item.tokens or kept_tokens(item.text), model_id),
        is_pinned=item.is_pinned,
        is_superseded=item.is_superseded,
        source_id=item.source_id,
    )


def _summed(summary: Summed, model_id: str) -> Summary:
    return Summary(
        id=summary.id,
        version=summary.version,
        text=summary.text,
        tokens=recounted(summary.text, summary.tokens or kept_tokens(summary.text), model_id),
        covers_until=summary.covers_until,
        covered_messages=summary.covered_messages,
        acts_at_once=summary.acts_at_once,
    )
