"""Forms of accounts: the first one, invited ones, and what a person sets for themselves."""

from __future__ import annotations

import zoneinfo
from functools import cache
from typing import Any

from allauth.account import forms as allauth_forms
from django import forms
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from .accounts import setup_code_is_right
from .catalog import load_catalog
from .models import Invitation, User

PASSWORD_HELP = "At least 10 characters. A few words that mean something to you alone are good."


@cache
def time_zones() -> list[tuple[str, str]]:
    """The places of the time zone database, without its old names and technical zones."""
    names = (name for name in sorted(zoneinfo.available_timezones()) if "/" in name)
    places = [name for name in names if not name.startswith(("Etc/", "posix/", "right/", "SystemV/", "US/"))]
    return [("UTC", "UTC"), *((name, name.replace("_", " ").replace("/", " / ")) for name in places)]


class TimeZoneField(forms.ChoiceField):
    """`static/accounts.js` chooses the browser's zone while the person has not."""

    def __init__(self, *, guess: bool = True, **options: Any) -> None:
        widget = forms.Select(attrs={"class": "input"} | ({"data-guess-time-zone": ""} if guess else {}))
        super().__init__(choices=time_zones, initial="UTC", widget=widget, label="Time zone", **options)

    def valid_value(self, value: Any) -> bool:
        return value in zoneinfo.available_timezones()


def text_input(autocomplete: str = "", **attributes: str) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "input", "autocomplete": autocomplete} | attributes)


def email_input(**attributes: str) -> forms.EmailInput:
    return forms.EmailInput(attrs={"class": "input", "autocomplete": "username"} | attributes)


def password_input(autocomplete: str) -> forms.PasswordInput:
    return forms.PasswordInput(attrs={"class": "input", "autocomplete": autocomplete})


def name_field() -> forms.CharField:
    return forms.CharField(label="Name", max_length=120, required=False, widget=text_input("name"))


class NewAccountForm(forms.Form):
    """Name, e-mail, password and time zone; the password is checked against the other two."""

    name = name_field()
    name.widget.attrs["autofocus"] = True
    email = forms.EmailField(label="E-mail", max_length=254, widget=email_input())
    password = forms.CharField(
        strip=False, max_length=1024, widget=password_input("new-password"), help_text=PASSWORD_HELP
    )
    time_zone = TimeZoneField()

    def clean_email(self) -> str:
        return str(self.cleaned_data["email"]).lower()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if password := cleaned.get("password"):
            user = User(email=cleaned.get("email", ""), name=cleaned.get("name", ""))
            try:
                validate_password(password, user)
            except ValidationError as error:
                self.add_error("password", error)
        return cleaned


class SetupForm(NewAccountForm):
    """The first account; with the code that was printed at start where strangers could come first."""

    code = forms.CharField(
        label="Set-up code",
        max_length=200,
        widget=text_input("off"),
        help_text="It was printed where Parley was started.",
    )

    def __init__(self, *args: Any, ask_for_code: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not ask_for_code:
            del self.fields["code"]

    def clean_code(self) -> str:
        code = str(self.cleaned_data["code"])
        if not setup_code_is_right(code):
            raise ValidationError("This is not the code. Look where Parley was started.")
        return code


class JoinForm(NewAccountForm):
    """An invited account; the address is fixed if the invitation names one."""

    def __init__(self, *args: Any, invitation: Invitation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if invitation.email:
            self.fields["email"].initial = invitation.email
            self.fields["email"].disabled = True
            self.fields["email"].help_text = "The invitation is for this address."


class InvitationForm(forms.Form):
    email = forms.EmailField(
        label="E-mail",
        required=False,
        max_length=254,
        widget=email_input(autocomplete="off"),
        help_text="Leave it empty to let in whoever has the link.",
    )
    days = forms.IntegerField(
        label="Valid for, in days",
        min_value=1,
        max_value=90,
        widget=forms.NumberInput(attrs={"class": "input"}),
    )

    def clean_email(self) -> str:
        email = str(self.cleaned_data["email"]).lower()
        if email and User.objects.filter(email=email).exists():
            raise ValidationError("There is an account with this e-mail address already.")
        return email


def fallback_models() -> list[tuple[str, str]]:
    return [("", "None"), *((e.id, f"{e.label} · {e.provider_label}") for e in load_catalog().entries)]


class PreferencesForm(forms.ModelForm):  # type: ignore[type-arg]  # Django has no generic class here
    time_zone = TimeZoneField(guess=False)
    fallback_model = forms.ChoiceField(
        choices=fallback_models,
        required=False,
        label="When the model is not available, answer with",
        help_text="The line below a reply says so when it answered.",
    )

    class Meta:
        model = User
        fields = ["name", "time_zone", "theme", "fallback_model", "single_keys"]
        labels = {"single_keys": "Shortcuts of a single key"}
        help_texts = {"single_keys": "Such as ? for help, outside text fields."}
        widgets = {"name": text_input("name"), "theme": forms.RadioSelect}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone, theme = self.fields["time_zone"], self.fields["theme"]
        fallback = self.fields["fallback_model"]
        assert isinstance(zone, forms.ChoiceField) and isinstance(theme, forms.ChoiceField)
        assert isinstance(fallback, forms.ChoiceField)
        if (chosen := self.instance.fallback_model) not in dict(fallback_models()):
            fallback.choices = [*fallback_models(), (chosen, f"{chosen} (not available now)")]
        if (current := self.instance.time_zone) not in dict(time_zones()):
            zone.choices = [(current, current), *time_zones()]
        theme.choices = [("", "System"), ("light", "Light"), ("dark", "Dark")]

    def save(self, commit: bool = True) -> User:
        """Nothing else of the person: an administrator may limit or suspend them meanwhile."""
        saved: User = self.instance
        saved.save(update_fields=self._meta.fields)
        return saved


def plain(form: forms.BaseForm) -> None:
    """Give allauth's fields Parley's look: labels instead of placeholders, no lists of rules."""
    for field in form.fields.values():
        field.widget.attrs.pop("placeholder", None)
        field.widget.attrs["class"] = "input"
        field.help_text = ""


class LoginForm(allauth_forms.LoginForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
        self.fields["login"].label = "E-mail"
        self.fields["login"].widget.attrs |= {"autocomplete": "username", "autofocus": True}


class SignupForm(allauth_forms.SignupForm):  # type: ignore[misc]
    name = name_field()
    time_zone = TimeZoneField()
    field_order = ("name", "email", "password1", "time_zone")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
        self.fields["email"].label = "E-mail"
        self.fields["email"].widget.attrs["autocomplete"] = "username"
        self.fields["password1"].help_text = PASSWORD_HELP

    def custom_signup(self, request: HttpRequest, user: User) -> None:
        user.name = self.cleaned_data["name"]
        user.time_zone = self.cleaned_data["time_zone"]
        user.save(update_fields=["name", "time_zone"])


class ChangePasswordForm(allauth_forms.ChangePasswordForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
        self.fields["oldpassword"].label = "Password now"
        self.fields["password1"].label = "New password"
        self.fields["password1"].help_text = PASSWORD_HELP
        self.fields["password2"].label = "New password, again"


class SetPasswordForm(allauth_forms.SetPasswordForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
        self.fields["password1"].help_text = PASSWORD_HELP
        self.fields["password2"].label = "Password, again"


class ResetPasswordForm(allauth_forms.ResetPasswordForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
        self.fields["email"].label = "E-mail"


class ResetPasswordKeyForm(allauth_forms.ResetPasswordKeyForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
        self.fields["password1"].label = "New password"
        self.fields["password1"].help_text = PASSWORD_HELP
        self.fields["password2"].label = "New password, again"


class ReauthenticateForm(allauth_forms.ReauthenticateForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self)
