"""The composer's list of models says what each costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.test import Client
from django.urls import reverse

from conversations.catalog import Catalog, ModelEntry, replaced_by
from conversations.money import DOLLAR
from conversations.prices import Price, Rates
from tests import cast

PAID = ModelEntry(
    id="openai/gpt-4.1",
    provider="openai",
    provider_label="OpenAI",
    model_id="gpt-4.1",
    label="gpt-4.1",
    dialect="openai",
    context_window=100_000,
    max_output=10_000,
    price=Price(
        model="openai/gpt-4.1",
        rates=Rates(input=2 * DOLLAR, cached=DOLLAR // 2, cache_write=2 * DOLLAR, output=8 * DOLLAR),
    ),
)
FREE = replace(PAID, id="local/small", provider_label="This machine", price=None, is_free=True, is_local=True)
UNPRICED = replace(PAID, id="relay/one", provider_label="Relay", price=None)


@pytest.mark.django_db
def test_each_model_of_the_picker_has_its_price() -> None:
    client = Client()
    client.force_login(cast.alice())
    with replaced_by(Catalog(entries=(PAID, UNPRICED, FREE))):
        page = client.get(reverse("home")).content.decode()
    for text in (
        "OpenAI · price per million tokens</h3>",
        '<span class="price">$2.00 in · $8.00 out</span>',
        '<span class="price">no price</span>',
        "This machine</h3>",
        '<span class="price">free</span>',
    ):
        assert text in page
