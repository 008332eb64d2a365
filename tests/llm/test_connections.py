"""Connections to servers that do not keep what they promise."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import httpx

from conversations.llm.registry import build_provider
from conversations.llm.types import ChatMessage, CompletionRequest, Finish

REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Keep-Alive: timeout=5, max=100\r\n\r\n"
)
EVENTS = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
REQUEST = CompletionRequest(
    model_id="any", messages=(ChatMessage(role="user", content="Hello"),), max_tokens=16
)


async def test_a_server_that_closes_after_each_reply_loses_no_call_that_follows_at_once() -> None:
    """llama.cpp's server says Keep-Alive, ends the stream and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REPLY + b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENTS), EVENTS))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        closed.release()

    closed = asyncio.Semaphore(0)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        provider = build_provider("openai", name="near", base_url=f"http://127.0.0.1:{port}/v1", api_key="")
        try:
            for _ in range(5):
                events = [event async for event in provider.stream(REQUEST)]
                assert isinstance(events[-1], Finish)
            async with asyncio.timeout(5):
                for _ in range(5):
                    await closed.acquire()
        finally:
            await provider.aclose()


async def test_the_prompt_does_not_stay_with_its_answer() -> None:
    """A long conversation takes 100 kB, for as long as a model writes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REPLY + b"%x\r\n%s\r\n" % (len(EVENTS), EVENTS))
        await asked.wait()
        writer.close()

    asked = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        provider = build_provider("openai", name="near", base_url=f"http://127.0.0.1:{port}/v1", api_key="")
        try:
            async with asyncio.timeout(5), aclosing(provider.stream(REQUEST)) as events:  # type: ignore[type-var]
                await anext(events)
                assert [each for each in gc.get_objects() if isinstance(each, httpx.Request)] == []
        finally:
            asked.set()
            await provider.aclose()
