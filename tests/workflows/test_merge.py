"""The merge: every planted object once, whatever the tiles cut, missed or saw twice, in whatever order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.merge.across_tiles import Detections, MergeRules, merge, merge_parts
from wsi import TileGrid, TissueMask

GRID = TileGrid((360, 200), tile_size=100, overlap=20)
"""Columns at 0, 80, 160, 240, 260 and rows at 0, 80, 100: tile 0 and 1 share x 80 to 100, the seam is at 90."""


def _merge(
    *rows: tuple[int, list[float]],
    classes: list[int] | None = None,
    grid: TileGrid = GRID,
    rules: MergeRules | None = None,
    **columns: object,
) -> list[tuple[list[float], int]]:
    """Merge (tile, box) rows; the boxes that stay with the number of rows in each."""
    found = Detections.of([box for _, box in rows], classes or [0] * len(rows), [tile for tile, _ in rows], **columns)
    merged = merge(found, grid.rects, grid.cores, rules)
    return sorted(zip(merged.boxes.tolist(), merged.sources.tolist(), strict=True))


CASES = {
    "alone": ([(0, [10, 10, 30, 30])], [([10, 10, 30, 30], 1)]),
    "seen whole by both, owned by the first": ([(0, [80, 40, 96, 56]), (1, [81, 40, 97, 57])], [([80, 40, 96, 56], 2)]),
    "seen whole by both, owned by the second": (
        [(0, [84, 40, 98, 56]), (1, [83.5, 40, 99, 56])],
        [([83.5, 40, 99, 56], 2)],
    ),
    "the owner missed it": ([(1, [82, 40, 94, 56])], [([82, 40, 94, 56], 1)]),
    "cut by the first, whole in the second": (
        [(0, [90, 40, 100, 60]), (1, [90, 40, 115, 60])],
        [([90, 40, 115, 60], 2)],
    ),
    "cut by the second, whole in the first": ([(0, [65, 40, 88, 60]), (1, [80, 41, 88, 60])], [([65, 40, 88, 60], 2)]),
    "a sliver of a whole": ([(0, [97, 40, 100, 60]), (1, [97, 40, 130, 60])], [([97, 40, 130, 60], 2)]),
    "a poor part inside the whole": ([(0, [90, 40, 100, 50]), (1, [88, 38, 125, 66])], [([88, 38, 125, 66], 2)]),
    "larger than the overlap": ([(0, [40, 40, 100, 70]), (1, [80, 40, 150, 70])], [([40, 40, 150, 70], 2)]),
    "over three tiles": (
        [(0, [40, 40, 100, 70]), (1, [80, 40, 180, 70]), (2, [160, 41, 200, 70])],
        [([40, 40, 200, 70], 3)],
    ),
    "parts that do not line up": (
        [(0, [40, 10, 100, 30]), (1, [80, 26, 150, 60])],
        [([40, 10, 100, 30], 1), ([80, 26, 150, 60], 1)],
    ),
    "four tiles at a corner": (
        [(0, [84, 84, 95, 95]), (1, [84, 84, 95, 95]), (5, [84, 84, 95, 95]), (6, [84, 84, 95, 95])],
        [([84, 84, 95, 95], 4)],
    ),
    "cut by four tiles": (
        [(0, [60, 60, 100, 100]), (1, [80, 60, 140, 100]), (5, [60, 80, 100, 150]), (6, [80, 80, 140, 150])],
        [([60, 60, 140, 150], 4)],
    ),
    "crowded: both tiles told two apart": (
        [(0, [81, 40, 95, 54]), (0, [84, 40, 98, 54]), (1, [81, 40, 95, 54]), (1, [84, 40, 98, 54])],
        [([81, 40, 95, 54], 2), ([84, 40, 98, 54], 2)],
    ),
    "crowded: one tile missed one": (
        [(0, [81, 40, 95, 54]), (0, [86, 40, 100, 54]), (1, [81, 40, 95, 54])],
        [([81, 40, 95, 54], 2), ([86, 40, 100, 54], 1)],
    ),
    "twice in one tile": ([(0, [10, 10, 30, 30]), (0, [10, 10, 30, 31])], [([10, 10, 30, 31], 2)]),
    "overlapping in one tile": (
        [(0, [10, 10, 30, 30]), (0, [12, 10, 32, 30])],
        [([10, 10, 30, 30], 1), ([12, 10, 32, 30], 1)],
    ),
    "nested in one tile": (
        [(0, [10, 10, 50, 50]), (0, [20, 20, 30, 30])],
        [([10, 10, 50, 50], 1), ([20, 20, 30, 30], 1)],
    ),
    "cut at the border of the slide": (
        [(0, [0, 40, 10, 60]), (0, [0, 40, 30, 90])],
        [([0, 40, 10, 60], 1), ([0, 40, 30, 90], 1)],
    ),
    "shifted last column": (
        [(3, [262, 40, 280, 60]), (4, [262, 40, 280, 60]), (2, [250, 40, 260, 60]), (3, [250, 40, 275, 60])],
        [([250, 40, 275, 60], 2), ([262, 40, 280, 60], 2)],
    ),
    "tiles that do not meet": (
        [(0, [50, 40, 70, 60]), (3, [250, 40, 255, 60])],
        [([50, 40, 70, 60], 1), ([250, 40, 255, 60], 1)],
    ),
    "nothing": ([], []),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str) -> None:
    rows, expected = CASES[case]
    assert _merge(*rows) == expected


def test_classes_are_kept_apart() -> None:
    rows = [(0, [80, 40, 96, 56]), (1, [80, 40, 96, 56])]
    assert len(_merge(*rows, classes=[0, 1])) == 2
    assert len(_merge(*rows, classes=[3, 3])) == 1


def test_without_overlap_parts_meet_at_the_seam() -> None:
    grid = TileGrid((300, 100), tile_size=100)
    assert _merge((0, [60, 20, 100, 60]), (1, [100, 21, 130, 60]), grid=grid) == [([60, 20, 130, 60], 2)]
    assert len(_merge((0, [60, 20, 100, 40]), (1, [100, 50, 130, 90]), grid=grid)) == 2
    assert len(_merge((0, [60, 20, 90, 60]), (1, [110, 20, 130, 60]), grid=grid)) == 2


def test_at_a_mask_gap_a_part_stays_a_part() -> None:
    mask = TissueMask(np.array([[1, 0, 0, 1]], bool), (100.0, 100.0))
    grid = TileGrid((400, 100), tile_size=100, overlap=10, mask=mask)
    assert _merge((0, [60, 20, 100, 60]), grid=grid) == [([60, 20, 100, 60], 1)]


def test_points_are_one_within_the_radius() -> None:
    rows = [(0, [86, 40, 86, 40]), (1, [89, 42, 89, 42]), (0, [85, 60, 85, 60]), (1, [99, 60, 99, 60])]
    merged = _merge(*rows, is_point=[True] * 4)
    assert merged == [([85, 60, 85, 60], 1), ([86, 40, 86, 40], 2), ([99, 60, 99, 60], 1)]


def test_points_and_boxes_are_never_one() -> None:
    assert len(_merge((0, [90, 40, 90, 40]), (1, [88, 38, 92, 42]), is_point=[True, False])) == 2


def test_the_row_that_stays_keeps_its_score_and_name() -> None:
    found = Detections.of([[84, 40, 98, 56], [84, 40, 99, 56]], [0, 0], [0, 1], scores=[0.9, 0.2], ids=[17, 23])
    merged = merge(found, GRID.rects, GRID.cores)
    assert (merged.ids.tolist(), merged.scores.tolist(), merged.tiles.tolist()) == ([23], [0.2], [1])


def test_columns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Detections.of([[0, 0, 1, 1]], [0, 1], [0])
    with pytest.raises(ValueError, match="finite"):
        Detections.of([[0, 0, np.nan, 1]], [0], [0])
    with pytest.raises(ValueError, match="names tile 99"):
        merge(Detections.of([[0, 0, 1, 1]], [0], [99]), GRID.rects, GRID.cores)
    with pytest.raises(ValueError, match="order of tiles"):
        list(merge_parts([_part(3), _part(2)], GRID.rects, GRID.cores))


def _part(tile: int) -> Detections:
    return Detections.of([GRID.rects[tile]], [0], [tile])


def test_scale_changes_the_px_rules_only() -> None:
    rules = MergeRules.at_scale(2.0, agreement=0.5)
    assert (rules.border0, rules.radius0, rules.agreement) == (4.0, 20.0, 0.5)


@st.composite
def sightings(draw: st.DrawFn) -> tuple[Detections, TileGrid]:
    """Whatever tiles may report: boxes and points anywhere, in part equal, cut, nested, without score."""
    overlap = draw(st.sampled_from([0, 3, 12, 30]))
    mask = None
    if draw(st.booleans()):
        bits = draw(st.lists(st.booleans(), min_size=12, max_size=12))
        mask = TissueMask(np.array([*bits[:-1], True]).reshape(3, 4), (50.0, 50.0))
    grid = TileGrid((200, 150), tile_size=50, overlap=overlap, mask=mask)
    rows = []
    for _ in range(draw(st.integers(1, 40))):
        tile = draw(st.integers(0, len(grid) - 1))
        x, y, w, h = (draw(st.integers(0, 50)) for _ in range(4))
        point = draw(st.integers(0, 9)) == 0
        x, y = grid.x0[tile] + x, grid.y0[tile] + y
        right, bottom = min(x + w, grid.x0[tile] + 50), min(y + h, grid.y0[tile] + 50)
        box = [x, y, x, y] if point else [x, y, right, bottom]
        rows.append((box, draw(st.integers(0, 1)), tile, point, draw(st.sampled_from([0.2, 0.9, np.nan]))))
    boxes, classes, tiles, points, scores = zip(*rows, strict=True)
    return Detections.of(boxes, classes, tiles, scores=scores, is_point=points), grid


def _set(merged: Detections) -> list[tuple[float, ...]]:
    """The objects without the names of equal rows."""
    scores = np.nan_to_num(merged.scores)
    columns = np.column_stack([merged.boxes, merged.classes, merged.tiles, scores, merged.sources])
    return sorted(map(tuple, columns.tolist()))


@given(sightings(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_rows_does_not_matter(case: tuple[Detections, TileGrid], random: object) -> None:
    found, grid = case
    order = list(range(len(found)))
    random.shuffle(order)
    merged = merge(found, grid.rects, grid.cores)
    assert _set(merge(found.take(np.array(order)), grid.rects, grid.cores)) == _set(merged)
    # nothing is counted twice or lost from the count
    assert merged.sources.sum() == len(found)


@given(sightings())
@settings(max_examples=100, deadline=None)
def test_merging_again_changes_nothing(case: tuple[Detections, TileGrid]) -> None:
    found, grid = case
    once = merge(found, grid.rects, grid.cores)
    assert _set(merge(once, grid.rects, grid.cores)) == _set(once)


@given(sightings(), st.lists(st.integers(0, 30), max_size=6))
@settings(max_examples=200, deadline=None)
def test_part_by_part_gives_the_same(case: tuple[Detections, TileGrid], borders: list[int]) -> None:
    found, grid = case
    edges = [0, *sorted(borders), len(grid)]
    parts = [found.take(np.flatnonzero((found.tiles >= low) & (found.tiles < high))) for low, high in pairwise(edges)]
    merged = Detections.concatenate(list(merge_parts(parts, grid.rects, grid.cores)))
    assert _set(merged) == _set(merge(found, grid.rects, grid.cores))


def _plant(seed: int, jitter: float) -> tuple[Detections, TileGrid, np.ndarray]:
    """Objects of 12 to 40 px apart from each other, large ones among them, as the tiles of a grid see them."""
    rng = np.random.default_rng(seed)
    grid = TileGrid((1500, 1100), tile_size=300, overlap=60)
    x, y = np.meshgrid(np.arange(30, 1480, 50), np.arange(30, 1080, 50))
    centre = np.stack([x.ravel(), y.ravel()], 1) + rng.uniform(-6, 6, (x.size, 2))
    size = rng.uniform(12, 36, (len(centre), 2))
    large = rng.random(len(centre)) < 0.02
    size[large] = rng.uniform(100, 500, (large.sum(), 2))
    truth = np.clip(np.concatenate([centre - size / 2, centre + size / 2], 1), 0, [1500, 1100] * 2)
    boxes, tiles, ids = [], [], []
    for tile, rect in enumerate(grid.rects):
        seen = np.concatenate([np.maximum(truth[:, :2], rect[:2]), np.minimum(truth[:, 2:], rect[2:])], 1)
        extent = (seen[:, 2:] - seen[:, :2]).clip(0)
        share = extent.prod(1) / (truth[:, 2:] - truth[:, :2]).prod(1)
        rows = np.flatnonzero((share > 0.3) | ((extent.min(1) > 30) & large))
        box = seen[rows] + rng.normal(0, jitter, (len(rows), 4))
        box = np.where(seen[rows] == rect, rect, box)
        boxes.append(np.concatenate([np.maximum(box[:, :2], rect[:2]), np.minimum(box[:, 2:], rect[2:])], 1))
        tiles.append(np.full(len(rows), tile))
        ids.append(rows)
    classes = large[np.concatenate(ids)].astype(int)
    found = Detections.of(np.concatenate(boxes), classes, np.concatenate(tiles), ids=np.concatenate(ids))
    return found, grid, truth


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_planted_objects_come_out_once_and_whole(seed: int, jitter: float) -> None:
    found, grid, truth = _plant(seed, jitter)
    small = found.take(np.flatnonzero(found.classes == 0))
    merged = merge(small, grid.rects, grid.cores)
    assert sorted(merged.ids.tolist()) == np.unique(small.ids).tolist()
    assert np.abs(merged.boxes - truth[merged.ids]).max() <= 6 * jitter + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_large_objects_are_joined_over_many_tiles(seed: int) -> None:
    found, grid, truth = _plant(seed, 0.0)
    large = found.take(np.flatnonzero(found.classes == 1))
    lone = []
    for k in np.unique(large.ids):
        merged = merge(large.take(np.flatnonzero(large.ids == k)), grid.rects, grid.cores)
        lone.append(len(merged) == 1 and np.allclose(merged.boxes[0], truth[k]))
    assert np.mean(lone) > 0.9


def test_time_grows_with_the_number_of_boxes() -> None:
    found, grid, _ = _plant(0, 1.0)
    one_huge = Detections.concatenate([found, _huge(len(grid))])
    assert len(merge(one_huge, grid.rects, grid.cores)) < len(one_huge)


def _huge(tiles: int) -> Detections:
    """Five hundred equal boxes in every tile: what a looping model may write."""
    n = 500 * tiles
    return Detections.of(np.tile([100.0, 100, 200, 200], (n, 1)), np.zeros(n), np.arange(n) % tiles)
