"""Calls over a real connection: replies, refusals, time limits, and who closes when."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, cast

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from conversations.llm import errors
from conversations.llm.client import HttpProvider, Timeouts
from conversations.llm.errors import LLMError
from conversations.llm.openai import OpenAIProvider
from conversations.llm.registry import DIALECTS, build_provider
from conversations.llm.transport import _new_session
from conversations.llm.types import (
    ChatMessage,
    CompletionRequest,
    Finish,
    FinishReason,
    PromptCounted,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
)
from tests.fake_provider import FakeProvider, serving

QUICK = Timeouts(
    connect=1,
    first_byte=0.4,
    between_chunks=0.4,
    total=1.0,
    list_models=0.4,
    after_finish=0.2,
    error_body=0.3,
)
PATIENT = Timeouts(after_finish=0.2, error_body=0.3)
DONE = b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def ask(text: str, model_id: str = "fake-large") -> CompletionRequest:
    message = ChatMessage(role="user", content=text)
    return CompletionRequest(model_id=model_id, messages=(message,), max_tokens=100)


@asynccontextmanager
async def provider_at(
    base_url: str,
    *,
    dialect: str = "openai",
    key: str = "key-of-the-test",
    timeouts: Timeouts = PATIENT,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[HttpProvider]:
    provider = DIALECTS[dialect](
        name="fake", base_url=base_url, api_key=key, transport=transport, timeouts=timeouts
    )
    async with aclosing(provider):
        yield provider


@asynccontextmanager
async def faked(
    dialect: str = "openai", *, key: str = "key-of-the-test", timeouts: Timeouts = PATIENT
) -> AsyncIterator[tuple[HttpProvider, FakeProvider]]:
    fake = FakeProvider()
    async with (
        serving(fake) as url,
        provider_at(f"{url}/v1", dialect=dialect, key=key, timeouts=timeouts) as provider,
    ):
        yield provider, fake


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """A server that says exactly what a test wants, once per connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(
        (line for line in head.splitlines() if line.startswith("content-length:")), "content-length: 0"
    )
    await reader.readexactly(int(length.split(":")[1]))


def answering(response: bytes, *, then: float = 0.0) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response)
        await writer.drain()
        await asyncio.sleep(then)

    return handle


def http_answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def collect(provider: HttpProvider, request: CompletionRequest) -> tuple[str, LLMError | Finish]:
    """The text, and how it ended."""
    text = ""
    try:
        async for event in provider.stream(request):
            match event:
                case TextDelta(text=delta):
                    text += delta
                case Finish():
                    return text, event
    except LLMError as error:
        return text, error
    raise AssertionError("a stream without an end")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(1):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("dialect", DIALECTS)
class TestBothDialects:
    async def test_a_reply_comes_with_its_usage(self, dialect: str) -> None:
        async with faked(dialect) as (provider, fake):
            text, end = await collect(provider, ask("[[deltas=3]] Tell me"))
        assert text == "word0 word1 word2 "
        assert isinstance(end, Finish) and end.reason is FinishReason.STOP
        assert end.usage is not None
        assert (end.usage.input_tokens, end.usage.output_tokens) == (5, 3)
        assert fake.stats.requests[0]["model"] == "fake-large"

    async def test_reasoning_comes_apart(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            events = [event async for event in provider.stream(ask("[[reason=2 reply=So it is]]"))]
        kinds = [type(event) for event in events if not isinstance(event, PromptCounted)]
        assert kinds[:2] == [ReasoningDelta] * 2 and kinds[-1] is Finish
        assert set(kinds[2:-1]) == {TextDelta}

    async def test_what_comes_in_a_pause_is_one_delta(self, dialect: str) -> None:
        paused: list[float] = []

        async def pause() -> None:
            paused.append(0.1)
            await asyncio.sleep(0.1)

        async with faked(dialect) as (provider, _):
            events = [event async for event in provider.stream(ask("[[deltas=20 pace=5ms]]"), pause=pause)]
        texts = [event.text for event in events if isinstance(event, TextDelta)]
        assert "".join(texts) == "".join(f"word{number} " for number in range(20))
        assert len(texts) < 10 and paused

    async def test_silence_about_tokens_is_no_usage(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            _, end = await collect(provider, ask("[[no_usage finish=length no_done]]"))
        assert isinstance(end, Finish) and end.reason is FinishReason.LENGTH
        assert dialect == "anthropic" or end.usage is None

    @pytest.mark.parametrize(
        ("order", "expected", "retry_after"),
        [
            ("status=401", errors.AuthenticationFailed, None),
            ("status=403", errors.PermissionRefused, None),
            ("status=404", errors.ModelNotFound, None),
            ("status=400", errors.RequestRefused, None),
            ("status=400 code=context_length_exceeded", errors.ContextLengthExceeded, None),
            ("status=429 retry_after=2", errors.RateLimited, 2.0),
            ("status=429 code=insufficient_quota", errors.QuotaExhausted, None),
            ("status=500", errors.ProviderFailed, None),
            ("status=529", errors.Overloaded, None),
            ("html", errors.InvalidResponse, None),
        ],
    )
    async def test_a_refusal_has_its_error(
        self, dialect: str, order: str, expected: type[LLMError], retry_after: float | None
    ) -> None:
        async with faked(dialect) as (provider, _):
            text, end = await collect(provider, ask(f"[[{order}]]"))
        assert (text, type(end)) == ("", expected)
        assert isinstance(end, LLMError) and end.retry_after == retry_after

    async def test_a_lost_connection_keeps_the_text_and_is_interrupted(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            text, end = await collect(provider, ask("[[cut=2]]"))
        assert (text, type(end)) == ("word0 word1 ", errors.StreamInterrupted)

    async def test_an_error_in_mid_stream_keeps_the_text(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            text, end = await collect(provider, ask("[[error=2]]"))
        assert text == "word0 word1 "
        assert type(end) is (errors.Overloaded if dialect == "anthropic" else errors.ProviderFailed)

    async def test_malformed_lines_are_skipped(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            text, end = await collect(provider, ask("[[garbage deltas=2]]"))
        assert text == "word0 word1 " and isinstance(end, Finish)

    async def test_a_wrong_key_is_named_and_not_repeated(self, dialect: str) -> None:
        async with faked(dialect, key="wrong-key-4711") as (provider, _):
            _, end = await collect(provider, ask("Hello"))
            with pytest.raises(errors.AuthenticationFailed) as caught:
                await provider.list_models()
        assert isinstance(end, errors.AuthenticationFailed)
        for error in (end, caught.value):
            assert error.detail and "4711" not in f"{error} {error!r} {error.detail}"

    async def test_the_detail_holds_neither_key_nor_prompt(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            _, end = await collect(provider, ask("[[quote]] my secret plan"))
        assert isinstance(end, errors.RequestRefused)
        assert "secret" not in repr(end) and "key-of-the-test" not in repr(end)

    async def test_models_are_listed(self, dialect: str) -> None:
        async with faked(dialect) as (provider, _):
            models = await provider.list_models()
        assert [model.model_id for model in models] == ["fake-large", "fake-small"]


class TestTimeLimits:
    @pytest.mark.parametrize(
        ("order", "text", "at_most"),
        [("silent", "", 2), ("hang=2", "word0 word1 ", 2), ("endless pace=50ms", None, 3)],
    )
    async def test_waiting_ends(self, order: str, text: str | None, at_most: float) -> None:
        async with faked(timeouts=QUICK) as (provider, fake):
            start = time.monotonic()
            got, end = await collect(provider, ask(f"[[{order}]]"))
            assert time.monotonic() - start < at_most
            assert type(end) is errors.TimedOut
            assert got.startswith("on and on") if text is None else got == text
            await until(lambda: fake.stats.open == 0)

    async def test_a_model_that_thinks_may_be_silent_for_longer(self) -> None:
        patient = Timeouts(first_byte=0.1, between_chunks=0.1, thinking=2.0)
        async with faked(timeouts=patient) as (provider, _):
            _, end = await collect(provider, ask("[[first=300ms deltas=1]]", "gpt-5"))
            assert isinstance(end, Finish)
            _, end = await collect(provider, ask("[[first=300ms deltas=1]]", "gpt-4o"))
            assert type(end) is errors.TimedOut

    async def test_a_server_that_does_not_close_after_the_last_word_is_not_waited_for(self) -> None:
        stream = DONE.removesuffix(b"data: [DONE]\n\n")
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + stream
        async with (
            raw_server(answering(answer, then=30)) as url,
            provider_at(url, timeouts=QUICK) as provider,
        ):
            start = time.monotonic()
            text, end = await collect(provider, ask("Hello"))
        assert text == "ok" and isinstance(end, Finish)
        assert time.monotonic() - start < 2

    async def test_a_list_of_models_that_does_not_come_is_given_up(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
        for answer in (b"", head):
            async with (
                raw_server(answering(answer, then=30)) as url,
                provider_at(url, timeouts=QUICK) as provider,
            ):
                with pytest.raises(errors.TimedOut):
                    await asyncio.wait_for(provider.list_models(), 2)


async def test_an_address_without_a_list_of_models_is_not_a_missing_model() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(404, html="<h1>Not Found</h1>"))
    async with provider_at("http://provider.test", transport=transport) as provider:
        with pytest.raises(errors.InvalidResponse):
            await provider.list_models()


class TestConnections:
    async def test_a_refused_connection_was_never_billed(self) -> None:
        async with provider_at("http://127.0.0.1:9/v1") as provider:
            _, end = await collect(provider, ask("Hello"))
        assert type(end) is errors.ConnectionFailed and not end.billable

    async def test_a_name_that_does_not_resolve_is_a_failed_connection(self) -> None:
        async with provider_at("http://nobody.invalid/v1") as provider:
            _, end = await collect(provider, ask("Hello"))
        assert type(end) is errors.ConnectionFailed

    async def test_a_connection_lost_after_the_request_may_be_billed(self) -> None:
        async with raw_server(answering(b"")) as url, provider_at(url) as provider:
            _, end = await collect(provider, ask("Hello"))
        assert type(end) is errors.StreamInterrupted and end.billable

    async def test_something_that_is_not_http_is_named(self) -> None:
        async with raw_server(answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")) as url, provider_at(url) as provider:
            _, end = await collect(provider, ask("Hello"))
        assert isinstance(end, LLMError)

    async def test_cancelling_closes_the_connection_at_once(self) -> None:
        async with faked() as (provider, fake):
            task = asyncio.create_task(collect(provider, ask("[[endless pace=10ms]]")))
            await until(lambda: fake.stats.deltas > 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: fake.stats.disconnected == 1)
            assert fake.stats.open == 0

    async def test_cancelling_before_the_first_byte_closes_the_connection(self) -> None:
        async with faked() as (provider, fake):
            task = asyncio.create_task(collect(provider, ask("[[silent]]")))
            await until(lambda: fake.stats.open == 1)
            task.cancel()
            await asyncio.wait([task], timeout=1)
            await until(lambda: fake.stats.disconnected == 1)

    async def test_closing_the_iterator_closes_the_connection(self) -> None:
        async with faked() as (provider, fake):
            stream = cast("Any", provider.stream(ask("[[endless pace=10ms]]")))
            async with aclosing(stream):
                first: StreamEvent = await anext(stream)
            assert first == TextDelta(text="on and ")
            await until(lambda: fake.stats.disconnected == 1)

    async def test_the_next_call_uses_the_connection_again_where_connections_are_kept(self) -> None:
        connections = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                await read_request(reader)
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(f"{len(DONE):x}\r\n".encode() + DONE + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.write(b"0\r\n\r\n")

        transport = AiohttpTransport(client=partial(_new_session, keep_connections=True))
        async with raw_server(handle) as url, provider_at(url, transport=transport) as provider:
            for _ in range(3):
                text, _end = await collect(provider, ask("Hello"))
                assert text == "ok"
        assert connections == 1

    async def test_a_local_server_that_breaks_its_promise_to_keep_the_connection_loses_no_call(self) -> None:
        answer = http_answer(DONE, headers="Connection: keep-alive\r\n")
        async with raw_server(answering(answer)) as url, provider_at(url) as provider:
            for _ in range(3):
                text, end = await collect(provider, ask("Hello"))
                assert text == "ok" and isinstance(end, Finish)

    async def test_a_hundred_streams_run_at_once(self) -> None:
        async with faked() as (provider, fake):
            order = ask("[[deltas=10 pace=50ms]]")
            replies = await asyncio.gather(*(collect(provider, order) for _ in range(100)))
        assert fake.stats.max_open == 100
        assert all(isinstance(end, Finish) for _, end in replies)


class TestProxies:
    async def test_the_proxy_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[bytes] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n"))
            await answering(http_answer(DONE))(reader, writer)

        async with raw_server(handle) as proxy:
            monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
            async with provider_at("http://provider.test/v1") as provider:
                text, _ = await collect(provider, ask("Hello"))
        assert text == "ok"
        assert asked == [b"POST http://provider.test/v1/chat/completions HTTP/1.1\r\n"]

    async def test_this_machine_is_asked_directly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        async with faked() as (provider, _):
            _, end = await collect(provider, ask("Hello"))
        assert isinstance(end, Finish)


class TestStrangeAnswers:
    async def test_a_redirect_is_not_followed(self) -> None:
        async with faked() as (_, fake), serving(fake) as target:
            headers = f"Location: {target}/v1/chat/completions\r\n"
            answer = http_answer(b"", status="307 Temporary Redirect", headers=headers)
            async with raw_server(answering(answer)) as url, provider_at(url) as provider:
                _, end = await collect(provider, ask("Hello"))
        assert type(end) is errors.InvalidResponse and not end.billable
        assert fake.stats.calls == 0

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b"<!doctype html><title>Proxy</title>", errors.InvalidResponse),
            (b"", errors.StreamInterrupted),
            (b"[]", errors.InvalidResponse),
            (b"{", errors.InvalidResponse),
            (b"Hello, I am a gateway\n\n", errors.StreamInterrupted),
            (b"data: Hello\n\n", errors.InvalidResponse),
            (b'{"error": {"message": "no", "code": "insufficient_quota"}}', errors.QuotaExhausted),
            (b'[{"error": {"code": 429, "message": "slow"}}]', errors.RateLimited),
        ],
    )
    async def test_what_is_no_reply_has_its_error(self, body: bytes, expected: type[LLMError]) -> None:
        async with raw_server(answering(http_answer(body))) as url, provider_at(url) as provider:
            text, end = await collect(provider, ask("Hello"))
        assert (text, type(end)) == ("", expected)

    @pytest.mark.parametrize(
        ("dialect", "document"),
        [
            (
                "openai",
                {
                    "choices": [{"index": 0, "message": {"content": "Whole"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 4, "completion_tokens": 1},
                },
            ),
            (
                "anthropic",
                {
                    "type": "message",
                    "content": [{"type": "text", "text": "Whole"}],
                    "stop_reason": "end_turn",
                    "usage": {"input_tokens": 4, "output_tokens": 1},
                },
            ),
        ],
    )
    async def test_a_relay_that_does_not_stream_still_answers(self, dialect: str, document: object) -> None:
        body = json.dumps(document, indent=1).encode()
        async with (
            raw_server(answering(http_answer(body))) as url,
            provider_at(url, dialect=dialect) as provider,
        ):
            text, end = await collect(provider, ask("Hello"))
        assert text == "Whole"
        assert isinstance(end, Finish) and end.usage is not None and end.usage.input_tokens == 4

    async def test_a_compressed_reply_is_read_although_none_was_asked_for(self) -> None:
        answer = http_answer(gzip.compress(DONE), headers="Content-Encoding: gzip\r\n")
        async with raw_server(answering(answer)) as url, provider_at(url) as provider:
            text, end = await collect(provider, ask("Hello"))
        assert text == "ok" and isinstance(end, Finish)

    async def test_an_error_body_without_end_is_cut(self) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 500 Sorry\r\nContent-Length: 999999999\r\n\r\n")
            while True:
                writer.write(b"error " * 1000)
                await writer.drain()

        async with raw_server(handle) as url, provider_at(url) as provider:
            _, end = await collect(provider, ask("Hello"))
        assert isinstance(end, errors.ProviderFailed) and len(end.detail) <= 300

    async def test_a_line_without_end_is_given_up(self) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\ndata: ")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

        async with raw_server(handle) as url, provider_at(url) as provider:
            _, end = await collect(provider, ask("Hello"))
        assert type(end) is errors.InvalidResponse

    @pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "\0"])
    async def test_a_key_that_cannot_be_sent_is_a_wrong_key(self, key: str) -> None:
        async with faked(key=key) as (provider, _):
            _, end = await collect(provider, ask("Hello"))
        assert type(end) is errors.AuthenticationFailed

    async def test_text_that_no_encoding_holds_is_sent_all_the_same(self) -> None:
        async with faked() as (provider, _):
            _, end = await collect(provider, ask("lone \ud83d surrogate"))
        assert isinstance(end, Finish)


async def test_the_window_is_read_where_the_list_names_it() -> None:
    rows = [
        {"id": "a", "context_length": 1000},
        {"id": "b", "max_model_len": 2000},
        {"id": "c", "meta": {"n_ctx": 3000}},
        {"id": "models/d", "context_length": None},
        {"no": "id"},
        "nonsense",
    ]
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": rows}))
    async with provider_at("http://provider.test/v1", transport=transport) as provider:
        models = await provider.list_models()
    assert [(m.model_id, m.context_window) for m in models] == [
        ("a", 1000),
        ("b", 2000),
        ("c", 3000),
        ("d", None),
    ]


@pytest.mark.parametrize("base_url", ["https://api.anthropic.com", "https://api.anthropic.com/v1/"])
async def test_anthropics_address_is_taken_with_and_without_its_version(base_url: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"data": []})

    transport = httpx.MockTransport(answer)
    async with provider_at(base_url, dialect="anthropic", transport=transport) as provider:
        await provider.list_models()
    assert str(asked[0].url) == "https://api.anthropic.com/v1/models?limit=1000"
    assert asked[0].headers["x-api-key"] == "key-of-the-test"
    assert "authorization" not in asked[0].headers


async def test_a_local_server_needs_no_key() -> None:
    async with faked(key="") as (provider, _):
        _, end = await collect(provider, ask("Hello"))
    assert isinstance(end, Finish)


def test_a_provider_does_not_show_its_key() -> None:
    provider = build_provider(
        "openai",
        name="mine",
        base_url="https://example.com/v1",
        api_key="my-key",
        transport=httpx.MockTransport(lambda request: httpx.Response(500)),
    )
    assert isinstance(provider, OpenAIProvider)
    assert repr(provider) == "<OpenAIProvider mine>"


async def test_an_error_in_the_middle_of_an_answer_quotes_the_prompt_no_more_than_one_before_it() -> None:
    begun = b'data: {"choices":[{"index":0,"delta":{"content":"ok"}}]}\n\n'
    error = b'data: {"error":{"message":"refused: my secret plan, all of it","code":400}}\n\n'
    async with raw_server(answering(http_answer(begun + error))) as url, provider_at(url) as provider:
        text, end = await collect(provider, ask("my secret plan, all of it"))
    assert text == "ok" and isinstance(end, LLMError)
    assert "secret" not in f"{end!r} {end.detail}"


async def test_the_prompt_is_gone_while_the_answer_is_read() -> None:
    """A thousand streams of long conversations would keep a thousand requests of 70 kB."""
    requests: list[weakref.ref[httpx.Request]] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield DONE

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(weakref.ref(request))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=pieces())

    async with (
        provider_at("http://fake.test/v1", transport=httpx.MockTransport(answer)) as provider,
        aclosing(provider.stream(ask("Hello"))) as events,  # type: ignore[type-var]
    ):
        assert await anext(events) == TextDelta(text="ok")
        gc.collect()
        assert [request() for request in requests] == [None]
