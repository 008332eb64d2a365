"""Who writes when: claimed once, tried again with patience, paid by the owner, and never on the way of a reply."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.utils import timezone

from conversations import memory, summaries
from conversations.budgets import remaining, set_user_limit
from conversations.llm.errors import Overloaded
from conversations.models import Conversation, ConversationSummary, LedgerEntry, User
from conversations.summaries import schedule
from conversations.tasks import compact_conversation, compact_due, write_wanted_summary
from conversations.wakeups import enqueue_what_is_due
from tests import cast
from tests.replies.harness import forget_earlier_tests
from tests.summaries.talks import ENTRY, GOOD, say, summariser, talk, versions

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    return cast.alice()


@pytest.fixture(autouse=True)
def learned() -> Iterator[mock.Mock]:
    """What memory would learn is not looked at here."""
    with mock.patch("conversations.memory.learn", return_value=memory.Outcome.NOTHING) as learn:
        yield learn


@pytest.fixture(autouse=True)
def gate_is_open() -> None:
    forget_earlier_tests()


@pytest.fixture(autouse=True)
def sent() -> Iterator[mock.Mock]:
    with mock.patch("conversations.wakeups.publisher.send") as send:
        yield send


def due(user: User, **fields: object) -> Conversation:
    conversation = talk(user)
    fields.setdefault("compaction_due_at", timezone.now())
    Conversation.objects.filter(pk=conversation.pk).update(**fields)
    conversation.refresh_from_db()
    return conversation


def state(conversation: Conversation) -> tuple[bool, int, bool]:
    """Whether it is due, how often it failed, and whether it is closed for now."""
    conversation.refresh_from_db()
    lease = conversation.compaction_lease_expires_at
    is_closed = lease is not None and lease > timezone.now()
    return conversation.compaction_due_at is not None, conversation.compaction_attempts, is_closed


def open_again(conversation: Conversation) -> None:
    """The pause, or the lease of a dead worker, is over."""
    Conversation.objects.filter(pk=conversation.pk).update(
        compaction_lease_expires_at=timezone.now() - timedelta(seconds=1)
    )


class TestTask:
    def test_it_writes_what_is_due_and_then_nothing_is(self, alice: User, learned: mock.Mock) -> None:
        conversation = due(alice)
        with summariser([GOOD]):
            compact_conversation(str(conversation.pk))
        assert versions(conversation) == [(1, "in_force", "")]
        assert state(conversation) == (False, 0, False)
        learned.assert_called_once_with(conversation.pk)

    def test_run_twice_it_is_one_summary_and_one_charge(self, alice: User) -> None:
        conversation = due(alice)
        with summariser([GOOD]) as model:
            compact_conversation(str(conversation.pk))
            compact_conversation(str(conversation.pk))
            open_again(conversation)
            compact_conversation(str(conversation.pk))
        assert len(model.requests) == 1
        assert ConversationSummary.objects.count() == LedgerEntry.objects.count() == 1

    def test_of_two_workers_one_asks(self, alice: User) -> None:
        conversation = due(alice)
        assert schedule.claim(conversation.pk)
        with summariser([GOOD]) as model:
            compact_conversation(str(conversation.pk))
        assert not model.requests

    def test_what_a_dead_worker_had_is_taken_over_after_its_lease(self, alice: User) -> None:
        conversation = due(alice)
        schedule.claim(conversation.pk)
        assert schedule.due(limit=5) == []
        open_again(conversation)
        assert schedule.due(limit=5) == [conversation.pk]
        with summariser([GOOD]):
            compact_conversation(str(conversation.pk))
        assert versions(conversation) == [(1, "in_force", "")]

    def test_what_becomes_due_meanwhile_stays_due(self, alice: User) -> None:
        conversation = due(alice)

        def another_reply(request: object) -> list[str]:
            Conversation.objects.filter(pk=conversation.pk).update(compaction_due_at=timezone.now())
            return [GOOD]

        with mock.patch.object(
            summaries, "write_next", side_effect=lambda pk: (another_reply(pk), summaries.Outcome.WRITTEN)[1]
        ):
            compact_conversation(str(conversation.pk))
        assert state(conversation) == (True, 0, False)

    def test_what_is_too_long_for_one_run_goes_on_in_the_next(self, alice: User) -> None:
        conversation = talk(alice, turns=60)
        Conversation.objects.filter(pk=conversation.pk).update(compaction_due_at=timezone.now())
        with summariser([GOOD], context_window=1_350) as model:
            compact_conversation(str(conversation.pk))
            assert state(conversation) == (True, 0, False)
            for _ in range(3):
                compact_conversation(str(conversation.pk))
        assert state(conversation) == (False, 0, False)
        newest = summaries.current(conversation)
        assert newest is not None and newest.message_count_at_creation >= 120 - 6
        assert 8 < len(model.requests) < 32

    def test_when_nothing_is_due_nothing_happens(self, alice: User) -> None:
        conversation = due(alice, compaction_due_at=None)
        with summariser([GOOD]) as model:
            compact_conversation(str(conversation.pk))
        assert not model.requests

    @pytest.mark.parametrize("gone", ["deleted", "suspended"])
    def test_nothing_is_paid_for_who_is_gone(self, alice: User, gone: str) -> None:
        conversation = due(alice)
        if gone == "deleted":
            Conversation.objects.update(deleted_at=timezone.now())
        else:
            User.objects.update(is_active=False)
        with summariser([GOOD]) as model:
            compact_conversation(str(conversation.pk))
        assert not model.requests and schedule.due(limit=5) == []

    def test_memory_that_fails_is_a_failure_too_and_the_summary_is_not_paid_again(
        self, alice: User, learned: mock.Mock
    ) -> None:
        conversation = due(alice)
        learned.return_value = memory.Outcome.FAILED
        with summariser([GOOD]) as model:
            compact_conversation(str(conversation.pk))
            assert state(conversation) == (True, 1, True)
            open_again(conversation)
            learned.return_value = memory.Outcome.READ
            compact_conversation(str(conversation.pk))
        assert state(conversation) == (False, 0, False) and len(model.requests) == 1

    def test_an_error_of_our_own_is_a_failure_and_is_tried_again(
        self, alice: User, learned: mock.Mock
    ) -> None:
        conversation = due(alice)
        learned.side_effect = ZeroDivisionError
        with summariser([GOOD]), pytest.raises(ZeroDivisionError):
            compact_conversation(str(conversation.pk))
        assert state(conversation) == (True, 1, True)


class TestPatience:
    def test_a_model_that_fails_for_a_day_is_asked_five_times_and_the_reasons_are_kept(
        self, alice: User
    ) -> None:
        conversation = due(alice)
        with summariser([Overloaded()]) as model:
            for _ in range(40):  # a sweep every half hour and more, each finding its pause over
                compact_conversation(str(conversation.pk))
                open_again(conversation)
                forget_earlier_tests()  # the gate would let nobody through
        assert len(model.requests) == schedule.MOST_ATTEMPTS
        assert state(conversation)[0] is False
        assert [reason for _, _, reason in versions(conversation)] == ["The provider is overloaded."] * 5

    def test_a_conversation_that_goes_on_is_tried_again_and_ever_more_rarely(self, alice: User) -> None:
        conversation = due(alice, compaction_attempts=5)
        waits = []
        with summariser([Overloaded()]) as model:
            for _ in range(4):
                before = timezone.now()
                compact_conversation(str(conversation.pk))
                conversation.refresh_from_db()
                assert conversation.compaction_lease_expires_at is not None
                waits.append(
                    round((conversation.compaction_lease_expires_at - before).total_seconds() / 86_400)
                )
                Conversation.objects.filter(pk=conversation.pk).update(compaction_due_at=timezone.now())
                compact_conversation(str(conversation.pk))  # the pause is not over
                open_again(conversation)
                forget_earlier_tests()
        assert len(model.requests) == 4
        assert waits == [2, 4, 7, 7]

    def test_the_pauses_grow(self) -> None:
        waits = [schedule.pause_after(attempts) for attempts in range(1, 400)]
        assert waits == sorted(waits) and waits[0] == timedelta(minutes=1) and waits[-1] == timedelta(days=7)

    def test_after_a_success_it_begins_anew(self, alice: User) -> None:
        conversation = due(alice, compaction_attempts=3)
        with summariser([GOOD]):
            compact_conversation(str(conversation.pk))
        assert state(conversation) == (False, 0, False)

    def test_a_refused_text_is_a_failure_too(self, alice: User) -> None:
        conversation = due(alice)
        with summariser(["<think>Let me see"]):
            compact_conversation(str(conversation.pk))
        assert state(conversation) == (True, 1, True)
        assert LedgerEntry.objects.get().charged > 0


class TestMoney:
    def test_without_money_it_waits_and_that_was_no_try(self, alice: User) -> None:
        conversation = due(alice)
        set_user_limit(alice, 10)
        with summariser([GOOD]) as model:
            compact_conversation(str(conversation.pk))
            assert not model.requests
            assert state(conversation) == (True, 0, True)
            set_user_limit(alice, 10**9)
            open_again(conversation)
            assert schedule.due(limit=5) == [conversation.pk]
            compact_conversation(str(conversation.pk))
        assert versions(conversation) == [(1, "in_force", "")]
        assert remaining(alice.pk).held == 0

    def test_people_at_their_limit_are_not_looked_at_unless_the_model_is_free(self, alice: User) -> None:
        conversation = due(alice)
        with summariser([GOOD]):
            compact_conversation(str(conversation.pk))
            Conversation.objects.update(compaction_due_at=timezone.now())
            set_user_limit(alice, 0)
            assert schedule.due(limit=5) == []
        with summariser([GOOD], is_free=True, price=None):
            assert schedule.due(limit=5) == [conversation.pk]


class TestWakeUp:
    def test_a_reply_that_makes_it_due_wakes_a_worker(self, alice: User, sent: mock.Mock) -> None:
        conversation = talk(alice)
        said: dict[str, Any] = {"conversation_id": conversation.pk, "state": "complete", "is_unnamed": False}
        enqueue_what_is_due(**said)
        sent.assert_not_called()
        enqueue_what_is_due(**said, compaction_due=True)
        sent.assert_called_once_with("compact_conversation", str(conversation.pk))

    def test_the_sweeper_hands_out_what_was_lost(self, alice: User) -> None:
        conversation = due(alice)
        with summariser([GOOD]):
            asked = summaries.want(conversation, alice)
            assert asked is not None
            ConversationSummary.objects.update(created_at=timezone.now() - timedelta(minutes=1))
            with (
                mock.patch.object(compact_conversation, "apply_async") as compact,
                mock.patch.object(write_wanted_summary, "apply_async") as write,
            ):
                compact_due()
        compact.assert_called_once_with((str(conversation.pk),), expires=60)
        write.assert_called_once_with((str(asked.pk),), expires=60)

    def test_the_lease_ends_before_the_broker_would_deliver_again(self, settings: object) -> None:
        assert schedule.LEASE.total_seconds() < settings.CELERY_TASK_SOFT_TIME_LIMIT  # type: ignore[attr-defined]
        from conversations.summaries.writing import MOST_PASSES

        assert schedule.LEASE.total_seconds() > MOST_PASSES * settings.SUMMARY_TIME_OUT  # type: ignore[attr-defined]


class TestWanted:
    """A person asks for a new one."""

    def test_it_is_a_row_at_once_and_written_once(self, alice: User, sent: mock.Mock) -> None:
        conversation = talk(alice, turns=1)
        with summariser([GOOD]) as model:
            asked = summaries.want(conversation, alice)
            assert asked is not None and asked.state == "wanted"
            again = summaries.want(conversation, alice)
            assert again == asked
            assert summaries.write_wanted(asked.pk) is summaries.Outcome.WRITTEN
            assert summaries.write_wanted(asked.pk) is summaries.Outcome.NOTHING
        assert len(model.requests) == 1
        asked.refresh_from_db()
        assert (asked.state, asked.summary, asked.acts_at_once, asked.created_by) == (
            "in_force",
            GOOD,
            True,
            alice,
        )
        assert asked.message_count_at_creation == 2

    def test_it_is_made_from_the_one_before_the_current_one(self, alice: User) -> None:
        conversation = talk(alice)
        with summariser(
            [GOOD], ["A wrong one, of the office, that was written in a bad hour."], [GOOD]
        ) as model:
            summaries.write_next(conversation.pk)
            for number in range(3):
                say(conversation, f"And the crane, {number}?", "The crane stays.")
            summaries.write_next(conversation.pk)
            asked = summaries.want(conversation, alice)
            assert asked is not None
            summaries.write_wanted(asked.pk)
        shown = model.requests[2].messages[-1].content
        assert GOOD in shown and "wrong one" not in shown and "crane, 0" in shown
        assert summaries.current(conversation) == asked

    def test_a_long_conversation_takes_several_calls_and_the_last_is_the_one_asked_for(
        self, alice: User
    ) -> None:
        conversation = talk(alice, turns=40)
        with summariser([GOOD], context_window=2_000) as model:
            asked = summaries.want(conversation, alice)
            assert asked is not None
            summaries.write_wanted(asked.pk)
        assert len(model.requests) > 1
        asked.refresh_from_db()
        assert (asked.version, asked.state, asked.message_count_at_creation) == (1, "in_force", 80)
        assert summaries.current(conversation) == asked

    def test_one_that_is_too_long_for_a_run_says_so_and_may_be_asked_for_again(self, alice: User) -> None:
        conversation = talk(alice, turns=80)
        with summariser([GOOD], context_window=1_350):
            asked = summaries.want(conversation, alice)
            assert asked is not None
            assert summaries.write_wanted(asked.pk) is summaries.Outcome.GOES_ON
        asked.refresh_from_db()
        assert (asked.state, asked.reason) == (
            "refused",
            "The conversation is too long for one go. Its beginning is summarised now: ask again for the rest.",
        )
        assert summaries.current(conversation) is not None

    def test_what_is_refused_says_so_on_the_row(self, alice: User) -> None:
        conversation = talk(alice)
        with summariser([]):
            asked = summaries.want(conversation, alice)
            assert asked is not None
            assert summaries.write_wanted(asked.pk) is summaries.Outcome.FAILED
        assert versions(conversation) == [(1, "refused", "The model wrote nothing.")]

    def test_without_money_it_is_refused_before_it_is_asked_for(self, alice: User) -> None:
        conversation = talk(alice)
        set_user_limit(alice, 10)
        with summariser([GOOD]) as model, pytest.raises(summaries.OverBudget) as refused:
            summaries.want(conversation, alice)
        assert "does not fit in what is left today" in str(refused.value)
        assert not model.requests and versions(conversation) == []

    def test_money_that_goes_meanwhile_is_told_on_the_row(self, alice: User) -> None:
        conversation = talk(alice)
        with summariser([GOOD]):
            asked = summaries.want(conversation, alice)
            set_user_limit(alice, 10)
            assert asked is not None
            summaries.write_wanted(asked.pk)
        assert versions(conversation)[0][1] == "refused" and "no money" in versions(conversation)[0][2]

    def test_one_whose_worker_died_is_ended_and_may_be_asked_for_again(self, alice: User) -> None:
        conversation = talk(alice)
        with summariser([GOOD]):
            asked = summaries.want(conversation, alice)
            assert asked is not None
            ConversationSummary.objects.update(model_used=ENTRY.id)
            assert summaries.end_abandoned() == 0
            ConversationSummary.objects.update(created_at=timezone.now() - timedelta(hours=1))
            assert summaries.end_abandoned() == 1
            assert "interrupted" in versions(conversation)[0][2]
            again = summaries.want(conversation, alice)
            assert again is not None and again.version == 2

    @pytest.mark.parametrize("gone", ["deleted", "suspended"])
    def test_nothing_is_paid_for_who_is_gone(self, alice: User, gone: str) -> None:
        conversation = talk(alice)
        with summariser([GOOD]) as model:
            asked = summaries.want(conversation, alice)
            assert asked is not None
            if gone == "deleted":
                Conversation.objects.update(deleted_at=timezone.now())
            else:
                User.objects.update(is_active=False)
            summaries.write_wanted(asked.pk)
        assert not model.requests

    def test_an_empty_conversation_has_nothing_to_say(self, alice: User) -> None:
        with summariser([GOOD]):
            assert summaries.want(Conversation.objects.create(user=alice, model=ENTRY.id), alice) is None
