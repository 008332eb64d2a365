"""What long chats cost by replay, against their peers: the cached full history and a sliding window."""

from __future__ import annotations

from unittest import mock

from bench import bills
from bench.dialogues import generate


def test_the_default_costs_less_than_its_peers_and_keeps_more_than_a_window() -> None:
    names = ("adaptive, H = 16,000, R = 1,000", "sliding window, 8,000")
    policies = {name: bills.policies()[name] for name in names}
    with (
        mock.patch.object(bills, "policies", return_value=policies),
        mock.patch.object(bills, "LONG", 60_000),
    ):
        found = bills.bills(generate(dialogues=1, messages=800), 40)
    assert (found["chats"], found["turns"]) == (1, 400)
    full, ours, window = (found["policies"][name] for name in ("full history, cached", *names))
    assert ours["cached_share"] >= 80, ours
    assert ours["bill"] < full["bill"] and ours["bill"] < window["bill"], (ours, full, window)
    assert full["evidence"] == 100
    assert ours["evidence"] > 3 * window["evidence"], (ours, window)


def test_short_dialogues_are_joined_and_their_ids_stay_apart() -> None:
    with mock.patch.object(bills, "LONG", 20_000):
        chats = bills.joined(generate(dialogues=5, messages=100))
    assert len(chats) < 5
    for chat in chats:
        ids = [turn.id for turn in chat.turns]
        assert len(set(ids)) == len(ids) > 100
        assert all(one.evidence <= set(ids) for one in chat.questions)
