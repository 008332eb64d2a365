"""A price for models that no list knows."""

from __future__ import annotations

from conversations.models import PriceOverride
from conversations.prices import Price, Rates

#: Nano-USD a million tokens: two dollars in, eight out, a tenth for what the cache holds.
RATES = Rates(input=2_000_000_000, cached=200_000_000, cache_write=2_500_000_000, output=8_000_000_000)


def a_price(model: str = "scripted/large") -> Price:
    return Price(model=model, rates=RATES, source="test")


def set_price(model: str) -> None:
    """As an administrator does it; web processes see it within the catalogue's seconds."""
    PriceOverride.objects.get_or_create(
        model=model,
        defaults={
            "input_rate": RATES.input,
            "cached_rate": RATES.cached,
            "cache_write_rate": RATES.cache_write,
            "output_rate": RATES.output,
        },
    )
