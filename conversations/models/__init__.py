"""The tables, one module per noun; constraints and querysets live with the noun."""

from .budget import (
    Budget,
    BudgetGrant,
    DailySpend,
    GroupLimit,
    Hold,
    LedgerEntry,
    PriceOverride,
    Purpose,
    Scope,
    SpendAlert,
)
from .conversation import DEFAULT_TITLE, Conversation
from .memory import MemoryItem
from .message import Message
from .preset import SavedPreset
from .provider import Provider, ProviderModel
from .recall import MessageBranch, MessagePlace, MessagePosting
from .reply import UNFINISHED, Reply, ReplyAttempt, ReplyState
from .summary import ConversationSummary
from .system_prompt import SystemPrompt
from .user import Invitation, User

__all__ = [
    "DEFAULT_TITLE",
    "UNFINISHED",
    "Budget",
    "BudgetGrant",
    "Conversation",
    "ConversationSummary",
    "DailySpend",
    "GroupLimit",
    "Hold",
    "Invitation",
    "LedgerEntry",
    "MemoryItem",
    "Message",
    "MessageBranch",
    "MessagePlace",
    "MessagePosting",
    "PriceOverride",
    "Provider",
    "ProviderModel",
    "Purpose",
    "Reply",
    "ReplyAttempt",
    "ReplyState",
    "SavedPreset",
    "Scope",
    "SpendAlert",
    "SystemPrompt",
    "User",
]
