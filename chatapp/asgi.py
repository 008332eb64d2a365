"""The ASGI application: the life of the process, streams and static files in front of Django."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatapp.settings")
django.setup(set_prefix=False)

# Django must be set up before what follows is imported.
from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.finders import get_finders  # noqa: E402
from servestatic import ServeStaticASGI  # noqa: E402

from chatapp.handler import Handler  # noqa: E402
from conversations.allocator import give_back_memory  # noqa: E402
from conversations.llm import tokens  # noqa: E402
from conversations.replies.runtime import ReplyRuntime  # noqa: E402
from conversations.views.metrics import PATH as METRICS_PATH  # noqa: E402
from conversations.views.metrics import metrics  # noqa: E402
from conversations.views.stream import PATH as STREAM_PATH  # noqa: E402
from conversations.views.stream import stream  # noqa: E402

logger = logging.getLogger(__name__)

django_application = Handler()

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def _is_hashed(path: str, url: str) -> bool:
    """Whether the name of a collected file tells its content, so that browsers may keep it for good."""
    return re.search(r"\.[0-9a-f]{12}\.\w+(\.\w+)?$", url) is not None


def _static_files() -> ServeStaticASGI:
    """Static files, answered without Django's middleware: the collected ones, or their sources while developing."""
    root = Path(settings.STATIC_ROOT)
    options = {"max_age": 60, "allow_all_origins": False, "immutable_file_test": _is_hashed}
    if (root / "staticfiles.json").exists():
        return ServeStaticASGI(django_application, root=root, prefix=settings.STATIC_URL, **options)
    files = ServeStaticASGI(django_application, **options)
    for finder in get_finders():
        for folder in {storage.location for _, storage in finder.list([]) if hasattr(storage, "location")}:
            files.add_files(folder, prefix=settings.STATIC_URL)
    return files


static_files = _static_files()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    for path, answer in IN_FRONT:
        if scope["type"] == "http" and path.match(scope["path"]):
            await answer(scope, receive, send)
            return
    await django_application(scope, receive, send)


async def watch(scope: Scope, receive: Receive, send: Send) -> None:
    found = STREAM_PATH.match(scope["path"])
    assert found is not None
    await stream(scope, receive, send, UUID(found[1]))


#: What is answered in front of Django. `tests/security` knows who may open each.
IN_FRONT: list[tuple[re.Pattern[str], Callable[[Scope, Receive, Send], Awaitable[None]]]] = [
    (STREAM_PATH, watch),
    (re.compile(f"^{re.escape(settings.STATIC_URL)}"), static_files),
    (METRICS_PATH, metrics),
]


async def lifespan(receive: Receive, send: Send) -> None:
    """Start what a web process runs beside its requests; drain it when the server stops."""
    runtime: ReplyRuntime | None = None
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                tokens.warm_up()
                runtime = ReplyRuntime()
                await runtime.start()
            except Exception as error:
                logger.error("cannot start: %s", error)
                await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
                return
            # What was loaded so far lives as long as the process: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            give_back_memory()
            # Its young objects cost half a microsecond each to look at, at once: 5 ms, during which no stream goes on.
            gc.set_threshold(10_000, 50, 20)
            # Streams wait for no more than this when a request computes; Python's own 5 ms are a hiccup each.
            sys.setswitchinterval(0.0005)
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            if runtime is not None:
                await runtime.drain(settings.DRAIN_GRACE)
                await runtime.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
