"""Every malformed shape has its outcome."""

from __future__ import annotations

import pytest

from qwenvl.answer import Answer
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request
from tests.qwenvl.parse_cases import CASES, HEIGHT, WIDTH, Case

FRAME = PictureFrame.same(WIDTH, HEIGHT)


def answer_of(case: Case) -> Answer:
    return parse_answer(
        case.text,
        Request(task=case.task, labels=case.labels),
        dialect=case.dialect,
        space=CoordinateSpace.RELATIVE_1000,
        frame=FRAME,
        finish_reason=case.finish_reason,
        image=case.image,
    )


def tile_objects(case: Case) -> list[tuple]:
    """Expected objects in tile px: x is halved, y doubled."""
    return [
        (label, *(number / 2 if axis % 2 == 0 else number * 2 for axis, number in enumerate(numbers)))
        for label, *numbers in case.objects
    ]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.shape}-{case.name}" for case in CASES])
def test_shape(case: Case) -> None:
    answer = answer_of(case)
    found = [(item.label, *(item.box or item.point)) for item in answer.objects]
    assert (answer.status.value, found) == (case.status, tile_objects(case))
    assert answer.notes == case.notes
    assert answer.raw == case.text
    assert answer.reasoning == case.reasoning
    if case.scores is not None:
        assert tuple(item.score for item in answer.objects) == case.scores


def test_every_listed_shape_has_a_case() -> None:
    assert {case.shape for case in CASES} == set(range(77))
