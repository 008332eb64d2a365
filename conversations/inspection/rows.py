"""The rows that a manifest names, as they are today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from conversations.context.draft import digest_of
from conversations.context.layout import Kind, Section, Sources
from conversations.context.manifest import sections_of
from conversations.context.view import HistoryMessage, MemoryKind
from conversations.context.view import MemoryItem as Fact
from conversations.context.view import Summary as SummaryText
from conversations.models import ConversationSummary, MemoryItem, Message, Reply, SystemPrompt


@dataclass
class Rows:
    """What is there today of all that a manifest names."""

    sources: Sources
    messages: Mapping[UUID, Message] = field(default_factory=dict)
    memory: Mapping[UUID, MemoryItem] = field(default_factory=dict)
    summaries: Mapping[UUID, ConversationSummary] = field(default_factory=dict)
    prompt: str | None = ""  #: None: not known any more

    def gone_of(self, section: Section) -> list[UUID]:
        known: Mapping[UUID, Any]
        match section.kind:
            case Kind.CONSTRAINTS | Kind.MEMORY:
                known = self.sources.memory
            case Kind.SUMMARY:
                known = self.sources.summaries
            case _:
                known = self.sources.messages
        return [pk for pk in section.ids if pk not in known]

    def has_lost_words(self, section: Section) -> bool:
        """Whether a summary is not what it was: what is forgotten is taken out of it."""
        known = section.facts.get("sha256") if section.kind is Kind.SUMMARY else None
        row = self.summaries.get(section.ids[0]) if known else None
        return row is not None and digest_of(row.summary) != known


def sections_in(manifest: Mapping[str, Any]) -> tuple[Section, ...]:
    """The sections of a manifest; none if it is older than they are, or not one of this version."""
    try:
        return sections_of(manifest)
    except (KeyError, TypeError, ValueError):
        return ()


def read_rows(reply: Reply, manifest: Mapping[str, Any]) -> Rows:
    """At most as many rows as the manifest names, in at most four queries."""
    sections = sections_in(manifest)
    ids: dict[str, set[UUID]] = {"messages": {reply.question_id}, "memory": set(), "summaries": set()}
    for section in sections:
        ids[_where(section.kind)].update(section.ids)
    for row in manifest["left_out"] if sections else ():
        if row["why"] != "memory_no_room" and row["ids"]:
            ids["messages"].add(UUID(row["ids"][0]))
    messages = Message.objects.filter(conversation=reply.conversation_id).in_bulk(ids["messages"])
    memory = (
        MemoryItem.objects.filter(user=reply.user_id)
        .exclude(state=MemoryItem.State.FORGOTTEN)
        .exclude(text="")
        .in_bulk(ids["memory"])
        if ids["memory"]
        else {}
    )
    summaries = (
        ConversationSummary.objects.filter(conversation=reply.conversation_id)
        .exclude(summary="")
        .in_bulk(ids["summaries"])
        if ids["summaries"]
        else {}
    )
    prompt = _prompt_of(reply, sections)
    return Rows(
        sources=Sources(
            system_prompt=prompt or "",
            continued_text=reply.continues.content if reply.continues else "",
            messages={pk: _as_said(message) for pk, message in messages.items()},
            memory={pk: _as_fact(item) for pk, item in memory.items()},
            summaries={pk: _as_summary(row) for pk, row in summaries.items()},
        ),
        messages=messages,
        memory=memory,
        summaries=summaries,
        prompt=prompt,
    )


def _where(kind: Kind) -> str:
    if kind in (Kind.CONSTRAINTS, Kind.MEMORY):
        return "memory"
    return "summaries" if kind is Kind.SUMMARY else "messages"


def _prompt_of(reply: Reply, sections: Sequence[Section]) -> str | None:
    """The system prompt with the digest that the manifest has; None: it is neither today's nor one that was kept."""
    digest = next((s.facts.get("sha256", "") for s in sections if s.kind is Kind.SYSTEM), None)
    if digest is None:
        return ""
    today = reply.conversation.system_prompt
    if digest_of(today) == digest:
        return today
    kept = SystemPrompt.objects.filter(conversation=reply.conversation_id, sha256=digest)
    return kept.values_list("text", flat=True).first()


def _as_said(message: Message) -> HistoryMessage:
    return HistoryMessage(
        id=message.pk,
        role="user" if message.is_from_user else "assistant",
        content=message.content,
        tokens=message.token_count,
    )


def _as_fact(item: MemoryItem) -> Fact:
    return Fact(
        id=item.pk,
        kind=MemoryKind(item.kind),
        text=item.text,
        tokens=item.token_count,
        is_pinned=item.is_pinned,
        source_id=item.source_id,
    )


def _as_summary(row: ConversationSummary) -> SummaryText:
    return SummaryText(
        id=row.pk,
        version=row.version,
        text=row.summary,
        tokens=row.token_count,
        covers_until=row.covers_until_id or row.pk,
        covered_messages=row.message_count_at_creation,
    )
