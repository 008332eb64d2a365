"""The notice of the day's money, for whatever page it is on."""

from __future__ import annotations

from django import template
from django.contrib.auth.models import AnonymousUser

from conversations.alerts import Notice, notice_for
from conversations.models import User

register = template.Library()


@register.simple_tag
def spend_notice(user: User | AnonymousUser) -> Notice | None:
    return notice_for(user) if isinstance(user, User) else None
