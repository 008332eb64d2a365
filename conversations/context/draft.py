"""A request before it is put in words: what stands on top, the transcript, and what is put in before which message."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from .allocate import Kept, Meter
from .cut import Insert
from .layout import (
    CONSTRAINTS,
    END_OF_RECALLED,
    GO_ON,
    LINE_OVERHEAD,
    MEMORY,
    RECALLED,
    SUMMARY,
    Kind,
    Section,
    Sources,
)
from .truncate import Span, ending
from .view import Continuation, HistoryMessage, MemoryItem, Summary


class DoesNotFit(ValueError):
    """This conversation is longer than the model can read, or than its numbers allow."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    kept: Kept
    system: tuple[Section, ...] = ()
    constraints: Sequence[MemoryItem] = ()  #: on top
    memory: Sequence[MemoryItem] = ()  #: on top
    passed_over: tuple[UUID, ...] = ()  #: what had no room there
    summary: Summary | None = None
    summary_span: Span | None = None
    inserts: tuple[Insert, ...] = ()
    recalled_spans: Mapping[UUID, Span] = field(default_factory=dict)
    scores: Mapping[UUID, float] = field(default_factory=dict)  #: of what was recalled now
    begun: tuple[Section, ...] = ()

    def sections(self, sources: Sources, meter: Meter) -> Iterator[Section]:
        """All parts of the request, in order."""
        yield from self.system
        yield from lines(Kind.CONSTRAINTS, self.constraints, meter, on_top=True)
        yield from lines(Kind.MEMORY, self.memory, meter)
        if self.summary:
            yield summary_section(self.summary, self.summary_span, meter)
        run: list[HistoryMessage] = []
        inserts = {insert.before: insert for insert in self.inserts}
        *before, question = self.kept.messages
        for message in before:
            if inserts and (insert := inserts.get(message.id)):
                yield from self._messages(Kind.TRANSCRIPT, run, meter)
                run = []
                yield from self._insert(insert, sources, meter)
            run.append(message)
        yield from self._messages(Kind.TRANSCRIPT, run, meter)
        if insert := inserts.get(question.id):
            yield from self._insert(insert, sources, meter)
        yield from self._messages(Kind.QUESTION, [question], meter)
        yield from self.begun

    @property
    def shown_ids(self) -> set[UUID]:
        """Messages that are in the request, in the transcript or recalled."""
        return {message.id for message in self.kept.messages} | self.recalled_ids

    @property
    def recalled_ids(self) -> set[UUID]:
        return {pk for insert in self.inserts for pk in insert.recalled}

    @property
    def memory_ids(self) -> set[UUID]:
        inserted = (pk for insert in self.inserts for pk in insert.memory)
        return {*(item.id for item in (*self.constraints, *self.memory)), *inserted}

    def _messages(self, kind: Kind, messages: Sequence[HistoryMessage], meter: Meter) -> Iterator[Section]:
        if messages:
            ids, spans = tuple(message.id for message in messages), self.kept.spans
            yield Section(
                kind=kind,
                ids=ids,
                tokens=meter.costs(messages, spans),
                spans={pk: spans[pk] for pk in ids if pk in spans} if spans else {},
            )

    def _insert(self, insert: Insert, sources: Sources, meter: Meter) -> Iterator[Section]:
        items = [sources.memory[pk] for pk in insert.memory]
        yield from lines(Kind.CONSTRAINTS, [item for item in items if item.is_constraint], meter)
        yield from lines(Kind.MEMORY, [item for item in items if not item.is_constraint], meter)
        if insert.recalled:
            messages = [sources.messages[pk] for pk in insert.recalled]
            spans = {pk: self.recalled_spans[pk] for pk in insert.recalled if pk in self.recalled_spans}
            scores = [self.scores[pk] for pk in insert.recalled if pk in self.scores]
            yield Section(
                kind=Kind.RECALLED,
                ids=insert.recalled,
                tokens=recalled_overhead(meter) + sum(meter.cost(message, spans) for message in messages),
                spans=spans,
                facts={"scores": scores} if scores else {},
            )


def system_sections(prompt: str, room: int, meter: Meter) -> tuple[Section, ...]:
    """The system prompt, in at most `room` tokens. Raises DoesNotFit if not even an excerpt fits."""
    if not prompt:
        return ()
    tokens, span = meter.count(prompt) + meter.overhead, None
    if tokens > room:
        span = meter.span(prompt, room)
        if span is None:
            raise DoesNotFit
        tokens = span.tokens + meter.overhead
    facts = {"sha256": digest_of(prompt)}
    return (Section(kind=Kind.SYSTEM, tokens=tokens, span=span, facts=facts),)


def begun_sections(continuation: Continuation | None, room: int, meter: Meter) -> tuple[Section, ...]:
    """The turns that let a model go on: the end of what it wrote, in about `room` tokens."""
    if continuation is None:
        return ()
    shown = ending(continuation.text, max(room - meter.overhead, 0), meter.count)
    if not shown.strip():
        return ()
    span = None if shown == continuation.text else Span(head=0, tail=len(shown), tokens=0)
    tokens = meter.count(shown.rstrip()) + meter.overhead
    continued = Section(kind=Kind.CONTINUED, tokens=tokens, span=span)
    if continuation.prefill:
        return (continued,)
    return continued, Section(kind=Kind.GO_ON, tokens=meter.count(GO_ON) + meter.overhead)


def lines(
    kind: Kind, items: Sequence[MemoryItem], meter: Meter, *, on_top: bool = False
) -> Iterator[Section]:
    """A block of remembered lines, if there are any."""
    if items:
        header = CONSTRAINTS if kind is Kind.CONSTRAINTS else MEMORY
        tokens = meter.overhead + meter.count(header) + sum(line_tokens(item) for item in items)
        yield Section(kind=kind, ids=tuple(item.id for item in items), tokens=tokens, on_top=on_top)


def line_tokens(item: MemoryItem) -> int:
    return item.tokens + LINE_OVERHEAD


def summary_section(summary: Summary, span: Span | None, meter: Meter) -> Section:
    tokens = meter.overhead + meter.count(SUMMARY) + (span.tokens if span else summary.tokens)
    facts: dict[str, Any] = {
        "version": summary.version,
        "covered_messages": summary.covered_messages,
        "sha256": digest_of(summary.text),
    }
    return Section(kind=Kind.SUMMARY, ids=(summary.id,), tokens=tokens, span=span, facts=facts)


def recalled_overhead(meter: Meter) -> int:
    """Tokens around recalled messages, beside what each one costs."""
    return meter.overhead + meter.count(RECALLED) + meter.count(END_OF_RECALLED)


def total(sections: Iterator[Section] | Sequence[Section]) -> int:
    return sum(section.tokens for section in sections)


def digest_of(text: str) -> str:
    """By which a text is known again that may be replaced, or lose what is forgotten."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
