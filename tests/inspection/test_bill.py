"""The money of a request adds up, part by part, to the nano-USD."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from conversations.inspection.bill import Bill, against_full, borders
from conversations.llm.types import Usage
from conversations.prices import Price, Rates, Tier, free_price
from tests.prices.cheap import RATES, a_price

#: With a tier that a long prompt reaches.
TIERED = Price(
    model="scripted/large",
    rates=Rates(input=333_333_333, cached=41_666_667, cache_write=416_666_667, output=1_999_999_999),
    tiers=(Tier(above_input_tokens=200_000, rates=RATES),),
    source="test",
)

usages = st.integers(0, 500_000).flatmap(
    lambda prompt: st.integers(0, prompt).flatmap(
        lambda cached: st.integers(0, prompt - cached).map(
            lambda written: Usage(input_tokens=prompt, cached_tokens=cached, cache_write_tokens=written)
        )
    )
)


def billed(usage: Usage, price: Price | None = TIERED, **fields: Any) -> Bill:
    return Bill(kind="charged", usage=usage, price=price, is_reported=True, **fields)


@given(usages, st.lists(st.integers(0, 9_000), min_size=1, max_size=12))
def test_the_sections_together_cost_what_the_prompt_cost(usage: Usage, tokens: list[int]) -> None:
    bill = billed(usage)
    amounts = bill.shares(tokens)
    assert sum(amounts) == bill.prompt or not any(tokens)
    assert all(amount >= 0 for amount in amounts) and len(amounts) == len(tokens)
    assert bill.prompt == TIERED.cost(usage)


@given(usages, st.integers(0, 5_000))
def test_the_lines_of_a_bill_together_are_what_was_charged(usage: Usage, output: int) -> None:
    usage = Usage(
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=output,
    )
    lines = billed(usage).lines
    assert sum(line.amount for line in lines) == TIERED.cost(usage)
    assert sum(line.tokens for line in lines) == usage.input_tokens + output


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**5), min_size=1))
def test_parts_of_a_whole_are_the_whole(total: int, weights: list[int]) -> None:
    ends = borders(total, weights)
    assert ends == sorted(ends) and ends[-1] == total


def test_what_the_cache_held_is_the_beginning() -> None:
    bill = billed(Usage(input_tokens=1_000, cached_tokens=500), a_price())
    cheap, dear = bill.shares([500, 500])
    assert (cheap, dear) == (500 * RATES.cached // 10**6, 500 * RATES.input // 10**6)


class TestAgainstTheWholeHistory:
    def against(self, usage: Usage, *, model: str = "gpt-5-mini", full: int = 100_000, new: int = 400) -> Any:
        return against_full(
            billed(usage, a_price()), model=model, planned=usage.input_tokens, full=full, new=new
        )

    def test_tokens_and_money(self) -> None:
        found = self.against(Usage(input_tokens=10_000, cached_tokens=8_000))
        assert (found.full, found.sent, found.saved) == (100_000, 10_000, 90_000)
        assert found.cost == 2_000 * 2_000 + 8_000 * 200
        assert found.uncached == 100_000 * 2_000
        kept = (100_000 - 400) // 128 * 128  # this provider's cache counts in steps of 128
        assert found.cached == kept * 200 + (100_000 - kept) * 2_000

    def test_a_full_history_that_would_have_been_cheaper_is_told(self) -> None:
        found = self.against(Usage(input_tokens=10_000), full=12_000)
        assert found.saved_cached < 0 < found.lost_cached

    def test_memory_may_be_longer_than_what_it_stands_for(self) -> None:
        found = self.against(Usage(input_tokens=10_000), full=8_000)
        assert found.is_longer and found.saved == -2_000

    def test_a_provider_without_a_cache_has_no_warm_one(self) -> None:
        found = self.against(Usage(input_tokens=10_000), model="no-such-model")
        assert not found.knows_cache and found.cached == found.uncached

    def test_one_that_has_just_reported_cached_tokens_has_one(self) -> None:
        found = self.against(Usage(input_tokens=10_000, cached_tokens=64), model="no-such-model")
        assert found.knows_cache and found.cached < found.uncached

    def test_it_is_counted_as_the_provider_counts(self) -> None:
        usage = Usage(input_tokens=11_000)
        found = against_full(
            billed(usage, a_price()), model="gpt-5-mini", planned=10_000, full=100_000, new=0
        )
        assert found.full == 110_000

    def test_what_is_free_saves_tokens_alone(self) -> None:
        bill = Bill(kind="free", usage=Usage(input_tokens=10), price=free_price("local/m"))
        found = against_full(bill, model="m", planned=10, full=30, new=5)
        assert (found.saved, found.cost, found.uncached) == (20, None, None)
