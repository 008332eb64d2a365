"""`manage.py prices`: every model with its rates, who says so, what is wrong, and an exit code for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.utils import timezone
from pytest_django import Settings

from conversations.management.commands import prices
from conversations.models import PriceOverride, Provider, ProviderModel
from conversations.money import DOLLAR
from tests.catalog.conftest import nothing_configured, start_local_model

__all__ = ["nothing_configured", "start_local_model"]  # fixtures

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> tuple[int, list[str]]:
    """Exit code, lines of standard output."""
    out = StringIO()
    try:
        call_command("prices", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as ending:
        return int(ending.code or 0), out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()


def offer(slug: str, base_url: str, *model_ids: str, is_free: bool = False) -> None:
    provider = Provider.objects.create(slug=slug, name=slug.title(), base_url=base_url)
    for model_id in model_ids:
        ProviderModel.objects.create(provider=provider, model_id=model_id, is_free=is_free)


def override(model: str, dollars: int, *, ends_in: timedelta | None = None, **fields: object) -> None:
    now = timezone.now()
    PriceOverride.objects.create(
        model=model,
        input_rate=dollars * DOLLAR,
        output_rate=2 * dollars * DOLLAR,
        valid_from=now - timedelta(days=1),
        valid_until=None if ends_in is None else now + ends_in,
        **fields,
    )


def test_each_model_has_a_line_with_its_rates_and_who_says_so() -> None:
    offer("openai", "https://api.openai.com/v1", "gpt-4.1")
    offer("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-pro")
    offer("ours", "https://models.example.org/v1", "ours", is_free=True)
    override("openai/gpt-4.1", 1)
    code, lines = run("--check")
    assert code == 0
    assert lines[1] == "openai/gpt-4.1: 1.00 in, 2.00 out, cache 1.00 read, 1.00 written (override)"
    assert lines[0].startswith(
        "gemini/gemini-2.5-pro: 1.25 in, 10.00 out, cache 0.125 read, 1.25 written, above 200,000 tokens 2.50 in"
    )
    assert "(genai-prices " in lines[0]
    assert lines[2] == "ours/ours: free (free)"


def test_a_model_without_a_price_is_told_and_fails_the_check() -> None:
    offer("relay", "https://relay.example.org/v1", "gpt-4.1")
    told = ["relay/gpt-4.1: gpt-4.1 has no price. An administrator can set one under Prices."]
    assert run() == (0, told)
    assert run("--check") == (1, told)
    override("relay/gpt-4.1", 2)
    assert run("--check")[0] == 0


def test_a_price_that_ends_soon_is_told_with_what_comes_after() -> None:
    offer("openai", "https://api.openai.com/v1", "gpt-4.1")
    offer("relay", "https://relay.example.org/v1", "one", "two", "three")
    override("openai/gpt-4.1", 1, ends_in=timedelta(days=3))
    override("relay/one", 1, ends_in=timedelta(days=3))
    override("relay/two", 1, ends_in=timedelta(days=300))
    override("relay/three", 0, ends_in=timedelta(days=3), is_free=True)
    warnings = [line for line in run()[1] if "ends on" in line]
    assert [line.partition("After that: ")[2] for line in warnings] == [
        "2.00 in, 8.00 out, cache 0.50 read, 2.00 written.",
        "no price, and it will be refused.",
        "no price, and it will be refused.",
    ]


def test_a_price_for_a_model_that_nobody_offers_is_told() -> None:
    override("openai/gpt-9", 1)
    assert run("--check") == (
        0,
        [
            "There is no model. Set OPENAI_API_KEY, or add a provider in the admin.",
            "openai/gpt-9: a price is set, but no provider offers this model.",
        ],
    )


def test_a_database_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Iterator[None]:
        raise OperationalError

    monkeypatch.setattr(prices, "read_catalog", fail)
    with pytest.raises(CommandError, match="The prices cannot be read: the database does not answer"):
        run()


@pytest.mark.usefixtures("nothing_configured")
def test_the_usual_models_of_every_provider_have_a_price(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """What a key alone offers must work without anybody setting a price."""
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "DEEPSEEK"):
        monkeypatch.setenv(f"{name}_API_KEY", "key-0123456789")
    code, lines = run("--check")
    assert (code, len([line for line in lines if "genai-prices" in line])) == (0, 10), lines
