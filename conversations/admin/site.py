"""What the admin site does not show."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.contrib import admin
from django.db.models import Model

#: Groups are shown as what they are here, without rights: see `groups`. The tables of sign-in are kept by the sign-in
#: itself, and two of them would show secrets.
NOT_SHOWN: tuple[type[Model], ...] = (EmailAddress, SocialAccount, SocialApp, SocialToken)

for model in NOT_SHOWN:
    if admin.site.is_registered(model):
        admin.site.unregister(model)
