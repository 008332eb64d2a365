"""Requests that no browser sends are answered like others: without an error of ours, and without a traceback."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

from django.conf import settings
from django.test import Client, TestCase

from chatapp.handler import Handler
from tests import cast

CHUNK = b"a" * 65_536


class Sender:
    """A client that sends as long as it is read, and keeps the answer."""

    def __init__(self, headers: dict[str, str]) -> None:
        headers = {"host": "localhost", "cookie": f"csrftoken={'a' * 32}"} | headers
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/healthz",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.sent = 0
        self.status = 0
        self.body = b""

    async def receive(self) -> dict[str, Any]:
        assert self.sent < 100_000_000, "it is read for ever"
        self.sent += len(CHUNK)
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


async def test_a_body_is_read_no_further_than_a_form_may_be_long() -> None:
    for headers in (
        {"content-type": "application/x-www-form-urlencoded", "content-length": "90000000"},
        {"content-type": "application/x-www-form-urlencoded", "transfer-encoding": "chunked"},
        {"content-type": "multipart/form-data; boundary=x", "transfer-encoding": "chunked"},
        {"content-type": "text/plain", "hx-request": "true"},
    ):
        sender = Sender(headers)
        await Handler()(sender.scope, sender.receive, sender.send)
        assert sender.status == 413, headers
        assert b"longer than 1 MiB" in sender.body
        assert sender.sent <= settings.DATA_UPLOAD_MAX_MEMORY_SIZE + len(CHUNK)


async def test_a_body_that_is_too_long_writes_no_log() -> None:
    """Anybody can send one, as often as they like."""
    sender = Sender({"content-type": "application/x-www-form-urlencoded", "content-length": "90000000"})
    with mock.patch.object(logging.getLogger().handlers[0], "handle") as handle:
        await Handler()(sender.scope, sender.receive, sender.send)
    assert sender.status == 413
    handle.assert_not_called()


class OddRequestTests(TestCase):
    def test_a_session_key_that_the_database_refuses_is_no_session(self) -> None:
        cast.alice()
        for key in ('"\\000aaaaaaaaaaaaaaaa"', "é" * 32, "a" * 10_000):
            client = Client()
            client.cookies.load({settings.SESSION_COOKIE_NAME: "x"})
            client.cookies[settings.SESSION_COOKIE_NAME].set(settings.SESSION_COOKIE_NAME, key, key)
            self.assertRedirects(client.get("/"), "/accounts/login/?next=/", msg_prefix=key[:20])

    def test_a_page_may_say_any_address_of_itself(self) -> None:
        self.client.force_login(cast.alice())
        for address in ("http://[", "//[", "http://testserver/%00/", "http://testserver//[/", "javascript:x"):
            headers = {"HX-Request": "true", "HX-Current-URL": address}
            response = self.client.get("/sidebar/", headers=headers)
            self.assertEqual(response.status_code, 200, address)

    def test_a_wrong_host_is_refused_and_writes_no_log(self) -> None:
        """Anybody can ask for any host, as often as they like."""
        with mock.patch.object(logging.getLogger().handlers[0], "handle") as handle:
            self.assertEqual(self.client.get("/", headers={"host": "evil.example"}).status_code, 400)
        handle.assert_not_called()
