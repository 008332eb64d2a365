"""One request as its manifest has it, with the texts of today: its sections, what is left out, what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from conversations.context.layout import Kind, Section
from conversations.context.manifest import Rebuilt, rebuild
from conversations.context.policy import MESSAGE_OVERHEAD
from conversations.llm.types import ChatMessage
from conversations.models import Reply, ReplyAttempt

from . import words
from .bill import Against, Bill, against_full, borders
from .rows import Rows, sections_in
from .sections import Reader, ShownSection, message_address


@dataclass(frozen=True, kw_only=True)
class ShownLeftOut:
    title: str
    sentence: str
    tokens: int
    href: str = ""


@dataclass
class ShownRequest:
    """The request of one attempt."""

    reply: Reply
    attempt: ReplyAttempt
    bill: Bill
    max_tokens: int  #: that were sent
    rows: Rows

    @property
    def manifest(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.attempt.manifest
        return found

    @property
    def is_old(self) -> bool:
        """From before a manifest had sections, or with some that this version does not know."""
        return not self.raw

    @property
    def planned(self) -> int:
        """Its tokens by our own count."""
        return int(self.manifest.get("input_tokens", 0))

    @property
    def messages(self) -> int:
        return int(self.manifest.get("messages", 0))

    @property
    def digest(self) -> str:
        return str(self.manifest.get("sha256", ""))

    @property
    def start(self) -> str:
        return words.STARTS.get(self.manifest.get("start", ""), "")

    @property
    def figures(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest.get("figures", {})
        return found

    @property
    def preset(self) -> str:
        return str(self.manifest.get("preset", ""))

    @property
    def policy(self) -> list[tuple[str, str]]:
        return list(words.policy_rows(self.manifest.get("policy", {})))

    @cached_property
    def rebuilt(self) -> Rebuilt:
        return rebuild(self.manifest, self.rows.sources)

    @property
    def chat_messages(self) -> tuple[ChatMessage, ...]:
        return () if self.is_old else self.rebuilt.messages

    @cached_property
    def gone(self) -> list[str]:
        """What is gone, item by item."""
        if self.is_old:
            return []
        found = [words.gone(section.kind) for section in self.raw for pk in self.rows.gone_of(section)]
        found += [words.SUMMARY_CHANGED for section in self.raw if self.rows.has_lost_words(section)]
        kinds = {section.kind for section in self.raw}
        if Kind.CONTINUED in kinds and self.reply.continues_id is None:
            found.append(words.gone(Kind.CONTINUED))
        if Kind.SYSTEM in kinds and self.rows.prompt is None:
            found.append(words.gone(Kind.SYSTEM))
        return found

    @property
    def is_exact(self) -> bool:
        """Byte for byte what was sent."""
        return not self.is_old and not self.gone and self.rebuilt.is_exact

    @cached_property
    def raw(self) -> tuple[Section, ...]:
        return sections_in(self.manifest)

    @cached_property
    def sections(self) -> list[ShownSection]:
        tokens = [section.tokens for section in self.raw]
        whole = sum(tokens) or 1
        amounts = self.bill.shares(tokens) if self.bill.has_amounts and self.bill.price else []
        cached = self.bill.usage.cached_tokens
        ends = [0, *borders(self.bill.usage.input_tokens, tokens)]
        reader = Reader(self.reply, self.rows)
        return [
            ShownSection(
                tokens=section.tokens,
                share=section.tokens / whole,
                amount=amounts[n] if amounts else None,
                counted=ends[n + 1] - ends[n],
                cached=min(ends[n + 1], cached) - min(ends[n], cached),
                **reader.words_of(section),
            )
            for n, section in enumerate(self.raw)
        ]

    @cached_property
    def left_out(self) -> list[ShownLeftOut]:
        return list(_left_out(self))

    @cached_property
    def against(self) -> Against | None:
        """The request beside one with the whole history; None where that is not on record."""
        full = self.figures.get("full_tokens")
        if not full or not self.planned:
            return None
        return against_full(
            self.bill,
            model=self.attempt.model.partition("/")[2] or self.attempt.model,
            planned=self.planned,
            full=full,
            new=self._new_tokens(),
        )

    def _new_tokens(self) -> int:
        """Of the new message and the answer before it: what no earlier request has shown, by our own count."""
        overhead = int(self.manifest.get("policy", {}).get("message_overhead", MESSAGE_OVERHEAD))
        question = sum(section.tokens for section in self.raw if section.kind is Kind.QUESTION)
        before = [pk for section in self.raw if section.kind is Kind.TRANSCRIPT for pk in section.ids]
        answer = self.rows.messages.get(before[-1]) if before else None
        is_answer = answer is not None and not answer.is_from_user
        return question + (answer.token_count + overhead if answer is not None and is_answer else 0)

    @property
    def went_without_recall(self) -> bool:
        """What was said earlier could not be searched, or not in time."""
        return "unavailable" in (self.manifest.get("recall") or {})

    @property
    def question_number(self) -> int | None:
        """Messages from the root to the new one."""
        question = self.rows.messages.get(self.reply.question_id)
        return question.path_messages if question else None

    @property
    def shown_messages(self) -> int:
        """Messages that it shows word for word, the new one included."""
        shown = (Kind.TRANSCRIPT, Kind.QUESTION)
        return sum(len(section.ids) for section in self.raw if section.kind in shown)

    @property
    def cached_share(self) -> float | None:
        """Of the prompt, by the provider's own count; None: it has not said."""
        attempt = self.attempt
        if not attempt.usage_reported or not attempt.input_tokens:
            return None
        return (attempt.cached_tokens or 0) / attempt.input_tokens


def _left_out(request: ShownRequest) -> Iterator[ShownLeftOut]:
    instead = list(_instead(request))
    for row in request.manifest.get("left_out", ()):
        if row["why"] == "memory_no_room":
            title = words.many(len(row["ids"]), "remembered fact")
            yield ShownLeftOut(title=title, sentence=words.MEMORY_LEFT_OUT, tokens=0)
            continue
        noun, sentence = words.REASONS.get(row["why"], ("", "It is not said why."))
        count = int(row["messages"])
        title = f"{count:,} {noun} message{'' if count == 1 else 's'}".replace("  ", " ")
        href = ""
        if row["why"] == "before_cut":
            title = f"Messages 1 to {count:,}" if count > 1 else "Message 1"
        elif row["ids"] and UUID(row["ids"][0]) in request.rows.messages:
            href = message_address(request.reply.conversation_id, UUID(row["ids"][0]))
        if row["why"] in ("before_cut", "no_room"):
            sentence, instead = " ".join([sentence, *instead]), []
        yield ShownLeftOut(title=title, sentence=sentence, tokens=int(row["tokens"]), href=href)


def _instead(request: ShownRequest) -> Iterator[str]:
    """What stands in a request for the messages that it leaves out."""
    for section in request.raw:
        covered = int(section.facts.get("covered_messages", 0))
        if section.kind is Kind.SUMMARY and covered:
            version = section.facts.get("version")
            yield f"Summary v{version} stands for the first {words.many(covered, 'message')}."
    recalled = sum(len(section.ids) for section in request.raw if section.kind is Kind.RECALLED)
    if recalled:
        yield f"{words.many(recalled, 'earlier message')} came back by recall."
