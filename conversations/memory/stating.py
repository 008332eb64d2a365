"""Finds what a person states plainly, by rules and without a model: "never mention prices", "my name is ..."."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from conversations.models import MemoryItem

from .patterns import ABOUT_ME, TRIGGERS, WAYS, WORK_ON, Way

#: Characters: a longer text was pasted, a longer sentence is a story.
LONGEST_MESSAGE, LONGEST_SENTENCE = 2_000, 300
#: What one message may state.
MOST = 8

_MASK = "\N{OBJECT REPLACEMENT CHARACTER}"
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`", re.DOTALL)
_QUOTE = re.compile(r"^[ \t]*>.*$|^(?: {4}|\t).*$|^[ \t]*\|.*$", re.MULTILINE)  # code and tables, too
# What is opened and never closed is read once: no quotation holds the sign that opened it.
_QUOTED = re.compile(
    r"\"[^\"\n]+\"|“[^”\n]+[”“]|„[^„“”\n]+[“”]|«[^«»\n]+»|»[^«»\n]+«|(?<![\w'])'[^'\n]+'(?!\w)|"
    r"(?<!\w)\u2018[^\u2018\u2019\n]+\u2019(?!\w)"
)
_END = re.compile(
    r"(?<=[.!?…])(?<!\b(?:Dr|Mr|Ms|St|Nr|No|vs)\.)(?<!\b(?:Mrs|bzw|etc)\.)(?<!\bProf\.)(?<!\b(?:e\.g|i\.e|z\.B|d\.h)\.)"
    r"[\"”\u2019)]*\s+|\n+"
)
_PLEASE = re.compile(r",?\s+(?:please|bitte|por favor|s['\u2019]il (?:te|vous) plaît)[.!]*$", re.IGNORECASE)
_BULLET = re.compile(r"(?:[-*•\u2013]|\d{1,2}[.)])\s+")
#: "Draft an offer, and never mention prices": only after a sentence that orders something, too.
_ANOTHER = re.compile(r",\s+(?:and|but|und|aber|et|mais|y|pero)\s+", re.IGNORECASE)
_TOLD = re.compile(
    r"\b(?:i|we|he|she|they|it|ich|er|wir|je|il|elle|nous|on|yo|él|ella|nosotros|was|were|had)\b|['\u2019](?:s|d|ll|ve|re|m)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What somebody stated, in their own words."""

    kind: MemoryItem.Kind
    text: str
    scope: MemoryItem.Scope
    slot: str = ""  #: of facts with the same slot only the newest holds


def may_state(text: str) -> bool:
    """Whether it is worth looking: false for nearly every message, in some 10 µs."""
    return len(text) <= LONGEST_MESSAGE and _has_trigger(text)


def _has_trigger(text: str) -> bool:
    return any(map(text.lower().__contains__, TRIGGERS))  # every message is asked: no generator


def stated(text: str) -> list[Stated]:
    """What a message states plainly. Questions, quotes, code, and what is pasted or to be worked on do not count."""
    if not may_state(text):
        return []
    masked = own_words(text)
    if WORK_ON.search(masked):
        return []
    found: dict[str, Stated] = {}
    for start, end in _sentences(masked):
        one = _stated_by(masked[start:end], text[start:end])
        if one:
            found.setdefault(one.text.casefold(), one)
    return list(found.values())[:MOST]


def own_words(text: str) -> str:
    """The text with all that is quoted, tabled or code made unreadable, each character in its place."""
    for foreign in (_CODE, _QUOTE, _QUOTED):
        text = foreign.sub(_masked, text)
    return text


def _masked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", _MASK, match[0])


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence stands, without its bullet and the spaces around it; and its second half, if it has one."""
    ends = [*((match.start(), match.end()) for match in _END.finditer(text)), (len(text), len(text))]
    start = 0
    for end, following in ends:
        first, last = _trimmed(text, start, end)
        start = following
        if not 4 <= last - first <= LONGEST_SENTENCE or text[last - 1] == "?":
            continue
        half = _ANOTHER.search(text, first, last)
        if half and not _TOLD.search(text, first, half.start()):
            yield first, half.start()
            yield half.end(), last
        else:
            yield first, last


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    if bullet := _BULLET.match(text, start, end):
        start = bullet.end()
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _stated_by(sentence: str, original: str) -> Stated | None:
    """`sentence` has quotes made unreadable, `original` has the same length and its own words."""
    if sentence.count(_MASK) * 2 > len(sentence) or not _has_trigger(sentence):
        return None
    for way in WAYS:
        match = way.pattern.fullmatch(sentence)
        if match:
            return _made(way, " ".join(original[match.start("fact") : match.end("fact")].split()))
    return None


def _made(way: Way, fact: str) -> Stated | None:
    kind, slot = way.kind, way.slot
    fact = _PLEASE.sub("", fact).rstrip(" .!;,")
    if not fact:
        return None  # marks alone
    if kind is MemoryItem.Kind.TASK:  # it was asked to be remembered, whatever it is
        inner = next((found for found in WAYS if found.kind != kind and found.pattern.fullmatch(fact)), None)
        if inner:
            kind, slot = inner.kind, inner.slot
        elif ABOUT_ME.search(fact):
            kind = MemoryItem.Kind.PROFILE
    return Stated(kind=kind, text=fact, scope=way.scope, slot=slot)
