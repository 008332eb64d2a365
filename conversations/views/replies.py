"""Replies: showing one, stopping it, asking for another answer, and what can be done after one was cut off."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from conversations.forms import MessageForm
from conversations.models import Conversation, Message, Reply
from conversations.replies.sending import (
    SendRefused,
    continue_reply,
    keep_reply,
    retry_reply,
    stop_reply,
    withdraw_reply,
)
from conversations.thread import load_reply_item, load_thread

from .composer import composer_for
from .http import PersonRequest, see_other
from .messages import draft_of, refuse_in, show_sent, show_with_draft


@require_safe
@login_required
def reply(request: PersonRequest, pk: UUID) -> HttpResponse:
    """One reply as it stands: its article for a script, its place in the thread for a person."""
    asked = get_object_or_404(Reply.objects.owned_by(request.user), pk=pk)
    return show_reply(request, asked) if request.htmx else see_other(place_of(asked))


@require_POST
@login_required
def reply_stop(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Stop a reply; its stream ends by itself."""
    asked = get_object_or_404(Reply.objects.owned_by(request.user), pk=pk)
    stop_reply(asked)
    return HttpResponse(status=204) if request.htmx else go_back(request, asked)


@require_POST
@login_required
def reply_retry(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Another answer to the same message, by the model that the composer names."""
    form = MessageForm(request.POST)
    return begin_beside(
        request, pk, form, lambda asked, key: retry_reply(asked, key=key, model=form.model_chosen or None)
    )


@require_POST
@login_required
def reply_continue(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Go on from the text of a reply that was cut off or stopped."""
    form = MessageForm(request.POST)
    return begin_beside(
        request, pk, form, lambda asked, key: continue_reply(asked, key=key, model=form.offer or None)
    )


@require_POST
@login_required
def reply_withdraw(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Take back a message that waits to be answered: its text goes into the text field, above what is there."""
    asked = get_object_or_404(Reply.objects.owned_by(request.user), pk=pk)
    form = MessageForm(request.POST)
    try:
        text = withdraw_reply(asked)
    except SendRefused as refused:
        return refuse_in(request, asked.conversation, refused, form)
    conversation = Conversation.objects.get(pk=asked.conversation_id)
    if not request.htmx:
        draft = "\n\n".join(part for part in (text, form.text_sent) if part.strip())
        return show_with_draft(request, conversation, form, text=draft)
    thread = load_thread(conversation)
    context = {
        "conversation": conversation,
        "thread": thread,
        "composer": composer_for(conversation, thread),
        "text": text,
    }
    return render(request, "conversations/withdrawn.html", context)


@require_POST
@login_required
def reply_keep(request: PersonRequest, pk: UUID) -> HttpResponse:
    """From now on models see the text of a reply that was cut off."""
    asked = get_object_or_404(Reply.objects.owned_by(request.user), pk=pk)
    keep_reply(asked)
    return show_reply(request, asked) if request.htmx else go_back(request, asked)


def begin_beside(
    request: PersonRequest, pk: UUID, form: MessageForm, begin: Callable[[Reply, UUID], Reply]
) -> HttpResponse:
    """Begin another reply to the question of this one, or say why not."""
    asked = get_object_or_404(Reply.objects.owned_by(request.user), pk=pk)
    try:
        begun = begin(asked, draft_of(form).key)
    except SendRefused as refused:
        return refuse_in(request, asked.conversation, refused, form, address=request.path)
    except (Conversation.DoesNotExist, Message.DoesNotExist):  # deleted or taken back meanwhile
        raise Http404 from None
    return show_sent(request, begun, is_appended=False) if request.htmx else go_back(request, begun)


def show_reply(request: PersonRequest, asked: Reply) -> HttpResponse:
    context = {"conversation": asked.conversation, "item": load_reply_item(asked)}
    return render(request, "conversations/thread.html#reply", context)


def go_back(request: PersonRequest, asked: Reply) -> HttpResponse:
    """To the thread. Without script these buttons send the composer's form: a draft that was in it stays in it."""
    form = MessageForm(request.POST)
    if form.text_sent:
        return show_with_draft(request, asked.conversation, form)
    return see_other(place_of(asked))


def place_of(asked: Reply) -> str:
    return reverse("conversation", args=[asked.conversation_id]) + "#latest"
