"""What every request needs: its person's time zone, whether there is anyone at all, and the policy for content."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from functools import cached_property

from csp.constants import HEADER
from csp.middleware import CSPMiddleware
from csp.utils import build_policy
from django.conf import settings
from django.contrib.auth.middleware import get_user
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone

from .accounts import needs_setup


class PolicyMiddleware(CSPMiddleware):
    """The policy for content, which is the same for each page: django-csp puts it together once, and not each time."""

    @cached_property
    def policy(self) -> str:
        return build_policy()

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        has_its_own = any(name.startswith("_csp") for name in vars(response))
        if has_its_own or settings.DEBUG:  # Django's pages for debugging have none
            return super().process_response(request, response)
        response.headers.setdefault(HEADER, self.policy)
        return response


class PersonMiddleware:
    """Shows times in the person's own time zone, and sends the first visitor to make the first account.

    Synchronous on purpose: see `MIDDLEWARE` in the settings.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        user = get_user(request)
        if not user.is_authenticated:
            return redirect("setup") if needs_setup(request) else self.get_response(request)
        request.user = user  # not Django's proxy of it, which costs a call at each of a hundred looks
        with timezone.override(zoneinfo.ZoneInfo(user.time_zone)):
            return self.get_response(request)
