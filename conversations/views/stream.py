"""`/replies/<id>/stream/`: what viewers of a reply receive, answered in front of Django.

Django keeps a thread for every streaming response until it ends; this route keeps none. It authorises first, with the
session of Django, and then holds neither a thread nor a connection.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.http import parse_cookie
from django.utils.crypto import constant_time_compare

from conversations.database import DATABASE_AWAY
from conversations.models import UNFINISHED, User
from conversations.replies.live import BlockClosed, Change, Delta, Ended, Snapshot, Viewer
from conversations.replies.runtime import ReplyRuntime, current_runtime
from conversations.replies.shown import Shown, load_shown
from conversations.sessions import SessionStore
from conversations.thread import Item

from . import stencil
from .expected import expected_streams

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PATH = re.compile(r"^/replies/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/stream/$")
HEARTBEAT_SECONDS = 15.0
#: Open streams of one person in one process. Each holds a socket; a browser needs one for each visible tab.
STREAMS_EACH = 100
#: Characters of an answer whose rendering does not hold up the other streams for long.
RENDERED_AT_ONCE = 1_000

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


_encode = json.JSONEncoder(separators=(",", ":")).encode


def event(name: str, data: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {_encode(data)}\n\n".encode()


def as_event(change: Change) -> bytes:
    match change:
        case Delta():
            return event("delta", {"at": change.at, "text": change.text})
        case BlockClosed():
            return event("block", {"html": change.html, "open": change.open_text, "at": change.at})
        case Snapshot():
            words = {"html": change.html, "open": change.open_text, "at": change.at}
            return event("snapshot", words | {"thinking": change.is_thinking, "status": change.status})
        case _:
            return b": ping\n\n"


#: The session, and who owns the reply if that may be watched.
SESSION_AND_OWNER = """
SELECT asked.place, s.session_data, u.id AS user_id, u.password, r.state
FROM unnest(%(sessions)s::text[], %(replies)s::uuid[]) WITH ORDINALITY AS asked(session, reply, place)
JOIN django_session s ON s.session_key = asked.session AND s.expire_date > now()
LEFT JOIN (
    replies r JOIN conversations c ON c.id = r.conversation_id AND c.deleted_at IS NULL
    JOIN users u ON u.id = r.user_id AND u.is_active
) ON r.id = asked.reply
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Whether somebody may watch a reply, as an HTTP status; if so, who they are and how the reply stands."""

    status: int
    user_id: int = 0
    state: str = ""
    proof: tuple[str, str] = ("", "")  #: session data and password: while they stay, so does the right


@dataclass(eq=False, kw_only=True, slots=True)
class OpenStream:
    """One answer on its way to a viewer."""

    session: str
    reply_id: UUID
    access: Access
    viewer: Viewer | None = None
    is_over: bool = False  #: the viewer has gone, or may not watch any longer

    def end(self) -> None:
        self.is_over = True
        if self.viewer is not None:
            self.viewer.leave()


class OpenStreams:
    """The streams of this process: how many each person has, and one guard for all of them."""

    def __init__(self) -> None:
        self._streams: set[OpenStream] = set()
        self._by_person: Counter[int] = Counter()
        self._guard: asyncio.Task[None] | None = None

    def has_place(self, user_id: int) -> bool:
        return self._by_person[user_id] < STREAMS_EACH

    def enter(self, stream: OpenStream, runtime: ReplyRuntime) -> None:
        self._streams.add(stream)
        self._by_person[stream.access.user_id] += 1
        if self._guard is None:
            self._guard = asyncio.create_task(self._look_after(runtime), context=contextvars.Context())

    def leave(self, stream: OpenStream) -> None:
        self._streams.discard(stream)
        self._by_person -= Counter([stream.access.user_id])
        if not self._streams and self._guard is not None:
            self._guard.cancel()
            self._guard = None

    async def _look_after(self, runtime: ReplyRuntime) -> None:
        """End the streams of who has signed out or been deactivated meanwhile; show the others that they are open.

        Asked beside the streams, which go on while the database is away.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for stream in self._streams:
                if stream.viewer is not None:
                    stream.viewer.nudge()
            try:
                await self._bar(runtime)
            except DATABASE_AWAY:
                pass
            except Exception as error:
                logger.error("viewers could not be checked: %s", type(error).__name__)

    async def _bar(self, runtime: ReplyRuntime) -> None:
        streams = list(self._streams)
        rows = await find_access(runtime, [(stream.session, stream.reply_id) for stream in streams])
        for stream, row in zip(streams, rows, strict=True):
            # Unchanged, what was found right before need not be unsigned again, a thousand times in a row.
            is_same = row is not None and (row["session_data"], row["password"]) == stream.access.proof
            if not is_same and access_of(row).status != 200:
                stream.end()


open_streams = OpenStreams()


async def stream(scope: Scope, receive: Receive, send: Send, reply_id: UUID) -> None:
    """Answer one viewer: 401 for a stranger to the site, 404 for a stranger to the reply, else the events."""
    runtime = current_runtime()
    if runtime is None:
        await refuse(send, 503)
        return
    if scope["method"] != "GET":
        await refuse(send, 405)
        return
    session = session_cookie(scope)
    try:
        access = access_of_sender(session, reply_id) or await authorise(runtime, session, reply_id)
    except DATABASE_AWAY:
        access = Access(status=503)  # the page tries again
    if access.status != 200:
        await refuse(send, access.status)
        return
    if not open_streams.has_place(access.user_id):
        await refuse(send, 429)
        return
    watched = OpenStream(session=session, reply_id=reply_id, access=access)
    open_streams.enter(watched, runtime)
    try:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await serve(runtime, receive, send, watched)
    finally:
        open_streams.leave(watched)


async def serve(runtime: ReplyRuntime, receive: Receive, send: Send, watched: OpenStream) -> None:
    """Write events until the reply has ended, or the viewer has gone or is sent away."""
    gone = asyncio.create_task(disconnected(receive))
    gone.add_done_callback(lambda _: watched.end())
    try:
        await write_events(runtime, send, watched)
    except OSError:
        pass  # the viewer has gone in the middle of an event
    except Exception as error:
        logger.error("the stream of reply %s failed: %s", watched.reply_id, type(error).__name__)
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def write_events(runtime: ReplyRuntime, send: Send, watched: OpenStream) -> None:
    if watched.access.state in UNFINISHED:
        async with runtime.viewing(watched.reply_id) as viewer:
            watched.viewer = viewer
            if watched.is_over:
                viewer.leave()
            async with aclosing(viewer.changes()) as changes:
                async for change in changes:
                    if not isinstance(change, Ended):
                        await send(
                            {"type": "http.response.body", "body": as_event(change), "more_body": True}
                        )
    last = b""
    if not watched.is_over:
        html, state = await final_article(runtime, watched.reply_id)
        last = event("done", {"html": html, "state": state})
    await send({"type": "http.response.body", "body": last, "more_body": False})


async def final_article(runtime: ReplyRuntime, reply_id: UUID) -> tuple[str, str]:
    """The reply as the page will show it from now on, and its state."""
    shown = await load_shown(runtime.pool, reply_id)
    if shown is None:
        return "", "deleted"
    is_long = shown.answer is not None and len(shown.answer.content) > RENDERED_AT_ONCE
    html = await asyncio.to_thread(render_reply, shown) if is_long else render_reply(shown)
    return html, shown.reply.state


def render_reply(shown: Shown) -> str:
    has_versions = shown.answer is None or len(shown.answers) > 1
    item = Item(
        message=shown.answer,
        reply=shown.reply,
        attempt=shown.attempt,
        paid=shown.paid,
        siblings=shown.answers if has_versions else [],
        is_last=True,
    )
    return stencil.fill_ended(item)


def access_of_sender(session: str, reply_id: UUID) -> Access | None:
    """What the send has found out a moment ago, once; the guard looks after this stream as after the others."""
    sender = expected_streams.take(session, reply_id)
    if sender is None:
        return None
    return Access(status=200, user_id=sender.user_id, state=sender.state, proof=sender.proof)


async def authorise(runtime: ReplyRuntime, session: str, reply_id: UUID) -> Access:
    """200 for the reply's owner, 401 without a valid session, 404 for anybody else."""
    if not session:
        return Access(status=401)
    [row] = await find_access(runtime, [(session, reply_id)])
    access = access_of(row)
    if row is None or access.status == 200 or not access.user_id:
        return access
    # No reply of theirs: whether they are signed in decides what they are told.
    async with runtime.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT password FROM users WHERE id = %s AND is_active", [access.user_id]
        )
        person = await cursor.fetchone()
    data = SessionStore().decode(row["session_data"])
    is_signed_in = person is not None and is_current(person["password"], data.get(HASH_SESSION_KEY, ""))
    return Access(status=404 if is_signed_in else 401)


async def find_access(
    runtime: ReplyRuntime, asked: Sequence[tuple[str, UUID]]
) -> list[dict[str, Any] | None]:
    """What decides whether each of these sessions may watch its reply, in the same order."""
    async with runtime.pool.connection() as connection:
        cursor = await connection.execute(
            SESSION_AND_OWNER,
            {"sessions": [session for session, _ in asked], "replies": [reply_id for _, reply_id in asked]},
        )
        found = {row["place"]: row for row in await cursor.fetchall()}
    return [found.get(place) for place in range(1, len(asked) + 1)]


def access_of(row: dict[str, Any] | None) -> Access:
    """401 for no valid session, or one whose person the reply does not belong to; they are named if there is one."""
    data = SessionStore().decode(row["session_data"]) if row else {}
    user_id = str(data.get(SESSION_KEY, ""))
    if (
        row is None
        or not user_id.isdigit()
        or data.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS
    ):
        return Access(status=401)
    if row["user_id"] != int(user_id) or not is_current(row["password"], data.get(HASH_SESSION_KEY, "")):
        return Access(status=401, user_id=int(user_id))
    proof = row["session_data"], row["password"]
    return Access(status=200, user_id=int(user_id), state=row["state"], proof=proof)


def is_current(password: str, session_hash: str) -> bool:
    """Whether the session was made under this password: changing it signs out everywhere."""
    user = User(password=password)
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(session_hash, known) for known in hashes)


def session_cookie(scope: Scope) -> str:
    """The key of the session, read as Django reads it: other sites' cookies beside it may be of any form."""
    header = "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    return SessionStore(parse_cookie(header).get(settings.SESSION_COOKIE_NAME)).session_key or ""


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
