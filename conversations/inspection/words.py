"""The sentences of the inspector: how a request began, what it does not show and why, what is gone since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from conversations.context.layout import Kind
from conversations.models import Reply, ReplyState

#: Each kind of section: its name, and the colour that it has everywhere.
LABELS: dict[Kind, tuple[str, str]] = {
    Kind.SYSTEM: ("System prompt", "system"),
    Kind.CONSTRAINTS: ("Rules", "pinned"),
    Kind.MEMORY: ("Memory", "memory"),
    Kind.SUMMARY: ("Summary", "summary"),
    Kind.TRANSCRIPT: ("Word for word", "window"),
    Kind.RECALLED: ("Recalled messages", "recall"),
    Kind.QUESTION: ("Your message", "you"),
    Kind.CONTINUED: ("The reply so far", "window"),
    Kind.GO_ON: ("The request to go on", "system"),
}

STARTS = {
    "extends": "It repeats the request before it and adds to its end, which a provider's cache rewards.",
    "first": "It builds on no request before it.",
    "changed": (
        "It begins anew, because something above the conversation was changed: its prompt, model or strategy, "
        "a pinned fact, a summary, or something that was forgotten."
    ),
    "branch": "It begins anew, because the request before it was on another branch.",
    "full": "It was cut in one step, because it would have grown past its high-water mark.",
    "cold": "It was cut early, because the provider had forgotten the request before it anyway.",
    "anew": "Its strategy chooses what to show anew for each message.",
}

#: Which of a request's messages were left out: what they are, and why they are not in it.
REASONS = {
    "before_cut": ("earlier", "Said before the last cut."),
    "no_room": ("earlier", "There was no room for them under this policy."),
    "set_aside": ("cut off", "The text of a reply that was cut off and has not been kept."),
    "empty": ("empty", "There is nothing in them to send."),
    "unanswered": ("unanswered", "They come before the first message of a person, or after the last one."),
}
MEMORY_LEFT_OUT = "The memory of this conversation had no room for them. The newest come first."

STRATEGIES = {
    "full": "Everything, up to the budget",
    "sliding_window": "The last turns",
    "importance": "What scores highest",
    "summary": "A summary and the newest messages",
    "memory": "Remembered facts and the newest messages",
    "adaptive": "Adaptive: memory, summary, the conversation since the last cut, and recalled messages",
}

GONE = {
    Kind.CONSTRAINTS: "A rule that was forgotten since.",
    Kind.MEMORY: "A remembered fact that was forgotten since.",
    Kind.SUMMARY: "A summary that is not kept any more.",
    Kind.RECALLED: "A recalled message that was deleted since.",
    Kind.CONTINUED: "The cut-off text that the reply went on from. It was deleted since.",
    Kind.SYSTEM: "The system prompt as it was then. It was changed, and the old one is not known any more.",
}
#: Failures whose detail is a whole sentence of ours.
EXPLAINED = ("OverBudget", "NoPrice")

SUMMARY_CHANGED = "Sentences of the summary that were taken out since, because something was forgotten."
GONE_MESSAGE = "A message that was deleted since."


def gone(kind: Kind) -> str:
    return GONE.get(kind, GONE_MESSAGE)


def without_request(reply: Reply) -> str:
    """Why there is nothing to show of a reply that has called no provider."""
    match reply.state:
        case ReplyState.WAITING:
            return "This message waits for its turn. Its request is put together when that comes."
        case ReplyState.QUEUED | ReplyState.RUNNING:
            return "The request is being put together. Nothing has been sent yet."
        case ReplyState.STOPPED:
            return "The reply was stopped before a request was sent. No model has seen anything of it."
        case _:
            why = f" {reply.error_detail}" if reply.error_code in EXPLAINED else ""
            return f"The reply failed before a request was sent.{why} No model has seen anything of it."


def policy_rows(policy: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers that decided what was shown, those that its strategy asks for."""
    strategy = policy.get("strategy", "")
    yield "Strategy", STRATEGIES.get(strategy, strategy)
    if strategy == "sliding_window":
        yield "Turns", _count(policy, "last_turns")
    elif strategy != "importance":
        yield (
            "Grows to",
            f"{_count(policy, 'high_water')} tokens, then is cut to {_count(policy, 'low_water')}",
        )
    if strategy in ("summary", "memory"):
        yield "Newest messages", _count(policy, "newest_messages")
    if policy.get("budget") and policy["budget"] != policy.get("window"):
        yield "Budget", f"{_count(policy, 'budget')} tokens, request and reply together"
    yield "The model reads", f"up to {_count(policy, 'window')} tokens"
    yield "Kept free for the reply", f"{_count(policy, 'reply_tokens')} tokens"
    if recall := policy.get("recall_tokens"):
        yield "Recalled", f"up to {recall:,} tokens for each message"
    uses = [word for word in ("summary", "memory") if policy.get(f"uses_{word}")]
    yield "Uses", " and ".join(uses) if uses else "neither summary nor memory"
    if policy.get("refuses_overflow"):
        yield "When it does not fit", "no reply, rather than one to a part of the conversation"


def _count(policy: Mapping[str, Any], name: str) -> str:
    value = policy.get(name)
    return f"{value:,}" if isinstance(value, int) else "unknown"


def many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
