"""Which earlier messages a turn draws on, and recall over messages in memory."""

from __future__ import annotations

import time
from unittest import mock
from uuid import UUID

import pytest

from conversations.context.plan import RecallWanted
from conversations.context.simulate import Turn
from conversations.context.view import HistoryMessage
from conversations.cost_lab import recollection
from conversations.cost_lab.facts import facts_of, with_cites
from conversations.cost_lab.recollection import Recollection


def said(number: int, text: str, role: str = "user") -> HistoryMessage:
    return HistoryMessage(
        id=UUID(int=number),
        role="assistant" if role == "assistant" else "user",
        content=text,
        tokens=len(text.split()),
    )


def turns(*pairs: tuple[str, str]) -> list[Turn]:
    return [
        Turn(question=said(2 * n + 1, asked), answer=said(2 * n + 2, answered, "assistant"))
        for n, (asked, answered) in enumerate(pairs)
    ]


def test_facts_are_names_and_numbers() -> None:
    text = "We deploy release 2.14.3 to Zwolle on 17 March. The port is 6399, see ops/runbook.md."
    assert facts_of(text) >= {"2.14.3", "zwolle", "march", "6399", "ops/runbook.md"}
    assert not facts_of("Nothing to see here. The end of it. Yes, we can do that.")
    assert not facts_of("a 1 22")


@pytest.mark.parametrize("sign", ["a", "-", ".", "aB", "a/", "a_", "/a", "1a ", "Aa", "_ "])
def test_no_text_takes_long(sign: str) -> None:
    before = time.process_time()
    facts_of(sign * 20_000)
    assert time.process_time() - before < 0.2


def test_a_turn_cites_who_said_its_fact_first() -> None:
    filler = [("Go on.", "Yes.")] * 3
    made = with_cites(
        turns(("The port is 6399.", "Noted: 6399."), *filler, ("Which port was it?", "It was 6399."))
    )
    assert made[-1].cites == (UUID(int=1),)
    assert all(not turn.cites for turn in made[:-1]), "what is said at once again is in any request"


def test_what_everybody_says_is_no_fact() -> None:
    made = with_cites(turns(*[(f"Version 2.14 again, {n}.", "I see.") for n in range(9)]))
    assert all(not turn.cites for turn in made)


def wanted(room: int, *skip: int) -> RecallWanted:
    return RecallWanted(before=UUID(int=99), skip=tuple(UUID(int=n) for n in skip), room=room)


LINES = [
    said(1, "My sister's cat is called Muffin and she is four years old."),
    said(2, "The invoice 8841-B was paid in March."),
    said(3, "We talked about the weather in Bergen, which was fine."),
    *[said(n, f"Nothing of weight was said in line {n}.") for n in range(4, 30)],
]


def test_recollection_finds_by_words_and_by_meaning() -> None:
    recall = Recollection(overhead=0)
    assert recall(said(50, "Which invoices were paid?"), LINES, wanted(10))[0].message is LINES[1]
    assert recall(said(51, "What is my pet's name?"), LINES, wanted(14))[0].message is LINES[0]
    with mock.patch.object(recollection, "embed", return_value=None):
        blind = Recollection(overhead=0)
        assert blind(said(50, "Which invoices were paid?"), LINES, wanted(10))[0].message is LINES[1]


def test_recollection_keeps_to_the_room_and_leaves_out_what_is_shown() -> None:
    recall = Recollection(overhead=4)
    question = said(50, "invoice 8841-B weather Muffin")
    for room in (0, 12, 40):
        found = recall(question, LINES, wanted(room))
        assert sum(one.message.tokens + 4 for one in found) <= room or len(found) == 1
        assert found == sorted(found, key=lambda one: -one.score)
    assert LINES[1] not in [one.message for one in recall(question, LINES, wanted(400, 2))]
    assert recall(question, LINES[:1], wanted(400))[0].message is LINES[0], (
        "what comes later is not known yet"
    )
    assert recall(question, [], wanted(400)) == []
    set_aside = HistoryMessage(
        id=UUID(int=1), role="user", content="The invoice is lost.", tokens=4, is_set_aside=True
    )
    assert all(
        one.message is not set_aside
        for one in Recollection(overhead=0)(question, [set_aside, LINES[1]], wanted(99))
    )
