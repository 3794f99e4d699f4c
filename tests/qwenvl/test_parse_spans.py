"""Every object knows where it and its numbers stand, and nothing is `ok` while something is left over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwenvl.answer import Answer, Status
from qwenvl.parse.boxes import objects
from qwenvl.parse.ledger import accounted, left_over
from tests.qwenvl.parse_cases import CASES, HEIGHT, WIDTH
from tests.qwenvl.test_parse import answer_of

PLACELESS = {"four corner pairs", "Qwen-VL quad", "polygon", "centre and size", "full-width brackets and digits"}
"""Boxes around corners, or numbers that no ASCII digits spell."""


def written_numbers(answer: Answer) -> list[list[float]]:
    """The numbers of each object as they stand in the text."""
    return [[float(answer.raw[start:end]) for start, end in item.number_spans] for item in answer.objects]


@pytest.mark.parametrize("case", [case for case in CASES if case.objects], ids=lambda case: case.name)
def test_numbers_stand_where_they_are_said_to(case: Any) -> None:
    answer = answer_of(case)
    for item, (_, *numbers), written in zip(answer.objects, case.objects, written_numbers(answer), strict=True):
        assert item.span is not None
        start, end = item.span
        assert 0 <= start < end <= len(answer.raw)
        if case.name in PLACELESS and not written:
            continue
        # What lies a little outside is clipped.
        assert [min(max(number, 0), 1000) for number in written] == numbers
        assert all(start <= first and last <= end for first, last in item.number_spans)
        size = (WIDTH, HEIGHT) * 2
        assert [number * side / 1000 for number, side in zip(numbers, size, strict=False)] == list(
            item.box or item.point or ()
        )
    spans = [span for item in answer.objects for span in item.number_spans]
    assert len(set(spans)) == len(spans)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if (case.status, case.dialect) == ("ok", "json") and len(case.objects) > 1],
    ids=lambda case: case.name,
)
def test_an_object_that_a_reader_loses_is_left_over(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a reader that says nothing of its last object."""
    real = objects.written_objects

    def forgetful(*args: Any, **settings: Any) -> Any:
        written = real(*args, **settings)
        return replace(written, candidates=written.candidates[:-1])

    monkeypatch.setattr(objects, "written_objects", forgetful)
    answer = answer_of(case)
    assert answer.status is Status.REPAIRED
    assert "leftover" in answer.notes


def test_the_account() -> None:
    text = '```json\n[{"a": 1}, {"b": 2}]\n```'
    spans = [(9, 17), (19, 27)]
    assert left_over(text, spans) == "```json\n[, ]\n```"
    assert left_over(text, [*spans, (10, 20), (0, 9), (27, len(text))]) == ""
    assert accounted(text, spans)
    for lost in range(len(spans)):
        assert not accounted(text, spans[:lost] + spans[lost + 1 :])
    assert not accounted(f"{text} 7", spans)
