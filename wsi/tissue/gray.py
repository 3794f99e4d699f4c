"""What has no colour: scanner borders, edges of slide and coverslip, shadows and dirt, told from dark tissue."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB
from wsi.tissue.shapes import contact, extremes, grown
from wsi.tissue.strokes import find_strokes

Mask = NDArray[np.bool_]

_BLACK, _DARK, _DARK_CHROMA = 25, 90, 25
_MIN_BORDER_SHARE = 1e-3
_MIN_RUN, _LONG_RUN = 0.12, 0.5
"""Share of a side along which a black border runs: a rectangle, and any shape."""
_GRAY = 0.15
"""Spread of the optical density between channels over its mean, below which a px is gray."""
_MIN_COLOURED, _PALE = 0.15, 0.045
"""Share of coloured px below which an image has no colour; optical density up to which gray is no tissue then."""
_MIN_CONTACT = 0.35
"""Share of the surroundings of a gray patch that is coloured tissue, from which it is part of it."""


def black_border(picture: RGB) -> Mask:
    """Black that is joined to the border of the image, along half a side or as a rectangle, and uniform.

    A black patch within tissue is pigment, ink or a fold, whatever its size.
    """
    brightest, dimmest = extremes(picture)
    black = (brightest < _BLACK) | ((brightest < _DARK) & (brightest - dimmest < _DARK_CHROMA))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(black.astype(np.uint8), connectivity=8)
    height, width = black.shape
    run = np.zeros(count)
    for line, side in ((labels[0], width), (labels[-1], width), (labels[:, 0], height), (labels[:, -1], height)):
        run = np.maximum(run, np.bincount(line, minlength=count) / side)
    total = np.bincount(labels.ravel(), brightest.ravel(), count)
    square = np.bincount(labels.ravel(), brightest.ravel().astype(np.float64) ** 2, count)
    area = np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    spread = np.sqrt(np.maximum(square / area - (total / area) ** 2, 0))
    full = stats[:, cv2.CC_STAT_AREA] / (stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT])
    straight = (run > _LONG_RUN) | ((run > _MIN_RUN) & (full > 0.85))
    chosen = straight & (spread < 22) & (area > _MIN_BORDER_SHARE * black.size)
    chosen[0] = False
    return np.asarray(chosen[labels])


def gray_dirt(mask: Mask, density: NDArray[np.float32]) -> Mask:
    """Gray parts of a mask that do not lie within coloured tissue.

    Parameters
    ----------
    mask : bool (h, w)
        Px that are darker than the glass.
    density : float32 (h, w, 3)
        Optical density against the glass, smoothed.

    Notes
    -----
    Shadow, dust and edges of glass absorb all channels alike; stains do not. On an image without any colour (a gray
    scanner, silver) only what is pale, and lines that leave the image, are dirt.
    """
    mean = (density[..., 0] + density[..., 1] + density[..., 2]) / 3
    high, low = extremes(density)
    spread = high - low
    coloured = mask & (spread > _GRAY * mean) & (spread > 0.012)
    if coloured.sum() < _MIN_COLOURED * mask.sum():
        pale = mask & (mean < _PALE)
        return pale | _edges(mask & ~pale)
    solid = cv2.morphologyEx(coloured.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    gray = mask & ~coloured
    count, labels, _, _ = cv2.connectedComponentsWithStats(gray.astype(np.uint8), connectivity=8)
    chosen = contact(labels, count, solid) < _MIN_CONTACT
    chosen[0] = False
    return np.asarray(chosen[labels])


def _edges(gray: Mask) -> Mask:
    """Long strokes, such as the edge of a coverslip."""
    factor = min(1.0, 1024 / max(gray.shape))
    size = max(1, round(gray.shape[1] * factor)), max(1, round(gray.shape[0] * factor))
    small = cv2.resize(gray.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    lines = np.zeros_like(small)
    for stroke in find_strokes(small, np.zeros_like(small), (3.0, max(size) / 20)):
        if stroke.length > 0.25 * min(size) and stroke.length > 8 * stroke.width:
            lines[stroke.rows, stroke.columns] |= stroke.mask
    whole = cv2.resize(lines.astype(np.uint8), gray.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return grown(whole, max(2, round(3 / factor))) & gray
