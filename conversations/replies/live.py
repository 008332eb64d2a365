"""The replies that this process runs or shows: their text so far, and who watches it grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from conversations.journal import Entry, Kind
from conversations.markdown import Block, BlockStream
from conversations.text import utf16_length, utf16_suffix

#: Characters that are rendered on the event loop: 20 ms for the dearest. A block of 55,000 brackets takes 0.8 s.
RENDERED_AT_ONCE = 1_000
#: Pieces that are kept for viewers, a second of text; who is further behind is sent a snapshot again. That takes a
#: viewer for whom uvicorn holds 64 KiB already.
KEPT = 16

_render_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="render")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All there is: the finished blocks as HTML, the open one as text."""

    html: str
    open_text: str
    at: int  #: UTF-16 code units received
    is_thinking: bool
    status: str  #: what is done about a failure, in a sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """More text for the open block."""

    at: int  #: UTF-16 code units before this text
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockClosed:
    """The open block closed: its HTML, once, and the text that begins the next one."""

    html: str
    open_text: str
    at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The reply is over; its final form is in the database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """Nothing came for a while."""


Change = Snapshot | Delta | BlockClosed | Ended | Idle


class LiveReply:
    """One reply's text as this process knows it, rendered once for all who watch it."""

    def __init__(self, reply_id: UUID, epoch: int = 0) -> None:
        self.reply_id = reply_id
        self.epoch = epoch
        self.runner = ""
        self.is_thinking = False
        self.status = ""
        self.moods = 0  #: how often one of the two above has changed
        self.is_ended = False
        self.at = 0  #: UTF-16 code units applied
        self.pieces: list[str] = []  #: the last ones, and all that nobody has asked for yet
        self.count = 0  #: pieces so far
        self.first = 0  #: the number of the first of them
        self.rendered = 0  #: pieces that the blocks and the open text hold
        self.rendered_at = 0  #: UTF-16 code units of them
        self.blocks: list[str] = []
        self.viewers: set[Viewer] = set()
        self._stream = BlockStream()
        self._rendering: asyncio.Task[None] | None = None

    def apply(self, entry: Entry) -> bool:
        """Take in a piece; what is known already is skipped. False: pieces before this one are missing."""
        if self.is_ended:
            return True
        if entry.kind is Kind.END:
            self.end()
            return True
        if entry.at > self.at:
            return False
        if entry.kind is Kind.STATUS:
            self._feel(self.is_thinking, entry.text)
            return True
        text = entry.text if entry.at == self.at else utf16_suffix(entry.text, self.at - entry.at)
        if text:
            self.pieces.append(text)
            self.count += 1
            self.at += utf16_length(text)
            if len(self.pieces) > 2 * KEPT:
                self._forget()
            if self.is_thinking or self.status:
                self._feel(False, "")
            self._wake()
        return True

    def end(self) -> None:
        self.is_ended = True
        self._wake()

    def think(self) -> None:
        """Say that the model reasons before it writes."""
        if not self.at:
            self._feel(True, "")

    def _feel(self, is_thinking: bool, status: str) -> None:
        if (is_thinking, status) != (self.is_thinking, self.status):
            self.is_thinking, self.status = is_thinking, status
            self.moods += 1
            self._wake()

    def _wake(self) -> None:
        for viewer in self.viewers:
            viewer.wake()

    def _forget(self) -> None:
        """Let go of old pieces that were rendered; what was not, because nobody watches, becomes one."""
        spare = min(max(self.rendered - self.first, 0), len(self.pieces) - KEPT)
        del self.pieces[:spare]
        self.first += spare
        if len(self.pieces) > 2 * KEPT:
            self.first = self.rendered = self.count - 1
            self.pieces = ["".join(self.pieces)]

    async def render(self) -> BlockStream:
        """Render what closed since the last time; each block once, however many viewers there are.

        When it returns, blocks and open text belong together, until the caller next waits.
        """
        while self._rendering or self.rendered < self.count:
            if self._rendering is None:
                text = "".join(self.pieces[self.rendered - self.first :])
                self.rendered, self.rendered_at = self.count, self.at
                self._take(text)
            if self._rendering is not None:
                await asyncio.wait({self._rendering})  # a viewer that leaves meanwhile does not end it
        return self._stream

    def _take(self, text: str) -> None:
        """Split and render now what is quick; the rest in a thread, so that other streams go on meanwhile."""
        if len(text) > RENDERED_AT_ONCE:
            work = partial(self._stream.feed, text)
        else:
            segments = self._stream.split(text)
            if not segments:
                return
            work = partial(self._stream.render, segments)
            if sum(len(segment.text) for segment in segments) <= RENDERED_AT_ONCE:
                self.blocks += [block.html for block in work()]
                return
        self._rendering = asyncio.create_task(self._render_in_thread(work))

    async def _render_in_thread(self, work: Callable[[], list[Block]]) -> None:
        try:
            blocks = await asyncio.get_running_loop().run_in_executor(_render_threads, work)
            self.blocks += [block.html for block in blocks]
        finally:
            self._rendering = None


class Viewer:
    """Somebody who watches a reply: a place in its text, so that a slow one costs nothing and slows nobody."""

    def __init__(self, live: LiveReply) -> None:
        self.live = live
        self._seen = self._at = self._blocks = self._moods = 0
        self._has_left = False
        self._waiting: asyncio.Future[bool] | None = None

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(True)

    def nudge(self) -> None:
        """Say Idle to a viewer for whom there is nothing new."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(False)

    def leave(self) -> None:
        """End the changes at once. Whoever iterates over them goes on after them."""
        self._has_left = True
        self.wake()

    async def changes(self) -> AsyncGenerator[Change]:
        """A snapshot, then each change, then Ended, unless the viewer leaves before."""
        live = self.live
        stream = await live.render()
        yield self._snapshot(stream)
        while not self._has_left:
            if self._seen == live.count and self._moods == live.moods:
                if live.is_ended:
                    yield Ended()
                    return
                self._waiting = asyncio.get_running_loop().create_future()
                if not await self._waiting:
                    yield Idle()
                continue
            stream = await live.render()
            if self._seen < live.first or self._moods != live.moods:
                yield self._snapshot(stream)
            elif self._blocks < len(live.blocks):
                html = "".join(live.blocks[self._blocks :])
                self._move()
                yield BlockClosed(html=html, open_text=stream.open_text, at=self._at)
            else:
                at, text = self._at, "".join(live.pieces[self._seen - live.first :])
                self._move()
                yield Delta(at=at, text=text)

    def _snapshot(self, stream: BlockStream) -> Snapshot:
        live = self.live
        self._move()
        return Snapshot(
            html="".join(live.blocks),
            open_text=stream.open_text,
            at=self._at,
            is_thinking=live.is_thinking,
            status=live.status,
        )

    def _move(self) -> None:
        live = self.live
        self._seen, self._at, self._blocks = live.rendered, live.rendered_at, len(live.blocks)
        self._moods = live.moods


class LiveReplies:
    """Every reply that this process runs or has viewers of."""

    def __init__(self, *, on_gap: Callable[[LiveReply], None]) -> None:
        self._replies: dict[UUID, LiveReply] = {}
        self._on_gap = on_gap

    def all(self) -> list[LiveReply]:
        return list(self._replies.values())

    def get(self, reply_id: UUID) -> LiveReply | None:
        return self._replies.get(reply_id)

    def open(self, reply_id: UUID) -> LiveReply:
        return self._replies.setdefault(reply_id, LiveReply(reply_id))

    def close(self, reply_id: UUID) -> None:
        self._replies.pop(reply_id, None)

    def apply(self, entries: list[Entry]) -> None:
        """Take in what a journal brought; pieces of replies that nobody here watches are dropped."""
        for entry in entries:
            live = self._replies.get(entry.reply_id)
            if live is not None and not live.apply(entry):
                self._on_gap(live)
