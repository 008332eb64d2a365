"""Conversations: the empty page, one conversation, the list beside it, and what can be done with a row."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from conversations import reports
from conversations.forms import RenameForm, SettingsForm, SwitchForm
from conversations.models import Conversation
from conversations.policies import stored_preset
from conversations.presets import PresetGone
from conversations.replies.runtime import current_runtime
from conversations.replies.sending import stop_reply
from conversations.thread import Thread, load_thread

from .composer import composer_for, composer_for_new, version
from .http import PersonRequest, announce, message_named, render_page
from .sidebar import load_sidebar, with_reply_state

# --- Pages --------------------------------------------------------------------------------------------------


@require_safe
@login_required
def home(request: PersonRequest) -> HttpResponse:
    """The empty page: what is written here begins a conversation, with the preset of `?preset=`."""
    try:
        composer = composer_for_new(request.user, preset=request.GET.get("preset", ""))
    except PresetGone:
        raise Http404 from None
    context = {"composer": composer, "remark": composer.remark, **just_deleted(request)}
    if request.htmx and "preset" in request.GET:
        return render(request, "conversations/preset_chosen.html", context)
    return render_page(request, "conversations/home.html", context)


@require_safe
@login_required
def conversation(request: PersonRequest, pk: UUID) -> HttpResponse:
    """One conversation: the newest path, or the one through `?leaf=`. A script asks for the thread alone."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    return show_thread(request, shown) if request.htmx else show_conversation(request, shown)


def show_conversation(request: PersonRequest, shown: Conversation, **more: Any) -> HttpResponse:
    thread = load_thread(
        shown,
        leaf_id=message_named(request, shown, "leaf"),
        before=message_named(request, shown, "before"),
        around=message_named(request, shown, "around"),
    )
    get_ready_for_send(shown, thread)
    context = {"conversation": shown, "thread": thread, "composer": composer_for(shown, thread), **more}
    return render_page(request, "conversations/conversation.html", context, current=shown)


def show_thread(request: PersonRequest, shown: Conversation) -> HttpResponse:
    """The thread again, unless the page shows this state of it already."""
    thread = load_thread(shown, leaf_id=message_named(request, shown, "leaf"))
    if version(thread) == request.GET.get("known"):
        return HttpResponse(status=204)
    context = {"conversation": shown, "thread": thread, "composer": composer_for(shown, thread)}
    return render(request, "conversations/sent.html", context)


@require_safe
@login_required
def conversation_composer(request: PersonRequest, pk: UUID) -> HttpResponse:
    """What changes around the text field when a reply has ended: the leaf, the key, Stop into Send."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    if not request.htmx:
        return redirect("conversation", pk)
    thread = load_thread(shown, leaf_id=message_named(request, shown, "leaf"), limit=1)
    context = {"conversation": shown, "composer": composer_for(shown, thread)}
    return render(request, "conversations/composer.html#tools", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_settings(request: PersonRequest, pk: UUID) -> HttpResponse:
    """System prompt, temperature, reply length and cap: a panel beside the conversation."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    form = SettingsForm(request.POST or None, instance=shown)
    saved = form.is_bound and form.is_valid()
    if saved:
        form.save()
    elif form.is_bound:
        shown.refresh_from_db()  # a refused form has written its values into the instance
    panel = {"settings_form": form, "saved": saved, "cost": reports.cost_of(shown.pk)}
    if request.htmx:
        response = render(request, "conversations/settings.html", {"conversation": shown, **panel})
        return announce(response, "estimate-stale") if saved else response
    return show_conversation(request, shown, **panel)


@require_safe
@login_required
def archived(request: PersonRequest) -> HttpResponse:
    """What is out of the list: archived conversations, and deleted ones that can still be restored."""
    mine = Conversation.objects.owned_by(request.user).filter(is_archived=True)
    restorable = Conversation.objects.restorable_by(request.user)
    context = {"archived": mine.recent_first(), "deleted": restorable.order_by("-deleted_at")}
    return render_page(request, "conversations/archived.html", context)


# --- The list -----------------------------------------------------------------------------------------------


@require_safe
@login_required
def sidebar(request: PersonRequest) -> HttpResponse:
    """The list again, and the title of the conversation that is open."""
    if not request.htmx:
        return redirect("home")
    return show_list(request, current=current_conversation(request))


@require_safe
@login_required
def conversation_menu(request: PersonRequest, pk: UUID) -> HttpResponse:
    """What can be done with a conversation, for the menu of its row or of its title."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    if not request.htmx:
        return redirect("conversation_settings", pk)
    at = "title" if request.GET.get("at") == "title" else "c"
    newest = shown.replies.order_by("-created_at").values_list("pk", flat=True).first()
    context = {"conversation": shown, "at": at, "newest_reply": newest}
    return render(request, "conversations/menu.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_rename(request: PersonRequest, pk: UUID) -> HttpResponse:
    """A title typed by a person, which no model replaces. An empty one changes nothing."""
    shown = get_object_or_404(with_reply_state(Conversation.objects.owned_by(request.user)), pk=pk)
    form = RenameForm(request.POST or None)
    if form.is_valid():
        shown.title, shown.title_source = form.cleaned_data["title"], Conversation.TitleSource.PERSON
        shown.save(update_fields=["title", "title_source"])
    if not request.htmx:
        return redirect("conversation_settings" if request.method != "POST" else "conversation", pk)
    part = "row" if request.method == "POST" else "rename"
    return render(request, f"conversations/renamed.html#{part}", row_context(request, shown))


@require_POST
@login_required
def conversation_pin(request: PersonRequest, pk: UUID) -> HttpResponse:
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    Conversation.objects.filter(pk=shown.pk).update(is_pinned=is_switched_on(request))
    return show_list(request) if request.htmx else redirect("conversation", pk)


@require_POST
@login_required
def conversation_archive(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Out of the list, or back into it."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    on = is_switched_on(request)
    Conversation.objects.filter(pk=shown.pk).update(is_archived=on)
    if not request.htmx:
        return redirect("conversation", pk)
    undo = reverse("conversation_archive", args=[pk])
    said = f"{'Archived' if on else 'Unarchived'} “{shown.title}”."
    return show_list(request, said=said, undo=undo, undo_on="" if on else "1")


@require_POST
@login_required
def conversation_delete(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Take a conversation away; for 30 days its owner can have it back. Replies on their way are stopped first."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    for reply in (*shown.replies.waiting(), *shown.replies.unfinished()):
        stop_reply(reply)
    Conversation.objects.filter(pk=shown.pk).update(deleted_at=timezone.now())
    home_after = f"{reverse('home')}?deleted={pk}"
    if not request.htmx:
        return redirect(home_after)
    if is_open_on(request, pk):
        return HttpResponseClientRedirect(home_after)
    return show_list(request, **deleted_toast(shown))


@require_POST
@login_required
def conversation_restore(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Bring back a conversation that was deleted lately."""
    shown = get_object_or_404(Conversation.objects.restorable_by(request.user), pk=pk)
    Conversation.objects.filter(pk=shown.pk).update(deleted_at=None)
    return show_list(request) if request.htmx else redirect("conversation", pk)


# --- What these share ---------------------------------------------------------------------------------------


def get_ready_for_send(shown: Conversation, thread: Thread) -> None:
    """Who opens a conversation is likely to write: let this process read what recalling from a long one takes."""
    runtime = current_runtime()
    last = next((item.message for item in reversed(thread.items) if item.message), None)
    if runtime is not None and last is not None and stored_preset(shown.preset).recalls:
        runtime.expect_send(last)


def show_list(request: PersonRequest, *, current: Conversation | None = None, **toast: Any) -> HttpResponse:
    """The list of conversations, and what was done, with Undo."""
    current = current or current_conversation(request)
    everything = "all" in request.GET
    context = {"sidebar": load_sidebar(request.user, everything=everything), "current": current, **toast}
    return render(request, "conversations/listed.html", context)


def row_context(request: PersonRequest, shown: Conversation) -> dict[str, Any]:
    at_title = request.GET.get("at") == "title"
    is_current = is_open_on(request, shown.pk)
    return {"conversation": shown, "current": shown if is_current or at_title else None, "at_title": at_title}


def current_conversation(request: PersonRequest) -> Conversation | None:
    """The conversation that the asking page shows."""
    for part in address_shown(request).partition("?")[0].split("/"):
        try:
            return Conversation.objects.owned_by(request.user).filter(pk=UUID(part)).first()
        except ValueError:
            continue
    return None


def is_open_on(request: PersonRequest, pk: UUID) -> bool:
    return str(pk) in address_shown(request)


def address_shown(request: PersonRequest) -> str:
    """The address of the asking page, as its script says; empty when that is none."""
    try:
        return request.htmx.current_url_abs_path or ""
    except ValueError:
        return ""


def is_switched_on(request: PersonRequest) -> bool:
    form = SwitchForm(request.POST)
    return form.is_valid() and bool(form.cleaned_data["on"])


def deleted_toast(gone: Conversation) -> dict[str, Any]:
    return {"said": f"Deleted “{gone.title}”.", "undo": reverse("conversation_restore", args=[gone.pk])}


def just_deleted(request: PersonRequest) -> dict[str, Any]:
    """The toast for `/?deleted=<id>`, to which deleting the open conversation leads."""
    try:
        deleted = UUID(request.GET.get("deleted", ""))
        gone = Conversation.objects.restorable_by(request.user).get(pk=deleted)
    except (ValueError, Conversation.DoesNotExist):
        return {}
    return deleted_toast(gone)
