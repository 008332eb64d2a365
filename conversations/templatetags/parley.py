"""What the templates need beyond Django's own tags: icons, names of models, money, receipts, failures in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

from django import template
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils import timezone
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from conversations.budgets import BudgetRefused
from conversations.catalog import LOCAL_PROVIDER
from conversations.context.policy import FIXED_BUDGET, Strategy
from conversations.context.presets import CHEAPEST, Preset
from conversations.llm import errors
from conversations.llm.registry import KNOWN_PROVIDERS
from conversations.models import Purpose, Scope
from conversations.money import closely, dollars, exact
from conversations.preset_forms import STRATEGIES
from conversations.receipts import charged_words, cost, ledger_line, model_name, receipt
from conversations.reports import Meter, Paid

if TYPE_CHECKING:
    from conversations.catalog import ModelEntry
    from conversations.thread import Item

register = template.Library()

ANY_ID = UUID(int=0)

register.simple_tag(receipt)
for word in (cost, model_name):
    register.filter(word)


@register.simple_tag
@cache
def icon(name: str) -> SafeString:
    """A symbol of `templates/partials/sprite.html`, hidden from readers: its control carries the words."""
    return format_html('<svg class="icon" aria-hidden="true"><use href="#i-{}"></use></svg>', name)


@register.simple_tag
def address(name: str, pk: UUID) -> str:
    """What `{% url name pk %}` gives for an address with one id, at a tenth of its cost: a row of a list has three."""
    return _address_of(name, ANY_ID, get_script_prefix()).replace(str(ANY_ID), str(pk))


@cache
def _address_of(name: str, pk: UUID, prefix: str) -> str:
    return reverse(name, args=[pk])


@register.simple_tag
def providers_url() -> str:
    """Where an administrator adds a provider's key."""
    try:
        return reverse("admin:conversations_provider_changelist")
    except NoReverseMatch:
        return reverse("admin:index")


@register.simple_tag
def prices_url() -> str:
    """Where an administrator says what a model costs."""
    return reverse("admin:conversations_priceoverride_changelist")


# --- Models -------------------------------------------------------------------------------------------------


def provider_name(model_id: str) -> str:
    """Who answers for a model id, by the id alone: the end of a stream is rendered without the database."""
    slug, slash, _ = model_id.partition("/")
    if slug in KNOWN_PROVIDERS:
        return KNOWN_PROVIDERS[slug].label
    return slug.replace("-", " ").capitalize() if slash and slug != LOCAL_PROVIDER else ""


@register.filter
def about_model(entry: ModelEntry) -> str:
    place = "Runs here, offline. Short answers." if entry.is_local else f"Through {entry.provider_label}."
    return f"{place} Reads up to {entry.context_window:,} tokens."


@register.filter
def policy_in_short(preset: Preset) -> str:
    """For the list of presets: "Adaptive, up to 16,000 tokens · temperature 0.7 · replies to 2,048 tokens"."""
    size = preset.token_budget
    if preset.strategy is Strategy.ADAPTIVE:
        size = preset.high_water
    elif size is None and preset.strategy.has_fixed_budget:
        size = FIXED_BUDGET
    name = next(name for strategy, name, _ in STRATEGIES if strategy is preset.strategy)
    parts = [
        f"{name}, up to {size:,} tokens" if size else f"{name}, up to what the model can read",
        f"temperature {preset.temperature:g}",
        f"replies to {preset.reply_tokens:,} tokens",
    ]
    if preset.model:
        parts.append("the cheapest model" if preset.model == CHEAPEST else preset.model.partition("/")[2])
    return " · ".join(parts)


# --- Money --------------------------------------------------------------------------------------------------


for written in (dollars, closely, exact):  # an amount as `conversations.money` writes it
    register.filter(written)


@register.filter
def grouped(number: int) -> str:
    """A count with its thousands apart."""
    return f"{number:,}"


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """Where the parts of a meter's gauge are drawn."""

    spent: str
    held_from: str
    held: str


#: What is there is seen, however little: in per mille of a gauge.
LEAST_SEEN, LEAST_HATCHED = 8, 30


@register.simple_tag
def gauge(meter: Meter) -> Gauge:
    spent = max(meter.spent * 1000 // meter.scale, LEAST_SEEN) if meter.spent else 0
    held = max(meter.held * 1000 // meter.scale, LEAST_HATCHED) if meter.held else 0
    held_from = min(spent, 1000 - held)
    return Gauge(
        spent=_percent(held_from if held else spent), held_from=_percent(held_from), held=_percent(held)
    )


@register.filter
def percent(mille: int) -> str:
    """A length: per mille as per cent."""
    return _percent(max(mille, 4) if mille else 0)


def _percent(mille: int) -> str:
    return f"{mille // 10}.{mille % 10}%"


@register.filter
def purposes(purpose: str) -> str:
    """What calls were for, as a heading of them."""
    return PURPOSES.get(purpose, purpose)


PURPOSES: dict[str, str] = {
    Purpose.REPLY: "Replies",
    Purpose.RETRY: "Further tries",
    Purpose.TITLE: "Titles",
    Purpose.SUMMARY: "Summaries",
    Purpose.MEMORY: "Memory",
}


@register.filter
def time_left(until: datetime) -> str:
    """How long until a moment, to the minute: "6 h 12 m". What is past is "0 m"."""
    hours, minutes = divmod(max(0, int((until - timezone.now()).total_seconds())) // 60, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m"


# --- Time ---------------------------------------------------------------------------------------------------


@register.filter
def said_at(item: Item) -> datetime:
    if item.message is not None:
        return item.message.created_at
    if item.reply is None:
        raise ValueError("An item of a thread has a message or a reply.")
    return item.reply.created_at


@register.filter
def day(moment: datetime) -> str:
    """A heading between the messages of two days."""
    that_day, today = timezone.localdate(moment), timezone.localdate()
    if that_day == today:
        return "Today"
    if that_day == today - timedelta(days=1):
        return "Yesterday"
    return _long_date(that_day, today)


def _long_date(that_day: date, today: date) -> str:
    year = f" {that_day.year}" if that_day.year != today.year else ""
    return f"{that_day:%A} {that_day.day} {that_day:%B}{year}"


NUMBERS = ("one", "two", "three", "four", "five", "six")


def _number(number: int) -> str:
    return NUMBERS[number - 1] if number <= len(NUMBERS) else str(number)


# --- Search -------------------------------------------------------------------------------------------------


@register.filter
def marked(text: str, words: list[str]) -> SafeString:
    """The text as text, with each of the words it contains in a `<mark>`."""
    parts = re.split("(" + "|".join(map(re.escape, words)) + ")", text, flags=re.IGNORECASE)
    return mark_safe(
        "".join(f"<mark>{escape(p)}</mark>" if n % 2 else escape(p) for n, p in enumerate(parts))
    )


# --- Failures -----------------------------------------------------------------------------------------------

#: Endings that are ours and not a provider's.
OWN_FAILURES = {
    "EmptyReply": "The model answered without any text.",
    "UnknownModel": "This model is not available any more.",
    "NothingToAnswer": "There was no message to answer.",
    "DoesNotFit": (
        "This conversation is longer than the model can read, or than its numbers allow. Choose another model, or "
        "change them under Context."
    ),
    "ProcessStopped": "Parley was restarted before this reply had begun.",
    "ProcessDied": "Parley was stopped before this reply had begun.",
    "Discarded": "The reply was cut off, and this conversation keeps no part of such a reply.",
    "InternalError": "Something failed inside Parley. It is logged.",
}
#: Endings whose detail is a whole sentence of ours.
OVER_BUDGET, NO_PRICE = "OverBudget", "NoPrice"
CUT_OFF = {
    "StreamInterrupted": "The connection to the model was lost after {words}.",
    "ProcessStopped": "Parley was restarted after {words} of this reply.",
    "ProcessDied": "Parley was stopped after {words} of this reply.",
}
#: Their detail is Parley's own, and says nothing to a person that the sentence does not.
WITHOUT_DETAIL = frozenset((*OWN_FAILURES, OVER_BUDGET, NO_PRICE)) | {
    error.code()
    for error in (
        errors.ConnectionFailed,
        errors.ProviderBusy,
        errors.ProviderUnavailable,
        errors.StreamInterrupted,
        errors.TimedOut,
    )
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    sentence: str  #: no text had come
    sentence_after: str  #: some text had come
    tries: str  #: how often and how long it was tried, if more than once
    said: str  #: the provider's own words, shortened, or what came in place of a reply
    saved: str  #: that the message is saved, and what became of the money
    sums: str  #: what was charged for the text that came, and what was released
    ledger: str


@register.simple_tag
def failure(item: Item) -> Failure:
    """Why a reply failed or was cut off, in words."""
    reply = item.reply
    code = reply.error_code if reply else ""
    # The provider that failed last is the one that the code speaks of.
    model = item.attempt.model if item.attempt else reply.model if reply else ""
    words = _words(item.message.content if item.message else "")
    detail = reply.error_detail if reply else ""
    return Failure(
        sentence=_own_sentence(item, code, detail) or failure_sentence(code, provider=provider_name(model)),
        sentence_after=CUT_OFF.get(code, "The reply was cut off after {words}.").format(words=words),
        tries=_tries(item),
        said=_said(code, detail),
        saved=_saved(item.paid),
        sums=_sums_for_text(item.paid),
        ledger=ledger_line(item),
    )


def _own_sentence(item: Item, code: str, detail: str) -> str:
    if code == NO_PRICE:
        return detail
    if code != OVER_BUDGET:
        return ""
    where = LEFT_WHERE.get(detail, "today")
    when = "for another try" if item.attempt else "when its turn came"
    return f"There was not enough left {where} {when}."


#: Where there was too little, by the sentence of the refusal.
LEFT_WHERE = {
    BudgetRefused.SENTENCES[Scope.CONVERSATION]: "of this conversation's cap",
    BudgetRefused.SENTENCES[Scope.INSTALLATION]: "today for everybody here",
}


def _saved(paid: Paid | None) -> str:
    """That the message is there, and what a failure has cost."""
    if paid is None or paid.is_free:
        return "Your message is saved."
    if paid.charged:
        released = f" {closely(paid.released)} is released." if paid.released else ""
        return (
            f"Your message is saved. {_upper(charged_words(paid))} was charged: a provider may bill the prompt of a "
            f"call whose end is not known.{released}"
        )
    if paid.calls == 1:
        return f"Your message is saved, nothing was charged, and the {closely(paid.held)} hold is released."
    return (
        f"Your message is saved, nothing was charged, and the {_number(paid.calls)} holds, "
        f"{closely(paid.held)} in all, are released."
    )


def _sums_for_text(paid: Paid | None) -> str:
    if paid is None or paid.is_free:
        return ""
    charged = f"{charged_words(paid)} charged for what arrived" if paid.charged else "Nothing was charged"
    return f"{_upper(charged)}, {closely(paid.released)} released."


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _said(code: str, detail: str) -> str:
    detail = detail.strip().removesuffix(".")
    if not detail or code in WITHOUT_DETAIL:
        return ""
    if code == errors.InvalidResponse.code():
        return f"What came: {detail}."
    return f"It said: “{detail}”."


def _tries(item: Item) -> str:
    attempt, reply = item.attempt, item.reply
    if attempt is None or reply is None or attempt.number < 2:
        return ""
    tries = f"{_number(attempt.number).capitalize()} tries"
    if reply.started_at and reply.finished_at:
        seconds = max(1, round((reply.finished_at - reply.started_at).total_seconds()))
        tries += f" in {seconds:,} second{'' if seconds == 1 else 's'}"
    return f"{tries} failed."


def failure_sentence(code: str, *, provider: str = "") -> str:
    """What a person reads; `provider` is named where the sentence speaks of it."""
    known = getattr(errors, code, None) if code else None
    if isinstance(known, type) and issubclass(known, errors.LLMError):
        return known.sentence().replace("The provider", provider or "The provider", 1)
    return OWN_FAILURES.get(code, errors.LLMError.sentence())


@register.filter
def stopped_after(item: Item) -> str:
    if item.message is None:
        return "Stopped by you before the first word"
    return f"Stopped by you after {_words(item.message.content)}"


@register.filter
def reply_ended(state: str) -> str:
    return {"interrupted": "was interrupted", "failed": "failed"}.get(state, "ended")


def _words(text: str) -> str:
    count = len(text.split())
    return f"{count:,} word" if count == 1 else f"{count:,} words"
