"""What neither a provider nor a viewer can do to a reply: hold it up, fill the memory, go on for ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from asgiref.sync import sync_to_async

from conversations.llm.client import MAX_TEXT, Timeouts
from conversations.llm.openai import OpenAIProvider
from conversations.llm.scripted import Pause, ScriptedProvider
from conversations.models import Reply, ReplyState
from conversations.replies.live import KEPT

from .harness import ReplyTestCase, answer_of, catalog_of, until, watch, web_process
from .test_stream import Viewer, session_of

Writer = asyncio.StreamWriter
FINISHED = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
#: For tests of a time-out, which is waited for.
QUICK = Timeouts(connect=5.0, first_byte=1.0, between_chunks=1.0, total=1.5)
#: For the others: no time-out ends their calls before what they are about.
PATIENT = Timeouts(connect=5.0, first_byte=10.0, between_chunks=10.0, total=10.0)


def chunk(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n".encode()


@asynccontextmanager
async def provider_that(
    answers: Callable[[Writer], Awaitable[None]], timeouts: Timeouts
) -> AsyncIterator[OpenAIProvider]:
    """A server that reads a request and then writes what it likes."""

    async def answer(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answers(writer)
        except OSError:
            pass  # the call was ended
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    provider = OpenAIProvider(name="scripted", base_url=url, api_key="key", timeouts=timeouts)
    try:
        async with aclosing(provider):
            yield provider
    finally:
        server.close()


class ProviderTests(ReplyTestCase):
    async def ended(
        self, answers: Callable[[Writer], Awaitable[None]], timeouts: Timeouts
    ) -> tuple[Reply, float, str]:
        """The reply, how long it took, and what a viewer saw of it."""
        async with provider_that(answers, timeouts) as provider:
            with catalog_of(provider):
                async with web_process() as process:
                    began = time.monotonic()
                    reply = await self.astart()
                    html, open_text = await watch(process, reply.pk)
                    reply = await self.finished(reply)
                    return reply, time.monotonic() - began, html + open_text

    async def test_a_stream_without_end_ends_after_the_total_time_with_its_text(self) -> None:
        async def answers(writer: Writer) -> None:
            writer.write(HEAD)
            while True:
                writer.write(chunk("on "))
                await writer.drain()
                await asyncio.sleep(0.005)

        reply, seconds, seen = await self.ended(answers, QUICK)
        self.assertEqual((reply.state, reply.error_code), (ReplyState.INTERRUPTED, "TimedOut"))
        self.assertLess(seconds, 10)
        content = (await answer_of(reply)).content
        self.assertGreater(content.count("on "), 20)
        self.assertEqual(seen, content)

    async def test_ten_megabytes_in_one_piece_are_cut_where_no_reply_is_longer(self) -> None:
        async def answers(writer: Writer) -> None:
            writer.write(HEAD + chunk("x" * 10_000_000))
            await writer.drain()
            await asyncio.sleep(60)

        reply, seconds, seen = await self.ended(answers, PATIENT)
        self.assertEqual((reply.state, reply.error_code), (ReplyState.INTERRUPTED, "InvalidResponse"))
        content = (await answer_of(reply)).content
        self.assertEqual((len(content), len(seen)), (MAX_TEXT, MAX_TEXT))
        self.assertLess(seconds, 10)

    async def test_words_without_end_are_cut_there_too(self) -> None:
        async def answers(writer: Writer) -> None:
            writer.write(HEAD)
            while True:
                writer.write(chunk("word " * 1000) * 10)
                await writer.drain()

        reply, _, _ = await self.ended(answers, QUICK)
        self.assertEqual(reply.state, ReplyState.INTERRUPTED)
        self.assertIn(reply.error_code, ("InvalidResponse", "TimedOut"))
        self.assertLessEqual(len((await answer_of(reply)).content), MAX_TEXT)

    async def test_nothing_after_the_headers_is_a_time_out_and_tried_again(self) -> None:
        calls = []

        async def answers(writer: Writer) -> None:
            calls.append(1)
            writer.write(HEAD)
            await writer.drain()
            if len(calls) == 1:
                await asyncio.sleep(60)
            writer.write(chunk("At last.") + FINISHED)

        reply, seconds, _ = await self.ended(answers, QUICK)
        self.assertEqual(reply.state, ReplyState.COMPLETE)
        self.assertEqual((len(calls), (await answer_of(reply)).content), (2, "At last."))
        self.assertLess(seconds, 10)


class SlowViewer(Viewer):
    """Takes an event when it is let to, as a socket does whose buffer is full."""

    def __init__(self, cookie: str) -> None:
        super().__init__(cookie)
        self.reads = asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        await super().send(message)
        if message["type"] == "http.response.body":
            await self.reads.wait()


class ViewerTests(ReplyTestCase):
    async def test_one_who_reads_nothing_slows_nobody_and_holds_nothing(self) -> None:
        words = [step for n in range(8 * KEPT) for step in (f"word{n} ", Pause(seconds=0.004))]
        text = "".join(word for word in words if isinstance(word, str))
        with catalog_of(ScriptedProvider(words)):
            async with web_process() as process:
                reply = await self.astart()
                slow = SlowViewer(await sync_to_async(session_of)(self.alice))
                watching = asyncio.create_task(slow.watch(reply.pk))
                pieces = 0

                async def look() -> None:
                    nonlocal pieces
                    live = process.live.get(reply.pk)
                    while live is not None and not live.is_ended:
                        pieces = max(pieces, len(live.pieces))
                        await asyncio.sleep(0.02)

                await until(lambda: _is_open(slow))
                _, (_, seen) = await asyncio.gather(look(), watch(process, reply.pk))
                reply = await self.finished(reply)
                slow.reads.set()
                await watching
        self.assertEqual((reply.state, seen), (ReplyState.COMPLETE, text))
        self.assertLessEqual(pieces, 2 * KEPT)
        self.assertEqual(slow.events[-1][0], "done")
        self.assertLessEqual(len(slow.events), 4)  # what it missed came at once

    async def test_a_place_in_the_text_that_is_none_changes_nothing(self) -> None:
        with catalog_of(ScriptedProvider(["Some text."])):
            async with web_process():
                reply = await self.finished(await self.astart())
                cookie = await sync_to_async(session_of)(self.alice)
                bodies = set()
                for at in ("", "at=0", "at=-1", f"at={10**30}", "at=%00", "at=x&at=y"):
                    viewer = Viewer(cookie)
                    viewer.scope["query_string"] = at.encode()
                    bodies.add((await viewer.watch(reply.pk)).body)
                    self.assertEqual((viewer.status, [name for name, _ in viewer.events]), (200, ["done"]))
        self.assertEqual(len(bodies), 1)


async def _is_open(viewer: Viewer) -> bool:
    return bool(viewer.body)
