"""However long a conversation is, a turn reads as much of it as it did before."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any
from unittest import mock

from asgiref.sync import async_to_sync
from django.db import connection
from psycopg import AsyncCursor

from conversations.context.cut import Cut
from conversations.database import Pool
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Conversation, Message, Reply
from conversations.replies.claims import Known

from .harness import catalog_of
from .turns import TurnsTestCase

MESSAGES = 10_000

#: Each answers the one before: a path without forks, as a person writes it over months.
MANY = """
INSERT INTO messages (id, conversation_id, parent_id, role, content, token_count, created_at)
SELECT md5(%(conversation)s || n)::uuid, %(conversation)s::uuid,
    CASE WHEN n > 1 THEN md5(%(conversation)s || (n - 1))::uuid END,
    CASE WHEN n %% 2 = 1 THEN 'user' ELSE 'assistant' END,
    'Note ' || n || ': the heron of station ' || n %% 97 || ' was seen again near the pump, and nobody had fed it.',
    25, now() - (%(messages)s - n) * interval '1 minute'
FROM generate_series(1, %(messages)s) AS n ORDER BY n
"""

#: What this transaction has fetched of a table.
FETCHED = "SELECT pg_stat_get_xact_tuples_fetched(%s::regclass) + pg_stat_get_xact_tuples_returned(%s::regclass) AS n"


class LongConversationTests(TurnsTestCase):
    def long(self, messages: int) -> Conversation:
        conversation = self.conversation()
        with connection.cursor() as cursor:
            cursor.execute(MANY, {"conversation": str(conversation.pk), "messages": messages})
        leaf = Message.objects.filter(conversation=conversation).latest("path_messages")
        self.assertEqual(leaf.path_messages, messages)
        Conversation.objects.filter(pk=conversation.pk).update(leaf=leaf)
        return conversation

    def test_a_cut_on_another_branch_does_not_make_a_turn_read_all_of_this_one(self) -> None:
        conversation = self.long(1_900)
        root = Message.objects.get(conversation=conversation, path_messages=1)
        other = Message.objects.create(
            conversation=conversation, parent=root, role="assistant", content="No.", token_count=2
        )
        cut = Cut(first_message_id=other.pk, key="").to_json()
        Conversation.objects.filter(pk=conversation.pk).update(cut=cut)
        with catalog_of(ScriptedProvider(), context_window=128_000):
            _, known = self._planned(self.send(conversation, "Where was the heron of station 41 seen?"))
        self.assertLess(len(known.history), 1_500)

    def test_a_turn_needs_four_statements_and_the_rows_of_what_it_shows(self) -> None:
        read: dict[int, tuple[int, int]] = {}
        with catalog_of(ScriptedProvider(), context_window=128_000):
            for messages in (1_000, MESSAGES):
                conversation = self.long(messages)
                first = self.send(conversation, "Where was the heron of station 41 seen?")
                statements, known = self._planned(first)
                self.assertEqual(statements, 4)  # the claim, and recall's three
                # Twice the high-water mark; of a longer path what its first cut leaves, and a quarter more.
                self.assertLess(len(known.history), 250 if messages == MESSAGES else 1_500)
                second = self.send(conversation, "And the one of station 42?")
                statements, known = self._planned(second)
                self.assertEqual(statements, 4)
                read[messages] = (len(known.history), self._fetched(second))
        shown, fetched = read[MESSAGES]
        # What a cut leaves of messages of 25 tokens, and what came since.
        self.assertLess(shown, 200)
        self.assertLess(fetched, 1_000)
        self.assertLess(fetched, read[1_000][1] + 100)

    @async_to_sync
    async def _planned(self, reply: Reply) -> tuple[int, Known]:
        """Plan and answer. The statements that the plan took, and what was claimed."""
        async with self.pool() as pool:
            await pool.wait()
            with counted() as statements:
                plan, requests, known = await self.plan(pool, reply)
            count = len(statements)
            self.assertTrue(plan.cut.recalled_ids)
            await self.end(pool, requests.claim, plan, "By the pump.")
        return count, known

    @async_to_sync
    async def _fetched(self, reply: Reply) -> int:
        """Rows of `messages` that the whole of planning a reply reads, by PostgreSQL's own count."""
        await Reply.objects.filter(pk=reply.pk).aupdate(state="queued", answer=None)
        async with self.pool() as pool, pool.connection() as held, held.transaction():
            await self.plan(_only(pool, held), reply)
            row = await (await held.execute(FETCHED, ["messages", "messages"])).fetchone()
        assert row is not None
        return int(row["n"])


def _only(pool: Pool, held: Any) -> Any:
    """A pool that hands out one connection again and again."""

    class One:
        @staticmethod
        def connection() -> Any:
            class Lent:
                async def __aenter__(self) -> Any:
                    return held

                async def __aexit__(self, *error: object) -> None:
                    return None

            return Lent()

    return One()


@contextmanager
def counted() -> Any:
    """The statements that are run on asynchronous cursors."""
    statements: list[str] = []
    run = AsyncCursor.execute

    async def execute(self: Any, query: Any, *values: Any, **options: Any) -> Any:
        statements.append(str(query))
        return await run(self, query, *values, **options)

    with mock.patch.object(AsyncCursor, "execute", execute):
        yield statements
