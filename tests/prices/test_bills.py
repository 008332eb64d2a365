"""Golden bills: a stream as its provider sends it, through the parser, to the amount worked out by hand.

A rate of one dollar per million tokens is 1,000 nano-USD a token, so each bill is tokens times dollars times 1,000.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from conversations.llm.registry import KNOWN_PROVIDERS
from conversations.llm.types import Usage
from conversations.prices import Price, listed_price
from tests.llm.test_transcripts import replay

BILLS = Path(__file__).parent / "bills"

FRIDAY_NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
FRIDAY_PEAK = datetime(2026, 11, 20, 2, tzinfo=UTC)
SATURDAY_2_AM = datetime(2026, 11, 21, 2, tzinfo=UTC)


def usage_of(name: str) -> Usage:
    played = replay(name, [(BILLS / f"{name}.sse").read_bytes()])
    assert played.usage is not None
    return played.usage


def price_at(provider: str, model_id: str, at: datetime = FRIDAY_NOON) -> Price:
    price = listed_price("an/id", model_id, base_url=KNOWN_PROVIDERS[provider].base_url, at=at)
    assert price is not None
    return price


@pytest.mark.parametrize(
    ("provider", "model_id", "input_dollars", "output_dollars"),
    [
        ("openai", "gpt-4.1", 2_000, 8_000),
        ("anthropic", "claude-sonnet-4-5", 3_000, 15_000),
        ("anthropic", "claude-haiku-4-5", 1_000, 5_000),
        ("gemini", "gemini-2.5-flash", 300, 2_500),
        ("deepseek", "deepseek-v4-flash", 150, 600),
    ],
)
def test_a_million_tokens_cost_what_the_provider_says(
    provider: str, model_id: str, input_dollars: int, output_dollars: int
) -> None:
    """Dollars times 1,000, in and out."""
    price = price_at(provider, model_id)
    million = 1_000 * 1_000_000
    assert price.rates.input == input_dollars * million // 1_000
    assert price.rates.output == output_dollars * million // 1_000
    fits_one_tier = 100_000
    assert price.cost(Usage(input_tokens=fits_one_tier)) == fits_one_tier * input_dollars
    assert price.cost(Usage(input_tokens=0, output_tokens=1_000_000)) == 1_000_000 * output_dollars


def test_openai_with_tokens_from_the_cache() -> None:
    usage = usage_of("openai_cached")
    assert usage == Usage(input_tokens=5_321, cached_tokens=4_096, output_tokens=417)
    by_hand = (5_321 - 4_096) * 2_000 + 4_096 * 500 + 417 * 8_000
    assert price_at("openai", "gpt-4.1-2025-04-14").cost(usage) == by_hand == 7_834_000


def test_anthropic_writing_to_the_cache() -> None:
    usage = usage_of("anthropic_write")
    assert usage == Usage(input_tokens=6_225, cache_write_tokens=6_204, output_tokens=393)
    by_hand = 21 * 3_000 + 6_204 * 3_750 + 393 * 15_000
    assert price_at("anthropic", "claude-sonnet-4-5-20250929").cost(usage) == by_hand == 29_223_000


def test_anthropic_reading_from_the_cache_and_writing_the_rest() -> None:
    usage = usage_of("anthropic_read")
    assert usage == Usage(input_tokens=7_030, cached_tokens=6_204, cache_write_tokens=812, output_tokens=57)
    by_hand = 14 * 1_000 + 6_204 * 100 + 812 * 1_250 + 57 * 5_000
    assert price_at("anthropic", "claude-haiku-4-5-20251001").cost(usage) == by_hand == 1_934_400


def test_gemini_above_200_000_tokens_bills_all_of_them_at_the_higher_rates() -> None:
    usage = usage_of("gemini_long")
    assert usage == Usage(
        input_tokens=200_001, cached_tokens=131_072, output_tokens=918, reasoning_tokens=911
    )
    by_hand = (200_001 - 131_072) * 2_500 + 131_072 * 250 + 918 * 15_000
    assert price_at("gemini", "gemini-2.5-pro").cost(usage) == by_hand == 218_860_500


def test_gemini_at_200_000_tokens_is_in_the_lower_tier() -> None:
    usage = usage_of("gemini_short")
    assert usage.input_tokens == 200_000
    by_hand = (200_000 - 131_072) * 1_250 + 131_072 * 125 + 918 * 10_000
    assert price_at("gemini", "gemini-2.5-pro").cost(usage) == by_hand == 111_724_000


def test_gemini_bills_thoughts_that_only_the_total_tells() -> None:
    by_hand = 8 * 300 + (74 - 8) * 2_500
    assert price_at("gemini", "gemini-2.5-flash").cost(usage_of("gemini_flash")) == by_hand == 167_400


def test_deepseek_with_a_cache_hit() -> None:
    usage = usage_of("deepseek_hit")
    assert usage == Usage(input_tokens=10_007, cached_tokens=9_984, output_tokens=205, reasoning_tokens=180)
    by_hand = (10_007 - 9_984) * 150 + 9_984 * 3 + 205 * 600
    assert price_at("deepseek", "deepseek-v4-flash").cost(usage) == by_hand == 156_402


def test_deepseek_costs_twice_in_peak_hours_but_not_at_the_weekend() -> None:
    usage = usage_of("deepseek_hit")
    by_hand = 23 * 300 + 9_984 * 6 + 205 * 1_200
    assert price_at("deepseek", "deepseek-v4-flash", FRIDAY_PEAK).cost(usage) == by_hand == 312_804
    at_rest = price_at("deepseek", "deepseek-v4-flash", SATURDAY_2_AM).cost(usage)
    assert at_rest == price_at("deepseek", "deepseek-v4-flash").cost(usage)


def test_a_part_of_a_nano_dollar_is_charged_as_a_whole_once() -> None:
    """2.8 nano-USD a token, thrice, is 8.4: not 3 x 3 and not 8."""
    at = datetime(2026, 8, 1, 12, tzinfo=UTC)  # $0.0028 per million from the cache
    price = price_at("deepseek", "deepseek-v4-flash", at)
    assert price.rates.cached == 2_800_000
    assert price.cost(Usage(input_tokens=3, cached_tokens=3)) == 9
    assert price.cost(Usage(input_tokens=5, cached_tokens=5)) == 14
