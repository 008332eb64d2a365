"""What people do with memory: remember, edit, pin, widen, confirm; one row a version, bounds, and nobody else's."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from conversations import memory
from conversations.context.view import MemoryKind
from conversations.memory import FactGone, FactTooLong, MemoryFull, MemoryRefused, NowhereElse
from conversations.models import Conversation, MemoryItem, Message, User
from tests import cast
from tests.pages.base import conversation_of, reply_to

from .base import Kind, Scope, State, fact, say, state, told

pytestmark = pytest.mark.django_db


def test_a_request_knows_each_kind_that_is_stored() -> None:
    assert MemoryItem.Kind.values == [kind.value for kind in MemoryKind]


@pytest.fixture
def alice() -> User:
    return cast.alice()


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return conversation_of(alice)


class TestStating:
    def test_a_rule_is_told_from_then_on_in_its_own_words(self, conversation: Conversation) -> None:
        (item,) = state(conversation, "Never mention prices.")
        assert (item.kind, item.origin, item.scope) == (Kind.CONSTRAINT, "person", Scope.CONVERSATION)
        assert item.source_id == conversation.leaf_id and item.token_count > 0
        assert told(conversation) == ["Never mention prices"]

    def test_a_message_that_states_nothing_asks_the_database_nothing(
        self, conversation: Conversation
    ) -> None:
        message, user = say(conversation, "How do I paginate a queryset?"), conversation.user
        with CaptureQueriesContext(connection) as queries:
            assert memory.note_stated(user, message) == []
        assert not queries.captured_queries

    def test_who_has_switched_it_off_is_not_remembered(self, conversation: Conversation) -> None:
        User.objects.update(is_remembering=False)
        assert state(conversation, "Never mention prices.") == []
        assert not MemoryItem.objects.exists()

    def test_what_is_said_twice_is_kept_once(self, conversation: Conversation) -> None:
        state(conversation, "Never mention prices.")
        assert state(conversation, "never mention PRICES!") == []

    def test_of_two_names_the_newer_holds_and_the_older_is_history(self, conversation: Conversation) -> None:
        state(conversation, "My name is Anna.")
        (item,) = state(conversation, "Call me Ann.")
        assert told(conversation) == ["Call me Ann"]
        (before,) = memory.history(item)
        assert (before.text, before.state) == ("My name is Anna", State.SUPERSEDED)

    def test_a_message_that_is_taken_back_takes_along_what_it_stated(
        self, conversation: Conversation
    ) -> None:
        state(conversation, "My name is Anna.")
        state(conversation, "Call me Ann.")
        memory.unsay(conversation.leaf_id)  # type: ignore[arg-type]
        assert told(conversation) == ["My name is Anna"]


class TestChanging:
    def test_an_edit_is_another_row_that_no_request_shows_beside_the_old_one(
        self, conversation: Conversation
    ) -> None:
        (item,) = state(conversation, "Never mention prices.")
        newer = memory.edit(item, fact("Never mention prices or discounts", Kind.CONSTRAINT))
        item.refresh_from_db()
        assert (item.state, item.text) == (State.REPLACED, "Never mention prices")
        assert (newer.supersedes_id, newer.source_id) == (item.pk, item.source_id)
        assert newer.pk > item.pk
        assert told(conversation) == ["Never mention prices or discounts"]
        assert [one.pk for one in memory.history(newer)] == [item.pk]

    def test_a_fact_that_was_edited_meanwhile_is_not_edited_again(self, conversation: Conversation) -> None:
        (item,) = state(conversation, "Never mention prices.")
        memory.edit(item, fact("First", Kind.CONSTRAINT))
        for change in (
            lambda: memory.edit(item, fact("Second", Kind.CONSTRAINT)),
            lambda: memory.pin(item, on=True),
            lambda: memory.change_scope(item, Scope.PERSON),
            lambda: memory.confirm(item),
        ):
            with pytest.raises(FactGone):
                change()
        assert told(conversation) == ["First"]

    def test_an_edit_that_changes_nothing_makes_no_row(self, conversation: Conversation) -> None:
        item = memory.remember(conversation.user, fact("Short answers"), conversation=conversation)
        assert memory.edit(item, fact(" Short  answers ")).pk == item.pk
        assert MemoryItem.objects.count() == 1

    def test_a_pinned_fact_keeps_its_row(self, conversation: Conversation) -> None:
        item = memory.remember(conversation.user, fact("Short answers"), conversation=conversation)
        memory.pin(item, on=True)
        assert MemoryItem.objects.get().is_pinned
        memory.pin(item, on=False)
        assert not MemoryItem.objects.get().is_pinned

    def test_what_belongs_to_no_conversation_holds_in_all(self, alice: User) -> None:
        item = memory.remember(alice, fact("Lives in Oslo", Kind.PROFILE))
        assert (item.scope, item.conversation_id) == (Scope.PERSON, None)
        with pytest.raises(NowhereElse):
            memory.change_scope(item, Scope.CONVERSATION)

    def test_the_same_words_are_the_same_fact(self, alice: User) -> None:
        first = memory.remember(alice, fact("Lives in Oslo"))
        assert memory.remember(alice, fact("lives in oslo.")).pk == first.pk

    def test_too_much_and_too_little_are_refused_with_a_sentence(self, alice: User) -> None:
        for text in ("", "  \n", "x" * 301):
            with pytest.raises(MemoryRefused) as refused:
                memory.remember(alice, fact(text))
            assert refused.value.sentence.endswith(".")
        assert not MemoryItem.objects.exists()
        with pytest.raises(FactTooLong):
            memory.edit(memory.remember(alice, fact("x" * 300)), fact("x" * 301))

    def test_what_cannot_be_stored_is_replaced_and_lines_are_one(self, alice: User) -> None:
        item = memory.remember(alice, fact("a\x00\nb\ud800"))
        item.refresh_from_db()
        assert item.text == "a\N{REPLACEMENT CHARACTER} b\N{REPLACEMENT CHARACTER}"


class TestBounds:
    def test_a_person_is_told_when_there_is_no_room(self, conversation: Conversation) -> None:
        fill(conversation, memory.MOST_OF_CONVERSATION, origin="person")
        with pytest.raises(MemoryFull):
            memory.remember(conversation.user, fact("One more"), conversation=conversation)
        memory.remember(conversation.user, fact("Elsewhere there is room"))

    def test_what_a_person_states_takes_the_place_of_the_oldest_that_a_model_found(
        self, conversation: Conversation
    ) -> None:
        fill(conversation, memory.MOST_OF_CONVERSATION)
        state(conversation, "Never mention prices.")
        lines = told(conversation)
        assert len(lines) == memory.MOST_OF_CONVERSATION
        assert "Never mention prices" in lines and "Fact 0" not in lines and "Fact 1" in lines

    def test_a_person_has_two_hundred(self, alice: User, conversation: Conversation) -> None:
        fill(conversation, memory.MOST_OF_PERSON, scope=Scope.PERSON, origin="person")
        with pytest.raises(MemoryFull):
            memory.remember(alice, fact("One more"))
        item = memory.remember(alice, fact("Here"), conversation=conversation)
        with pytest.raises(MemoryFull):
            memory.change_scope(item, Scope.PERSON)


class TestIsolation:
    def test_nobody_is_told_what_another_person_said(self, alice: User, conversation: Conversation) -> None:
        bob = cast.bob()
        memory.remember(alice, fact("Lives in Oslo", Kind.PROFILE))
        state(conversation, "Never mention prices.")
        assert told(conversation_of(bob)) == []
        # not even if somebody asked for the other's conversation by its id
        assert told(conversation, user=bob) == []

    def test_a_conversation_is_told_its_own_and_what_holds_in_all(
        self, alice: User, conversation: Conversation
    ) -> None:
        other = conversation_of(alice)
        state(conversation, "Never mention prices.")
        state(conversation, "My name is Anna.")
        assert told(other) == ["My name is Anna"]
        MemoryItem.objects.filter(kind=Kind.CONSTRAINT).update(scope=Scope.PERSON)
        assert told(other) == ["Never mention prices", "My name is Anna"]

    def test_a_branch_is_not_told_what_another_branch_said(self, conversation: Conversation) -> None:
        root = say(conversation, "We plan a launch", answer="When?")
        left = say(conversation, "Never mention prices.", under=root)
        memory.note_stated(conversation.user, left)
        answer = Message.objects.create(
            conversation=conversation, parent=left, role="assistant", content="Agreed."
        )
        right = say(conversation, "On Friday.", under=root)
        assert told(conversation, leaf=right) == []
        assert told(conversation, leaf=left) == told(conversation, leaf=answer) == ["Never mention prices"]
        assert told(conversation, leaf=root) == []

    def test_what_a_person_wrote_by_hand_holds_in_each_branch(self, conversation: Conversation) -> None:
        root = say(conversation, "We plan a launch", answer="When?")
        memory.remember(conversation.user, fact("On Friday"), conversation=conversation)
        for text in ("one", "another"):
            assert told(conversation, leaf=say(conversation, text, under=root)) == ["On Friday"]

    def test_a_contradiction_in_one_branch_leaves_the_other_as_it_is(
        self, conversation: Conversation
    ) -> None:
        question = say(conversation, "Always answer in German")
        memory.note_stated(conversation.user, question)
        first = reply_to(conversation, question, answer="Ja.").answer
        second = reply_to(conversation, question, answer="Gern.").answer
        left = say(conversation, "Go on", under=first)
        right = say(conversation, "Always answer in French", under=second)
        memory.note_stated(conversation.user, right)
        assert told(conversation, leaf=left) == ["Always answer in German"]
        # Both lines are told, the newer one last: it says otherwise.
        assert told(conversation, leaf=right) == ["Always answer in German", "Always answer in French"]

    def test_who_has_switched_it_off_is_told_nothing_from_elsewhere(
        self, alice: User, conversation: Conversation
    ) -> None:
        memory.remember(alice, fact("Lives in Oslo", Kind.PROFILE))
        state(conversation, "Never mention prices.")
        User.objects.filter(pk=alice.pk).update(is_remembering=False)
        assert told(conversation) == ["Never mention prices"]

    def test_of_an_unknown_leaf_only_what_nobody_said_is_told(self, conversation: Conversation) -> None:
        state(conversation, "Never mention prices.")
        memory.remember(conversation.user, fact("By hand"), conversation=conversation)
        nowhere = MemoryItem.objects.told_in(conversation.user, conversation.pk, uuid4())
        assert [item.text for item in nowhere] == ["By hand"]

    def test_what_holds_in_all_outlives_its_conversation(self, conversation: Conversation) -> None:
        state(conversation, "My name is Anna. Never mention prices.")
        memory.outlive([conversation])
        conversation.delete()
        assert [item.text for item in MemoryItem.objects.all()] == ["My name is Anna"]

    def test_who_leaves_takes_all_of_it_along(self, alice: User, conversation: Conversation) -> None:
        state(conversation, "My name is Anna. Never mention prices.")
        alice.delete()
        assert not MemoryItem.objects.exists()


def fill(conversation: Conversation, count: int, **values: str) -> None:
    MemoryItem.objects.bulk_create(
        MemoryItem(
            user=conversation.user, conversation=conversation, kind=Kind.TASK, text=f"Fact {n}", **values
        )
        for n in range(count)
    )
