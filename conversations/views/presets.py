"""Presets: a person's own ones, what is shared, what comes along; made, changed, shared, deleted and as files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from conversations import presets
from conversations.context.presets import CHAT, Preset
from conversations.models import Conversation, SavedPreset
from conversations.preset_forms import PresetFileForm, PresetForm

from .conversations import is_switched_on
from .http import PersonRequest, render_page


@require_safe
@login_required
def preset_list(request: PersonRequest) -> HttpResponse:
    """One's own, what is shared with all, what comes with Parley."""
    return show_list(request, **just_deleted(request))


def show_list(
    request: PersonRequest, *, file_form: PresetFileForm | None = None, status: int = 200, **more: Any
) -> HttpResponse:
    choices = presets.presets_for(request.user)
    mine = [choice for choice in choices if choice.saved and choice.saved.owner_id == request.user.pk]
    context = {
        "own": mine,
        "shared": [choice for choice in choices if choice.saved and choice not in mine],
        "built_in": [choice for choice in choices if choice.is_built_in],
        "usual": presets.default_for(request.user).key,
        "most": presets.MOST,
        "file_form": file_form or PresetFileForm(),
        **more,
    }
    return render_page(request, "presets/list.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def presets_new(request: PersonRequest) -> HttpResponse:
    """A new preset of one's own: empty, a copy of another one, or with the numbers of a conversation."""
    draft = draft_of(request, request.GET)
    form = PresetForm(request.POST or None, preset=draft)
    if form.is_valid():
        try:
            kept = presets.keep(request.user, form.as_preset())
        except presets.NameTaken as error:
            form.add_error("name", str(error))
        except presets.TooManyPresets as error:
            form.add_error(None, str(error))
        else:
            messages.info(request, f"“{kept.name}” is one of your presets now.")
            return redirect("presets")
    context = {"form": form, "heading": "New preset"}
    return render_page(request, "presets/edit.html", context, status=422 if form.is_bound else 200)


def draft_of(request: PersonRequest, asked: QueryDict) -> Preset:
    """What a new preset begins as. Raises Http404 for what is not theirs to copy."""
    if key := asked.get("from"):
        copied = find(request, key).preset
        return replace(copied, slug="", name=presets.free_name(request.user, f"{copied.name[:53]} (copy)"))
    if pk := asked.get("conversation"):
        try:
            conversation = Conversation.objects.owned_by(request.user).get(pk=UUID(pk))
        except (ValueError, Conversation.DoesNotExist):
            raise Http404 from None
        name = presets.free_name(request.user, conversation.title[:60])
        return replace(
            presets.preset_of(conversation), slug="", name=name, description="", model=conversation.model
        )
    return replace(CHAT, slug="", name="", description="")


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def preset_edit(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Other values for a saved preset. Conversations that were begun with it keep theirs."""
    saved = get_object_or_404(SavedPreset.objects.changeable_by(request.user), pk=pk, deleted_at=None)
    form = PresetForm(request.POST or None, preset=saved.preset)
    if form.is_valid():
        try:
            presets.rewrite(saved, form.as_preset())
        except presets.NameTaken as error:
            form.add_error("name", str(error))
        else:
            messages.info(request, f"“{saved.name}” is changed, for conversations that begin from now on.")
            return redirect("presets")
    answerer = presets.answerer_of(saved.preset)
    context = {"form": form, "heading": saved.name, "saved": saved, "remark": answerer.remark}
    return render_page(request, "presets/edit.html", context, status=422 if form.is_bound else 200)


@require_POST
@login_required
def preset_delete(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Take it out of the list; for 30 days its owner can have it back."""
    presets.delete(get_object_or_404(SavedPreset.objects.changeable_by(request.user), pk=pk, deleted_at=None))
    return redirect(f"{reverse('presets')}?deleted={pk}")


@require_POST
@login_required
def preset_restore(request: PersonRequest, pk: UUID) -> HttpResponse:
    deleted = SavedPreset.objects.changeable_by(request.user).exclude(deleted_at=None)
    saved = get_object_or_404(deleted, pk=pk)
    try:
        presets.restore(saved)
        messages.info(request, f"“{saved.name}” is back.")
    except presets.TooManyPresets as error:
        messages.warning(request, str(error))
    return redirect("presets")


@require_POST
@login_required
def preset_share(request: PersonRequest, pk: UUID) -> HttpResponse:
    """With everyone, or with nobody any more: administrators do that, with their own and with what is shared."""
    if not request.user.is_staff:
        raise Http404
    saved = get_object_or_404(SavedPreset.objects.changeable_by(request.user), pk=pk, deleted_at=None)
    presets.share(saved, is_switched_on(request))
    messages.info(
        request,
        f"“{saved.name}” is there for everyone now."
        if saved.is_shared
        else f"“{saved.name}” is its owner's alone now. Conversations that were begun with it stay as they are.",
    )
    return redirect("presets")


@require_safe
@login_required
def preset_export(request: PersonRequest, pk: UUID) -> HttpResponse:
    """One preset as a file."""
    saved = get_object_or_404(SavedPreset.objects.usable_by(request.user), pk=pk)
    name = slugify(saved.name) or "preset"
    return HttpResponse(
        presets.to_file(saved.preset),
        content_type="application/json; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}.json"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        },
    )


@require_POST
@login_required
def presets_import(request: PersonRequest) -> HttpResponse:
    """A preset from a file, as one's own."""
    form = PresetFileForm(request.POST, request.FILES)
    if form.is_valid():
        try:
            preset, unknown = presets.from_file(form.cleaned_data["file"].read(presets.LARGEST_FILE + 1))
            name = presets.free_name(request.user, preset.name)
            kept = presets.keep(request.user, replace(preset, name=name))
        except presets.PresetError as error:
            form.add_error("file", str(error))
        else:
            said = f"“{kept.name}” is one of your presets now."
            if unknown:
                said += f" Left out, because no preset has it here: {', '.join(unknown)[:200]}."
            if remark := presets.answerer_of(preset).remark:
                said += f" {remark}"
            messages.info(request, said)
            return redirect("presets")
    return show_list(request, file_form=form, status=422)


@require_POST
@login_required
def presets_default(request: PersonRequest) -> HttpResponse:
    """What new conversations begin with."""
    choice = find(request, request.POST.get("preset", ""))
    presets.make_default(request.user, choice)
    messages.info(request, f"New chats begin with “{choice.preset.name}”.")
    return redirect("presets")


def find(request: PersonRequest, key: str) -> presets.Choice:
    try:
        return presets.find(request.user, key)
    except presets.PresetGone:
        raise Http404 from None


def just_deleted(request: PersonRequest) -> dict[str, Any]:
    """The toast for `?deleted=<id>`, to which deleting leads."""
    try:
        deleted = SavedPreset.objects.changeable_by(request.user).exclude(deleted_at=None)
        gone = deleted.get(pk=UUID(request.GET.get("deleted", "")))
    except (ValueError, SavedPreset.DoesNotExist):
        return {}
    return {"said": f"Deleted “{gone.name}”.", "undo": reverse("preset_restore", args=[gone.pk])}
