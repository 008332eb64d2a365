"""/metrics tells a scraper what a process does, and an outsider nothing."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.conf import settings
from django.test import SimpleTestCase, override_settings
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from conversations import journal, reconciliation
from conversations.database import make_pool
from conversations.llm.errors import AuthenticationFailed
from conversations.llm.scripted import ScriptedProvider, Step
from conversations.reconciliation import Result
from conversations.replies.runtime import ReplyRuntime
from conversations.views.metrics import task_lists
from tests.operations.asgi import request
from tests.replies.harness import MODEL, ReplyTestCase, catalog_of, until, watch, web_process

TOKEN = "a-token-of-the-scraper"
BEARER = f"Bearer {TOKEN}"
OUTSIDE = "203.0.113.9"


def values(text: str) -> dict[str, float]:
    """Each sample under its name and its labels: `name label=value`."""
    return {
        " ".join(
            [sample.name, *(f"{label}={value}" for label, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class AccessTests(SimpleTestCase):
    async def status(self, **arguments: Any) -> int:
        status, headers, body = await request("/metrics", **arguments)
        if status != 200:
            self.assertEqual(body, "")
        self.assertEqual(headers["cache-control"], "no-store")
        return status

    async def test_this_machine_may_read_without_a_token(self) -> None:
        for client in ("127.0.0.1", "::1"):
            with self.subTest(client):
                self.assertEqual(await self.status(client=client), 200)

    async def test_others_may_not(self) -> None:
        self.assertEqual(await self.status(client=OUTSIDE), 401)

    async def test_loopback_behind_a_proxy_may_be_anyone(self) -> None:
        for name in ("x_forwarded_for", "x_real_ip", "forwarded", "via", "x_forwarded_host"):
            with self.subTest(name):
                self.assertEqual(await self.status(**{name: "127.0.0.1"}), 401)

    async def test_a_page_that_names_this_machine_as_its_own_host_may_not(self) -> None:
        self.assertEqual(await self.status(host="evil.example"), 401)

    async def test_loopback_counts_for_nothing_on_a_server_for_others(self) -> None:
        with override_settings(METRICS_ON_LOOPBACK=False):
            self.assertEqual(await self.status(), 401)

    async def test_the_token_opens_it_from_anywhere(self) -> None:
        with override_settings(METRICS_TOKEN=TOKEN, METRICS_ON_LOOPBACK=False):
            found = await self.status(client=OUTSIDE, host="10.0.0.7:8000", authorization=BEARER)
            self.assertEqual(found, 200)

    async def test_a_wrong_token_opens_nothing_on_this_machine_either(self) -> None:
        with override_settings(METRICS_TOKEN=TOKEN):
            for given in ("Bearer wrong", "Bearer ", "Bearer \u00e9", f"Basic {TOKEN}"):
                with self.subTest(given):
                    self.assertEqual(await self.status(client=OUTSIDE, authorization=given), 401)
            self.assertEqual(await self.status(authorization="Bearer wrong"), 401)

    async def test_no_token_is_no_token(self) -> None:
        self.assertEqual(await self.status(client=OUTSIDE, authorization="Bearer "), 401)

    async def test_it_is_only_read(self) -> None:
        self.assertEqual(await self.status(method="POST"), 405)
        status, _, body = await request("/metrics", method="HEAD")
        self.assertEqual((status, body), (200, ""))


class ContentTests(ReplyTestCase):
    @asynccontextmanager
    async def process(self, *script: Step) -> AsyncIterator[ReplyRuntime]:
        with catalog_of(ScriptedProvider(script)):
            async with web_process() as runtime:
                yield runtime

    async def read(self) -> dict[str, float]:
        status, headers, body = await request("/metrics")
        self.assertEqual(status, 200)
        self.assertTrue(headers["content-type"].startswith("text/plain; version=0.0.4"))
        return values(body)

    async def test_a_reply_is_counted_and_timed(self) -> None:
        async with self.process("One ", "two ", "three") as runtime:
            before = await self.read()
            reply = await self.astart()
            runtime.wake(reply.pk)
            await watch(runtime, reply.pk)
            await self.finished(reply)

            async def counted() -> dict[str, float] | None:
                now = await self.read()
                ended = "parley_replies_ended_total error= state=complete"
                done = now.get(ended, 0) == before.get(ended, 0) + 1 and not now["parley_replies_running"]
                done = done and now["parley_event_loop_lag_seconds_count"] > 0
                return now if done else None

            after = await until(counted)
        assert after is not None
        for name in ("parley_reply_seconds_count", "parley_reply_first_token_seconds_count"):
            self.assertEqual(after[f"{name} model={MODEL}"], before.get(f"{name} model={MODEL}", 0) + 1)
        self.assertEqual(after["parley_deltas_total"], before["parley_deltas_total"] + 3)
        self.assertGreater(after["parley_journal_writes_total"], before["parley_journal_writes_total"])

    async def test_an_error_of_a_provider_is_counted_by_its_kind(self) -> None:
        name = "parley_provider_errors_total error=AuthenticationFailed provider=scripted"
        async with self.process(AuthenticationFailed()) as runtime:
            before = (await self.read()).get(name, 0)
            reply = await self.astart()
            runtime.wake(reply.pk)
            await self.finished(reply)
            self.assertGreater((await self.read())[name], before)

    async def test_it_tells_how_far_the_balances_are_from_the_ledger(self) -> None:
        result = Result(at=timezone.now(), budgets=7, drifted=2, drift=1_500)
        await sync_to_async(reconciliation.keep)(result)
        async with self.process():
            found = await self.read()
        self.assertEqual((found["parley_budget_drift"], found["parley_budgets_drifted"]), (1_500, 2))
        self.assertLess(found["parley_budget_compared_age_seconds"], 60)

    async def test_it_tells_of_pools_and_unfinished_replies(self) -> None:
        async with self.process() as runtime:
            runtime._is_draining = True  # takes up nothing
            await self.astart()
            found = await self.read()
        self.assertEqual(found["parley_replies state=queued"], 1)
        self.assertGreaterEqual(found["parley_reply_oldest_seconds state=queued"], 0)
        self.assertEqual(found["parley_database_up"], 1)
        self.assertEqual(found["parley_reply_connections_limit"], settings.REPLY_DATABASE_POOL)
        for name in ("breaker_open", "calls", "calls_waiting"):
            self.assertEqual(found[f"parley_provider_{name} provider=scripted"], 0)
        self.assertEqual(found["parley_request_threads"], settings.REQUEST_THREADS)

    async def test_it_tells_how_long_the_first_task_waits(self) -> None:
        queue = "celery-of-this-test"
        sent = {"headers": {"sent_at": time.time() - 90}, "body": ""}
        with override_settings(CELERY_TASK_DEFAULT_QUEUE=queue):
            async with self.process() as runtime:
                try:
                    await runtime.redis.lpush(queue, "not json")
                    await runtime.redis.lpush(task_lists()[1], json.dumps(sent), "not json")
                    found = await self.read()
                finally:
                    await runtime.redis.delete(*task_lists())
        self.assertEqual(found["parley_tasks_waiting"], 3)
        self.assertAlmostEqual(found["parley_tasks_waiting_oldest_seconds"], 90, delta=5)

    async def test_it_answers_while_database_and_redis_are_away(self) -> None:
        async with self.process() as runtime:
            nowhere = journal.connect("redis://127.0.0.1:1/0")
            never_opened = make_pool()
            with mock.patch.multiple(runtime, redis=nowhere, pool=never_opened):
                found = await self.read()
        self.assertEqual((found["parley_database_up"], found["parley_redis_up"]), (0, 0))
        self.assertIn("parley_deltas_total", found)

    async def test_it_holds_nothing_that_a_person_wrote(self) -> None:
        marker = "markerzebra"
        async with self.process(marker) as runtime:
            reply = await self.astart(f"Tell me of {marker}")
            runtime.wake(reply.pk)
            await self.finished(reply)
            _, _, body = await request("/metrics")
        for secret in (marker, str(reply.pk), str(reply.conversation_id), self.alice.email):
            self.assertNotIn(secret, body)

    async def test_what_workers_count_is_told_by_any_web_process(self) -> None:
        from conversations import tasks

        async with self.process():
            before = await self.read()
            await sync_to_async(tasks.count)("task", "write_title", "success")
            await sync_to_async(tasks.count)("titles")
            after = await self.read()
        for name in ("parley_tasks_total state=success task=write_title", "parley_titles_written_total"):
            self.assertEqual(after[name], before.get(name, 0) + 1)
