"""Periodic jobs run alone, titles are claimed, and handing a task over makes nobody wait."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import uuid4

import redis
from django.conf import settings
from django.db import connection
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from chatapp.celery import app
from conversations.exclusive import exclusive
from conversations.publisher import Publisher, waiting
from conversations.tasks import compact_conversation, embed_conversation, write_title, write_wanted_summary
from tests.celery.processes import until
from tests.servers import PROJECT, test_database_url

HOLDER = """
import django, time
django.setup()
from conversations.exclusive import exclusive
with exclusive("job") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


class ExclusiveTests(TransactionTestCase):
    def test_one_at_a_time_and_another_job_beside_it(self) -> None:
        with exclusive("job") as first, exclusive("job") as second, exclusive("other") as other:
            self.assertEqual((first, second, other), (True, False, True))
        with exclusive("job") as again:
            self.assertTrue(again)

    def test_it_holds_when_django_changes_its_connection(self) -> None:
        with exclusive("job"):
            connection.close()
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock_all()")
            with exclusive("job") as second:
                self.assertFalse(second)

    def test_it_ends_with_a_job_that_fails(self) -> None:
        with self.assertRaises(ZeroDivisionError), exclusive("job"):
            1 / 0  # noqa: B018
        with exclusive("job") as again:
            self.assertTrue(again)

    def test_it_ends_with_a_worker_that_is_killed(self) -> None:
        environment = {
            "DATABASE_URL": test_database_url(),
            "REDIS_URL": settings.REDIS_URL,
            "SECRET_KEY": settings.SECRET_KEY,
            "DJANGO_SETTINGS_MODULE": "chatapp.settings",
        }
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        with holder.stdout:
            self.assertEqual(holder.stdout.readline().strip(), "True")
            with exclusive("job") as mine:
                self.assertFalse(mine)
            holder.kill()
            holder.wait(timeout=5)

        def is_free() -> bool:
            with exclusive("job") as mine:
                return mine

        until(is_free, "the lock of a killed process", seconds=5)


@contextmanager
def broker_at(url: str) -> Iterator[None]:
    with override_settings(REDIS_URL=url):
        yield


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers, as a stopped Redis does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


class PublisherTests(SimpleTestCase):
    def is_idle(self, publisher: Publisher) -> bool:
        return publisher._slots._value == publisher.MOST_WAITING

    def test_who_sends_a_task_waits_for_no_redis(self) -> None:
        with silent_server() as silent:
            for url in ("redis://127.0.0.1:1/0", silent):
                publisher = Publisher()
                with self.subTest(url), broker_at(url), self.assertLogs("conversations.publisher") as logs:
                    began = time.monotonic()
                    for _ in range(20):
                        publisher.send("write_title", "one")
                    self.assertLess(time.monotonic() - began, publisher.TIME_OUT)
                    until(lambda: self.is_idle(publisher), "the publisher", seconds=8)  # noqa: B023
                    self.assertIn("is left to the periodic job", logs.output[0])
                    self.assertLess(len(logs.output), 25)

    def test_no_more_than_so_many_wait(self) -> None:
        publisher = Publisher()
        with (
            silent_server() as silent,
            broker_at(silent),
            self.assertLogs("conversations.publisher", "INFO") as logs,
        ):
            for _ in range(publisher.MOST_WAITING + 5):
                publisher.send("write_title", "one")
            until(lambda: self.is_idle(publisher), "the publisher", seconds=8)
        self.assertGreaterEqual(sum("Redis is away" in line for line in logs.output), 5)

    def test_it_tries_again_after_a_pause(self) -> None:
        publisher = Publisher()
        with broker_at("redis://127.0.0.1:1/0"), self.assertLogs("conversations.publisher"):
            publisher.send("write_title", "one")
            until(lambda: self.is_idle(publisher), "the publisher")
        with (
            mock.patch.object(publisher, "_away_until", 0.0),
            mock.patch.object(redis.Redis, "lpush") as sent,
        ):
            publisher.send("write_title", "two")
            until(lambda: self.is_idle(publisher), "the publisher")
        sent.assert_called_once()

    def test_a_task_is_handed_over_as_celery_does(self) -> None:
        for task in (write_title, compact_conversation, write_wanted_summary, embed_conversation):
            with self.subTest(task.name):
                place, line = waiting(task.name.removeprefix("conversations.tasks."), "0198-1")
                self.assertEqual(self.comparable(line), self.comparable(self.by_celery(place, task)))

    def by_celery(self, place: str, task: Any) -> str:
        """What Celery puts into a list of Redis for a task."""
        with (
            redis.Redis.from_url(settings.REDIS_URL, decode_responses=True) as client,
            app.connection_for_write() as broker,
        ):
            client.delete(place)
            task.apply_async(("0198-1",), connection=broker)
            line = client.lpop(place)
        assert isinstance(line, str)
        return line

    def comparable(self, line: str) -> Any:
        """Without what is another's each time: but that the same is the same is looked at."""
        message = json.loads(line)
        headers, properties = message["headers"], message["properties"]
        ids = {headers["id"], headers.pop("root_id"), properties.pop("correlation_id")}
        self.assertEqual(ids, {headers.pop("id")})
        for values, names in ((headers, ("origin", "sent_at")), (properties, ("reply_to", "delivery_tag"))):
            for name in names:
                self.assertTrue(values.pop(name))
        message["body"] = base64.b64decode(message["body"])
        return message


class SettingsTests(SimpleTestCase):
    def test_no_task_outlives_its_visibility(self) -> None:
        options = settings.CELERY_BROKER_TRANSPORT_OPTIONS
        visibility = {
            options["visibility_timeout"],
            settings.CELERY_VISIBILITY_TIMEOUT,
            settings.CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS["visibility_timeout"],
        }
        self.assertEqual(visibility, {900})
        self.assertLess(settings.CELERY_TASK_TIME_LIMIT, 900)

    def test_kombu_knows_each_option(self) -> None:
        from kombu.transport.redis import Channel

        self.assertLessEqual(
            set(settings.CELERY_BROKER_TRANSPORT_OPTIONS), set(Channel.from_transport_options)
        )

    def test_celery_reads_them(self) -> None:
        self.assertTrue(app.conf.task_acks_late and app.conf.task_reject_on_worker_lost)
        self.assertEqual(app.conf.worker_prefetch_multiplier, 1)
        self.assertIsNone(app.conf.broker_connection_max_retries)

    def test_what_calls_a_model_waits_until_all_else_is_done(self) -> None:
        route = app.amqp.router.route
        for task in (write_title, compact_conversation, write_wanted_summary):
            self.assertEqual(route({}, task.name)["priority"], settings.MODEL_PRIORITY)
        for entry in app.conf.beat_schedule.values():
            self.assertNotIn("priority", route({}, entry["task"]))
        with app.connection_for_write() as broker:
            queue = broker.SimpleQueue(f"test-{uuid4().hex}")
            queue.put("summary", priority=settings.MODEL_PRIORITY)
            queue.put("budgets")
            first, second = queue.get_nowait(), queue.get_nowait()
            first.ack()  # or both would be put back
            second.ack()
        self.assertEqual([first.payload, second.payload], ["budgets", "summary"])

    def test_each_periodic_task_exists_and_expires(self) -> None:
        for name, entry in app.conf.beat_schedule.items():
            with self.subTest(name):
                self.assertIn(entry["task"], app.tasks)
                self.assertTrue(entry["options"]["expires"])
