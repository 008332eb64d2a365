"""What a model saw, on record: ids and counts, no text; and the way back from a record to the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from conversations.llm.types import ChatMessage

from .draft import Draft
from .layout import Kind, Section, Sources, joined, pieces
from .truncate import Span
from .view import Background, HistoryMessage, MemoryItem, MemoryKind, Summary

VERSION = 1

#: What stands in a rebuilt request for a text that has been erased since.
ERASED = "[erased]"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a request does not show, and why."""

    #: before_cut: not even given to the plan; no_room: of what was given; set_aside, empty, unanswered: not to be
    #: sent; memory_no_room: remembered items.
    why: str
    messages: int = 0
    tokens: int = 0
    ids: tuple[UUID, ...] = ()  #: where they are few; what was said before a cut is a number


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How well a request uses its place. Shares are 0 to 1."""

    available: int  #: tokens that the request could have had
    efficiency: float  #: used of what was available
    full_tokens: int  #: of a request with the whole history
    compression: float  #: sent of the full history
    #: Of remembered items, whose line or source message is in; None: nothing is remembered.
    retention: float | None


def left_out_of(
    history: Sequence[HistoryMessage], spoken: Sequence[HistoryMessage], draft: Draft, given: Background
) -> Iterator[LeftOut]:
    reasons: dict[str, list[HistoryMessage]] = {}
    if len(draft.kept.messages) < len(history):
        shown, said = draft.shown_ids, {message.id for message in spoken}
        for message in history:
            if message.id not in shown:
                why = "no_room" if message.id in said else _why_not_said(message)
                reasons.setdefault(why, []).append(message)
    for why, messages in reasons.items():
        tokens = sum(message.tokens for message in messages)
        ids = tuple(message.id for message in messages)
        yield LeftOut(why=why, messages=len(messages), tokens=tokens, ids=ids)
    if (before := given.path_messages - len(history)) > 0:
        tokens = given.path_tokens - sum(message.tokens for message in history)
        yield LeftOut(why="before_cut", messages=before, tokens=max(tokens, 0))
    if draft.passed_over:
        yield LeftOut(why="memory_no_room", ids=draft.passed_over)


def _why_not_said(message: HistoryMessage) -> str:
    if message.is_set_aside:
        return "set_aside"
    return "unanswered" if message.content.strip() else "empty"


def figures_of(
    draft: Draft, *, memory: Sequence[MemoryItem], tokens: int, available: int, full_tokens: int
) -> Figures:
    active = [item for item in memory if not item.is_superseded]
    lines, shown = draft.memory_ids, draft.shown_ids
    retained = [item for item in active if item.id in lines or item.source_id in shown]
    return Figures(
        available=available,
        efficiency=round(tokens / available, 4) if available else 0.0,
        full_tokens=full_tokens,
        compression=round(tokens / full_tokens, 4),
        retention=round(len(retained) / len(active), 4) if active else None,
    )


def request_digest(messages: Sequence[ChatMessage]) -> str:
    """SHA-256 of a request in its canonical form: a JSON list of [role, content]."""
    rows = [[message.role, message.content] for message in messages]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def manifest_json(
    *, sections: Sequence[Section], left_out: Sequence[LeftOut], figures: Figures, **values: Any
) -> dict[str, Any]:
    return {
        "version": VERSION,
        **values,
        "sections": [_section_json(section) for section in sections],
        "left_out": [
            {
                "why": row.why,
                "messages": row.messages,
                "tokens": row.tokens,
                "ids": [str(pk) for pk in row.ids],
            }
            for row in left_out
        ],
        "figures": dict(vars(figures)),
    }


def sections_of(manifest: Mapping[str, Any]) -> tuple[Section, ...]:
    """The sections of a stored manifest."""
    return tuple(
        Section(
            kind=Kind(row["kind"]),
            tokens=row["tokens"],
            ids=tuple(UUID(pk) for pk in row.get("ids", ())),
            spans={UUID(pk): Span.from_json(span) for pk, span in row.get("spans", {}).items()},
            span=Span.from_json(row["span"]) if "span" in row else None,
            on_top=row.get("on_top", False),
            facts=row.get("facts", {}),
        )
        for row in manifest["sections"]
    )


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    messages: tuple[ChatMessage, ...]
    gone: tuple[str, ...]  #: kind and id of what has been erased since
    is_exact: bool  #: byte for byte what was sent; with nothing gone, the system prompt has changed


def rebuild(manifest: Mapping[str, Any], sources: Sources) -> Rebuilt:
    """The request that a manifest describes, from the texts of today. What is gone reads ERASED in its place."""
    sections = sections_of(manifest)
    known, gone = with_erased(sections, sources)
    messages = joined(piece for section in sections for piece in pieces(without_spans(section, gone), known))
    return Rebuilt(
        messages=messages,
        gone=tuple(f"{section.kind} {pk}" for section in sections for pk in section.ids if pk in gone),
        is_exact=not gone and request_digest(messages) == manifest["sha256"],
    )


def with_erased(sections: Sequence[Section], sources: Sources) -> tuple[Sources, frozenset[UUID]]:
    """The sources with a stand-in for each text that is gone, and whose these are."""
    messages, memory, summaries = dict(sources.messages), dict(sources.memory), dict(sources.summaries)
    gone: set[UUID] = set()
    for section in sections:
        for pk in section.ids:
            match section.kind:
                case Kind.CONSTRAINTS | Kind.MEMORY if pk not in sources.memory:
                    memory[pk] = MemoryItem(id=pk, kind=MemoryKind.PROFILE, text=ERASED, tokens=0)
                case Kind.SUMMARY if pk not in sources.summaries:
                    summaries[pk] = Summary(
                        id=pk, version=0, text=ERASED, tokens=0, covers_until=pk, covered_messages=0
                    )
                case Kind.TRANSCRIPT | Kind.QUESTION | Kind.RECALLED if pk not in sources.messages:
                    messages[pk] = HistoryMessage(id=pk, role="user", content=ERASED, tokens=0)
                case _:
                    continue
            gone.add(pk)
    known = replace(sources, messages=messages, memory=memory, summaries=summaries)
    return known, frozenset(gone)


def without_spans(section: Section, gone: frozenset[UUID]) -> Section:
    """The section without excerpts of what is gone."""
    spans = {pk: span for pk, span in section.spans.items() if pk not in gone}
    is_gone = section.kind is Kind.SUMMARY and not gone.isdisjoint(section.ids)
    return replace(section, spans=spans, span=None if is_gone else section.span)


def _section_json(section: Section) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": section.kind.value, "tokens": section.tokens}
    if section.ids:
        row["ids"] = [str(pk) for pk in section.ids]
    if section.spans:
        row["spans"] = {str(pk): span.to_json() for pk, span in section.spans.items()}
    if section.span:
        row["span"] = section.span.to_json()
    if section.on_top:
        row["on_top"] = True
    if section.facts:
        row["facts"] = dict(section.facts)
    return row
