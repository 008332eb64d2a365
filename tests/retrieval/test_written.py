"""What people send and models answer can be recalled by its words from the moment it is written."""

from __future__ import annotations

from conversations.llm.scripted import ScriptedProvider
from conversations.models import MessagePlace, MessagePosting, Reply
from tests.replies.harness import ReplyTestCase, catalog_of, web_process


class WrittenTests(ReplyTestCase):
    async def answered(self) -> Reply:
        with catalog_of(ScriptedProvider(["The harbour is deep."])):
            async with web_process():
                return await self.finished(await self.astart("How deep is the harbour?"))

    async def test_question_and_answer_have_words_and_no_vectors_yet(self) -> None:
        reply = await self.answered()
        places = [place async for place in MessagePlace.objects.order_by("depth")]
        self.assertEqual([place.message_id for place in places], [reply.question_id, reply.answer_id])
        self.assertTrue(all(place.embedding is None for place in places))
        self.assertEqual(await MessagePosting.objects.filter(lexeme="harbour").acount(), 2)

    async def test_a_message_that_waited_is_in_line_with_the_answer_before_it(self) -> None:
        with catalog_of(ScriptedProvider(["The harbour is deep."])):
            reply = await self.astart("How deep is the harbour?")
            waiting = await self.asend(reply.conversation, "And how wide is the harbour?")
            async with web_process():
                await self.finished(waiting)
        places = [place async for place in MessagePlace.objects.order_by("depth")]
        self.assertEqual([place.depth for place in places], [1, 2, 3, 4])
        self.assertEqual(len({place.branch_id for place in places}), 1)
        self.assertEqual(places[2].message_id, waiting.question_id)
