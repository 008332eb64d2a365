"""The line below a reply in words: who answered, tokens, money, times, and what its person should know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from django.urls import get_script_prefix, reverse

from conversations.money import closely
from conversations.replies.status import ordinal
from conversations.reports import Paid

if TYPE_CHECKING:
    from conversations.models import Reply, ReplyAttempt
    from conversations.thread import Item

#: Before a reply has begun: longer than any page takes, so there was another reply or a limit in its way.
WAIT_WORTH_TELLING = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What the line below a reply says."""

    model: str
    tokens: list[str]
    money: str
    sums: str  #: in place of `money` where the reply was stopped: what was charged, what released
    ledger: str  #: the address of its line in the ledger
    seen: str  #: what the model saw, in short; empty where that is not on record
    times: list[str]
    notes: list[str]


def receipt(item: Item) -> Receipt:
    """Model, tokens and times of a reply; what is not known is left out."""
    message, reply = item.message, item.reply
    # The model that answered, which is not always the one that was asked.
    model = (message.model_used if message else "") or (reply.model if reply else "") or ""
    return Receipt(
        model=model_name(model),
        tokens=_tokens(item),
        money=_money(item.paid),
        sums=_sums(item.paid),
        ledger=ledger_line(item),
        seen=_seen(item),
        times=_times(reply) if reply else [],
        notes=_notes(item),
    )


def _tokens(item: Item) -> list[str]:
    attempt, message = item.attempt, item.message
    if attempt is not None and attempt.input_tokens is not None:
        about = "" if attempt.usage_reported else "≈ "
        cached = f" ({attempt.cached_tokens:,} cached)" if attempt.cached_tokens else ""
        return [f"{about}{attempt.input_tokens:,} in{cached}", f"{about}{attempt.output_tokens or 0:,} out"]
    if message is not None and message.input_tokens:
        return [f"{message.input_tokens:,} in", f"{message.output_tokens:,} out"]
    return []


def _money(paid: Paid | None) -> str:
    """What a reply has cost; nothing when the ledger says nothing."""
    if paid is None:
        return ""
    return "free" if paid.is_free else charged_words(paid)


def charged_words(paid: Paid) -> str:
    """What was charged: "$0.0015", or "about $0.0015"."""
    return f"{'about ' if paid.is_estimated else ''}{closely(paid.charged)}"


def _sums(paid: Paid | None) -> str:
    """Both halves of what was held: "$0.0015 charged, $0.0195 released"."""
    if paid is None or paid.is_free:
        return ""
    charged = f"{charged_words(paid)} charged" if paid.charged else "nothing charged"
    return f"{charged}, {closely(paid.released)} released"


def ledger_line(item: Item) -> str:
    """The address of the line that was charged for a reply."""
    paid, reply = item.paid, item.reply
    if paid is None or paid.day is None or reply is None:
        return ""
    page = _spend_page(get_script_prefix())
    return f"{page}?day={paid.day}&conversation={reply.conversation_id}#line-{paid.entry_id}"


@cache
def _spend_page(prefix: str) -> str:
    return reverse("spend")


def cost(item: Item) -> str:
    """What a reply has cost, for who listens; nothing when it was free."""
    return charged_words(item.paid) if item.paid and item.paid.charged else ""


def _seen(item: Item) -> str:
    """How much of the conversation was sent, what stood for the rest, and what that saved."""
    attempt = item.attempt
    manifest = attempt.manifest if attempt is not None else {}
    sections: list[dict[str, Any]] = manifest.get("sections", [])
    if attempt is None or not sections:
        return ""
    by_kind: dict[str, int] = {}
    for section in sections:
        by_kind[section["kind"]] = by_kind.get(section["kind"], 0) + len(section.get("ids", ()))
    shown = by_kind.get("transcript", 0) + by_kind.get("question", 0)
    said = item.message.path_messages - 1 if item.message else 0
    parts = [f"{shown:,} of {said:,} messages" if said > shown else f"{shown:,} message{_s(shown)}"]
    for section in sections:
        if section["kind"] == "summary":
            parts.append(f"summary v{section.get('facts', {}).get('version', 1)}")
    facts = by_kind.get("memory", 0) + by_kind.get("constraints", 0)
    if facts:
        parts.append(f"{facts:,} fact{_s(facts)}")
    if recalled := by_kind.get("recalled"):
        parts.append(f"{recalled:,} recalled")
    return " · ".join([", ".join(parts), *_shares(attempt)])


def _shares(attempt: ReplyAttempt) -> Iterator[str]:
    """How much the provider had in its cache, and how much of the whole history was not sent."""
    if attempt.usage_reported and attempt.input_tokens and attempt.cached_tokens:
        yield f"{min(attempt.cached_tokens / attempt.input_tokens, 1):.0%} cached".replace("%", " %")
    figures = attempt.manifest.get("figures", {})
    if (saved := round(100 - 100 * figures.get("compression", 1.0))) > 0:
        yield f"{min(saved, 99)} % saved"


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _times(reply: Reply) -> list[str]:
    """A wait for its turn is told apart from the model's own."""
    times = []
    begun = reply.created_at
    if reply.started_at and reply.started_at - reply.created_at >= WAIT_WORTH_TELLING:
        begun = reply.started_at
        times.append(f"waited {_seconds(begun - reply.created_at)}")
    if reply.first_token_at:
        times.append(f"first token after {_seconds(reply.first_token_at - begun)}")
    if reply.finished_at:
        times.append(f"{_seconds(reply.finished_at - reply.created_at)} in all")
    return times


def _notes(item: Item) -> list[str]:
    """What the person should know about this reply: who answered, that it is cut, what the model did not see."""
    attempt = item.attempt
    if attempt is None:
        return []
    notes = _money_notes(item)
    asked = item.reply.model if item.reply else attempt.model
    if attempt.model != asked and item.message is not None:
        notes.append(f"Answered by {model_name(attempt.model)} because {model_name(asked)} was unavailable.")
    elif attempt.number > 1:
        notes.append(f"{ordinal(attempt.number).capitalize()} try.")
    if attempt.finish_reason == "length" and (tokens := _shortened_to(item)) is not None:
        notes.append(f"Answer shortened to {tokens:,} tokens to fit the budget.")
    elif attempt.finish_reason == "length":
        notes.append("Cut at the reply length of this conversation. Settings can allow more.")
    if attempt.finish_reason == "filtered":
        notes.append("The provider withheld the rest.")
    if item.reply and str(item.reply.question_id) in attempt.manifest.get("excerpted", ()):
        notes.append("Your message is longer than this model can read: it was shown an excerpt.")
    return notes


def _money_notes(item: Item) -> list[str]:
    paid, notes = item.paid, []
    if paid and paid.charged_calls > 1:
        notes.append("The amount includes the prompt of an earlier try.")
    if paid and paid.is_underestimate:
        notes.append("It cost more than was held for it, and is charged in full.")
    return notes


def _shortened_to(item: Item) -> int | None:
    """How long an answer could be at most for what was left of the budget; None: as long as it liked."""
    reply, paid, attempt = item.reply, item.paid, item.attempt
    if reply is None or attempt is None:
        return None
    if paid and paid.max_tokens and paid.max_tokens < reply.max_tokens and attempt.model == reply.model:
        return paid.max_tokens  # by a later try than the first
    return reply.max_tokens if reply.is_shortened else None


def model_name(model_id: str) -> str:
    """The name without its provider: `local/SmolLM2-135M` is SmolLM2-135M."""
    return model_id.partition("/")[2] or model_id


def _seconds(span: timedelta) -> str:
    seconds = max(span.total_seconds(), 0.0)
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
