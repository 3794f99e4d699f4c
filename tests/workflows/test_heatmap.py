"""The heatmap: means over overlapping tiles, and NaN wherever nothing is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import MemorySlide, request_of
from test_report import Scripted

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.request import Task
from workflows.errors import RunNotFoundError
from workflows.report.images.grid_cells import CellGrid
from workflows.report.images.heatmap import read_heatmap
from workflows.run.slide import run_slide


def ask(task: Task, answers: list[Answer], out: Path, size: tuple[int, int] = (400, 400), **fields: object) -> Path:
    request = request_of(task, **{"tile_size": 200, "overlap": 0, "mpp": None, **fields})
    run_slide(MemorySlide(*size), request, Scripted(*answers), out, mask="all", overview=False)
    return out


def test_scores_land_on_their_tiles_and_failures_are_nan(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, scores={"yes": p}) for p in (0.25, 0.75, 0.0)] + [Answer.failure("x")]
    heatmap = read_heatmap(ask(Task.SCORE, answers, tmp_path / "run"))
    assert heatmap.channels == ("yes",)
    assert heatmap.unit == "probability"
    assert heatmap.cell0 == (200, 200)
    np.testing.assert_array_equal(heatmap.values[0], [[0.25, 0.75], [0.0, np.nan]])


def test_truncated_and_refused_tiles_are_unknown_not_zero(tmp_path: Path) -> None:
    answers = [
        Answer(Status.TRUNCATED, value=3),
        Answer(Status.REFUSED),
        Answer(Status.OK, value=2),
        Answer.failure("x"),
    ]
    heatmap = read_heatmap(ask(Task.COUNT, answers, tmp_path / "run"))
    assert heatmap.unit == "per mm2"
    known = 2 / (200 * 0.5e-3) ** 2
    np.testing.assert_allclose(heatmap.values[0], [[np.nan, np.nan], [known, np.nan]])


def test_overlapping_tiles_are_averaged_by_shared_area(tmp_path: Path) -> None:
    # Tiles start at 0 and 150 and 200 wide; cells are 150 wide: the second cell is all of tile 2 and 50 px of tile 1.
    answers = [Answer(Status.OK, scores={"yes": p}) for p in (1.0, 0.0)]
    heatmap = read_heatmap(ask(Task.SCORE, answers, tmp_path / "run", (350, 200), overlap=50))
    first, second, third = heatmap.values[0, 0]
    assert first == 1
    assert second == pytest.approx(50 / (50 + 150))
    assert third == 0


def test_objects_become_densities_per_label(tmp_path: Path) -> None:
    def at(x: float, y: float, label: str) -> TileObject:
        return TileObject(label, box=(x - 5, y - 5, x + 5, y + 5))

    answers = [
        Answer(Status.OK, (at(50, 50, "tumour"), at(150, 50, "tumour"), at(100, 100, "lymphocyte"))),
        Answer(Status.EMPTY),
        Answer(Status.TRUNCATED, (at(50, 50, "tumour"),)),
        Answer.failure("x"),
    ]
    heatmap = read_heatmap(ask(Task.DETECT, answers, tmp_path / "run"))
    assert heatmap.channels == ("tumour", "lymphocyte")
    one = 1 / (200 * 0.5e-3) ** 2
    np.testing.assert_allclose(heatmap.values[0], [[2 * one, 0], [np.nan, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(heatmap.values[1], [[one, 0], [np.nan, np.nan]], rtol=1e-6)


def test_metadata_places_the_cells_on_the_slide(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, scores={"yes": 0.5})] * 4
    group = zarr.open_group(ask(Task.SCORE, answers, tmp_path / "run") / "heatmap.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    scale, translation = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "y", "x"]
    assert ome["multiscales"][0]["axes"][1]["unit"] == "micrometer"
    assert scale["scale"] == [1.0, 100.0, 100.0]
    assert translation["translation"] == [0.0, 49.75, 49.75]
    assert group["0"].metadata.dimension_names == ("c", "y", "x")


def test_tasks_in_words_have_none(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError):
        read_heatmap(ask(Task.DESCRIBE, [Answer(Status.OK, text="x")] * 4, tmp_path / "run"))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 17), st.integers(1, 13), st.integers(0, 2**31))
def test_spreading_keeps_areas(width: int, height: int, cell_x: int, cell_y: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = CellGrid((width, height), (cell_x, cell_y))
    low = rng.integers(0, (width, height), (5, 2))
    high = np.minimum(low + rng.integers(1, 40, (5, 2)), (width, height))
    rects = np.concatenate([low, high], axis=1)
    values = rng.random(5)
    total, weight = cells.spread(rects, values)
    areas = np.prod(high - low, axis=1)
    assert weight.sum() == areas.sum()
    assert total.sum() == pytest.approx((areas * values).sum())
    picture = np.zeros((height, width))
    for x0, y0, x1, y1 in rects:
        picture[y0:y1, x0:x1] += 1
    row, column = rng.integers(0, cells.shape[0]), rng.integers(0, cells.shape[1])
    part = picture[row * cell_y : (row + 1) * cell_y, column * cell_x : (column + 1) * cell_x]
    assert weight[row, column] == part.sum()
    assert cells.areas().sum() == width * height
