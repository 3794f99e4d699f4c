"""Many questions to one engine: none is lost to its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.engines.fake import FakeEngine
from qwenvl.engines.questions import answer_each
from qwenvl.errors import EngineError, ServerError
from qwenvl.request import Request

ASK = Request(task="ask", prompt="What?")
IMAGES = [np.full((8, 8, 3), n, np.uint8) for n in range(7)]


class RaisingEngine(FakeEngine):
    """Raises on one image."""

    def __init__(self, error: Exception, on: int = 5) -> None:
        super().__init__(batch=3)
        self.error, self.on, self.sizes = error, on, list[int]()

    def answer(self, pictures: Sequence[np.ndarray], request: Request) -> list[Answer]:
        self.sizes.append(len(pictures))
        if any(picture.flat[0] == self.on for picture in pictures):
            raise self.error
        return super().answer(pictures, request)


@pytest.mark.parametrize(
    ("error", "sizes", "notes"),
    [
        (ValueError("ugly"), [3, 3, 1, 1, 1, 1], ("asked-alone:ValueError",)),
        (MemoryError(), [3, 3, 1, 2, 1, 1, 1, 1], ("asked-alone:MemoryError", OUT_OF_MEMORY)),
    ],
)
def test_one_item_fails_alone(error: Exception, sizes: list[int], notes: tuple[str, ...]) -> None:
    engine = RaisingEngine(error)
    answers = list(answer_each(engine, iter(IMAGES), ASK))
    assert [answer.status is Status.FAILED for answer in answers] == [n == 5 for n in range(7)]
    assert answers[5].notes == notes
    assert sorted(engine.sizes) == sorted(sizes)


def test_an_unusable_model_ends_it() -> None:
    with pytest.raises(EngineError, match="gone"):
        list(answer_each(RaisingEngine(EngineError("gone")), IMAGES, ASK))


def test_answers_before_a_server_was_lost_are_given_first() -> None:
    error = ServerError("gone", code="away", answers=[[Answer(Status.OK, text="here"), None, None]])
    found = answer_each(RaisingEngine(error, on=1), IMAGES, ASK)
    assert next(found).text == "here"
    with pytest.raises(ServerError):
        next(found)
