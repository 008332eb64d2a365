"""One reply while a process runs it: its text so far, and how it is ended from outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from conversations.journal import Entry, Kind
from conversations.llm.types import Finish, Usage

from .claims import Claim
from .store import Checkpoint


class Ending(StrEnum):
    """Why a stream was ended from our side."""

    STOP = "stop"  # a person asked
    DRAIN = "drain"  # this process is going away
    FENCED = "fenced"  # another process has taken the reply


@dataclass(eq=False)
class RunningReply:
    """One reply while this process runs it."""

    claim: Claim
    claimed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
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
    """The parts as one text, and as one part: a long reply has thousands, each dearer than its letters."""
    if len(parts) > 1:
        parts[:] = ["".join(parts)]
    return parts[0] if parts else ""  # none stay none: that is how a reply without output is known
