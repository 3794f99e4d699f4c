"""Who owns which part of the plane: seams midway between neighbouring tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def cores(width0: int, side0: tuple[int, int], columns0: Ints, rows0: Ints, column: Ints, row: Ints) -> Ints:
    """The rectangles that the tiles of a grid own.

    Parameters
    ----------
    width0 : int
        Width of the slide in level-0 px.
    side0 : (int, int)
        Width and height of a tile in level-0 px.
    columns0, rows0 : int64 arrays
        Left edges of all columns, top edges of all rows, in level-0 px.
    column, row : int64 arrays (n,)
        Column and row of each listed tile, in reading order.

    Returns
    -------
    int64 array (n, 4) : x_min, y_min, x_max, y_max in level-0 px, end excluded. Disjoint, each inside its tile.
    """
    row_top, row_bottom = _seams(rows0, side0[1])
    left, right = columns0[column], columns0[column] + side0[0]
    meets = (row[1:] == row[:-1]) & (right[:-1] > left[1:])
    seam = (right[:-1] + left[1:])[meets] // 2
    right[:-1][meets] = seam
    left[1:][meets] = seam
    top, bottom = row_top[row], row_bottom[row]
    # Into the band of the next row a core may grow down to its tile's edge, halfway to the row after.
    n, side = len(rows0), side0[1]
    down, up = row_bottom.copy(), row_top.copy()
    after, edge = rows0[2:], rows0[:-2] + side
    between = np.where(edge > after, (edge + after) // 2, edge)
    down[:-1] = np.minimum(rows0[:-1] + side, row_bottom[1:])
    down[: n - 2] = np.minimum(down[: n - 2], between)
    up[1:] = np.maximum(rows0[1:], row_top[:-1])
    up[2:] = np.maximum(up[2:], np.where(edge > after, (edge + after) // 2, after))
    key = width0 + 1
    starts, ends = row * key + left, row * key + right
    for step, target, source in ((1, bottom, down), (-1, top, up)):
        other = row + step
        begun = np.searchsorted(starts, other * key + right, "left")
        ended = np.searchsorted(ends, other * key + left, "right")
        free = (begun <= ended) & (other >= 0) & (other < n)
        target[free] = source[row[free]]
    return np.stack([left, top, right, bottom], axis=1)


def _seams(starts: NDArray[np.int64], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last+1 px owned along one axis when all tiles are there: midway in each overlap."""
    seam = (starts[:-1] + side + starts[1:]) // 2
    return np.concatenate([starts[:1], seam]), np.concatenate([seam, starts[-1:] + side])
