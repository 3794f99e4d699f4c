"""Boxes within extracted values: known numbers to known px."""

from __future__ import annotations

import json

import pytest

from qwenvl.answer import Status
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task

REQUEST = Request(task=Task.EXTRACT, output_schema={"type": "object"})


FRAME = PictureFrame.same(200, 100)


def read(value, *, space=CoordinateSpace.RELATIVE_1000, frame=FRAME):
    return parse_answer(json.dumps(value), REQUEST, dialect="json", space=space, frame=frame)


def test_each_box_is_placed_and_named_by_its_keys():
    value = {
        "temperature": {"bbox_2d": [100, 200, 500, 600], "text": "37.4"},
        "rows": [{"mass": None}, {"mass": {"bbox_2d": [0, 0, 1000, 1000], "text": "2", "sure": True}}],
    }
    answer = read(value)
    assert answer.status is Status.OK
    assert answer.value == value
    assert [(o.label, o.box, dict(o.attributes)) for o in answer.objects] == [
        ("temperature", (20.0, 20.0, 100.0, 60.0), {"text": "37.4"}),
        ("rows/1/mass", (0.0, 0.0, 200.0, 100.0), {"text": "2", "sure": True}),
    ]


def test_absolute_numbers_are_px_of_the_resized_picture():
    frame = PictureFrame(200, 100, 400, 200)
    answer = read({"a": {"bbox_2d": [100, 50, 400, 200]}}, space=CoordinateSpace.ABSOLUTE_RESIZED, frame=frame)
    assert answer.objects[0].box == (50.0, 25.0, 200.0, 100.0)


@pytest.mark.parametrize(
    ("box", "notes", "boxes"),
    [
        ([500, 600, 100, 200], ("corners:1",), [(20.0, 20.0, 100.0, 60.0)]),
        ([100, 200, 4000, 600], ("out_of_range:1", "dropped:1:outside"), []),
        ([100, 200, 100, 600], ("dropped:1:zero_area",), []),
    ],
)
def test_a_box_that_cannot_stand_is_mended_or_dropped_and_noted(box, notes, boxes):
    answer = read({"a": {"bbox_2d": box, "text": "1"}})
    assert answer.status is Status.REPAIRED
    assert [o.box for o in answer.objects] == boxes
    assert answer.notes[-len(notes) :] == notes or set(notes) <= set(answer.notes)


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], "1 2 3 4", None])
def test_what_is_no_box_is_left_alone(box):
    answer = read({"a": {"bbox_2d": box}})
    assert (answer.status, answer.objects) == (Status.OK, ())


def test_without_a_picture_there_are_no_boxes_but_the_value_stays():
    answer = read({"a": {"bbox_2d": [1, 2, 3, 4]}}, frame=None)
    assert answer.objects == ()
    assert answer.value == {"a": {"bbox_2d": [1, 2, 3, 4]}}
    assert "unplaced" in answer.notes
