"""Characters to values: known cases, and never a guess."""

from __future__ import annotations

import pytest

from workflows.science.instruments.values.sheet import FieldSpec
from workflows.science.instruments.values.values import Spotted, ValueStatus, judge, number_of

BOX = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("37.4", "37.4"),
        ("37,4", "37.4"),
        ("-0.50", "-0.50"),
        ("−3", "-3"),
        ("1 024", "1024"),
        ("１２", "12"),
        ("0,125", "0.125"),
        ("1.2e-3", "1.2e-3"),
    ],
)
def test_numbers(text, number):
    assert number_of(text) == number


@pytest.mark.parametrize("text", ["", "1,234", "1.2.3", "--1", "12a", ".5", "5.", "1 2", "- 5", "inf", "nan"])
def test_what_is_no_number_or_two_is_refused(text):
    with pytest.raises(ValueError, match=r"number|comma"):
        number_of(text)


@pytest.mark.parametrize(
    ("field", "spotted", "value", "reason"),
    [
        ({"unit": "°C"}, Spotted("37.40", BOX, "℃", 0.9), 37.4, None),
        ({"unit": "°C"}, Spotted("37.4", BOX, "°F"), None, "shows '°F', the sheet says '°C'"),
        ({}, Spotted("37.4", BOX, "g"), None, "the sheet says no unit"),
        ({"max": 40}, Spotted("374", BOX), None, "374 is above 40"),
        ({"min": 0}, Spotted("-1", BOX), None, "-1 is below 0"),
        ({"decimals": 1}, Spotted("374", BOX), None, "has 0 decimals"),
        ({"type": "integer"}, Spotted("37.5", BOX), None, "no whole number"),
        ({"type": "integer"}, Spotted("37", BOX), 37, None),
        ({"type": "integer"}, Spotted("1e308", BOX), None, "too large"),
        ({"type": "integer"}, Spotted("9" * 400, BOX), None, "too large"),
        ({}, Spotted("37", None), None, "no box"),
        ({}, Spotted("3..7", BOX), None, "no number"),
        ({}, Spotted("37", BOX, doubts=("3 and 8 in one place",)), None, "in one place"),
        ({"type": "string", "pattern": "^S[0-9]+$"}, Spotted("S24", BOX), "S24", None),
        ({"type": "string", "pattern": "^S[0-9]+$"}, Spotted("524", BOX), None, "does not match"),
        ({"type": "string", "enum": ["HE"]}, Spotted("PAS", BOX), None, "none of HE"),
    ],
)
def test_a_value_or_the_reason_why_not(field, spotted, value, reason):
    one = judge(FieldSpec.model_validate(field), spotted)
    assert one.value == value
    assert one.text == spotted.text
    assert one.status is (ValueStatus.READ if reason is None else ValueStatus.INVALID)
    if reason is not None:
        assert any(reason in words for words in one.reasons)
