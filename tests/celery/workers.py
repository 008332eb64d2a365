"""What the worker processes of the tests run: Parley's application with a quick clock and a job that can be watched.

`python -m celery -A tests.celery.workers worker`, with READY_FILE in the environment. No test imports it: leases
are short here.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import django

django.setup(set_prefix=False)

# Django must be set up before what follows is imported.
import redis  # noqa: E402
from celery import shared_task, signals  # noqa: E402
from django.conf import settings  # noqa: E402

from chatapp.celery import app as app  # noqa: E402
from conversations import tasks as tasks  # noqa: E402  # whose clock is replaced here
from conversations import titles  # noqa: E402
from conversations.exclusive import one_at_a_time  # noqa: E402
from conversations.summaries import schedule  # noqa: E402
from tests.celery.processes import RUNS  # noqa: E402

titles.LEASE = schedule.LEASE = timedelta(seconds=2)
app.conf.beat_schedule = {
    name: {"task": task, "schedule": seconds, "options": {"expires": seconds}}
    for name, task, seconds in (
        ("reap", "conversations.tasks.reap", 1.0),
        ("titles", "conversations.tasks.write_missing_titles", 1.0),
        ("compact", "conversations.tasks.compact_due", 1.0),
        ("vectors", "conversations.tasks.embed_due", 1.0),
        ("enforce", "conversations.tasks.enforce_budgets", 1.0),
        ("watched", "tests.celery.workers.watched_job", 0.3),
    )
}
# It alone keeps one worker busy, which no job of Parley's own does: it takes turns with what calls a model.
app.conf.beat_schedule["watched"]["options"]["priority"] = settings.MODEL_PRIORITY


@shared_task
@one_at_a_time
def watched_job() -> None:
    """Longer than its period, so that the next one comes while it runs."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.rpush(RUNS, "begin")
    time.sleep(0.5)
    client.rpush(RUNS, "end")


@signals.worker_ready.connect
def say_ready(**_: Any) -> None:
    Path(os.environ["READY_FILE"]).touch()
