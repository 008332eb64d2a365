"""The fake provider is a process of its own that counts what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from conversations.llm.registry import build_provider
from conversations.llm.types import ChatMessage, CompletionRequest, Finish, TextDelta
from tests.fake_provider import FakeProvider, serving


def ask(text: str) -> CompletionRequest:
    message = ChatMessage(role="user", content=text)
    return CompletionRequest(model_id="fake-small", messages=(message,), max_tokens=5)


@pytest.fixture
def address(unused_port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.fake_provider", "--port", str(unused_port), "--deltas", "3"]
    process = subprocess.Popen(command)
    address = f"http://127.0.0.1:{unused_port}"
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                httpx.get(f"{address}/_stats")
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline, "the fake provider did not start"
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait(10)


async def test_it_runs_out_of_process_and_counts(address: str) -> None:
    provider = build_provider("openai", name="fake", base_url=f"{address}/v1", api_key="k")
    try:
        texts = [event.text async for event in provider.stream(ask("[[]]")) if isinstance(event, TextDelta)]
    finally:
        await provider.aclose()
    assert "".join(texts) == "word0 word1 word2 "
    stats = httpx.get(f"{address}/_stats").json()
    assert (stats["calls"], stats["open"], stats["completed"], stats["deltas"]) == (1, 0, 1, 3)
    assert stats["requests"][0]["messages"] == [{"role": "user", "content": "[[]]"}]
    httpx.post(f"{address}/_reset")
    assert httpx.get(f"{address}/_stats").json()["calls"] == 0


async def test_it_fails_so_often_and_then_works() -> None:
    async with serving(FakeProvider(deltas=1)) as url, httpx.AsyncClient() as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "[[status=503 times=2]]"}]}
        answers = [await client.post(f"{url}/v1/chat/completions", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]


async def test_it_repeats_what_was_said_without_orders() -> None:
    async with serving(FakeProvider()) as url:
        provider = build_provider("anthropic", name="fake", base_url=url, api_key="k")
        events = [event async for event in provider.stream(ask("good morning"))]
        await provider.aclose()
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "You said: good morning"
    assert isinstance(events[-1], Finish)
