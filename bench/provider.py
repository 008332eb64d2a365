"""A model provider of known pace that is never the bottleneck: `python -m bench.provider --port 9000`.

Speaks Chat Completions on a bare asyncio protocol. The last user message says what it answers,
`[[deltas=100 pace=20]]`: so many words, so many milliseconds apart on a fixed schedule, the first one at once.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import re
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ORDERS = re.compile(r"\[\[deltas=(\d+) pace=(\d+)\]\]")


def chunk(payload: str) -> bytes:
    data = f"data: {payload}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def completion(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
    }
    return chunk(json.dumps({**head, "choices": [choice]}))


@functools.cache
def word(number: int) -> bytes:
    return completion({"content": f"word{number} "})


def ending(deltas: int) -> bytes:
    usage = {"prompt_tokens": 100, "completion_tokens": deltas, "total_tokens": 100 + deltas}
    last = chunk(json.dumps({"object": "chat.completion.chunk", "choices": [], "usage": usage}))
    return completion({}, "stop") + last + chunk("[DONE]") + b"0\r\n\r\n"


class Stream(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.received = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self.received = b""
        text = json.loads(body)["messages"][-1]["content"] if body else ""
        # The last ones: what is recalled of earlier messages stands before the question.
        *_, (deltas, pace) = [("0", "0"), *ORDERS.findall(text)]
        self.deltas, self.pace = int(deltas), int(pace) / 1000
        self.began, self.sent = self.loop.time(), 0
        self.transport.write(HEAD)
        self.go_on()

    def go_on(self) -> None:
        """Send what is due by the schedule, then wait for the next."""
        now = self.loop.time() - self.began
        while self.sent < self.deltas and self.sent * self.pace <= now + 0.0005:
            self.transport.write(word(self.sent))
            self.sent += 1
        if self.sent < self.deltas:
            self.timer = self.loop.call_at(self.began + self.sent * self.pace, self.go_on)
        else:
            self.transport.write(ending(self.deltas))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
