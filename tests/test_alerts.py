"""Alice is told once for each share of her day's limit, in the page and by e-mail, whoever looks and however often."""

from __future__ import annotations

import smtplib
import threading
from datetime import timedelta
from unittest import mock

from django.core import mail
from django.db import connection
from django.test import Client, TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from conversations.alerts import notice_for, put_away, raise_alerts, send_mails
from conversations.models import Budget, Scope, SpendAlert
from conversations.money import CENT, DOLLAR
from tests import cast
from tests.test_reconciliation import day_of


@override_settings(ALERT_SHARES=(50, 80, 100))
class AlertTests(TestCase):
    def setUp(self) -> None:
        self.alice = cast.alice()
        self.today = day_of(str(self.alice.pk))

    def spend(self, cents: int) -> None:
        Budget.objects.filter(pk=self.today.pk).update(spent=cents * CENT)
        raise_alerts()

    def shares(self) -> list[int]:
        return sorted(SpendAlert.objects.values_list("share", flat=True))

    def test_each_share_is_told_once(self) -> None:
        for cents, shares in ((249, []), (250, [50]), (399, [50]), (400, [50, 80]), (500, [50, 80, 100])):
            self.spend(cents)
            self.assertEqual(self.shares(), shares)
        self.assertEqual(raise_alerts(), 0)

    def test_what_is_granted_counts_and_what_is_held_does_not(self) -> None:
        Budget.objects.update(extra=5 * DOLLAR, held=5 * DOLLAR)
        self.spend(499)
        self.assertEqual(self.shares(), [])

    def test_unlimited_and_zero_have_no_shares_and_yesterday_is_over(self) -> None:
        ended = timezone.now() - timedelta(hours=1)
        day_of("7", limit=None, spent=DOLLAR)
        day_of("8", limit=0)
        day_of("9", spent=5 * DOLLAR, starts_at=ended - timedelta(hours=24), ends_at=ended)
        day_of("some conversation", scope=Scope.CONVERSATION, ends_at=None, day=None, spent=5 * DOLLAR)
        self.assertEqual(raise_alerts(), 0)

    def test_the_page_shows_the_highest_until_it_is_put_away(self) -> None:
        self.spend(420)
        notice = notice_for(self.alice)
        assert notice is not None
        self.assertEqual(notice.sentence, "84 % of today's budget is used.")
        put_away(SpendAlert.objects.get(share=80))
        self.assertIsNone(notice_for(self.alice))
        self.spend(500)
        notice = notice_for(self.alice)
        assert notice is not None
        self.assertEqual((notice.sentence, notice.is_over), ("All of today's budget is used.", True))

    def test_a_notice_that_a_grant_has_made_untrue_is_not_shown(self) -> None:
        self.spend(400)
        Budget.objects.update(extra=2 * DOLLAR)
        notice = notice_for(self.alice)
        assert notice is not None
        self.assertEqual((notice.share, notice.sentence), (50, "57 % of today's budget is used."))
        Budget.objects.update(extra=5 * DOLLAR)
        self.assertIsNone(notice_for(self.alice))

    def test_alice_puts_it_away_in_the_page(self) -> None:
        self.spend(400)
        self.client.force_login(self.alice)
        self.assertContains(self.client.get("/archived/"), "80 % of today&#x27;s budget is used.")
        address = f"/notice/{SpendAlert.objects.get(share=80).pk}/put-away/"
        stranger = Client()
        stranger.force_login(cast.charlie())
        self.assertEqual(stranger.post(address).status_code, 404)
        self.assertEqual(self.client.post(address).status_code, 303)
        self.assertNotContains(self.client.get("/archived/"), "today&#x27;s budget")
        self.assertNotContains(self.client.get("/notice/"), "today&#x27;s budget")


@override_settings(MAIL=True, ALERT_SHARES=(50, 80, 100), PUBLIC_URL="https://chat.example.org")
class MailTests(TestCase):
    def setUp(self) -> None:
        self.alice = cast.alice()
        self.today = day_of(str(self.alice.pk), spent=420 * CENT, held=10 * CENT)
        raise_alerts()

    def test_one_mail_for_the_highest_share_and_none_again(self) -> None:
        self.assertEqual((send_mails(), send_mails()), (1, 0))
        message = mail.outbox[0]
        self.assertEqual(message.to, ["alice@example.org"])
        self.assertEqual(message.subject, "Parley: 80 % of today's budget is used")
        self.assertIn(
            "84 % of today's budget is used.\n$4.20 of $5.00 spent, $0.10 held, $0.70 left.", message.body
        )
        self.assertIn("(Europe/Oslo)", message.body)
        self.assertIn("https://chat.example.org", message.body)
        self.assertFalse(SpendAlert.objects.filter(mailed_at=None).exists())

    def test_a_mail_that_the_server_refuses_is_sent_in_the_next_round(self) -> None:
        refusal = smtplib.SMTPServerDisconnected("gone")
        with (
            mock.patch("django.core.mail.EmailMessage.send", side_effect=refusal),
            self.assertLogs("conversations.alerts", "WARNING") as logs,
        ):
            self.assertEqual(send_mails(), 0)
        self.assertNotIn("alice", "".join(logs.output))
        self.assertEqual(send_mails(), 1)

    def test_everybodys_day_is_told_to_administrators(self) -> None:
        cast.ada()
        SpendAlert.objects.all().delete()
        Budget.objects.all().delete()
        day_of("", scope=Scope.INSTALLATION, spent=5 * DOLLAR)
        raise_alerts()
        self.assertEqual(send_mails(), 1)
        self.assertEqual(mail.outbox[0].to, ["ada@example.org"])
        self.assertEqual(mail.outbox[0].subject, "Parley: everybody's budget of today is used up")

    def test_who_cannot_sign_in_gets_none(self) -> None:
        self.alice.is_active = False
        self.alice.save()
        self.assertEqual(send_mails(), 0)

    @override_settings(MAIL=False)
    def test_without_a_mail_server_nothing_is_sent(self) -> None:
        self.assertEqual(send_mails(), 0)
        self.assertFalse(mail.outbox)


@override_settings(MAIL=True, ALERT_SHARES=(50, 80, 100))
class RaceTests(TransactionTestCase):
    def test_workers_at_the_same_time_send_one_mail(self) -> None:
        day_of(str(cast.alice().pk), spent=400 * CENT)
        start = threading.Barrier(4)

        def work() -> None:
            start.wait(timeout=10)
            raise_alerts()
            send_mails()
            connection.close()

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=20)
        self.assertEqual(len(mail.outbox), 1)
        self.assertEqual(SpendAlert.objects.count(), 2)
