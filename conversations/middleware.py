"""What every request needs to know of its person: their time zone, and whether there is anyone at all."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable

from django.contrib.auth.middleware import get_user
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone

from .accounts import needs_setup


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
