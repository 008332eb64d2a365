"""Dollars as people write and read them. Everywhere else an amount is an integer of nano-USD."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

#: Nano-USD in a dollar, and in a cent.
DOLLAR = 1_000_000_000
CENT = DOLLAR // 100
#: What an amount may be at most: a million dollars.
MOST = 1_000_000 * DOLLAR

_DECIMALS = 9  # a nano-USD is the ninth
_AMOUNT = re.compile(r"\$? ?(?P<whole>[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.(?P<part>[0-9]*))?")


def parse_dollars(text: str) -> int:
    """Nano-USD of "5", "5.00", "$5" or "1,000.50". Raises ValueError with a sentence for who wrote it."""
    text = text.strip()
    if re.match(r"\$? ?[-\N{MINUS SIGN}] ?\$? ?[0-9.]", text):
        raise ValueError("An amount cannot be negative.")
    found = _AMOUNT.fullmatch(text)
    whole, part = found.group("whole", "part") if found else (None, None)
    if not whole and not part:
        raise ValueError("Write an amount in dollars, such as 5 or 1,000.50.")
    part = (part or "").rstrip("0")
    if len(part) > _DECIMALS:
        raise ValueError("An amount has at most nine decimals.")
    digits = (whole or "0").replace(",", "").lstrip("0")
    if len(digits) > len(str(MOST)):  # thousands of digits are not worth turning into a number
        raise ValueError(f"The most is {dollars(MOST)}.")
    nano = int(digits or "0") * DOLLAR + int(part.ljust(_DECIMALS, "0"))
    if nano > MOST:
        raise ValueError(f"The most is {dollars(MOST)}.")
    return nano


def dollars(nano: int) -> str:
    """For reading: "$3.63", "$1,234.50", "$0.00"; below a cent two significant digits, "$0.0041"."""
    if nano < 0:
        return f"-{dollars(-nano)}"
    digits = len(str(nano))
    step = 10 ** (digits - 2) if digits > 2 else 1
    if nano == 0 or nano >= CENT or _rounded(nano, step) >= CENT:
        whole, part = divmod(_rounded(nano, CENT), DOLLAR)
        return f"${whole:,}.{part // CENT:02}"
    decimals = _DECIMALS - max(digits - 2, 0)
    return f"$0.{_rounded(nano, step):0{_DECIMALS}}"[: len("$0.") + decimals]


def closely(nano: int) -> str:
    """For amounts that are weighed against each other: below a dollar three significant digits, "$0.0195", "$0.06"."""
    digits = len(str(nano))
    if not CENT <= nano < DOLLAR or _rounded(nano, step := 10 ** (digits - 3)) >= DOLLAR:
        return dollars(nano)
    return f"${exact(_rounded(nano, step))}"


def exact(nano: int) -> str:
    """Every digit and at least two decimals, as a form shows and takes it: "2.00", "0.0028"."""
    whole, part = divmod(abs(nano), DOLLAR)
    decimals = f"{part:0{_DECIMALS}}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}{whole}.{decimals}"


def _rounded(nano: int, step: int) -> int:
    return (nano + step // 2) // step * step


class DollarField(forms.Field):
    """An amount in dollars, as text; its value is nano-USD, None when it was left empty."""

    widget = forms.TextInput

    def __init__(self, *, at_least: int = 0, at_most: int = MOST, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.at_least, self.at_most = at_least, at_most

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {"inputmode": "decimal", "autocomplete": "off"}

    def prepare_value(self, value: Any) -> Any:
        return exact(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:
        if value is None or isinstance(value, int):
            return value
        text = str(value).strip()
        if not text:
            return None
        try:
            return parse_dollars(text)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def validate(self, value: int | None) -> None:
        super().validate(value)
        if value is None:
            return
        if value < self.at_least:
            raise ValidationError(f"The least is ${exact(self.at_least)}.")
        if value > self.at_most:
            raise ValidationError(f"The most is {dollars(self.at_most)}.")
