"""Made-up conversations, and a runner in miniature: it hands each plan what the plan before left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

from hypothesis import strategies as st

from conversations.context.cut import Cut
from conversations.context.layout import Kind
from conversations.context.plan import ContextPlan, HistoryMessage, plan_context
from conversations.context.policy import Policy, policy_for
from conversations.context.view import Background, MemoryItem, MemoryKind, Recalled, Summary

MEMORY_IDS = 1_000_000
SUMMARY_IDS = 2_000_000


def words(text: str) -> int:
    return len(text.split())


def said(*turns: tuple[str, str], first: int = 0) -> list[HistoryMessage]:
    return [
        HistoryMessage(id=UUID(int=first + n), role=role, content=text, tokens=words(text))  # type: ignore[arg-type]
        for n, (role, text) in enumerate(turns)
    ]


def remembered(number: int, text: str, kind: MemoryKind = MemoryKind.PROFILE, **values: Any) -> MemoryItem:
    return MemoryItem(id=UUID(int=MEMORY_IDS + number), kind=kind, text=text, tokens=words(text), **values)


def constraint(number: int, text: str, **values: Any) -> MemoryItem:
    return remembered(number, text, MemoryKind.CONSTRAINT, **values)


def plan(
    history: Sequence[HistoryMessage], *, system: str = "", policy: Policy | None = None, **background: Any
) -> ContextPlan:
    return plan_context(
        system_prompt=system,
        history=history,
        policy=policy or policy_for(window=10_000, reply_tokens=500),
        count_tokens=words,
        background=Background(**background),
    )


def contents(result: ContextPlan) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in result.messages]


def flat(result: ContextPlan) -> str:
    """The request as the provider reads it: one text, so that a prefix is a prefix."""
    return "".join(f"<{message.role}>{message.content}" for message in result.messages)


def kinds(result: ContextPlan) -> list[Kind]:
    return [section.kind for section in result.sections]


def text_of(result: ContextPlan) -> str:
    return "\n".join(message.content for message in result.messages)


@dataclass
class Chat:
    """A conversation from turn to turn, as the runner leads one."""

    policy: Policy
    system: str = "Be brief."
    path: list[HistoryMessage] = field(default_factory=list)
    memory: list[MemoryItem] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    cut: Cut | None = None
    made: int = 0  #: messages so far, other branches included

    def add(self, role: Literal["user", "assistant"], text: str) -> HistoryMessage:
        self.made += 1
        message = HistoryMessage(id=UUID(int=self.made), role=role, content=text, tokens=words(text))
        self.path.append(message)
        return message

    def ask(self, text: str, *, answer: str | None = None, cache_is_cold: bool = False) -> ContextPlan:
        """The plan for a new message; its answer is written down if there is one, and the summary if it is due."""
        self.add("user", text)
        result = self.plan(cache_is_cold=cache_is_cold)
        self.cut = result.cut
        if answer is not None:
            self.add("assistant", answer)
        if result.compaction_due:
            self.summarise()
        return result

    def plan(self, *, cache_is_cold: bool = False) -> ContextPlan:
        """The first plan says what to recall, the second one has it."""
        first = self._plan((), cache_is_cold)
        if first.recall_wanted is None:
            return first
        until = [message.id for message in self.path].index(first.recall_wanted.before)
        return self._plan(self._similar(self.path[-1].content, until), cache_is_cold)

    def _plan(self, recalled: Sequence[Recalled], cache_is_cold: bool) -> ContextPlan:
        cut = Cut.from_json(self.cut.to_json()) if self.cut else None
        ids = [message.id for message in self.path]
        start = ids.index(cut.first_message_id) if cut else 0
        summary_ids = {cut.summary_id} if cut else set()
        return plan_context(
            system_prompt=self.system,
            history=self.path[start:],
            policy=self.policy,
            count_tokens=words,
            background=Background(
                cut=cut,
                memory=[m for m in self.memory if not m.is_superseded or (cut and m.id in cut.memory_ids)],
                summaries=[s for s in self.summaries if s.id in summary_ids or s is self.summaries[-1]],
                recalled=recalled,
                recalled_before=[self.path[ids.index(pk)] for pk in cut.recalled_ids] if cut else (),
                path_messages=len(self.path),
                path_tokens=sum(m.tokens for m in self.path),
                cache_is_cold=cache_is_cold,
            ),
        )

    def summarise(self, *, acts_at_once: bool = False) -> None:
        version = len(self.summaries) + 1
        text = f"Summary number {version}."
        self.summaries.append(
            Summary(
                id=UUID(int=SUMMARY_IDS + version),
                version=version,
                text=text,
                tokens=words(text),
                covers_until=self.path[-1].id,
                covered_messages=len(self.path),
                acts_at_once=acts_at_once,
            )
        )

    def supersede(self, old: MemoryItem, new: MemoryItem) -> None:
        """What was remembered says otherwise now."""
        self.memory = [replace(m, is_superseded=True) if m.id == old.id else m for m in self.memory]
        self.memory.append(new)

    def _similar(self, text: str, until: int) -> list[Recalled]:
        wanted = set(text.lower().split())
        found = [
            Recalled(message=message, score=len(wanted & set(message.content.lower().split())))
            for message in self.path[:until]
        ]
        return [candidate for candidate in found if candidate.score]


#: What a crash, a person or a provider may leave as a message.
odd_texts = st.sampled_from(
    ["", " ", "\n\t", "word", "many words here", "w " * 40, "a\n\nb", "```\ncode\n```", "x" * 500]
)
odd_turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), odd_texts), max_size=14)
