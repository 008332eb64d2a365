"""Messages: sending one, reading earlier ones, writing one again, copying one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect, replace_url, reswap, retarget

from conversations import memory
from conversations.catalog import load_catalog
from conversations.forms import InstructionsForm, MessageForm, new_key
from conversations.models import Conversation, Message, Reply, User
from conversations.models.message import MessageQuerySet
from conversations.presets import PresetGone, begin_with, named_or_usual
from conversations.replies.sending import (
    BranchUnknown,
    Draft,
    Place,
    SendRefused,
    start_conversation,
    start_reply,
)
from conversations.thread import Item, Thread, load_thread

from . import stencil
from .composer import chosen_model, composer_for, composer_for_new
from .expected import expected_streams
from .http import PersonRequest, announce, message_named, render_page, see_other
from .refusals import COMPOSER, Refusal, refusal_of

CHARACTERS_REPLACED = (
    "Some characters of your message cannot be stored. Each reads “\N{REPLACEMENT CHARACTER}” now."
)


class PresetUnknown(SendRefused):
    """This preset is not there any more. Nothing was sent, and your draft is below, with your usual preset."""


class FormOutOfDate(SendRefused):
    """This page was out of date. Your draft is below: send it again."""


@require_POST
@login_required
def conversation_create(request: PersonRequest) -> HttpResponse:
    """Begin a conversation with its first message."""
    form, instructions = MessageForm(request.POST), InstructionsForm(request.POST)
    preset = request.POST.get("preset", "")
    try:
        begun = begun_with(request.user, preset)
        if not instructions.is_valid():
            raise SendRefused("These instructions are too long. Nothing was sent, and your draft is below.")
        if "system_prompt" in request.POST:
            begun.system_prompt = instructions.cleaned_data["system_prompt"]
        reply = start_conversation(
            user=request.user,
            draft=draft_of(form),
            system_prompt=begun.system_prompt,
            preset=begun.preset,
            temperature=begun.temperature,
            reply_tokens=begun.reply_tokens,
        )
    except SendRefused as refused:
        composer = composer_for_new(
            request.user,
            text=form.text_sent,
            model=form.model_chosen,
            preset="" if isinstance(refused, PresetUnknown) else preset,
            settings=InstructionsForm(initial=request.POST.dict()),
        )
        return refuse(
            request, refused, refusal_of(refused), "conversations/home.html", {"composer": composer}
        )
    address = reverse("conversation", args=[reply.conversation_id])
    if form.was_changed:
        messages.info(request, CHARACTERS_REPLACED)
    if request.htmx:
        return announce(
            HttpResponseClientRedirect(address), "parley:sent", conversation=reply.conversation_id
        )
    return see_other(f"{address}#latest")


def begun_with(user: User, key: str) -> Conversation:
    """A conversation as the preset of this key begins it. Raises PresetUnknown."""
    try:
        return begin_with(user, named_or_usual(user, key))[0]
    except PresetGone:
        raise PresetUnknown from None


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_messages(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Messages of a conversation: POST adds one, GET shows those before another."""
    if request.method == "POST":
        return message_send(request, pk)
    return messages_earlier(request, conversation_of(request, pk))


def conversation_of(request: PersonRequest, pk: UUID) -> Conversation:
    return get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)


def message_send(request: PersonRequest, conversation_id: UUID) -> HttpResponse:
    """Save a message and start its reply."""
    form = MessageForm(request.POST)
    try:
        reply = start_reply(user=request.user, conversation_id=conversation_id, draft=draft_of(form))
    except SendRefused as refused:
        return refuse_in(request, conversation_of(request, conversation_id), refused, form)
    except Conversation.DoesNotExist:
        raise Http404 from None
    remark = CHARACTERS_REPLACED if form.was_changed else ""
    if request.htmx:
        expected_streams.expect(request, reply)
        return show_sent(request, reply, is_appended=form.is_at_leaf, remark=remark)
    if remark:
        messages.info(request, remark)
    return see_other(reverse("conversation", args=[conversation_id]) + "#latest")


def draft_of(form: MessageForm) -> Draft:
    """The message as it was sent. Raises SendRefused when the form itself was tampered with or is too old."""
    if not form.is_valid or form.key is None:
        raise FormOutOfDate
    return Draft(
        text=form.text_sent,
        key=form.key,
        model=form.model_chosen,
        leaf_id=form.leaf_id,
        place=cast(Place, form.place),
    )


def show_sent(request: PersonRequest, reply: Reply, *, is_appended: bool, remark: str = "") -> HttpResponse:
    """The fragments that a reply's beginning changes: two articles below the others, or the whole thread."""
    conversation = reply.conversation
    is_simple = is_appended and reply.is_unfinished and conversation.leaf_id == reply.question_id
    thread = just_sent(reply) if is_simple else load_thread(conversation)
    # As in the sidebar's rows.
    conversation.reply_state = (thread.running or reply).state  # type: ignore[attr-defined]
    composer = composer_for(conversation, thread)
    if is_simple and not remark and composer.chosen and stencil.fits(*thread.items):
        articles = stencil.fill(reply.question, thread.items[0].html, reply)
        response = HttpResponse(articles + stencil.fill_beside(composer))
    else:
        shown = {"items": from_message(thread, reply.question_id)} if is_appended else {"thread": thread}
        context = {"conversation": conversation, "composer": composer, "remark": remark, **shown}
        response = render(request, "conversations/sent.html", context)
    if not is_appended:
        response = reswap(retarget(response, "#thread"), "innerHTML")
        response = replace_url(response, reverse("conversation", args=[conversation.pk]))
    return announce(response, "parley:sent", conversation=conversation.pk, waits=reply.is_waiting)


def from_message(thread: Thread, message_id: UUID) -> list[Item]:
    """The end of a thread, from one of its messages on."""
    asked = [
        place for place, item in enumerate(thread.items) if item.message and item.message.pk == message_id
    ]
    return thread.items[asked[0] if asked else -2 :]


def just_sent(reply: Reply) -> Thread:
    """The end of a thread that goes on with a message and the reply to it, without reading it again."""
    question = reply.question
    said = memory.said_by([question.pk]) if memory.may_state(question.content) else {}
    items = [
        Item(message=question, remembered=said.get(question.pk, [])),
        Item(reply=reply, is_last=True),
    ]
    return Thread(items=items, earlier=None, leaf_id=reply.question_id, running=reply)


def refuse_in(
    request: PersonRequest,
    conversation: Conversation,
    refused: SendRefused,
    form: MessageForm,
    *,
    address: str = "",
) -> HttpResponse:
    """Say why nothing was sent, on the page of a conversation. `address`: what was asked for if it was no message."""
    refusal = refusal_of(refused, edits=form.edits if request.htmx else None, address=address)
    leaf_id = form.leaf_id if refusal.has_choices else None
    context = with_draft(conversation, form, leaf_id=leaf_id)
    if form.place == "branch" and not isinstance(refused, BranchUnknown):
        context["composer"] = replace(context["composer"], leaf_id=form.leaf_id, place=form.place)
    return refuse(request, refused, refusal, "conversations/conversation.html", context, current=conversation)


def show_with_draft(
    request: PersonRequest, conversation: Conversation, form: MessageForm, *, text: str = ""
) -> HttpResponse:
    """The page of a conversation, with what was in the text field, or with another text."""
    context = with_draft(conversation, form, text=text)
    return render_page(request, "conversations/conversation.html", context, current=conversation)


def with_draft(
    conversation: Conversation, form: MessageForm, *, leaf_id: UUID | None = None, text: str = ""
) -> dict[str, Any]:
    conversation.refresh_from_db(fields=["leaf"])
    thread = load_thread(conversation)
    composer = composer_for(
        conversation, thread, text=text or form.text_sent, model=form.model_chosen, leaf_id=leaf_id
    )
    return {"conversation": conversation, "thread": thread, "composer": composer}


def refuse(
    request: PersonRequest,
    refused: SendRefused,
    refusal: Refusal,
    page: str,
    context: dict[str, object],
    *,
    current: Conversation | None = None,
) -> HttpResponse:
    """Say why nothing was sent: above the text field, which stays as it is, or on the page with the draft in it."""
    context = {**context, "refusal": refusal, "is_edit": refusal.form_id != COMPOSER}
    if not request.htmx:
        return render_page(request, page, context, current=current, status=refused.status)
    response = render(request, "conversations/refused.html", context, status=refused.status)
    if refusal.money:
        announce(response, "budget-stale")
    return reswap(retarget(response, f"#{refusal.notice_id}"), "innerHTML")


def messages_earlier(request: PersonRequest, conversation: Conversation) -> HttpResponse:
    """The messages before one of them, to go above it."""
    thread = load_thread(
        conversation,
        leaf_id=message_named(request, conversation, "leaf"),
        before=message_named(request, conversation, "before"),
    )
    context = {"conversation": conversation, "thread": thread}
    if request.htmx:
        return render(request, "conversations/thread.html#items", context)
    return see_other(f"{reverse('conversation', args=[conversation.pk])}?{request.GET.urlencode()}")


@require_safe
@login_required
def message_edit(request: PersonRequest, pk: UUID) -> HttpResponse:
    """A message to be written again: what is sent from here becomes another version beside it."""
    message = get_object_or_404(messages_of(request).filter(role=Message.Role.USER), pk=pk)
    conversation = message.conversation
    model = chosen_model(load_catalog(), request.GET.get("model") or conversation.model)
    context = {"conversation": conversation, "message": message, "model": model, "key": new_key()}
    if request.htmx:
        return render(request, "conversations/edit.html#form", context)
    return render_page(request, "conversations/edit.html", context, current=conversation)


def messages_of(request: PersonRequest) -> MessageQuerySet:
    return Message.objects.filter(conversation__in=Conversation.objects.owned_by(request.user))


@require_safe
@login_required
def message_text(request: PersonRequest, pk: UUID) -> HttpResponse:
    """A message as it was written, for the clipboard."""
    message = get_object_or_404(messages_of(request), pk=pk)
    return HttpResponse(
        message.content,
        content_type="text/plain; charset=utf-8",
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-store"},
    )
