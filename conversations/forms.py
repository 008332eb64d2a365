"""What people send about conversations, checked."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from django import forms
from django.conf import settings
from django.db import transaction
from django.http import QueryDict

from . import memory
from .budgets import set_conversation_cap
from .models import Conversation, MemoryItem
from .money import DollarField, dollars
from .text import clean_text

#: Where a message may go: see `replies.sending.Draft`.
PLACES = {"leaf", "end", "branch"}


class MessageForm:
    """The composer. Its key was rendered by the server: the same key again is the same message.

    Read by hand: Django's form would take as long as the statements of a send.
    """

    def __init__(self, posted: QueryDict) -> None:
        #: As it was typed: nothing is trimmed, and what cannot be stored is replaced.
        self.text_sent = clean_text(posted.get("text", "")).text
        #: Another model than the chosen one, offered because that one does not fit in the budget.
        self.offer = posted.get("offer", "").strip()
        self.model_chosen = self.offer or posted.get("model", "").strip()
        self.place = posted.get("place") or "leaf"
        self.key: UUID | None = None
        self.leaf_id: UUID | None = None
        self.edits: UUID | None = None  #: the message that is written again
        with suppress(ValueError):
            if edits := posted.get("edits", ""):
                self.edits = UUID(edits)
        with suppress(ValueError):
            if leaf := posted.get("leaf", "").strip():
                self.leaf_id = UUID(leaf)
            self.key = UUID(posted.get("key", "").strip())

    @property
    def is_valid(self) -> bool:
        """It came from a page of ours, unchanged."""
        return self.key is not None and self.place in PLACES and len(self.model_chosen) <= 200

    @property
    def is_at_leaf(self) -> bool:
        """It follows the last message that was on the page."""
        return self.place == "leaf"

    @property
    def was_changed(self) -> bool:
        """Some characters cannot be stored, and now read U+FFFD; browsers replace some before they send."""
        return "\N{REPLACEMENT CHARACTER}" in self.text_sent


class SwitchForm(forms.Form):
    """On or off: pin, archive and their opposites."""

    on = forms.BooleanField(required=False)


class CleanCharField(forms.CharField):
    """Text without what the database refuses."""

    def to_python(self, value: Any) -> str | None:
        return super().to_python(clean_text(value).text if isinstance(value, str) else value)


class RenameForm(forms.Form):
    title = CleanCharField(max_length=200)


class InstructionsForm(forms.Form):
    """What a new conversation begins with, beside its first message."""

    system_prompt = CleanCharField(
        label="System prompt",
        required=False,
        max_length=100_000,
        widget=forms.Textarea(attrs={"rows": 4, "dir": "auto"}),
        help_text="What the model is told before anything else: who it is, how it should answer.",
    )


class SettingsForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    """What holds for every reply of a conversation."""

    system_prompt = InstructionsForm.declared_fields["system_prompt"]
    temperature = forms.FloatField(
        required=False,
        min_value=0.0,
        max_value=2.0,
        widget=forms.NumberInput(attrs={"step": "0.1", "inputmode": "decimal"}),
        help_text="0 is steady, 2 is wild. Empty: the default.",
    )
    reply_tokens = forms.IntegerField(
        label="Reply length",
        required=False,
        min_value=16,
        max_value=1_000_000,
        widget=forms.NumberInput(attrs={"step": "1"}),
        help_text="At most so many tokens a reply; a token is about three quarters of a word. Empty: the default.",
    )

    cost_cap = DollarField(label="Most that this conversation may cost", required=False)

    class Meta:
        model = Conversation
        fields = ["system_prompt", "temperature", "reply_tokens"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["cost_cap"] = self.instance.cost_cap
        usual = settings.CONVERSATION_CAP
        self.fields["cost_cap"].help_text = (
            "In dollars, all of its calls together: replies, titles, summaries, memory. Empty: "
            + ("no cap beside your day." if usual is None else f"{dollars(usual)}, as for all here.")
        )
        self.fields["temperature"].widget.attrs["placeholder"] = str(settings.DEFAULT_TEMPERATURE)
        self.fields["reply_tokens"].widget.attrs["placeholder"] = str(settings.DEFAULT_REPLY_TOKENS)

    def save(self, commit: bool = True) -> Conversation:
        """Nothing else of the conversation: a send may move its leaf meanwhile.

        The cap goes to its budget, too: it holds from the next call on.
        """
        saved: Conversation = self.instance
        with transaction.atomic():
            saved.save(update_fields=self._meta.fields)
            if "cost_cap" in self.changed_data:
                set_conversation_cap(saved, self.cleaned_data["cost_cap"])
        return saved


class FactForm(forms.Form):
    """A fact in a person's own words."""

    text = CleanCharField(
        label="Fact",
        max_length=memory.LONGEST,
        widget=forms.Textarea(attrs={"rows": 2, "dir": "auto", "class": "input"}),
    )
    kind = forms.ChoiceField(
        choices=MemoryItem.Kind.choices,
        initial=MemoryItem.Kind.PREFERENCE,
        widget=forms.Select(attrs={"class": "input"}),
    )
    scope = forms.ChoiceField(
        label="Holds in",
        required=False,
        choices=MemoryItem.Scope.choices,
        widget=forms.Select(attrs={"class": "input"}),
    )

    def __init__(
        self,
        data: QueryDict | None = None,
        *,
        conversation: Conversation | None = None,
        item: MemoryItem | None = None,
    ) -> None:
        initial = {"text": item.text, "kind": item.kind} if item else None
        super().__init__(data, initial=initial, prefix="edit" if item else "fact")
        if item:
            self.fields["text"].widget.attrs["autofocus"] = True
        if item or conversation is None:
            del self.fields["scope"]

    @property
    def fact(self) -> memory.Fact:
        """What was written. Only of a valid form."""
        scope = self.cleaned_data.get("scope") or MemoryItem.Scope.CONVERSATION
        return memory.Fact(
            kind=MemoryItem.Kind(self.cleaned_data["kind"]),
            text=self.cleaned_data["text"],
            scope=MemoryItem.Scope(scope),
        )


def new_key() -> UUID:
    """A key for a form that may be sent once."""
    return uuid4()
