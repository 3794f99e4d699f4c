"""A slide and the places of its cells go in, one row of numbers per cell comes out, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.science.cells.measure.label_image import LabelImage
from workflows.science.cells.measure.morphology import SHAPE, shapes, stain_and_texture, stain_names
from workflows.science.cells.measure.stains import Stains
from workflows.science.cells.measure.threshold import outline_boxes
from wsi.slide import Slide

TILE = 1024
"""Side in px of the squares that cells are measured in together; a cell belongs to the one its box's centre lies in."""
_STEP = 4  # px between the samples that cells and what lies around them are compared by
_POWER = {"area": 2, "equivalent_diameter": 1, "perimeter": 1, "major_axis": 1, "minor_axis": 1}
"""Columns with a unit, and the power of a length it is."""

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Numbers of some cells.

    Attributes
    ----------
    names : tuple of str
        Columns of `values`: the feature, and its unit where it has one ('area_um2', 'perimeter_px').
    values : float32 array (n, len(names))
    row : int64 array (n,)
        Which of the given cells each one is, ascending.
    centre0 : float64 array (n, 2)
        Centroid in level-0 px, x then y.
    without : int64 array (m,)
        Cells that could not be outlined.
    darker : float
        How much more of the nuclear dye there is in the cells than around them, in optical density; NaN without either.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    row: NDArray[np.int64]
    centre0: NDArray[np.float64]
    without: NDArray[np.int64]
    darker: float


def feature_names(stains: Stains, unit: str) -> tuple[str, ...]:
    """Names of all columns; lengths in `unit`, 'um' or 'px' (of level 0)."""
    ends = {0: "", 1: f"_{unit}", 2: f"_{unit}2"}
    return (*(name + ends[_POWER.get(name, 0)] for name in SHAPE), *stain_names(stains))


def measure_labels(
    slide: Slide, labels: LabelImage, stains: Stains, report: Report | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64], Measured]:
    """Measure every cell of a label image.

    Pixels are taken at the label image's scale. Every cell is measured whole, once, wherever tiles end.

    Parameters
    ----------
    slide : Slide
    labels : LabelImage
    stains : Stains
    report : callable, optional
        Called with cells done and cells in all.

    Returns
    -------
    ids : int64 array (n,)
        Labels, ascending.
    boxes0 : float64 array (n, 4)
        In level-0 px.
    measured : Measured
    """
    ids, boxes = labels.boxes()
    scale = labels.scale0
    width, height = labels.size

    def window(
        rows: NDArray[np.int64], place: tuple[int, int, int, int]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        x, y, right, bottom = place
        found = labels.read(x, y, right - x, bottom - y)
        picture = _picture(slide, place, scale)
        slot = np.minimum(np.searchsorted(ids[rows], found), len(rows) - 1)
        return np.where(ids[rows][slot] == found, slot + 1, 0).astype(np.int32), picture

    measured = _by_tiles(slide, boxes.astype(np.float64), (width, height), scale, stains, window, report)
    return ids, np.asarray(boxes * scale, np.float64), measured


def measure_boxes(slide: Slide, boxes0: NDArray[np.float64], stains: Stains, report: Report | None = None) -> Measured:
    """Measure the nucleus in every box, outlined by `outline_boxes` at level 0.

    Parameters
    ----------
    boxes0 : float64 array (n, 4)
        In level-0 px.
    """

    def window(
        rows: NDArray[np.int64], place: tuple[int, int, int, int]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        picture = _picture(slide, place, 1.0)
        x, y = place[:2]
        return outline_boxes(picture, boxes0[rows] - [x, y, x, y], stains)[0], picture

    return _by_tiles(slide, boxes0, (slide.width, slide.height), 1.0, stains, window, report)


def _picture(slide: Slide, place: tuple[int, int, int, int], scale: float) -> NDArray[np.uint8]:
    x, y, right, bottom = place
    if scale == 1:
        return slide.read(x, y, right - x, bottom - y)
    x0, y0 = round(x * scale), round(y * scale)
    right0, bottom0 = min(slide.width, round(right * scale)), min(slide.height, round(bottom * scale))
    return slide.read_scaled(x0, y0, right0 - x0, bottom0 - y0, (right - x, bottom - y))


def _by_tiles(
    slide: Slide,
    boxes: NDArray[np.float64],
    size: tuple[int, int],
    scale: float,
    stains: Stains,
    window: Callable[[NDArray[np.int64], tuple[int, int, int, int]], tuple[NDArray[np.int32], NDArray[np.uint8]]],
    report: Report | None,
) -> Measured:
    names = feature_names(stains, "px" if slide.mpp is None else "um")
    side = scale * (1.0 if slide.mpp is None else slide.mpp)  # of one px of the window, in that unit
    factors = np.array([side ** _POWER.get(name, 0) for name in SHAPE])
    values = np.full((len(boxes), len(names)), np.nan, np.float32)
    centres = np.full((len(boxes), 2), np.nan)
    done, dye = 0, np.zeros((2, 2))
    for rows, place in _tiles(boxes, size):
        labels, picture = window(rows, place)
        some = labels[::_STEP, ::_STEP] > 0
        amounts = stains.unmix(picture[::_STEP, ::_STEP])[0]
        dye += [[amounts[some].sum(), some.sum()], [amounts[~some].sum(), (~some).sum()]]
        # A border of one px, so that neighbours of every cell's pixels exist.
        labels = np.pad(labels, 1)
        picture = np.pad(picture, ((1, 1), (1, 1), (0, 0)))
        found = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:])
        if len(found) < len(rows):
            slots = np.zeros(len(rows) + 1, np.int32)
            slots[found + 1] = np.arange(1, len(found) + 1)
            labels = slots[labels]
        if len(found):
            shape, centre = shapes(labels, len(found))
            shape *= factors
            values[rows[found]] = np.hstack([shape, stain_and_texture(labels, len(found), picture, stains)])
            # Pixel centres lie half a px in; the added border is taken off again.
            centres[rows[found]] = (centre - 0.5 + place[:2]) * scale
        done += len(rows)
        if report is not None:
            report(done, len(boxes))
    known = np.isfinite(centres[:, 0])
    inside, around = (total / number if number else np.nan for total, number in dye.tolist())
    return Measured(
        names, values[known], np.flatnonzero(known), centres[known], np.flatnonzero(~known), inside - around
    )


def _tiles(
    boxes: NDArray[np.float64], size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.int64], tuple[int, int, int, int]]]:
    """Cells by the tile of their centre, with the window that holds all of them."""
    if not len(boxes):
        return
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    columns = size[0] // TILE + 1
    tile = (centre[:, 1] // TILE).astype(np.int64) * columns + (centre[:, 0] // TILE).astype(np.int64)
    order = np.argsort(tile, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(tile[order]) != 0]))
    for rows in np.split(order, starts[1:]):
        low = np.maximum(np.floor(boxes[rows, :2].min(axis=0)), 0).astype(int)
        high = np.minimum(np.ceil(boxes[rows, 2:].max(axis=0)), size).astype(int)
        if (low < high).all():
            yield rows, (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
