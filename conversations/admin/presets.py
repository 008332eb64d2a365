"""Presets in the admin: which ones there are, and which of them everybody may begin with."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from conversations import presets
from conversations.context.presets import CHEAPEST
from conversations.models import SavedPreset, User


def changeable_by(request: HttpRequest) -> QuerySet[SavedPreset]:
    """Sharing shows what is in a preset, so nobody shares what is another person's alone."""
    assert isinstance(request.user, User)
    return SavedPreset.objects.changeable_by(request.user)


@admin.register(SavedPreset)
class PresetAdmin(admin.ModelAdmin[SavedPreset]):
    list_display = ("name", "owner", "is_shared", "strategy", "answers", "changed_at")
    list_filter = ("is_shared", "changed_at")
    search_fields = ("name", "owner__email", "owner__name")
    list_select_related = ("owner",)
    ordering = ("name",)
    actions = ("share_with_all", "stop_sharing")
    fields = ("name", "owner", "is_shared", "content", "created_at", "changed_at")
    readonly_fields = ("name", "owner", "content", "created_at", "changed_at")

    def get_readonly_fields(
        self, request: HttpRequest, obj: SavedPreset | None = None
    ) -> tuple[str, ...] | list[str]:
        fields = self.readonly_fields
        return fields if obj is None or changeable_by(request).filter(pk=obj.pk) else (*fields, "is_shared")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SavedPreset]:
        return super().get_queryset(request).filter(deleted_at=None)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # one is made on the page of presets, where its numbers are checked

    @admin.display(description="strategy")
    def strategy(self, saved: SavedPreset) -> str:
        return saved.preset.strategy.replace("_", " ")

    @admin.display(description="model")
    def answers(self, saved: SavedPreset) -> str:
        chosen = saved.preset.model
        return "the cheapest" if chosen == CHEAPEST else chosen or "the usual one"

    @admin.display(description="content")
    def content(self, saved: SavedPreset) -> SafeString | str:
        if saved.is_shared:
            return format_html("<pre>{}</pre>", presets.to_file(saved.preset))
        return "Its owner's alone while it is not shared."

    @admin.action(description="Share with everyone")
    def share_with_all(self, request: HttpRequest, queryset: QuerySet[SavedPreset]) -> None:
        self._share(request, queryset, True)

    @admin.action(description="Stop sharing")
    def stop_sharing(self, request: HttpRequest, queryset: QuerySet[SavedPreset]) -> None:
        self._share(request, queryset, False)

    def _share(self, request: HttpRequest, queryset: QuerySet[SavedPreset], on: bool) -> None:
        mine = changeable_by(request)
        chosen, others = list(queryset.filter(pk__in=mine)), queryset.exclude(pk__in=mine).count()
        for saved in chosen:
            presets.share(saved, on)
            self.log_change(request, saved, "Shared with everyone." if on else "Not shared any more.")
        if others:
            whose = "preset is its owner's" if others == 1 else "presets are their owners'"
            messages.warning(request, f"{others} {whose} alone, and nobody else can share it.")
        if not chosen:
            return
        said = "shared with everyone" if on else "not shared any more; conversations keep their copies"
        messages.success(request, f"{len(chosen)} preset{'' if len(chosen) == 1 else 's'} {said}.")

    def delete_model(self, request: HttpRequest, obj: SavedPreset) -> None:
        presets.delete(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[SavedPreset]) -> None:
        for saved in queryset:
            presets.delete(saved)
