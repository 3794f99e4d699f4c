"""Marks: where they are drawn, that the tile itself stays, and that they are recorded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from subjects import ASK, SCORE, pair

from qwenvl.answer import Status
from qwenvl.engines.fake import FakeEngine
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import PictureError
from qwenvl.images.marks import COLOURS, Mark, MarkKind, draw_marks
from qwenvl.request import Request
from qwenvl.subject import NamedPicture, Subject

Pictures = Sequence[NDArray[np.uint8]]
PALE = (230, 200, 220)


def tile(height: int = 300, width: int = 300) -> NDArray[np.uint8]:
    picture = np.full((height, width, 3), PALE, np.uint8)
    picture.setflags(write=False)
    return picture


def centre(drawn: NDArray[np.uint8], opacity: float = 0.5) -> tuple[float, float]:
    """Mean place, in px with corners at whole numbers, of what is at least half as strong as a line."""
    changed = np.abs(drawn.astype(int) - np.array(PALE)).sum(axis=2)
    y, x = np.nonzero(changed > opacity * changed.max())
    return float(x.mean() + 0.5), float(y.mean() + 0.5)


def test_a_box_is_where_it_says() -> None:
    drawn = draw_marks(tile(), [Mark.box(60, 90, 160, 210, colour="blue")])
    changed = np.abs(drawn.astype(int) - np.array(PALE)).sum(axis=2)
    changed = changed > changed.max() / 2
    rows, columns = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
    assert [rows.min(), rows.max() + 1] == pytest.approx([90, 210], abs=2)
    assert [columns.min(), columns.max() + 1] == pytest.approx([60, 160], abs=2)
    line, inside = drawn[150, 60].astype(int), drawn[150, 110].astype(int)
    blue = np.array(COLOURS["blue"])
    np.testing.assert_allclose(line, np.array(PALE) * 0.25 + blue * 0.75, atol=2)
    np.testing.assert_allclose(inside, np.array(PALE) * 0.85 + blue * 0.15, atol=2)
    assert (drawn[100, 30] == PALE).all()
    assert np.array_equal(drawn, draw_marks(tile(), [Mark.box(160, 210, 60, 90, colour="blue")]))


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (Mark.point(100, 40), (100, 40)),
        (Mark.point(100.5, 40.5), (100.5, 40.5)),
        (Mark.box(60, 90, 160, 210), (110, 150)),
        (Mark.outline([(50, 50), (150, 50), (150, 150), (50, 150)]), (100, 100)),
    ],
)
def test_marks_are_centred(mark: Mark, expected: tuple[float, float]) -> None:
    assert centre(draw_marks(tile(), [mark])) == pytest.approx(expected, abs=0.3)


def test_numbers_stay_within_the_picture() -> None:
    for x, y in ((0, 0), (299, 299), (299, 0), (0, 299), (150, 150)):
        bare = draw_marks(tile(), [Mark.point(x, y)])
        drawn = draw_marks(tile(), [Mark.point(x, y, number=12)])
        written = (drawn != bare).any(axis=2)
        rows, columns = np.nonzero(written.any(axis=1))[0], np.nonzero(written.any(axis=0))[0]
        assert 8 <= len(rows) <= 40
        assert 12 <= len(columns) <= 60, "both digits are there"
        assert (drawn[written] == 255).all(axis=1).any()
    assert not np.array_equal(
        draw_marks(tile(), [Mark.point(9, 90, number=1)]), draw_marks(tile(), [Mark.point(9, 90, number=2)])
    )


def test_bad_marks() -> None:
    for fields in (
        {"kind": "box", "points": [(1, 2)]},
        {"kind": "outline", "points": [(1, 2), (3, 4)]},
        {"kind": "point", "points": [(float("nan"), 1)]},
        {"kind": "point", "points": [(1, 1)], "colour": "beige"},
    ):
        with pytest.raises(ValidationError):
            Mark(**fields)  # type: ignore[arg-type]
    with pytest.raises(PictureError, match="lies outside a picture of 300x300"):
        draw_marks(tile(), [Mark.box(10, 10, 20, 20), Mark.point(400, 10)])
    draw_marks(tile(), [Mark.box(-50, -50, 20, 20)])  # cut off at the edge


def test_marks_reach_the_model_and_are_recorded(
    tiny: Callable[[str], Path], pictures: Pictures, server: Any, connect: Any
) -> None:
    import zlib

    mark = Mark.box(20, 20, 120, 120, number=1)
    asked = SCORE.model_copy(update={"marks": (mark,)})
    assert asked.hash != SCORE.hash
    assert Request.model_validate_json(asked.model_dump_json()) == asked
    before = pictures[0].copy()
    named = Subject((NamedPicture("", pictures[0], marks=(mark,)),))
    by_hand = draw_marks(pictures[0], [mark])
    local = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    for engine in (local, FakeEngine()):
        expected, without = engine.answer([by_hand, pictures[0]], SCORE)
        assert expected.scores["yes"] != pytest.approx(without.scores["yes"], abs=1e-6)
        for answer in (engine.answer([pictures[0]], asked)[0], engine.answer([named], SCORE)[0]):
            assert answer.scores == pytest.approx(expected.scores, abs=1e-6)
            assert answer.notes == ("marked:1",)
        two = engine.answer_many([pictures[0]], [SCORE, asked])
        assert [told[0].scores["yes"] for told in two] == pytest.approx(
            [without.scores["yes"], expected.scores["yes"]], abs=1e-6
        )
    np.testing.assert_array_equal(pictures[0], before)
    server.control(say={"content": "A cell."})
    answer = connect().answer(
        [pair(pictures[:2]), np.zeros((16, 16, 3), np.uint8)], ASK.model_copy(update={"marks": (mark,)})
    )
    assert (answer[0].notes, answer[1].status) == (("marked:1",), Status.FAILED)
    assert server.stats()["asked"][0]["crcs"] == [
        zlib.crc32(pictures[0].tobytes()),
        zlib.crc32(draw_marks(pictures[1], [mark]).tobytes()),
    ]
    assert mark.kind is MarkKind.BOX
