"""Celery's shells: ids in, one call, safe to run twice. The database says what is due; a task is the wake-up call."""

from __future__ import annotations

import functools
import logging
from typing import Any
from uuid import UUID

import redis
from asgiref.sync import async_to_sync
from celery import shared_task, signals
from celery.app.task import Task
from celery.schedules import crontab
from django.conf import settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from chatapp.celery import app
from conversations import enforcement, journal, meanings, memory, reconciliation, summaries, titles
from conversations.budgets import BudgetRefused
from conversations.database import make_pool
from conversations.exclusive import one_at_a_time
from conversations.metrics import WORKER_COUNTERS
from conversations.models import Conversation, SavedPreset
from conversations.replies.recovery import recover_replies
from conversations.replies.store import ReplyStore

logger = logging.getLogger(__name__)

app.conf.beat_schedule = {
    "recover replies": {"task": "conversations.tasks.reap", "schedule": 10.0, "options": {"expires": 10}},
    "enforce budgets": {
        "task": "conversations.tasks.enforce_budgets",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "compare balances with the ledger": {
        "task": "conversations.tasks.reconcile",
        "schedule": crontab(minute="*/15"),
        "options": {"expires": 900},
    },
    "name conversations": {
        "task": "conversations.tasks.write_missing_titles",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "write summaries and memory": {
        "task": "conversations.tasks.compact_due",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "make vectors": {
        "task": "conversations.tasks.embed_due",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "remove deleted conversations": {
        "task": "conversations.tasks.remove_deleted",
        "schedule": crontab(minute="17", hour="*"),
        "options": {"expires": 3600},
    },
    "remove old sessions": {
        "task": "conversations.tasks.remove_old_sessions",
        "schedule": crontab(minute="41", hour="3"),
        "options": {"expires": 3600},
    },
}


# --- Periodic jobs: one at a time ---------------------------------------------------------------------------


@shared_task
@one_at_a_time
def reap() -> None:
    """The backstop of the web processes' own reaper. It can end replies, not start them."""
    async_to_sync(_reap)()


async def _reap() -> None:
    pool = make_pool(1)
    client = journal.connect(settings.REDIS_URL)
    await pool.open()
    try:
        await recover_replies(ReplyStore(pool), client)
    finally:
        await client.aclose()
        await pool.close()


@shared_task
@one_at_a_time
def enforce_budgets() -> None:
    """Holds that nobody came back for, suspended people, new days, alerts, daily sums."""
    enforcement.enforce()


@shared_task
@one_at_a_time
def reconcile() -> None:
    reconciliation.reconcile()


@shared_task
@one_at_a_time
def write_missing_titles() -> None:
    """Name the conversations whose wake-up call was lost, or whose worker died."""
    for pk in titles.missing(limit=20):
        _write_title(pk)


@shared_task
@one_at_a_time
def compact_due() -> None:
    """Hand out again what was lost, what failed and may be tried again, and what a dead worker had begun."""
    summaries.end_abandoned()
    for pk in summaries.schedule.due(limit=50):
        compact_conversation.apply_async((str(pk),), expires=60)
    for pk in summaries.lost(limit=50):
        write_wanted_summary.apply_async((str(pk),), expires=60)


@shared_task
@one_at_a_time
def embed_due() -> None:
    """Hand out again what was lost, and what a worker has not come to the end of."""
    for pk in meanings.due(limit=50):
        embed_conversation.apply_async((str(pk),), expires=60)


@shared_task
@one_at_a_time
def remove_deleted() -> None:
    """Remove for good what was deleted 30 days ago. What holds in all of a person's conversations stays."""
    memory.outlive(Conversation.objects.deleted_for_good())
    Conversation.objects.deleted_for_good().delete()
    SavedPreset.objects.deleted_for_good().delete()


@shared_task
@one_at_a_time
def remove_old_sessions() -> None:
    Session.objects.filter(expire_date__lt=timezone.now()).delete()


# --- What is due after a reply ------------------------------------------------------------------------------


@shared_task
def write_title(conversation_id: str) -> None:
    _write_title(UUID(conversation_id))


def _write_title(conversation_id: UUID) -> None:
    if titles.write_title(conversation_id):
        count("titles")


@shared_task
def compact_conversation(conversation_id: str) -> None:
    """Write the next summary and memory lines of a conversation, if nobody else does."""
    pk = UUID(conversation_id)
    if not summaries.schedule.claim(pk):
        return
    try:
        written, learned = summaries.write_next(pk), memory.learn(pk)
    except BudgetRefused as refused:
        summaries.schedule.without_money(pk, resets_at=refused.resets_at)
        return
    except Exception:
        summaries.schedule.failed(pk)
        raise
    if written is summaries.Outcome.WRITTEN:
        count("summaries")
    if summaries.Outcome.FAILED is written or memory.Outcome.FAILED is learned:
        summaries.schedule.failed(pk)
    else:
        goes_on = written is summaries.Outcome.GOES_ON or learned is memory.Outcome.GOES_ON
        summaries.schedule.done(pk, goes_on=goes_on)


@shared_task
def write_wanted_summary(summary_id: str) -> None:
    """Write a summary that a person asked for. Safe to run twice: the second finds it taken."""
    if summaries.write_wanted(UUID(summary_id)) is summaries.Outcome.WRITTEN:
        count("summaries")


@shared_task
def embed_conversation(conversation_id: str) -> None:
    """Make the vectors that a long conversation lacks, if nobody else does."""
    count("vectors", by=meanings.catch_up(UUID(conversation_id)))


# --- What the workers count ---------------------------------------------------------------------------------


@functools.cache
def _counters() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)


def count(*names: str, by: int = 1) -> None:
    """Add to a counter of the workers, which /metrics of any web process tells. Best effort."""
    try:
        _counters().hincrby(WORKER_COUNTERS, "|".join(names), by)
    except (redis.RedisError, OSError):
        logger.info("the counter of %s could not be kept: Redis is away", names[0])


@signals.task_postrun.connect
def count_task(sender: Task[Any, Any] | None = None, state: str | None = None, **_: Any) -> None:
    if sender is not None and sender.name.startswith("conversations."):
        count("task", sender.name.rpartition(".")[2], str(state or "UNKNOWN").lower())
