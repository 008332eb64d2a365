"""Sections of a request as a page shows them: names, texts as they were sent, and where they are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.urls import reverse

from conversations.context import layout
from conversations.context.layout import Kind, Section
from conversations.context.truncate import LEFT_OUT, Span
from conversations.models import ConversationSummary, MemoryItem, Reply

from . import words
from .rows import Rows

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


class Reader:
    """Makes sections readable, as many characters of them as a page may have."""

    def __init__(self, reply: Reply, rows: Rows) -> None:
        self.reply = reply
        self.rows = rows
        self.conversation_id = reply.conversation_id
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
        is_todays = self.reply.conversation.system_prompt == self.rows.prompt
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


def address(name: str, pk: UUID, fragment: str) -> str:
    return f"{reverse(name, args=[pk])}#{fragment}"
