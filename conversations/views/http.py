"""The request as the views know it, and how a page of the application is put together."""

from __future__ import annotations

import csv
from collections.abc import Iterable
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


# --- Downloads ------------------------------------------------------------------------------------------------

#: A spreadsheet takes a cell that begins so for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def as_text(text: str) -> str:
    """The text as a cell that no spreadsheet computes: people and models write titles."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def csv_file(name: str, rows: Iterable[Iterable[object]]) -> HttpResponse:
    """A table of values separated by commas, as a file of this name."""
    response = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )
    csv.writer(response).writerows(rows)
    return response
