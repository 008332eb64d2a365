"""Calls that nobody waits for are paid like any other, and wait when there is no money."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conversations.background import Completion, complete
from conversations.budgets import BudgetRefused, remaining, set_user_limit
from conversations.llm.errors import AuthenticationFailed, StreamInterrupted, TimedOut
from conversations.llm.scripted import Cut, Pause
from conversations.llm.types import ChatMessage, CompletionRequest, Finish, FinishReason, Usage
from conversations.models import Conversation, Hold, LedgerEntry, Purpose, User
from conversations.titles import missing, write_title
from tests import cast
from tests.prices.cheap import RATES
from tests.test_titles import ENTRY, exchange, model

pytestmark = pytest.mark.django_db

INPUT, OUTPUT = RATES.input // 1_000_000, RATES.output // 1_000_000


@pytest.fixture
def alice() -> User:
    return cast.alice()


@pytest.fixture
def conversation(alice: User) -> Conversation:
    found = Conversation.objects.create(user=alice, model="scripted/small")
    exchange(found, "What is the capital of Norway?")
    return found


def ask(alice: User, *, seconds: float = 5.0) -> Completion:
    request = CompletionRequest(
        model_id="small", messages=(ChatMessage(role="user", content="Sum it up"),), max_tokens=50
    )
    return complete(
        ENTRY, request, purpose=Purpose.SUMMARY, user_id=alice.pk, conversation_id=None, seconds=seconds
    )


def line(alice: User) -> LedgerEntry:
    """The only one, when nothing is held any more."""
    found = LedgerEntry.objects.get()
    today = remaining(alice.pk)
    assert (today.held, today.spent) == (0, found.charged)
    return found


def test_it_is_charged_what_the_provider_reports(alice: User) -> None:
    with model("A sum.", Finish(reason=FinishReason.STOP, usage=Usage(input_tokens=9, output_tokens=3))):
        assert ask(alice).text == "A sum."
    found = line(alice)
    assert (found.kind, found.purpose, found.charged) == ("settled", "summary", 9 * INPUT + 3 * OUTPUT)
    assert found.caused_by is None and found.usage_reported


def test_a_model_that_hangs_is_charged_its_prompt(alice: User) -> None:
    with model("Half", Pause(seconds=30)), pytest.raises(TimedOut):
        ask(alice, seconds=2.0)
    found = line(alice)
    assert found.charged == found.input_tokens * INPUT + found.output_tokens * OUTPUT
    assert found.input_tokens and found.output_tokens and not found.usage_reported


def test_a_stream_that_is_cut_is_charged_what_had_come(alice: User) -> None:
    with model("Half", Cut()), pytest.raises(StreamInterrupted):
        ask(alice)
    assert line(alice).output_tokens


def test_a_refused_call_is_not_charged(alice: User) -> None:
    with model(AuthenticationFailed("no")), pytest.raises(AuthenticationFailed):
        ask(alice)
    assert (line(alice).kind, line(alice).charged) == ("void", 0)


def test_without_money_nothing_is_sent(alice: User) -> None:
    set_user_limit(alice, 10)
    with model("A sum.") as provider, pytest.raises(BudgetRefused):
        ask(alice)
    assert not provider.requests and not Hold.objects.exists()


def test_a_title_is_a_line_of_its_own(alice: User, conversation: Conversation) -> None:
    with model("Capital of Norway"):
        assert write_title(conversation.pk) == "Capital of Norway"
    found = line(alice)
    assert (found.purpose, found.conversation_id) == ("title", conversation.pk)


def test_a_title_waits_for_money_and_no_try_is_used_up(alice: User, conversation: Conversation) -> None:
    set_user_limit(alice, 10)
    with model("Capital of Norway") as provider:
        assert write_title(conversation.pk) is None
        assert not provider.requests
        conversation.refresh_from_db()
        assert (conversation.title_attempts, conversation.is_unnamed) == (0, True)


def test_people_at_their_limit_are_not_looked_at(alice: User, conversation: Conversation) -> None:
    with model("Capital of Norway"):
        ask(alice)
        assert missing(limit=5) == [conversation.pk]
        set_user_limit(alice, 0)
        assert missing(limit=5) == []


def test_a_free_model_names_it_without_any_money(alice: User, conversation: Conversation) -> None:
    set_user_limit(alice, 0)
    with model("Capital of Norway", entry=replace(ENTRY, is_free=True, price=None)):
        assert write_title(conversation.pk) == "Capital of Norway"
    assert LedgerEntry.objects.get().kind == "free"
