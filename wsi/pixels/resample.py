"""From the px of a level to the px of a tile: whole px of the source, one area resampling."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SAME_SIZE = 0.1  # px: a length that differs by less from the wanted one is taken as it is


@dataclass(frozen=True, slots=True)
class Span:
    """Whole px along one side of a level: of `length` px `stored` exist, the rest lies beyond the edge."""

    start: int
    length: int
    stored: int


def snap(begin: float, end: float, wanted: int, size: int) -> Span:
    """Whole px of a level that stand for an interval.

    Parameters
    ----------
    begin, end : float
        Interval in px of the level.
    wanted : int
        Px of the result along this side. Where the interval has this length, the span has exactly it and only
        its place is rounded; otherwise both ends are. An end moves by half a px of the level, or
        half a px and half of the tolerance of a tenth.
    size : int
        Px that the level has along this side.
    """
    if abs(end - begin - wanted) < _SAME_SIZE:
        length = wanted
        start = round((begin + end - wanted) / 2)
    else:
        start = round(begin)
        length = max(1, round(end) - start)
    start = min(max(0, start), size - 1)
    return Span(start, length, min(length, size - start))


def whole_factor(columns: Span, rows: Span, width: int, height: int) -> int:
    """The whole number by which both sides shrink, or 0 when there is none or px are missing at a border."""
    factor = columns.length // width
    whole = columns.length == factor * width and rows.length == factor * height
    return factor if whole and columns.stored == columns.length and rows.stored == rows.length else 0


def band_height(step: float, source_rows: int) -> int:
    """Rows of the result to make at a time from at most `source_rows` rows, `step` for each.

    Where a few rows of the result take a whole number of source rows, the bands are cut there.
    """
    rows = max(1, int(source_rows / step))
    for together in range(1, min(16, rows) + 1):
        if abs(together * step - round(together * step)) < 1e-6:
            return rows // together * together
    return rows


def extend(pixels: NDArray[np.uint8], columns: Span, rows: Span) -> NDArray[np.uint8]:
    """Repeat the last column and row where a level ends a fraction of a px before the slide does."""
    right, below = columns.length - columns.stored, rows.length - rows.stored
    if not right and not below:
        return pixels
    return np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)


def resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resample (h, w, 3): areas are averaged when shrinking, cubic when enlarging, untouched when equal."""
    have_height, have_width = pixels.shape[:2]
    if (have_width, have_height) == (width, height):
        return pixels
    shrink = have_width >= width and have_height >= height
    how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)
