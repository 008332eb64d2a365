"""Viewers as browsers are, in one lean process: `python -m bench.client figures.json < plan.json`.

The plan names a target, its viewers and the sends of each; a send is a POST, then the event stream to its end. HTTP is
read by hand and a word of the reply is counted by its bytes: the client shares two cores with what it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode
from uuid import uuid4

import uvloop

REPLY = re.compile(rb"/replies/([0-9a-f-]{36})/stream/")
ANSWER = re.compile(rb'id=\\"m-([0-9a-f-]{36})\\"')
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
WORD = b"word"
PATIENCE = 60.0  # seconds beyond the ideal after which a reply counts as lost


class Failed(Exception):
    """What a viewer would not expect."""


class Connection(asyncio.Protocol):
    """One keep-alive connection that answers one request at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(Failed("the connection was closed"))

    async def ask(self, port: int, request: bytes, *, end_mark: bytes = b"") -> None:
        """Send; returns when the answer is whole, or for a stream when its end mark and last chunk have come."""
        if self.transport is None:
            await self.loop.create_connection(lambda: self, "127.0.0.1", port)
        self.head, self.body, self.needed = b"", [b""], -1
        self.end_mark, self.status = end_mark, 0
        self.words, self.first_word, self.last_word, self.longest_gap = 0, 0.0, 0.0, 0.0
        self.ended_at = 0.0
        self.answered = self.loop.create_future()
        assert self.transport is not None
        self.transport.write(request)
        await self.answered

    def data_received(self, data: bytes) -> None:
        if self.answered is None or self.answered.done():
            return
        if not self.status:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = int(head[9:12])
            length = LENGTH.search(head)
            self.needed = int(length[1]) if length else -1
        if self.needed >= 0:
            self.body.append(data)
            if sum(map(len, self.body)) >= self.needed:
                self.answered.set_result(None)
            return
        self.stream(data)

    def stream(self, data: bytes) -> None:
        now = time.perf_counter()
        if self.ended_at:
            self.body.append(data)
        else:
            tail = self.body[-1][-12:] + data if self.body[-1] else data
            where = tail.find(self.end_mark)
            shown = tail if where < 0 else tail[:where]
            # The last bytes of the piece before are looked at again for what was cut in two.
            count = shown.count(WORD) - (self.body[-1][-12:].count(WORD) if self.body[-1] else 0)
            if count > 0:
                if self.words:
                    self.longest_gap = max(self.longest_gap, now - self.last_word)
                else:
                    self.first_word = now
                self.words += count
                self.last_word = now
            if where >= 0:
                self.ended_at = now
                self.body = [tail[where:]]
            else:
                self.body = [tail[-40:]]
        if self.ended_at and b"".join(self.body[-2:]).endswith(b"0\r\n\r\n"):
            assert self.answered is not None
            self.answered.set_result(None)


class Viewer:
    """A person with a conversation, or (without a session) a program that asks the provider itself."""

    def __init__(self, port: int, who: dict[str, Any]) -> None:
        self.port, self.who = port, who
        self.leaf = who.get("leaf", "")
        self.posts, self.streams = Connection(), Connection()

    async def open(self) -> None:
        """Get the page of the conversation, as a browser does before there is a form to send, and read it."""
        path = f"/conversations/{self.who['conversation']}/"
        await self.posts.ask(self.port, self.request("GET", path, accept="text/html"))
        if self.posts.status != 200:
            raise Failed(f"the page was answered {self.posts.status}")
        await asyncio.sleep(self.who["reads"])

    async def send(self, deltas: int, pace: int) -> dict[str, Any]:
        figures: dict[str, Any] = {"started": time.perf_counter()}
        began = time.perf_counter()
        try:
            async with asyncio.timeout(deltas * pace / 1000 + PATIENCE):
                text = f"Tell me more. [[deltas={deltas} pace={pace}]]"
                if "session" in self.who:
                    await self.send_to_product(text, figures)
                else:
                    await self.send_to_provider(text)
                if self.streams.words != deltas:
                    raise Failed(f"{self.streams.words} words of {deltas}")
        except (Failed, OSError, TimeoutError) as error:
            self.posts, self.streams = Connection(), Connection()
            return {**figures, "error": str(error) or type(error).__name__}
        stream = self.streams
        return {
            **figures,
            "first": stream.first_word - began,
            "whole": stream.ended_at - began,
            "gap": stream.longest_gap,
            "ended": stream.ended_at,
            "leaf": self.leaf,
        }

    async def send_to_product(self, text: str, figures: dict[str, Any]) -> None:
        form = {"text": text, "key": uuid4(), "leaf": self.leaf, "place": "leaf", "model": self.who["model"]}
        began = time.perf_counter()
        path = f"/conversations/{self.who['conversation']}/messages/"
        await self.posts.ask(self.port, self.request("POST", path, urlencode(form)))
        figures["post"] = time.perf_counter() - began
        found = REPLY.search(b"".join(self.posts.body))
        if self.posts.status != 200 or not found:
            raise Failed(f"the send was answered {self.posts.status}")
        request = self.request("GET", f"/replies/{found[1].decode()}/stream/")
        await self.streams.ask(self.port, request, end_mark=b"event: done")
        end = b"".join(self.streams.body)
        answer = ANSWER.search(end)
        if self.streams.status != 200 or not answer or b'"state":"complete"' not in end:
            raise Failed(f"the stream was answered {self.streams.status} and did not complete")
        self.leaf = answer[1].decode()

    async def send_to_provider(self, text: str) -> None:
        body = json.dumps({"model": "bench", "stream": True, "messages": [{"role": "user", "content": text}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
        await self.streams.ask(self.port, (head + body).encode(), end_mark=b"[DONE]")

    def request(self, method: str, path: str, body: str = "", *, accept: str = "") -> bytes:
        """With what a browser and htmx send along."""
        host = f"127.0.0.1:{self.port}"
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: {host}",
            "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            f"accept: {accept or ('text/event-stream' if method == 'GET' else 'text/html')}",
            "accept-language: en-GB,en;q=0.5",
            f"referer: http://{host}/conversations/{self.who['conversation']}/",
            f"cookie: sessionid={self.who['session']}; csrftoken={self.who['csrf']}",
        ]
        if method == "POST":
            lines += [
                f"origin: http://{host}",
                "content-type: application/x-www-form-urlencoded",
                f"content-length: {len(body)}",
                "hx-request: true",
                "hx-target: messages",
                f"hx-current-url: http://{host}/conversations/{self.who['conversation']}/",
                f"x-csrftoken: {self.who['csrf']}",
            ]
        return "\r\n".join([*lines, "", body]).encode()


async def run(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Each viewer waits for its turn, opens its page if it `reads` one for some seconds, and sends its messages.

    One after the other; returns every send's figures.
    """
    viewers = [Viewer(plan["port"], who) for who in plan["viewers"]]
    now = asyncio.get_running_loop().time() + 0.1

    async def watch(number: int, viewer: Viewer) -> list[dict[str, Any]]:
        await asyncio.sleep(now + number * plan["spread"] - asyncio.get_running_loop().time())
        if "reads" in viewer.who:
            await viewer.open()
        sends = []
        for _ in range(plan["sends"]):
            sends.append({"viewer": number, **await viewer.send(plan["deltas"], plan["pace"])})
            await asyncio.sleep(plan.get("pause", 0.0))
        return sends

    found = await asyncio.gather(*(watch(number, viewer) for number, viewer in enumerate(viewers)))
    return [send for sends in found for send in sends]


if __name__ == "__main__":
    # Not to a pipe: a large answer did not always arrive whole.
    figures = json.dumps(uvloop.run(run(json.load(sys.stdin))))
    Path(sys.argv[1]).write_text(figures, encoding="utf-8")
