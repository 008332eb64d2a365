"""What a request cost, part by part, at the rates it was billed at; and what the whole history would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

from conversations.context.caching import rules_for
from conversations.llm.types import Usage
from conversations.models import Hold, LedgerEntry, ReplyAttempt
from conversations.prices import MILLION, Price, Rates

#: charged: as the ledger says; void: nothing was charged; held: not over yet; free; unknown: nobody has said its price.
Kind = Literal["charged", "void", "held", "free", "unknown"]


@dataclass(frozen=True, kw_only=True)
class BillLine:
    label: str
    tokens: int
    rate: int  #: nano-USD per million tokens
    amount: int  #: nano-USD; all lines together are the whole, to the last one


@dataclass(frozen=True, kw_only=True)
class Bill:
    """One provider call in money. Amounts are nano-USD."""

    kind: Kind
    usage: Usage
    price: Price | None = None
    charged: int = 0
    held: int = 0
    is_reported: bool = False  #: the provider has counted the tokens, and not we
    is_underestimate: bool = False

    @property
    def released(self) -> int:
        return max(self.held - self.charged, 0)

    @property
    def is_estimated(self) -> bool:
        return not self.is_reported

    @property
    def has_amounts(self) -> bool:
        """Whether its parts have prices."""
        return self.kind in ("charged", "held")

    @property
    def prompt(self) -> int:
        """What the prompt cost."""
        return _nano(_before(self._rates, self.usage, self.usage.input_tokens)) if self.price else 0

    @property
    def total(self) -> int:
        return self.price.cost(self.usage) if self.price else 0

    @property
    def lines(self) -> list[BillLine]:
        if self.price is None:
            return []
        rates, usage = self._rates, self.usage
        fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        parts = [
            ("Prompt, from the cache", usage.cached_tokens, rates.cached),
            ("Prompt, written to the cache", usage.cache_write_tokens, rates.cache_write),
            ("Prompt, new", fresh, rates.input),
            ("Reply", usage.output_tokens, rates.output),
        ]
        ends = accumulate((tokens * rate for _, tokens, rate in parts), initial=0)
        amounts = [_nano(end) - _nano(begin) for begin, end in pairwise(ends)]
        return [
            BillLine(label=label, tokens=tokens, rate=rate, amount=amount)
            for (label, tokens, rate), amount in zip(parts, amounts, strict=True)
            if tokens or label in ("Prompt, new", "Reply")
        ]

    def shares(self, tokens: Sequence[int]) -> list[int]:
        """What each part of the prompt cost, by our count of its tokens; together they are `prompt`.

        A cache holds the beginning of a request: the first tokens are those that were cheap.
        """
        ends = [0, *borders(self.usage.input_tokens, tokens)]
        return [
            _nano(_before(self._rates, self.usage, end)) - _nano(_before(self._rates, self.usage, begin))
            for begin, end in pairwise(ends)
        ]

    @property
    def _rates(self) -> Rates:
        assert self.price is not None
        return self.price.rates_at(self.usage.input_tokens)


def borders(total: int, weights: Sequence[int]) -> list[int]:
    """Where each part ends if `total` is divided by weight."""
    whole = sum(weights)
    return [total * end // whole if whole else total for end in accumulate(weights)]


def bill_of(attempt: ReplyAttempt, hold: Hold | None, line: LedgerEntry | None, *, planned: int) -> Bill:
    """The money of one call; `planned` are the tokens of its request by our count."""
    counted = Usage(
        input_tokens=planned if attempt.input_tokens is None else attempt.input_tokens,
        cached_tokens=attempt.cached_tokens or 0,
        output_tokens=attempt.output_tokens or 0,
    )
    if line is not None:
        if line.kind == LedgerEntry.Kind.FREE:
            return Bill(kind="free", usage=_usage_of(line), is_reported=line.usage_reported)
        if line.kind == LedgerEntry.Kind.VOID:
            return Bill(kind="void", usage=counted, price=_price(line.price), held=line.held)
        return Bill(
            kind="charged",
            usage=_usage_of(line),
            price=_price(line.price),
            charged=line.charged,
            held=line.held,
            is_reported=line.usage_reported,
            is_underestimate=line.is_underestimate,
        )
    if hold is not None:
        return Bill(kind="held", usage=counted, price=_price(hold.price), held=hold.amount)
    return Bill(kind="unknown", usage=counted, is_reported=attempt.usage_reported)


def _usage_of(line: LedgerEntry) -> Usage:
    """As `Price.cost` reads it: the parts of a prompt are no more than the prompt."""
    cached = min(line.cached_tokens, line.input_tokens)
    return Usage(
        input_tokens=line.input_tokens,
        cached_tokens=cached,
        cache_write_tokens=min(line.cache_write_tokens, line.input_tokens - cached),
        output_tokens=line.output_tokens,
        reasoning_tokens=line.reasoning_tokens,
    )


def _price(snapshot: dict[str, Any]) -> Price | None:
    return Price.from_snapshot(snapshot) if snapshot else None


def _before(rates: Rates, usage: Usage, tokens: int) -> int:
    """Millionths of nano-USD of the first so many tokens of a prompt."""
    cached = min(tokens, usage.cached_tokens)
    written = min(tokens - cached, usage.cache_write_tokens)
    return cached * rates.cached + written * rates.cache_write + (tokens - cached - written) * rates.input


def _nano(millionths: int) -> int:
    return -(-millionths // MILLION)


# --- Against the whole history ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Against:
    """The prompt beside one with the whole history: tokens as the provider counts, amounts in nano-USD."""

    sent: int
    full: int
    cost: int | None  #: of the prompt; None: it has no price
    uncached: int | None  #: of the whole history, all of it new to the provider
    cached: int | None  #: of it, all but the last exchange still in the provider's cache
    knows_cache: bool  #: whether its provider has one, by its rules or by what it has just reported

    @property
    def saved(self) -> int:
        """Tokens; negative where summary, memory and recall take more place than what they stand for."""
        return self.full - self.sent

    @property
    def is_whole(self) -> bool:
        """Nothing was left out, so there is nothing to compare."""
        return self.saved == 0

    @property
    def is_longer(self) -> bool:
        return self.saved < 0

    @property
    def share_saved(self) -> float:
        return self.saved / self.full if self.full else 0.0

    @property
    def times(self) -> str:
        return f"{self.full / self.sent:.1f}" if self.sent else ""

    @property
    def saved_uncached(self) -> int:
        return (self.uncached or 0) - (self.cost or 0)

    @property
    def saved_cached(self) -> int:
        return (self.cached or 0) - (self.cost or 0)

    @property
    def lost_cached(self) -> int:
        return -self.saved_cached


def against_full(bill: Bill, *, model: str, planned: int, full: int, new: int) -> Against:
    """`planned`, `full` and `new` by our own count: the request, the whole history, and its last exchange.

    With a warm cache the whole history is read from it but for `new`, by the rules of the model's provider.
    """
    sent = bill.usage.input_tokens

    def counted(tokens: int) -> int:
        return tokens * sent // planned if planned else tokens

    whole, fresh = counted(full), min(counted(new), counted(full))
    rules = rules_for(model)
    knows_cache = rules is not None or bill.usage.cached_tokens > 0
    kept = whole - fresh if knows_cache and whole - fresh >= (rules.minimum if rules else 0) else 0
    kept -= kept % rules.step if rules else 0
    uncached = Usage(input_tokens=whole)
    cached = replace(
        uncached, cached_tokens=kept, cache_write_tokens=whole - kept if rules and rules.bills_writes else 0
    )
    price = bill.price if bill.has_amounts else None
    return Against(
        sent=sent,
        full=whole,
        cost=bill.prompt if price else None,
        uncached=price.cost(uncached) if price else None,
        cached=price.cost(cached) if price else None,
        knows_cache=knows_cache,
    )
