"""What the next message costs, before it is sent: about, at most, and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST

from conversations import budgets
from conversations.budgets import Quote, Room, quote_in
from conversations.catalog import ModelEntry, load_catalog
from conversations.context.bound import NOTHING_BESIDE, Beside
from conversations.llm.tokens import kept_tokens
from conversations.memory import stated
from conversations.models import Conversation, MemoryItem, Message
from conversations.presets import Choice, PresetGone, begin_with, named_or_usual
from conversations.replies.quoting import Prospect, Words
from conversations.replies.statements import read_beside
from conversations.text import clean_text

from .http import PersonRequest

#: Characters of a system prompt that are read: a longer one is refused when it is sent.
MOST_INSTRUCTIONS = 100_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    entry: ModelEntry
    quote: Quote | None = None  #: None: the model has no price
    room: Room | None = None  #: None: nothing bounds it


def estimate_of(
    conversation: Conversation, follows: UUID | None, words: Words, entry: ModelEntry
) -> Estimate:
    """For a message after another one. A free model, and one without a price, need no look at the database."""
    if entry.price is None:
        return Estimate(entry=entry)
    path = (0, 0)
    saved = None if conversation._state.adding else conversation.pk
    if follows is not None and not entry.is_free:
        sums = conversation.messages.filter(pk=follows).values_list("path_tokens", "path_messages")
        path = sums.first() or path
    prospect = Prospect(
        user_id=conversation.user_id,
        conversation=conversation,
        earlier_tokens=path[0],
        path_messages=path[1],
        words=words,
        beside=NOTHING_BESIDE if entry.is_free else with_stated(words, conversation.user_id, saved),
    )
    room = None if entry.is_free else budgets.room(conversation.user_id, conversation.pk)
    return Estimate(entry=entry, quote=quote_in(room, prospect.ask(entry)), room=room)


def with_stated(words: Words, user_id: int, conversation_id: UUID | None) -> Beside:
    """What is remembered, and what the message itself would add to that."""
    lines = [(kept_tokens(one.text), one.kind == MemoryItem.Kind.CONSTRAINT) for one in stated(words.text)]
    return read_beside(user_id, conversation_id).with_lines(lines)


@require_POST
@login_required
def estimate(request: PersonRequest) -> HttpResponse:
    """For a draft as it stands. Nothing of it is kept."""
    posted = request.POST
    conversation = conversation_named(request, posted)
    entry = next((entry for entry in load_catalog().entries if entry.id == posted.get("model")), None)
    if entry is None:
        return HttpResponse()
    follows = message_followed(conversation, posted)
    shown = estimate_of(conversation, follows, words_of(posted), entry)
    return render(request, "conversations/estimate.html", {"estimate": shown})


def conversation_named(request: PersonRequest, posted: QueryDict) -> Conversation:
    """Raises Http404 for one that is not theirs; without a name, one that is yet to begin."""
    pk = id_in(posted, "conversation")
    if pk is None:
        begun, _ = begin_with(request.user, preset_named(request, posted))
        begun.system_prompt = clean_text(posted.get("system_prompt", "")[:MOST_INSTRUCTIONS]).text.strip()
        return begun
    return get_object_or_404(Conversation.objects.owned_by(request.user), pk=pk)


def preset_named(request: PersonRequest, posted: QueryDict) -> Choice:
    """Raises Http404 for one that is not theirs, or is gone."""
    try:
        return named_or_usual(request.user, posted.get("preset", ""))
    except PresetGone:
        raise Http404 from None


def message_followed(conversation: Conversation, posted: QueryDict) -> UUID | None:
    """The one that the draft was written under, else the last one."""
    leaf = id_in(posted, "leaf")
    if leaf and Message.objects.filter(pk=leaf, conversation=conversation).exists():
        return leaf
    return conversation.leaf_id


def words_of(posted: QueryDict) -> Words:
    length = posted.get("length", "")
    is_number = length.isascii() and length.isdigit() and len(length) < 10
    return Words(text=clean_text(posted.get("text", "")).text, length=int(length) if is_number else 0)


def id_in(posted: QueryDict, name: str) -> UUID | None:
    try:
        return UUID(text) if (text := posted.get(name, "").strip()) else None
    except ValueError:
        raise Http404 from None
