"""Characters that a small model names one by one, put together to numbers."""

from __future__ import annotations

from qwenvl.answer import TileObject
from recipes.instruments.characters import lines_of


def put(label, x, y, width=16, height=30, score=None):
    return TileObject(label, box=(x, y, x + width, y + height), score=score)


def test_characters_become_lines_from_the_top_whatever_their_order():
    found = lines_of(
        [
            put("rpm", 70, 112, 30, 14),
            put("four", 60, 12),
            put("seven", 30, 10, score=0.5),
            put("point", 48, 38, 5, 5),
            put("three", 8, 9, score=0.9),
            put("two", 40, 100),
            put("one", 15, 101),
            put("°C", 90, 12, 20, 12),
        ]
    )
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
    found = lines_of([put("one", 10, 10), put("three", 80, 10), put("four", 100, 10), put("°C", 120, 10, 14, 12)])
    assert sorted(line.text for line in found) == ["1", "34"]
    assert all("same row" in line.doubts[0] for line in found)
