"""The overview picture: boxes, heatmap and failures are where they belong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from run_helpers import MemorySlide, request_of
from test_report import Scripted

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.report.images.colours import FAILED, PALETTE
from workflows.report.images.legend import WIDTH
from workflows.run.slide import run_slide


def draw(task: Task, answers: list[Answer] | None, slide: MemorySlide, out: Path, **fields: object) -> np.ndarray:
    request = request_of(task, **{"tile_size": 200, "overlap": 0, "mpp": None, **fields})
    engine = FakeEngine(boxes=60) if answers is None else Scripted(*answers)
    run_slide(slide, request, engine, out, mask="all")
    return cv2.cvtColor(cv2.imread(str(out / "overview.png")), cv2.COLOR_BGR2RGB)


def has(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    return np.argwhere((np.abs(picture.astype(int) - colour) <= tolerance).all(axis=-1))


def test_boxes_are_drawn_in_place_and_a_small_slide_is_enlarged(tmp_path: Path) -> None:
    box = TileObject("tumour", box=(50, 60, 150, 120))
    answers = [Answer(Status.OK, (box,)), *[Answer(Status.EMPTY)] * 3]
    picture = draw(Task.DETECT, answers, MemorySlide(400, 400), tmp_path / "run")
    slide = picture[:, :-WIDTH]
    assert slide.shape[:2] == (1024, 1024)
    drawn = has(slide, PALETTE[0])
    factor = 1024 / 400
    assert drawn.min(axis=0) == pytest.approx([60 * factor, 50 * factor], abs=2)
    assert drawn.max(axis=0) == pytest.approx([120 * factor, 150 * factor], abs=2)
    assert len(has(picture[:, -WIDTH:], PALETTE[0])) > 200, "the legend names the colour"


def test_failed_tiles_are_hatched(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, scores={"yes": 0.5})] * 3 + [Answer.failure("x")]
    slide = draw(Task.SCORE, answers, MemorySlide(400, 400), tmp_path / "run")[:, :-WIDTH]
    red = has(slide, FAILED)
    assert red.min() >= 511
    assert 0.1 < len(red) / 512**2 < 0.5


def test_scores_colour_the_slide_only_where_known(tmp_path: Path) -> None:
    whole = MemorySlide(400, 400)
    answers = [Answer(Status.OK, scores={"yes": p}) for p in (0.0, 1.0)] + [Answer(Status.REFUSED)] * 2
    slide = draw(Task.SCORE, answers, whole, tmp_path / "run")[:900, :-WIDTH]
    plain = cv2.resize(whole.thumbnail(2048), (1024, 1024), interpolation=cv2.INTER_CUBIC)[:900]
    np.testing.assert_array_equal(slide[520:], plain[520:])
    changed = np.abs(slide[:500].astype(int) - plain[:500]).mean(axis=(0, 2))
    assert changed.min() > 5


def test_dense_large_slides_get_a_density_map_and_an_enlarged_part(tmp_path: Path) -> None:
    slide = MemorySlide(9000, 9000, 0.5)
    picture = draw(Task.DETECT, None, slide, tmp_path / "run", tile_size=448)
    assert picture.shape[0] == 2048
    panel = picture[:, -WIDTH:]
    assert len(has(panel, PALETTE[0])) + len(has(panel, PALETTE[1])) > 1500, "boxes are seen in the enlarged part"


def test_what_cannot_be_read_is_gray_and_does_not_end_the_run(tmp_path: Path) -> None:
    slide = MemorySlide(400, 400, broken=(0, 0, 100, 100))
    slide.levels = slide.levels[:1]
    picture = draw(Task.DETECT, [Answer(Status.EMPTY)] * 3, slide, tmp_path / "run")
    assert len(has(picture[:200, :200], (128, 128, 128), 2)) > 5000
