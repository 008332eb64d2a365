"""People in the admin: accounts, password links, limits and what is granted for today; invitations are looked at."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import CharField, Count, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Cast
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from conversations import accounts, budgets
from conversations.admin.limits import HELP, LimitForm, effective, name_the_change, own_limit, said
from conversations.admin.read_only import ReadOnly
from conversations.budgets import UNLIMITED
from conversations.budgets.limits import Limit
from conversations.models import Budget, BudgetGrant, Invitation, Reply, Scope, User
from conversations.money import MOST, DollarField, dollars
from conversations.replies.sending import stop_reply
from conversations.reports import meter_of


class UserForm(LimitForm):
    is_superuser = forms.BooleanField(
        required=False,
        label="Administrator",
        help_text="Sees this site: people, providers, conversations.",
    )

    class Meta:
        model = User
        fields = ("email", "name", "time_zone", "is_superuser", "is_active", "daily_limit")
        help_texts = {"is_active": "Without it, the person cannot sign in; what they wrote stays."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "daily_limit" in self.fields:
            self.fields["daily_limit"].help_text = HELP + "or nothing, for what a group or the settings say."

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"].strip().lower()
        if User.objects.filter(email__iexact=email).exclude(pk=self.instance.pk).exists():
            raise ValidationError(accounts.EmailTaken().sentence)
        return email

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        stays = cleaned.get("is_active", True) and cleaned.get("is_superuser")
        others = User.objects.filter(is_active=True, is_superuser=True).exclude(pk=self.instance.pk)
        was_administrator = self.instance.pk and self.initial.get("is_superuser")
        if was_administrator and not stays and not others.exists():
            raise ValidationError("This is the only administrator. Make another one first.")
        return cleaned


class ChosenLimitForm(forms.Form):
    """What several people get at once."""

    kind = forms.ChoiceField(
        label="Their own limit a day",
        choices=[
            ("amount", "This amount"),
            ("unlimited", "Unlimited"),
            ("default", "None of their own: what a group or the settings say"),
        ],
        initial="amount",
        widget=forms.RadioSelect,
    )
    amount = DollarField(required=False, help_text="Dollars, such as 5; 0 for free models alone.")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("kind") == "amount" and cleaned.get("amount") is None and "amount" not in self.errors:
            self.add_error("amount", "Write an amount in dollars, such as 5 or 1,000.50.")
        return cleaned

    @property
    def limit(self) -> Limit:
        kinds = {"unlimited": UNLIMITED, "default": None}
        kind = self.cleaned_data["kind"]
        return kinds[kind] if kind in kinds else self.cleaned_data["amount"]


class GrantForm(forms.Form):
    amount = DollarField(
        at_least=1,
        at_most=MOST,
        label="Extra for today",
        help_text="Dollars on top of the limit, until the reset.",
    )
    reason = forms.CharField(
        max_length=300,
        help_text="Kept with your name, for other administrators.",
        widget=forms.TextInput(attrs={"class": "vTextField"}),
    )


@admin.register(User)
class UserAdmin(admin.ModelAdmin[User]):
    form = UserForm
    list_display = (
        "email",
        "daily_limit",
        "limit_that_counts",
        "used_today",
        "name",
        "is_active",
        "is_administrator",
        "conversation_count",
        "last_login",
    )
    list_editable = ("daily_limit",)
    list_filter = ("is_active", "is_superuser", "groups")
    search_fields = ("email", "name")
    ordering = ("email",)
    readonly_fields = ("last_login", "date_joined", "limit_that_counts", "groups_of")
    show_full_result_count = False
    actions = ("set_limit", "deactivate")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        there = Count("conversation", filter=Q(conversation__deleted_at=None), distinct=True)
        today = (
            Budget.objects.filter(
                scope=Scope.USER, subject=Cast(OuterRef("pk"), CharField()), ends_at__gt=timezone.now()
            )
            .order_by("-starts_at")
            .annotate(used=F("spent") + F("held"), whole=F("limit") + F("extra"))
        )
        found = super().get_queryset(request).prefetch_related("groups__limit")
        return found.annotate(
            conversation_count=there,
            used=Subquery(today.values("used")[:1]),
            whole=Subquery(today.values("whole")[:1]),
        )

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> type[LimitForm]:
        return LimitForm

    @admin.display(description="limit that counts")
    def limit_that_counts(self, user: User) -> str:
        limit, source = effective(user)
        return f"{said(limit)} · {source}"

    @admin.display(description="used today", ordering="used")
    def used_today(self, user: Any) -> str:
        if user.used is None:
            return dollars(0)
        return dollars(user.used) if user.whole is None else f"{dollars(user.used)} of {dollars(user.whole)}"

    @admin.display(description="groups")
    def groups_of(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all()) or "none"

    @admin.display(description="administrator", boolean=True, ordering="is_superuser")
    def is_administrator(self, user: User) -> bool:
        return user.is_superuser

    @admin.display(description="conversations", ordering="conversation_count")
    def conversation_count(self, user: User) -> int:
        count: int = user.conversation_count  # type: ignore[attr-defined]  # annotated above
        return count

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> list[Any]:
        if obj is None:
            return ["email", "name", "time_zone", "is_superuser"]
        limits = ["daily_limit", "limit_that_counts", "groups_of"]
        return [
            "email",
            "name",
            "time_zone",
            "is_superuser",
            "is_active",
            *limits,
            "last_login",
            "date_joined",
        ]

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False  # deactivate instead: with the person their conversations would go

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> User:
        user: User = super().save_form(request, form, change)
        if change:
            return user
        given = {name: form.cleaned_data[name] for name in ("email", "name", "time_zone")}
        return accounts.create_account(password=None, vouched=True, **given)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if isinstance(form, UserForm):
            self._save_account(request, obj, form, change)
        if "daily_limit" in form.changed_data:
            budgets.set_user_limit(obj, form.limit)
            say_what_does_not_fit(request, obj)

    def _save_account(self, request: HttpRequest, obj: User, form: UserForm, change: bool) -> None:
        obj.is_staff = obj.is_superuser = form.cleaned_data["is_superuser"]
        # No more than that: the person may change their password at this moment.
        obj.save(update_fields=["email", "name", "time_zone", "is_active", "is_staff", "is_superuser"])
        if not change:
            messages.info(
                request, "The account has no password yet. Make a password link and send it to the person."
            )
        elif not obj.is_active:
            stop_replies(obj)

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> list[dict[str, dict[str, Any]]]:
        return name_the_change(super().construct_change_message(request, form, formsets, add), form)

    @admin.action(description="Set the daily limit of the selected people")
    def set_limit(self, request: HttpRequest, chosen: QuerySet[User]) -> HttpResponse | None:
        form = ChosenLimitForm(request.POST if "apply" in request.POST else None)
        people = list(chosen)
        if form.is_valid():
            for person in people:
                before = own_limit(person)
                budgets.set_user_limit(person, form.limit)
                self.log_change(
                    request, person, f"Changed limit a day from {said(before)} to {said(form.limit)}."
                )
                say_what_does_not_fit(request, person)
            who = "1 person" if len(people) == 1 else f"{len(people)} people"
            messages.success(request, f"The limit of {who} is now: {said(form.limit)}.")
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Set the daily limit",
            "opts": self.opts,
            "people": people,
            # All that the list shows, on whatever page of it: too many to name each.
            "everybody": request.POST.get("select_across") == "1",
            "form": form,
        }
        return TemplateResponse(request, "admin/conversations/user/set_limit.html", context)

    @admin.action(description="Deactivate the selected people")
    def deactivate(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        people = [person for person in chosen if person.is_active and person != request.user]
        if len(people) < len(chosen):
            messages.warning(
                request, "Your own account, and those that were not active, are left as they are."
            )
        for person in people:
            person.is_active = False
            person.save(update_fields=["is_active"])
            stop_replies(person)
            self.log_change(request, person, "Deactivated.")
        if people:
            messages.success(request, f"{len(people)} cannot sign in any more.")

    def get_urls(self) -> list[URLPattern]:
        link = self.admin_site.admin_view(never_cache(self.password_link_view))
        grant = self.admin_site.admin_view(self.grant_view)
        return [
            path("<int:object_id>/password-link/", link, name="conversations_user_password_link"),
            path("<int:object_id>/grant/", grant, name="conversations_user_grant"),
            *super().get_urls(),
        ]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        person = self.get_object(request, object_id)
        money = money_of(person) if person is not None else {}
        return super().change_view(request, object_id, form_url, {**money, **(extra_context or {})})

    def grant_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Extra money until the person's next reset, with a reason."""
        person = self.get_object(request, str(object_id))
        if person is None:
            raise Http404
        if not self.has_change_permission(request, person):
            raise PermissionDenied
        form = GrantForm(request.POST or None)
        if form.is_valid():
            amount, reason = form.cleaned_data["amount"], form.cleaned_data["reason"]
            assert isinstance(request.user, User)
            budgets.grant_extra(person, amount, reason=reason, by=request.user)
            self.log_change(request, person, f"Granted {dollars(amount)} extra for today: {reason}")
            messages.success(request, f"{dollars(amount)} extra is granted to {person} for today.")
            return HttpResponseRedirect(reverse("admin:conversations_user_change", args=[person.pk]))
        context = {
            **self.admin_site.each_context(request),
            **money_of(person),
            "title": f"Grant extra for today to {person}",
            "opts": self.opts,
            "person": person,
            "form": form,
        }
        return TemplateResponse(request, "admin/conversations/user/grant.html", context)

    def password_link_view(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Shows a link, once. It is made by POST: a page that is only looked at makes none."""
        person = self.get_object(request, str(object_id))
        if person is None:
            raise Http404
        if not self.has_change_permission(request, person):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        context = {
            **self.admin_site.each_context(request),
            "title": f"Password link for {person.email}",
            "opts": self.opts,
            "person": person,
            "link": accounts.one_time_password_link(person, request) if person.is_active else "",
        }
        self.log_change(request, person, "Made a password link.")
        return TemplateResponse(request, "admin/conversations/user/password_link.html", context)


def stop_replies(user: User) -> None:
    """What is written, or waits, for somebody who may not sign in any more costs money and has no reader."""
    for reply in Reply.objects.filter(user=user).on_their_way():
        stop_reply(reply)


def money_of(person: User) -> dict[str, Any]:
    """The person's day and what was granted to them, for their pages."""
    grants = BudgetGrant.objects.filter(budget__scope=Scope.USER, budget__subject=str(person.pk))
    return {
        "today": meter_of(person.pk),
        "grants": grants.select_related("budget", "granted_by").order_by("-created_at")[:10],
    }


def say_what_does_not_fit(request: HttpRequest, person: User) -> None:
    """A limit may be lowered under what is spent and held already; then it is said."""
    today = budgets.remaining(person.pk)
    used = today.spent + today.held
    if today.limit is None or used < today.limit or not used:
        return
    messages.warning(
        request,
        f"{person}: {dollars(today.spent)} is spent and {dollars(today.held)} held already: "
        "nothing more fits today.",
    )


@admin.register(Invitation)
class InvitationAdmin(ReadOnly, admin.ModelAdmin[Invitation]):
    list_display = ("invited", "invited_by", "created_at", "expires_at", "accepted_by", "accepted_at")
    list_filter = ("created_at", "accepted_at")
    search_fields = ("email", "invited_by__email", "accepted_by__email")
    list_select_related = ("invited_by", "accepted_by")
    fields = ("email", "invited_by", "created_at", "expires_at", "accepted_by", "accepted_at")
    ordering = ("-id",)
    actions = ("revoke",)

    @admin.display(description="for")
    def invited(self, invitation: Invitation) -> str:
        return invitation.email or "Whoever has the link"

    @admin.action(description="Revoke the selected invitations", permissions=["view"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[Invitation]) -> None:
        usable = Invitation.objects.usable().filter(pk__in=chosen.values("pk"))
        revoked = usable.update(expires_at=timezone.now())
        messages.success(request, f"{revoked} revoked. Their links open nothing now.")
