"""The request for a running reply: what was claimed with it, counted for a model, planned, completed by recall."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from conversations.catalog import ModelEntry
from conversations.context.caching import rules_for
from conversations.context.cut import Cut
from conversations.context.manifest import Figures
from conversations.context.plan import (
    ContextPlan,
    Continuation,
    DoesNotFit,
    HistoryMessage,
    NothingToAnswer,
    Planner,
    RecallWanted,
)
from conversations.context.policy import Policy
from conversations.context.view import Background, MemoryItem, MemoryKind, Recalled, Summary
from conversations.database import Pool
from conversations.kept_places import KeptPlaces
from conversations.llm import known_models
from conversations.llm.tokens import COUNTED_AT_ONCE, count_tokens, is_scaled, kept_tokens, recounted, scaled
from conversations.llm.types import CompletionRequest
from conversations.policies import policy_of
from conversations.retrieval import Search, choose, look

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
        self._ahead: tuple[ModelEntry, ContextPlan] | None = None
        self._asked: RecallWanted | None = None
        self._found: list[Recalled] = []
        self._looking: asyncio.Task[Search | None] | None = None
        #: What recall did for the last plan: milliseconds that it was waited for and messages found, or why it was
        #: not available.
        self._recalling: dict[str, Any] | None = None

    async def plan(self, entry: ModelEntry, *, share: float = 1.0) -> ContextPlan:
        """A request for this model in `share` of its window. Raises NothingToAnswer and DoesNotFit.

        Recall is asked if something is left out; without its answer the plan is what it would be without recall.
        """
        if share == 1.0 and self._ahead is not None and self._ahead[0] is entry:
            plan, self._ahead = self._ahead[1], None
            return plan
        policy = policy_of(entry, self.claim.preset, reply_tokens=self.claim.reply_tokens, share=share)
        planner, wanted = await self._where(entry, partial(self._begun, entry, policy))
        found: list[Recalled] = []
        if wanted is None:
            self._recalling = None
        else:
            await self._recall(wanted, policy)
            found = [replace(one, message=_counted(one.message, entry)) for one in self._found]
        return await self._where(entry, partial(planner.plan, recalled=found))

    def plan_ahead(self, entry: ModelEntry) -> None:
        """Plan now what `plan` will be asked for, if that is quick: nothing is recalled, and no text is long."""
        if self._is_long(entry):
            return
        policy = policy_of(entry, self.claim.preset, reply_tokens=self.claim.reply_tokens)
        with suppress(NothingToAnswer, DoesNotFit):
            planner, wanted = self._begun(entry, policy)
            if wanted is None:
                self._ahead = entry, planner.plan()

    def look_back(self) -> None:
        """Begin to look for what was said before all that is known here: a plan will ask for it, and soon."""
        cut = self.known.cut
        is_whole = self.known.path_messages <= len(self.known.history)
        is_asked_again = cut is not None and cut.insert_before(self.claim.question_id)
        if self.claim.preset.recalls and not is_whole and not is_asked_again:
            self._look()

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
        self._found, self._looking, self._ahead = [], None, None

    async def _where(self, entry: ModelEntry, work: Callable[[], T]) -> T:
        """On the event loop, unless a text is long: to count it or to cut it would hold up the other replies."""
        return await asyncio.to_thread(work) if self._is_long(entry) else work()

    def _is_long(self, entry: ModelEntry) -> bool:
        texts = (
            self.claim.system_prompt,
            self.claim.continued_text,
            *(one.content for one in self.known.history),
        )
        return not is_scaled(entry.model_id) or max(map(len, texts)) > COUNTED_AT_ONCE

    def _begun(self, entry: ModelEntry, policy: Policy) -> tuple[Planner, RecallWanted | None]:
        """A plan of all that was claimed, and what is to be recalled for it."""
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
        planner = Planner(
            system_prompt=self.claim.system_prompt,
            history=[_as_history(said, model_id) for said in _in_view(known, policy)],
            policy=policy,
            count_tokens=partial(count_tokens, model_id=model_id),
            continuation=Continuation(text=text, prefill=prefill) if text else None,
            background=background,
        )
        return planner, planner.recall_wanted

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
                search = await self._look()
                if search is not None:
                    self._found = await choose(
                        self.pool,
                        search,
                        room=wanted.room,
                        last=self._depth_of(wanted.before) - 1,
                        skip={*wanted.skip, *self.known.forgotten},
                        overhead=policy.message_overhead,
                    )
        except Exception as error:
            # Its message may hold what was asked.
            self._recalling["unavailable"] = type(error).__name__
            logger.warning("reply %s goes on without recall: %s", self.claim.reply_id, type(error).__name__)
        self._recalling |= {
            "ms": round((time.perf_counter() - began) * 1000, 1),
            "found": len(self._found),
        }

    def _look(self) -> asyncio.Task[Search | None]:
        """The looking for what was said earlier, which is the same for each try."""
        if self._looking is None:
            cut = self.known.cut
            looking = look(
                self.pool,
                conversation_id=self.claim.conversation_id,
                leaf_id=self.claim.question_id,
                question=self.known.history[-1].content,
                skip={*(cut.recalled_ids if cut else ()), *self.known.forgotten},
                kept=self.kept_places,
            )
            self._looking = asyncio.create_task(looking)
            # If nobody asks for it, how it ended is nobody's concern.
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._looking

    def _depth_of(self, message_id: UUID) -> int:
        """Where a message of the history stands on its path."""
        later = [said.id for said in reversed(self.known.history)].index(message_id)
        return self.known.path_messages - later


def _in_view(known: Known, policy: Policy) -> Sequence[Said]:
    """Of the path what a plan needs: all since the last request began, or as much as this policy looks at."""
    history = known.history
    cut = known.cut if policy.strategy.is_append_only else None
    if cut is not None and history[0].id == cut.first_message_id:
        return history
    is_longer = known.path_tokens - history[-1].tokens > policy.view_tokens
    view, total = policy.cut_tokens if is_longer else policy.view_tokens, 0
    most = view // 5 if is_longer else view // 2
    for place in range(len(history) - 2, -1, -1):
        if total > view:
            return history[place + 1 :]
        if not history[place].is_set_aside:
            total += min(history[place].tokens, most)
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
