"""Prices in the admin: dollars per million tokens as text, and nothing that is no price."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoCaptureOnCommitCallbacks

from conversations.catalog import load_catalog
from conversations.models import PriceOverride, Provider, ProviderModel
from conversations.money import DOLLAR
from tests import cast
from tests.catalog.conftest import nothing_configured

__all__ = ["nothing_configured"]  # a fixture

pytestmark = pytest.mark.django_db

LIST = "admin:conversations_priceoverride_changelist"
ADD = "admin:conversations_priceoverride_add"
CHANGE = "admin:conversations_priceoverride_change"


@pytest.fixture
def ada() -> Client:
    provider = Provider.objects.create(slug="relay", name="Relay", base_url="https://relay.example.org/v1")
    ProviderModel.objects.create(provider=provider, model_id="one")
    client = Client()
    client.force_login(cast.ada())
    return client


def given(**fields: str) -> dict[str, str]:
    return {
        "model": "relay/one",
        "input_rate": "2",
        "output_rate": "8.00",
        "cached_rate": "",
        "cache_write_rate": "",
        "valid_from_0": "2026-01-20",
        "valid_from_1": "12:00:00",
        "valid_until_0": "",
        "valid_until_1": "",
        "note": "",
        **fields,
    }


def test_a_price_is_entered_in_dollars_and_counts_at_once(
    ada: Client, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    assert load_catalog().get("relay/one").price is None
    with django_capture_on_commit_callbacks(execute=True):
        ada.post(reverse(ADD), given(cached_rate="$0.075", note="Contract of May"))
    row = PriceOverride.objects.get()
    assert (row.input_rate, row.output_rate, row.cached_rate) == (2 * DOLLAR, 8 * DOLLAR, 75_000_000)
    assert row.cache_write_rate is None
    assert load_catalog().get("relay/one").price_label == "$2.00 / $8.00 per million tokens"


@pytest.mark.parametrize("field", ["input_rate", "output_rate", "cached_rate", "cache_write_rate"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-1", "An amount cannot be negative."),
        ("NaN", "Write an amount in dollars, such as 5 or 1,000.50."),
        ("1e30", "Write an amount in dollars, such as 5 or 1,000.50."),
        ("1,00,0", "Write an amount in dollars, such as 5 or 1,000.50."),
        ("1,000,001", "The most is $1,000,000.00."),
        ("0.0000000001", "An amount has at most nine decimals."),
    ],
)
def test_what_is_no_price_is_refused_and_stays_in_its_field(
    ada: Client, field: str, text: str, sentence: str
) -> None:
    response = ada.post(reverse(ADD), given(**{field: text}))
    page = response.content.decode()
    assert sentence in page
    assert f'value="{text}"' in page
    assert not PriceOverride.objects.exists()


def test_a_price_that_becomes_negative_is_refused(ada: Client) -> None:
    ada.post(reverse(ADD), given())
    row = PriceOverride.objects.get()
    response = ada.post(reverse(CHANGE, args=[row.pk]), given(output_rate="-8"))
    assert "An amount cannot be negative." in response.content.decode()
    row.refresh_from_db()
    assert row.output_rate == 8 * DOLLAR


def test_a_price_needs_both_rates_or_the_word_free(ada: Client) -> None:
    response = ada.post(reverse(ADD), given(output_rate=""))
    assert "Say what a million tokens cost, or tick “Free”." in response.content.decode()
    assert not PriceOverride.objects.exists()
    ada.post(reverse(ADD), given(input_rate="", output_rate="", is_free="on"))
    row = PriceOverride.objects.get()
    assert (row.is_free, row.input_rate, row.output_rate) == (True, 0, 0)


def test_the_end_comes_after_the_beginning(ada: Client) -> None:
    response = ada.post(reverse(ADD), given(valid_until_0="2026-01-20", valid_until_1="12:00:00"))
    assert "The end must come after the beginning." in response.content.decode()
    assert not PriceOverride.objects.exists()


def test_a_model_that_nobody_offers_cannot_be_chosen_but_one_that_is_gone_can_be_kept(ada: Client) -> None:
    response = ada.post(reverse(ADD), given(model="relay/gone"))
    assert "Select a valid choice." in response.content.decode()
    gone = PriceOverride.objects.create(model="relay/gone", input_rate=DOLLAR, output_rate=DOLLAR)
    ada.post(reverse(CHANGE, args=[gone.pk]), given(model="relay/gone", input_rate="3"))
    gone.refresh_from_db()
    assert gone.input_rate == 3 * DOLLAR


def test_the_form_shows_what_was_entered_and_no_zeros_that_nobody_did(ada: Client) -> None:
    page = ada.get(reverse(ADD), {"model": "relay/one"}).content.decode()
    assert '<option value="relay/one" selected>' in page
    assert 'value="0.00"' not in page
    ada.post(reverse(ADD), given(cached_rate="0.0028"))
    page = ada.get(reverse(CHANGE, args=[PriceOverride.objects.get().pk])).content.decode()
    for text in ("2.00", "8.00", "0.0028"):
        assert f'value="{text}"' in page


def test_the_list_shows_each_models_price_and_where_one_is_missing(ada: Client) -> None:
    provider = Provider.objects.create(slug="openai", name="OpenAI", base_url="https://api.openai.com/v1")
    ProviderModel.objects.create(provider=provider, model_id="gpt-4.1")
    page = ada.get(reverse(LIST)).content.decode()
    assert "$2.00 / $8.00 per million tokens" in page
    assert "genai-prices" in page
    assert f"{reverse(ADD)}?model=relay%2Fone" in page
    ada.post(reverse(ADD), given(cached_rate="0.5"))
    page = ada.get(reverse(LIST)).content.decode()
    assert "$0.50" in page and "as input" in page


def test_bob_sees_no_prices() -> None:
    client = Client()
    client.force_login(cast.bob())
    assert client.get(reverse(LIST)).status_code == 302
