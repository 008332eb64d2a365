"""What was said on another branch, in another conversation or by another person is never in a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from asgiref.sync import async_to_sync
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations.context.policy import Strategy
from conversations.llm.scripted import ScriptedProvider
from conversations.llm.tokens import kept_tokens
from conversations.models import Conversation, ConversationSummary, MemoryItem, Message, Reply, User
from tests import cast

from .harness import MODEL, catalog_of
from .turns import SMALL, TurnsTestCase, flat, say

#: Most of it happens in one conversation of one person, so that its branches are many.
places = st.sampled_from([0, 0, 0, 1])
number = st.integers(0, 40)
#: Who says it, in which of their two conversations, below which message, as whom, how much, and whether set aside.
messages = st.tuples(
    places,
    places,
    number,
    st.sampled_from(["user", "assistant"]),
    st.integers(1, 40),
    st.sampled_from([False, False, False, True]),
)
#: Whose memory, in which conversation, from which message if from one, for how far, of which kind, in which state.
items = st.tuples(
    places,
    places,
    st.none() | number,
    st.sampled_from(MemoryItem.Scope.values),
    st.sampled_from(MemoryItem.Kind.values),
    st.sampled_from([*[MemoryItem.State.ACTIVE] * 4, *MemoryItem.State.values]),
)
summaries = st.tuples(
    places,
    places,
    number,
    st.sampled_from([*[ConversationSummary.State.IN_FORCE] * 4, *ConversationSummary.State.values]),
    st.booleans(),
)
#: The strategies of the two conversations.
both = st.tuples(*[st.sampled_from([Strategy.ADAPTIVE, Strategy.ADAPTIVE, *Strategy])] * 2)


def marked(length: int) -> tuple[str, str]:
    """A word that nothing else has, and a text with it. The other words are in all texts, so recall finds any."""
    mark = f"mark{uuid4().hex[:12]}"
    return mark, f"{mark} of herons, " + "tea and the old pumping station, " * length


@dataclass
class World:
    """Two people, each with two conversations, and the mark of everything that is in them."""

    people: list[User]
    conversations: dict[tuple[int, int], Conversation]
    said: dict[tuple[int, int], list[Message]] = field(default_factory=dict)
    marks: dict[Any, str] = field(default_factory=dict)

    def message(self, who: int, where: int, number: int) -> Message | None:
        said = self.said.get((who, where), [])
        return said[number % len(said)] if said else None

    def say(self, who: int, where: int, below: int, role: str, length: int, is_set_aside: bool) -> Message:
        mark, text = marked(length)
        conversation = self.conversations[who, where]
        message = say(conversation, self.message(who, where, below), role, text, is_set_aside=is_set_aside)
        self.said.setdefault((who, where), []).append(message)
        self.marks[message.pk] = mark
        return message

    def learn(
        self, who: int, where: int, source: int | None, scope: str, kind: str, state: str
    ) -> MemoryItem:
        mark, text = marked(1)
        item = MemoryItem.objects.create(
            user=self.people[who],
            conversation=self.conversations[who, where],
            source=None if source is None else self.message(who, where, source),
            scope=scope,
            kind=kind,
            state=state,
            text=text,
            token_count=kept_tokens(text),
        )
        self.marks[item.pk] = mark
        return item

    def sum_up(self, who: int, where: int, until: int, state: str, acts_at_once: bool) -> None:
        covered = self.message(who, where, until)
        if covered is None:
            return
        mark, text = marked(1)
        conversation = self.conversations[who, where]
        summary = ConversationSummary.objects.create(
            conversation=conversation,
            summary=text,
            token_count=kept_tokens(text),
            version=conversation.summaries.count() + 1,
            covers_until=covered,
            message_count_at_creation=covered.path_messages,
            state=state,
            acts_at_once=acts_at_once,
        )
        self.marks[summary.pk] = mark

    def allowed(self, who: int, where: int, question: Message) -> set[Any]:
        """What a request for this question may hold, found the slow way."""
        by_id = {
            message.pk: message for message in Message.objects.filter(conversation=question.conversation)
        }
        path: list[Message] = [question]
        while (parent := path[-1].parent_id) is not None:
            path.append(by_id[parent])
        on_path = {message.pk for message in path}
        conversation, person = self.conversations[who, where], self.people[who]
        memory = {
            item.pk
            for item in MemoryItem.objects.filter(user=person, state=MemoryItem.State.ACTIVE)
            if item.scope == MemoryItem.Scope.PERSON
            or (
                item.conversation_id == conversation.pk
                and (item.source_id is None or item.source_id in on_path)
            )
        }
        adopted = {
            summary.pk
            for summary in conversation.summaries.filter(state=ConversationSummary.State.IN_FORCE)
            if summary.covers_until_id in on_path
        }
        return {message.pk for message in path if not message.is_set_aside} | memory | adopted


class IsolationTests(TurnsTestCase):
    def test_a_request_holds_only_what_is_on_its_path_and_what_its_owner_may_be_told(self) -> None:
        # One database for all examples: each makes people's conversations anew, and their memory is of one only.
        @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
        @given(
            tree=st.lists(messages, min_size=4, max_size=30),
            learned=st.lists(items, min_size=1, max_size=8),
            summed=st.lists(summaries, min_size=1, max_size=4),
            strategies=both,
            asked=st.lists(st.tuples(places, places, number), min_size=2, max_size=4),
        )
        def holds(
            tree: list[tuple[int, int, int, str, int, bool]],
            learned: list[tuple[int, int, int | None, str, str, str]],
            summed: list[tuple[int, int, int, str, bool]],
            strategies: tuple[Strategy, Strategy],
            asked: list[tuple[int, int, int]],
        ) -> None:
            world = self._world([self.alice, cast.bob()], strategies)
            for message in tree:
                world.say(*message)
            for item in learned:
                world.learn(*item)
            for summary in summed:
                world.sum_up(*summary)
            for who, where, below in asked:
                self._check(world, who, where, below)

        with catalog_of(ScriptedProvider()):
            holds()

    def _world(self, people: list[User], strategies: tuple[Strategy, Strategy]) -> World:
        MemoryItem.objects.all().delete()
        conversations = {
            (who, where): self.conversation(
                SMALL | {"strategy": strategies[where].value, "high_water": 1_500, "token_budget": 3_000},
                user=people[who],
            )
            for who in (0, 1)
            for where in (0, 1)
        }
        return World(people=people, conversations=conversations)

    def _check(self, world: World, who: int, where: int, below: int) -> None:
        question = world.say(who, where, below, "user", 1, False)
        reply = Reply.objects.create(
            user=world.people[who],
            conversation=question.conversation,
            question=question,
            model=MODEL,
            max_tokens=100,
            idempotency_key=uuid4(),
        )
        text = self._planned(reply)
        allowed = world.allowed(who, where, question)
        told = {pk for pk, mark in world.marks.items() if mark in text}
        self.assertIn(question.pk, told)
        self.assertLessEqual(told, allowed)

    @async_to_sync
    async def _planned(self, reply: Reply) -> str:
        """The request, whose cut is stored for the next one: which may be on another branch."""
        async with self.pool() as pool:
            plan, requests, _ = await self.plan(pool, reply)
            await self.end(pool, requests.claim, plan, "")
        return flat(plan)
