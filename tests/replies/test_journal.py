"""The group commit: what is written at once, what waits for the tick, and in which order it is seen."""

from __future__ import annotations

import asyncio
import socket
from unittest import mock
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from redis.exceptions import TimeoutError as RedisTimeout

from conversations import journal
from conversations.journal import Entry, Writer

TICK = 0.3


async def test_a_first_text_is_written_at_once_and_leaves_the_others_to_the_tick() -> None:
    seen: list[tuple[UUID, str]] = []

    def apply(entries: list[Entry]) -> None:
        seen.extend((entry.reply_id, entry.text) for entry in entries)

    client = journal.connect(settings.REDIS_URL)
    writer = Writer(client, f"test-{uuid4()}", tick=TICK, apply=apply)
    running, beginning = uuid4(), uuid4()
    flushing = asyncio.create_task(writer.run())
    try:
        writer.append(Entry(reply_id=running, epoch=1, at=0, text="one "))
        writer.append(Entry(reply_id=beginning, epoch=1, at=0, text="first"), at_once=True)
        await asyncio.sleep(TICK / 3)
        early = list(seen)
        writer.append(Entry(reply_id=running, epoch=1, at=4, text="two"))
        await asyncio.sleep(TICK)
    finally:
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        await client.aclose()
    assert early == [(beginning, "first")]
    assert seen[1:] == [(running, "one two")]


async def test_what_is_read_when_the_tick_ends_is_still_in_its_entry() -> None:
    client, name, first, second = journal.connect(settings.REDIS_URL), f"test-{uuid4()}", uuid4(), uuid4()
    writer = Writer(client, name, tick=TICK / 6, apply=lambda entries: None)

    async def read(reply_id: UUID) -> None:
        await writer.tick()
        writer.append(Entry(reply_id=reply_id, epoch=1, at=0, text="text"))

    flushing = asyncio.create_task(writer.run())
    try:
        stopped = asyncio.create_task(read(uuid4()))
        reading = [asyncio.create_task(read(reply_id)) for reply_id in (first, second)]
        await asyncio.sleep(0)
        stopped.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*reading)
            while not writer.writes:
                await asyncio.sleep(0.01)
        entries, _ = await journal.read_stream(client, name, "")
        assert await client.xlen(journal.PREFIX + name) == 1
    finally:
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        await client.aclose()
    assert {entry.reply_id for entry in entries} == {first, second}


async def test_a_tick_lasts_longer_when_a_thousand_replies_are_written() -> None:
    client = journal.connect(settings.REDIS_URL)
    writer = Writer(client, f"test-{uuid4()}", tick=0.01, apply=lambda entries: None)
    readers = [asyncio.create_task(writer.tick()) for _ in range(2000)]
    await asyncio.sleep(0)
    flushing = asyncio.create_task(writer.run())
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(*readers)
        waited = asyncio.get_running_loop().time() - began
    finally:
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        await client.aclose()
    assert waited >= 2000 * journal.SECONDS_EACH


async def test_what_redis_was_away_for_is_written_when_it_is_back() -> None:
    client, name, reply_id = journal.connect_for_few(settings.REDIS_URL), f"test-{uuid4()}", uuid4()
    writer = Writer(client, name, tick=TICK, apply=lambda entries: None)
    try:
        with mock.patch.object(client, "xadd", side_effect=RedisTimeout):
            writer.append(Entry(reply_id=reply_id, epoch=1, at=0, text="one "))
            await writer.flush()
        writer.append(Entry(reply_id=reply_id, epoch=1, at=4, text="two "))
        await writer.flush()  # the breaker is open
        assert not writer.is_writing
        with mock.patch.object(Writer, "is_writing", True):
            writer.append(Entry(reply_id=reply_id, epoch=1, at=8, text="three"))
            await writer.flush()
            writer.append(Entry(reply_id=reply_id, epoch=1, at=13, text=" four"))
            await writer.flush()
        entries, _ = await journal.read_stream(client, name, "")
    finally:
        await client.aclose()
    assert [(entry.at, entry.text) for entry in entries] == [(0, "one two three"), (13, " four")]


async def test_a_redis_that_says_nothing_does_not_hold_up_the_text() -> None:
    shown: list[Entry] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = journal.connect_for_few(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        writer = Writer(client, "silent", tick=TICK, apply=shown.extend)
        writer.append(Entry(reply_id=uuid4(), epoch=1, at=0, text="one "))
        async with asyncio.timeout(5):
            await writer.flush()
            await client.aclose()
    assert [entry.text for entry in shown] == ["one "]
    assert not writer.is_writing


async def test_the_answer_to_a_command_that_took_too_long_is_not_taken_for_the_next_ones() -> None:
    client, key = journal.connect_for_few(settings.REDIS_URL), f"test-{uuid4()}"
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.blpop(key, timeout=60)
        async with asyncio.timeout(5):
            assert await client.ping() is True
            assert await client.llen(key) == 0
    finally:
        await client.aclose()
