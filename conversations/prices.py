"""What a call costs: the rates of each model, from administrators, else from the price list that Parley ships.

Rates are nano-USD per million tokens, amounts nano-USD. A model whose price is in doubt has none, and is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from django.utils import timezone

from conversations.llm.known_models import looks_like_chat
from conversations.llm.types import Usage
from conversations.models import PriceOverride
from conversations.money import DOLLAR, exact

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

MILLION = 1_000_000

#: A request that is held now may be billed at the rates of an hour from now.
REACH = timedelta(hours=1)

#: Who answers at these hosts, by the names of the price list. A relay elsewhere has prices of its own.
LISTED_HOSTS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "api.deepseek.com": "deepseek",
    "openrouter.ai": "openrouter",
    "api.mistral.ai": "mistral",
    "api.groq.com": "groq",
    "api.x.ai": "x-ai",
}

# What a text chat is billed by; a model with one of these has a price that tokens in and out do not tell.
_OTHER_BILLING = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")

# Each answer of these looks things up, for a fee of its own.
_WITH_FEE = re.compile(r"search|sonar")

# The list finds some models by the beginning of their name. A date and these words change no price; "fast" does.
_DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{4}|\d{2}-\d{2}|\d{3,4})$")
_HARMLESS = {"latest", "preview", "chat", "codex", "exp", "beta", "text"}

# DeepSeek's peak hours, 1:00-4:00 and 6:00-10:00 UTC, are off-peak on Saturday and Sunday; the list cannot say so.
_WEEKEND_OFF_PEAK = re.compile(r"deepseek-(?:v[4-9]|flash|pro)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Nano-USD per million tokens."""

    input: int  #: neither read from the provider's cache nor written to it
    cached: int
    cache_write: int
    output: int

    @property
    def dearest_input(self) -> int:
        return max(self.input, self.cached, self.cache_write)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """The rates of all tokens of a request whose prompt is longer than this."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What one model costs, at one moment."""

    model: str  #: a catalogue entry's id
    rates: Rates
    tiers: tuple[Tier, ...] = ()  #: by length of the prompt, the shortest first
    peak: tuple[Tier, ...] = ()  #: what the request may be billed instead, if it comes into another hour
    is_free: bool = False
    source: str = ""  #: "genai-prices 0.2.3", "override" or "free"

    def cost(self, usage: Usage) -> int:
        """Nano-USD of one call, rounded up once."""
        prompt = max(usage.input_tokens, 0)
        cached = min(max(usage.cached_tokens, 0), prompt)
        written = min(max(usage.cache_write_tokens, 0), prompt - cached)
        rates = self.rates_at(prompt)
        total = (
            (prompt - cached - written) * rates.input
            + cached * rates.cached
            + written * rates.cache_write
            + max(usage.output_tokens, 0) * rates.output
        )
        return _rounded_up(total)

    def worst(self, input_tokens: int, max_tokens: int) -> int:
        """The most that a call can cost with a prompt and an answer of at most so many tokens, in nano-USD."""
        reached = [self.rates, *(tier.rates for tier in _reached((*self.tiers, *self.peak), input_tokens))]
        dearest_input = max(rates.dearest_input for rates in reached)
        dearest_output = max(rates.output for rates in reached)
        return _rounded_up(max(input_tokens, 0) * dearest_input + max(max_tokens, 0) * dearest_output)

    def rates_at(self, input_tokens: int) -> Rates:
        """What each token of a request with a prompt of this length costs."""
        return next((tier.rates for tier in reversed(_reached(self.tiers, input_tokens))), self.rates)

    @property
    def label(self) -> str:
        """Input and output, for a list: "$2.00 / $8.00 per million tokens"."""
        if self.is_free:
            return "Free"
        return f"${exact(self.rates.input)} / ${exact(self.rates.output)} per million tokens"

    @property
    def in_short(self) -> str:
        """The same under a heading that says “per million tokens”: "$2.00 in · $8.00 out"."""
        return "free" if self.is_free else f"${exact(self.rates.input)} in · ${exact(self.rates.output)} out"

    def snapshot(self) -> dict[str, Any]:
        """JSON that hold and ledger keep: strings, booleans and integers."""
        return asdict(self) | {
            "tiers": [asdict(tier) for tier in self.tiers],
            "peak": [asdict(tier) for tier in self.peak],
        }

    @classmethod
    def from_snapshot(cls, snapshot: Mapping[str, Any]) -> Price:
        return cls(
            model=snapshot["model"],
            rates=Rates(**snapshot["rates"]),
            tiers=_tiers_from(snapshot["tiers"]),
            peak=_tiers_from(snapshot["peak"]),
            is_free=snapshot["is_free"],
            source=snapshot["source"],
        )


NOTHING = Rates(input=0, cached=0, cache_write=0, output=0)


def free_price(model: str) -> Price:
    return Price(model=model, rates=NOTHING, is_free=True, source="free")


class NoPrice(LookupError):
    """This model has no price. An administrator can set one under Prices."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    @property
    def sentence(self) -> str:
        return f"{self.name} has no price. An administrator can set one under Prices."

    def __str__(self) -> str:
        return self.sentence


class Endpoint(Protocol):
    @property
    def base_url(self) -> str: ...


class Priced(Protocol):
    """What is asked of a catalogue entry."""

    @property
    def id(self) -> str: ...
    @property
    def model_id(self) -> str: ...
    @property
    def is_free(self) -> bool: ...
    @property
    def is_local(self) -> bool: ...
    @property
    def endpoint(self) -> Endpoint | None: ...


def price_of(
    entry: Priced, at: datetime | None = None, *, overrides: Mapping[str, PriceOverride] | None = None
) -> Price | None:
    """What this model costs at a moment, now by default; None: nobody has said it, so it must not be called.

    An administrator's word comes first, then the mark that a model is free, then the price list, for models that
    are called at their provider's own address. Reads the database unless it is given the overrides of the moment.
    """
    at = at or timezone.now()
    override = (overrides_at(at, entry.id) if overrides is None else overrides).get(entry.id)
    if override is not None:
        return _overridden(override)
    if entry.is_free or entry.is_local:
        return free_price(entry.id)
    if entry.endpoint is None:
        return None
    return listed_price(entry.id, entry.model_id, base_url=entry.endpoint.base_url, at=at)


def overrides_at(at: datetime, model: str | None = None) -> dict[str, PriceOverride]:
    """What administrators have set for this moment, by entry id. Of two that overlap the newer one counts."""
    rows = PriceOverride.objects.valid(at).order_by("valid_from", "created_at")
    return {row.model: row for row in (rows if model is None else rows.filter(model=model))}


def listed_price(entry_id: str, model_id: str, *, base_url: str, at: datetime) -> Price | None:
    """The price list's word for a model at this address; None if it is not sure to be about this model."""
    address = urlsplit(base_url)
    provider = LISTED_HOSTS.get(address.hostname or "")
    if provider is None or address.scheme != "https":
        return None
    found = _listed(provider, model_id)
    if found is None:
        return None
    now = _prices_at(found, at)
    if not _is_by_tokens(now):
        return None
    later = [_prices_at(found, at + REACH / 2), _prices_at(found, at + REACH)]  # no period is shorter
    peak = [tier for prices in later if prices != now for tier in _tiers(prices, base=True)]
    rates, tiers = _rates(now, 0), _tiers(now)
    return Price(
        model=entry_id,
        rates=rates,
        tiers=tuple(tiers),
        peak=tuple(dict.fromkeys(peak)),
        is_free=all(each == NOTHING for each in (rates, *(tier.rates for tier in (*tiers, *peak)))),
        source=f"genai-prices {_list_version()}",
    )


@functools.lru_cache(maxsize=4096)
def _listed(provider_id: str, model_id: str) -> ModelInfo | None:
    """The list's entry for a model. The list is in the package: nothing is ever fetched."""
    name = model_id.lower().removeprefix("models/")  # Gemini's resource names
    if not looks_like_chat(name) or _WITH_FEE.search(name):
        return None
    from genai_prices.data import providers  # 14 MB and 0.1 s, for installations that pay for a model

    provider = next((provider for provider in providers if provider.id == provider_id), None)
    found = provider.find_model(name) if provider is not None else None
    return found if found is not None and _is_same_model(name, found) else None


def _list_version() -> str:
    from genai_prices import __version__

    return __version__


def _is_same_model(name: str, listed: ModelInfo) -> bool:
    """Whether the list names this very model, but for a date, or a word that changes no price."""
    if name in {listed.id.lower(), *_names(listed.match)}:
        return True
    more = _words(_DATE.sub("", name)) - _words(listed.id.lower())
    return more <= _HARMLESS


def _names(rule: object) -> Iterable[str]:
    """The names that a rule of the list spells out."""
    if name := getattr(rule, "equals", None):
        yield name.lower()
    for part in getattr(rule, "or_", ()):
        yield from _names(part)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name))


def _prices_at(model: ModelInfo, at: datetime) -> ModelPrice:
    if _WEEKEND_OFF_PEAK.match(model.id) and at.astimezone(UTC).weekday() >= 5:
        at = at.astimezone(UTC).replace(hour=0, minute=0)
    return model.get_prices(at)


def _is_by_tokens(prices: ModelPrice) -> bool:
    known = {key for key, value in vars(prices).items() if value is not None}
    return {"input_mtok", "output_mtok"} <= known and known.isdisjoint(_OTHER_BILLING)


def _tiers(prices: ModelPrice, *, base: bool = False) -> list[Tier]:
    """The rates above each length of prompt at which one of them changes; with `base`, those of any prompt, too."""
    tiered = (prices.input_mtok, prices.cache_read_mtok, prices.cache_write_mtok, prices.output_mtok)
    starts = sorted({tier.start for price in tiered for tier in getattr(price, "tiers", ())})
    if base:
        starts.insert(0, -1)
    return [Tier(above_input_tokens=start, rates=_rates(prices, start + 1)) for start in starts]


def _rates(prices: ModelPrice, input_tokens: int) -> Rates:
    """What the list says of a prompt of this length. Tokens of the cache cost as others where it does not say."""
    whole = _nano(prices.input_mtok, input_tokens) or 0
    cached = _nano(prices.cache_read_mtok, input_tokens)
    written = _nano(prices.cache_write_mtok, input_tokens)
    return Rates(
        input=whole,
        cached=whole if cached is None else cached,
        cache_write=whole if written is None else written,
        output=_nano(prices.output_mtok, input_tokens) or 0,
    )


def _nano(price: Decimal | TieredPrices | None, input_tokens: int) -> int | None:
    if price is None or isinstance(price, Decimal):
        at_length = price
    else:
        reached = [tier.price for tier in price.tiers if input_tokens > tier.start]  # the longest last
        at_length = reached[-1] if reached else price.base
    return None if at_length is None else int((at_length * DOLLAR).to_integral_value(ROUND_CEILING))


def _overridden(row: PriceOverride) -> Price:
    if row.is_free:
        return Price(model=row.model, rates=NOTHING, is_free=True, source="override")
    return Price(
        model=row.model,
        rates=Rates(
            input=row.input_rate,
            cached=row.input_rate if row.cached_rate is None else row.cached_rate,
            cache_write=row.input_rate if row.cache_write_rate is None else row.cache_write_rate,
            output=row.output_rate,
        ),
        source="override",
    )


def _reached(tiers: tuple[Tier, ...], input_tokens: int) -> list[Tier]:
    return [tier for tier in tiers if input_tokens > tier.above_input_tokens]


def _tiers_from(rows: Iterable[Mapping[str, Any]]) -> tuple[Tier, ...]:
    return tuple(
        Tier(above_input_tokens=row["above_input_tokens"], rates=Rates(**row["rates"])) for row in rows
    )


def _rounded_up(millionths: int) -> int:
    return -(-millionths // MILLION)
