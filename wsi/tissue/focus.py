"""Stain that lies out of the plane of focus: ink on the cover glass, seen from near."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.tissue.shapes import extremes

Mask = NDArray[np.bool_]

_SIGMA, _RAMP = 3.0, 0.03
"""Smoothing in px; and the steepest change of optical density per px, as a share of its range, that is blurred."""
_MIN_SHARE = 0.02


def out_of_focus(density: NDArray[np.float32], stained: Mask) -> Mask:
    """Pieces that have no edge and no detail at all, although their colour is strong.

    Parameters
    ----------
    density : float32 (h, w, 3)
        Optical density against the glass.
    stained : bool (h, w)
    """
    strongest = cv2.GaussianBlur(extremes(density)[0], (0, 0), _SIGMA)
    dx, dy = (cv2.Sobel(strongest, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(strongest, cv2.CV_32F, 0, 1, scale=1 / 8))
    slope = np.hypot(dx, dy)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(stained.astype(np.uint8), connectivity=8)
    chosen = np.zeros(count, bool)
    for k in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] > _MIN_SHARE * stained.size):
        if k == 0:
            continue
        x, y, w, h = stats[k, :4]
        where = labels[y : y + h, x : x + w] == k
        values = strongest[y : y + h, x : x + w][where]
        peak = float(np.percentile(values, 95))
        steep = float(np.percentile(slope[y : y + h, x : x + w][where], 99.5))
        chosen[k] = peak > 0.25 and float(values.min()) < 0.3 * peak and steep < _RAMP * peak
    return np.asarray(chosen[labels])
