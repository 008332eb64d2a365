"""A model provider that may be killed: it writes down each call and each end in a file that outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from pathlib import Path
from typing import cast

import uvloop

from bench.chaos.words import ORDERS, word

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(payload: str) -> bytes:
    data = f"data: {payload}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def completion(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return chunk(json.dumps({"id": "chatcmpl-chaos", "object": "chat.completion.chunk", "choices": [choice]}))


class Stream(asyncio.Protocol):
    """One connection: requests one after the other, words on a fixed schedule."""

    def __init__(self, record: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.record = record
        self.received = b""
        self.timer: asyncio.TimerHandle | None = None
        self.tag = ""

    def write_down(self, what: str, **more: object) -> None:
        line = json.dumps({"what": what, "tag": self.tag, "at": time.time(), **more}) + "\n"
        os.write(self.record, line.encode())  # one short write on O_APPEND is whole, whoever dies

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.tag:
            self.write_down("left", words=self.sent)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self.received = b""
        request = json.loads(body)
        # Questions without an answer between them come as one message: the last is the one asked.
        *_, orders = [None, *ORDERS.finditer(request["messages"][-1]["content"])]
        self.transport.write(HEAD)
        if orders is None or request["model"] != "fake-large":  # a title is asked for
            self.transport.write(completion({"content": "A talk about more"}) + self.ending(20, 4))
            return
        self.tag, self.words = orders[1], int(orders[2])
        self.pace, self.sent = int(orders[3]) / 1000, 0
        self.began = self.loop.time() + int(orders[4]) / 1000
        self.write_down("called")
        self.transport.write(completion({"reasoning_content": "Let me think. "}))
        self.timer = self.loop.call_at(self.began, self.go_on)

    def go_on(self) -> None:
        now = self.loop.time() - self.began
        while self.sent < self.words and self.sent * self.pace <= now + 0.0005:
            self.transport.write(completion({"content": word(self.tag, self.sent)}))
            self.sent += 1
        if self.sent < self.words:
            self.timer = self.loop.call_at(self.began + self.sent * self.pace, self.go_on)
        else:
            self.write_down("ended", words=self.sent)
            self.tag = ""
            self.transport.write(self.ending(20, self.sent))

    def ending(self, prompt: int, completed: int) -> bytes:
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completed,
            "total_tokens": prompt + completed,
        }
        last = chunk(json.dumps({"object": "chat.completion.chunk", "choices": [], "usage": usage}))
        return completion({}, "stop") + last + chunk("[DONE]") + b"0\r\n\r\n"


def run(port: int, record: Path) -> None:
    """Serve until killed, writing calls down in `record`."""
    file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Stream(file), "127.0.0.1", port, backlog=2048, reuse_address=True
        )
        await server.serve_forever()

    uvloop.run(serve())
