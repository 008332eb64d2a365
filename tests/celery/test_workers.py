"""Two workers and a clock, as processes: what they are killed in is done all the same, and once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import redis
from django.conf import settings
from django.db.models.functions import Now
from django.test import TransactionTestCase

from chatapp.celery import app
from chatapp.embedded import paths
from chatapp.embedded.folder import make_data_dir
from chatapp.embedded.valkey import Valkey
from conversations.metrics import WORKER_COUNTERS
from conversations.models import (
    Budget,
    Conversation,
    ConversationSummary,
    DailySpend,
    Hold,
    LedgerEntry,
    Message,
    MessagePlace,
)
from conversations.tasks import write_title
from tests import cast
from tests.budgets.common import ask, reserve
from tests.celery.processes import RUNS, Program, until
from tests.servers import Server, fake_provider, stats, test_database_url
from tests.summaries.talks import say


class WorkerTests(TransactionTestCase):
    """The processes live as long as the class; what a test kills it starts again."""

    folder: ClassVar[Path]
    valkey: ClassVar[Valkey]
    provider: ClassVar[Server]
    workers: ClassVar[list[Program]]
    beat: ClassVar[Program]
    redis_url: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        make_data_dir(cls.folder)
        cls.addClassCleanup(shutil.rmtree, paths.make_runtime_dir(cls.folder), ignore_errors=True)
        cls.redis_url = paths.redis_url(cls.folder)
        cls.valkey = Valkey(cls.folder)
        cls.provider = fake_provider(cls.folder)
        environment = {
            "DATABASE_URL": test_database_url(),
            "REDIS_URL": cls.redis_url,
            "SECRET_KEY": settings.SECRET_KEY,
            "DATA_DIR": str(cls.folder),
            "LOG_FORMAT": "json",
        }
        cls.addClassCleanup(cls.valkey.stop)
        cls.valkey.start()
        cls.valkey.wait_ready()
        cls.addClassCleanup(cls.provider.kill)
        cls.provider.start()
        environment |= {
            "OPENAI_API_KEY": "test-key",
            "OPENAI_BASE_URL": cls.provider.url + "/v1",
            "OPENAI_MODELS": "fake-large",
            "OPENAI_PRICE": "2.00/8.00",
        }
        cls.workers = [Program(cls.folder, f"worker-{number}", environment) for number in (1, 2)]
        cls.beat = Program(cls.folder, "beat", environment)
        for program in (*cls.workers, cls.beat):
            cls.addClassCleanup(program.kill)
            program.start()
        for worker in cls.workers:
            worker.wait_ready()

    def answered(self, question: str) -> Conversation:
        conversation = Conversation.objects.create(user=cast.alice(), model="openai/fake-large")
        asked = Message.objects.create(conversation=conversation, role="user", content=question)
        Message.objects.create(conversation=conversation, role="assistant", content="Oslo.", parent=asked)
        return conversation

    def send(self, conversation: Conversation) -> None:
        with app.connection_for_write(paths.broker_url(self.redis_url)) as connection:
            write_title.apply_async((str(conversation.pk),), connection=connection)  # type: ignore[call-arg]

    def calls(self) -> int:
        found: int = stats(self.provider)["calls"]
        return found

    def is_named(self, conversation: Conversation) -> bool:
        conversation.refresh_from_db()
        return not conversation.is_unnamed

    def asked_about(self, question: str) -> str:
        """A conversation whose first call hangs, found by a worker or sent to one."""
        return f"{question} [[silent times=1]]"

    def broker(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, decode_responses=True)

    def test_periodic_jobs_run_one_at_a_time_and_go_on(self) -> None:
        client = self.broker()
        client.delete(RUNS)
        until(lambda: client.llen(RUNS) >= 7, "three runs of the watched job")
        runs = client.lrange(RUNS, 0, 6)
        first = runs.index("begin")  # the end of one that ran already may come before
        self.assertEqual(runs[first : first + 6], ["begin", "end"] * 3)
        counters = client.hgetall(WORKER_COUNTERS)
        for name in ("reap", "write_missing_titles"):
            self.assertGreaterEqual(int(counters.get(f"task|{name}|success", 0)), 1)
            self.assertNotIn(f"task|{name}|failure", counters)

    def test_an_abandoned_hold_is_ended_once(self) -> None:
        hold = reserve(ask(cast.alice().pk))
        Hold.objects.filter(pk=hold.hold_id).update(sent_at=Now(), lease_expires_at=Now())
        until(LedgerEntry.objects.filter(hold_id=hold.hold_id).exists, "the line of the hold")
        until(DailySpend.objects.exists, "the sum of the day")
        today = Budget.objects.get()
        self.assertEqual((today.spent, today.held), (100, 0))
        self.assertEqual(LedgerEntry.objects.count(), 1)

    def test_a_title_whose_worker_is_killed_is_written_by_the_other(self) -> None:
        before = self.calls()
        conversation = self.answered(self.asked_about("What is the capital of Norway?"))
        until(lambda: self.calls() == before + 1, "the first call")
        busy = self.busy_worker()
        busy.kill()
        until(lambda: self.is_named(conversation), "the title")
        self.assertEqual(self.calls(), before + 2)
        self.assertEqual(conversation.title_attempts, 2)
        busy.start()
        busy.wait_ready()

    def test_a_task_whose_child_is_killed_is_delivered_again_and_named_once(self) -> None:
        before = self.calls()
        conversation = self.answered(self.asked_about("What is the capital of Sweden?"))
        self.send(conversation)
        until(lambda: self.calls() == before + 1, "the first call")
        for child in self.busy_worker().children():
            os.kill(child, signal.SIGKILL)
        until(lambda: self.is_named(conversation), "the title")
        self.assertEqual(self.calls(), before + 2)

    def test_a_summary_whose_worker_is_killed_is_written_once_by_the_other(self) -> None:
        before = self.calls()
        conversation = self.long_talk(self.asked_about("And the rest?"))
        until(lambda: self.calls() == before + 1, "the first call")
        busy = self.busy_worker()
        busy.kill()
        self.addCleanup(busy.wait_ready)
        self.addCleanup(busy.start)
        until(ConversationSummary.objects.filter(conversation=conversation).exists, "the summary")
        conversation.refresh_from_db()
        self.assertEqual([row.state for row in conversation.summaries.all()], ["in_force"])
        self.assertEqual(self.calls(), before + 2)
        until(lambda: self.is_done(conversation), "the end of the task")

    def long_talk(self, last: str) -> Conversation:
        """Due to be summarised; its memory is not asked about."""
        alice = cast.alice()
        alice.is_remembering = False
        alice.save()
        conversation = Conversation.objects.create(
            user=alice, model="openai/fake-large", title="Harbour", title_source="person"
        )
        for number in range(4):
            say(
                conversation,
                f"What about the harbour, part {number}, and the crane?",
                "It is as it was before.",
            )
        say(conversation, last, "There is no rest.")
        Conversation.objects.filter(pk=conversation.pk).update(compaction_due_at=Now())
        return conversation

    def is_done(self, conversation: Conversation) -> bool:
        conversation.refresh_from_db()
        return conversation.compaction_due_at is None and conversation.compaction_lease_expires_at is None

    def test_vectors_that_are_due_are_made_by_a_worker(self) -> None:
        conversation = self.answered("How deep is the harbour?")
        Conversation.objects.filter(pk=conversation.pk).update(vectors_due_at=Now())
        until(lambda: not MessagePlace.objects.filter(embedding=None).exists(), "the vectors")
        until(lambda: self.has_no_vectors_due(conversation), "the end of the task")
        self.assertGreaterEqual(int(self.broker().hget(WORKER_COUNTERS, "vectors") or 0), 2)

    def has_no_vectors_due(self, conversation: Conversation) -> bool:
        conversation.refresh_from_db()
        return conversation.vectors_due_at is None

    def test_workers_go_on_when_redis_has_been_away(self) -> None:
        self.valkey.stop()
        self.valkey.start()
        self.valkey.wait_ready()
        conversation = self.answered("What is the capital of Finland?")
        Conversation.objects.filter(pk=conversation.pk).update(last_updated="2020-01-01T00:00:00Z")
        self.send(conversation)  # too old for the periodic job: this task alone names it
        until(lambda: self.is_named(conversation), "the title")

    def busy_worker(self) -> Program:
        """The worker that waits for the provider: its child has a connection there."""
        port = f"{self.provider.port:04X}"
        for worker in self.workers:
            for child in worker.children():
                try:
                    table = Path(f"/proc/{child}/net/tcp").read_text().splitlines()[1:]
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended since it was listed
                inodes = {row.split()[9] for row in table if row.split()[2].endswith(f":{port}")}
                held = set()
                for entry in Path(f"/proc/{child}/fd").iterdir():
                    with suppress(FileNotFoundError):  # closed since it was listed
                        held.add(os.readlink(entry))
                if any(f"socket:[{inode}]" in held for inode in inodes):
                    return worker
        raise AssertionError("no worker is busy")
