"""One request as its manifest has it, with the texts of today: its sections, what is left out, what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.urls import NoReverseMatch, reverse

from conversations.context import layout
from conversations.context.allocate import MESSAGE_OVERHEAD
from conversations.context.draft import digest_of
from conversations.context.layout import Kind, Section, Sources
from conversations.context.manifest import Rebuilt, rebuild, sections_of
from conversations.context.truncate import LEFT_OUT, Span
from conversations.context.view import HistoryMessage, MemoryKind
from conversations.context.view import MemoryItem as Fact
from conversations.context.view import Summary as SummaryText
from conversations.llm.types import ChatMessage
from conversations.models import ConversationSummary, MemoryItem, Message, Reply, ReplyAttempt, SystemPrompt

from . import words
from .bill import Against, Bill, against_full, borders

#: Characters of a section that a page shows of one text, and of all of them together: the download has the rest.
SHOWN_OF_ONE, SHOWN_IN_ALL = 20_000, 400_000
#: What is longer is folded.
FOLDED = 500


@dataclass(frozen=True, kw_only=True)
class Part:
    """A text of a section, as it was sent."""

    who: str = ""
    text: str = ""  #: of an excerpt, its beginning
    ending: str = ""  #: of an excerpt, its end
    skipped: int = 0  #: characters that an excerpt leaves out
    number: int | None = None  #: the message's place on its path, from 1
    href: str = ""  #: to where it is from
    link: str = ""  #: what that link says
    score: float | None = None
    note: str = ""
    gone: str = ""  #: in place of the text: what was here
    unshown: int = 0  #: characters that the page leaves out

    @property
    def is_excerpt(self) -> bool:
        return self.skipped > 0

    @property
    def is_long(self) -> bool:
        return len(self.text) + len(self.ending) > FOLDED

    @property
    def beginning(self) -> str:
        return " ".join(self.text[:200].split())


@dataclass(frozen=True, kw_only=True)
class ShownSection:
    label: str
    colour: str  #: a name of `--c-…`
    about: str
    tokens: int  #: by our own count; all of them together are the manifest's
    share: float  #: of all of them
    amount: int | None  #: nano-USD; None: this request has no price by parts
    counted: int  #: its part of the tokens that were billed
    cached: int  #: of them, those that the provider had in its cache
    parts: tuple[Part, ...] = ()
    header: str = ""  #: words that stand around the parts, and were sent with them
    footer: str = ""
    gone: int = 0  #: parts that are gone
    href: str = ""
    link: str = ""


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
        reader = _Reader(self)
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


# --- The rows that a manifest names -------------------------------------------------------------------------------


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


# --- Sections in words --------------------------------------------------------------------------------------------


class _Reader:
    """Makes sections readable, as many characters of them as a page may have."""

    def __init__(self, request: ShownRequest) -> None:
        self.request = request
        self.rows = request.rows
        self.conversation_id = request.reply.conversation_id
        self.left = SHOWN_IN_ALL

    def words_of(self, section: Section) -> dict[str, Any]:
        """The fields of a `ShownSection` that are words."""
        label, colour = words.LABELS[section.kind]
        values: dict[str, Any] = {}
        match section.kind:
            case Kind.SYSTEM:
                values = self._prompt(section)
            case Kind.CONSTRAINTS:
                facts = tuple(self._fact(pk) for pk in section.ids)
                values = {
                    "about": words.many(len(facts), "rule"),
                    "parts": facts,
                    "header": layout.CONSTRAINTS,
                }
            case Kind.MEMORY:
                facts = tuple(self._fact(pk) for pk in section.ids)
                values = {"about": words.many(len(facts), "fact"), "parts": facts, "header": layout.MEMORY}
            case Kind.SUMMARY:
                values = self._summary(section)
            case Kind.RECALLED:
                values = self._recalled(section)
            case Kind.CONTINUED:
                values = self._continued(section)
            case Kind.GO_ON:
                values = {"parts": (Part(text=layout.GO_ON),)}
            case _:
                said = tuple(self._message(pk, section) for pk in section.ids)
                values = {"about": _numbers(said), "parts": said}
        shown: dict[str, Any] = {"label": label, "colour": colour, "about": "", **values}
        return shown | {"gone": sum(bool(part.gone) for part in shown["parts"])}

    def _prompt(self, section: Section) -> dict[str, Any]:
        if self.rows.prompt is None:
            return {"parts": (Part(gone=words.gone(Kind.SYSTEM)),)}
        is_todays = self.request.reply.conversation.system_prompt == self.rows.prompt
        about = "" if is_todays else "changed since"
        return {"about": about, "parts": (self._text(self.rows.prompt, section.span),)}

    def _summary(self, section: Section) -> dict[str, Any]:
        row = self.rows.summaries.get(section.ids[0])
        version = section.facts.get("version")
        covered = section.facts.get("covered_messages", 0)
        label = f"Summary v{version}" if version else "Summary"
        about = f"of messages 1 to {covered:,}" if covered else ""
        if row is None:
            return {"label": label, "about": about, "parts": (Part(gone=words.gone(Kind.SUMMARY)),)}
        if self.rows.has_lost_words(section):
            about += " · shorter since"
        elif row.state == ConversationSummary.State.RETIRED:
            about += " · replaced since"
        return {
            "label": label,
            "about": about,
            "header": layout.SUMMARY,
            "parts": (self._text(row.summary, section.span),),
            "href": address("conversation_summaries", self.conversation_id, f"summary-{row.version}"),
            "link": "Its versions",
        }

    def _recalled(self, section: Section) -> dict[str, Any]:
        scores: Sequence[float] = section.facts.get("scores", ())
        known = scores if len(scores) == len(section.ids) else [None] * len(section.ids)
        parts = tuple(
            self._message(pk, section, score=score) for pk, score in zip(section.ids, known, strict=True)
        )
        return {
            "about": words.many(len(parts), "message"),
            "parts": parts,
            "header": layout.RECALLED,
            "footer": layout.END_OF_RECALLED,
        }

    def _continued(self, section: Section) -> dict[str, Any]:
        text = self.rows.sources.continued_text
        if not text:
            return {"parts": (Part(gone=words.gone(Kind.CONTINUED)),)}
        shown = text[len(text) - section.span.tail :] if section.span else text
        about = "its end" if section.span else ""
        return {"about": about, "parts": (self._text(shown.rstrip(), None),)}

    def _message(self, pk: UUID, section: Section, *, score: float | None = None) -> Part:
        message = self.rows.messages.get(pk)
        if message is None:
            return Part(gone=words.gone(section.kind), score=score)
        return self._text(
            message.content,
            section.spans.get(pk),
            who="You" if message.is_from_user else "Parley",
            number=message.path_messages,
            href=message_address(self.conversation_id, pk),
            link=f"message {message.path_messages:,}",
            score=score,
        )

    def _fact(self, pk: UUID) -> Part:
        item = self.rows.memory.get(pk)
        if item is None:
            return Part(gone=words.gone(Kind.MEMORY))
        is_replaced = item.state == MemoryItem.State.SUPERSEDED
        return self._text(
            " ".join(item.text.split()),
            None,
            who=item.get_kind_display(),
            href=address("conversation_memory", self.conversation_id, f"fact-{pk}"),
            link="in the memory",
            note="replaced since" if is_replaced else "",
        )

    def _text(self, text: str, span: Span | None, **values: Any) -> Part:
        """As much of a text as the page still has room for."""
        head, tail = (text[: span.head], text[len(text) - span.tail :]) if span else (text, "")
        skipped = len(text) - len(head) - len(tail)
        room = max(min(SHOWN_OF_ONE, self.left), 0)
        shown, shown_tail = head[:room], tail[: max(room - len(head), 0)]
        self.left -= len(shown) + len(shown_tail)
        unshown = len(head) + len(tail) - len(shown) - len(shown_tail)
        return Part(text=shown, ending=shown_tail, skipped=skipped, unshown=unshown, **values)


#: What stands in an excerpt for its middle, as it was sent.
MIDDLE = LEFT_OUT.strip()


def _numbers(parts: Sequence[Part]) -> str:
    """Which messages these are, by their places on the path: "messages 387 to 411"."""
    numbers = [part.number for part in parts if part.number is not None]
    if not numbers:
        return words.many(len(parts), "message")
    first, last = min(numbers), max(numbers)
    if first == last:
        return f"message {first:,}"
    span = f"messages {first:,} to {last:,}"
    return span if last - first + 1 == len(parts) else f"{len(parts):,} of {span}"


def message_address(conversation_id: UUID, pk: UUID) -> str:
    page = reverse("conversation", args=[conversation_id])
    return f"{page}?{urlencode({'around': pk})}#m-{pk}"


def address(name: str, pk: UUID, fragment: str = "") -> str:
    """Of a page that may not be there; then nothing."""
    try:
        found = reverse(name, args=[pk])
    except NoReverseMatch:
        return ""
    return f"{found}#{fragment}" if fragment else found


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
