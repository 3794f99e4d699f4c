"""Red cells in capillaries: round, eosin-red and without a nucleus, so that round is not enough to be one."""

from __future__ import annotations

import cv2
import numpy as np

from wsi.synthetic.tissue.layout import SceneWindow, SectionLayout
from wsi.synthetic.tissue.noise import FloatImage, hash_uniform
from wsi.synthetic.tissue.tissue import habitat

_PITCH = 6.2  # um
_REACH = 4.0  # um
_GRID = 16  # drawn on a grid of 1/16 px


def draw_red_cells(layout: SectionLayout, seed: int, window: SceneWindow, eosin: FloatImage) -> FloatImage:
    """Eosin (h, w) with the red cells of a window laid over it."""
    x0, y0, x1, y1 = window.um
    iy, ix = np.mgrid[
        int((y0 - _REACH) // _PITCH) - 1 : int((y1 + _REACH) // _PITCH) + 2,
        int((x0 - _REACH) // _PITCH) - 1 : int((x1 + _REACH) // _PITCH) + 2,
    ].reshape(2, -1)
    u = hash_uniform(ix, iy, seed + 0xB100D, 4)
    x, y = (ix + 0.2 + 0.6 * u[0]) * _PITCH, (iy + 0.2 + 0.6 * u[1]) * _PITCH
    here = habitat(layout, x, y)
    rows = np.flatnonzero(here.blood & (here.depth > 3) & (u[2] < 0.85))
    if not len(rows):
        return eosin
    m = window.mpp
    origin = np.array([window.px, window.py]) * _GRID
    centres = np.round(np.stack([x, y], 1)[rows] * (_GRID / m) - _GRID / 2).astype(int) - origin
    radii = np.round((2.7 + 0.8 * u[3][rows]) * _GRID / m).astype(int)
    mask = np.zeros(eosin.shape, np.float32)
    for (cx, cy), r in zip(centres.tolist(), radii.tolist(), strict=True):
        cv2.circle(mask, (cx, cy), r, 1.0, cv2.FILLED, cv2.LINE_8, 4)
        cv2.circle(mask, (cx, cy), r // 3, 0.82, cv2.FILLED, cv2.LINE_8, 4)
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.3, 0.3 / m)), np.float32)
    return np.asarray(eosin + soft * (np.float32(1.2) - eosin), np.float32)
