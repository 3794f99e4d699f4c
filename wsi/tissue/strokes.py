"""Strokes in a mask: parts that run on in one direction with a steady width, as a pen draws them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_UNIT = 5
"""Width in px that strokes have where they are looked for: the mask is scaled to it, octave by octave."""
_COHERENCE = 0.55
"""Of the directions of the edges around a px: 1 for parallel edges, 0 for none preferred."""


@dataclass(frozen=True)
class Stroke:
    """One stroke.

    Attributes
    ----------
    rows, columns : slice
        Where it lies in the mask.
    mask : bool array
        Its px there.
    width, length : float
        In px of the mask.
    on_glass : float
        Share of its flanks where there is nothing.
    """

    rows: slice
    columns: slice
    mask: Mask
    width: float
    length: float
    on_glass: float


def find_strokes(mask: Mask, others: Mask, widths: tuple[float, float], *, min_length: float = 3.0) -> list[Stroke]:
    """Find strokes.

    Parameters
    ----------
    mask : bool array (h, w)
        Px of one ink.
    others : bool array (h, w)
        Px of other stain, which a stroke may run across.
    widths : (float, float)
        Smallest and largest width in px.
    min_length : float
        In widths.

    Notes
    -----
    At each octave of width the parts of about that width are taken (difference of two openings), and of them those
    whose edges run in one direction: the coherence of the structure tensor (Bigün and Granlund 1987) of the mask.
    A mosaic of stains has parts of the same width, but their edges turn.
    """
    octaves = [widths[0] * 1.6**k for k in range(32) if widths[0] * 1.6**k <= widths[1]]
    # A stroke that leaves the image goes on outside. One that only touches the border in its bend ends there.
    for beyond in (cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT):
        found = [s for width in octaves for s in _octave(mask, others, width / _UNIT, min_length, beyond)]
        if found:
            return found
    return []


def _octave(mask: Mask, others: Mask, factor: float, min_length: float, beyond: int) -> list[Stroke]:
    height, width = mask.shape
    size = max(1, round(width / factor)), max(1, round(height / factor))
    if min(size) < 4:
        return []
    inked, other = _resize(mask, size), _resize(others, size)
    pad = 2 * _UNIT
    inked, other = (np.asarray(cv2.copyMakeBorder(m, pad, pad, pad, pad, beyond), np.uint8) for m in (inked, other))
    closed = np.asarray(cv2.morphologyEx(inked, cv2.MORPH_CLOSE, _disc(3)), np.uint8)
    wide = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(2 * _UNIT + 1))
    fits = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(_UNIT - 1))
    part = (fits > 0) & (cv2.dilate(wide, _disc(3)) == 0)
    straight = part & (_coherence(part) > _COHERENCE)
    straight = cv2.morphologyEx(straight.astype(np.uint8), cv2.MORPH_OPEN, _disc(3))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(straight, connectivity=8)
    if count < 2:
        return []
    distance = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3)
    total = np.bincount(labels.ravel(), distance.ravel(), count)
    # The mean distance to the edge of a strip is a quarter of its width.
    thickness = 4 * total / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    length = stats[:, cv2.CC_STAT_AREA] / np.maximum(thickness, 1)
    on_glass = _flanks(np.asarray(labels, np.int32), count, closed, other)
    strokes = []
    for k in range(1, count):
        if length[k] < min_length * thickness[k]:
            continue
        x, y, w, h = stats[k, :4] - (pad, pad, 0, 0)
        left, top = max(0, int(x * factor) - 2), max(0, int(y * factor) - 2)
        right, bottom = min(width, int((x + w) * factor) + 3), min(height, int((y + h) * factor) + 3)
        if right <= left or bottom <= top:
            continue
        rows, columns = slice(top, bottom), slice(left, right)
        at_y = np.clip((np.arange(top, bottom) + 0.5) / factor, 0, size[1] - 0.5).astype(int) + pad
        at_x = np.clip((np.arange(left, right) + 0.5) / factor, 0, size[0] - 0.5).astype(int) + pad
        inside = labels[np.ix_(at_y, at_x)] == k
        strokes.append(Stroke(rows, columns, inside, thickness[k] * factor, length[k] * factor, float(on_glass[k])))
    return strokes


def _flanks(
    labels: NDArray[np.int32], count: int, inked: NDArray[np.uint8], other: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Share of the px beside each component that are neither ink nor other stain."""
    distance, nearest = cv2.distanceTransformWithLabels((labels == 0).astype(np.uint8), cv2.DIST_L2, 3)
    of_zone = np.zeros(int(nearest.max()) + 1, np.int64)
    of_zone[nearest[labels > 0]] = labels[labels > 0]
    near = cv2.dilate(inked, _disc(3)) > 0
    beside = (distance > 1) & (distance < _UNIT + 1) & ~near
    owner = of_zone[nearest[beside]]
    number = np.bincount(owner, minlength=count)
    stained = np.bincount(owner, other[beside], minlength=count)
    share: NDArray[np.float64] = 1 - stained / np.maximum(number, 1)
    share[number == 0] = 0
    return share


def _coherence(part: Mask) -> NDArray[np.float32]:
    soft = cv2.GaussianBlur(part.astype(np.float32), (0, 0), 1.0)
    dx, dy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    xx, yy, xy = (cv2.GaussianBlur(v, (0, 0), 0.9 * _UNIT) for v in (dx * dx, dy * dy, dx * dy))
    return np.asarray(np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-6), np.float32)


def _resize(mask: Mask, size: tuple[int, int]) -> NDArray[np.uint8]:
    grown = size[0] > mask.shape[1]
    values = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR if grown else cv2.INTER_AREA)
    return np.asarray(values > 0.5, np.uint8)


def _disc(diameter: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter)), np.uint8)
