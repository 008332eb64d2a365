"""What a person reads when a page cannot be shown: one clear sentence, and never a traceback."""

from __future__ import annotations

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django_htmx.http import reswap, retarget

from .refusals import Refusal

TOO_LONG = Refusal(
    heading="This message is longer than 1 MiB.",
    sentence="Nothing was sent, and your draft is below. Split it into several messages.",
)


def error_page(heading: str, sentence: str, *, status: int) -> HttpResponse:
    """A card with one sentence. It needs no database, no session and no request: those may be what failed."""
    context = {"heading": heading, "sentence": sentence, "status": status}
    return HttpResponse(render_to_string("error.html", context), status=status)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    response = error_page(
        "This page is out of date.",
        "Nothing was sent. Go back, reload the page and send again: your draft is kept on this device.",
        status=403,
    )
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        response["X-Signed-Out"] = "1"  # then the page's script offers to sign in instead
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig):
        return too_long(request)
    return error_page(
        "This request could not be read.", "Go back, reload the page and try again.", status=400
    )


def too_long(request: HttpRequest) -> HttpResponse:
    """Refuse a body that Django did not even read: the text is still in the field it was typed into."""
    if request.headers.get("HX-Request") == "true":
        notice = render_to_string("conversations/composer.html#notice", {"refusal": TOO_LONG})
        return reswap(retarget(HttpResponse(notice, status=413), "#composer-notice"), "innerHTML")
    return error_page(
        TOO_LONG.heading, "Nothing was sent. Go back: your text is still in the field.", status=413
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page("You may not open this.", "It belongs to administrators.", status=403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(
        "There is nothing here.", "It may have been deleted, or it belongs to somebody else.", status=404
    )


def server_error(request: HttpRequest) -> HttpResponse:
    return error_page(
        "Something failed here.", "It is logged. Your words are kept: try again in a moment.", status=500
    )
