"""Presets in use: which ones a person has, what one sets of a conversation, and those that people keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from conversations.catalog import Catalog, ModelEntry, UnknownModel, load_catalog
from conversations.context.policy import Policy, Strategy
from conversations.context.presets import CHAT, CHEAPEST, FIELDS, PRESETS, Preset, faults_of
from conversations.llm.types import Usage
from conversations.models import Conversation, SavedPreset, User
from conversations.policies import stored_preset
from conversations.prices import NoPrice
from conversations.text import clean_text

#: Presets that a person may keep.
MOST = 100
#: Bytes of a file with a preset: the longest prompt, each character escaped, and some room.
LARGEST_FILE = 1024 * 1024
#: The mark of a file with a preset, and the version of its form.
FILE_MARK = "parley_preset"

#: The columns of a conversation that a preset sets.
COLUMNS = ("preset", "system_prompt", "temperature", "reply_tokens", "model")
#: What decides how much of a conversation is shown.
SIZES = ("strategy", "on_overflow", "token_budget", "high_water")


class PresetError(ValueError):
    """This preset cannot be used."""


class PresetGone(PresetError, LookupError):
    """This preset is not there any more. Choose another one."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class NameTaken(PresetError):
    """You have a preset with this name already. Choose another name."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class TooManyPresets(PresetError):
    def __str__(self) -> str:
        return f"You have {MOST} presets, which is the most. Delete one first."


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A preset that somebody may choose."""

    key: str  #: the slug of one that comes with Parley, or the id of a saved one
    preset: Preset
    saved: SavedPreset | None = None

    @property
    def is_built_in(self) -> bool:
        return self.saved is None

    @property
    def remark(self) -> str:
        """That the model it asks for is not there, and who answers."""
        return answerer_of(self.preset).remark


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """The model that a preset leads to; with a sentence if it is not the one that it names."""

    entry: ModelEntry | None
    remark: str = ""


# --- Choosing -----------------------------------------------------------------------------------------------


def presets_for(user: User) -> list[Choice]:
    """What comes with Parley, then a person's own by name, then what is shared with all."""
    saved = sorted(SavedPreset.objects.usable_by(user), key=lambda row: row.owner_id != user.pk)
    return [*BUILT_IN, *map(_choice, saved)]


def find(user: User, key: str) -> Choice:
    """Raises PresetGone: also when it is somebody else's."""
    if key in PRESETS:
        return Choice(key=key, preset=PRESETS[key])
    try:
        return _choice(SavedPreset.objects.usable_by(user).get(pk=UUID(key)))
    except (ValueError, SavedPreset.DoesNotExist):
        raise PresetGone from None


def named_or_usual(user: User, key: str) -> Choice:
    """What a form names, or what their new conversations begin with. Raises PresetGone."""
    return find(user, key) if key else default_for(user)


def default_for(user: User) -> Choice:
    """What their new conversations begin with. One that is gone is Chat again."""
    try:
        return find(user, user.preset or CHAT.slug)
    except PresetGone:
        return BUILT_IN[0]


def make_default(user: User, choice: Choice) -> None:
    user.preset = "" if choice.key == CHAT.slug else choice.key
    user.save(update_fields=["preset"])


def _choice(row: SavedPreset) -> Choice:
    return Choice(key=str(row.pk), preset=row.preset, saved=row)


BUILT_IN = [Choice(key=slug, preset=preset) for slug, preset in PRESETS.items()]


# --- What it sets of a conversation -------------------------------------------------------------------------


def begin_with(user: User, choice: Choice) -> tuple[Conversation, Answerer]:
    """A conversation that is not saved yet, as this preset begins it, and who answers in it."""
    answerer = answerer_of(choice.preset)
    model = answerer.entry.id if answerer.entry else ""
    return Conversation(user=user, **columns_of(choice.preset), model=model), answerer


def apply(conversation: Conversation, preset: Preset) -> Answerer:
    """Let a conversation go on with a preset: a copy of it, its prompt, its numbers, and its model if it names one."""
    answerer = answerer_of(preset, usual=conversation.model)
    columns = columns_of(preset)
    if preset.model and answerer.entry:
        columns["model"] = answerer.entry.id
    _write(conversation, columns)
    return answerer


def change(conversation: Conversation, preset: Preset, **columns: Any) -> None:
    """Give one conversation these numbers, and columns of its own beside them. It stays with the preset it has."""
    _write(conversation, {"preset": copy_of(preset), **columns})


def snapshot(conversation: Conversation) -> dict[str, Any]:
    """What a preset sets of it, to be put back by `put_back`."""
    return {name: getattr(conversation, name) for name in COLUMNS}


def put_back(conversation: Conversation, columns: Mapping[str, Any]) -> None:
    _write(conversation, {name: columns[name] for name in COLUMNS})


def _write(conversation: Conversation, columns: Mapping[str, Any]) -> None:
    """These columns alone: a send may move the conversation's leaf meanwhile."""
    if _shows_all_again(stored_preset(conversation.preset), stored_preset(columns["preset"])):
        columns = {**columns, "cut": None, "cut_at": None}
    for name, value in columns.items():
        setattr(conversation, name, value)
    conversation.save(update_fields=list(columns))


def _shows_all_again(before: Preset, after: Preset) -> bool:
    """Whether what was cut under other numbers is to be shown: nothing may be missing but what does not fit now."""
    if after.strategy != Strategy.FULL and after.on_overflow != "refuse":
        return False
    return any(getattr(before, name) != getattr(after, name) for name in SIZES)


def columns_of(preset: Preset) -> dict[str, Any]:
    """The columns that a preset sets, its model aside. Chat leaves to the installation what it does not need."""
    if preset == CHAT:
        return {"preset": {}, "system_prompt": "", "temperature": None, "reply_tokens": None}
    return {
        "preset": copy_of(preset),
        "system_prompt": preset.system_prompt,
        "temperature": preset.temperature,
        "reply_tokens": preset.reply_tokens,
    }


def copy_of(preset: Preset) -> dict[str, Any]:
    """As a conversation keeps it: its prompt is a column, and would be read twice with each message."""
    return preset.to_json() | {"system_prompt": ""}


def preset_of(conversation: Conversation) -> Preset:
    """The numbers that hold for a conversation, its own columns included."""
    own: dict[str, Any] = {"system_prompt": conversation.system_prompt}
    own |= {"temperature": _or(conversation.temperature, settings.DEFAULT_TEMPERATURE)}
    own |= {"reply_tokens": _or(conversation.reply_tokens, settings.DEFAULT_REPLY_TOKENS)}
    stored = stored_preset(conversation.preset)
    return replace(stored, **{name: value for name, value in own.items() if not faults_of({name: value})})


def _or(value: Any, usual: Any) -> Any:
    return usual if value is None else value


def origin_of(conversation: Conversation, user: User) -> Choice | None:
    """The preset that a conversation has its copy from, as it is now; None when it is gone."""
    try:
        return find(user, Preset.stored(conversation.preset).slug)
    except PresetGone:
        return None


def changed_since(conversation: Conversation, origin: Choice) -> list[str]:
    """The names of what a conversation has otherwise than its preset, its model aside."""
    there, here = columns_of(origin.preset), snapshot(conversation)
    names = [name for name in ("system_prompt", "temperature", "reply_tokens") if here[name] != there[name]]
    now, then = Preset.stored(here["preset"]), Preset.stored(there["preset"])
    aside = {"slug", "name", "description", "model", *COLUMNS}
    return names + [
        field.name
        for field in fields(Preset)
        if field.name not in aside and getattr(now, field.name) != getattr(then, field.name)
    ]


# --- Models and money ---------------------------------------------------------------------------------------


def answerer_of(preset: Preset, *, usual: str = "", catalog: Catalog | None = None) -> Answerer:
    """Who answers with this preset. Where it names nobody, or somebody who is not there, the `usual` model."""
    catalog = catalog or load_catalog()
    if preset.model == CHEAPEST:
        return Answerer(entry=catalog.cheapest())
    stands_in = _usable(catalog, usual) or catalog.default()
    if not preset.model:
        return Answerer(entry=stands_in)
    try:
        entry = catalog.get(preset.model)
        entry.known_price()
        return Answerer(entry=entry)
    except UnknownModel:
        gone = f"{preset.model.partition('/')[2] or preset.model}, which “{preset.name}” asks for, is not available."
    except NoPrice:
        gone = f"{entry.label}, which “{preset.name}” asks for, has no price yet."
    return Answerer(entry=stands_in, remark=f"{gone} {stands_in.label} answers." if stands_in else gone)


def _usable(catalog: Catalog, model: str) -> ModelEntry | None:
    return next((entry for entry in catalog.entries if entry.id == model and entry.price), None)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a policy means for one model. Costs in nano-USD; None: nobody knows its price."""

    entry: ModelEntry
    policy: Policy
    request_cost: int | None = None  #: of the largest request, nothing of it cached
    cached_cost: int | None = None  #: of the same, nine tenths of it in the provider's cache
    left_cost: int | None = None  #: of what a cut leaves
    reply_cost: int | None = None  #: of the longest reply

    @property
    def left_percent(self) -> int:
        return round(100 * self.policy.low_water / max(self.policy.high_water, 1))

    @property
    def has_cache(self) -> bool:
        """Whether a request that goes on from the one before is cheaper."""
        is_cheaper = (
            None not in (self.cached_cost, self.request_cost) and self.cached_cost != self.request_cost
        )
        return self.policy.strategy.is_append_only and is_cheaper


def figures_of(policy: Policy, entry: ModelEntry) -> Figures:
    if entry.price is None:
        return Figures(entry=entry, policy=policy)
    most, cost = policy.high_water, entry.price.cost
    return Figures(
        entry=entry,
        policy=policy,
        request_cost=cost(Usage(input_tokens=most)),
        cached_cost=cost(Usage(input_tokens=most, cached_tokens=most * 9 // 10)),
        left_cost=cost(Usage(input_tokens=policy.low_water)),
        reply_cost=cost(Usage(input_tokens=0, output_tokens=policy.reply_tokens)),
    )


# --- Those that people keep ---------------------------------------------------------------------------------


def keep(user: User, preset: Preset) -> SavedPreset:
    """Keep a new preset of one's own. Raises NameTaken or TooManyPresets."""
    with transaction.atomic():
        User.objects.lock(user.pk)  # names are compared, and presets counted
        own = SavedPreset.objects.owned_by(user)
        if own.count() >= MOST:
            raise TooManyPresets
        if own.filter(name__iexact=preset.name).exists():
            raise NameTaken
        return SavedPreset.objects.create(owner=user, name=preset.name, values=_values(preset))


def rewrite(saved: SavedPreset, preset: Preset) -> None:
    """Give a saved preset other values. Conversations keep their copies. Raises NameTaken."""
    with transaction.atomic():
        if saved.owner is not None:
            User.objects.lock(saved.owner.pk)
            others = SavedPreset.objects.owned_by(saved.owner).exclude(pk=saved.pk)
            if others.filter(name__iexact=preset.name).exists():
                raise NameTaken
        saved.name, saved.values, saved.changed_at = preset.name, _values(preset), timezone.now()
        saved.save(update_fields=["name", "values", "changed_at"])


def share(saved: SavedPreset, on: bool) -> None:
    """With everyone, or with nobody any more: conversations that were begun with it stay as they are."""
    saved.is_shared = on
    saved.save(update_fields=["is_shared"])


def delete(saved: SavedPreset) -> None:
    saved.deleted_at = timezone.now()
    saved.save(update_fields=["deleted_at"])


def restore(saved: SavedPreset) -> None:
    """Bring a deleted preset back, under another name if its own is taken meanwhile. Raises TooManyPresets."""
    with transaction.atomic():
        if saved.owner is not None:
            User.objects.lock(saved.owner.pk)
            if SavedPreset.objects.owned_by(saved.owner).count() >= MOST:
                raise TooManyPresets
            saved.name = free_name(saved.owner, saved.name)
        saved.deleted_at = None
        saved.save(update_fields=["deleted_at", "name"])


def free_name(user: User, name: str) -> str:
    """This name, with a number if the person has a preset of that name already."""
    taken = {row.lower() for row in SavedPreset.objects.owned_by(user).values_list("name", flat=True)}
    candidate, number = name[:60], 1
    while candidate.lower() in taken:
        number += 1
        ending = f" ({number})"
        candidate = name[: 60 - len(ending)] + ending
    return candidate


def _values(preset: Preset) -> dict[str, Any]:
    return {name: value for name, value in asdict(preset).items() if name not in ("slug", "name")}


# --- Files --------------------------------------------------------------------------------------------------


def to_file(preset: Preset) -> str:
    """One preset as JSON, for another installation or another person."""
    values = {name: value for name, value in asdict(preset).items() if name != "slug"}
    return json.dumps({FILE_MARK: 1, **values}, indent=2, ensure_ascii=False) + "\n"


def from_file(content: bytes) -> tuple[Preset, list[str]]:
    """The preset in a file, and the names in it that this version does not know. Raises PresetError with a sentence."""
    if len(content) > LARGEST_FILE:
        raise PresetError("This file is larger than 1 MiB, which no preset is.")
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise PresetError("This file is not JSON. Choose a file that was exported from Parley.") from None
    if not isinstance(data, dict):
        raise PresetError("This file holds no preset: it begins with something else than {.")
    values = {name: value for name, value in data.items() if name in FIELDS and name != "slug"}
    if not isinstance(values.get("name"), str) or not values["name"].strip():
        raise PresetError("This file holds no preset: it has no name.")
    if faults := faults_of(values):
        raise PresetError(" ".join(faults.values()))
    values = {name: _cleaned(value) for name, value in values.items()}
    values["name"] = values["name"].strip()
    unknown = sorted(set(data) - FIELDS - {FILE_MARK})
    return Preset.from_json({"slug": "", **values}), [clean_text(name).text for name in unknown]


def _cleaned(value: Any) -> Any:
    """Texts, and lists of them, without what the database refuses."""
    if isinstance(value, str):
        return clean_text(value).text
    return [_cleaned(one) for one in value] if isinstance(value, list) else value
