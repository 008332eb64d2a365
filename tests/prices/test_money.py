"""Amounts: what a person may write, and what they read."""

from __future__ import annotations

import pytest
from django import forms
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from conversations.money import CENT, DOLLAR, MOST, DollarField, dollars, exact, parse_dollars

amounts = st.integers(min_value=0, max_value=MOST)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("5", 5 * DOLLAR),
        ("5.00", 5 * DOLLAR),
        ("$5", 5 * DOLLAR),
        (" $ 5. ", 5 * DOLLAR),
        (".5", DOLLAR // 2),
        ("1,000.50", 1_000 * DOLLAR + DOLLAR // 2),
        ("1,000,000", MOST),
        ("0", 0),
        ("0.0028", 2_800_000),
        ("0.000000001", 1),
        ("1.0000000000000", DOLLAR),
    ],
)
def test_an_amount_is_read_to_the_nano_dollar(text: str, nano: int) -> None:
    assert parse_dollars(text) == nano


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-5", "An amount cannot be negative."),
        ("$-5", "An amount cannot be negative."),
        ("-$5", "An amount cannot be negative."),
        ("\N{MINUS SIGN}5", "An amount cannot be negative."),
        ("-0.01", "An amount cannot be negative."),
        ("1,000,001", "The most is $1,000,000.00."),
        ("1000000.000000001", "The most is $1,000,000.00."),
        ("9" * 5_000, "The most is $1,000,000.00."),
        ("0.0000000001", "An amount has at most nine decimals."),
        *(
            (text, "Write an amount in dollars, such as 5 or 1,000.50.")
            for text in (
                *(
                    "NaN",
                    "nan",
                    "inf",
                    "-inf",
                    "1e30",
                    "1E3",
                    "0x10",
                    "five",
                    "",
                    ".",
                    "$",
                    "-",
                    "$.",
                    "1_000",
                ),
                *("1,00,0", "1,50", ",500", "1,0000", "1000,000", "1,000,00", "1.000,50", "1.2.3", "5 5"),
                *(
                    "$$5",
                    "5$",
                    "€5",
                    "\N{ARABIC-INDIC DIGIT FIVE}",
                    "\N{DEVANAGARI DIGIT FIVE}",
                    "5\x00",
                    "5\n5",
                    "(5)",
                    "+5",
                ),
            )
        ),
    ],
)
def test_what_is_no_amount_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        parse_dollars(text)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (12, "$0.000000012"),
        (126, "$0.00000013"),
        (4_100_000, "$0.0041"),
        (4_149_999, "$0.0041"),
        (4_000_000, "$0.0040"),
        (9_940_000, "$0.0099"),
        (9_950_000, "$0.01"),
        (9_999_999, "$0.01"),
        (CENT, "$0.01"),
        (14_999_999, "$0.01"),
        (15_000_000, "$0.02"),
        (3_630_000_000, "$3.63"),
        (999_995_000_000, "$1,000.00"),
        (1_234_500_000_000, "$1,234.50"),
        (MOST, "$1,000,000.00"),
        (-3_630_000_000, "-$3.63"),
        (-4_100_000, "-$0.0041"),
    ],
)
def test_an_amount_reads_as_dollars(nano: int, text: str) -> None:
    assert dollars(nano) == text


@given(amounts)
def test_a_form_takes_back_what_it_shows(nano: int) -> None:
    assert parse_dollars(exact(nano)) == nano


@given(amounts)
def test_what_people_read_is_close_and_is_read_again(nano: int) -> None:
    assert abs(parse_dollars(dollars(nano)) - nano) <= (CENT // 2 if nano >= CENT else nano // 20 + 1)


class TestField:
    def test_it_gives_nano_dollars(self) -> None:
        assert DollarField().clean("$1,000.50") == 1_000_500_000_000

    def test_empty_is_none_when_it_may_be_empty_and_zero_is_not_empty(self) -> None:
        assert DollarField(required=False).clean(" ") is None
        assert DollarField().clean("0") == 0
        with pytest.raises(ValidationError, match="required"):
            DollarField().clean("")

    def test_it_has_bounds(self) -> None:
        with pytest.raises(ValidationError, match=r"The least is \$0.01\."):
            DollarField(at_least=CENT).clean("0")
        with pytest.raises(ValidationError, match=r"The most is \$5.00\."):
            DollarField(at_most=5 * DOLLAR).clean("6")

    def test_a_form_shows_an_amount_and_knows_whether_it_changed(self) -> None:
        class Form(forms.Form):
            amount = DollarField(initial=2_500_000_000)

        assert 'value="2.50"' in str(Form())
        assert not Form({"amount": "$2.5"}).has_changed()
        assert Form({"amount": "2.51"}).has_changed()
        assert 'value="two"' in str(Form({"amount": "two"}))
