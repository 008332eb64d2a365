"""What the model of a conversation is shown: its preset, the numbers that hold, and what they mean in money."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core import signing
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_http_methods

from conversations import presets
from conversations.catalog import load_catalog
from conversations.context.presets import Preset
from conversations.models import Conversation
from conversations.policies import policy_of
from conversations.preset_forms import ConversationPolicyForm
from conversations.thread import load_thread

from .composer import chosen_model, composer_for
from .conversations import show_conversation
from .http import PersonRequest, announce, message_named

#: What an Undo puts back is signed: nothing else can be put in its place.
UNDO = "conversations.views.context.undo"
UNDO_SECONDS = 24 * 3600


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_context(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Preset and numbers of one conversation: a panel beside it. What is changed holds from the next message on."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    if request.method != "POST":
        return show(request, shown)
    match request.POST.get("act"):
        case "figures":
            return show_figures(request, shown)
        case "use":
            return use(request, shown, request.POST.get("preset", ""))
        case "reset":
            return use(request, shown, Preset.stored(shown.preset).slug)
        case "undo":
            return undo(request, shown)
    return save(request, shown)


def save(request: PersonRequest, shown: Conversation) -> HttpResponse:
    before = presets.snapshot(shown)
    form = ConversationPolicyForm(request.POST, conversation=shown)
    if not form.is_valid():
        return show(request, shown, form=form)
    if not form.has_changed():
        return show(request, shown, said="Nothing was changed.")
    form.save()
    return show(request, shown, said="Changed. It holds from the next message on.", before=before)


def use(request: PersonRequest, shown: Conversation, key: str) -> HttpResponse:
    """Let the conversation go on with a preset as it is now."""
    before = presets.snapshot(shown)
    try:
        chosen = presets.find(request.user, key)
    except presets.PresetGone:
        raise Http404 from None
    remark = presets.apply(shown, chosen.preset).remark
    said = f"“{chosen.preset.name}” holds from the next message on."
    return show(request, shown, said=said, remark=remark, before=before)


def undo(request: PersonRequest, shown: Conversation) -> HttpResponse:
    try:
        kept = signing.loads(request.POST.get("before", ""), salt=UNDO, max_age=UNDO_SECONDS)
    except signing.BadSignature:
        return show(request, shown, said="This is too long ago to be undone.")
    if kept.pop("conversation", None) != str(shown.pk):
        raise Http404
    presets.put_back(shown, kept)
    return show(request, shown, said="Put back as it was.")


def show(
    request: PersonRequest,
    shown: Conversation,
    *,
    form: ConversationPolicyForm | None = None,
    said: str = "",
    remark: str = "",
    before: dict[str, Any] | None = None,
) -> HttpResponse:
    """The panel; after a change with what was done, and the way back."""
    origin = presets.origin_of(shown, request.user)
    panel: dict[str, Any] = {
        "policy_form": form or ConversationPolicyForm(conversation=shown),
        "figures": figures_for(shown),
        "preset_name": Preset.stored(shown.preset).name,
        "origin": origin,
        "is_changed": origin is not None and bool(presets.changed_since(shown, origin)),
        "choices": presets.presets_for(request.user),
        "said": said,
        "remark": remark,
    }
    if before is not None:
        kept = {"conversation": str(shown.pk), **before}
        panel["undo"] = signing.dumps(kept, salt=UNDO, compress=True)
    if not request.htmx:
        return show_conversation(request, shown, **panel)
    if request.method == "POST":
        # The model may be another one now, and what the next message costs is.
        thread = load_thread(shown, leaf_id=message_named(request, shown, "leaf"), limit=1)
        panel["composer"] = composer_for(shown, thread)
    response = render(request, "conversations/context.html", {"conversation": shown, **panel})
    return announce(response, "estimate-stale") if said else response


def show_figures(request: PersonRequest, shown: Conversation) -> HttpResponse:
    """What the numbers would mean that stand in the form. Nothing of it is kept."""
    form = ConversationPolicyForm(request.POST, conversation=shown)
    if not form.is_valid():
        return HttpResponse(status=204)
    figures = figures_for(shown, form.as_preset())
    return render(request, "conversations/context.html#numbers", {"figures": figures, "is_draft": True})


def figures_for(shown: Conversation, preset: Preset | None = None) -> presets.Figures | None:
    """For the model that answers next; None when there is none."""
    entry = chosen_model(load_catalog(), shown.model)
    if entry is None:
        return None
    preset = preset or presets.preset_of(shown)
    return presets.figures_of(policy_of(entry, preset), entry)
