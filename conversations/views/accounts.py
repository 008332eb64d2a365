"""Pages of accounts: set up, join, invitations, preferences, and the two ends of single sign-on."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from allauth.account import views as allauth_views
from allauth.account.utils import complete_signup
from allauth.core import ratelimit
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.helpers import render_authentication_error
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from .. import accounts
from ..account_forms import InvitationForm, JoinForm, PreferencesForm, SetupForm
from ..adapters import too_many_requests
from ..models import Invitation, User

if TYPE_CHECKING:
    from .. import oidc_flow


class SignedInRequest(HttpRequest):
    user: User


def for_administrators(request: SignedInRequest) -> None:
    """For others the page does not exist."""
    if not request.user.is_superuser:
        raise Http404


def sign_in_new(request: HttpRequest, user: User) -> HttpResponse:
    response: HttpResponse = complete_signup(request, user, settings.ACCOUNT_EMAIL_VERIFICATION, "/")
    return response


@never_cache
@sensitive_post_parameters("password", "code")
@require_http_methods(["GET", "HEAD", "POST"])
def setup(request: HttpRequest) -> HttpResponse:
    """The first visit makes the first account: the administrator."""
    if accounts.anyone_here():
        return redirect("account_login")
    if request.method == "POST" and not ratelimit.consume(request, action="setup"):
        return too_many_requests(request)
    form = SetupForm(
        request.POST or None,
        ask_for_code=bool(settings.SETUP_CODE),
        initial={"code": request.GET.get("code", "")},
    )
    if form.is_valid():
        form.cleaned_data.pop("code", None)
        try:
            user = accounts.create_first_account(**form.cleaned_data)
        except accounts.AlreadySetUp as refused:
            messages.warning(request, refused.sentence)
            return redirect("account_login")
        return sign_in_new(request, user)
    return render(request, "accounts/setup.html", {"form": form})


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def join(request: HttpRequest, code: str) -> HttpResponse:
    """Whoever holds an invitation makes their account here."""
    if request.user.is_authenticated:
        return render(request, "accounts/join_signed_in.html", status=409)
    if request.method == "POST" and not ratelimit.consume(request, action="signup"):
        return too_many_requests(request)
    try:
        if settings.SIGN_UP == "closed":
            raise accounts.InvitationGone
        invitation = accounts.find_invitation(code)
        form = JoinForm(request.POST or None, invitation=invitation)
        if form.is_valid():
            return sign_in_new(request, accounts.accept_invitation(code, **form.cleaned_data))
    except accounts.EmailTaken as refused:
        form.add_error("email", refused.sentence)
    except accounts.InvitationGone as refused:
        return render(request, "accounts/join_gone.html", {"sentence": refused.sentence}, status=410)
    return render(request, "accounts/join.html", {"form": form, "invitation": invitation})


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def invitations(request: SignedInRequest) -> HttpResponse:
    """All invitations, and a form for another. Its link is on the answer to that form, and nowhere else."""
    for_administrators(request)
    form = InvitationForm(request.POST or None, initial={"days": settings.INVITATION_DAYS})
    context: dict[str, object] = {}
    if form.is_valid():
        invitation, code = accounts.invite(request.user, **form.cleaned_data)
        link = accounts.absolute_address(request, reverse("join", args=[code]))
        context = {"new": invitation, "link": link}
        form = InvitationForm(initial={"days": settings.INVITATION_DAYS})
    context |= {
        "form": form,
        "invitations": Invitation.objects.select_related("invited_by", "accepted_by").order_by("-id")[:100],
        "now": timezone.now(),
    }
    return render(request, "accounts/invitations.html", context)


@login_required
@require_POST
def invitation_revoke(request: SignedInRequest, pk: UUID) -> HttpResponse:
    for_administrators(request)
    if Invitation.objects.usable().filter(pk=pk).update(expires_at=timezone.now()):
        messages.success(request, "The invitation is revoked. Its link opens nothing now.")
    else:
        messages.info(request, "This invitation was used or over already.")
    return redirect("invitations")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: SignedInRequest) -> HttpResponse:
    form = PreferencesForm(request.POST or None, instance=request.user)
    if form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("preferences")
    if form.is_bound:  # an invalid form has changed the instance that the page is drawn with
        request.user.refresh_from_db()
    return render(request, "accounts/preferences.html", {"form": form})


@require_http_methods(["GET", "HEAD", "POST"])
def password_reset(request: HttpRequest) -> HttpResponse:
    """By mail if there is a mail server; else the page says whom to ask."""
    if not settings.MAIL:
        return render(request, "account/password_reset_by_administrator.html")
    response: HttpResponse = allauth_views.password_reset(request)
    return response


def sso_provider(request: HttpRequest, provider_id: str) -> oidc_flow.Provider:
    if settings.OIDC is None or provider_id != "sso":
        raise Http404
    provider: oidc_flow.Provider = get_adapter().get_provider(request, provider_id)
    return provider


@require_POST
def sso_login(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Send the person to the identity provider.

    By a page of its own: browsers hold `form-action` against every redirect that follows a form, and a
    provider may redirect anywhere on its way.
    """
    from ..oidc_flow import OAuth2Error

    provider = sso_provider(request, provider_id)
    response: HttpResponse
    try:
        response = provider.redirect_from_request(request)
    except OAuth2Error as error:
        response = render_authentication_error(request, provider, exception=error)
    if not isinstance(response, HttpResponseRedirect):
        return response
    return render(request, "accounts/sso_go.html", {"address": response.url, "provider": provider})


@never_cache
@require_safe
def sso_callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Where the identity provider sends the person back to."""
    from ..oidc_flow import Adapter, OAuth2CallbackView

    sso_provider(request, provider_id)
    response: HttpResponse = OAuth2CallbackView.adapter_view(Adapter(request, provider_id))(request)
    return response
