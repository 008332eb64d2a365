"""The request as the views know it, and how a page of the application is put together."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django_htmx.http import trigger_client_event
from django_htmx.middleware import HtmxDetails

from conversations.models import Conversation, Message, User

from .meter import meter_for
from .sidebar import load_sidebar


class PersonRequest(HttpRequest):
    """A request of somebody who is signed in."""

    user: User
    htmx: HtmxDetails


def render_page(
    request: PersonRequest,
    template: str,
    context: dict[str, Any],
    *,
    current: Conversation | None = None,
    status: int = 200,
) -> HttpResponse:
    """A whole page: what the template needs, and beside it the sidebar with the budget of the day."""
    sidebar = load_sidebar(request.user, everything="all" in request.GET)
    frame: dict[str, Any] = {"sidebar": sidebar, "current": current}
    if "meter" not in context:
        frame["meter"] = meter_for(request.user)
    return render(request, template, frame | context, status=status)


def announce(response: HttpResponse, event: str, **detail: Any) -> HttpResponse:
    """Tell the page's script that something happened, once the response is there."""
    trigger_client_event(response, event, detail)
    return response


def see_other(address: str) -> HttpResponse:
    """Go on with a GET."""
    return HttpResponse(status=303, headers={"Location": address})


def message_named(request: PersonRequest, conversation: Conversation, parameter: str) -> UUID | None:
    """The message of this conversation that the address names; 404 when there is no such message in it."""
    text = request.GET.get(parameter)
    if not text:
        return None
    try:
        return conversation.messages.values_list("pk", flat=True).get(pk=UUID(text))
    except (ValueError, Message.DoesNotExist):
        raise Http404 from None
