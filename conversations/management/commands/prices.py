"""Lists what every model of the catalogue costs and who says so."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from conversations.catalog import ModelEntry, read_catalog
from conversations.models import PriceOverride, ProviderModel
from conversations.money import exact
from conversations.prices import NoPrice, Price, Rates, overrides_at, price_of

SOON = timedelta(days=14)


class Command(BaseCommand):
    help = "List the price of every model, who says so, and what is wrong. Dollars per million tokens."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="end with 1 if a model has no price")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        try:
            catalog = read_catalog()
            overrides = overrides_at(timezone.now())
        except DatabaseError:
            raise CommandError(
                "The prices cannot be read: the database does not answer, or lacks its tables."
            ) from None
        for sentence in (*catalog.problems, *catalog.notes):
            self.stderr.write(sentence)
        if not catalog.entries:
            self.stdout.write("There is no model. Set OPENAI_API_KEY, or add a provider in the admin.")
        for entry in catalog.entries:
            self._list(entry, overrides.get(entry.id))
        offered = {entry.id for entry in catalog.entries}
        for model in sorted(overrides.keys() - offered):
            self.stdout.write(f"{model}: a price is set, but no provider offers this model.")
        if check and catalog.without_price:
            sys.exit(1)

    def _list(self, entry: ModelEntry, override: PriceOverride | None) -> None:
        if entry.price is None:
            self.stdout.write(f"{entry.id}: {NoPrice(entry.label)}")
            return
        self.stdout.write(f"{entry.id}: {', '.join(_said(entry.price))} ({entry.price.source})")
        if override is not None and override.valid_until is not None:
            self._say_end(entry, override)

    def _say_end(self, entry: ModelEntry, override: PriceOverride) -> None:
        ends = override.valid_until
        if ends is None or ends > timezone.now() + SOON:
            return
        mark = ProviderModel.objects.filter(
            provider__slug=entry.provider, model_id=entry.model_id, is_free=True
        )
        then = price_of(replace(entry, is_free=mark.exists()), ends)
        self.stdout.write(
            f"  ! This price ends on {timezone.localtime(ends):%Y-%m-%d at %H:%M}. "
            f"After that: {', '.join(_said(then)) if then else 'no price, and it will be refused'}."
        )


def _said(price: Price) -> Iterator[str]:
    if price.is_free:
        yield "free"
        return
    yield _rates(price.rates)
    for tier in price.tiers:
        yield f"above {tier.above_input_tokens:,} tokens {_rates(tier.rates)}"
    for tier in price.peak[:1]:
        yield f"within the hour {_rates(tier.rates)}"


def _rates(rates: Rates) -> str:
    cache = f"cache {exact(rates.cached)} read, {exact(rates.cache_write)} written"
    return f"{exact(rates.input)} in, {exact(rates.output)} out, {cache}"
