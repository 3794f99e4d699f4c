"""The stand-in engine: answers of the right shape that depend on the picture alone."""

from __future__ import annotations

import numpy as np
import pytest
from run_helpers import request_of

from qwenvl.answer import Status
from qwenvl.engines.fake import FakeEngine
from qwenvl.errors import PictureError
from qwenvl.request import Task


@pytest.mark.parametrize("task", list(Task))
def test_the_same_picture_gets_the_same_answer(task: Task) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(3)]
    request = request_of(task)
    together = FakeEngine(boxes=9).answer(pictures, request)
    apart = [FakeEngine(boxes=9).answer([picture[:, :]], request)[0] for picture in pictures]
    assert together == apart
    assert len({repr(answer) for answer in together}) > 1
    for answer in together:
        assert answer.status is Status.OK
        assert answer.raw


def test_boxes_lie_inside_the_picture_and_keep_to_the_limit() -> None:
    picture = np.zeros((50, 80, 3), np.uint8)
    answer = FakeEngine(boxes=400, side=30).answer([picture], request_of(Task.DETECT, max_objects=100))[0]
    boxes = np.array([each.box for each in answer.objects])
    assert len(boxes) == 100
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 80).all()
    assert (boxes[:, [1, 3]] <= 50).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_a_picture_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(PictureError):
        FakeEngine().answer([np.zeros((4, 4), np.uint8)], request_of(Task.DETECT))
