"""How administrators write a day's limit: an amount, “unlimited”, or nothing for what applies without one."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from conversations.budgets import UNLIMITED
from conversations.budgets.limits import Limit
from conversations.models import GroupLimit, User
from conversations.money import DollarField, dollars, exact

UNLIMITED_WORD = "unlimited"
HELP = "Dollars, such as 5; 0 for free models alone; “unlimited”; "


class LimitField(DollarField):
    """A limit as text. Its value is nano-USD, `UNLIMITED`, or None when it was left empty.

    It has changed when it is not what the page showed: what somebody else has set meanwhile is not taken back.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, show_hidden_initial=True, **kwargs)

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {"autocomplete": "off", "size": 9, "spellcheck": "false"}

    def to_python(self, value: Any) -> Any:
        if value is UNLIMITED or str(value or "").strip().lower() == UNLIMITED_WORD:
            return UNLIMITED
        try:
            return super().to_python(value)
        except ValidationError as error:
            raise ValidationError([*error.messages, "Or “unlimited”, or nothing at all."]) from None

    def validate(self, value: Any) -> None:
        if value is not UNLIMITED:
            super().validate(value)

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(initial) != self.to_python(data))
        except ValidationError:
            return True


class LimitForm(forms.ModelForm[User]):
    """A person's own limit, in the list of people and on their page. `budgets` writes it, not the form."""

    daily_limit = LimitField(label="Own limit a day")
    limit: Limit = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["daily_limit"] = written(own_limit(self.instance))

    def clean_daily_limit(self) -> int | None:
        self.limit = self.cleaned_data["daily_limit"]
        return self.instance.daily_limit


def name_the_change(message: list[dict[str, dict[str, Any]]], form: Any) -> list[dict[str, dict[str, Any]]]:
    """The admin log's message of a form, which says from what to what the limit was changed."""
    if not message or "changed" not in message[0] or "daily_limit" not in form.changed_data:
        return message
    before = form.fields["daily_limit"].to_python(form.initial.get("daily_limit"))
    others = [name for name in form.changed_data if name != "daily_limit"]
    labels = [str(form.fields[name].label or name) for name in others]
    return [
        {"changed": {"fields": [*labels, f"limit a day from {said(before)} to {said(form.limit)}"]}},
        *message[1:],
    ]


def own_limit(user: User) -> Limit:
    return UNLIMITED if user.is_unlimited else user.daily_limit


def group_limit(limit: GroupLimit | None) -> Limit:
    if limit is None:
        return None
    return UNLIMITED if limit.daily_limit is None else limit.daily_limit


def written(limit: Limit) -> str:
    """As the field shows it and takes it."""
    if limit is None:
        return ""
    return exact(limit) if isinstance(limit, int) else UNLIMITED_WORD


def said(limit: Limit, *, nothing: str = "default") -> str:
    """For reading."""
    if limit is None:
        return nothing
    return dollars(limit) if isinstance(limit, int) else UNLIMITED_WORD


def effective(user: User) -> tuple[Limit, str]:
    """What the person may spend in a day, and who says so: themselves, the most generous group, or the settings.

    The rule is that of `budgets.statements.EFFECTIVE_LIMIT`, which a day opens with; a test compares the two. Reads
    `user.groups` with their limits, which lists prefetch.
    """
    own = own_limit(user)
    if own is not None:
        return own, "own"
    groups = [(found, group.name) for group in user.groups.all() if (found := _limit_of(group)) is not None]
    if groups:
        limit, name = max(
            groups, key=lambda pair: (pair[0] is UNLIMITED, pair[0] if isinstance(pair[0], int) else 0)
        )
        return limit, f"group {name}"
    default: int | None = settings.DAILY_LIMIT
    return (UNLIMITED if default is None else default), "default"


def _limit_of(group: Any) -> Limit:
    return group_limit(getattr(group, "limit", None))
