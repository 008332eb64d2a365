"""The stream's route stands in front of Django, so it is tried apart: who may watch, and for how long."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from psycopg_pool import PoolTimeout

from conversations.llm.scripted import Endless, Pause, ScriptedProvider, Step
from conversations.models import Conversation, Reply, User
from conversations.views import expected
from conversations.views import stream as stream_module
from conversations.views.stream import PATH, stream
from tests import cast

from .harness import DEADLINE, MODEL, ReplyTestCase, catalog_of, until, web_process


class Viewer:
    """An ASGI client that keeps what it was sent."""

    def __init__(self, cookie: str, method: str = "GET") -> None:
        headers = [(b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode())] if cookie else []
        self.scope: dict[str, Any] = {"type": "http", "method": method, "headers": headers}
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]

    async def watch(self, reply_id: UUID) -> Viewer:
        async with asyncio.timeout(DEADLINE):
            await stream(self.scope, self.receive, self.send, reply_id)
        return self

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for block in self.body.decode().split("\n\n"):
            if block.startswith("event: "):
                name, data = block.split("\n", 1)
                found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found


def session_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


class WhoHasJustSentTests(ReplyTestCase):
    """A page opens the stream of what it has sent at once: the send knew a moment ago who they are."""

    def send_from_page(self) -> tuple[str, UUID]:
        """The session, and the reply."""
        client = Client()
        client.force_login(self.alice)
        fields = {"text": "Again?", "key": str(uuid4()), "model": MODEL, "leaf": "", "place": "leaf"}
        fields["leaf"] = str(Conversation.objects.get().leaf_id)
        address = reverse("message_send", args=[Conversation.objects.get().pk])
        response = client.post(address, fields, headers={"HX-Request": "true"})
        self.assertEqual(response.status_code, 200)
        return client.cookies[settings.SESSION_COOKIE_NAME].value, Reply.objects.latest("created_at").pk

    async def asked_of_database(self, viewer: Viewer, reply_id: UUID) -> int:
        """How often who they are is asked for."""
        find_access = stream_module.find_access
        with mock.patch.object(stream_module, "find_access", side_effect=find_access) as asked:
            await viewer.watch(reply_id)
        return asked.await_count

    async def test_nothing_is_asked_for_once(self) -> None:
        with catalog_of(ScriptedProvider(["One."], ["Two."])):
            async with web_process():
                await self.finished(await self.astart())
                session, reply_id = await sync_to_async(self.send_from_page)()
                first, second = Viewer(session), Viewer(session)
                self.assertEqual(await self.asked_of_database(first, reply_id), 0)
                self.assertEqual(await self.asked_of_database(second, reply_id), 1)
        for viewer in (first, second):
            self.assertEqual((viewer.status, viewer.events[-1][1]["state"]), (200, "complete"))

    async def test_it_says_nothing_of_other_replies_and_sessions(self) -> None:
        with catalog_of(ScriptedProvider(["One."], ["Two."])):
            async with web_process():
                earlier = await self.finished(await self.astart())
                session, reply_id = await sync_to_async(self.send_from_page)()
                theirs = await sync_to_async(session_of)(await sync_to_async(cast.charlie)())
                self.assertEqual(await self.asked_of_database(Viewer(session), earlier.pk), 1)
                for cookie, status in ((theirs, 404), ("", 401)):
                    self.assertEqual((await Viewer(cookie).watch(reply_id)).status, status)

    async def test_not_for_long(self) -> None:
        with catalog_of(ScriptedProvider(["One."], ["Two."])):
            async with web_process():
                await self.finished(await self.astart())
                session, reply_id = await sync_to_async(self.send_from_page)()
                with mock.patch.object(expected, "KEPT_SECONDS", -1.0):
                    self.assertEqual(await self.asked_of_database(Viewer(session), reply_id), 1)

    async def test_the_guard_ends_it_like_any_other(self) -> None:
        with (
            catalog_of(ScriptedProvider(["One."], [Endless()])),
            mock.patch.object(stream_module, "HEARTBEAT_SECONDS", 0.1),
        ):
            async with web_process():
                await self.finished(await self.astart())
                session, reply_id = await sync_to_async(self.send_from_page)()
                viewer = Viewer(session)
                watching = asyncio.create_task(viewer.watch(reply_id))
                await until(lambda: asyncio.sleep(0.01, b"snapshot" in viewer.body))
                await Session.objects.all().adelete()
                await asyncio.wait_for(watching, DEADLINE)
        self.assertNotIn("done", [name for name, _ in viewer.events])


class WhoMayWatchTests(ReplyTestCase):
    async def test_only_the_owner_who_is_signed_in(self) -> None:
        with catalog_of(ScriptedProvider(["Secret."])):
            async with web_process():
                reply = await self.finished(await self.astart())
                mine = await sync_to_async(session_of)(self.alice)
                theirs = await sync_to_async(session_of)(await sync_to_async(cast.charlie)())
                admins = await sync_to_async(session_of)(await sync_to_async(cast.ada)())
                for cookie, pk, status in (
                    (mine, reply.pk, 200),
                    (mine, uuid4(), 404),
                    (theirs, reply.pk, 404),
                    (admins, reply.pk, 404),
                    ("", reply.pk, 401),
                    ("nonsense", reply.pk, 401),
                    ('";"\\', reply.pk, 401),
                ):
                    viewer = await Viewer(cookie).watch(pk)
                    self.assertEqual(viewer.status, status, cookie)
                    self.assertEqual(b"Secret" in viewer.body, status == 200)
                post = await Viewer(mine, "POST").watch(reply.pk)
                self.assertEqual(post.status, 405)

    async def test_a_viewer_is_asked_to_come_again_while_the_database_is_away(self) -> None:
        with catalog_of(ScriptedProvider(["Secret."])):
            async with web_process():
                reply = await self.finished(await self.astart())
                with mock.patch.object(stream_module, "authorise", side_effect=PoolTimeout):
                    viewer = await Viewer("x" * 32).watch(reply.pk)
        self.assertEqual(viewer.status, 503)

    async def test_a_cookie_is_read_as_django_reads_it(self) -> None:
        """Other programs on the same host set cookies of any form; nobody is signed out by them."""
        with catalog_of(ScriptedProvider(["Secret."])):
            async with web_process():
                reply = await self.finished(await self.astart())
                session = await sync_to_async(session_of)(self.alice)
                for header, status in (
                    (f'prefs={{"a": [1, 2]}}; sessionid={session}; =; x y', 200),
                    (f"sessionid={session}; sessionid[0]=1", 200),
                    ('sessionid="\\000aaaaaaaaaaaaaaaa"', 401),
                    ("sessionid=\xe9aaaaaaaaaaaaaaaa", 401),
                ):
                    viewer = Viewer("")
                    viewer.scope["headers"] = [(b"cookie", header.encode("latin-1"))]
                    self.assertEqual((await viewer.watch(reply.pk)).status, status, header)

    async def test_a_session_ends_with_the_account_the_password_and_the_conversation(self) -> None:
        with catalog_of(ScriptedProvider(["Secret."])):
            async with web_process():
                reply = await self.finished(await self.astart())
                cookie = await sync_to_async(session_of)(self.alice)
                await User.objects.filter(pk=self.alice.pk).aupdate(is_active=False)
                self.assertEqual((await Viewer(cookie).watch(reply.pk)).status, 401)
                await User.objects.filter(pk=self.alice.pk).aupdate(is_active=True)
                self.assertEqual((await Viewer(cookie).watch(reply.pk)).status, 200)
                await Conversation.objects.aupdate(deleted_at="2026-01-01T00:00:00Z")
                self.assertEqual((await Viewer(cookie).watch(reply.pk)).status, 404)
                await Conversation.objects.aupdate(deleted_at=None)
                self.alice.set_password("another long password")
                await self.alice.asave()
                self.assertEqual((await Viewer(cookie).watch(reply.pk)).status, 401)

    async def test_a_deactivated_person_watches_no_longer_than_a_heartbeat(self) -> None:
        with (
            catalog_of(ScriptedProvider(["Begun ", Pause(seconds=60)])),
            mock.patch.object(stream_module, "HEARTBEAT_SECONDS", 0.2),
        ):
            async with web_process():
                reply = await self.astart()
                viewer = Viewer(await sync_to_async(session_of)(self.alice))
                watching = asyncio.create_task(viewer.watch(reply.pk))
                await until(lambda: _contains(viewer, b": ping"))
                await User.objects.filter(pk=self.alice.pk).aupdate(is_active=False)
                await watching
        self.assertNotIn("done", [name for name, _ in viewer.events])

    async def test_nor_while_the_reply_is_written_without_a_pause(self) -> None:
        with (
            catalog_of(ScriptedProvider([Endless(text="word ")])),
            mock.patch.object(stream_module, "HEARTBEAT_SECONDS", 0.2),
        ):
            async with web_process():
                reply = await self.astart()
                viewer = Viewer(await sync_to_async(session_of)(self.alice))
                watching = asyncio.create_task(viewer.watch(reply.pk))
                await until(lambda: _contains(viewer, b"word"))
                await Session.objects.all().adelete()
                await watching
                self.assertTrue(await Reply.objects.filter(pk=reply.pk, state="running").aexists())
        self.assertNotIn("done", [name for name, _ in viewer.events])

    async def test_one_person_opens_a_bounded_number_of_streams(self) -> None:
        with (
            catalog_of(ScriptedProvider(["Begun ", Pause(seconds=60)])),
            mock.patch.object(stream_module, "STREAMS_EACH", 2),
        ):
            async with web_process():
                reply = await self.astart()
                cookie = await sync_to_async(session_of)(self.alice)
                viewers = [Viewer(cookie), Viewer(cookie)]
                watching = [asyncio.create_task(viewer.watch(reply.pk)) for viewer in viewers]
                for viewer in viewers:
                    await until(partial(_contains, viewer, b"Begun"))
                self.assertEqual((await Viewer(cookie).watch(reply.pk)).status, 429)
                viewers[0].gone.set()
                await watching[0]
                again = Viewer(cookie)
                watching.append(asyncio.create_task(again.watch(reply.pk)))
                await until(partial(_contains, again, b"Begun"))
                for viewer in (viewers[1], again):
                    viewer.gone.set()
                await asyncio.gather(*watching)


class EventsTests(ReplyTestCase):
    async def test_a_snapshot_comes_first_and_the_final_article_last(self) -> None:
        script: list[Step] = [
            "First paragraph.\n\n",
            Pause(seconds=0.2),
            "Second",
            Pause(seconds=0.2),
            " one 🙂.",
        ]
        with catalog_of(ScriptedProvider(script)):
            async with web_process():
                reply = await self.astart()
                viewer = await Viewer(await sync_to_async(session_of)(self.alice)).watch(reply.pk)
        names = [name for name, _ in viewer.events]
        self.assertEqual((names[0], names[-1]), ("snapshot", "done"))
        done = viewer.events[-1][1]
        self.assertEqual(done["state"], "complete")
        self.assertIn("Second one 🙂.", done["html"])
        self.assertEqual(viewer.headers[b"x-accel-buffering"], b"no")

    async def test_a_viewer_that_leaves_ends_its_stream_and_not_the_reply(self) -> None:
        provider = ScriptedProvider(["Begun ", Endless()])
        with catalog_of(provider):
            async with web_process() as process:
                reply = await self.astart()
                viewer = Viewer(await sync_to_async(session_of)(self.alice))
                watching = asyncio.create_task(viewer.watch(reply.pk))
                await until(lambda: _contains(viewer, b"Begun"))
                viewer.gone.set()
                await watching
                self.assertIn(reply.pk, process.running)
                self.assertEqual(provider.open_streams, 1)

    def test_the_route_takes_well_formed_ids_alone(self) -> None:
        for path in (
            "/replies/1/stream/",
            "/replies/../stream/",
            f"/replies/{uuid4()}/stream",
            "/x/replies/1/stream/",
        ):
            self.assertIsNone(PATH.match(path))


async def _contains(viewer: Viewer, text: bytes) -> bool:
    return text in viewer.body
