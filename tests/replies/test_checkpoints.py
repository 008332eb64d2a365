"""What is kept of the text of running replies, and how much of it goes to the database in one statement."""

from __future__ import annotations

from typing import cast

from conversations.replies.claims import Claim
from conversations.replies.running import LEAST_PART, RunningReply, joined
from conversations.replies.runtime import CHECKPOINTED_AT_ONCE, WRITTEN_AT_ONCE, in_statements


def reply(*, characters: int, thought: int = 0) -> RunningReply:
    running = RunningReply(cast(Claim, None))
    running.parts, running.at, running.thoughts = ["a" * characters], characters, ["b" * thought]
    return running


def sizes(running: list[RunningReply]) -> list[int]:
    statements = list(in_statements(running))
    assert [each for some in statements for each in some] == running
    return [len(some) for some in statements]


def test_many_short_replies_are_checkpointed_in_few_statements() -> None:
    most = CHECKPOINTED_AT_ONCE
    assert sizes([reply(characters=10) for _ in range(2 * most + 1)]) == [most, most, 1]
    assert sizes([]) == []


def test_a_statement_holds_no_more_text_than_its_connection_may_keep_room_for() -> None:
    third = WRITTEN_AT_ONCE // 3
    assert sizes([reply(characters=third - 1, thought=1) for _ in range(7)]) == [3, 3, 1]
    assert sizes([reply(characters=5), reply(characters=2 * WRITTEN_AT_ONCE), reply(characters=5)]) == [
        1,
        1,
        1,
    ]


def test_a_text_of_many_pieces_is_few_parts_and_none_of_them_is_made_anew() -> None:
    parts: list[str] = []
    whole = ""
    for number in range(2_000):
        piece = f"word{number} "
        whole += piece
        parts.append(piece)
        if number % 25 == 0:
            first = parts[0] if len(parts[0]) >= LEAST_PART else None
            assert joined(parts) == whole
            assert first is None or parts[0] is first
    assert joined(parts) == whole
    assert len(parts) <= len(whole) / LEAST_PART + 1


def test_short_pieces_are_one_part_though_a_long_one_came_after_them() -> None:
    burst = "b" * LEAST_PART
    parts = [*"many words", burst, *"and more", burst]
    assert joined(parts) == f"many words{burst}and more{burst}"
    assert parts == ["many words", burst, "and more", burst]


def test_no_parts_stay_none() -> None:
    thoughts: list[str] = []
    assert joined(thoughts) == "" and not thoughts  # that is how a reply without output is known
