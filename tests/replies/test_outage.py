"""PostgreSQL goes away and comes back: viewers go on watching, and the runners have it again at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async
from django.db import OperationalError

from conversations.catalog import Catalog, load_catalog
from conversations.database import make_pool
from conversations.llm.scripted import Pause, ScriptedProvider
from conversations.models import ReplyState
from conversations.replies import runner
from conversations.views import stream as stream_module

from .harness import ReplyTestCase, catalog_of, web_process
from .test_stream import Viewer, session_of


class OutageTests(ReplyTestCase):
    async def test_a_stream_goes_on_while_nobody_can_say_who_is_signed_in(self) -> None:
        find_access, asked = stream_module.find_access, []

        async def answered_once(*arguments: Any) -> list[dict[str, Any] | None]:
            asked.append(1)
            if len(asked) > 1:
                await asyncio.Event().wait()  # as the pool of a database that is away
            return await find_access(*arguments)

        words = [step for n in range(30) for step in (f"word{n} ", Pause(seconds=0.02))]
        with (
            catalog_of(ScriptedProvider(words)),
            mock.patch.object(stream_module, "HEARTBEAT_SECONDS", 0.1),
            mock.patch.object(stream_module, "find_access", answered_once),
        ):
            async with web_process(), asyncio.timeout(10):
                reply = await self.astart()
                viewer = await Viewer(await sync_to_async(session_of)(self.alice)).watch(reply.pk)
        self.assertEqual(viewer.events[-1][0], "done")
        self.assertGreater(len(asked), 1)

    async def test_a_reply_waits_for_the_list_of_models(self) -> None:
        times: list[int] = []

        def late() -> Catalog:
            times.append(1)
            if len(times) == 1:
                raise OperationalError
            return load_catalog()

        with catalog_of(ScriptedProvider(["Late but whole."])):
            reply = await self.astart()
            with (
                mock.patch.object(runner, "kept_catalog", return_value=None),
                mock.patch.object(runner, "load_catalog", late),
            ):
                async with web_process():
                    reply = await self.finished(reply)
        self.assertEqual((reply.state, len(times)), (ReplyState.COMPLETE, 2))

    async def test_the_pool_reconnects_soon_after_an_outage_however_long(self) -> None:
        pool = make_pool(1)
        arguments = pool.kwargs
        assert isinstance(arguments, dict)
        pool.kwargs = {**arguments, "host": "/nowhere"}
        async with pool:
            waiting = asyncio.create_task(pool.getconn(timeout=30))
            await asyncio.sleep(3.5)  # pauses that grow would have reached four seconds
            pool.kwargs = arguments
            returned = time.monotonic()
            await pool.putconn(await waiting)
        self.assertLess(time.monotonic() - returned, 2.0)
