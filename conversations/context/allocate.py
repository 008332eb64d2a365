"""How a token budget is divided: shares, the reply's part, room after a cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from uuid import UUID

from .policy import MESSAGE_OVERHEAD
from .truncate import CountTokens, Span, span_within
from .view import HistoryMessage, Recalled


@dataclass(frozen=True, kw_only=True)
class Split:
    """Percent of a token budget."""

    system: int
    summary: int  #: what stands for the older part: summary and memory
    recent: int
    reply: int
    margin: int


def split_for(messages: int) -> Split:
    """The longer a conversation, the more of it is only known by its summary."""
    summary, recent = (15, 50) if messages <= 20 else (20, 45) if messages <= 50 else (25, 40)
    return Split(system=5, summary=summary, recent=recent, reply=25, margin=5)


def reply_share(*, wanted: int, budget: int) -> int:
    """What is kept free for the reply: never more than a quarter of the budget, at least 1."""
    return max(min(wanted, budget * split_for(0).reply // 100), 1)


@dataclass(frozen=True, kw_only=True)
class Meter:
    """How many tokens texts and messages have for one model."""

    count: CountTokens
    overhead: int = MESSAGE_OVERHEAD  #: of a message, beside its text

    def cost(self, message: HistoryMessage, spans: Mapping[UUID, Span] | None = None) -> int:
        """Tokens of a message in a request, whole or as the excerpt that `spans` names."""
        span = spans.get(message.id) if spans else None
        return (span.tokens if span else message.tokens) + self.overhead

    def costs(self, messages: Sequence[HistoryMessage], spans: Mapping[UUID, Span]) -> int:
        """The same of several."""
        if spans:
            return sum(self.cost(message, spans) for message in messages)
        return sum([message.tokens for message in messages]) + self.overhead * len(messages)

    def span(self, text: str, room: int) -> Span | None:
        """An excerpt that is a message of at most `room` tokens; None if nothing fits."""
        return span_within(text, room - self.overhead, self.count)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A part of a transcript, oldest first. Its last message is the new one, always in and never shortened here."""

    messages: list[HistoryMessage]
    spans: Mapping[UUID, Span]


def newest_within(
    messages: Sequence[HistoryMessage], room: int, meter: Meter, *, at_most: int | None = None
) -> Kept:
    """The newest messages that fit into `room` tokens, at most `at_most` of them, beginning with a person's.

    A message that alone would take more than half of the room enters as an excerpt of that half. No message between
    two others is left out: the next request shows all that was said since the first one.
    """
    *before, question = messages
    left = room - meter.cost(question)
    half = left // 2
    kept, spans = [question], {}
    for message in reversed(before):
        span = None if meter.cost(message) <= half else meter.span(message.content, half)
        left -= meter.cost(message, {message.id: span} if span else None)
        if left < 0 or len(kept) == at_most:
            break
        kept.append(message)
        if span:
            spans[message.id] = span
    return kept_of(kept[::-1], spans)


def kept_of(messages: Sequence[HistoryMessage], spans: Mapping[UUID, Span]) -> Kept:
    """A transcript begins with a person's message: an answer without its question explains nothing."""
    kept = from_question(messages)
    ids = {message.id for message in kept}
    return Kept(messages=kept, spans={pk: span for pk, span in spans.items() if pk in ids})


def from_question(messages: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """The messages from a person's first one on."""
    first = next(n for n, message in enumerate(messages) if message.role == "user")
    return list(messages[first:])


def pack(
    recalled: Iterable[Recalled], room: int, present: AbstractSet[UUID], meter: Meter
) -> tuple[list[Recalled], dict[UUID, Span]]:
    """The best of what was recalled within `room` tokens, in the order in which it was said.

    Greedy, the best first; what is `present` in the request already is skipped. If not one fits, the best one
    enters as an excerpt.
    """
    found: list[Recalled] = []
    best: Recalled | None = None
    left = room
    for candidate in sorted(recalled, key=lambda candidate: -candidate.score):
        message = candidate.message
        if message.id in present or not message.content.strip() or message.is_set_aside:
            continue
        best = best or candidate
        if meter.cost(message) <= left:
            found.append(candidate)
            left -= meter.cost(message)
    if best and not found:
        span = meter.span(best.message.content, room)
        return ([best], {best.message.id: span}) if span else ([], {})
    return sorted(found, key=lambda candidate: candidate.message.id), {}
