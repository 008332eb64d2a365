"""What a person does with summaries, and what they have forgotten: always a new version, and the old ones stay."""

from __future__ import annotations

import pytest

from conversations import summaries
from conversations.forgotten import traces_of
from conversations.llm.types import CompletionRequest
from conversations.models import Conversation, ConversationSummary, MemoryItem, Message, User
from conversations.summaries import EmptySummary, NotOnPath, SummaryTooLong, current, write_next
from conversations.summaries.versions import keep
from tests import cast
from tests.replies.harness import forget_earlier_tests
from tests.summaries.talks import GOOD, say, summariser, talk, versions
from tests.test_titles import run_in_thread

pytestmark = pytest.mark.django_db

OTHER = "Alice plans a new harbour office in Bergen."


@pytest.fixture(autouse=True)
def gate_is_open() -> None:
    forget_earlier_tests()


@pytest.fixture
def alice() -> User:
    return cast.alice()


@pytest.fixture
def conversation(alice: User) -> Conversation:
    """Four turns, of which version 1 covers one and version 2 all."""
    found = talk(alice)
    one = Message.objects.get(conversation=found, path_messages=2)
    first = keep(found, text=OTHER, covers_until=one, made_from=None)
    assert found.leaf is not None
    keep(found, text=GOOD, covers_until=found.leaf, made_from=first)
    return found


def version(conversation: Conversation, number: int) -> ConversationSummary:
    return ConversationSummary.objects.get(conversation=conversation, version=number)


class TestEdit:
    def test_a_persons_text_is_a_new_version_that_acts_at_once(
        self, conversation: Conversation, alice: User
    ) -> None:
        made = summaries.edit(version(conversation, 2), text="  Hers.\r\n\x00 ", user=alice)
        assert (made.summary, made.version, made.origin, made.acts_at_once) == (
            "Hers.\n\ufffd",
            3,
            "person",
            True,
        )
        assert (made.made_from, made.created_by, made.covers_until) == (
            version(conversation, 2),
            alice,
            conversation.leaf,
        )
        assert current(conversation) == made
        assert versions(conversation)[1] == (2, "retired", "Edited: version 3 took its place.")
        assert version(conversation, 2).summary == GOOD

    def test_an_older_one_may_be_edited_and_then_stands_for_less(
        self, conversation: Conversation, alice: User
    ) -> None:
        made = summaries.edit(version(conversation, 1), text="Hers.", user=alice)
        assert current(conversation) == made and made.message_count_at_creation == 2
        assert [state for _, state, _ in versions(conversation)] == ["retired", "retired", "in_force"]

    def test_no_words_are_no_summary(self, conversation: Conversation, alice: User) -> None:
        with pytest.raises(EmptySummary):
            summaries.edit(version(conversation, 2), text=" \n", user=alice)
        assert len(versions(conversation)) == 2

    def test_it_is_under_a_third_of_the_room_there_is_for_it(
        self, conversation: Conversation, alice: User
    ) -> None:
        most = summaries.most_tokens(conversation)
        assert most == 4_000 // 3
        with pytest.raises(SummaryTooLong, match="at most 1,333 tokens"):
            summaries.edit(version(conversation, 2), text="word " * 2_000, user=alice)

    def test_the_next_one_is_made_from_it(self, conversation: Conversation, alice: User) -> None:
        summaries.edit(version(conversation, 2), text="The person says: Bergen it is.", user=alice)
        for number in range(3):
            say(conversation, f"And the crane, {number}?", "The crane stays.")
        with summariser([GOOD]) as model:
            write_next(conversation.pk)
        assert "Bergen it is" in model.requests[0].messages[-1].content
        newest = current(conversation)
        assert newest is not None and (newest.version, newest.origin) == (4, "model")


class TestRestore:
    def test_an_older_one_comes_back_as_a_new_version(self, conversation: Conversation, alice: User) -> None:
        made = summaries.restore(version(conversation, 1), user=alice)
        assert (made.summary, made.version, made.acts_at_once, made.message_count_at_creation) == (
            OTHER,
            3,
            True,
            2,
        )
        assert current(conversation) == made
        assert versions(conversation)[1] == (2, "retired", "Version 3 was restored in its place.")

    def test_what_was_restored_away_can_be_restored(self, conversation: Conversation, alice: User) -> None:
        summaries.restore(version(conversation, 1), user=alice)
        made = summaries.restore(version(conversation, 2), user=alice)
        assert (made.summary, made.version) == (GOOD, 4) and current(conversation) == made

    def test_one_of_another_branch_cannot_be_used_here(self, conversation: Conversation, alice: User) -> None:
        one = Message.objects.get(conversation=conversation, path_messages=2)
        say(conversation, "Another way?", "Another way.", under=one.pk)
        with pytest.raises(NotOnPath):
            summaries.restore(version(conversation, 2), user=alice)
        assert current(conversation) == version(conversation, 1)


class TestRemove:
    def test_without_the_current_one_the_model_sees_the_messages_alone(
        self, conversation: Conversation
    ) -> None:
        summaries.remove(version(conversation, 2))
        assert current(conversation) is None
        assert versions(conversation) == [
            (1, "retired", "You removed it."),
            (2, "retired", "You removed it."),
        ]

    def test_an_older_one_goes_alone(self, conversation: Conversation) -> None:
        summaries.remove(version(conversation, 1))
        assert current(conversation) == version(conversation, 2)

    def test_it_can_be_taken_back(self, conversation: Conversation, alice: User) -> None:
        summaries.remove(version(conversation, 2))
        made = summaries.restore(version(conversation, 2), user=alice)
        assert current(conversation) == made and made.summary == GOOD

    def test_the_next_one_begins_anew(self, conversation: Conversation) -> None:
        summaries.remove(version(conversation, 2))
        with summariser([GOOD]) as model:
            write_next(conversation.pk)
        assert "part 1?" in model.requests[0].messages[-1].content


class TestForget:
    FACT = "Alice is allergic to walnuts"
    TOLD = "Alice plans the move. She is allergic to walnuts, and the fees of the office are known."

    def told(self, conversation: Conversation) -> ConversationSummary:
        assert conversation.leaf is not None
        made = keep(conversation, text=self.TOLD, covers_until=conversation.leaf, made_from=None)
        assert made is not None
        return made

    def forgotten(self, alice: User, conversation: Conversation) -> None:
        MemoryItem.objects.create(
            user=alice,
            conversation=conversation,
            kind="profile",
            text="",
            state="forgotten",
            traces=traces_of(alice.pk, self.FACT),
        )

    def test_the_sentence_goes_and_the_rest_acts_at_once(
        self, conversation: Conversation, alice: User
    ) -> None:
        old = self.told(conversation)
        assert summaries.forget(alice.pk, [self.FACT]) == 1
        made = current(conversation)
        assert made is not None
        assert (made.summary, made.origin, made.acts_at_once) == ("Alice plans the move.", "person", True)
        old.refresh_from_db()
        assert old.state == "retired" and "walnuts" not in old.summary

    def test_digests_alone_are_enough(self, conversation: Conversation, alice: User) -> None:
        self.told(conversation)
        self.forgotten(alice, conversation)
        assert summaries.forget(alice.pk) == 1
        assert not ConversationSummary.objects.filter(summary__contains="walnuts").exists()

    def test_no_restored_version_brings_it_back(self, conversation: Conversation, alice: User) -> None:
        old = self.told(conversation)
        summaries.edit(old, text=GOOD, user=alice)
        summaries.forget(alice.pk, [self.FACT])
        old.refresh_from_db()
        assert "walnuts" not in summaries.restore(old, user=alice).summary

    def test_when_nothing_is_left_it_is_retired(self, conversation: Conversation, alice: User) -> None:
        assert conversation.leaf is not None
        keep(conversation, text="She is allergic to walnuts.", covers_until=conversation.leaf, made_from=None)
        summaries.forget(alice.pk, [self.FACT])
        assert versions(conversation)[2] == (3, "retired", "Something in it was to be forgotten.")
        assert len(versions(conversation)) == 3
        made = current(conversation)
        assert made is not None and made.version == 2

    def test_a_model_that_tells_it_again_is_not_believed(
        self, conversation: Conversation, alice: User
    ) -> None:
        self.forgotten(alice, conversation)
        for _ in range(3):
            say(conversation, "I am allergic to walnuts, you know?", "Then no walnuts for you.")
        with summariser([GOOD + " Alice is allergic to walnuts."]):
            write_next(conversation.pk)
        made = current(conversation)
        assert made is not None and made.version == 3 and made.summary == GOOD

    @pytest.mark.django_db(transaction=True)
    def test_what_is_forgotten_while_the_model_writes_is_not_kept(
        self, conversation: Conversation, alice: User
    ) -> None:
        for _ in range(3):
            say(conversation, "I am allergic to walnuts, you know?", "Then no walnuts for you.")

        def forget_meanwhile(request: CompletionRequest) -> list[str]:
            run_in_thread(lambda: self.forgotten(alice, conversation))
            return [GOOD + " Alice is allergic to walnuts."]

        with summariser(forget_meanwhile):
            write_next(conversation.pk)
        made = current(conversation)
        assert made is not None and made.summary == GOOD

    def test_a_summary_of_nothing_else_is_refused(self, conversation: Conversation, alice: User) -> None:
        self.forgotten(alice, conversation)
        for _ in range(3):
            say(conversation, "I am allergic to walnuts, you know?", "Then no walnuts for you.")
        with summariser(["Alice is allergic to walnuts."]):
            write_next(conversation.pk)
        assert versions(conversation)[2][1:] == (
            "refused",
            "Nothing is left of it without what was to be forgotten.",
        )

    def test_other_peoples_summaries_stay(self, conversation: Conversation) -> None:
        self.told(conversation)
        assert summaries.forget(cast.bob().pk, [self.FACT]) == 0

    def test_what_says_something_else_stays(self, conversation: Conversation, alice: User) -> None:
        assert summaries.forget(alice.pk, [self.FACT]) == 0
        assert current(conversation) == version(conversation, 2)
