"""Prices: who has the last word, when there is none, and that the most is the most."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from conversations.catalog import Endpoint
from conversations.llm.registry import KNOWN_PROVIDERS
from conversations.llm.types import Usage
from conversations.models import PriceOverride
from conversations.money import DOLLAR
from conversations.prices import Price, Rates, Tier, listed_price, overrides_at, price_of

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def priced(model_id: str, base_url: str, at: datetime = NOON) -> Price | None:
    return listed_price(f"relay/{model_id}", model_id, base_url=base_url, at=at)


def base_url(provider: str) -> str:
    return KNOWN_PROVIDERS[provider].base_url


class TestTheList:
    @pytest.mark.parametrize(
        ("provider", "model_id"),
        [
            ("openai", "gpt-4.1-2025-04-14"),
            ("openai", "GPT-4.1"),
            ("openai", "gpt-5-chat-latest"),
            ("anthropic", "claude-sonnet-4-5-20250929"),
            ("anthropic", "claude-3-5-haiku-latest"),
            ("gemini", "models/gemini-2.5-pro"),
            ("gemini", "gemini-2.5-pro-preview-06-05"),
            ("gemini", "gemini-2.5-flash-preview-09-2025"),
            *((slug, name) for slug, known in KNOWN_PROVIDERS.items() for name in known.default_models),
        ],
    )
    def test_a_model_is_found_by_its_name_its_dated_name_and_as_the_latest(
        self, provider: str, model_id: str
    ) -> None:
        price = priced(model_id, base_url(provider))
        assert price is not None
        assert price.rates.input > 0 and price.rates.output > 0
        assert price.source.startswith("genai-prices ")

    @pytest.mark.parametrize(
        ("provider", "model_id"),
        [
            ("openai", "gpt-9"),
            ("openai", "openai/gpt-4.1"),
            ("openai", "gpt-4.1-mini-experimental"),
            ("openai", "text-embedding-3-small"),  # has no price for output
            ("openai", "gpt-4o-audio-preview"),
            ("openai", "gpt-4o-mini-search-preview"),  # each answer costs a search, too
            ("openai", "ft:gpt-4o-2024-08-06:ours"),
            ("anthropic", "claude-opus-4-6-fast"),  # the list matches it by its beginning, at the slow price
            ("anthropic", "claude-opus-4-10"),
            ("gemini", "gemini-9-pro"),
            ("deepseek", "deepseek-chat-v9"),
            ("openai", ""),
        ],
    )
    def test_when_in_doubt_there_is_no_price(self, provider: str, model_id: str) -> None:
        assert priced(model_id, base_url(provider)) is None

    @pytest.mark.parametrize(
        "address",
        [
            "https://relay.example.org/v1",
            "https://api.openai.com.example.org/v1",
            "https://relay.example.org/api.openai.com/v1",
            "https://api.openai.com@example.org/v1",
            "http://127.0.0.1:9000/v1",
            "http://api.openai.com/v1",
            "https://mine.openai.azure.com/openai/v1",
        ],
    )
    @pytest.mark.parametrize("model_id", ["gpt-4.1", "openai/gpt-4.1"])
    def test_a_relay_has_prices_of_its_own(self, address: str, model_id: str) -> None:
        assert priced(model_id, address) is None

    def test_a_relay_on_the_list_has_its_prices(self) -> None:
        price = priced("openai/gpt-4.1", "https://openrouter.ai/api/v1")
        assert price is not None
        assert (price.rates.input, price.rates.output) == (2 * DOLLAR, 8 * DOLLAR)
        assert priced("gpt-4.1", "https://openrouter.ai/api/v1") is None
        assert priced("openai/gpt-4.1:online", "https://openrouter.ai/api/v1") is None

    def test_a_model_that_is_billed_by_requests_too_has_no_price(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hosts = {"api.perplexity.ai": "perplexity"}
        monkeypatch.setattr("conversations.prices.LISTED_HOSTS", hosts)
        assert priced("sonar-pro", "https://api.perplexity.ai") is None

    def test_a_price_follows_the_date(self) -> None:
        before = priced("gpt-5.6", base_url("openai"), datetime(2026, 8, 20, tzinfo=UTC))
        after = priced("gpt-5.6", base_url("openai"), datetime(2026, 8, 22, tzinfo=UTC))
        assert before is not None and after is not None
        assert (before.rates.input, after.rates.input) == (5 * DOLLAR, 4 * DOLLAR)

    def test_a_request_before_the_peak_is_held_at_the_peak(self) -> None:
        """DeepSeek's peak begins at 1:00 UTC: a reply that ends then may be billed at its rates."""
        half_past = priced(
            "deepseek-v4-flash", base_url("deepseek"), datetime(2026, 11, 20, 0, 30, tzinfo=UTC)
        )
        at_noon = priced("deepseek-v4-flash", base_url("deepseek"))
        assert half_past is not None and at_noon is not None
        assert half_past.rates == at_noon.rates
        assert half_past.worst(1_000, 100) == 2 * at_noon.worst(1_000, 100)
        assert half_past.cost(Usage(input_tokens=1_000)) == at_noon.cost(Usage(input_tokens=1_000))

    def test_nothing_is_fetched(self) -> None:
        """Reading the list in a fresh process opens no socket and starts no thread."""
        code = (
            "import socket, sys, threading\n"
            "def refuse(*args, **kwargs): sys.exit('a socket was opened')\n"
            "socket.socket.connect = socket.getaddrinfo = refuse\n"
            "from genai_prices.data import providers\n"
            "assert providers and threading.active_count() == 1\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


RELAY = Endpoint(slug="relay", label="Relay", dialect="openai", base_url="https://relay.example.org/v1")
OPENAI = Endpoint(slug="openai", label="OpenAI", dialect="openai", base_url=base_url("openai"))


@dataclass(frozen=True, kw_only=True)
class Model:
    id: str = "relay/one"
    model_id: str = "one"
    is_free: bool = False
    is_local: bool = False
    endpoint: Endpoint | None = RELAY


GPT = Model(id="openai/gpt-4.1", model_id="gpt-4.1", endpoint=OPENAI)


def override(model: str, dollars: int, **fields: object) -> PriceOverride:
    rates = {"input_rate": dollars * DOLLAR, "output_rate": 2 * dollars * DOLLAR, "valid_from": NOON}
    return PriceOverride.objects.create(model=model, **{**rates, **fields})


def input_rate(model: Model, at: datetime = NOON) -> int | None:
    price = price_of(model, at)
    return None if price is None else price.rates.input // DOLLAR


@pytest.mark.django_db
class TestWhoHasTheLastWord:
    def test_a_model_that_nobody_has_priced_has_none(self) -> None:
        assert price_of(Model()) is None
        assert price_of(replace(Model(), endpoint=None)) is None

    def test_a_free_or_local_model_costs_nothing(self) -> None:
        for model in (Model(is_free=True), Model(is_local=True)):
            price = price_of(model)
            assert price is not None
            assert price.is_free and price.source == "free"
            assert price.cost(Usage(input_tokens=10_000, output_tokens=500)) == 0
            assert price.worst(1_000_000, 100_000) == 0

    def test_an_administrator_wins_over_the_list_and_over_the_free_mark(self) -> None:
        assert input_rate(GPT) == 2
        override(GPT.id, 7)
        assert input_rate(GPT) == 7
        assert input_rate(replace(GPT, is_free=True)) == 7

    def test_an_override_counts_from_its_first_moment_to_its_last(self) -> None:
        override(GPT.id, 7, valid_from=NOON, valid_until=NOON + HOUR)
        moments = (NOON - timedelta(seconds=1), NOON, NOON + HOUR - timedelta(seconds=1), NOON + HOUR)
        assert [input_rate(GPT, at) for at in moments] == [2, 7, 7, 2]

    def test_of_two_that_overlap_the_newer_counts(self) -> None:
        override(GPT.id, 9, valid_from=NOON - HOUR)
        override(GPT.id, 7, valid_from=NOON - 2 * HOUR)
        assert input_rate(GPT) == 9

    def test_rates_of_the_cache_that_are_left_out_are_those_of_input(self) -> None:
        override(GPT.id, 7)
        price = price_of(GPT, NOON)
        assert price is not None and price.source == "override"
        assert price.rates == Rates(
            input=7 * DOLLAR, cached=7 * DOLLAR, cache_write=7 * DOLLAR, output=14 * DOLLAR
        )
        override(GPT.id, 7, cached_rate=0, cache_write_rate=8 * DOLLAR, valid_from=NOON + HOUR)
        price = price_of(GPT, NOON + HOUR)
        assert price is not None
        assert (price.rates.cached, price.rates.cache_write) == (0, 8 * DOLLAR)

    def test_another_models_override_does_not_count(self) -> None:
        override("openai/gpt-4.1-mini", 7)
        assert input_rate(GPT) == 2
        assert list(overrides_at(NOON)) == ["openai/gpt-4.1-mini"]

    @pytest.mark.parametrize("field", ["input_rate", "output_rate", "cached_rate", "cache_write_rate"])
    def test_the_database_refuses_a_price_that_becomes_negative(self, field: str) -> None:
        row = override(GPT.id, 7)
        with pytest.raises(IntegrityError, match="price_overrides_not_negative"), transaction.atomic():
            PriceOverride.objects.filter(pk=row.pk).update(**{field: -1})

    def test_the_database_refuses_an_end_before_the_beginning(self) -> None:
        with pytest.raises(IntegrityError, match="price_overrides_dates_in_order"), transaction.atomic():
            override(GPT.id, 7, valid_until=NOON)


a_rate = st.integers(min_value=0, max_value=200 * DOLLAR)
some_rates = st.builds(Rates, input=a_rate, cached=a_rate, cache_write=a_rate, output=a_rate)
some_tiers = st.lists(
    st.builds(Tier, above_input_tokens=st.integers(min_value=-1, max_value=300_000), rates=some_rates),
    max_size=3,
).map(lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.above_input_tokens)))
some_prices = st.builds(
    Price,
    model=st.just("relay/one"),
    rates=some_rates,
    tiers=some_tiers,
    peak=some_tiers,
    source=st.just("override"),
)
some_tokens = st.integers(min_value=0, max_value=500_000)


@st.composite
def some_usage(draw: st.DrawFn) -> Usage:
    prompt = draw(some_tokens)
    cached = draw(st.integers(min_value=0, max_value=prompt))
    written = draw(st.integers(min_value=0, max_value=prompt - cached))
    output = draw(some_tokens)
    return Usage(
        input_tokens=prompt,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=draw(st.integers(min_value=0, max_value=output)),
    )


@given(some_prices, some_usage(), some_tokens, some_tokens)
def test_the_worst_is_never_below_the_cost_of_what_fits_its_bounds(
    price: Price, usage: Usage, more_input: int, more_output: int
) -> None:
    bound = price.worst(usage.input_tokens + more_input, usage.output_tokens + more_output)
    assert bound >= price.cost(usage)


@given(some_prices, some_tokens, some_tokens, some_tokens, some_tokens)
def test_the_worst_grows_with_its_bounds(price: Price, a: int, b: int, more: int, still: int) -> None:
    assert price.worst(a + more, b + still) >= price.worst(a, b)


@given(some_rates, some_usage(), some_tokens, some_tokens)
def test_more_tokens_never_cost_less(rates: Rates, usage: Usage, more_input: int, more_output: int) -> None:
    price = Price(model="relay/one", rates=rates)
    larger = replace(
        usage,
        input_tokens=usage.input_tokens + more_input,
        output_tokens=usage.output_tokens + more_output,
    )
    assert price.cost(larger) >= price.cost(usage) >= 0


@given(some_prices, some_usage())
def test_a_price_is_the_same_after_json(price: Price, usage: Usage) -> None:
    stored = json.loads(json.dumps(price.snapshot()))
    again = Price.from_snapshot(stored)
    assert again == price
    assert again.cost(usage) == price.cost(usage)


@given(some_prices)
def test_a_snapshot_holds_no_float(price: Price) -> None:
    assert "." not in json.dumps(price.snapshot() | {"source": ""})


@given(some_prices, st.integers(max_value=-1), some_tokens)
def test_counts_that_cannot_be_cost_nothing_and_earn_nothing(price: Price, wrong: int, output: int) -> None:
    """A provider that reports nonsense is no reason for a wrong sum."""
    usage = Usage(input_tokens=wrong, cached_tokens=wrong, cache_write_tokens=wrong, output_tokens=output)
    assert price.cost(usage) == price.cost(Usage(input_tokens=0, output_tokens=output))
    more_cached_than_sent = Usage(input_tokens=100, cached_tokens=1_000, cache_write_tokens=1_000)
    assert price.cost(more_cached_than_sent) == price.cost(Usage(input_tokens=100, cached_tokens=100))
