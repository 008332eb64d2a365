"""Prices in the admin: what each model costs now and who says so, and the rates that administrators set."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from conversations.catalog import load_catalog
from conversations.models import PriceOverride
from conversations.money import DollarField, exact

PER_MILLION = "Dollars per million tokens, such as 2.50."
AS_INPUT = f"{PER_MILLION} Empty: as input."


class PriceForm(forms.ModelForm[PriceOverride]):
    model = forms.ChoiceField()
    input_rate = DollarField(required=False, label="Input", help_text=PER_MILLION)
    output_rate = DollarField(required=False, label="Output", help_text=f"{PER_MILLION} Reasoning included.")
    cached_rate = DollarField(required=False, label="Read from the cache", help_text=AS_INPUT)
    cache_write_rate = DollarField(required=False, label="Written to the cache", help_text=AS_INPUT)

    class Meta:
        model = PriceOverride
        fields = (
            "model",
            "is_free",
            "input_rate",
            "output_rate",
            "cached_rate",
            "cache_write_rate",
            "valid_from",
            "valid_until",
            "note",
        )
        labels = {"is_free": "Free", "valid_from": "From", "valid_until": "Until"}
        help_texts = {
            "is_free": "Calls cost nothing and need no budget: a server of your own, or a flat rate.",
            "valid_from": "Of two prices for one moment the one that began later counts.",
            "valid_until": "Empty: until further notice.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = {entry.id for entry in load_catalog().entries} | {self.instance.model} - {""}
        choice = self.fields["model"]
        assert isinstance(choice, forms.ChoiceField)
        choice.choices = [("", "Choose a model"), *((name, name) for name in sorted(names))]
        if self.instance._state.adding:  # not the zeros of the table: nobody has said them
            self.initial["input_rate"] = self.initial["output_rate"] = None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for name in ("input_rate", "output_rate"):
            if cleaned.get("is_free"):
                cleaned[name] = 0
            elif name in cleaned and cleaned[name] is None:
                self.add_error(name, "Say what a million tokens cost, or tick “Free”.")
        begins, ends = cleaned.get("valid_from"), cleaned.get("valid_until")
        if begins and ends and ends <= begins:
            self.add_error("valid_until", ValidationError("The end must come after the beginning."))
        return cleaned


@admin.register(PriceOverride)
class PriceAdmin(admin.ModelAdmin[PriceOverride]):
    form = PriceForm
    list_display = (
        "model",
        "input",
        "output",
        "cached",
        "cache_write",
        "valid_from",
        "valid_until",
        "state",
        "note",
    )
    search_fields = ("model", "note")
    ordering = ("model", "-valid_from")
    fieldsets = (
        (None, {"fields": ("model", "is_free")}),
        ("Rates", {"fields": ("input_rate", "output_rate", "cached_rate", "cache_write_rate")}),
        ("When", {"fields": ("valid_from", "valid_until", "note")}),
    )

    @admin.display(ordering="input_rate")
    def input(self, row: PriceOverride) -> str:
        return _rate(row, row.input_rate)

    @admin.display(ordering="output_rate")
    def output(self, row: PriceOverride) -> str:
        return _rate(row, row.output_rate)

    @admin.display(description="from cache")
    def cached(self, row: PriceOverride) -> str:
        return _rate(row, row.cached_rate)

    @admin.display(description="to cache")
    def cache_write(self, row: PriceOverride) -> str:
        return _rate(row, row.cache_write_rate)

    @admin.display
    def state(self, row: PriceOverride) -> str:
        now = timezone.now()
        if row.valid_from > now:
            return "later"
        return "over" if row.valid_until is not None and row.valid_until <= now else "now"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": "Prices", "entries": load_catalog().entries, **(extra_context or {})}
        return super().changelist_view(request, context)


def _rate(row: PriceOverride, rate: int | None) -> str:
    if row.is_free:
        return "free"
    return "as input" if rate is None else f"${exact(rate)}"
