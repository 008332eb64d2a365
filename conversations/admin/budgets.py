"""Money in the admin, to be looked at: the ledger, the holds and the balances. None of it is changed by hand."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar
from uuid import UUID

from django.contrib import admin
from django.db.models import CharField, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.dateformat import format as date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from conversations.admin.read_only import ReadOnly
from conversations.models import Budget, BudgetGrant, Hold, LedgerEntry, Scope, SpendAlert, User
from conversations.money import dollars, exact

Row = TypeVar("Row", bound=Model)


def email_of(field: str) -> Subquery:
    """The address of the person whose id a row keeps without a foreign key; None: the account is gone."""
    return Subquery(User.objects.filter(pk=OuterRef(field)).values("email")[:1])


def person_link(user_id: int | None, email: str | None) -> SafeString | str:
    if user_id is None:
        return "-"
    if email is None:
        return f"{user_id} (account is gone)"
    return format_html(
        '<a href="{}">{}</a>', reverse("admin:conversations_user_change", args=[user_id]), email
    )


def conversation_link(conversation_id: Any) -> SafeString | str:
    if conversation_id is None:
        return "-"
    place = reverse("admin:conversations_conversation_change", args=[conversation_id])
    return format_html('<a href="{}">{}</a>', place, str(conversation_id)[:8])


class SearchByPerson(admin.ModelAdmin[Row]):
    """Searches by the address of a person, whose id alone is in the row, and by ids."""

    #: Columns with ids, beside that of the person.
    ids: ClassVar[tuple[str, ...]] = ()
    search_fields = ("model",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Row]:
        found: QuerySet[Row] = super().get_queryset(request)
        return found.annotate(email=email_of("user_id"))  # type: ignore[return-value]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Row], search_term: str
    ) -> tuple[QuerySet[Row], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        people = User.objects.filter(Q(email__icontains=term) | Q(name__icontains=term))
        found = Q(user_id__in=people.values("pk")) | Q(model__icontains=term)
        if is_uuid(term):
            found |= Q(pk=term)
            for name in self.ids:
                found |= Q(**{name: term})
        return queryset.filter(found), False

    @admin.display(description="at", ordering="created_at")
    def at(self, row: Any) -> str:
        return date_format(timezone.localtime(row.created_at), "j M, H:i:s")

    @admin.display(description="person", ordering="email")
    def person(self, row: Any) -> SafeString | str:
        return person_link(row.user_id, row.email)

    @admin.display(description="conversation")
    def conversation(self, row: Any) -> SafeString | str:
        return conversation_link(row.conversation_id)


def is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@admin.register(LedgerEntry)
class LedgerAdmin(ReadOnly, SearchByPerson[LedgerEntry]):
    list_display = (
        "at",
        "person",
        "charged_amount",
        "held_amount",
        "released_amount",
        "kind",
        "purpose",
        "model",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "is_underestimate",
        "conversation",
    )
    list_filter = (
        "kind",
        "purpose",
        "created_at",
        "is_underestimate",
        "usage_reported",
        "model",
    )
    search_help_text = "Name or address of a person, model, or an id"
    ids = ("hold_id", "reply_id", "conversation_id", "attempt_id")
    ordering = ("-created_at",)
    list_per_page = 50
    fields = (
        ("kind", "purpose", "model"),
        ("person", "caused_by"),
        ("held_amount", "charged_amount", "released_amount", "is_underestimate"),
        ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
        "usage_reported",
        "price",
        ("hold_id", "reply_id", "attempt_id", "conversation"),
        ("conversation_budget_id", "user_budget_id", "installation_budget_id"),
        ("day", "held_at", "created_at"),
    )
    readonly_fields = ("person", "conversation", "held_amount", "charged_amount", "released_amount")

    @admin.display(description="held", ordering="held")
    def held_amount(self, entry: LedgerEntry) -> str:
        return dollars(entry.held)

    @admin.display(description="charged", ordering="charged")
    def charged_amount(self, entry: LedgerEntry) -> str:
        return dollars(entry.charged)

    @admin.display(description="released")
    def released_amount(self, entry: LedgerEntry) -> str:
        return dollars(entry.released)


@admin.register(Hold)
class HoldAdmin(ReadOnly, SearchByPerson[Hold]):
    list_display = (
        "at",
        "person",
        "held_amount",
        "state",
        "purpose",
        "model",
        "input_tokens",
        "max_tokens",
        "sent_at",
        "lease_expires_at",
        "resolved_at",
        "conversation",
    )
    list_filter = ("state", "purpose", "created_at", "model")
    search_help_text = "Name or address of a person, model, or an id"
    ids = ("reply_id", "conversation_id", "attempt_id")
    ordering = ("-created_at",)
    list_per_page = 50
    fields = (
        ("state", "purpose", "model"),
        ("person", "caused_by"),
        ("held_amount", "input_tokens", "max_tokens"),
        "price",
        ("created_at", "sent_at", "lease_expires_at", "resolved_at"),
        ("reply_id", "attempt_id", "conversation"),
        ("conversation_budget_id", "user_budget_id", "installation_budget_id"),
    )
    readonly_fields = ("person", "conversation", "held_amount")

    @admin.display(description="held", ordering="amount")
    def held_amount(self, hold: Hold) -> str:
        return dollars(hold.amount)


class GrantInline(ReadOnly, admin.TabularInline[BudgetGrant, Budget]):
    model = BudgetGrant
    extra = 0
    ordering = ("created_at",)
    fields = ("amount_granted", "reason", "granted_by", "created_at")
    readonly_fields = ("amount_granted",)
    verbose_name_plural = "granted for this day"

    @admin.display(description="amount")
    def amount_granted(self, grant: BudgetGrant) -> str:
        return dollars(grant.amount)


class AlertInline(ReadOnly, admin.TabularInline[SpendAlert, Budget]):
    model = SpendAlert
    extra = 0
    ordering = ("share",)
    fields = ("share", "created_at", "seen_at", "mailed_at")
    verbose_name_plural = "alerts"


@admin.register(Budget)
class BudgetAdmin(ReadOnly, admin.ModelAdmin[Budget]):
    """One scope's day, or a conversation's cap."""

    list_display = (
        "scope",
        "whose",
        "day",
        "spent_amount",
        "held_amount",
        "limit_amount",
        "extra_amount",
        "starts_at",
        "ends_at",
    )
    list_filter = ("scope", "day")
    search_fields = ("subject",)
    search_help_text = "Name or address of a person, or an id"
    ordering = ("-starts_at", "scope", "subject")
    inlines = (GrantInline, AlertInline)
    list_per_page = 50
    fields = (
        ("scope", "whose", "day"),
        ("spent_exact", "held_exact", "limit_amount", "extra_amount"),
        ("starts_at", "ends_at"),
    )
    readonly_fields = ("whose", "spent_exact", "held_exact", "limit_amount", "extra_amount")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        person = User.objects.annotate(subject=Cast("pk", CharField())).filter(subject=OuterRef("subject"))
        return super().get_queryset(request).annotate(email=Subquery(person.values("email")[:1]))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Budget], search_term: str
    ) -> tuple[QuerySet[Budget], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        people = User.objects.filter(Q(email__icontains=term) | Q(name__icontains=term))
        subjects = people.annotate(subject=Cast("pk", CharField())).values("subject")
        return queryset.filter(Q(scope=Scope.USER, subject__in=subjects) | Q(subject=term)), False

    @admin.display(description="whose", ordering="subject")
    def whose(self, budget: Budget) -> SafeString | str:
        if budget.scope == Scope.INSTALLATION:
            return "everybody's"
        if budget.scope == Scope.CONVERSATION:
            return conversation_link(budget.subject)
        return person_link(int(budget.subject), getattr(budget, "email", None))

    @admin.display(description="spent", ordering="spent")
    def spent_amount(self, budget: Budget) -> str:
        return dollars(budget.spent)

    @admin.display(description="held", ordering="held")
    def held_amount(self, budget: Budget) -> str:
        return dollars(budget.held)

    @admin.display(description="spent")
    def spent_exact(self, budget: Budget) -> str:
        return f"${exact(budget.spent)}"

    @admin.display(description="held")
    def held_exact(self, budget: Budget) -> str:
        return f"${exact(budget.held)}"

    @admin.display(description="limit", ordering="limit")
    def limit_amount(self, budget: Budget) -> str:
        return "unlimited" if budget.limit is None else dollars(budget.limit)

    @admin.display(description="granted", ordering="extra")
    def extra_amount(self, budget: Budget) -> str:
        return dollars(budget.extra)
