"""One reply while a process runs it: its text so far, and how it is ended from outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby

from conversations.journal import Entry, Kind
from conversations.llm.types import Finish, Usage

from .claims import Claim
from .store import Checkpoint

#: Characters: parts of a text that are shorter are joined to those beside them.
LEAST_PART = 250


class Ending(StrEnum):
    """Why a stream was ended from our side."""

    STOP = "stop"  # a person asked
    DRAIN = "drain"  # this process is going away
    FENCED = "fenced"  # another process has taken the reply


@dataclass(eq=False)
class RunningReply:
    """One reply while this process runs it."""

    claim: Claim
    taken_up_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    first_token_at: datetime | None = None
    at: int = 0
    ending: Ending | None = None
    finish: Finish | None = None
    prompt: Usage | None = None  #: what the provider counted of this attempt's prompt before it answered
    status: str = ""  #: what is done about a failure, until text comes
    parts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None  #: what `end` cuts short

    @property
    def text(self) -> str:
        return joined(self.parts)

    def last(self, characters: int) -> str:
        """So many of the last characters that the model has sent, as if it had thought before it wrote."""
        return (joined(self.thoughts) + self.text)[-characters:]

    @property
    def length(self) -> int:
        """Characters of text and thoughts so far; those outside the first plane count twice in the text."""
        return self.at + sum(map(len, self.thoughts))

    @property
    def has_output(self) -> bool:
        """Whether the model has sent anything: from then on a failure is a cut, and no other try is made."""
        return self.first_token_at is not None or bool(self.thoughts)

    def end(self, ending: Ending) -> None:
        """End the stream from our side; the first reason given stands, except that a lost lease overrides it."""
        if self.ending is None or ending is Ending.FENCED:
            self.ending = ending
        if self.task is not None:
            self.task.cancel()

    def checkpoint(self, position: str) -> Checkpoint:
        return Checkpoint(
            reply_id=self.claim.reply_id,
            epoch=self.claim.epoch,
            text=self.text,
            reasoning=joined(self.thoughts),
            position=position,
            first_token_at=self.first_token_at,
        )

    def entry(self, text: str, kind: Kind = Kind.TEXT) -> Entry:
        """What the journal is told at this point of the text."""
        return Entry(reply_id=self.claim.reply_id, epoch=self.claim.epoch, at=self.at, text=text, kind=kind)


def joined(parts: list[str]) -> str:
    """The parts as one text; short ones beside each other are one part from now on.

    A long reply has thousands, each dearer than its letters. As one part that grows each second, it would leave holes
    in the memory that nothing fits into.
    """
    kept: list[str] = []
    for is_long, beside in groupby(parts, lambda part: len(part) >= LEAST_PART):
        some = list(beside)
        kept += some if is_long else ["".join(some)]
    parts[:] = kept
    return "".join(parts)
