"""What the composer shows: where the next message goes, which models can answer, what that costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from uuid import UUID

from django import forms
from django.db.models import Sum
from django.urls import reverse

from conversations.catalog import Catalog, ModelEntry, UnknownModel, load_catalog
from conversations.context.presets import CHAT
from conversations.forms import InstructionsForm, new_key
from conversations.models import Conversation, Hold, Reply, User
from conversations.presets import Choice, begin_with, named_or_usual, presets_for
from conversations.replies.quoting import Words
from conversations.thread import Thread

from .estimates import Estimate, estimate_of


@dataclass(frozen=True, kw_only=True)
class Composer:
    action: str
    conversation: Conversation  #: not saved where a new one begins
    key: UUID = field(default_factory=new_key)
    leaf_id: UUID | None = None
    place: str = ""  #: where a message goes that does not simply follow the last one shown
    running: Reply | None = None
    version: str = ""
    text: str = ""
    chosen: ModelEntry | None = None
    settings: forms.Form | None = None
    preset: Choice | None = None  #: of a new conversation
    remark: str = ""  #: about the model of that preset

    @property
    def models(self) -> list[tuple[str, list[ModelEntry]]]:
        """Each provider's name with its models, in the catalogue's order."""
        groups = groupby(load_catalog().entries, key=lambda entry: entry.provider_label)
        return [(label, list(entries)) for label, entries in groups]

    @property
    def presets(self) -> list[Choice]:
        return presets_for(self.conversation.user)

    @property
    def preset_name(self) -> str:
        """Of a conversation that goes on."""
        name = self.conversation.preset.get("name")
        return name if isinstance(name, str) and name else CHAT.name

    @cached_property
    def estimate(self) -> Estimate | None:
        """For the text that is in it, usually none."""
        if self.chosen is None:
            return None
        return estimate_of(self.conversation, self.leaf_id, Words(text=self.text), self.chosen)

    @cached_property
    def held(self) -> int:
        """Nano-USD that the reply on its way holds."""
        if self.running is None:
            return 0
        if self.running.held is not None:
            return self.running.held
        answering = chosen_model(load_catalog(), self.running.model)
        if answering and answering.is_free:
            return 0
        holds = Hold.objects.filter(
            user_id=self.running.user_id, reply_id=self.running.pk, state=Hold.State.HELD
        )
        return holds.aggregate(amount=Sum("amount"))["amount"] or 0


def composer_for_new(
    user: User, *, text: str = "", model: str = "", preset: str = "", settings: forms.Form | None = None
) -> Composer:
    """The composer of a conversation that does not exist yet, with a preset. Raises PresetGone."""
    choice = named_or_usual(user, preset)
    begun, answerer = begin_with(user, choice)
    if settings is not None:
        begun.system_prompt = settings["system_prompt"].value() or ""
    return Composer(
        action=reverse("conversation_create"),
        conversation=begun,
        text=text,
        chosen=chosen_model(load_catalog(), model or begun.model),
        settings=settings or InstructionsForm(initial={"system_prompt": begun.system_prompt}),
        preset=choice,
        remark=answerer.remark,
    )


def composer_for(
    conversation: Conversation,
    thread: Thread,
    *,
    text: str = "",
    model: str = "",
    leaf_id: UUID | None = None,
) -> Composer:
    """The composer below `thread`. `leaf_id`: the message to go on from, when the thread has left it behind."""
    catalog = load_catalog()
    return Composer(
        action=reverse("message_send", args=[conversation.pk]),
        conversation=conversation,
        leaf_id=leaf_id or last_waiting(thread) or thread.leaf_id,
        place=place_of(conversation, thread) if leaf_id is None else "",
        running=thread.running,
        version=version(thread),
        text=text,
        chosen=chosen_model(catalog, model or conversation.model),
    )


def last_waiting(thread: Thread) -> UUID | None:
    """The message that the next one follows when its turn comes."""
    last = thread.items[-1] if thread.items else None
    return last.message.pk if last and last.message and last.waiting else None


def place_of(conversation: Conversation, thread: Thread) -> str:
    if thread.leaf_id != conversation.leaf_id:
        return "branch"
    return "end" if thread.is_partial else ""


def version(thread: Thread) -> str:
    """What a page shows, in one word: a page with another one is out of date."""
    if not thread.items:
        return ""
    waiting = [item.waiting for item in thread.items if item.waiting]
    last = thread.items[max(len(thread.items) - len(waiting), 1) - 1]
    state = ""
    if last.reply:
        state = f"{last.reply.pk}.{'running' if last.reply.is_unfinished else last.reply.state}"
    kept = "" if last.message is None or last.message.is_set_aside else "k"
    return f"{thread.leaf_id}.{state}.{kept}" + "".join(f".{reply.pk}" for reply in waiting)


def chosen_model(catalog: Catalog, model: str) -> ModelEntry | None:
    try:
        return catalog.get(model)
    except UnknownModel:
        return catalog.default()
