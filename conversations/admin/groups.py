"""Groups in the admin: a name, its members, and what each of them may spend in a day. They carry no rights."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import FilteredSelectMultiple
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from conversations import budgets
from conversations.admin.limits import HELP, LimitField, group_limit, name_the_change, said, written
from conversations.budgets.limits import Limit
from conversations.models import GroupLimit, User

if admin.site.is_registered(Group):
    admin.site.unregister(Group)  # Django's own, with rights


class GroupForm(forms.ModelForm[Group]):
    limit: Limit = None
    daily_limit = LimitField(
        label="Limit a day, each member",
        help_text=HELP + "or nothing, and the group says nothing about limits.",
    )
    members = forms.ModelMultipleChoiceField(
        queryset=User.objects.order_by("email"),
        required=False,
        widget=FilteredSelectMultiple("people", is_stacked=False),
    )

    class Meta:
        model = Group
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["daily_limit"] = written(group_limit(limit_row(self.instance)))
            self.initial["members"] = self.instance.user_set.values_list("pk", flat=True)

    def clean_daily_limit(self) -> Limit:
        self.limit = self.cleaned_data["daily_limit"]
        return self.limit

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"].strip()
        if Group.objects.filter(name__iexact=name).exclude(pk=self.instance.pk).exists():
            raise ValidationError("There is a group with this name already.")
        return name


def limit_row(group: Group) -> GroupLimit | None:
    found: GroupLimit | None = getattr(group, "limit", None)
    return found


@admin.register(Group)
class GroupAdmin(admin.ModelAdmin[Group]):
    form = GroupForm
    list_display = ("name", "limit_a_day", "member_count")
    search_fields = ("name",)
    ordering = ("name",)
    fields = ("name", "daily_limit", "members")
    list_select_related = ("limit",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        return super().get_queryset(request).annotate(member_count=Count("user"))

    @admin.display(description="limit a day, each member")
    def limit_a_day(self, group: Group) -> str:
        return said(group_limit(limit_row(group)), nothing="says nothing")

    @admin.display(description="members", ordering="member_count")
    def member_count(self, group: Group) -> int:
        count: int = group.member_count  # type: ignore[attr-defined]  # annotated above
        return count

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        group: Group = form.instance
        before = set(group.user_set.values_list("pk", flat=True))
        members = form.cleaned_data["members"]
        group.user_set.set(members)
        if "daily_limit" in form.changed_data:
            budgets.set_group_limit(group, form.limit)
        left = before - {member.pk for member in members}
        budgets.apply_limits(sorted(before | {member.pk for member in members}))
        if left:
            messages.info(request, f"{len(left)} left the group: their limits of today have changed with it.")

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> list[dict[str, dict[str, Any]]]:
        return name_the_change(super().construct_change_message(request, form, formsets, add), form)

    def delete_model(self, request: HttpRequest, obj: Group) -> None:
        members = set(obj.user_set.values_list("pk", flat=True))
        super().delete_model(request, obj)
        budgets.apply_limits(sorted(members))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Group]) -> None:
        members = set(User.objects.filter(groups__in=queryset).values_list("pk", flat=True))
        super().delete_queryset(request, queryset)
        budgets.apply_limits(sorted(members))
