"""Reads the facts out of what a model says: JSON if all is well, and whole objects out of whatever is around them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from conversations.models import MemoryItem
from conversations.text import clean_text

#: Facts of one answer, characters that are read of it, and depth to which lists in lists are followed.
MOST_FACTS, LONGEST_ANSWER, DEEPEST = 20, 40_000, 4
#: Brackets that may begin a value.
MOST_TRIES = 200

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",(?=\s*[\]}])")
_NUMBER = re.compile(r"\d{1,4}")

_TEXT_KEYS = ("text", "fact", "content", "statement", "value", "memory")
_KIND_KEYS = ("kind", "type", "category", "group")
_SOURCE_KEYS = ("message", "source", "message_number", "from", "n")
_REPLACED_KEYS = ("replaces", "supersedes", "contradicts", "updates")

_KINDS = {
    **{kind.value: kind for kind in MemoryItem.Kind},
    "about": MemoryItem.Kind.PROFILE,
    "about me": MemoryItem.Kind.PROFILE,
    "fact": MemoryItem.Kind.TASK,
    "context": MemoryItem.Kind.TASK,
    "task context": MemoryItem.Kind.TASK,
    "rule": MemoryItem.Kind.CONSTRAINT,
    "open question": MemoryItem.Kind.QUESTION,
}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A fact as a model has put it. Nothing of it is believed yet."""

    kind: MemoryItem.Kind
    text: str
    message: int | None = None  #: number of the message that says it
    replaces: int | None = None  #: number of the known fact that it contradicts


class NotJson(ValueError):
    """There is no JSON in what the model said."""


def parse(answer: str) -> list[Proposal]:
    """The facts of an answer, in its order. Raises NotJson when there is not one whole JSON value in it."""
    answer = _THOUGHT.sub("", answer[:LONGEST_ANSWER])
    values = list(_values(answer)) or list(_values(_TRAILING_COMMA.sub("", answer)))
    if not values:
        raise NotJson
    proposals = (_proposal(row) for value in values for row in _rows(value, 0))
    return [found for found in proposals if found][:MOST_FACTS]


def _values(text: str) -> Iterator[Any]:
    """Each whole object or list in a text, from left to right; those within others come with them."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(MOST_TRIES):
        start = _next_bracket(text, place)
        if start is None:
            return
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
        else:
            if isinstance(value, dict) or (isinstance(value, list) and (not value or _holds_objects(value))):
                yield value


def _next_bracket(text: str, place: int) -> int | None:
    found = [at for bracket in "[{" if (at := text.find(bracket, place)) >= 0]
    return min(found, default=None)


def _holds_objects(value: list[Any]) -> bool:
    return any(isinstance(row, dict | list) for row in value)


def _rows(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """The objects that look like facts: a list of them, one alone, or a list under any name."""
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        row = {str(key).strip().lower(): entry for key, entry in value.items()}
        if any(isinstance(row.get(key), str) for key in _TEXT_KEYS):
            yield row
            return
        value = list(row.values())
    if isinstance(value, list):
        for entry in value:
            yield from _rows(entry, depth + 1)


def _proposal(row: Mapping[str, Any]) -> Proposal | None:
    text = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)), "")
    kind = next((row[key] for key in _KIND_KEYS if isinstance(row.get(key), str)), "")
    text = " ".join(clean_text(text).text.split())
    if not text:
        return None
    return Proposal(
        kind=_kind(kind), text=text, message=_number(row, _SOURCE_KEYS), replaces=_number(row, _REPLACED_KEYS)
    )


def _kind(word: str) -> MemoryItem.Kind:
    word = word.strip().lower().replace("_", " ")
    return _KINDS.get(word) or _KINDS.get(word.removesuffix("s")) or MemoryItem.Kind.TASK


def _number(row: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = row.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float) and 0 < value < 10_000:
            return int(value)
        if isinstance(value, str) and (found := _NUMBER.search(value)):
            return int(found[0])
    return None
