"""Splitting: children own exactly what their parent owned, inside what it saw, at up to twice its magnification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status, TileObject
from qwenvl.request import Request
from workflows.run.splitting import Why, children_of, parent_of, path_of, why_split, zoom_of
from workflows.store.rows import TILE_DTYPE, tile_table
from wsi.grid import TileGrid
from wsi.tissue import TissueMask

MANY = tuple(TileObject("a", point=(i, i)) for i in range(40))


def owned(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How many of the tiles own each level-0 px."""
    count = np.zeros((size[1], size[0]), int)
    for row in rows:
        count[row["core_y0"] : row["core_y1"], row["core_x0"] : row["core_x1"]] += 1
    return count


grids = st.builds(
    lambda tile, lap, more, scale: (tile, int(lap * tile / 2), (tile * scale + more[0], tile * scale + more[1]), scale),
    st.sampled_from([32, 56, 96]),
    st.floats(0, 1),
    st.tuples(st.integers(0, 400), st.integers(0, 400)),
    st.sampled_from([1, 2, 3]),
)


@settings(max_examples=60, deadline=None)
@given(grids, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([2.0, 1.5, 1.25]))
def test_splits_at_any_depth_keep_every_px_owned_once(case, chance, same_scale: bool, zoom: float) -> None:
    tile_size, overlap, size, scale = case
    grid = TileGrid(size, tile_size=tile_size, overlap=overlap, mpp=scale * 0.5, mpp_xy=(0.5, 0.5))
    rows = list(tile_table(grid))
    before = owned(np.array(rows, TILE_DTYPE), size)
    assert (before == 1).all()
    for _ in range(4):
        parent = rows.pop(chance.randrange(len(rows)))
        children = children_of(parent, roots=len(grid), overlap=overlap, zoom=zoom, same_scale=same_scale)
        assert 1 <= len(children) <= 4
        for child in children:
            assert parent_of(int(child["tile"]), len(grid)) == parent["tile"]
            for at, length, picture, low, high in (
                ("x0", "width0", "width", "core_x0", "core_x1"),
                ("y0", "height0", "height", "core_y0", "core_y1"),
            ):
                assert parent[at] <= child[at] <= child[low] < child[high]
                assert child[high] <= child[at] + child[length] <= parent[at] + parent[length]
                found = (child[picture] / child[length]) / (parent[picture] / parent[length])
                if same_scale:
                    assert found == pytest.approx(1, abs=0.6 / child[picture])
                else:
                    assert 1 <= found <= zoom * (1 + 1e-6)
        rows += list(children)
    table = np.array(rows, TILE_DTYPE)
    assert len(np.unique(table["tile"])) == len(table)
    assert (owned(table, size) == 1).all()
    assert table["core_tissue"].sum() == size[0] * size[1]


def test_a_tile_inside_a_grid_becomes_four_of_twice_the_magnification() -> None:
    grid = TileGrid((2000, 2000), tile_size=256, overlap=64)
    row = tile_table(grid)[len(grid.columns0) + 1]
    assert (row["x0"], row["core_x0"], row["core_x1"]) == (192, 224, 416)
    children = children_of(row, roots=len(grid), overlap=64)
    assert children["tile"].tolist() == [len(grid) + 4 * int(row["tile"]) + k for k in range(4)]
    assert children["x0"].tolist() == [208, 304, 208, 304]
    assert set(children["width0"].tolist()) == {128}
    assert children["core_x0"].tolist() == [224, 320, 224, 320]
    assert children["core_x1"].tolist() == [320, 416, 320, 416]


def test_children_without_tissue_are_left_out_and_the_tissue_is_kept(slide) -> None:
    grid = TileGrid.from_slide(slide, tile_size=224, overlap=32, mpp=0.5)
    array = np.zeros((slide.height, slide.width), bool)
    array[:100, :90] = True
    mask = TissueMask.from_array(array, slide)
    children = children_of(tile_table(grid)[0], roots=len(grid), overlap=32, mask=mask)
    assert len(children) == 1
    assert children["core_tissue"][0] == 9000


def test_paths_sort_children_at_the_place_of_their_parent() -> None:
    child = 10 + 4 * 3 + 2
    grandchild = 10 + 4 * child + 1
    assert path_of(3, 10) == (3,)
    assert path_of(grandchild, 10) == (3, 2, 1)
    assert sorted([4, grandchild, 2, 10 + 4 * 3], key=lambda tile: path_of(tile, 10)) == [2, 22, grandchild, 4]


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (Answer(Status.OK, MANY), {"split": 1}, Why.CROWDED),
        (Answer(Status.OK, MANY), {}, None),
        (Answer(Status.OK, MANY[:39]), {"split": 1}, None),
        (Answer(Status.OK, MANY[:12]), {"split": 1, "max_objects": 12}, Why.CROWDED),
        (Answer(Status.OK, MANY[:12]), {"split": 1, "crowded": 12}, Why.CROWDED),
        (Answer(Status.OK, value=40), {"split": 1, "task": "count"}, Why.CROWDED),
        (Answer(Status.OK, value=39), {"split": 1, "task": "count"}, None),
        (Answer(Status.TRUNCATED, finish_reason="length"), {"split": 1}, Why.TRUNCATED),
        (Answer(Status.TRUNCATED, finish_reason="loop"), {"split": 1}, Why.LOOP),
        (Answer(Status.TRUNCATED, finish_reason="loop"), {}, None),
        (Answer.failure("no"), {"split": 1}, None),
        (Answer.failure("no", notes=(OUT_OF_MEMORY,)), {}, Why.MEMORY),
        (Answer.failure("no", notes=(OUT_OF_MEMORY,)), {"task": "describe"}, Why.MEMORY),
    ],
)
def test_reasons_to_split(answer: Answer, fields: dict, expected: Why | None) -> None:
    assert why_split(answer, Request(**{"task": "detect", "labels": ("a",), **fields})) is expected


@pytest.mark.parametrize(
    ("width0", "expected"), [(512, 2.0), (500, 2.0), (400, 1.5), (256, 1.5), (171, 171 / 128), (128, None), (140, None)]
)
def test_magnification_goes_beyond_the_slide_only_so_far(width0: int, expected: float | None) -> None:
    tile = np.zeros(1, TILE_DTYPE)[0]
    tile["width"] = tile["height"] = 256
    tile["width0"] = tile["height0"] = width0
    assert zoom_of(tile) == (None if expected is None else pytest.approx(expected))
