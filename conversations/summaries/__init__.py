"""Compaction: a summary of the older part of a conversation, written ahead of the cut that needs it. Originals stay.

`write_next` and `write_wanted` ask a model; `edit`, `restore`, `remove` and `want` are what a person does; `forget`
takes a fact out; `schedule` says who may try when.
"""

from __future__ import annotations

from . import schedule
from .forgetting import forget
from .versions import (
    EmptySummary,
    NotOnPath,
    SummaryTooLong,
    current,
    edit,
    in_use,
    most_tokens,
    remove,
    restore,
    uses_summary,
)
from .wanted import OverBudget, TooManyAtOnce, end_abandoned, lost, summary_wanted, want, write_wanted
from .writing import Outcome, write_next

__all__ = [
    "EmptySummary",
    "NotOnPath",
    "Outcome",
    "OverBudget",
    "SummaryTooLong",
    "TooManyAtOnce",
    "current",
    "edit",
    "end_abandoned",
    "forget",
    "in_use",
    "lost",
    "most_tokens",
    "remove",
    "restore",
    "schedule",
    "summary_wanted",
    "uses_summary",
    "want",
    "write_next",
    "write_wanted",
]
