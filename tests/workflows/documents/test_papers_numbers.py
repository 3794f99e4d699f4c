"""Numbers as papers print them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.science.papers.values.numbers import as_number, decimal_comma, printed_numbers


@pytest.mark.parametrize(
    ("text", "comma", "values"),
    [
        ("1,234.5 mg", False, ["1234.5"]),
        ("1,234", False, ["1234"]),
        ("1.234,5 mg", True, ["1234.5"]),
        ("12.345", True, ["12345"]),
        ("12,345", True, ["12.345"]),
        ("0,5", False, ["0.5"]),
        ("1.200", False, ["1.200"]),
        ("-3 and \u22124.2", False, ["-3", "-4.2"]),
        ("10-12", False, ["10", "12"]),
        ("IL-6, CD8A, HLA-DR1, p53", False, []),
        ("(n=12); n = 13.", False, ["12", "13"]),
        ("p<0.001", False, ["0.001"]),
        ("1.2 \u00d7 10-3, 2e-5, 3E+02", False, ["0.0012", "0.00002", "300"]),
        ("1'200", False, ["1200"]),
        ("12 345", False, ["12", "345", "12345"]),
        ("12.5%", False, ["12.5"]),
        ("version 1.2.3", False, []),
        ("3.4 \u00b1 0.2", False, ["3.4", "0.2"]),
        (".05", False, ["0.05"]),
    ],
)
def test_numbers_are_read_as_printed(text, comma, values):
    found = [value for _, _, value in printed_numbers(text, comma=comma)]
    assert found == [Decimal(value) for value in values]


@given(st.integers(0, 10**9), st.integers(0, 3))
def test_any_number_with_thousands_is_found_at_its_place(whole, places):
    value = Decimal(whole).scaleb(-places)
    text = f"reached {value:,} mg"
    start, stop, found = next(iter(printed_numbers(text, comma=False)))
    assert (text[start:stop], found) == (f"{value:,}", value)


def test_the_documents_habit_decides_about_commas():
    assert decimal_comma("0,5 und 12,34 sowie 1.234")
    assert not decimal_comma("0.5 and 12.34 and 1,234")
    assert not decimal_comma("no numbers")


def test_json_numbers():
    assert as_number(3.40) == Decimal("3.4")
    assert as_number(True) is None
    assert as_number("3") is None
    assert as_number(float("nan")) is None
