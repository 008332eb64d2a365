"""One reply's text as a process shows it: rendered once for all its viewers, and never in the way of other replies."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from conversations.journal import Entry
from conversations.markdown import render_markdown
from conversations.replies.live import KEPT, BlockClosed, Change, Delta, Idle, LiveReply, Snapshot, Viewer
from conversations.text import utf16_length

#: Each keeps the renderer busy for half a second or so.
HOSTILE = {
    "brackets": "[" * 40_000,
    "list": "- a\n" * 10_000,
    "code": "```c#\n" + "a\n" * 15_000 + "```\n",
}


class Text:
    """A reply that is being written."""

    def __init__(self) -> None:
        self.live = LiveReply(uuid4(), epoch=1)
        self.written = ""

    def write(self, text: str) -> None:
        self.live.apply(Entry(reply_id=self.live.reply_id, epoch=1, at=utf16_length(self.written), text=text))
        self.written += text


class Page:
    """What a browser makes of the changes."""

    def __init__(self) -> None:
        self.html = self.open_text = ""
        self.at = 0

    def take(self, change: Change) -> None:
        match change:
            case Snapshot(html=html, open_text=open_text, at=at):
                self.html, self.open_text, self.at = html, open_text, at
            case BlockClosed(html=html, open_text=open_text, at=at):
                self.html, self.open_text, self.at = self.html + html, open_text, at
            case Delta(at=at, text=text):
                assert at == self.at, "a gap or a repeat"
                self.open_text, self.at = self.open_text + text, at + utf16_length(text)

    async def watch(self, text: Text) -> Page:
        async with asyncio.timeout(20):
            viewer = Viewer(text.live)
            text.live.viewers.add(viewer)
            async for change in viewer.changes():
                self.take(change)
        return self


async def longest_pause(until: asyncio.Task[Page]) -> float:
    """How long the event loop answered nobody."""
    longest = 0.0
    while not until.done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - before)
    return longest


@pytest.fixture
def collector_as_in_a_web_process() -> Iterator[None]:
    """As `chatapp.asgi` sets it: a collection of all that the tests have loaded would stop every thread."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 20)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("collector_as_in_a_web_process")
async def test_a_hostile_block_does_not_hold_up_other_streams(name: str) -> None:
    render_markdown("```c#\nx\n```\n[x](http://a.example/)")  # what is loaded once is loaded
    began = time.perf_counter()
    whole = render_markdown(f"Begin\n\n{HOSTILE[name]}\n\nEnd\n\n")
    alone = time.perf_counter() - began
    pauses = []
    for _ in range(3):  # a busy machine makes pauses of its own
        page, pause = await written_and_watched(HOSTILE[name])
        assert (page.html, page.open_text) == (whole, "x")
        pauses.append(pause)
        if pause < alone / 4:
            return
    raise AssertionError(f"{pauses} s of {alone:.2f} s")


async def written_and_watched(hostile: str) -> tuple[Page, float]:
    """What a viewer has at the end, and how long others had to wait meanwhile."""
    text = Text()
    text.write("Begin\n\n")
    watching = asyncio.create_task(Page().watch(text))
    pausing = asyncio.create_task(longest_pause(watching))
    await asyncio.sleep(0)
    for start in range(0, len(hostile), 4_000):
        text.write(hostile[start : start + 4_000])
        await asyncio.sleep(0)
    text.write("\n\nEnd\n\nx")
    text.live.end()
    return await watching, await pausing


async def test_viewers_that_come_and_leave_while_a_block_is_rendered_see_all_of_it() -> None:
    text = Text()
    text.write(HOSTILE["list"] + "\n\nNext 🙂\n\n")
    first, second = (asyncio.create_task(Page().watch(text)) for _ in range(2))
    await asyncio.sleep(0.02)
    first.cancel()
    for word in ("some ", "words ", "meanwhile\n\n", "and one "):
        text.write(word)
        await asyncio.sleep(0.01)
    late = asyncio.create_task(Page().watch(text))
    await asyncio.sleep(0.02)
    text.write("more")
    text.live.end()
    for page in await asyncio.gather(second, late):
        assert page.html == render_markdown(text.written.removesuffix("and one more"))
        assert page.open_text == "and one more"
        assert page.at == utf16_length(text.written)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_viewer_that_falls_behind_is_sent_a_snapshot_and_holds_nothing() -> None:
    text = Text()
    viewer, page = Viewer(text.live), Page()
    text.live.viewers.add(viewer)
    changes = viewer.changes()
    page.take(await anext(changes))
    for number in range(10 * KEPT):
        text.write(f"word{number} ")
        await text.live.render()  # as a quick viewer beside it does
    assert len(text.live.pieces) <= 2 * KEPT
    missed = await anext(changes)
    page.take(missed)
    assert isinstance(missed, Snapshot)
    text.write("end")
    text.live.end()
    async for change in changes:
        page.take(change)
    assert page.open_text == text.written


async def test_what_nobody_watches_is_kept_in_few_pieces_and_whole() -> None:
    text = Text()
    for number in range(10 * KEPT):
        text.write(f"line {number}\n\n" if number % 5 == 0 else f"word{number} ")
        assert len(text.live.pieces) <= 2 * KEPT + 1
    watching = asyncio.create_task(Page().watch(text))
    await asyncio.sleep(0)
    text.write("x")
    text.live.end()
    page = await watching
    assert (
        page.html + page.open_text
        == render_markdown(text.written.removesuffix(page.open_text)) + page.open_text
    )
    assert page.at == utf16_length(text.written) and page.open_text.endswith("x")


async def test_a_viewer_that_leaves_is_told_nothing_more() -> None:
    text = Text()
    viewer = Viewer(text.live)
    text.live.viewers.add(viewer)
    changes = viewer.changes()
    await anext(changes)
    waiting = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    viewer.nudge()
    assert isinstance(await waiting, Idle)
    waiting = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    viewer.leave()
    assert await waiting is None
