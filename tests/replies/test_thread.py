"""What the page shows of a conversation, also while it changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from unittest import mock
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from conversations import thread
from conversations.llm.errors import Overloaded
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Conversation, Reply, ReplyState
from conversations.replies.sending import retry_reply
from conversations.thread import Item, load_thread

from .harness import ReplyTestCase, catalog_of, web_process


class ThreadTests(ReplyTestCase):
    async def test_a_reply_that_ends_while_the_page_is_made_is_on_it(self) -> None:
        with catalog_of(ScriptedProvider(["Quick."])):
            async with web_process():
                reply = await self.astart()
                # The view has read the conversation; then the reply ends; then the thread is read.
                conversation = await Conversation.objects.aget(pk=reply.conversation_id)
                reply = await self.finished(reply)
        thread = await sync_to_async(load_thread)(conversation)
        self.assertEqual(
            [item.message and item.message.content for item in thread.items], ["Hello?", "Quick."]
        )
        self.assertEqual((thread.leaf_id, thread.items[-1].reply), (reply.answer_id, reply))

    async def test_a_message_that_waits_is_on_a_page_that_is_made_while_the_reply_before_it_ends(
        self,
    ) -> None:
        with catalog_of(ScriptedProvider(["Quick."])):
            first = await self.astart()
            conversation = await Conversation.objects.aget(pk=first.conversation_id)
            await self.asend(conversation, "And then?")
            async with web_process():
                await self.finished(first)
                said = await sync_to_async(self.texts)(conversation)
        self.assertEqual(said[:3], ["Hello?", "Quick.", "And then?"])

    async def test_a_message_that_begins_while_the_page_is_made_is_on_it(self) -> None:
        items = thread._items

        def meanwhile(*arguments: Any) -> list[Item]:
            """The reply ends and the message moves below its answer, after the path was read."""
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(self.end_and_begin, waiting).result()
            return items(*arguments)

        with catalog_of(ScriptedProvider()):
            first = await self.astart()
            waiting = await self.asend(first.conversation, "And then?")
            with mock.patch.object(thread, "_items", meanwhile):
                said = await sync_to_async(self.texts)(first.conversation)
        self.assertEqual([text for text in said if text], ["Hello?", "And then?"])

    def end_and_begin(self, waiting: Reply) -> None:
        with closing(connection), transaction.atomic():
            Reply.objects.filter(conversation=waiting.conversation, state=ReplyState.QUEUED).update(
                state=ReplyState.STOPPED
            )
            Reply.objects.filter(pk=waiting.pk).update(state=ReplyState.QUEUED)
            Conversation.objects.filter(pk=waiting.conversation_id).update(leaf=waiting.question_id)

    def texts(self, conversation: Conversation) -> list[str]:
        return [item.message.content if item.message else "" for item in load_thread(conversation).items]

    async def test_a_failed_retry_stands_in_place_of_the_answer_and_leads_back_to_it(self) -> None:
        with catalog_of(ScriptedProvider(["Good."], [Overloaded("busy")])):
            async with web_process():
                first = await self.finished(await self.astart())
                again = await self.finished(await sync_to_async(retry_reply)(first, key=uuid4()))
        conversation = await Conversation.objects.aget(pk=first.conversation_id)
        last = (await sync_to_async(load_thread)(conversation)).items[-1]
        self.assertEqual((last.message, last.reply, last.siblings), (None, again, [first.answer_id]))

    async def test_versions_lead_from_one_to_the_other(self) -> None:
        with catalog_of(ScriptedProvider(["One."], ["Two."])):
            async with web_process():
                first = await self.finished(await self.astart())
                second = await self.finished(await sync_to_async(retry_reply)(first, key=uuid4()))
        conversation = await Conversation.objects.aget(pk=first.conversation_id)
        last = (await sync_to_async(load_thread)(conversation)).items[-1]
        self.assertEqual((last.position, last.previous_version), (2, first.answer_id))
        other = (await sync_to_async(load_thread)(conversation, leaf_id=first.answer_id)).items[-1]
        self.assertEqual((other.position, other.next_version), (1, second.answer_id))
