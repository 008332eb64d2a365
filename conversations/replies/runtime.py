"""What one web process runs beside its requests: its replies, their journal, their checkpoints, sweeper and reaper."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

from django.conf import settings
from redis.exceptions import RedisError

from chatapp.logs import reply_id as log_context
from conversations import journal, kept_places, meanings, retrieval
from conversations.active import ActiveIndex
from conversations.catalog import kept_catalog
from conversations.crash_points import crash_point
from conversations.database import DATABASE_AWAY, make_pool
from conversations.gate import Gate
from conversations.journal import Kind
from conversations.llm import embeddings
from conversations.metrics import LOOP_LAG
from conversations.models import UNFINISHED, Message
from conversations.providers import close_providers
from conversations.retrieval import has_vectors

from .claims import Claimed
from .context import Requests
from .live import LiveReplies, LiveReply, Viewer
from .recovery import recover_replies
from .runner import run_reply
from .running import Ending, RunningReply
from .store import ReplyStore

logger = logging.getLogger(__name__)

#: How often a process asks the database about replies that it shows and another process runs.
BACKSTOP_SECONDS = 2.0
#: How often the index of active conversations is brought up to date.
ACTIVE_SECONDS = 1.0
#: Replies that go to the database in one statement, and their characters: the text is there several times over while
#: it is sent, and a connection keeps the room for the longest that it ever sent. All of them take turns.
CHECKPOINTED_AT_ONCE, WRITTEN_AT_ONCE = 200, 100_000
#: Seconds for which a thread that has sent a message lets the event loop begin its reply first, at most.
HEAD_START = 0.003
#: Database connections of recall.
RECALL_POOL = 2
#: How often the lag of the event loop is measured.
LAG_SECONDS = 0.5

_current: ReplyRuntime | None = None


def current_runtime() -> ReplyRuntime | None:
    """The runtime of this process, if it is a web process that has started."""
    return _current


class ReplyRuntime:
    def __init__(self) -> None:
        self.name = f"{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(4)}"
        self.pool = make_pool()
        self.store = ReplyStore(self.pool)
        #: Of few connections, so that each has planned what recall asks.
        self.recall_pool = make_pool(RECALL_POOL)
        self.kept_places = kept_places.KeptPlaces(self.recall_pool, prepare=retrieval.prepare)
        self.redis = journal.connect(settings.REDIS_URL)
        # The writer's and the gate's: no viewer holds up the text.
        self._writing_redis = journal.connect_for_few(settings.REDIS_URL)
        self._blocking_redis = journal.connect(settings.REDIS_URL, timeout=journal.BLOCK_SECONDS * 2)
        self.gate = Gate(self._writing_redis, self.name)
        self._active = ActiveIndex(self.redis)
        self.live = LiveReplies(on_gap=self._on_gap)
        self.writer = journal.Writer(
            self._writing_redis, self.name, tick=settings.JOURNAL_TICK, apply=self.live.apply
        )
        self.reader = journal.Reader(
            client=self._blocking_redis, name=self.name, apply=self.live.apply, control=self._control
        )
        self.running: dict[UUID, RunningReply] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._catching_up: set[UUID] = set()
        self._is_draining = False

    # --- Life of the process ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the pool and begin the periodic work; the first sweep takes what an earlier process left."""
        global _current
        self._loop = asyncio.get_running_loop()
        await self.pool.open()
        await self.recall_pool.open()
        if settings.ONLY_WEB_PROCESS:
            await self.store.end_other_leases(self.name)
        for job in (
            self.writer.run(),
            self.reader.run(),
            self._every(settings.REPLY_CHECKPOINT, self.checkpoint),
            self._every(settings.REPLY_SWEEP, self.sweep),
            self._every(settings.REPLY_SWEEP, self.reap),
            self._every(BACKSTOP_SECONDS, self._look_after_followed),
            self._every(ACTIVE_SECONDS, self._list_active),
            self._measure_lag(),
        ):
            self._begin(job)
        _current = self

    async def drain(self, grace: float) -> None:
        """Take no new replies, let running ones finish for `grace` seconds, then end the rest with their text."""
        self._is_draining = True
        await self.kept_places.close()
        crash_point("in_drain", after=0.05)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace)
        for running in list(self.running.values()):
            running.end(Ending.DRAIN)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=10)
        await self.writer.flush()

    async def close(self) -> None:
        global _current
        if _current is self:
            _current = None
        # A library may take a cancellation for a time-out of its own and go on: ask again, a bounded number of times.
        for _ in range(10):
            pending = [*self._jobs, *self._tasks.values()]
            for job in pending:
                job.cancel()
            if not pending:
                break
            await asyncio.wait(pending, timeout=0.5)
        await self.kept_places.close()
        await self.gate.aclose()
        for client in (self.redis, self._writing_redis, self._blocking_redis):
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()
        await close_providers()
        await self.recall_pool.close()
        await self.pool.close()

    def _begin(self, work: Awaitable[None], name: str | None = None) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run(), name=name)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
            except (*DATABASE_AWAY, RedisError, OSError) as error:
                logger.warning("%s waits: %s", job.__name__, type(error).__name__)
            except Exception:
                logger.exception("%s failed", job.__name__)
            await asyncio.sleep(seconds)

    async def _list_active(self) -> None:
        if self.writer.is_writing:
            claims = [running.claim for running in self.running.values()]
            await self._active.show({(claim.user_id, claim.conversation_id) for claim in claims})

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            LOOP_LAG.observe(max(0.0, loop.time() - due))

    # --- Replies ----------------------------------------------------------------------------------------

    @property
    def takes_replies(self) -> bool:
        """Whether a reply that is sent here may begin here."""
        return self._loop is not None and not self._is_draining

    def prepare(self, claimed: Claimed) -> Requests:
        """Plan its request while a claim is being committed; if it is not, nobody knows. Called from any thread."""
        requests = Requests(claimed.claim, claimed.known, self.recall_pool, self.kept_places)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(_plan_ahead, requests, context=contextvars.Context())
        return requests

    def wake(self, reply_id: UUID, requests: Requests | None = None) -> None:
        """Start a reply that was just committed, claimed for this process or not. Called from any thread.

        Returns when its call is about to be made, or soon: what else the thread has to do computes, too, and what the
        loop has to do comes first.
        """
        if self._loop is not None:
            begun = threading.Event()
            # In a context of its own: the request's, kept by what is begun here, would keep the request.
            context = contextvars.Context()
            self._loop.call_soon_threadsafe(self._start, reply_id, requests, begun, context=context)
            begun.wait(HEAD_START)

    def expect_send(self, below: Message) -> None:
        """Read what a send below a message will ask recall for, if its path is long. Called from any thread."""
        if self._loop is None or self._is_draining:
            return
        if below.path_tokens >= meanings.SOON_ASKED:
            expect = partial(self.expect_recall, below.conversation_id)
            self._loop.call_soon_threadsafe(expect, context=contextvars.Context())
        if below.path_messages >= kept_places.WORTH_KEEPING:
            expect = partial(self.kept_places.expect, below.conversation_id, below.pk)
            self._loop.call_soon_threadsafe(expect, context=contextvars.Context())

    def expect_recall(self, conversation_id: UUID) -> None:
        """Load the word vectors, if a conversation has any: the first recall need not wait for them."""

        async def load() -> None:
            with contextlib.suppress(*DATABASE_AWAY):
                if await has_vectors(self.recall_pool, conversation_id):
                    embeddings.load_aside()

        if embeddings.may_load():
            self._begin(load(), name="expect_recall")

    def _start(
        self, reply_id: UUID, requests: Requests | None = None, begun: threading.Event | None = None
    ) -> None:
        if self._is_draining and requests is not None:
            self._begin(self.store.requeue(reply_id, requests.claim.epoch))
        if self._is_draining or reply_id in self._tasks:
            return
        # Not in the context of whoever starts it: inside a request's, each ORM call would take that request's thread.
        task = asyncio.get_running_loop().create_task(
            self._run(reply_id, requests, begun), context=contextvars.Context(), name=f"reply {reply_id}"
        )
        self._tasks[reply_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(reply_id, None))

    async def _run(self, reply_id: UUID, requests: Requests | None, begun: threading.Event | None) -> None:
        log_context.set(str(reply_id))
        work = run_reply(self, reply_id, requests, begun)
        del requests, begun  # what was said would be kept for as long as its answer takes
        try:
            await work
        except DATABASE_AWAY as error:
            logger.warning("reply %s waits for the database: %s", reply_id, type(error).__name__)
        except Exception:
            logger.exception("reply %s was dropped", reply_id)

    async def sweep(self) -> None:
        """Start what was committed but never claimed."""
        if not self._is_draining:
            for user_id in await self.store.users_waiting():
                await self.store.release_waiting(user_id, at_most=settings.MAX_RUNNING_REPLIES)
            for reply_id in await self.store.queued(limit=200):
                self._start(reply_id)

    async def reap(self) -> None:
        """End the replies of dead processes, or begin them again."""
        if await recover_replies(self.store, self.redis):
            await self.sweep()

    async def checkpoint(self) -> None:
        """Save the text of all running replies and renew their leases; notice stops and lost leases."""
        for some in in_statements(list(self.running.values())):
            await self._checkpoint([reply for reply in some if reply.claim.reply_id in self.running])

    async def _checkpoint(self, running: list[RunningReply]) -> None:
        if not running:
            return
        position = self.writer.position
        for reply in running:
            if reply.status:  # for who comes late: the journal is read from the checkpoint on
                self.writer.append(reply.entry(reply.status, Kind.STATUS))
        ours = await self.store.checkpoint([reply.checkpoint(position) for reply in running])
        crash_point("between_checkpoints", after=0.4)
        for reply in running:
            reply_id = reply.claim.reply_id
            if reply_id not in ours:
                if reply_id in self.running:
                    reply.end(Ending.FENCED)
            elif ours[reply_id]:
                reply.end(Ending.STOP)

    async def release_waiting(self, user_id: int) -> None:
        """Start what waited for a reply of this person to end; what is lost here, the next sweep finds."""
        for reply_id in await self.store.release_waiting(user_id, at_most=settings.MAX_RUNNING_REPLIES):
            self._start(reply_id)

    def request_stop(self, reply_id: UUID, runner: str, user_id: int) -> None:
        """Stop a reply at once, here or in the process that runs it. Called from any thread; best effort."""

        async def stop() -> None:
            await self._stop(reply_id, runner)
            with contextlib.suppress(*DATABASE_AWAY):
                await self.release_waiting(user_id)

        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._begin(stop()), context=contextvars.Context())

    async def _stop(self, reply_id: UUID, runner: str) -> None:
        running, live = self.running.get(reply_id), self.live.get(reply_id)
        if running is not None:
            running.end(Ending.STOP)
            return
        if live is not None:
            await self._catch_up(live)
        if runner and runner != self.name:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await journal.send_control(self.redis, runner, {"stop": reply_id.hex})

    async def _control(self, fields: dict[str, str]) -> None:
        if "stop" in fields:
            await self._stop(UUID(fields["stop"]), "")

    # --- Viewers ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def viewing(self, reply_id: UUID) -> AsyncIterator[Viewer]:
        """A viewer of an unfinished reply, whichever process runs it."""
        live = self.live.open(reply_id)
        viewer = Viewer(live)
        live.viewers.add(viewer)
        try:
            if reply_id not in self._tasks:
                await self._catch_up(live)
            yield viewer
        finally:
            live.viewers.discard(viewer)
            self.release(reply_id)

    def release(self, reply_id: UUID) -> None:
        """Forget a reply that this process neither runs nor shows."""
        live = self.live.get(reply_id)
        if live is None or live.viewers or reply_id in self.running:
            return
        self.live.close(reply_id)
        if not any(other.runner == live.runner for other in self.live.all()):
            self.reader.forget(live.runner)

    def _on_gap(self, live: LiveReply) -> None:
        if live.reply_id not in self._catching_up:
            self._begin(self._catch_up(live))

    async def _catch_up(self, live: LiveReply) -> None:
        """Bring a reply of another process up to date: its checkpoint, then what was journalled since."""
        if live.runner == self.name:  # all that is known is here, or on its way into the journal
            return
        self._catching_up.add(live.reply_id)
        try:
            progress = await self.store.progress([live.reply_id])
            row = progress.get(live.reply_id)
            if row is None or row["state"] not in UNFINISHED:
                live.end()
                return
            self._take_checkpoint(live, row)
            if not live.runner or live.runner == self.name:
                return
            entries, position = await journal.read_stream(self.redis, live.runner, row["journal_position"])
            self.live.apply([entry for entry in entries if entry.reply_id == live.reply_id])
            await self.reader.follow(live.runner, position)
        except (*DATABASE_AWAY, RedisError, OSError, TimeoutError) as error:
            logger.warning("a viewer of reply %s waits: %s", live.reply_id, type(error).__name__)
        finally:
            self._catching_up.discard(live.reply_id)

    def _take_checkpoint(self, live: LiveReply, row: dict[str, object]) -> None:
        live.runner = str(row["runner"])
        epoch, text = row["epoch"], str(row["text"])
        assert isinstance(epoch, int)
        live.apply(journal.Entry(reply_id=live.reply_id, epoch=max(epoch, live.epoch), at=0, text=text))
        live.epoch = max(epoch, live.epoch)
        if row["is_thinking"]:
            live.think()

    async def _look_after_followed(self) -> None:
        """Whatever the journal lost, the database knows about a second later."""
        followed = [live for live in self.live.all() if live.runner != self.name and not live.is_ended]
        if not followed:
            return
        progress = await self.store.progress([live.reply_id for live in followed])
        for live in followed:
            row = progress.get(live.reply_id)
            if row is None or row["state"] not in UNFINISHED:
                live.end()
            elif live.runner != row["runner"]:
                self._begin(self._catch_up(live))
            else:
                self._take_checkpoint(live, row)


def _plan_ahead(requests: Requests) -> None:
    catalog = kept_catalog()
    # What fails here is planned again when it is asked for, and fails where somebody is told.
    with contextlib.suppress(Exception):
        if catalog is not None:
            requests.plan_ahead(catalog.get(requests.claim.model))


def in_statements(running: list[RunningReply]) -> Iterator[list[RunningReply]]:
    """In the order given, as many at a time as are checkpointed at once; a long one alone."""
    some: list[RunningReply] = []
    written = 0
    for reply in running:
        if some and (len(some) == CHECKPOINTED_AT_ONCE or written + reply.length > WRITTEN_AT_ONCE):
            yield some
            some, written = [], 0
        some.append(reply)
        written += reply.length
    if some:
        yield some
