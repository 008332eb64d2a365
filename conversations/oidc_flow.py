"""Sign-in with an OpenID Connect provider: what allauth's own does, with the answer checked in full.

Only imported where an identity provider is configured: with `requests` and what checks signatures it takes 12 MB.
"""

from __future__ import annotations

import secrets
from typing import Any

import jwt
import requests
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialApp, SocialLogin, SocialToken
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse

from .accounts import absolute_address

__all__ = ["Adapter", "OAuth2CallbackView", "OAuth2Error", "Provider"]

#: What reading an answer that is not as it should be may raise.
BAD_ANSWER = (KeyError, TypeError, ValueError, jwt.PyJWTError, ImproperlyConfigured)


class Adapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]  # allauth is not typed
    def get_access_token_data(self, *args: Any, **kwargs: Any) -> Any:
        data = super().get_access_token_data(*args, **kwargs)
        # allauth leaves the signature unchecked for a token that it fetched itself. Inside a network the
        # provider may be without TLS, so it is checked always.
        self.did_fetch_access_token = False
        return data

    def complete_login(
        self, request: HttpRequest, app: SocialApp, token: SocialToken, **kwargs: Any
    ) -> SocialLogin:
        if not kwargs["response"].get("id_token"):
            raise OAuth2Error("The answer has no id_token.")
        try:
            return super().complete_login(request, app, token, **kwargs)
        except BAD_ANSWER as error:
            raise OAuth2Error("The answer is not as OpenID Connect says.") from error

    def get_callback_url(self, request: HttpRequest, app: SocialApp) -> str:
        return absolute_address(request, self.get_provider().get_callback_url())


class Provider(OpenIDConnectProvider):  # type: ignore[misc]
    package = "allauth.socialaccount.providers.openid_connect"
    oauth2_adapter_class = Adapter

    def redirect(self, request: HttpRequest, process: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Send the person to the provider, with a nonce that its token must repeat.

        Scope and other parameters are the server's to choose: allauth would take them from the address, too.
        """
        nonce = secrets.token_urlsafe(24)
        kwargs.pop("scope", None)
        kwargs["auth_params"] = {**self.get_auth_params(), "nonce": nonce}
        try:
            response: HttpResponse = super().redirect(request, process, *args, nonce=nonce, **kwargs)
            return response
        except (*BAD_ANSWER, requests.RequestException) as error:
            raise OAuth2Error("The provider's description cannot be read.") from error

    def sociallogin_from_response(self, request: HttpRequest, response: dict[str, Any]) -> SocialLogin:
        token, page = response["id_token"], response.get("userinfo")
        if page and page.get("sub") != token["sub"]:
            raise OAuth2Error("The token and the userinfo page are about two people.")
        return super().sociallogin_from_response(request, response)

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        """The address, verified only if the provider says so in as many words (some send text)."""
        addresses: list[EmailAddress] = super().extract_email_addresses(data)
        for address in addresses:
            address.email = address.email.lower()
            address.verified = address.verified is True or address.verified == "true"
        return addresses
