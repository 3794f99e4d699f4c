"""Records of overlapping windows: merged where they agree, kept and marked where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from workflows.science.papers.values.finding import How
from workflows.science.papers.values.merging import WindowReading, alike, merge_records
from workflows.science.papers.values.placing import Anchor, FoundText

KEY = ("gene", "method")


def reading(
    window: int, page: int = 1, top: float = 10.0, missing: tuple[str, ...] = (), **values: Any
) -> WindowReading:
    """A reading whose values stand in a row at `top`, one column each; those of `missing` were not found."""
    columns = {"gene": 0.0, "method": 50.0, "n": 100.0, "value": 150.0, "unit": 200.0}
    fields = {
        name: FoundText(Anchor.MISSING, page)
        if name in missing
        else FoundText(Anchor.ANCHORED, page, ((columns[name], top, columns[name] + 40, top + 10),), How.EXACT, 1, True)
        for name in values
    }
    return WindowReading(values, page, fields, ((window, page),))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (12, 12.0, True),
        (0.1, 0.10, True),
        (12, "12", False),
        ("TP53", "tp53", True),
        ("T-cell", "T \u2013 cell", True),
        ("3.4\u00b10.2", "3.4 \u00b1 0.2", True),
        ("a", "b", False),
        (True, 1, False),
        ([1, "A"], [1.0, "a"], True),
        ({"a": 1}, {"a": 2}, False),
        (None, None, True),
    ],
)
def test_alike(one, other, same):
    assert alike(one, other) is same


def test_the_same_row_of_two_windows_is_one_record():
    merged = merge_records(
        [reading(0, gene="TP53", method="ELISA", n=12), reading(1, gene="tp53", method="ELISA", n=12.0)], KEY
    )
    (record,) = merged.records
    assert record.seen == ((0, 1), (1, 1))
    assert merged.contradictions == ((),)


def test_a_missing_value_is_taken_from_the_other_reading():
    parts = [
        reading(0, gene="TP53", method="ELISA", n=12, value=None),
        reading(1, gene="TP53", method="ELISA", value=3.5),
    ]
    for readings in (parts, parts[::-1]):
        (record,) = merge_records(readings, KEY).records
        assert (record.values["n"], record.values["value"]) == (12, 3.5)
        assert record.fields["value"].anchor is Anchor.ANCHORED


def test_other_keys_stay_apart():
    merged = merge_records(
        [
            reading(0, gene="TP53", method="ELISA", n=12),
            reading(0, top=30, gene="TP53", method="qPCR", n=12),
            reading(0, top=50, gene="MYC", method="qPCR", n=12),
        ],
        KEY,
    )
    assert len(merged.records) == 3
    assert merged.contradictions == ((), (), ())


def test_contradictions_are_kept_and_marked():
    merged = merge_records(
        [
            reading(0, gene="TP53", method="ELISA", value=3.5),
            reading(1, missing=("value",), gene="TP53", method="ELISA", value=8.5),
        ],
        KEY,
    )
    assert {record.values["value"] for record in merged.records} == {3.5, 8.5}
    for number, found in enumerate(merged.contradictions):
        (contradiction,) = found
        assert contradiction.other == 1 - number
        assert contradiction.fields == ("value",)
        assert contradiction.same_place


def test_a_document_that_says_both_is_told_from_a_misreading():
    merged = merge_records(
        [
            reading(0, gene="TP53", method="ELISA", value=3.5),
            reading(0, page=4, top=300, gene="TP53", method="ELISA", value=8.5),
        ],
        KEY,
    )
    assert [c.same_place for found in merged.contradictions for c in found] == [False, False]


def test_a_misread_key_is_marked_by_its_place():
    merged = merge_records(
        [
            reading(0, gene="TP53", method="ELISA", n=12, value=3.5),
            reading(1, missing=("gene",), gene="TPS3", method="ELISA", n=12, value=3.5),
        ],
        KEY,
    )
    assert [c.fields for found in merged.contradictions for c in found] == [("gene",), ("gene",)]


def test_a_reading_that_could_complete_two_records_completes_neither_by_guess():
    full = [
        reading(0, gene="TP53", method="ELISA", value=3.5),
        reading(0, top=30, gene="TP53", method="ELISA", value=8.5),
    ]
    merged = merge_records([*full, reading(1, top=500, gene="TP53", method="ELISA", n=12)], KEY)
    assert len(merged.records) == 3
    assert all("n" not in record.values for record in merged.records if record.values.get("value"))
    near = merge_records([*full, reading(1, gene="TP53", method="ELISA", unit=None)], KEY)
    assert len(near.records) == 2


def test_values_whose_place_is_known_win():
    (record,) = merge_records(
        [
            reading(0, missing=("gene", "n"), gene="tp53", method="ELISA", n=12),
            reading(1, gene="TP53", method="ELISA", n=12),
        ],
        KEY,
    ).records
    assert record.values["gene"] == "TP53"
    assert record.fields["n"].anchor is Anchor.ANCHORED


def test_records_come_in_reading_order():
    given = [reading(0, 2, 10, gene="C"), reading(0, 1, 90, gene="B"), reading(0, 1, 10, gene="A")]
    assert [record.values["gene"] for record in merge_records(given, ("gene",)).records] == ["A", "B", "C"]
    assert merge_records([], KEY).records == ()
