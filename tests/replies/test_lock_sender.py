"""What a send asks the database for does not grow with what others have on their way."""

from __future__ import annotations

from uuid import uuid4

from django.db import connection
from django.test import TestCase

from conversations.models import Conversation, Message, Reply, ReplyState, User
from tests.cast import alice, bob

OTHERS = 60


def answer(user: User) -> Conversation:
    conversation = Conversation.objects.create(user=user, model="scripted/echo")
    Reply.objects.create(
        user=user,
        conversation=conversation,
        question=Message.objects.create(conversation=conversation, role="user", content="Hello?"),
        model="scripted/echo",
        max_tokens=10,
        state=ReplyState.COMPLETE,
        idempotency_key=uuid4(),
    )
    return conversation


def looked_at() -> int:
    """Rows of replies that were read in this transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'replies'"
        )
        return int(cursor.fetchone()[0])


class SenderTests(TestCase):
    def test_a_send_counts_the_replies_of_its_sender_and_looks_at_no_others(self) -> None:
        for _ in range(OTHERS):
            answer(bob())
        sender = alice()
        conversation = answer(sender)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE replies")  # at an hour when nothing is on its way, as most are
            cursor.execute("SET LOCAL enable_seqscan = off")  # no table with so many others is so small
            Reply.objects.update(state=ReplyState.RUNNING)
            before = looked_at()
            cursor.execute("SELECT running, is_busy FROM lock_sender(%s, %s)", [sender.pk, conversation.pk])
            self.assertEqual(cursor.fetchone(), (1, True))
        self.assertLess(looked_at() - before, OTHERS / 2)
