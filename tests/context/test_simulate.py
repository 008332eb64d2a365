"""The simulator: the same plans as the product's, priced by the providers' cache rules, to the nano-dollar."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import log
from uuid import UUID

import pytest

from conversations.context.caching import CacheRules, TokenPrice, rules_for
from conversations.context.plan import RecallWanted, Start
from conversations.context.policy import Policy, Strategy, policy_for
from conversations.context.simulate import (
    Request,
    Turn,
    bill,
    full_history,
    replay,
    replay_and_ask,
    simulate,
)
from conversations.context.view import HistoryMessage, Recalled
from conversations.llm.types import Usage
from tests.context.chats import Chat, words

TENTH = CacheRules(minimum=0, read_percent=10)
PRICE = TENTH.price(input=250_000_000, output=2_000_000_000)
BEGIN = datetime(2026, 11, 20, tzinfo=UTC)


def dialogue(turns: int, *, seconds: int = 60, seed: int = 1) -> list[Turn]:
    """Questions that ask, now and then, for a word that only one earlier message has."""
    chance = random.Random(seed)
    path: list[HistoryMessage] = []
    made = []
    for n in range(turns):
        cites: tuple[UUID, ...] = ()
        text = (
            " ".join(f"common{chance.randrange(50)}" for _ in range(chance.randrange(20, 80))) + f" fact{n}"
        )
        if n > 10 and n % 3 == 0:
            wanted = chance.randrange(0, 2 * n, 2)
            cites = (path[wanted].id,)
            text += f" fact{wanted // 2}"
        at = BEGIN + timedelta(seconds=n * seconds)
        question = HistoryMessage(
            id=UUID(int=2 * n + 1), role="user", content=text, tokens=words(text), created_at=at
        )
        text = " ".join(f"other{chance.randrange(50)}" for _ in range(chance.randrange(100, 400)))
        answer = HistoryMessage(
            id=UUID(int=2 * n + 2), role="assistant", content=text, tokens=words(text), created_at=at
        )
        path += [question, answer]
        made.append(Turn(question=question, answer=answer, cites=cites))
    return made


def by_rare_words(
    question: HistoryMessage, path: Sequence[HistoryMessage], wanted_now: RecallWanted
) -> list[Recalled]:
    seen = Counter(word for message in path for word in set(message.content.split()))
    wanted = set(question.content.split())
    scored = [
        Recalled(
            message=message,
            score=sum(log(len(path) / seen[word]) for word in wanted & set(message.content.split())),
        )
        for message in path
    ]
    return sorted(scored, key=lambda found: -found.score)[:50]


def request(tokens: int, repeated: int, *, output: int = 0, at: int = 0) -> Request:
    return Request(
        start=Start.EXTENDS,
        input_tokens=tokens,
        repeated_tokens=repeated,
        marks=(100, tokens),
        output_tokens=output,
        written_after=None,
        cited=0,
        present=0,
        at=BEGIN + timedelta(seconds=at),
    )


def test_a_price_is_exact_and_rounded_up_once() -> None:
    price = TokenPrice(input=1, cached=1, cache_write=1, output=1)
    assert price.cost(Usage(input_tokens=3, cached_tokens=1, cache_write_tokens=1, output_tokens=4)) == 1
    assert price.cost(Usage(input_tokens=0)) == 0
    usage = Usage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=10)
    assert PRICE.cost(usage) == 600_000 * 250 + 400_000 * 25 + 10 * 2_000


def test_the_bill_follows_the_rules_of_the_family() -> None:
    calls = [request(2_000, 0), request(2_300, 2_000, at=60), request(2_600, 2_300, at=2_000)]

    def cached(model: str) -> list[tuple[int, int]]:
        rules = rules_for(model)
        assert rules is not None
        result = bill(calls, price=PRICE, rules=rules)
        return [(turn.usage.cached_tokens, turn.usage.cache_write_tokens) for turn in result.turns]

    assert cached("gpt-5-mini") == [(0, 0), (1_920, 0), (0, 0)], "in steps of 128, gone after five minutes"
    assert cached("gpt-6.1-sol") == [(0, 2_000), (1_920, 380), (0, 2_600)], "writes are billed"
    assert cached("claude-sonnet-5-5") == [(0, 2_000), (2_000, 300), (0, 2_600)]
    assert cached("claude-haiku-4-5") == [(0, 0)] * 3, "below its minimum"
    assert cached("openai/gpt-4o") == [(0, 0), (1_920, 0), (0, 0)]
    assert cached("deepseek-v4-flash") == [(0, 0), (1_984, 0), (2_240, 0)], "on disk for an hour"
    assert rules_for("some-model") is None


def test_anthropic_reads_only_what_ended_at_a_mark() -> None:
    rules = CacheRules(minimum=50, read_percent=10, write_percent=125, needs_marks=True)
    result = bill([request(2_000, 0), request(1_900, 1_500)], price=PRICE, rules=rules)
    assert [turn.usage.cached_tokens for turn in result.turns] == [0, 100], "the system prompt's mark"


def test_the_full_history_is_the_plan_of_a_window_without_end() -> None:
    turns = dialogue(30)
    policy = policy_for(window=10_000_000, reply_tokens=500, strategy=Strategy.FULL)
    planned = replay(turns, policy=policy, count_tokens=words)
    summed = full_history(turns)
    assert [(r.input_tokens, r.repeated_tokens) for r in planned] == [
        (r.input_tokens, r.repeated_tokens) for r in summed
    ]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_replay_makes_the_requests_that_the_product_made(strategy: Strategy) -> None:
    policy = policy_for(
        window=20_000,
        reply_tokens=500,
        high_water=2_000,
        strategy=strategy,
        token_budget=4_000,
        recall_tokens=0,
    )
    turns = dialogue(40)
    chat = Chat(replace(policy, uses_summary=False), system="Be brief.")
    plans = [
        chat.ask(turn.question.content, answer=turn.answer.content if turn.answer else "") for turn in turns
    ]
    replayed = replay(turns, policy=chat.policy, count_tokens=words, system_prompt="Be brief.")
    if strategy is not Strategy.IMPORTANCE:  # there the age counts, and the chat has no clock
        assert [request.input_tokens for request in replayed] == [plan.input_tokens for plan in plans]
    assert [request.start for request in replayed] == [plan.start for plan in plans]


def saved(policy: Policy, turns: Sequence[Turn]) -> tuple[float, float, float]:
    """Share of the naive bill for input, share of it from the cache, retention."""
    result = simulate(
        turns, policy=policy, price=PRICE, rules=TENTH, count_tokens=words, recall=by_rare_words
    )
    naive = sum(request.input_tokens for request in full_history(turns)) * PRICE.input // 1_000_000
    output = sum(turn.usage.output_tokens for turn in result.turns) * PRICE.output // 1_000_000
    assert result.retention is not None
    return (result.cost - output) / naive, result.cache_share, result.retention


def test_the_layout_is_cheaper_than_the_cached_full_history_and_keeps_what_a_window_loses() -> None:
    turns = dialogue(250)
    full = bill(full_history(turns), price=PRICE, rules=TENTH)
    naive = bill(full_history(turns), price=PRICE, rules=None)
    assert full.cost < naive.cost and full.retention == 1.0
    adaptive, share, kept = saved(policy_for(window=128_000, reply_tokens=2_048), turns)
    assert adaptive < 0.25 and share >= 0.8 and kept >= 0.75
    window = policy_for(
        window=128_000, reply_tokens=2_048, strategy=Strategy.SLIDING_WINDOW, token_budget=16_000
    )
    _, share, kept = saved(replace(window, last_turns=1_000), turns)
    assert share < 0.25 and kept < 0.4, "a window that slides re-bills everything and forgets"


def test_a_cache_that_has_gone_cold_is_not_counted_on() -> None:
    turns = dialogue(60, seconds=3_600)
    result = simulate(
        turns,
        policy=policy_for(window=128_000, reply_tokens=500, high_water=4_000, recall_tokens=0),
        price=PRICE,
        rules=TENTH,
        count_tokens=words,
    )
    assert result.cached_tokens == 0
    assert Start.COLD in {turn.start for turn in result.turns}
    assert Start.FULL not in {turn.start for turn in result.turns}, (
        "cut at the soft mark, where the summary is ready"
    )


def test_a_summary_is_part_of_the_bill() -> None:
    turns = dialogue(60)
    policy = policy_for(window=128_000, reply_tokens=500, high_water=4_000)
    result = simulate(turns, policy=policy, price=PRICE, rules=TENTH, count_tokens=words)
    written = [turn for turn in result.turns if turn.background_cost]
    assert len(written) >= result.cuts > 0
    assert (
        result.cost
        == sum(turn.cost + turn.background_cost for turn in result.turns)
        == result.costs_so_far()[-1]
    )
    assert isinstance(result.cost, int)


def test_a_question_at_the_end_finds_what_a_next_turn_would() -> None:
    turns = dialogue(120)
    policy = policy_for(window=128_000, reply_tokens=500, high_water=4_000)
    asked = [
        replace(turn, question=replace(turn.question, id=UUID(int=10_000 + n)))
        for n, turn in enumerate(turns)
        if turn.cites
    ]
    newest = replace(asked[0], cites=(turns[-1].question.id,))
    nothing = replace(asked[0], cites=())
    requests, shares = replay_and_ask(
        turns, [*asked, newest, nothing], policy=policy, count_tokens=words, recall=by_rare_words
    )
    assert requests == replay(turns, policy=policy, count_tokens=words, recall=by_rare_words)
    assert shares[-2:] == [1.0, 1.0]
    assert sum(shares) > len(asked) / 3
    _, without = replay_and_ask(turns, asked, policy=policy, count_tokens=words)
    assert sum(without) < sum(shares) / 3
    _, again = replay_and_ask(turns, asked[::-1], policy=policy, count_tokens=words, recall=by_rare_words)
    assert again[::-1] == shares[:-2], "what was asked is not remembered"
