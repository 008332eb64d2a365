"""Handing tasks to the workers, so that nobody waits for Redis.

Without Celery, which takes 9 MB: a web process would use one call of it. A task is a line of JSON in a list of Redis,
by version 2 of Celery's protocol, as kombu wraps it; `tests/celery` compares each with what Celery writes.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

_MODULE = "conversations.tasks"


class Publisher:
    """Hands tasks over from a thread of its own: who sends one never waits, whatever Redis does.

    What cannot be handed over is left to the periodic jobs, which find it in the database.
    """

    #: A task takes a millisecond; more than this only wait while Redis is away.
    MOST_WAITING = 1_000
    TIME_OUT = 1.0  # seconds, for each step of a publication
    PAUSE = 5.0  # seconds without trying after a failure

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._slots = threading.BoundedSemaphore(self.MOST_WAITING)
        self._away_until = 0.0

    def send(self, task: str, argument: str) -> None:
        """Wake a worker for a function of `conversations.tasks`."""
        if time.monotonic() < self._away_until or not self._slots.acquire(blocking=False):
            logger.info("%s is left to the periodic job: Redis is away", task)
            return
        self._thread.submit(self._publish, task, argument)

    def _publish(self, task: str, argument: str) -> None:
        try:
            if time.monotonic() < self._away_until:
                return
            # A connection for each, as tasks are seldom: one that was kept may have ended meanwhile.
            with redis.Redis.from_url(
                settings.REDIS_URL,
                socket_timeout=self.TIME_OUT,
                socket_connect_timeout=self.TIME_OUT,
                retry=Retry(NoBackoff(), 0),
            ) as client:
                client.lpush(*waiting(task, argument))
        except (redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + self.PAUSE
            logger.warning("%s is left to the periodic job: %s", task, type(error).__name__)
        except Exception as error:
            logger.error("%s could not be sent: %s", task, type(error).__name__)
        finally:
            self._slots.release()


def task_list(priority: int = 0) -> str:
    """Where tasks wait: kombu keeps a list for each priority."""
    queue = settings.CELERY_TASK_DEFAULT_QUEUE
    return f"{queue}\x06\x16{priority}" if priority else queue


def waiting(task: str, argument: str) -> tuple[str, str]:
    """The list where a task waits, and the line that stands for it there."""
    name, pk = f"{_MODULE}.{task}", str(uuid4())
    priority = settings.CELERY_TASK_ROUTES.get(name, {}).get("priority", 0)
    steps = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([[argument], {}, steps]).encode()
    headers: dict[str, Any] = {
        "lang": "py",
        "task": name,
        "id": pk,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [settings.CELERY_TASK_TIME_LIMIT, settings.CELERY_TASK_SOFT_TIME_LIMIT],
        "root_id": pk,
        "parent_id": None,
        "argsrepr": repr((argument,)),
        "kwargsrepr": "{}",
        "origin": f"{os.getpid()}@{socket.gethostname()}",
        "ignore_result": settings.CELERY_TASK_IGNORE_RESULT,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "sent_at": time.time(),  # /metrics tells how long the oldest one waits
    }
    properties = {
        "correlation_id": pk,
        "reply_to": pk,  # nobody waits for a result
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": settings.CELERY_TASK_DEFAULT_QUEUE},
        "priority": priority,
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
    line = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return task_list(priority), json.dumps(line)
