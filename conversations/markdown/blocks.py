"""Cutting a text that is still being written into blocks that will not change any more.

A cut is made only where the text after it cannot change what is before it, and it is found line by line: no line is
looked at twice, so the cost is linear in the text. Where several Markdown blocks cannot be told apart safely (a list
and the list after it), they stay together: one block here may be more than one in Markdown's sense, never less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from conversations.markdown.parser import parser
from conversations.text import utf16_length

#: What one message may cost to format, in units of about 10 µs: the dearest characters (`[`, `!`, a line end) cost one
#: each, a block 8. Ordinary prose of 1 MiB stays below. What comes after is shown as plain text.
BUDGET = 60_000
_BLOCK_COST = 8
_INDENT_PER_UNIT = 4  #: spaces; a list item costs as much as it is deep
_PLAIN_LENGTH = 32_000  #: characters of one block of plain text

_PIECES = 32  #: of a line that are kept apart: each is dearer than its letters

_DEAR = re.compile(r"[^\w\s.,;'/()]|\n")
_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t\r\n]|$)")
_MARKER = re.compile(r"[ \t]*(?:[-+*]|[0-9]{1,9}[.)])(?:[ \t\r\n]|$)")
_INDENTED = re.compile(r" {0,3}\t| {4}")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MATH = re.compile(r"[ \t]*(?:\$\$|\\\[)")
#: The beginning of a line that will neither be indented nor a list item, whatever follows.
_SURELY_NEW = re.compile(r"[^\s\-+*0-9]|[-+*]\S|[0-9]{1,9}[^0-9.)]|[0-9]{1,9}[.)]\S|[0-9]{10}")

Kind = Literal["markdown", "fence", "plain"]


@dataclass(frozen=True, kw_only=True)
class Segment:
    text: str
    kind: Kind
    end: int  #: UTF-16 code units from the start of the message


class Splitter:
    """Takes a message piece by piece and yields its segments. Line ends are `\\n`."""

    def __init__(self) -> None:
        self.start = 0  #: where the open text begins, in UTF-16 code units
        self._spent = 0
        self._plain = False
        self._partial: list[str] = []
        self._partial_length = 0
        self._reset()

    def _reset(self) -> None:
        self._lines: list[str] = []
        self._length = 0
        self._cost = 0
        self._fence: tuple[str, int] | None = None
        self._after_blank = False
        self._spans_blanks = False
        self._holds_math = False
        self._unsure = False
        self._retry_at = 0

    @property
    def open_text(self) -> str:
        """What is not in a segment yet. Costs its length: ask for it once per viewer, not once per delta."""
        return "".join(self._lines) + "".join(self._partial)

    def feed(self, text: str) -> Iterator[Segment]:
        *complete, rest = text.split("\n")
        for number, piece in enumerate(complete):
            if self._plain:
                yield from self._feed_plain("\n".join([*complete[number:], rest]))
                return
            line = "".join((*self._partial, piece, "\n"))
            self._partial, self._partial_length = [], 0
            if line != "\n" or self._lines:
                yield from self._line(line)
            else:
                self.start += 1
        if self._plain:
            yield from self._feed_plain(rest)
            return
        if rest:
            known = self._partial_length
            self._partial.append(rest)
            self._partial_length += len(rest)
            if len(self._partial) > _PIECES:
                self._partial = ["".join(self._partial)]
            if self._after_blank and known < 12 and _SURELY_NEW.match("".join(self._partial)):
                yield from self._cut_after_blank()

    def close(self) -> Iterator[Segment]:
        line, self._partial = "".join(self._partial), []
        if line and not self._plain:
            yield from self._line(line)
        if self._lines:
            yield self._segment()

    def _line(self, line: str) -> Iterator[Segment]:
        if self._fence:
            self._append(line)
            if _closes(line, *self._fence):
                yield self._segment()
        elif not line.strip(" \t\r\n"):
            yield from self._blank_line(line)
        else:
            yield from self._text_line(line)

    def _feed_plain(self, text: str) -> Iterator[Segment]:
        """Past the budget, a segment ends with the first line end after `_PLAIN_LENGTH` characters."""
        while text:
            line_end = text.find("\n", max(0, _PLAIN_LENGTH - self._length - 1)) + 1
            piece = text[:line_end] if line_end else text
            self._append(piece)
            text = text[len(piece) :]
            if line_end:
                yield self._segment()

    def _blank_line(self, line: str) -> Iterator[Segment]:
        if not self._lines:
            self.start += len(line)
            return
        self._append(line)
        self._after_blank = True
        if not self._spans_blanks:
            yield self._segment()
        elif self._over_budget(line):
            self._plain = True

    def _text_line(self, line: str) -> Iterator[Segment]:
        if self._after_blank:
            if line[0] not in " \t" and not _MARKER.match(line):
                yield from self._cut_after_blank()
        elif self._lines and self._interrupts(line):
            yield self._segment()
        if not self._lines and (opening := _FENCE.match(line)):
            self._fence = opening[2][0], len(opening[2])
            self._append(line)
            return
        alone = not self._lines and _HEADING.match(line)
        self._append(line)
        self._after_blank = False
        self._note(line)
        if self._over_budget(line):
            self._plain = True
        elif alone:
            yield self._segment()

    def _interrupts(self, line: str) -> bool:
        """A fence or heading at the margin ends everything but an open fence or formula."""
        surely = line[0] in "`~#" and not (self._holds_math or self._unsure)
        return surely and bool(_FENCE.match(line) or _HEADING.match(line))

    def _note(self, line: str) -> None:
        """Remember what the open text holds that lets it go on past a blank line, or past a fence or heading."""
        self._unsure = self._unsure or _FENCE.match(line) is not None
        self._holds_math = self._holds_math or _MATH.match(line) is not None
        self._spans_blanks = (
            self._spans_blanks or self._unsure or bool(_MARKER.match(line) or _INDENTED.match(line))
        )

    def _over_budget(self, line: str) -> bool:
        self._cost += len(_DEAR.findall(line)) + (len(line) - len(line.lstrip())) // _INDENT_PER_UNIT
        return self._spent + self._cost > BUDGET

    def _cut_after_blank(self) -> Iterator[Segment]:
        """A line at the margin follows a blank line: everything but a fence has ended."""
        if not self._unsure or self._parser_agrees():
            yield self._segment()

    def _parser_agrees(self) -> bool:
        """Ask the parser whether a fence that began within the open text is still open. After a "yes" it is
        asked again only when the text has doubled, so that the cost stays linear."""
        if self._length < self._retry_at:
            return False
        tokens = parser().block.parse("".join(self._lines) + "x\n", parser(), {}, []) or []
        agrees = any(token.level == 0 and token.map and token.map[0] == len(self._lines) for token in tokens)
        self._retry_at = 2 * self._length
        return agrees

    def _append(self, line: str) -> None:
        self._lines.append(line)
        self._length += len(line)

    def _segment(self) -> Segment:
        text = "".join(self._lines)
        kind: Kind = "plain" if self._plain else "fence" if self._fence else "markdown"
        self.start += utf16_length(text)
        self._spent += self._cost + _BLOCK_COST
        self._plain = self._plain or self._spent > BUDGET
        self._reset()
        return Segment(text=text, kind=kind, end=self.start)


def fence_parts(text: str) -> tuple[str, str] | None:
    """Code and info string of a fence segment; None if it is indented, which the parser knows to undo."""
    first, _, code = text.partition("\n")
    opening = _FENCE.match(first)
    if opening is None or opening[1]:
        return None
    before, newline, last = code.removesuffix("\n").rpartition("\n")
    if _closes(last, opening[2][0], len(opening[2])):
        code = before + newline
    return code, first[opening.end() :]


def split_fences(text: str, limit: int) -> Iterator[tuple[bool, str]]:
    """Text and closed fences in turn, as (is a fence, its lines); at most `limit` fences, nothing left out."""
    plain: list[str] = []
    fence: list[str] = []
    opening: re.Match[str] | None = None
    for line in _LINE.findall(text):
        if opening:
            fence.append(line)
            if _closes(line, opening[2][0], len(opening[2])):
                yield False, "".join(plain)
                yield True, "".join(fence)
                plain, fence, opening, limit = [], [], None, limit - 1
        elif limit and (opening := _FENCE.match(line)):
            fence.append(line)
        else:
            plain.append(line)
    yield False, "".join(plain + fence)


def _closes(line: str, marker: str, count: int) -> bool:
    indent = len(line) - len(line.lstrip(" "))
    body = line[indent:].rstrip(" \t\r\n")
    return indent < 4 and len(body) >= count and not body.strip(marker)
