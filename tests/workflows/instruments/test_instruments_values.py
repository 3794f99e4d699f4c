"""Characters to values: known cases, and never a guess."""

from __future__ import annotations

import pytest

from qwenvl.answer import TileObject
from workflows.instruments.sheet import FieldSpec
from workflows.instruments.spotted import Spotted, lines_of
from workflows.instruments.values import ValueStatus, judge, number_of

BOX = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [("37.4", "37.4"), ("37,4", "37.4"), ("-0.50", "-0.50"), ("−3", "-3"), ("1 024", "1024"), ("１２", "12"),
     ("0,125", "0.125"), ("1.2e-3", "1.2e-3")],
)  # fmt: skip
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


def put(label, x, y, width=16, height=30, score=None):
    return TileObject(label, box=(x, y, x + width, y + height), score=score)


def test_characters_become_lines_from_the_top_whatever_their_order():
    found = lines_of(
        [put("rpm", 70, 112, 30, 14), put("four", 60, 12), put("seven", 30, 10, score=0.5), put("point", 48, 38, 5, 5),
         put("three", 8, 9, score=0.9), put("two", 40, 100), put("one", 15, 101), put("°C", 90, 12, 20, 12)]
    )  # fmt: skip
    assert [(line.text, line.unit) for line in found] == [("37.4", "°C"), ("12", "rpm")]
    assert found[0].box == (8, 9, 76, 43)
    assert found[0].score == 0.5


def test_two_digits_in_one_place_are_a_doubt():
    (line,) = lines_of([put("three", 10, 10), put("eight", 12, 10), put("one", 40, 10)])
    assert line.doubts == ("3 and 8 in one place",)


def test_two_units_beside_one_number_are_a_doubt():
    (line,) = lines_of([put("three", 10, 10), put("g", 30, 10, 10, 12), put("%", 42, 10, 10, 12)])
    assert "several units" in line.doubts[0]


def test_nothing_is_nothing():
    assert lines_of([]) == []
    assert lines_of([put("g", 0, 0)]) == []


def test_every_character_of_a_tilted_line_belongs_to_it():
    glyphs = [put("nine", 39, 152, 29, 44), put("nine", 80, 153, 29, 44), put("point", 111, 190, 7, 7)]
    for order in (1, -1):
        (line,) = lines_of([put("eight", 121, 155, 29, 43), *glyphs[::order]])
        assert line.text == "99.8"


def test_a_gap_in_a_row_is_a_doubt_for_both_sides():
    found = lines_of(
        [put("one", 10, 10), put("three", 80, 10), put("four", 100, 10), put("°C", 120, 10, 14, 12)]
    )
    assert sorted(line.text for line in found) == ["1", "34"]
    assert all("same row" in line.doubts[0] for line in found)
