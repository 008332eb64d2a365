"""Numbers of the inspector as its pages write them."""

from __future__ import annotations

from django import template

from conversations.money import DOLLAR, exact
from conversations.replies.status import ordinal

register = template.Library()


@register.filter
def share(part: float | None) -> str:
    """A share of one: "74 %", "0.4 %"; what is nearly all of it is not called all of it."""
    if part is None:
        return ""
    percent = part * 100
    if percent == 0 or 10 <= percent < 99.5 or percent == 100 or percent > 100.5:
        return f"{percent:,.0f} %"
    return f"{percent:.1f} %" if percent < 99.95 or percent > 100 else "99.9 %"


@register.filter
def mille(length: int) -> str:
    """A length of a drawing: per mille as per cent."""
    return f"{length // 10}.{length % 10}%"


@register.filter
def to_the_last(nano: int) -> str:
    """An amount with every digit, so that parts add up to their sum: "$0.0040995"."""
    return f"-${exact(-nano)}" if nano < 0 else f"${exact(nano)}"


@register.filter
def per_million(rate: int) -> str:
    """Dollars for a million tokens, two decimals and more if it has them."""
    return f"{rate / DOLLAR:.2f}" if rate % (DOLLAR // 100) == 0 else exact(rate)


@register.filter
def nth(number: int) -> str:
    """Of an attempt: "Second"."""
    return ordinal(number).capitalize()
