"""Outlines for cells of which only a box is known: the nuclear dye inside the box, divided by Otsu's threshold."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from workflows.science.cells.measure.stains import Stains

_LEAST_PX = 12
_SIDE = 4  # a box thinner than this holds no outline


def outline_boxes(
    picture: NDArray[np.uint8], boxes: NDArray[np.float64], stains: Stains
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Label the nucleus in every box.

    Inside each box the dye is smoothed and divided in two by Otsu's threshold (IEEE Trans Syst Man Cybern 9:62, 1979);
    of the dark pieces the one with most pixels near the middle is taken, and its holes are filled. Where boxes
    overlap, a pixel belongs to the cell whose centre is nearest in terms of its box.

    Parameters
    ----------
    picture : uint8 array (height, width, 3)
        RGB.
    boxes : float64 array (n, 4)
        x_min, y_min, x_max, y_max in px of the picture.
    stains : Stains

    Returns
    -------
    int32 array (height, width) and bool array (n,)
        Labels 1 to n, and which cells got an outline.
    """
    height, width = picture.shape[:2]
    dye = cv2.GaussianBlur(np.ascontiguousarray(stains.unmix(picture)[0]), (0, 0), 1.0)
    labels = np.zeros((height, width), np.int32)
    nearest = np.full((height, width), np.inf, np.float32)
    for number, (x_min, y_min, x_max, y_max) in enumerate(boxes.tolist(), 1):
        left, top = max(0, round(x_min)), max(0, round(y_min))
        right, bottom = min(width, round(x_max)), min(height, round(y_max))
        if right - left < _SIDE or bottom - top < _SIDE:
            continue
        piece = _nucleus(dye[top:bottom, left:right])
        if piece is None:
            continue
        across = (np.arange(left, right) + 0.5 - (x_min + x_max) / 2) / (x_max - x_min)
        down = (np.arange(top, bottom) + 0.5 - (y_min + y_max) / 2) / (y_max - y_min)
        far = np.hypot(across[None, :], down[:, None]).astype(np.float32)
        mine = piece & (far < nearest[top:bottom, left:right])
        labels[top:bottom, left:right][mine] = number
        nearest[top:bottom, left:right][mine] = far[mine]
    found = np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:] >= _LEAST_PX
    if not found.all():
        labels[~np.concatenate([[True], found])[labels]] = 0
    return labels, found


def _nucleus(dye: NDArray[Any]) -> NDArray[np.bool_] | None:
    low, high = float(dye.min()), float(dye.max())
    if high - low < 0.02:
        return None
    gray = ((dye - low) * (255 / (high - low))).astype(np.uint8)
    _, dark = cv2.threshold(gray, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, pieces = cv2.connectedComponents(dark, connectivity=4)
    if count < 2:
        return None
    height, width = dark.shape
    middle = pieces[height // 4 : height - height // 4, width // 4 : width - width // 4]
    near = np.bincount(middle.ravel(), minlength=count)[1:]
    if not near.any():
        return None
    piece = (pieces == near.argmax() + 1).astype(np.uint8)
    contours, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(piece, contours, -1, 1, cv2.FILLED).astype(bool)
