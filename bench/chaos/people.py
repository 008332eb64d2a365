"""People at browsers, in a process that is never killed: `python -m bench.chaos.people < plan`.

The first line of the input is the plan; the end of the input asks them to send nothing more, see their replies to the
end and leave. What each did and saw goes to the output, a JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import uvloop

from bench.chaos.words import bare, prompt, reply_of, squeezed, utf16_length, utf16_slice

STREAM = re.compile(r'data-stream="(/replies/[0-9a-f-]{36}/stream/)"')
PLACE = re.compile(r"/conversations/([0-9a-f-]{36})/")
PROSE = re.compile(r'class="prose" dir="auto">(.*?)(?:<div class="receipt-row">|<section|\Z)', re.DOTALL)
LOST = (OSError, EOFError, TimeoutError)
PATIENCE = 90.0  # seconds that a person waits for one thing


def say(**fact: Any) -> None:
    print(json.dumps(fact), flush=True)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Person:
    ports: list[int]
    who: dict[str, Any]
    conversation: str = ""

    # --- HTTP as a browser and htmx speak it --------------------------------------------------------------

    async def open(
        self, port: int, method: str, path: str, body: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: 127.0.0.1:{port}",
            f"cookie: sessionid={self.who['session']}; csrftoken={self.who['csrf']}",
            "hx-request: true",
            "connection: close",
        ]
        if method == "POST":
            lines += [
                f"origin: http://127.0.0.1:{port}",
                f"x-csrftoken: {self.who['csrf']}",
                "content-type: application/x-www-form-urlencoded",
                f"content-length: {len(body)}",
            ]
        writer.write("\r\n".join([*lines, "", body]).encode())
        return reader, writer

    async def ask(self, port: int, method: str, path: str, body: str = "") -> Answer:
        async with asyncio.timeout(20):
            reader, writer = await self.open(port, method, path, body)
            try:
                status, headers = await read_head(reader)
                if "content-length" in headers:
                    content = await reader.readexactly(int(headers["content-length"]))
                else:
                    content = b"".join([piece async for piece in chunks(reader)])
            finally:
                writer.close()
        return Answer(status, headers, content.decode())

    async def insist(
        self, method: str, path: str, body: str = "", *, first: int | None = None
    ) -> Answer | None:
        """Ask until an answer comes that is not a failure of the server, at any process; None after a long time."""
        end, port = time.time() + PATIENCE, first or random.choice(self.ports)
        while time.time() < end:
            try:
                answer = await self.ask(port, method, path, body)
                if answer.status < 500:
                    return answer
            except LOST:
                pass
            await asyncio.sleep(random.uniform(0.05, 0.4))
            port = random.choice(self.ports)
        return None

    # --- Sending ------------------------------------------------------------------------------------------

    async def send(
        self,
        tag: str,
        *,
        words: int,
        pace: int,
        port: int | None = None,
        twice: bool = False,
        faint: bool = False,
    ) -> tuple[str, str]:
        """Send a message, again and again with the same key until it is answered; returns its text and its stream.

        `twice`: also at the same time at another process. `faint`: give up at the first failure.
        """
        text, key = prompt(tag, words=words, pace=pace), str(uuid4())
        form = {"text": text, "key": key, "leaf": "", "place": "end", "model": self.who["model"]}
        path = f"/conversations/{self.conversation}/messages/" if self.conversation else "/conversations/"
        say(what="sending", tag=tag, key=key, text=text, at=time.time())
        answers: list[Answer | None] = []
        if faint:
            try:
                answers = [await self.ask(port or random.choice(self.ports), "POST", path, urlencode(form))]
            except LOST:
                say(what="gave up", tag=tag, key=key)
                return text, ""
            if answers[0] and answers[0].status >= 500:
                say(what="gave up", tag=tag, key=key)
                return text, ""
        else:
            tries = 2 if twice else 1
            answers = list(
                await asyncio.gather(
                    *(self.insist("POST", path, urlencode(form), first=port) for _ in range(tries))
                )
            )
        stream = ""
        for answer in answers:
            status = answer.status if answer else 0
            say(what="answered", tag=tag, key=key, status=status, at=time.time())
            if answer is None or status >= 300:
                continue
            if not self.conversation:
                found = PLACE.search(answer.headers.get("hx-redirect", ""))
                if found:
                    self.conversation = found[1]
                    page = await self.insist("GET", f"/conversations/{self.conversation}/")
                    answer = page or answer
            if streams := STREAM.findall(answer.body):
                stream = streams[-1]
        return text, stream

    async def stop(self) -> None:
        """Stop the reply that is being written."""
        page = await self.insist("GET", f"/conversations/{self.conversation}/")
        for stream in STREAM.findall(page.body if page else "")[-1:]:
            await self.insist("POST", stream.removesuffix("stream/") + "stop/")

    # --- Watching -----------------------------------------------------------------------------------------

    async def watch(
        self,
        tag: str,
        text: str,
        stream: str,
        *,
        ports: list[int] | None = None,
        leave_at: list[int] | None = None,
        restless: bool = False,
    ) -> None:
        """Follow a reply to its end, through every loss of the connection, and say what was seen.

        `leave_at`: offsets at which to leave and come back elsewhere. `restless`: now and then, anywhere.
        """
        viewer = Viewer(tag=tag, whole=reply_of(text))
        end, leaves = time.time() + PATIENCE + 60, list(leave_at or [])
        while not viewer.state and time.time() < end:
            try:
                reader, writer = await self.open(random.choice(ports or self.ports), "GET", stream)
                try:
                    async with asyncio.timeout(10):
                        status, _ = await read_head(reader)
                    if status == 200:
                        await self.follow(viewer, reader, leaves, restless)
                    elif status < 500:
                        viewer.wrong.append(f"refused {status}")
                        break
                finally:
                    writer.close()
            except LOST:
                pass
            if not viewer.state:
                viewer.connections += 1
                await asyncio.sleep(0 if leave_at is not None else random.uniform(0.02, 0.3))
        viewer.report()

    async def follow(
        self, viewer: Viewer, reader: asyncio.StreamReader, leaves: list[int], restless: bool
    ) -> None:
        patience = random.randint(1, 60) if restless else 10**9
        async with aclosing(events(reader)) as found:
            async for name, data in found:
                viewer.take(name, data)
                patience -= 1
                if viewer.state or patience <= 0:
                    return
                if leaves and viewer.at >= leaves[0]:
                    leaves.pop(0)
                    viewer.left += 1
                    return

    async def live(self, name: str, over: asyncio.Event) -> None:
        """Begin conversations, send messages, watch the replies, often from two places."""
        number = 0
        while not over.is_set():
            number += 1
            if number % 4 == 1:
                self.conversation = ""
            tag = f"{name}n{number}"
            dice = random.random()
            text, stream = await self.send(
                tag,
                words=random.randint(8, 60),
                pace=20,
                twice=dice < 0.1,
                faint=0.1 < dice < 0.15 and bool(self.conversation),
            )
            if stream:
                viewers = random.choice([1, 1, 2])
                await asyncio.gather(
                    *(self.watch(tag, text, stream, restless=random.random() < 0.3) for _ in range(viewers))
                )
            else:
                self.conversation = ""  # whether a reply is on its way there is unknown
            await asyncio.sleep(random.uniform(0.0, 0.2))


@dataclass
class Viewer:
    """What one page shows, checked at every event against what the reply is known to be."""

    tag: str
    whole: str
    at: int = 0
    most: int = 0  #: the furthest offset that was on the page
    most_at: float = 0.0  #: when it came
    connections: int = 1
    left: int = 0
    back: int = 0  #: snapshots that showed less than the page had
    state: str = ""
    shown: int = -1  #: characters, without white space, of the final article
    first_at: float = 0.0
    last_at: float = 0.0  #: of the last text
    longest_gap: float = 0.0
    gap_at: float = 0.0  #: when it ended
    wrong: list[str] = field(default_factory=list)

    def take(self, name: str, data: dict[str, Any]) -> None:
        now = time.time()
        if name == "done":
            self.end(data)
            return
        if name == "delta":
            if data["at"] != self.at:
                self.wrong.append(f"delta at {data['at']} after {self.at}")
            end = data["at"] + utf16_length(data["text"])
            if utf16_slice(self.whole, data["at"], end) != data["text"]:
                self.wrong.append(f"delta at {data['at']} is not the text")
            self.at = end
        elif name in {"snapshot", "block"}:
            if name == "snapshot":
                self.back += data["at"] < self.most
                shown = bare(data["html"]) + squeezed(data["open"])
                if shown != squeezed(utf16_slice(self.whole, 0, data["at"])):
                    self.wrong.append(f"snapshot at {data['at']} is not the text")
            elif data["at"] < self.at:
                self.wrong.append(f"block at {data['at']} after {self.at}")
            self.at = data["at"]
        if self.at > self.most:
            if self.last_at and now - self.last_at > self.longest_gap:
                self.longest_gap, self.gap_at = now - self.last_at, now
            self.first_at = self.first_at or now
            self.most, self.most_at, self.last_at = self.at, now, now

    def end(self, data: dict[str, Any]) -> None:
        self.state = data["state"]
        prose = PROSE.search(data["html"])
        shown = bare(prose[1]) if prose else ""
        if not squeezed(self.whole).startswith(shown):
            self.wrong.append("the final article is not the text")
        self.shown = len(shown)

    def report(self) -> None:
        facts = {name: value for name, value in vars(self).items() if name != "whole"}
        say(what="saw", ended_at=time.time(), **facts)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(":", 1) for line in head[1:] if ":" in line)
    return int(head[0].split()[1]), {name.lower(): value.strip() for name, value in fields}


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body. Raises EOFError when it is cut."""
    while True:
        line = await reader.readuntil(b"\r\n")
        piece = await reader.readexactly(int(line, 16) + 2)
        if len(piece) == 2:
            return
        yield piece[:-2]


async def events(reader: asyncio.StreamReader) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    waiting = b""
    async for piece in chunks(reader):
        *whole, waiting = (waiting + piece).split(b"\n\n")
        for part in whole:
            if part.startswith(b"event: "):
                name, data = part.removeprefix(b"event: ").split(b"\ndata: ", 1)
                yield name.decode(), json.loads(data)


async def crowd(plan: dict[str, Any], over: asyncio.Event) -> None:
    """Everybody lives until the end of the input."""
    people = [Person(plan["ports"], who) for who in plan["people"]]
    await asyncio.gather(
        *(person.live(f"{plan['name']}p{number}", over) for number, person in enumerate(people))
    )


async def sit(plan: dict[str, Any], over: asyncio.Event) -> None:
    """One message of each person, sent to the first process, watched at the named ones from beginning to end."""

    async def one(number: int, order: dict[str, Any]) -> None:
        person, tag = Person(plan["ports"], plan["people"][number]), f"{plan['name']}p{number}"
        text, stream = await person.send(tag, words=order["words"], pace=order["pace"], port=plan["ports"][0])
        leaves = sorted(random.sample(range(utf16_length(reply_of(text))), order.get("leaves", 0)))
        await asyncio.gather(
            *(
                person.watch(
                    tag,
                    text,
                    stream,
                    ports=[plan["ports"][place]],
                    leave_at=leaves if order.get("leaves") and place else None,
                )
                for place in order["places"]
            )
        )

    await asyncio.gather(*(one(number, order) for number, order in enumerate(plan["orders"])))


async def race(plan: dict[str, Any], over: asyncio.Event) -> None:
    """Sends that meet: the same one twice, then two different ones, at two processes at the same moment."""
    for number in range(plan["rounds"]):
        person = Person(plan["ports"], plan["people"][number % len(plan["people"])])
        tag = f"{plan['name']}r{number}"
        text, stream = await person.send(tag, words=2, pace=5)  # begins a conversation
        await person.watch(tag, text, stream) if stream else None
        same, other = f"{tag}same", f"{tag}other"
        form = {"leaf": "", "place": "end", "model": person.who["model"]}
        path = f"/conversations/{person.conversation}/messages/"
        twin = urlencode({**form, "key": (key := str(uuid4())), "text": prompt(same, words=2, pace=5)})
        answers = await asyncio.gather(*(person.ask(port, "POST", path, twin) for port in person.ports[:2]))
        say(what="twins", tag=same, key=key, statuses=[answer.status for answer in answers])
        streams = [found for answer in answers for found in STREAM.findall(answer.body)]
        if streams:
            await person.watch(same, prompt(same, words=2, pace=5), streams[-1])
        rivals = [
            urlencode({**form, "key": str(uuid4()), "text": prompt(f"{other}{n}", words=2, pace=5)})
            for n in (0, 1)
        ]
        met = await asyncio.gather(
            *(person.ask(port, "POST", path, body) for port, body in zip(person.ports, rivals, strict=False))
        )
        say(what="rivals", tag=other, statuses=[answer.status for answer in met])
        for answer in met:
            for found in STREAM.findall(answer.body)[-1:]:
                winner = re.search(rf"\[\[tag=({other}\d)", answer.body)
                if winner:
                    await person.watch(winner[1], prompt(winner[1], words=2, pace=5), found)


async def money(plan: dict[str, Any], over: asyncio.Event) -> None:
    """Everybody begins a conversation at the same moment, at one process or another."""

    async def one(number: int, who: dict[str, Any]) -> Person:
        person, tag = Person(plan["ports"], who), f"{plan['name']}m{number:03}"
        form = {
            "text": prompt(tag, words=100, pace=300, first=3000),
            "key": str(uuid4()),
            "model": who["model"],
        }
        port, body = plan["ports"][number % 2], urlencode({**form, "leaf": "", "place": ""})
        answer = await person.insist("POST", "/conversations/", body, first=port)
        say(what="money", tag=tag, status=answer.status if answer else 0)
        if answer and answer.status < 300 and (found := PLACE.search(answer.headers.get("hx-redirect", ""))):
            person.conversation = found[1]
        return person

    people = await asyncio.gather(*(one(number, who) for number, who in enumerate(plan["people"])))
    if plan["stop"]:
        # The race is over when everybody has been answered.
        await asyncio.gather(*(person.stop() for person in people if person.conversation))


async def main() -> None:
    plan = json.loads(sys.stdin.readline())
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)  # readable again: it has ended
    acts = {"crowd": crowd, "sit": sit, "race": race, "money": money}
    say(what="here", at=time.time())
    await acts[plan["act"]](plan, over)
    say(what="left", at=time.time())


if __name__ == "__main__":
    uvloop.run(main())
