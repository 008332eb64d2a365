"""The person's budget of the day, as every page shows it."""

from __future__ import annotations

from django.conf import settings

from conversations.catalog import kept_catalog
from conversations.models import User
from conversations.reports import Meter, meter_of

#: Tokens of a short question, with what is sent around it: hardly any paid call holds less, with the shortest answer.
LEAST_INPUT = 50


def meter_for(user: User) -> Meter:
    """In one query; which models there are is what this process knows already."""
    catalog = kept_catalog()
    paid = (
        [entry.price for entry in catalog.entries if entry.price and not entry.price.is_free]
        if catalog
        else []
    )
    least = min((price.worst(LEAST_INPUT, settings.SHRINK_FLOOR) for price in paid), default=0)
    return meter_of(user.pk, least=least)
