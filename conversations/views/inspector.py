"""What a model was shown for a reply: a panel beside the conversation, a page of its own, and the request as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from conversations.inspection import (
    Inspection,
    NoSuchAttempt,
    ShownRequest,
    ShownSection,
    file_name,
    inspect,
    request_json,
)
from conversations.inspection.sections import MIDDLE, message_address
from conversations.models import Reply

from .http import PersonRequest, render_page


@require_safe
@login_required
def reply_request(request: PersonRequest, pk: UUID) -> HttpResponse:
    """The sections of the request in their order, with tokens and price, and what is not in it. `?attempt=` chooses."""
    found = inspected(request, pk)
    reply = found.reply
    context = {
        "conversation": reply.conversation,
        "inspection": found,
        "shown": found.request,
        "bar": bar_of(found.request) if found.request else None,
        "middle": MIDDLE,
        "lab": reverse("cost_lab", args=[reply.conversation_id]),
        "back": message_address(reply.conversation_id, reply.answer_id or reply.question_id),
        "heading": "h3" if request.htmx else "h2",
    }
    if request.htmx:
        return render(request, "conversations/request.html#panel", context)
    return render_page(request, "conversations/request.html", context, current=reply.conversation)


@require_safe
@login_required
def reply_request_download(request: PersonRequest, pk: UUID) -> HttpResponse:
    """The request as JSON, rebuilt from its record."""
    found = inspected(request, pk)
    if found.request is None or found.request.is_old:
        raise Http404
    text = json.dumps(request_json(found.request), ensure_ascii=False, indent=2)
    name = file_name(pk, found.request.attempt.number)
    return HttpResponse(
        text,
        content_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        },
    )


def inspected(request: PersonRequest, pk: UUID) -> Inspection:
    """This person's reply, with the attempt that the address names. 404 for what is not there."""
    replies = Reply.objects.owned_by(request.user).select_related("conversation", "continues", "question")
    text = request.GET.get("attempt", "")
    try:
        number = int(text) if text else None
        return inspect(get_object_or_404(replies, pk=pk), number=number)
    except (ValueError, NoSuchAttempt):
        raise Http404 from None


# --- The bar ------------------------------------------------------------------------------------------------------

#: Per mille of the bar that is seen, however few the tokens.
LEAST = 8


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A section as a rectangle. Lengths are per mille of the bar."""

    section: ShownSection
    x: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    pieces: list[Piece]
    cached: int  #: where the provider's cache ended
    #: A second bar: of what the model could have been given, what was sent, and what was kept free for the reply.
    available: int
    sent: int
    reserved: int


def bar_of(shown: ShownRequest) -> Bar | None:
    """The request as a bar; None without sections."""
    sections = shown.sections
    if not sections:
        return None
    weights = [max(section.share * 1000, LEAST) for section in sections]
    whole = sum(weights)
    ends = [round(sum(weights[: n + 1]) * 1000 / whole) for n in range(len(weights))]
    begins = [0, *ends[:-1]]
    pieces = [
        Piece(section=section, x=begin, width=end - begin)
        for section, begin, end in zip(sections, begins, ends, strict=True)
    ]
    cached = sum(
        piece.width * piece.section.cached // piece.section.counted
        for piece in pieces
        if piece.section.counted
    )
    room = int(shown.figures.get("available", 0)) + shown.max_tokens
    return Bar(
        pieces=pieces,
        cached=cached,
        available=room,
        sent=min(shown.bill.usage.input_tokens * 1000 // room, 1000) if room else 0,
        reserved=min(shown.max_tokens * 1000 // room, 1000) if room else 0,
    )
