"""Turn stored pixels upright: the eight orientations of TIFF 6.0 (tag 274), which EXIF shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDES_SWAP = {5, 6, 7, 8}
_ROWS_FLIP = {3, 4, 6, 7}
_COLUMNS_FLIP = {2, 3, 7, 8}


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places."""
    return orientation in _SIDES_SWAP


def stored_region(
    x: int, y: int, width: int, height: int, stored_size: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """Where an upright region lies in the stored picture.

    Parameters
    ----------
    x, y, width, height : int
        Region in upright px.
    stored_size : (width, height)
        Size of the stored picture in px.
    orientation : int
        TIFF orientation, 1 to 8.

    Returns
    -------
    x, y, width, height in stored px.
    """
    if orientation in _SIDES_SWAP:
        x, y, width, height = y, x, height, width
    if orientation in _COLUMNS_FLIP:
        x = stored_size[0] - x - width
    if orientation in _ROWS_FLIP:
        y = stored_size[1] - y - height
    return x, y, width, height


def turn(pixels: NDArray[np.generic], orientation: int) -> NDArray[Any]:
    """Stored pixels (h, w, ...) as an upright, contiguous array."""
    if orientation == 1:
        return pixels
    if orientation in _ROWS_FLIP:
        pixels = pixels[::-1]
    if orientation in _COLUMNS_FLIP:
        pixels = pixels[:, ::-1]
    if orientation in _SIDES_SWAP:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels)
