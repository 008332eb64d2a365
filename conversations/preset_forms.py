"""The numbers of a preset as people write them: for a preset of their own, and for one conversation."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from conversations import presets
from conversations.catalog import load_catalog
from conversations.context.policy import Strategy
from conversations.context.presets import CHEAPEST, LENGTHS, Preset, faults_of
from conversations.forms import CleanCharField, InstructionsForm
from conversations.models import Conversation

#: Each strategy in one sentence: what it does, and what it costs.
STRATEGIES = (
    (
        Strategy.ADAPTIVE,
        "Adaptive",
        "What was said since the last cut, a summary and remembered facts of what was before, and earlier messages "
        "that fit the question: the best for long chats, at about a twentieth of their full price.",
    ),
    (
        Strategy.FULL,
        "Full history",
        "Everything, up to the budget: nothing is lost, and each message costs more than the one before it.",
    ),
    (
        Strategy.SLIDING_WINDOW,
        "Last turns",
        "The last turns and nothing older: an even price, but a provider's cache cannot make it lower.",
    ),
    (
        Strategy.IMPORTANCE,
        "Importance",
        "What scores highest by age, role, code and keywords: an even price without a cache, and gaps in between.",
    ),
    (
        Strategy.SUMMARY,
        "Summary",
        "A summary and the newest messages: cheap, but the details of the older part are gone.",
    ),
    (
        Strategy.MEMORY,
        "Memory",
        "Remembered facts and the newest messages: cheap, and keeps names, numbers and decisions, not wordings.",
    ),
)

_NUMBER = re.compile(r"[0-9]{1,3}(?:[, \u00a0\u202f][0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+")


class NumberField(forms.Field):
    """A number as people write it: "16,000" is one."""

    widget = forms.TextInput

    def __init__(self, *, whole: bool = True, **kwargs: Any) -> None:
        self.whole = whole
        super().__init__(**kwargs)

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {"inputmode": "numeric" if self.whole else "decimal", "autocomplete": "off"}

    def prepare_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else f"{value:,}"

    def to_python(self, value: Any) -> int | float | None:
        text = str(value if value is not None else "").strip()
        if not text:
            return None
        example = "16,000" if self.whole else "0.7"
        if len(text) > 20 or not _NUMBER.fullmatch(text):
            sign = "negative" if re.match(r"[-\u2212]\s*[0-9.]", text) else ""
            raise ValidationError(f"It cannot be {sign}." if sign else f"Write a number, such as {example}.")
        plain = re.sub(r"[, \u00a0\u202f]", "", text)
        number = float(plain)
        if self.whole:
            if not number.is_integer():
                raise ValidationError(f"Write a whole number, such as {example}.")
            return int(number)
        return number

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except ValidationError:
            return True


class WordsField(forms.Field):
    """Words between commas or line ends, each once."""

    widget = forms.Textarea(attrs={"rows": 2, "dir": "auto"})

    def prepare_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else ", ".join(value)

    def to_python(self, value: Any) -> tuple[str, ...]:
        words = (word.strip() for word in re.split(r"[,\n]", CleanCharField().to_python(value) or ""))
        return tuple(dict.fromkeys(word for word in words if word))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != tuple(initial or ())


def yes_no_field(**options: Any) -> forms.Field:
    """As the strategy has it, or what the person says."""
    said = {"": None, "yes": True, "no": False}
    return forms.TypedChoiceField(
        choices=[("", "As the strategy has it"), ("yes", "Yes"), ("no", "No")],
        coerce=said.get,
        empty_value=None,
        required=False,
        **options,
    )


class PolicyForm(forms.Form):
    """What a model is shown and how it answers. What is out of range is said by the preset's own sentences."""

    strategy = forms.ChoiceField(
        label="What the model is shown",
        choices=[(strategy.value, name) for strategy, name, _ in STRATEGIES],
        widget=forms.RadioSelect,
    )
    high_water = NumberField(
        label="High-water mark",
        help_text=(
            "Tokens that a request grows to before it is cut. 16,000 for quality, 4,000 to 8,000 for economy. "
            "Raised, it brings back nothing that was cut; Full history does."
        ),
    )
    token_budget = NumberField(
        label="Token budget",
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "As the strategy has it"}),
        help_text="Tokens of request and reply together. Empty: 12,000; with Full history, what the model can read.",
    )
    cut_to_percent = NumberField(
        label="A cut leaves, percent", help_text="Less is cheaper, more keeps wordings for longer."
    )
    recall_tokens = NumberField(
        label="Recall",
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "As the strategy has it"}),
        help_text="Tokens of earlier messages that fit the question, put in with each new one. 0: none.",
    )
    last_turns = NumberField(label="Last turns", help_text="Questions with their answers.")
    newest_messages = NumberField(
        label="Newest messages", help_text="Kept word for word at a cut, at most; fewer if they are long."
    )
    keywords = WordsField(label="Keywords", required=False, help_text="Words that make a message important.")
    uses_summary = yes_no_field(label="Use summaries")
    uses_memory = yes_no_field(label="Use memory", help_text="Rules are sent in any case.")
    summary_tokens = NumberField(label="Summary length", help_text="Tokens of one summary, at most.")
    soft_mark = NumberField(
        label="Soft mark",
        whole=False,
        help_text="Part of the mark or budget from which the next summary is prepared in the background.",
    )
    fold_at_least = NumberField(label="A summary folds at least", help_text="Messages.")
    latest_decisions = NumberField(label="Decisions", help_text="Remembered ones that are sent, the latest.")
    reply_tokens = NumberField(
        label="Reply length", help_text="Tokens, at most; a token is about three quarters of a word."
    )
    temperature = NumberField(label="Temperature", whole=False, help_text="0 is steady, 2 is wild.")
    on_overflow = forms.ChoiceField(
        label="When the history does not fit",
        choices=[("cut", "Cut it and answer"), ("refuse", "Refuse the message")],
    )
    on_stream_failure = forms.ChoiceField(
        label="When an answer breaks off",
        choices=[("keep", "Keep what has come"), ("discard", "Set it aside")],
    )

    #: For which strategies a field means something; the others mean something for all.
    MATTERS = {
        "high_water": "adaptive",
        "cut_to_percent": "adaptive full",
        "token_budget": "full sliding_window importance summary memory",
        "last_turns": "sliding_window",
        "newest_messages": "summary memory",
        "keywords": "importance",
        "summary_tokens": "adaptive full summary memory",
        "soft_mark": "adaptive full summary memory",
        "fold_at_least": "adaptive full summary memory",
    }

    SIZE = ("high_water", "token_budget", "cut_to_percent", "recall_tokens", "last_turns", "newest_messages")
    MORE = ("uses_summary", "uses_memory", "summary_tokens", "soft_mark", "fold_at_least", "latest_decisions")
    REPLY = ("reply_tokens", "temperature", "on_overflow", "on_stream_failure")

    def __init__(self, *args: Any, preset: Preset, **kwargs: Any) -> None:
        self.preset = preset
        super().__init__(*args, **kwargs)
        said = {None: "", True: "yes", False: "no"}
        values = {name: getattr(preset, name) for name in self.fields}
        words = {name: said[value] for name, value in values.items() if name.startswith("uses_")}
        self.initial = {**values, **words, **self.initial}

    @property
    def strategies(self) -> list[tuple[str, str, str, bool]]:
        """Value, name, sentence, and whether it is chosen."""
        chosen = self["strategy"].value()
        return [(value.value, name, sentence, value == chosen) for value, name, sentence in STRATEGIES]

    @property
    def size_fields(self) -> list[tuple[forms.BoundField, str]]:
        return self._bound(self.SIZE)

    @property
    def more_fields(self) -> list[tuple[forms.BoundField, str]]:
        return self._bound(self.MORE)

    @property
    def reply_fields(self) -> list[tuple[forms.BoundField, str]]:
        return self._bound(self.REPLY)

    @property
    def more_has_errors(self) -> bool:
        return any(name in self.errors for name in self.MORE)

    def _bound(self, names: tuple[str, ...]) -> list[tuple[forms.BoundField, str]]:
        return [(self[name], self.MATTERS.get(name, "")) for name in names]

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        values["keywords"] = values.get("keywords") or self.preset.keywords
        for name, fault in faults_of(self.checked(values)).items():
            self.add_error(name, fault)
        return values

    def checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """What is asked of the preset whether it can be."""
        return values


class ConversationPolicyForm(PolicyForm):
    """The numbers of one conversation. Reply length and temperature may be left to the installation."""

    def __init__(self, *args: Any, conversation: Conversation, **kwargs: Any) -> None:
        own = {"temperature": conversation.temperature, "reply_tokens": conversation.reply_tokens}
        preset = presets.preset_of(conversation)
        super().__init__(*args, preset=preset, initial=own, **kwargs)
        self.conversation = conversation
        for name in own:
            self.fields[name].required = False
            self.fields[name].widget.attrs["placeholder"] = f"{getattr(preset, name):,}"

    def checked(self, values: dict[str, Any]) -> dict[str, Any]:
        empty = [name for name in ("temperature", "reply_tokens") if values.get(name) is None]
        return {name: value for name, value in values.items() if name not in empty}

    def as_preset(self) -> Preset:
        """As it would be, of a form that is valid."""
        return Preset.from_json(self.preset.to_json() | self.checked(self.cleaned_data))

    def save(self) -> None:
        own = {name: self.cleaned_data[name] for name in ("temperature", "reply_tokens")}
        presets.change(self.conversation, self.as_preset(), **own)


class PresetForm(PolicyForm):
    """A preset of one's own."""

    name = CleanCharField(max_length=LENGTHS["name"], widget=forms.TextInput(attrs={"dir": "auto"}))
    description = CleanCharField(
        required=False, max_length=LENGTHS["description"], widget=forms.TextInput(attrs={"dir": "auto"})
    )
    system_prompt = InstructionsForm.declared_fields["system_prompt"]
    model = forms.ChoiceField(required=False, help_text="Conversations begin with it.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["model"].choices = model_choices(self.preset.model)  # type: ignore[attr-defined]

    @property
    def own_fields(self) -> list[tuple[forms.BoundField, str]]:
        return self._bound(("name", "description", "system_prompt", "model"))

    def as_preset(self) -> Preset:
        return Preset.from_json(self.preset.to_json() | self.cleaned_data)


def model_choices(also: str = "") -> list[tuple[str, str]]:
    """What a preset may name; `also`: what it names already, whether it is there or not."""
    entries = load_catalog().entries
    known = [(entry.id, f"{entry.label}, {entry.price_label.lower()}") for entry in entries]
    if also not in {"", CHEAPEST, *(entry.id for entry in entries)}:
        known.append((also, f"{also} (not available)"))
    return [("", "The usual one"), (CHEAPEST, "The cheapest that is paid for"), *known]


class PresetFileForm(forms.Form):
    """A file with a preset."""

    file = forms.FileField(
        label="File",
        error_messages={
            "required": "Choose a file that was exported from Parley.",
            "empty": "This file is empty.",
        },
        widget=forms.ClearableFileInput(
            attrs={"accept": ".json,application/json", "aria-label": "File with a preset"}
        ),
    )
