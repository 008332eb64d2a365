"""What viewers are told while a reply that met a failure is tried again, in a sentence each."""

from __future__ import annotations

import math

from conversations.catalog import ModelEntry
from conversations.llm.errors import LLMError

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def trying_again(failure: LLMError, entry: ModelEntry, *, seconds: float, number: int) -> str:
    """The same request once more, after so many seconds; it is try `number`."""
    when = f" in {math.ceil(seconds)} s" if seconds > 0 else ""
    return f"{what_happened(failure, entry)} Trying again{when}, {ordinal(number)} try."


def ordinal(number: int) -> str:
    return ORDINALS[number - 1] if number <= len(ORDINALS) else f"{number}th"


def trying_with_less(failure: LLMError, entry: ModelEntry) -> str:
    return f"{what_happened(failure, entry)} Trying again with less of it."


def asking_another(failure: LLMError, entry: ModelEntry, other: ModelEntry) -> str:
    return f"{what_happened(failure, entry)} Asking {other.label} instead."


def what_happened(failure: LLMError, entry: ModelEntry) -> str:
    """The first sentence of the error alone: the rest is advice, and Parley is following it."""
    first = failure.sentence().partition(". ")[0].removesuffix(".")
    return first.replace("The provider", entry.provider_label, 1) + "."
