"""The grid covers the tissue, stays inside the slide, and divides the plane without gap or quarrel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi import TileGrid, TissueMask
from wsi.errors import GridError, MaskError, UnknownMppError


@st.composite
def grids(draw: st.DrawFn, gaps: bool = True) -> TileGrid:
    """Grids of small slides, with any scale, overlap and mask."""
    size = draw(st.integers(40, 300)), draw(st.integers(40, 300))
    tile = draw(st.integers(4, 40))
    overlap = draw(st.integers(0, tile - 1))
    scale = draw(st.floats(0.3, 1.0)), draw(st.floats(0.3, 1.0))
    mask = None
    if gaps:
        shape = draw(st.integers(1, 30)), draw(st.integers(1, 30))
        bits = draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        array = np.array(bits).reshape(shape)
        array[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = True
        mask = TissueMask(array, (size[0] / shape[1], size[1] / shape[0]))
    return TileGrid(size, tile_size=tile, overlap=overlap, mpp=1.0, mpp_xy=(1 / scale[0], 1 / scale[1]), mask=mask)


def _painted(rects: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How many rectangles hold each px."""
    count = np.zeros((size[1], size[0]), int)
    for x_min, y_min, x_max, y_max in rects:
        count[y_min:y_max, x_min:x_max] += 1
    return count


def _tissue(mask: TissueMask, size: tuple[int, int]) -> np.ndarray:
    """Level-0 px whose centre lies in the mask."""
    rows = ((np.arange(size[1]) + 0.5) / mask.scale_xy[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) / mask.scale_xy[0]).astype(int)
    return mask.array[np.ix_(np.minimum(rows, mask.array.shape[0] - 1), np.minimum(columns, mask.array.shape[1] - 1))]


@given(grids())
@settings(max_examples=150, deadline=None)
def test_all_of_the_mask_is_covered_by_tiles_inside_the_slide(grid: TileGrid) -> None:
    rects = grid.rects
    assert rects[:, :2].min() >= 0
    assert rects[:, 2].max() <= grid.size[0]
    assert rects[:, 3].max() <= grid.size[1]
    assert (rects[:, 2:] - rects[:, :2] == grid.side0).all()
    assert (_painted(rects, grid.size)[_tissue(grid.mask, grid.size)] > 0).all()
    assert grid.tissue_coverage == pytest.approx(1.0)
    # No tile is listed in vain; where a mask px ends on a tile's edge, rounding may count it as touched.
    tissue = _tissue(grid.mask, grid.size)
    for x_min, y_min, x_max, y_max in rects[grid.coverage <= 0]:
        assert tissue[max(0, y_min - 2) : y_max + 2, max(0, x_min - 2) : x_max + 2].any()


@given(grids())
@settings(max_examples=150, deadline=None)
def test_cores_are_disjoint_inside_their_tiles_and_hold_all_tissue(grid: TileGrid) -> None:
    cores, rects = grid.cores, grid.rects
    assert (cores[:, :2] >= rects[:, :2]).all()
    assert (cores[:, 2:] <= rects[:, 2:]).all()
    assert (cores[:, 2:] >= cores[:, :2]).all()
    count = _painted(cores, grid.size)
    assert count.max() == 1
    assert (count[_tissue(grid.mask, grid.size)] == 1).all()


@given(grids(gaps=False))
@settings(max_examples=100, deadline=None)
def test_without_gaps_the_cores_partition_the_slide(grid: TileGrid) -> None:
    assert (_painted(grid.cores, grid.size) == 1).all()


@given(grids(gaps=False))
@settings(max_examples=100, deadline=None)
def test_neighbours_overlap_by_what_was_asked_at_least(grid: TileGrid) -> None:
    asked = [grid.overlap * grid.mpp / m for m in grid.mpp_xy]
    for starts, side, least in zip((grid.columns0, grid.rows0), grid.side0, asked, strict=True):
        laps = starts[:-1] + side - starts[1:]
        # a tile of rounded size cannot overlap by more than all but one px
        assert (laps >= min(least, side - 1) - 1e-5).all()


def test_a_core_reaches_to_the_tiles_edge_where_no_neighbour_is() -> None:
    mask = np.zeros((1, 50), bool)
    mask[0, [2, 41, 48]] = True
    grid = TileGrid((500, 100), tile_size=100, overlap=20, mask=TissueMask(mask, (10.0, 100.0)))
    assert grid.rects[:, [0, 2]].tolist() == [[0, 100], [320, 420], [400, 500]]
    assert grid.cores[:, [0, 2]].tolist() == [[0, 100], [320, 410], [410, 500]]


def test_diagonal_neighbours_do_not_both_own_their_corner() -> None:
    mask = TissueMask(np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]], bool), (60.0, 60.0))
    grid = TileGrid((180, 180), tile_size=100, overlap=20, mask=mask)
    assert grid.rects[:, :2].tolist() == [[0, 0], [80, 80]]
    assert _painted(grid.cores, grid.size).max() == 1


def test_tiles_are_a_sequence_in_reading_order() -> None:
    grid = TileGrid((1000, 700), tile_size=300, overlap=50)
    tiles = list(grid)
    assert len(grid) == len(tiles) == 12
    assert [t.index for t in tiles] == list(range(12))
    assert [(t.y0, t.x0) for t in tiles] == sorted((t.y0, t.x0) for t in tiles)
    assert (tiles[-1].x0, tiles[-1].y0) == (700, 400)
    assert grid[-1] == tiles[-1]
    assert grid[2:4] == tiles[2:4]
    assert grid[1].to_level0(10, 20) == (260, 20)
    with pytest.raises(IndexError):
        grid[12]


@pytest.mark.parametrize(
    ("mpp_xy", "side0", "upsampling"),
    [
        ((0.25, 0.25), (896, 896), 1.0),
        ((0.5, 0.25), (448, 896), 1.0),
        ((1.0, 1.0), (224, 224), 2.0),
        ((0.499, 0.499), (449, 449), 1.0),
    ],
)
def test_sides_follow_the_scale_of_each_axis(
    mpp_xy: tuple[float, float], side0: tuple[int, int], upsampling: float
) -> None:
    grid = TileGrid((5000, 5000), tile_size=448, overlap=64, mpp=0.5, mpp_xy=mpp_xy)
    assert grid.side0 == side0
    assert grid.upsampling == pytest.approx(upsampling)
    assert (grid[0].width, grid[0].height) == (448, 448)


def test_a_tile_as_large_as_the_slide_is_one_tile() -> None:
    grid = TileGrid((448, 448), tile_size=448, overlap=64)
    assert grid.cores.tolist() == [[0, 0, 448, 448]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"tile_size": 448, "mpp": 0.5}, UnknownMppError, "--slide-mpp"),
        ({"tile_size": 2000}, GridError, "at most 576 px"),
        ({"tile_size": 448, "mpp": 1.0, "mpp_xy": (0.25, 0.25)}, GridError, "at most 128 px at 1 um/px"),
        ({"tile_size": 448, "overlap": 448}, GridError, "smaller"),
        ({"tile_size": 448, "mpp": -1.0, "mpp_xy": (0.25, 0.25)}, GridError, "positive"),
        ({"tile_size": 448, "min_tissue": 1.5}, GridError, "between 0 and 1"),
        ({"tile_size": 64, "mask": TissueMask(np.zeros((4, 4)), (200.0, 150.0))}, MaskError, "--mask all"),
        (
            {"tile_size": 300, "min_tissue": 0.5, "mask": TissueMask(np.eye(20), (40.0, 30.0))},
            MaskError,
            "Lower min_tissue",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        TileGrid((800, 600), **arguments)


def test_min_tissue_leaves_thin_tiles_out_and_says_what_is_missed() -> None:
    array = np.zeros((10, 40), bool)
    array[:, :11] = True
    grid = TileGrid((400, 100), tile_size=100, mask=TissueMask(array, (10.0, 10.0)), min_tissue=0.5)
    assert len(grid) == 1
    assert grid.tissue_coverage == pytest.approx(10 / 11)


def test_a_million_tiles_are_columns_not_objects() -> None:
    grid = TileGrid((448_000, 448_000), tile_size=448)
    assert len(grid) == 1_000_000
    assert grid.cores.shape == (1_000_000, 4)
    assert grid[999_999].x0 == 447_552


def test_description_is_json_and_the_hash_follows_the_tiles() -> None:
    first = TileGrid((1000, 700), tile_size=300, overlap=50)
    json.dumps(first.describe())
    assert first.describe()["tiles"] == 12
    assert first.hash == TileGrid((1000, 700), tile_size=300, overlap=50).hash
    assert first.hash != TileGrid((1000, 700), tile_size=300, overlap=51).hash
