"""What a request is told is what `told_in` says, and a rule that a person states is in the very next request."""

from __future__ import annotations

import random
from uuid import uuid4

from asgiref.sync import sync_to_async

from conversations import memory
from conversations.context.layout import CONSTRAINTS, MEMORY
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Conversation, MemoryItem, Message, Reply, User
from conversations.replies.sending import Draft, start_reply
from conversations.replies.statements import read_beside
from tests import cast
from tests.replies.harness import MODEL, catalog_of
from tests.replies.turns import SMALL, TurnsTestCase, flat, say

FILLER = "Nothing of weight was said here, and nobody would look for it again. " * 8

State, Scope, Kind = MemoryItem.State, MemoryItem.Scope, MemoryItem.Kind


class ToldTests(TurnsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(catalog_of(ScriptedProvider()))

    async def test_a_rule_is_in_the_request_that_states_it_and_in_each_later_one(self) -> None:
        conversation = await sync_to_async(self.conversation)(SMALL | {"recall_tokens": 0})
        async with self.pool() as pool:
            first, _, _ = await self.turn(pool, conversation, "Never mention prices. How high are the fees?")
            self.assertIn(f"{CONSTRAINTS}\n- Never mention prices", flat(first))
            for number in range(12):
                plan, _, _ = await self.turn(pool, conversation, f"{number} {FILLER}", answer=FILLER)
                self.assertIn("- Never mention prices", flat(plan))
        self.assertNotIn("How high are the fees?", flat(plan))
        self.assertEqual(plan.messages[0].content, f"{CONSTRAINTS}\n- Never mention prices")

    async def test_a_line_that_is_superseded_and_still_shown_is_held_for(self) -> None:
        def superseded() -> int:
            return MemoryItem.objects.update(state=State.SUPERSEDED)

        def lines() -> int:
            return read_beside(self.alice.pk, conversation.pk).lines

        conversation = await sync_to_async(self.conversation)()
        async with self.pool() as pool:
            await self.turn(pool, conversation, "Remember that the wifi code is heron-42.")
            self.assertEqual(await sync_to_async(lines)(), 1)
            await sync_to_async(superseded)()
            self.assertEqual(await sync_to_async(lines)(), 1, "the last request shows it")
            await Conversation.objects.filter(pk=conversation.pk).aupdate(cut=None)
            self.assertEqual(await sync_to_async(lines)(), 0)

    def test_nothing_is_held_for_what_a_person_does_not_want_to_be_told(self) -> None:
        memory.remember(self.alice, memory.Fact(kind=Kind.PROFILE, text="Lives in Oslo"))
        here = self.conversation().pk
        self.assertEqual([read_beside(self.alice.pk, place).lines for place in (None, here)], [1, 1])
        User.objects.filter(pk=self.alice.pk).update(is_remembering=False)
        self.assertEqual([read_beside(self.alice.pk, place).lines for place in (None, here)], [0, 0])

    async def test_what_is_forgotten_is_not_in_the_next_request(self) -> None:
        conversation = await sync_to_async(self.conversation)()
        async with self.pool() as pool:
            shown, _, _ = await self.turn(pool, conversation, "Remember that the wifi code is heron-42.")
            self.assertIn(f"{MEMORY}\n- task: the wifi code is heron-42", flat(shown))
            item = await MemoryItem.objects.aget()
            await sync_to_async(memory.forget)(item)
            plan, _, _ = await self.turn(pool, conversation, "And now?")
        self.assertNotIn(MEMORY, flat(plan))

    async def test_an_edit_takes_the_place_of_what_it_says_anew(self) -> None:
        conversation = await sync_to_async(self.conversation)()
        async with self.pool() as pool:
            await self.turn(pool, conversation, "Remember that the gate code is 1234.")
            item = await MemoryItem.objects.aget()
            newer = memory.Fact(kind=Kind.TASK, text="the gate code is 5678")
            await sync_to_async(memory.edit)(item, newer)
            plan, _, _ = await self.turn(pool, conversation, "And now?")
        self.assertIn("- task: the gate code is 5678", flat(plan))
        self.assertNotIn("- task: the gate code is 1234", flat(plan))

    async def test_the_claim_reads_what_the_queryset_says(self) -> None:
        bob = await sync_to_async(cast.bob)()
        for seed in range(6):
            chance = random.Random(seed)
            mine, theirs = await sync_to_async(self._grow)(chance, bob)
            async with self.pool() as pool:
                for conversation in (*mine, theirs):
                    for is_remembering in (True, False):
                        await User.objects.aupdate(is_remembering=is_remembering)
                        await self._compare(pool, conversation, chance)

    async def _compare(self, pool: object, conversation: Conversation, chance: random.Random) -> None:
        reply = await sync_to_async(self._ask_somewhere)(conversation, chance)
        _, _, known = await self.plan(pool, reply)  # type: ignore[arg-type]
        owner = await User.objects.aget(pk=reply.user_id)
        told = MemoryItem.objects.told_in(owner, conversation.pk, reply.question_id)
        expected = [pk async for pk in told.values_list("pk", flat=True)]
        self.assertEqual([item.id for item in known.memory], expected)
        await Reply.objects.filter(pk=reply.pk).aupdate(state="complete")

    def _ask_somewhere(self, conversation: Conversation, chance: random.Random) -> Reply:
        owner = User.objects.get(pk=conversation.user_id)
        leaf = chance.choice(list(conversation.messages.filter(role="assistant")))
        draft = Draft(text="And now?", key=uuid4(), model=MODEL, leaf_id=leaf.pk, place="branch")
        return start_reply(user=owner, conversation_id=conversation.pk, draft=draft)

    def _grow(self, chance: random.Random, other: User) -> tuple[list[Conversation], Conversation]:
        """Two conversations of one person and one of another, with branches, and memory of all sorts from anywhere."""
        mine, theirs = [self.conversation(), self.conversation()], self.conversation(user=other)
        messages: list[Message] = []
        for conversation in (*mine, theirs):
            own: list[Message] = [
                say(conversation, None, "user", "Begin"),
            ]
            own.append(say(conversation, own[0], "assistant", "Begun"))
            for _ in range(8):
                parent = chance.choice(own)
                own.append(
                    say(conversation, parent, "user" if not parent.is_from_user else "assistant", "On")
                )
            messages += own
        for number in range(30):
            source = chance.choice(messages)
            MemoryItem.objects.create(
                user=source.conversation.user,
                conversation=source.conversation,
                source=chance.choice([source, source, None]),
                scope=chance.choice(Scope.values),
                kind=chance.choice(Kind.values),
                state=chance.choice([*State.values, State.ACTIVE, State.ACTIVE]),
                is_pinned=chance.random() < 0.1,
                text=f"Fact {number}",
            )
        return mine, theirs
