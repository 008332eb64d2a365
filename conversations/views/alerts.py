"""The notice of the day's money: looked at again, and put away."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST, require_safe

from .. import alerts
from .http import PersonRequest, see_other


@require_safe
@login_required
def notice(request: PersonRequest) -> HttpResponse:
    return render(request, "conversations/alerts.html")


@require_POST
@login_required
def notice_put_away(request: PersonRequest, pk: UUID) -> HttpResponse:
    alerts.put_away(get_object_or_404(alerts.alerts_of(request.user), pk=pk))
    return render(request, "conversations/alerts.html") if request.htmx else see_other("/")
