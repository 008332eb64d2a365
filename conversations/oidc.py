"""What a provider of OpenID Connect says of a person, as far as others may ask. The way there and back: `oidc_flow`."""

from __future__ import annotations

from typing import Any

from allauth.socialaccount.models import SocialLogin
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import constant_time_compare

from chatapp.sign_in import IdentityProvider


def claims_of(login: SocialLogin) -> dict[str, Any]:
    """What the provider says of this person, in the signed token and on its page; the page wins."""
    data = login.account.extra_data
    return {**data.get("id_token", {}), **(data.get("userinfo") or {})}


def groups_in(claims: dict[str, Any], provider: IdentityProvider) -> frozenset[str]:
    """The person's groups; a provider may send one as plain text."""
    groups = claims.get(provider.group_claim)
    if isinstance(groups, str):
        return frozenset({groups})
    if not isinstance(groups, list):
        return frozenset()
    return frozenset(group for group in groups if isinstance(group, str))


def nonce_is_right(login: SocialLogin) -> bool:
    """Whether the token answers the question that this browser asked."""
    expected = login.state.get("nonce")
    received = login.account.extra_data.get("id_token", {}).get("nonce")
    if not isinstance(expected, str) or not isinstance(received, str):
        return False
    return constant_time_compare(expected, received)


def configured() -> IdentityProvider:
    provider: IdentityProvider | None = settings.OIDC
    if provider is None:
        raise ImproperlyConfigured("No identity provider is configured.")
    return provider
