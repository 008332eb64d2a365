"""Providers in the admin: the key goes in and never comes out, a test proves it, ticks enable models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.core import signing
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters

from conversations.catalog import LOCAL_PROVIDER, load_catalog, stored_endpoint
from conversations.gate import in_words, look
from conversations.llm.client import checked_base_url
from conversations.llm.known_models import looks_like_chat
from conversations.llm.registry import KNOWN_PROVIDERS
from conversations.llm.types import ModelInfo
from conversations.models import Provider, ProviderModel
from conversations.provider_check import Proof, prove
from conversations.secrets import KeyUnreadable, Secret, decrypt, encrypt

MOST_INLINE = 100  # models; Django takes 1,000 fields in one form
ADDRESSES = " · ".join(f"{known.label}: {known.base_url}" for known in KNOWN_PROVIDERS.values())


class ProviderForm(forms.ModelForm[Provider]):
    key = forms.CharField(
        required=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"}),
    )
    remove_key = forms.BooleanField(required=False, label="Remove the stored key")

    class Meta:
        model = Provider
        fields = ("name", "slug", "dialect", "base_url", "is_enabled")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["key"].help_text = key_state(self.instance)
        if "base_url" in self.fields:
            self.fields["base_url"].help_text = ADDRESSES

    def clean_slug(self) -> str:
        slug: str = self.cleaned_data["slug"]
        if slug == LOCAL_PROVIDER:
            raise ValidationError(f"“{slug}” is the name of the model on this machine. Choose another.")
        return slug

    def clean_base_url(self) -> str:
        try:
            return checked_base_url(self.cleaned_data["base_url"])
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def clean_key(self) -> str:
        key: str = self.cleaned_data["key"].strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValidationError("A key has no blanks and no special characters. Copy it again.")
        return key

    def clean(self) -> dict[str, Any]:
        """A stored key goes to the address that it was entered for: whoever may not read it cannot redirect it."""
        cleaned = super().clean() or self.cleaned_data
        stays = self.instance.encrypted_key and not cleaned.get("key") and not cleaned.get("remove_key")
        if stays and cleaned.get("base_url", self.initial["base_url"]) != self.initial["base_url"]:
            self.add_error("key", "Enter the key again: the stored one belongs to the address before.")
        return cleaned

    def save(self, commit: bool = True) -> Provider:
        if self.cleaned_data["key"]:
            self.instance.encrypted_key = encrypt(Secret(self.cleaned_data["key"]))
        elif self.cleaned_data["remove_key"]:
            self.instance.encrypted_key = ""
        return super().save(commit)


def key_state(provider: Provider) -> str:
    if not provider.encrypted_key:
        return "No key is stored. A server of your own may need none."
    try:
        decrypt(provider.encrypted_key)
    except KeyUnreadable:
        return "The stored key cannot be read, because SECRET_KEY has changed. Enter the key again."
    return "A key is stored. Leave this empty to keep it."


class ModelInline(admin.TabularInline[ProviderModel, Provider]):
    model = ProviderModel
    fields = ("model_id", "is_enabled", "context_window", "is_free")
    extra = 1
    verbose_name_plural = "Models"


@admin.register(Provider)
class ProviderAdmin(admin.ModelAdmin[Provider]):
    form = ProviderForm
    list_display = ("name", "slug", "dialect", "base_url", "key", "enabled_models", "is_enabled")
    search_fields = ("name", "slug")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        enabled = Count("models", filter=Q(models__is_enabled=True))
        return super().get_queryset(request).annotate(enabled_count=enabled)

    @admin.display(description="key")
    def key(self, provider: Provider) -> str:
        return "A key is stored." if provider.encrypted_key else "None"

    @admin.display(description="models", ordering="enabled_count")
    def enabled_models(self, provider: Provider) -> int:
        count: int = provider.enabled_count  # type: ignore[attr-defined]  # annotated above
        return count

    def get_fields(self, request: HttpRequest, obj: Provider | None = None) -> list[Any]:
        fields = ["name", "slug", "dialect", "base_url", "key", "is_enabled"]
        if obj is not None and obj.encrypted_key:
            fields.insert(5, "remove_key")
        return fields

    def get_readonly_fields(self, request: HttpRequest, obj: Provider | None = None) -> tuple[str, ...]:
        return ("slug",) if obj is not None else ()  # conversations name their models by it

    def get_prepopulated_fields(
        self, request: HttpRequest, obj: Provider | None = None
    ) -> dict[str, Sequence[str]]:
        return {"slug": ("name",)} if obj is None else {}

    def get_inlines(self, request: HttpRequest, obj: Provider | None) -> list[type[Any]]:
        fits = obj is not None and obj.models.count() <= MOST_INLINE
        return [ModelInline] if fits else []

    def get_urls(self) -> list[URLPattern]:
        test = self.admin_site.admin_view(self.test_view)
        return [
            path("<uuid:object_id>/test/", test, name="conversations_provider_test"),
            *super().get_urls(),
        ]

    @method_decorator(sensitive_post_parameters("key"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().changeform_view(request, *args, **kwargs)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        catalog = load_catalog()
        elsewhere = [source for source in catalog.sources if source.place != "database"]
        found = look([source.endpoint.slug for source in catalog.sources])
        context = {
            "elsewhere": elsewhere,
            "said": [*catalog.problems, *catalog.notes],
            "calls": [
                (
                    source.endpoint.label,
                    in_words(found[source.endpoint.slug]),
                    found[source.endpoint.slug].state,
                )
                for source in catalog.sources
                if source.endpoint.slug in found
            ],
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def response_add(
        self, request: HttpRequest, obj: Provider, post_url_continue: str | None = None
    ) -> HttpResponse:
        if "_test" in request.POST:
            return HttpResponseRedirect(test_url(obj))
        return super().response_add(request, obj, post_url_continue)

    def response_change(self, request: HttpRequest, obj: Provider) -> HttpResponse:
        if "_test" in request.POST:
            return HttpResponseRedirect(test_url(obj))
        return super().response_change(request, obj)

    def test_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        """GET asks the provider, at most five seconds, and shows what the key may use; POST keeps the ticks."""
        provider = self.get_object(request, str(object_id))
        if not self.has_change_permission(request, provider):
            raise PermissionDenied
        if provider is None:
            messages.error(request, "This provider does not exist any more.")
            return HttpResponseRedirect(reverse("admin:conversations_provider_changelist"))
        if request.method == "POST":
            self._keep_ticks(request, provider)
            return HttpResponseRedirect(reverse("admin:conversations_provider_change", args=[provider.pk]))
        proof = _proof(provider)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Test {provider.name}",
            "opts": self.opts,
            "provider": provider,
            "proof": proof,
            "groups": _groups(provider, proof.models),
            "listing": _sign(provider, proof.models),
        }
        return TemplateResponse(request, "admin/conversations/provider/test.html", context)

    def _keep_ticks(self, request: HttpRequest, provider: Provider) -> None:
        try:
            offered = _unsign(provider, request.POST.get("listing", ""))
        except signing.BadSignature:
            messages.error(request, "Nothing was changed: the list of models was damaged. Test again.")
            return
        ticked = set(request.POST.getlist("model")) & offered.keys()
        rows = provider.models.filter(model_id__in=offered)
        rows.exclude(model_id__in=ticked).update(is_enabled=False)
        rows.filter(model_id__in=ticked).update(is_enabled=True)
        known = set(rows.values_list("model_id", flat=True))
        for model_id in sorted(ticked - known):
            provider.models.create(model_id=model_id, context_window=offered[model_id])
        provider.save(update_fields=["is_enabled"])  # tells the catalogue
        self.log_change(request, provider, f"Enabled {len(ticked)} of {len(offered)} listed models.")
        what = "1 model is" if len(ticked) == 1 else f"{len(ticked)} models are"
        messages.success(request, f"{what} enabled at {provider.name}.")


def test_url(provider: Provider) -> str:
    return reverse("admin:conversations_provider_test", args=[provider.pk])


def _proof(provider: Provider) -> Proof:
    try:
        endpoint = stored_endpoint(provider)
    except (KeyUnreadable, ValueError) as error:
        return Proof(ok=False, sentence=f"{provider.name} cannot be tested. {error}")
    return async_to_sync(prove)(endpoint)


def _groups(provider: Provider, offered: tuple[ModelInfo, ...]) -> dict[str, list[tuple[ModelInfo, bool]]]:
    """What is offered, each with its tick: what looks like a chat model, and the rest."""
    enabled = set(provider.models.filter(is_enabled=True).values_list("model_id", flat=True))
    rows = [(model, model.model_id in enabled) for model in offered]
    return {
        "Models that people may choose": [row for row in rows if looks_like_chat(row[0].model_id)],
        "Models for other work than chat": [row for row in rows if not looks_like_chat(row[0].model_id)],
    }


def _sign(provider: Provider, offered: tuple[ModelInfo, ...]) -> str:
    """The list, carried by the page: to keep the ticks, the provider need not be asked again."""
    rows = [[model.model_id, model.context_window] for model in offered]
    return signing.dumps(rows, salt=f"models of {provider.pk}", compress=True)


def _unsign(provider: Provider, text: str) -> dict[str, int | None]:
    return dict(signing.loads(text, salt=f"models of {provider.pk}"))
