"""`/metrics` for Prometheus: this process, and what the database and Redis know. Answered in front of Django.

So it answers while every thread that serves pages is busy, and under the address by which a scraper finds one web
process of several, which need not be an allowed host.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, cast

from django.conf import settings
from django.utils.crypto import constant_time_compare
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from chatapp.embedded.address import LOCAL_NAMES, is_loopback
from conversations import reconciliation
from conversations.catalog import kept_catalog
from conversations.database import DATABASE_AWAY
from conversations.metrics import WORKER_COUNTERS, registry, request_threads
from conversations.publisher import task_list
from conversations.replies.runtime import ReplyRuntime, current_runtime

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PATH = re.compile(r"^/metrics$")
#: How long the database and Redis may take; what they know is left out then.
PATIENCE = 2.0
#: Headers that a proxy adds: behind one, a client on loopback may be anyone.
FORWARDED = {b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"forwarded", b"via"}
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a scraper that carries METRICS_TOKEN, or one on this machine where no proxy can be in between."""
    if not may_read(scope):
        await answer(send, 401, b"", [(b"www-authenticate", b"Bearer")])
    elif scope["method"] not in {"GET", "HEAD"}:
        await answer(send, 405, b"", [(b"allow", b"GET, HEAD")])
    else:
        body = await collected()
        await answer(send, 200, b"" if scope["method"] == "HEAD" else body)


def may_read(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and settings.METRICS_TOKEN:
        return constant_time_compare(token.strip(), settings.METRICS_TOKEN)
    client, host = scope.get("client"), headers.get(b"host", b"").decode("latin-1").lower()
    return (
        settings.METRICS_ON_LOOPBACK
        and client is not None
        and is_loopback(client[0])
        and not FORWARDED & headers.keys()
        # A page in this machine's browser may come from elsewhere, but names its own host here.
        and (host in LOCAL_NAMES or host.rpartition(":")[0] in LOCAL_NAMES)
    )


async def answer(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    found = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": found})
    await send({"type": "http.response.body", "body": body})


class Families:
    """A registry of values that were read for one answer, beside the counters that the process keeps."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from registry.collect()
        yield from self._families


async def collected() -> bytes:
    runtime = current_runtime()
    families = of_requests()
    if runtime is not None:
        families += of_process(runtime) + of_providers(runtime)
        for found in await asyncio.gather(of_database(runtime), of_redis(runtime)):
            families += found
    return generate_latest(cast(CollectorRegistry, Families(families)))


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"parley_{name}", text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"parley_{name}", text, value=value)


def labelled(family: Metric, values: Iterable[tuple[list[str], float]]) -> Metric:
    for labels, value in values:
        family.add_metric(labels, value)  # type: ignore[attr-defined]
    return family


def of_requests() -> list[Metric]:
    return [
        gauge(
            "request_threads", "Threads that answer requests, each with a connection.", request_threads.size
        ),
        gauge("request_threads_in_use", "Threads that answer a request now.", request_threads.in_use),
        gauge("requests_waiting", "Requests that wait for a thread.", request_threads.waiting),
    ]


def of_process(runtime: ReplyRuntime) -> list[Metric]:
    writer, pool = runtime.writer, runtime.pool.get_stats()
    size, free = pool.get("pool_size", 0), pool.get("pool_available", 0)
    return [
        gauge("replies_running", "Replies that this process runs.", len(runtime.running)),
        gauge(
            "viewers", "Streams open in this process.", sum(len(live.viewers) for live in runtime.live.all())
        ),
        counter("deltas", "Pieces of text that providers sent.", writer.deltas),
        counter(
            "journal_writes", "Entries written to the journal, one for all replies a tick.", writer.writes
        ),
        counter("journal_write_failures", "Entries that Redis did not take.", writer.failures),
        gauge("journal_breaker_open", "1 while the journal leaves Redis alone.", not writer.is_writing),
        gauge("reply_connections_limit", "Most connections of the replies' pool.", pool.get("pool_max", 0)),
        gauge("reply_connections", "Connections of the replies' pool.", size),
        gauge("reply_connections_in_use", "Connections of it that are lent.", size - free),
        gauge("reply_connections_waiting", "Who waits for one of them.", pool.get("requests_waiting", 0)),
    ]


def of_providers(runtime: ReplyRuntime) -> list[Metric]:
    """What this process knows of the gate of each provider that it offers."""
    catalog = kept_catalog()
    providers = sorted({entry.provider for entry in catalog.entries}) if catalog is not None else []
    families = [
        GaugeMetricFamily(f"parley_provider_{name}", text, labels=["provider"])
        for name, text in (
            ("breaker_open", "1 while this provider is left alone after failures."),
            ("calls", "Calls under way in this process."),
            ("calls_waiting", "Calls of this process that wait for their turn."),
        )
    ]
    for provider in providers:
        values = (runtime.gate.retry_in(provider) > 0, *runtime.gate.load(provider))
        for family, value in zip(families, values, strict=True):
            family.add_metric([provider], value)
    return list(families)


async def of_database(runtime: ReplyRuntime) -> list[Metric]:
    try:
        async with asyncio.timeout(PATIENCE):
            rows = await unfinished(runtime)
    except (*DATABASE_AWAY, OSError, TimeoutError):
        return [gauge("database_up", "1 while PostgreSQL answers.", 0)]
    states = GaugeMetricFamily("parley_replies", "Unfinished replies of all processes.", labels=["state"])
    ages = GaugeMetricFamily("parley_reply_oldest_seconds", "Age of the oldest of them.", labels=["state"])
    return [
        gauge("database_up", "1 while PostgreSQL answers.", 1),
        labelled(states, [([row["state"]], row["count"]) for row in rows]),
        labelled(ages, [([row["state"]], row["oldest"]) for row in rows]),
    ]


async def unfinished(runtime: ReplyRuntime) -> list[dict[str, Any]]:
    async with runtime.pool.connection() as connection:
        cursor = await connection.execute(
            """
            SELECT state, count(*) AS count, extract(epoch FROM now() - min(created_at))::float AS oldest
            FROM replies WHERE state = 'queued' OR state = 'running' GROUP BY state
            """
        )
        return await cursor.fetchall()


async def of_redis(runtime: ReplyRuntime) -> list[Metric]:
    pipeline = runtime.redis.pipeline(transaction=False)
    for queue in task_lists():
        pipeline.llen(queue)
        pipeline.lindex(queue, -1)
    pipeline.zcard("unacked_index")
    pipeline.zrange("unacked_index", 0, 0, withscores=True)
    pipeline.hgetall(WORKER_COUNTERS)
    pipeline.hgetall(reconciliation.KEPT)
    try:
        async with asyncio.timeout(PATIENCE):
            *queues, taken, longest, counters, compared = await pipeline.execute()
    except (RedisError, OSError, TimeoutError):
        return [gauge("redis_up", "1 while Redis answers.", 0)]
    now = time.time()
    oldest = max(age(sent_at(message), now) for message in queues[1::2])
    return [
        gauge("redis_up", "1 while Redis answers.", 1),
        gauge("tasks_waiting", "Tasks in Celery's queue.", sum(queues[::2])),
        gauge("tasks_waiting_oldest_seconds", "Age of the first of them.", oldest),
        gauge("tasks_taken", "Tasks that a worker has taken and not ended.", taken),
        gauge(
            "tasks_taken_oldest_seconds",
            "Since when the first.",
            age(longest[0][1] if longest else None, now),
        ),
        *of_workers(counters),
        *of_reconciliation(compared, now),
    ]


def of_reconciliation(compared: dict[str, str], now: float) -> list[Metric]:
    """What the last comparison of the balances with the ledger found; nothing until there was one."""
    if not compared:
        return []
    return [
        gauge("budget_drift", "Balances minus ledger and open holds, in nano-USD.", int(compared["drift"])),
        gauge("budgets_drifted", "Balances that differ.", int(compared["drifted"])),
        gauge("budget_compared_age_seconds", "Since the last comparison.", age(float(compared["at"]), now)),
    ]


def of_workers(counters: dict[str, str]) -> list[Metric]:
    """What the workers count in Redis: `task|name|state`, `titles`, `summaries` and `vectors`."""
    tasks = CounterMetricFamily("parley_tasks", "Tasks that ended.", labels=["task", "state"])
    for field, value in counters.items():
        name, *labels = field.split("|")
        if name == "task" and len(labels) == 2:
            tasks.add_metric(labels, int(value))
    return [
        tasks,
        counter("titles_written", "Titles written by a model.", int(counters.get("titles", 0))),
        counter("summaries_written", "Summaries written by a model.", int(counters.get("summaries", 0))),
        counter("vectors_made", "Messages that got a vector.", int(counters.get("vectors", 0))),
    ]


def task_lists() -> tuple[str, str]:
    return task_list(), task_list(settings.MODEL_PRIORITY)


def sent_at(message: str | None) -> float | None:
    """When a task was sent, as the publisher and `chatapp.celery` stamp it."""
    try:
        return float(json.loads(message or "")["headers"]["sent_at"])
    except (ValueError, KeyError, TypeError):
        return None


def age(since: float | None, now: float) -> float:
    return max(0.0, now - since) if since is not None else 0.0
