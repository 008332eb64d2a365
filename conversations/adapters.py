"""What Parley answers when allauth asks: who may sign up, how long to wait, what a person is told."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.userkit import filter_users_by_email
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.base import AuthError
from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from . import oidc
from .accounts import absolute_address
from .models import User

if TYPE_CHECKING:
    from .oidc_flow import Provider

logger = logging.getLogger(__name__)

#: Seconds after which any limit of `ACCOUNT_RATE_LIMITS` is over.
FAILED_LOGIN_WAIT, OTHER_WAIT = 300, 60
#: A person in more groups than this is in the first ones only.
MOST_GROUPS = 200

#: Mail leaves from a thread of its own: the time that a page takes does not tell whether an account exists.
mail_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mail")


def too_many_requests(request: HttpRequest, seconds: int = OTHER_WAIT) -> HttpResponse:
    response = render(request, "accounts/wait.html", {"minutes": -(-seconds // 60)}, status=429)
    response["Retry-After"] = str(seconds)
    return response


def send_quietly(message: EmailMessage) -> None:
    """Send, and log a failure without the address or the text."""
    try:
        message.send()
    except OSError as error:
        logger.error("a mail could not be sent: %s", type(error).__name__)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is not typed
    error_messages = DefaultAccountAdapter.error_messages | {
        "email_password_mismatch": "The e-mail address and the password do not belong together.",
        "email_taken": "There is an account with this e-mail address already.",
        "enter_current_password": "Enter the password that you have now.",
        "incorrect_password": "This is not your password.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return bool(settings.SIGN_UP == "open")

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        try:
            super().pre_authenticate(request, **credentials)
        except ValidationError:
            raise ImmediateHttpResponse(too_many_requests(request, FAILED_LOGIN_WAIT)) from None

    def set_password(self, user: User, password: str) -> None:
        """Nothing else of the person: an administrator may limit or suspend them meanwhile."""
        user.set_password(password)
        user.save(update_fields=["password"])

    def get_reset_password_from_key_url(self, key: str) -> str:
        uid, _, token = key.partition("-")
        return absolute_address(self.request, reverse("account_reset_password_from_key", args=[uid, token]))

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("preferences")

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        message = self.render_mail(
            template_prefix, email, {"request": self.request, "email": email, **context}
        )
        mail_thread.submit(send_quietly, message)


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        """The provider's word is the invitation."""
        return bool(settings.SIGN_UP != "closed")

    def populate_user(self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]) -> User:
        user = sociallogin.user
        assert isinstance(user, User)
        user.email = (data.get("email") or "").lower()
        user.name = str(data.get("name") or "")[:120]
        return user

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Refuse whom the provider's answer does not let in; take over the groups of whom it does."""
        provider = oidc.configured()
        if not oidc.nonce_is_right(sociallogin):
            self.refuse(request, "replayed")
        groups = oidc.groups_in(oidc.claims_of(sociallogin), provider)
        if provider.allowed_groups and not provider.allowed_groups & groups:
            self.refuse(request, "group")
        if sociallogin.is_existing:
            assert isinstance(sociallogin.user, User)
            take_over_groups(sociallogin.user, groups)
        elif sociallogin.state.get("process") != "connect":
            assert isinstance(sociallogin.user, User)
            if not sociallogin.user.email:
                self.refuse(request, "no_email")
            if filter_users_by_email(sociallogin.user.email):
                self.refuse(request, "unverified")

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        user = super().save_user(request, sociallogin, form)
        assert isinstance(user, User)
        take_over_groups(user, oidc.groups_in(oidc.claims_of(sociallogin), oidc.configured()))
        return user

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Provider,
        error: str | None = None,
        exception: Exception | None = None,
        extra_context: dict[str, Any] | None = None,
    ) -> None:
        if error == AuthError.CANCELLED:
            self.refuse(request, "cancelled")
        if exception is None and not (extra_context or {}).get("state"):
            self.refuse(request, "state")
        logger.warning("sign-in by %s failed: %s", provider.name, exception or error)
        self.refuse(request, "answer")

    def refuse(self, request: HttpRequest, reason: str) -> NoReturn:
        context = {"reason": reason, "provider": oidc.configured()}
        raise ImmediateHttpResponse(render(request, "accounts/sso_refused.html", context, status=403))


@transaction.atomic
def take_over_groups(user: User, names: frozenset[str]) -> None:
    """Put the person in the groups that the provider names, and in no other.

    The last administrator stays one, whatever the provider says.
    """
    provider = oidc.configured()
    kept = sorted(name for name in names if 0 < len(name) <= 150)[:MOST_GROUPS]
    Group.objects.bulk_create([Group(name=name) for name in kept], ignore_conflicts=True)
    user.groups.set(Group.objects.filter(name__in=kept))
    if not provider.admin_group:
        return
    is_admin = provider.admin_group in names
    others = User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk)
    if user.is_superuser and not is_admin and not others.exists():
        logger.warning("user %s stays an administrator: there is no other", user.pk)
        return
    user.is_staff = user.is_superuser = is_admin
    user.save(update_fields=["is_staff", "is_superuser"])
