"""What is forgotten is erased with all its versions, and does not come back: not by a model, not by a summary."""

from __future__ import annotations

import pytest
from django.core import signing
from django.db import connection

from conversations import memory
from conversations.forgotten import Forgotten, content_words, is_forgotten, traces_of
from conversations.memory import MemoryFull, TooLate
from conversations.models import Conversation, ConversationSummary, MemoryItem, User
from tests import cast
from tests.pages.base import conversation_of

from .base import Kind, State, fact, finds, found, say, state, told

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    return cast.alice()


@pytest.fixture
def conversation(alice: User) -> Conversation:
    return conversation_of(alice)


def test_nothing_of_its_text_is_left(alice: User, conversation: Conversation) -> None:
    item = memory.remember(alice, fact("My daughter is called Ingeborg", Kind.PROFILE))
    newer = memory.edit(item, fact("My daughter is called Ingeborg Elise", Kind.PROFILE))
    memory.forget(newer)
    with connection.cursor() as cursor:
        cursor.execute("SELECT i::text FROM memory_items i")
        rows = [row for (row,) in cursor.fetchall()]
    assert len(rows) == 2
    for row in rows:
        assert not any(word in row.lower() for word in ("ingeb", "elise", "daugh"))
    assert told(conversation) == []


def test_the_same_page_can_bring_it_back_with_its_history(alice: User, conversation: Conversation) -> None:
    item = memory.remember(alice, fact("Lives in Oslo"))
    newer = memory.edit(item, fact("Lives in Bergen"))
    memory.pin(newer, on=True)
    (back,) = memory.restore(alice, memory.forget(newer))
    assert (back.text, back.is_pinned, back.state, back.traces) == ("Lives in Bergen", True, State.ACTIVE, [])
    assert [one.text for one in memory.history(back)] == ["Lives in Oslo"]
    assert not is_forgotten(alice.pk, "She lives in Bergen")
    assert told(conversation) == ["Lives in Bergen"]


def test_nobody_else_can_bring_it_back_nor_later_nor_with_other_words(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = memory.forget(memory.remember(alice, fact("Lives in Oslo")))
    for user, token in ((cast.bob(), undo), (alice, undo[:-1] + "x"), (alice, ""), (alice, "a:b:c")):
        with pytest.raises(TooLate):
            memory.restore(user, token)
    with pytest.raises(TooLate):
        memory.restore(alice, signing.dumps([alice.pk, []], salt="another"))
    monkeypatch.setattr("conversations.memory.items.UNDO_SECONDS", -1)
    with pytest.raises(TooLate):
        memory.restore(alice, undo)
    assert MemoryItem.objects.get().text == ""


def test_what_comes_back_needs_room(conversation: Conversation) -> None:
    alice = conversation.user
    facts = [memory.remember(alice, fact(f"Fact {n}"), conversation=conversation) for n in range(60)]
    undo = [memory.forget(item) for item in facts]
    for n in range(60, 120):
        memory.remember(alice, fact(f"Fact {n}"), conversation=conversation)
    with pytest.raises(MemoryFull):
        memory.restore(alice, undo[0])
    assert len(told(conversation)) == 60
    memory.forget(MemoryItem.objects.get(text="Fact 60"))
    (back,) = memory.restore(alice, undo[0])
    assert back.text == "Fact 0"


def test_what_was_brought_back_and_changed_since_is_not_brought_back_again(alice: User) -> None:
    undo = memory.forget(memory.remember(alice, fact("Lives in Oslo")))
    (back,) = memory.restore(alice, undo)
    memory.edit(back, fact("Lives in Bergen"))
    assert memory.restore(alice, undo) == []
    assert [item.text for item in MemoryItem.objects.in_force()] == ["Lives in Bergen"]


def test_forgetting_twice_forgets_once(alice: User) -> None:
    item = memory.remember(alice, fact("Lives in Oslo"))
    memory.forget(item)
    assert memory.forget(item) == ""


def test_it_is_known_again_by_its_words_and_by_its_owner_alone(alice: User) -> None:
    memory.forget(memory.remember(alice, fact("My daughter Ingeborg was born on 12 May 2019")))
    assert is_forgotten(alice.pk, "Daughter: Ingeborg, born 12.5.2019 in May")
    assert is_forgotten(alice.pk, "The user's daughters name is INGEBORG, born on May 12")
    assert not is_forgotten(alice.pk, "The launch is on 12 May 2019")
    assert not is_forgotten(cast.bob().pk, "My daughter Ingeborg was born on 12 May 2019")


def test_digests_differ_between_people_and_between_keys(settings: object) -> None:
    before = traces_of(1, "Ingeborg")
    assert before != traces_of(2, "Ingeborg")
    settings.SECRET_KEY = "another"  # type: ignore[attr-defined]
    assert before != traces_of(1, "Ingeborg")


def test_a_key_that_was_replaced_still_tells(alice: User, settings: object) -> None:
    memory.forget(memory.remember(alice, fact("Lives in Oslo")))
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]  # type: ignore[attr-defined]
    settings.SECRET_KEY = "another"  # type: ignore[attr-defined]
    assert is_forgotten(alice.pk, "Lives in Oslo")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Never mention prices", {"menti", "price"}),
        ("Er wohnt in München", {"wohnt", "münch"}),
        ("私は東京に住んでいます", None),
        ("she", {"she"}),
        ("...", set()),
    ],
)
def test_the_words_that_carry_a_text(text: str, words: set[str] | None) -> None:
    assert content_words(text) == words if words is not None else len(content_words(text)) > 3


def test_a_model_that_finds_it_again_is_not_heard(conversation: Conversation) -> None:
    (item,) = state(conversation, "Remember that my daughter is called Ingeborg.")
    memory.forget(item)
    say(conversation, "Ingeborg, my daughter, starts school. We live in Bergen.")
    again = found("My daughter is called Ingeborg", "profile", 2)
    with finds(again, found("We live in Bergen", "profile", 2)):
        memory.learn(conversation.pk)
    assert told(conversation) == ["We live in Bergen"]


def test_a_summary_that_tells_it_is_told_no_more(conversation: Conversation) -> None:
    say(conversation, "My daughter is called Ingeborg.", answer="A fine name.")
    (item,) = state(conversation, "Remember that my daughter is called Ingeborg.")
    ConversationSummary.objects.create(
        conversation=conversation,
        summary="The launch is on Friday. Her daughter is called Ingeborg.",
        message_count_at_creation=2,
        covers_until_id=conversation.leaf_id,
    )
    memory.forget(item)
    texts = " ".join(ConversationSummary.objects.values_list("summary", flat=True))
    assert "Ingeborg" not in texts
    in_force = ConversationSummary.objects.of_path(conversation.pk, conversation.leaf_id)  # type: ignore[arg-type]
    assert [summary.summary for summary in in_force] == ["The launch is on Friday."]


def test_who_says_it_again_is_remembered_again(conversation: Conversation) -> None:
    (item,) = state(conversation, "Never mention prices.")
    memory.forget(item)
    state(conversation, "Never mention prices.")
    assert told(conversation) == ["Never mention prices"]
    assert not is_forgotten(conversation.user_id, "never mention prices")


def test_its_message_is_not_quoted_back(alice: User, conversation: Conversation) -> None:
    (item,) = state(conversation, "Never mention prices.")
    memory.forget(memory.remember(alice, fact("By hand"), conversation=conversation))
    memory.forget(item)
    skipped = MemoryItem.objects.not_to_be_recalled(conversation.pk)
    assert list(skipped.values_list("source", flat=True)) == [conversation.leaf_id]


def test_who_has_forgotten_nothing_is_asked_for_no_digest(alice: User) -> None:
    assert Forgotten.by(alice.pk).facts == ()


def test_what_was_kept_by_mistake_may_still_be_quoted_and_does_not_come_back(
    conversation: Conversation,
) -> None:
    (item,) = state(conversation, "Remember that my daughter is called Ingeborg.")
    undo = memory.forget(item, is_mistake=True)
    assert not MemoryItem.objects.not_to_be_recalled(conversation.pk).exists()
    assert is_forgotten(conversation.user_id, "my daughter is called Ingeborg")
    (back,) = memory.restore(conversation.user, undo)
    assert (back.source_id, back.text) == (conversation.leaf_id, "my daughter is called Ingeborg")


def test_no_to_a_proposal_hides_no_message(conversation: Conversation) -> None:
    message = say(conversation, "Prices should not be mentioned.")
    item = MemoryItem.objects.create(
        user=conversation.user,
        conversation=conversation,
        source=message,
        kind=Kind.CONSTRAINT,
        text="Do not mention prices",
        state=State.PROPOSED,
    )
    memory.forget(item)
    assert not MemoryItem.objects.not_to_be_recalled(conversation.pk).exists()
