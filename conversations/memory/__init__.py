"""What Parley keeps of what people say: one fact a row, with its source, its scope and its history.

`note_stated` is the rules' way in, with each send; `learn` the model's, beside the summaries; the rest is what a person
does. Nothing else writes `memory_items`.
"""

from conversations.forgotten import is_forgotten

from .items import (
    LONGEST,
    MOST_OF_CONVERSATION,
    MOST_OF_PERSON,
    Fact,
    FactGone,
    FactTooLong,
    MemoryFull,
    MemoryRefused,
    NowhereElse,
    TooLate,
    change_scope,
    confirm,
    edit,
    forget,
    histories,
    history,
    note_stated,
    outlive,
    pin,
    remember,
    restore,
    said_by,
    unsay,
)
from .learning import Outcome, learn
from .stating import Stated, may_state, stated

__all__ = [
    "LONGEST",
    "MOST_OF_CONVERSATION",
    "MOST_OF_PERSON",
    "Fact",
    "FactGone",
    "FactTooLong",
    "MemoryFull",
    "MemoryRefused",
    "NowhereElse",
    "Outcome",
    "Stated",
    "TooLate",
    "change_scope",
    "confirm",
    "edit",
    "forget",
    "histories",
    "history",
    "is_forgotten",
    "learn",
    "may_state",
    "note_stated",
    "outlive",
    "pin",
    "remember",
    "restore",
    "said_by",
    "stated",
    "unsay",
]
