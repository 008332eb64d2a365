"""A reply costs its database as much among many that are open as when it is alone."""

from __future__ import annotations

from uuid import uuid4

from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import timezone

from conversations.database import Pool, make_pool
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.types import Usage
from conversations.models import Conversation, Hold, Message, Reply, ReplyState, User
from conversations.models.fields import new_id
from conversations.replies.store import Outcome, ReplyStore
from tests.cast import bob
from tests.prices.cheap import a_price

from .harness import MODEL, ReplyTestCase, ask_for, catalog_of

OPEN, OVER = 60, 600


def replies_of(user: User, *, state: ReplyState, hold: Hold.State, count: int) -> None:
    """Replies in conversations of their own, each with its hold."""
    now = timezone.now()
    conversations = [Conversation(user=user, model=MODEL) for _ in range(count)]
    questions = [Message(conversation=each, role="user", content="Hello?") for each in conversations]
    replies = [
        Reply(
            user=user,
            conversation=each.conversation,
            question=each,
            model=MODEL,
            max_tokens=10,
            state=state,
            idempotency_key=uuid4(),
        )
        for each in questions
    ]
    holds = [
        Hold(
            state=hold,
            user_id=user.pk,
            reply_id=reply.pk,
            purpose="reply",
            model=MODEL,
            amount=0,
            input_tokens=1,
            max_tokens=10,
            price=a_price(MODEL).snapshot(),
            lease_expires_at=now,
            resolved_at=None if hold == Hold.State.HELD else now,
        )
        for reply in replies
    ]
    Conversation.objects.bulk_create(conversations)
    Message.objects.bulk_create(questions)
    Reply.objects.bulk_create(replies)
    Hold.objects.bulk_create(holds)


def vacuum() -> None:
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE) replies, budget_holds")


async def fetched(pool: Pool) -> dict[str, int]:
    """Rows that were read so far of replies and of holds."""
    async with pool.connection() as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        cursor = await connection.execute(
            """
            SELECT relname AS name, (coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0))::int AS rows
            FROM pg_stat_user_tables WHERE relname IN ('replies', 'budget_holds')
            """
        )
        return {row["name"]: row["rows"] for row in await cursor.fetchall()}


class KeyTests(ReplyTestCase):
    async def answer(self, store: ReplyStore) -> None:
        """A message of Alice's from its claim to its end."""
        with catalog_of(ScriptedProvider(), is_free=False, price=a_price(MODEL)):
            reply = await self.astart()
        claimed = await store.claim(reply.pk, "test")
        assert claimed is not None
        attempt_id = new_id()
        ask = ask_for(reply, attempt_id)
        begun = await store.begin_attempt(claimed[0], attempt_id, number=1, manifest={}, ask=ask)
        ended = await store.finish(
            reply_id=reply.pk,
            epoch=claimed[0].epoch,
            outcome=Outcome(state=ReplyState.COMPLETE, text="Hi", billed=Usage(input_tokens=11)),
            model=MODEL,
            attempt_id=attempt_id,
            price=begun.price,
        )
        self.assertIsNotNone(ended)

    async def test_plans_that_were_made_while_none_were_open_do_not_look_through_all_that_are(self) -> None:
        others = await sync_to_async(bob)()
        await sync_to_async(replies_of)(
            others, state=ReplyState.COMPLETE, hold=Hold.State.SETTLED, count=OVER
        )
        await sync_to_async(vacuum)()
        async with make_pool(1) as pool:
            store = ReplyStore(pool)
            await self.answer(store)
            await sync_to_async(replies_of)(
                others, state=ReplyState.RUNNING, hold=Hold.State.HELD, count=OPEN
            )
            before = await fetched(pool)
            await self.answer(store)
            after = await fetched(pool)
        for name, rows in after.items():
            with self.subTest(name):
                self.assertLess(rows - before[name], OPEN / 2)
