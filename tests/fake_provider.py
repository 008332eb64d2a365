"""A model provider for tests in a process of its own: an ASGI app that speaks both dialects at a pace.

The last user message says what it does, in double brackets: `[[deltas=100 pace=20ms]]`, `[[status=429]]`.

    deltas=N       N words (default 20)             reply=TEXT     these words, up to the closing brackets
    pace=20ms      between two deltas               first=1s       before the first delta
    reason=N       N words of reasoning first       endless        never ends by itself
    status=429     that status (retry_after=2)      times=2        so often per prompt, then it works
    cut=5          the connection is lost after 5   hang=5         silence after 5 deltas
    silent         not even headers                 error=5        an error object after 5 deltas
    html           a page in place of a stream      garbage        malformed lines between the deltas
    finish=length  the finish reason                no_usage       says nothing of tokens
    no_done        leaves out the end mark          quote          an error that quotes prompt and key

A key that contains `wrong` is refused with 401. `GET /_stats` says what happened, `POST /_reset` forgets it.
Run with `python -m tests.fake_provider --port 9000`; the base URL is `http://127.0.0.1:9000/v1` for either
dialect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_DIRECTIVES = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


class Gone(Exception):
    """The client has left."""


@dataclass
class Stats:
    calls: int = 0  #: of the two chat endpoints
    model_lists: int = 0
    open: int = 0  #: streams that run now
    max_open: int = 0
    completed: int = 0
    disconnected: int = 0  #: streams that the client left
    deltas: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)  #: the last 50 bodies


class FakeProvider:
    """The ASGI app. Constructor arguments are the defaults that a prompt may overrule."""

    def __init__(
        self, *, deltas: int = 20, pace: float = 0.0, models: Iterable[str] = ("fake-large", "fake-small")
    ) -> None:
        self.deltas = deltas
        self.pace = pace
        self.models = tuple(models)
        self.stats = Stats()
        self._tries: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        path, method = scope["path"], scope["method"]
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        key = headers.get("x-api-key") or headers.get("authorization", "")
        if path == "/_stats":
            await _answer(send, 200, vars(self.stats))
        elif path == "/_reset":
            open_now = self.stats.open
            self.stats, self._tries = Stats(open=open_now), Counter()
            await _answer(send, 200, {})
        elif "wrong" in key:
            await _answer(send, 401, _error("Incorrect API key provided: " + key, "invalid_api_key"))
        elif path.endswith("/models") and method == "GET":
            self.stats.model_lists += 1
            await _answer(send, 200, {"object": "list", "data": [{"id": name} for name in self.models]})
        elif path.endswith("/chat/completions") and method == "POST":
            await self._chat(_OpenAIWords(), key, receive, send)
        elif path.endswith("/messages") and method == "POST":
            await self._chat(_AnthropicWords(), key, receive, send)
        else:
            await _answer(send, 404, _error(f"Unknown path {path}", "not_found_error"))

    async def _chat(self, words: Words, key: str, receive: Receive, send: Send) -> None:
        body = json.loads(await _read(receive))
        self.stats.calls += 1
        self.stats.requests = [*self.stats.requests[-49:], body]
        prompt = _last_user_text(body)
        orders = _orders(prompt)
        self._tries[prompt] += 1
        failing = self._tries[prompt] <= int(orders.get("times", "1000000"))
        self.stats.open += 1
        self.stats.max_open = max(self.stats.max_open, self.stats.open)
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            if failing and "status" in orders:
                await self._refuse(orders, send)
            elif failing and "quote" in orders:
                await _answer(send, 400, _error(f"Cannot answer '{prompt}' with key {key}", "bad_request"))
            elif failing and "html" in orders:
                await _answer(send, 200, "<!doctype html><title>Sign in</title>", content_type="text/html")
            elif failing and "silent" in orders:
                await _wait(gone, 3600)
            else:
                # A word is a token here.
                most = (
                    None if "endless" in orders else body.get("max_tokens", body.get("max_completion_tokens"))
                )
                await self._stream(words, prompt, orders if failing else {}, most, gone, send)
            self.stats.completed += 1
        except Gone:
            self.stats.disconnected += 1
        finally:
            self.stats.open -= 1
            gone.cancel()

    async def _refuse(self, orders: dict[str, str], send: Send) -> None:
        status = int(orders["status"])
        extra = [(b"retry-after", orders["retry_after"].encode())] if "retry_after" in orders else []
        code = orders.get("code", "fake_error")
        await _answer(send, status, _error(f"The test asked for {status}.", code), headers=extra)

    async def _stream(
        self,
        words: Words,
        prompt: str,
        orders: dict[str, str],
        most: int | None,
        gone: asyncio.Future[None],
        send: Send,
    ) -> None:
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        }
        await send(start)
        input_tokens = max(len(prompt) // 4, 1)
        await _send_part(send, words.opening(input_tokens))
        stops = {name: int(orders[name] or 0) for name in ("cut", "hang", "error") if name in orders}
        pace = _seconds(orders["pace"]) if "pace" in orders else self.pace
        await _wait(gone, _seconds(orders.get("first", "0")))
        for number in range(int(orders.get("reason", "0"))):
            await _send_part(send, words.reasoning(f"thought{number} "))
            await _wait(gone, pace)
        sent = -1
        for sent, text in enumerate(islice(_reply(prompt, orders, self.deltas), most)):
            if sent == stops.get("hang"):
                await _wait(gone, 3600)
            if sent == stops.get("cut"):
                return  # without the last, empty part: the server closes the connection
            if sent == stops.get("error"):
                await _send_part(send, words.error())
                break
            if "garbage" in orders:
                await _send_part(send, b": keep alive\r\n\r\ndata: {not json\n\n")
            await _send_part(send, words.delta(text))
            self.stats.deltas += 1
            await _wait(gone, pace)
        else:
            usage = None if "no_usage" in orders else (input_tokens, sent + 1)
            finish = "length" if sent + 1 == most else ""
            for part in words.ending(orders.get("finish", finish), usage, done="no_done" not in orders):
                await _send_part(send, part)
        await send({"type": "http.response.body", "body": b""})


class Words:
    """How a dialect says it."""

    def opening(self, input_tokens: int) -> bytes:
        raise NotImplementedError

    def delta(self, text: str) -> bytes:
        raise NotImplementedError

    def reasoning(self, text: str) -> bytes:
        raise NotImplementedError

    def error(self) -> bytes:
        raise NotImplementedError

    def ending(self, reason: str, usage: tuple[int, int] | None, *, done: bool) -> list[bytes]:
        raise NotImplementedError


class _OpenAIWords(Words):
    def opening(self, input_tokens: int) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def delta(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def reasoning(self, text: str) -> bytes:
        return self._chunk({"reasoning_content": text})

    def error(self) -> bytes:
        return _data({"error": {"message": "The server had an error.", "type": "server_error", "code": None}})

    def ending(self, reason: str, usage: tuple[int, int] | None, *, done: bool) -> list[bytes]:
        parts = [self._chunk({}, reason or "stop")]
        if usage:
            counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
            parts.append(_data({"object": "chat.completion.chunk", "choices": [], "usage": counts}))
        return [*parts, b"data: [DONE]\n\n"] if done else parts

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _data({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "choices": [choice]})


class _AnthropicWords(Words):
    def opening(self, input_tokens: int) -> bytes:
        message = {"id": "msg_fake", "role": "assistant", "content": []}
        usage = {"input_tokens": input_tokens, "output_tokens": 1}
        return _named("message_start", {"message": {**message, "usage": usage}}) + _named(
            "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
        )

    def delta(self, text: str) -> bytes:
        return self._block_delta({"type": "text_delta", "text": text})

    def reasoning(self, text: str) -> bytes:
        return self._block_delta({"type": "thinking_delta", "thinking": text})

    def error(self) -> bytes:
        return _named("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})

    def ending(self, reason: str, usage: tuple[int, int] | None, *, done: bool) -> list[bytes]:
        reason = {"length": "max_tokens", "": "end_turn"}.get(reason, reason)
        counts = {"output_tokens": usage[1]} if usage else {}
        parts = [_named("content_block_stop", {"index": 0})]
        parts.append(_named("message_delta", {"delta": {"stop_reason": reason}, "usage": counts}))
        return [*parts, _named("message_stop", {})] if done else parts

    def _block_delta(self, delta: dict[str, str]) -> bytes:
        return _named("content_block_delta", {"index": 0, "delta": delta})


def _data(payload: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()


def _named(event: str, payload: dict[str, Any]) -> bytes:
    return f"event: {event}\n".encode() + _data({"type": event, **payload})


def _error(message: str, code: str) -> dict[str, Any]:
    return {"type": "error", "error": {"message": message, "type": code, "code": code}}


def _orders(prompt: str) -> dict[str, str]:
    """What the brackets say; `reply=` takes all that follows it."""
    orders: dict[str, str] = {}
    for text in _DIRECTIVES.findall(prompt):
        text, is_reply, reply = text.partition("reply=")
        if is_reply:
            orders["reply"] = reply
        for word in text.split():
            name, _, value = word.partition("=")
            orders[name] = value
    return orders


def _reply(prompt: str, orders: dict[str, str], deltas: int) -> Iterable[str]:
    if "endless" in orders:
        while True:
            yield "on and "
    if "reply" in orders:
        yield from re.findall(r"\S*\s*", orders["reply"])[:-1]
    elif "deltas" in orders or _DIRECTIVES.search(prompt):
        count = int(orders.get("deltas", deltas))
        yield from (f"word{number} " for number in range(count))
    else:
        yield from ["You said: ", *re.findall(r"\S*\s*", prompt)[:-1]]


def _last_user_text(body: dict[str, Any]) -> str:
    for message in reversed(body.get("messages", [])):
        if message["role"] == "user":
            content = message["content"]
            return content if isinstance(content, str) else "".join(part["text"] for part in content)
    return ""


def _seconds(text: str) -> float:
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait(gone: asyncio.Future[None], seconds: float) -> None:
    """Sleep, but not beyond the client's leaving."""
    if seconds:
        await asyncio.wait([gone], timeout=seconds)
    if gone.done():
        raise Gone


async def _send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _answer(
    send: Send,
    status: int,
    payload: object,
    *,
    content_type: str = "application/json",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    body = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    fields = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI app on a free port of this event loop; yields its address without a path.

    Without uvicorn's main loop and shutdown: they take over the process's signals and 0.1 s each.
    """
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=1)


app = FakeProvider()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a fake model provider.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--deltas", type=int, default=20)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two deltas")
    options = parser.parse_args()
    fake = FakeProvider(deltas=options.deltas, pace=options.pace)
    uvicorn.run(fake, host=options.host, port=options.port, log_level="critical", lifespan="off")


if __name__ == "__main__":
    main()
