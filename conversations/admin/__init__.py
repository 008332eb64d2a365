"""The admin, one module per noun."""

from . import budgets, conversations, groups, people, presets, prices, providers, replies, site

__all__ = [
    "budgets",
    "conversations",
    "groups",
    "people",
    "presets",
    "prices",
    "providers",
    "replies",
    "site",
]
