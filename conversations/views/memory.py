"""Memory: what Parley keeps of what a person said, all of it or what one conversation is told.

Each action answers a script with the list as it is then, and a browser without one with the page it came from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from conversations import memory
from conversations.forms import FactForm
from conversations.memory import MemoryRefused
from conversations.models import Conversation, MemoryItem, User
from conversations.models.memory import MemoryQuerySet
from conversations.models.message import texts_of

from .conversations import is_switched_on, show_conversation
from .http import PersonRequest, announce, render_page, see_other

Kind, Scope, State = MemoryItem.Kind, MemoryItem.Scope, MemoryItem.State

#: Facts on one page, the newest; a filter finds the others.
SHOWN = 300

HEADINGS = {
    Kind.CONSTRAINT: "Rules",
    Kind.PROFILE: "About me",
    Kind.PREFERENCE: "Preferences",
    Kind.DECISION: "Decisions",
    Kind.TASK: "Task context",
    Kind.QUESTION: "Open questions",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fact and what it was before."""

    item: MemoryItem
    before: Sequence[MemoryItem] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    heading: str
    rows: list[Row]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page of memory shows. `conversation` None: all of a person's."""

    user: User
    conversation: Conversation | None
    query: str = ""
    groups: list[Group] = field(default_factory=list)
    proposed: list[Row] = field(default_factory=list)
    count: int = 0  #: of facts that hold, whatever the filter leaves of them
    tokens: int = 0
    is_cut: bool = False  #: there are more than a page shows

    @property
    def address(self) -> str:
        return (
            reverse("conversation_memory", args=[self.conversation.pk])
            if self.conversation
            else reverse("memory")
        )

    @property
    def at(self) -> str:
        """What an action is told, so that its answer shows the same page."""
        return f"?in={self.conversation.pk}" if self.conversation else ""


# --- Pages --------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def memory_list(request: PersonRequest) -> HttpResponse:
    """All that is remembered of a person; POST adds a fact by hand."""
    return add(request, None) if request.method == "POST" else show(request, None)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_memory(request: PersonRequest, pk: UUID) -> HttpResponse:
    """What one conversation is told: a panel beside it; POST adds a fact by hand."""
    shown = get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)
    return add(request, shown) if request.method == "POST" else show(request, shown)


@require_safe
@login_required
def memory_export(request: PersonRequest) -> HttpResponse:
    """All of it with its history, for the person to keep."""
    kept = MemoryItem.objects.owned_by(request.user).exclude(state=State.FORGOTTEN)
    rows = [exported(item) for item in kept.select_related("conversation").order_by("id")]
    document = {"exported_at": timezone.now().isoformat(timespec="seconds"), "memory": rows}
    return HttpResponse(
        json.dumps(document, ensure_ascii=False, indent=2),
        content_type="application/json; charset=utf-8",
        headers={
            "Content-Disposition": 'attachment; filename="parley-memory.json"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        },
    )


def exported(item: MemoryItem) -> dict[str, Any]:
    return {
        "id": str(item.pk),
        "kind": item.kind,
        "text": item.text,
        "scope": item.scope,
        "state": item.state,
        "is_pinned": item.is_pinned,
        "found_by": item.origin,
        "conversation": str(item.conversation_id) if item.conversation_id else None,
        "conversation_title": item.conversation.title if item.conversation else None,
        "message": str(item.source_id) if item.source_id else None,
        "replaces": str(item.supersedes_id) if item.supersedes_id else None,
        "learned_at": item.created_at.isoformat(timespec="seconds"),
        "ended_at": item.ended_at.isoformat(timespec="seconds") if item.ended_at else None,
    }


# --- Actions ------------------------------------------------------------------------------------------------------


@require_POST
@login_required
def memory_switch(request: PersonRequest) -> HttpResponse:
    """Whether new facts are kept, and what holds in all conversations is told."""
    request.user.is_remembering = is_switched_on(request)
    request.user.save(update_fields=["is_remembering"])
    return done(request, place_of(request))


def add(request: PersonRequest, conversation: Conversation | None) -> HttpResponse:
    form = FactForm(request.POST, conversation=conversation)
    try:
        if form.is_valid():
            memory.remember(request.user, form.fact, conversation=conversation)
            return done(request, conversation, said="Remembered. It holds from the next message on.")
    except MemoryRefused as refused:
        form.add_error("text", refused.sentence)
    return show(request, conversation, fact_form=form, status=422)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def memory_edit(request: PersonRequest, pk: UUID) -> HttpResponse:
    """A fact as a form in its place; what is saved takes its place from the next message on."""
    item = get_object_or_404(mine(request).filter(state=State.ACTIVE), pk=pk)
    conversation = place_of(request)
    form = FactForm(request.POST or None, conversation=conversation, item=item)
    try:
        if form.is_valid():
            memory.edit(item, form.fact)
            return done(request, conversation, said="Changed. It holds from the next message on.")
    except MemoryRefused as refused:
        form.add_error("text", refused.sentence)
    status = 422 if form.is_bound else 200
    return show(request, conversation, editing=item.pk, edit_form=form, status=status)


@require_POST
@login_required
def memory_scope(request: PersonRequest, pk: UUID) -> HttpResponse:
    scope = request.POST.get("scope", "")
    if scope not in Scope.values:
        raise Http404
    return act(request, pk, lambda item: memory.change_scope(item, Scope(scope)))


@require_POST
@login_required
def memory_pin(request: PersonRequest, pk: UUID) -> HttpResponse:
    return act(request, pk, lambda item: memory.pin(item, on=is_switched_on(request)))


@require_POST
@login_required
def memory_answer(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Yes to what a model has proposed. No is to forget it."""
    return act(request, pk, memory.confirm)


@require_POST
@login_required
def memory_forget(request: PersonRequest, pk: UUID) -> HttpResponse:
    """Erase a fact. Only the page that is shown now can bring it back."""
    item = get_object_or_404(mine(request), pk=pk)
    was_proposed = item.state == State.PROPOSED
    undo = memory.forget(item, is_mistake=is_in_thread(request))
    said = (
        "It will not be remembered." if was_proposed else "Forgot 1 fact. The next message goes without it."
    )
    if is_in_thread(request):
        return render(request, "memory/remembered.html#forgotten", {"undo_token": undo})
    return show(request, place_of(request), said=said, undo_token=undo)


@require_POST
@login_required
def memory_restore(request: PersonRequest) -> HttpResponse:
    """Bring back what the page has just forgotten."""
    try:
        back = memory.restore(request.user, request.POST.get("undo", ""))
    except MemoryRefused as refused:
        if is_in_thread(request):
            return render(request, "memory/remembered.html#said", {"said": refused.sentence})
        return show(request, place_of(request), memory_error=refused.sentence, status=422)
    if is_in_thread(request):
        return render(request, "memory/remembered.html", {"items": back})
    return done(request, place_of(request), said="It is back.")


def act(request: PersonRequest, pk: UUID, change: Callable[[MemoryItem], None]) -> HttpResponse:
    """Do something with a fact of this person, and show the list again."""
    item = get_object_or_404(mine(request), pk=pk)
    conversation = place_of(request)
    try:
        change(item)
    except MemoryRefused as refused:
        return show(request, conversation, memory_error=refused.sentence, status=422)
    return done(request, conversation)


# --- What these share ---------------------------------------------------------------------------------------------


def mine(request: PersonRequest) -> MemoryQuerySet:
    return MemoryItem.objects.visible_to(request.user)


def place_of(request: PersonRequest) -> Conversation | None:
    """The conversation beside which memory is shown; None on its own page."""
    named = request.GET.get("in")
    if not named:
        return None
    try:
        pk = UUID(named)
    except ValueError:
        raise Http404 from None
    return get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)


def is_in_thread(request: PersonRequest) -> bool:
    """Whether the line below a message asks, which changes alone."""
    return bool(request.htmx) and request.GET.get("at") == "thread"


def done(request: PersonRequest, conversation: Conversation | None, *, said: str = "") -> HttpResponse:
    if request.htmx:
        return show(request, conversation, said=said)
    return see_other(load(request, conversation).address)


def show(
    request: PersonRequest, conversation: Conversation | None, *, status: int = 200, **more: Any
) -> HttpResponse:
    """The list for a script that changes it, the panel for one that opens it, or the whole page."""
    shown = load(request, conversation)
    context = {"memory": shown, "conversation": conversation, **more}
    context.setdefault("fact_form", FactForm(conversation=conversation))
    if request.htmx and request.htmx.target == "facts":
        response = render(request, "memory/facts.html", context, status=status)
        return announce(response, "estimate-stale") if conversation else response
    if request.htmx and conversation:
        return render(request, "memory/panel.html", context, status=status)
    if conversation:
        del context["conversation"]
        response = show_conversation(request, conversation, memory_panel=True, **context)
        response.status_code = status
        return response
    return render_page(request, "memory/memory.html", context, status=status)


def load(request: PersonRequest, conversation: Conversation | None) -> Shown:
    """What is to be shown, by the filter of the address."""
    user = request.user
    query = " ".join(request.GET.get("q", "").replace("\x00", "").split())[:100]
    if conversation:
        holding = MemoryItem.objects.told_in(user, conversation.pk, conversation.leaf_id)
        waiting = MemoryItem.objects.proposed_in(user, conversation.pk, conversation.leaf_id)
    else:
        holding = mine(request).in_force()
        waiting = mine(request).filter(state=State.PROPOSED).order_by("id")
    sizes = list(holding.values_list("token_count", flat=True))
    if query:
        holding = holding.filter(text__icontains=query)
    found = list(_with_places(holding, "source", "conversation").reverse()[: SHOWN + 1])
    items = found[:SHOWN]
    before = memory.histories(items)
    rows = [Row(item=item, before=before.get(item.pk, [])) for item in items]
    rows.sort(key=lambda row: not row.item.is_pinned)
    groups = [
        Group(heading=heading, rows=[row for row in rows if row.item.kind == kind])
        for kind, heading in HEADINGS.items()
    ]
    return Shown(
        user=user,
        conversation=conversation,
        query=query,
        groups=[group for group in groups if group.rows],
        proposed=[
            Row(item=item) for item in _with_places(waiting, "source", "conversation", "supersedes")[:SHOWN]
        ],
        count=len(sizes),
        tokens=sum(sizes),
        is_cut=len(found) > SHOWN,
    )


def _with_places(items: MemoryQuerySet, *relations: str) -> MemoryQuerySet:
    """With the places of the messages that said them, and not their texts."""
    return items.select_related(*relations).defer(*texts_of("source"))
