"""Administrators see which provider is left alone after failures; looking changes nothing for those who call."""

from __future__ import annotations

from unittest import mock
from uuid import uuid4

from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import TestCase, override_settings

from conversations import journal
from conversations.catalog import forget_catalog
from conversations.gate import Rules, State, in_words, look
from conversations.gate.books import Answer, RedisBook, Report, Statement
from conversations.models import Provider
from tests import cast


@async_to_sync
async def fail(provider: str, times: int) -> Answer:
    """A process reports failed calls."""
    client = journal.connect(settings.REDIS_URL)
    try:
        reports = [Report(is_alive=False)] * times
        statement = Statement(process="calls", provider=provider, reports=reports)
        return (await RedisBook(client, Rules.from_settings()).sync([statement]))[0]
    finally:
        await client.aclose()


@override_settings(BREAKER_FAILURES=5, BREAKER_WINDOW=60.0, BREAKER_OPEN=30.0)
class LookTests(TestCase):
    def setUp(self) -> None:
        forget_catalog()
        self.slug = f"relay-{uuid4().hex[:8]}"
        Provider.objects.create(name="Team relay", slug=self.slug, base_url="http://127.0.0.1:1/v1")
        self.client.force_login(cast.ada())

    def page(self) -> str:
        return self.client.get("/admin/conversations/provider/").content.decode()

    def test_a_provider_without_failures_is_called(self) -> None:
        self.assertIn("Team relay: called", self.page())

    def test_failures_are_counted(self) -> None:
        fail(self.slug, 2)
        self.assertIn("Team relay: called; 2 calls failed in the last 60 s", self.page())

    def test_one_that_is_left_alone_is_said_with_when_it_is_tried_again(self) -> None:
        fail(self.slug, 5)
        self.assertRegex(self.page(), r"Team relay: left alone after failures, tried again in (29|30) s")

    def test_looking_takes_no_probe_and_changes_no_count(self) -> None:
        fail(self.slug, 5)
        for _ in range(3):
            self.assertIs(look([self.slug])[self.slug].state, State.OPEN)
        self.assertIs(fail(self.slug, 0).state, State.OPEN)

    def test_the_last_words(self) -> None:
        self.assertIn("next call tries", in_words(Answer(state=State.HALF_OPEN)))

    def test_while_redis_is_away_nothing_is_said(self) -> None:
        away = journal.connect("redis://127.0.0.1:1/0")
        with mock.patch.object(journal, "connect", return_value=away):
            self.assertNotIn("Whether they are called now", self.page())
