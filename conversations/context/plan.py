"""What the model is shown for one reply: a pure function of the path, what is known beside it, and the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any
from uuid import UUID

from conversations.llm.types import ChatMessage

from . import strategies
from .allocate import Kept, Meter, from_question, pack
from .cut import Cut, Insert, key_of
from .draft import DoesNotFit as DoesNotFit
from .draft import (
    Draft,
    begun_sections,
    line_tokens,
    lines,
    recalled_overhead,
    summary_section,
    system_sections,
    total,
)
from .layout import GO_ON as GO_ON
from .layout import Kind, Piece, Section, Sources, joined, pieces
from .manifest import Figures, LeftOut, figures_of, left_out_of, manifest_json, request_digest
from .policy import Policy
from .truncate import CountTokens, span_within
from .view import NOTHING_MORE, Background, MemoryItem, Recalled
from .view import Continuation as Continuation
from .view import HistoryMessage as HistoryMessage


class NothingToAnswer(ValueError):
    """There is no message of a person to answer."""


@dataclass(frozen=True, kw_only=True)
class RecallWanted:
    """What recall is to look for: messages said before one of the path, for the new message."""

    before: UUID  #: the first message of the transcript; from it on everything is shown
    skip: tuple[UUID, ...]  #: earlier ones that are shown, too
    room: int  #: tokens, `Policy.message_overhead` of each message included


class Start(StrEnum):
    """How a request relates to the one before."""

    EXTENDS = "extends"  # it repeats the one before and adds to it
    FIRST = "first"  # there was none
    CHANGED = "changed"  # by a person: prompt, model, strategy, pins or summary, or something is forgotten
    BRANCH = "branch"  # the one before was on another path
    FULL = "full"  # cut, because it would have passed the high-water mark
    COLD = "cold"  # cut early, because the provider had forgotten it anyway
    ANEW = "anew"  # the strategy chooses anew for each request


@dataclass(frozen=True, kw_only=True)
class ContextPlan:
    messages: tuple[ChatMessage, ...]
    #: First message of the transcript that was sent; the next plan starts there unless it cuts again.
    first_message_id: UUID
    input_tokens: int  #: our own count, overhead included
    was_cut: bool  #: messages that were given are not shown, and the next plan need not be given them
    excerpted: tuple[UUID, ...]  #: messages that entered as an excerpt
    start: Start
    cut: Cut  #: to be stored with the conversation and handed to the next plan
    sections: tuple[Section, ...]
    pieces: tuple[Piece, ...]  #: what `messages` were joined from, with their tokens
    left_out: tuple[LeftOut, ...]
    figures: Figures
    policy: Policy
    #: Messages (by index) that end a prefix which later requests repeat: where Anthropic's cache marks belong.
    breakpoints: tuple[int, ...]
    #: What recall should look for; then plan again with `Background.recalled`. None: this plan is the last word.
    recall_wanted: RecallWanted | None
    compaction_due: bool  #: the next summary and memory lines should be written now, ahead of the cut

    def manifest(self) -> dict[str, Any]:
        """The plan on record, as JSON: ids and counts, no text."""
        return manifest_json(
            sections=self.sections,
            left_out=self.left_out,
            figures=self.figures,
            policy=self.policy.to_json(),
            start=self.start.value,
            first_message_id=str(self.first_message_id),
            messages=len(self.messages),
            input_tokens=self.input_tokens,
            was_cut=self.was_cut,
            excerpted=[str(pk) for pk in self.excerpted],
            breakpoints=list(self.breakpoints),
            sha256=request_digest(self.messages),
        )


def plan_context(
    *,
    system_prompt: str,
    history: Sequence[HistoryMessage],
    policy: Policy,
    count_tokens: CountTokens,
    continuation: Continuation | None = None,
    background: Background = NOTHING_MORE,
) -> ContextPlan:
    """Lay out a request for the last message of `history`, which begins at the last cut or before it.

    Roles alternate and the request ends on a user's message, whatever a crash left behind: neighbours of one
    role are merged with a blank line, empty messages and texts that were set aside are left out.
    Raises NothingToAnswer if there is no user's message, DoesNotFit if not even an excerpt of it can be sent.
    """
    return Planner(
        system_prompt=system_prompt,
        history=history,
        policy=policy,
        count_tokens=count_tokens,
        continuation=continuation,
        background=background,
    ).plan()


class Planner:
    """`plan_context` in two steps: what recall should look for, then the plan with what it has found."""

    def __init__(
        self,
        *,
        system_prompt: str,
        history: Sequence[HistoryMessage],
        policy: Policy,
        count_tokens: CountTokens,
        continuation: Continuation | None = None,
        background: Background = NOTHING_MORE,
    ) -> None:
        self.history, self.policy, self.given = history, policy, background
        self._counted: tuple[Draft, int] | None = None  #: the draft whose tokens were counted last
        # Headers are counted for each draft.
        self.meter = Meter(count=lru_cache(maxsize=None)(count_tokens), overhead=policy.message_overhead)
        self.spoken = _spoken(history)
        self.question = self.spoken[-1]
        memory = strategies.chosen_memory(background.memory, policy)
        self.constraints = [item for item in memory if item.is_constraint]
        self.facts = [item for item in memory if not item.is_constraint]
        self.summary = background.summaries[-1] if background.summaries and policy.uses_summary else None
        recalled = (found.message for found in background.recalled)
        self.sources = Sources(
            system_prompt=system_prompt if system_prompt.strip() else "",
            continued_text=continuation.text if continuation else "",
            messages={m.id: m for m in (*background.recalled_before, *recalled, *self.spoken)},
            memory={item.id: item for item in background.memory},
            summaries={summary.id: summary for summary in background.summaries},
        )
        self.key = key_of(self.sources.system_prompt, policy, background.memory)
        limit = policy.input_limit
        self.system = system_sections(self.sources.system_prompt, limit // 2, self.meter)
        self.begun = begun_sections(continuation, (limit - total(self.system)) // 2, self.meter)
        #: Tokens that every request has, whatever is cut: system prompt, constraints, the text to go on from.
        self.fixed = total(
            (*self.system, *lines(Kind.CONSTRAINTS, self.constraints, self.meter), *self.begun)
        )

    def plan(self, recalled: Sequence[Recalled] = ()) -> ContextPlan:
        """The plan, with what was recalled for it if that is not in the background already."""
        if recalled:
            self.given = replace(self.given, recalled=recalled)
            found = {one.message.id: one.message for one in recalled}
            self.sources = replace(self.sources, messages=found | {**self.sources.messages})
        start, draft = self._drafted
        draft = self._with_fitting_question(self._with_recalled(draft))
        sections = tuple(draft.sections(self.sources, self.meter))
        parts = tuple(
            piece
            for section in sections
            for piece in pieces(section, self.sources, overhead=self.meter.overhead)
        )
        messages = joined(parts)
        tokens = total(sections)
        first = draft.kept.messages[0].id
        return ContextPlan(
            messages=messages,
            first_message_id=first,
            input_tokens=tokens,
            was_cut=first != self.spoken[0].id,
            excerpted=tuple(pk for section in sections for pk in section.spans),
            start=start,
            cut=self._cut_of(draft),
            sections=sections,
            pieces=parts,
            left_out=tuple(left_out_of(self.history, self.spoken, draft, self.given)),
            figures=self._figures(draft, tokens),
            policy=self.policy,
            breakpoints=self._breakpoints(messages),
            recall_wanted=self.recall_wanted,
            compaction_due=self._compaction_is_due(draft, tokens),
        )

    @cached_property
    def recall_wanted(self) -> RecallWanted | None:
        """What recall should look for, for this plan."""
        _, draft = self._drafted
        room = self._recall_room(draft)
        if not room:
            return None
        return RecallWanted(before=draft.kept.messages[0].id, skip=tuple(draft.recalled_ids), room=room)

    # Where the request begins

    @cached_property
    def _drafted(self) -> tuple[Start, Draft]:
        return self._draft()

    def _draft(self) -> tuple[Start, Draft]:
        if not self.policy.strategy.is_append_only:
            return Start.ANEW, self._chosen_anew()
        start = self._start()
        draft = self._extended() if start is Start.EXTENDS else self._all_since_last_cut(start)
        # The place of recalled messages is kept free, so that recall may be asked after this is decided.
        tokens = self._tokens(draft) + (self.policy.recall_tokens if self._recall_room(draft) else 0)
        tokens += self._tokens_not_given(start)
        high = strategies.high_water(self.policy, self.fixed)
        if self.policy.refuses_overflow:
            if tokens > high:
                raise DoesNotFit
            return start, draft
        # What the provider must read anew anyway is cut where the next summary is ready.
        is_cold = self.given.cache_is_cold or start in (Start.CHANGED, Start.BRANCH)
        if is_cold and tokens > self.policy.soft_mark * high:
            return (Start.COLD if start is Start.EXTENDS else start), self._cut_down()
        if tokens > high:
            return Start.FULL, self._cut_down()
        return start, draft

    def _tokens_not_given(self, start: Start) -> int:
        """Of what a request that begins with the path would show, too, and no plan is given because it is too much."""
        cut = self.given.cut
        if start not in (Start.FIRST, Start.BRANCH) or (cut and self.history[0].id == cut.first_message_id):
            return 0
        return max(self.given.path_tokens - sum(message.tokens for message in self.history), 0)

    def _start(self) -> Start:
        """Whether the request before can be extended, and why not."""
        cut = self.given.cut
        if cut is None:
            return Start.FIRST
        spoken = {message.id for message in self.spoken}
        if cut.first_message_id not in spoken:
            return Start.BRANCH
        shown = [insert for insert in cut.inserts if insert.before in spoken]
        is_whole = (
            cut.key == self.key
            and all(pk in self.sources.memory for pk in cut.memory_ids)
            and all(pk in self.sources.messages for insert in shown for pk in insert.recalled)
            and (cut.summary_id is None or cut.summary_id in self.sources.summaries)
        )
        wants_summary = self.summary and self.summary.acts_at_once and self.summary.id != cut.summary_id
        return Start.EXTENDS if is_whole and not wants_summary else Start.CHANGED

    def _extended(self) -> Draft:
        """The request before, with what has come since at its end."""
        cut = self.given.cut
        assert cut is not None
        shown = self._since(cut)
        ids = {message.id for message in shown}
        on_top = [self.sources.memory[pk] for pk in cut.memory]
        draft = Draft(
            kept=Kept(messages=shown, spans={pk: span for pk, span in cut.spans.items() if pk in ids}),
            system=self.system,
            constraints=[item for item in on_top if item.is_constraint],
            memory=[item for item in on_top if not item.is_constraint],
            passed_over=cut.passed_over,
            summary=self.sources.summaries[cut.summary_id] if cut.summary_id else None,
            summary_span=cut.spans.get(cut.summary_id) if cut.summary_id else None,
            inserts=tuple(insert for insert in cut.inserts if insert.before in ids),
            recalled_spans={pk: span for pk, span in cut.spans.items() if pk not in ids},
            begun=self.begun,
        )
        if cut.insert_before(self.question.id):
            return draft  # another reply to the same message
        known = draft.memory_ids.union(cut.passed_over)
        new = [item for item in (*self.constraints, *self.facts) if item.id not in known]
        if not new:
            return draft
        insert = Insert(before=self.question.id, memory=tuple(item.id for item in new))
        return replace(draft, inserts=(*draft.inserts, insert))

    def _all_since_last_cut(self, start: Start) -> Draft:
        """What was shown before, below a top that is made anew."""
        cut = self.given.cut
        shown = self.spoken if cut is None or start is Start.BRANCH else self._since(cut)
        return replace(self._top(), kept=Kept(messages=shown, spans={}))

    def _cut_down(self) -> Draft:
        """The newest messages below a top that is made anew."""
        draft = self._top()
        rooms = self._rooms()
        used = self._tokens(draft) - self.meter.cost(self.question) - self.fixed
        recent = rooms.recent if self.policy.strategy.has_fixed_budget else rooms.whole - used
        kept = strategies.after_cut(self.spoken, self.policy, recent, self.meter)
        return replace(draft, kept=kept)

    def _chosen_anew(self) -> Draft:
        """The choice of a strategy that does not extend the request before."""
        draft = self._top()
        left = self.policy.ceiling - self._tokens(draft) + self.meter.cost(self.question)
        room = min(self._rooms().recent, left)
        choose = strategies.CHOICES[self.policy.strategy]
        return replace(draft, kept=choose(self.spoken, self.policy, room, self.meter))

    # Parts of a draft

    def _top(self) -> Draft:
        """All but the transcript: system prompt, constraints, and as much summary and memory as has room."""
        room = self._rooms().background
        span = None
        summary = self.summary
        if summary and summary_section(summary, None, self.meter).tokens > room:
            text_room = room - summary_section(replace(summary, tokens=0), None, self.meter).tokens
            span = span_within(summary.text, text_room, self.meter.count)
            # Less than half of it explains nothing.
            span = span if span and 2 * span.tokens >= summary.tokens else None
            summary = summary if span else None
        room -= summary_section(summary, span, self.meter).tokens if summary else 0
        room -= total(lines(Kind.MEMORY, self.facts[:1], self.meter)) - sum(map(line_tokens, self.facts[:1]))
        facts: list[MemoryItem] = []
        for item in reversed(self.facts):
            room -= line_tokens(item)
            if room < 0:
                break
            facts.insert(0, item)
        return Draft(
            kept=Kept(messages=[self.question], spans={}),
            system=self.system,
            constraints=self.constraints,
            memory=facts,
            passed_over=tuple(item.id for item in self.facts[: len(self.facts) - len(facts)]),
            summary=summary,
            summary_span=span,
            begun=self.begun,
        )

    def _recall_room(self, draft: Draft) -> int:
        """Tokens for recalled messages: none if all is shown, or if this message has called for its own before."""
        cut = self.given.cut
        is_whole = (
            draft.kept.messages[0] is self.spoken[0]
            and self.given.path_messages <= len(self.history)
            and not self.given.recalled
        )
        is_asked_again = cut is not None and cut.insert_before(self.question.id) in draft.inserts
        if is_whole or is_asked_again:
            return 0
        room = min(self.policy.recall_tokens, self.policy.ceiling - self._tokens(draft))
        return max(room - recalled_overhead(self.meter), 0)

    def _with_recalled(self, draft: Draft) -> Draft:
        """The draft with what was recalled, just before the new message."""
        room = self._recall_room(draft) if self.given.recalled else 0
        found, spans = pack(self.given.recalled, room, draft.shown_ids, self.meter) if room else ([], {})
        if not found:
            return draft
        *others, last = draft.inserts or (Insert(before=self.question.id),)
        if last.before != self.question.id:
            others, last = [*others, last], Insert(before=self.question.id)
        last = replace(last, recalled=tuple(candidate.message.id for candidate in found))
        return replace(
            draft,
            inserts=(*others, last),
            recalled_spans={**draft.recalled_spans, **spans},
            scores={candidate.message.id: round(candidate.score, 4) for candidate in found},
        )

    def _with_fitting_question(self, draft: Draft) -> Draft:
        """The new message whole if it can be, else an excerpt of it."""
        over = self._tokens(draft) - self.policy.input_limit
        if over <= 0:
            return draft
        if self.policy.refuses_overflow:
            raise DoesNotFit
        span = span_within(self.question.content, self.question.tokens - over, self.meter.count)
        if span is None:
            raise DoesNotFit
        spans = {**draft.kept.spans, self.question.id: span}
        return replace(draft, kept=Kept(messages=draft.kept.messages, spans=spans))

    def _since(self, cut: Cut) -> list[HistoryMessage]:
        first = next(n for n, message in enumerate(self.spoken) if message.id == cut.first_message_id)
        return self.spoken[first:]

    def _rooms(self) -> strategies.Rooms:
        return strategies.rooms_after_cut(self.policy, top=self.fixed, messages=self._path_messages)

    def _tokens(self, draft: Draft) -> int:
        if self._counted is None or self._counted[0] is not draft:
            self._counted = draft, total(draft.sections(self.sources, self.meter))
        return self._counted[1]

    @property
    def _path_messages(self) -> int:
        return max(self.given.path_messages, len(self.history))

    # What is said about the request

    def _cut_of(self, draft: Draft) -> Cut:
        spans = {**draft.kept.spans, **draft.recalled_spans}
        if draft.summary and draft.summary_span:
            spans[draft.summary.id] = draft.summary_span
        return Cut(
            first_message_id=draft.kept.messages[0].id,
            key=self.key,
            memory=tuple(item.id for item in (*draft.constraints, *draft.memory)),
            passed_over=draft.passed_over,
            summary_id=draft.summary.id if draft.summary else None,
            inserts=draft.inserts,
            spans=spans,
        )

    def _figures(self, draft: Draft, tokens: int) -> Figures:
        path_tokens = max(self.given.path_tokens, sum(message.tokens for message in self.history))
        return figures_of(
            draft,
            memory=self.given.memory,
            tokens=tokens,
            available=self.policy.input_limit,
            full_tokens=self.fixed + path_tokens + self.meter.overhead * self._path_messages,
        )

    def _breakpoints(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """The system message, and the new message if the next request will extend this one."""
        system = [0] if messages[0].role == "system" else []
        if not self.policy.strategy.is_append_only:
            return tuple(system)
        question = len(messages) - 1 - len(self.begun)
        return (*system, question)

    def _compaction_is_due(self, draft: Draft, tokens: int) -> bool:
        """Above the soft mark, if a cut would now leave out enough that the newest summary does not cover.

        The next summary should cover all so far: what comes from here to the cut is about what the cut leaves.
        """
        policy = self.policy
        if not policy.strategy.is_append_only or not (policy.uses_summary or policy.uses_memory):
            return False
        high = strategies.high_water(policy, self.fixed)
        if tokens + policy.recall_tokens <= policy.soft_mark * high:
            return False
        room = self._rooms().recent
        sizes = (self.meter.cost(message, draft.kept.spans) for message in reversed(draft.kept.messages))
        stays = sum(total <= room for total in accumulate(sizes))
        covered = self.given.summaries[-1].covered_messages if self.given.summaries else 0
        return self._path_messages - stays - covered >= policy.fold_at_least


def _spoken(history: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """What was said, from a person's first message to the newest one. Raises NothingToAnswer."""
    spoken = [message for message in history if message.content.strip() and not message.is_set_aside]
    while spoken and spoken[-1].role == "assistant":
        spoken.pop()
    if not spoken:
        raise NothingToAnswer
    return from_question(spoken)
