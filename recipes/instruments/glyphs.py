"""The characters of displays: seven segments and dots of a 5 x 7 matrix, as shapes in a unit box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Shape = NDArray[np.float64]
"""Corners of one polygon, (n, 2) as x, y in a box of width 1 and height 1."""

SEGMENTS: Mapping[str, str] = {
    "0": "abcdef",
    "1": "bc",
    "2": "abged",
    "3": "abgcd",
    "4": "fgbc",
    "5": "afgcd",
    "6": "afgedc",
    "7": "abc",
    "8": "abcdefg",
    "9": "abcdfg",
    "-": "g",
}
"""Lit segments of a seven-segment character: a on top, then clockwise to f, g in the middle."""

_ROWS: Mapping[str, str] = {
    "0": "0E 11 13 15 19 11 0E",
    "1": "04 0C 04 04 04 04 0E",
    "2": "0E 11 01 02 04 08 1F",
    "3": "1F 02 04 02 01 11 0E",
    "4": "02 06 0A 12 1F 02 02",
    "5": "1F 10 1E 01 01 11 0E",
    "6": "06 08 10 1E 11 11 0E",
    "7": "1F 01 02 04 08 08 08",
    "8": "0E 11 11 0E 11 11 0E",
    "9": "0E 11 11 0F 01 02 0C",
    "-": "00 00 00 1F 00 00 00",
}
"""Rows of a 5 x 7 matrix from the top, five bits each, the highest to the left."""


def seven_segments(character: str, *, thickness: float, gap: float) -> list[Shape]:
    """Polygons of the lit segments.

    Parameters
    ----------
    character : str
        A digit or '-'.
    thickness : float
        Of a segment, as a share of the width.
    gap : float
        Between segments, as a share of the width.
    """
    return [_segment(name, thickness, gap) for name in SEGMENTS[character]]


def _segment(name: str, thickness: float, gap: float) -> Shape:
    t, half = (thickness, thickness / 2)  # heights are half as large: a character is about twice as high as wide
    ends = {
        "a": ((half, half / 2), (1 - half, half / 2)),
        "g": ((half, 0.5), (1 - half, 0.5)),
        "d": ((half, 1 - half / 2), (1 - half, 1 - half / 2)),
        "f": ((half, half / 2), (half, 0.5)),
        "b": ((1 - half, half / 2), (1 - half, 0.5)),
        "e": ((half, 0.5), (half, 1 - half / 2)),
        "c": ((1 - half, 0.5), (1 - half, 1 - half / 2)),
    }
    (x0, y0), (x1, y1) = ends[name]
    if y0 == y1:
        x0, x1, bevel = x0 + gap, x1 - gap, t / 2
        return np.array(
            [
                (x0, y0),
                (x0 + bevel, y0 - t / 4),
                (x1 - bevel, y0 - t / 4),
                (x1, y0),
                (x1 - bevel, y0 + t / 4),
                (x0 + bevel, y0 + t / 4),
            ]
        )
    y0, y1, bevel = y0 + gap / 2, y1 - gap / 2, t / 4
    return np.array(
        [
            (x0, y0),
            (x0 + half, y0 + bevel),
            (x0 + half, y1 - bevel),
            (x0, y1),
            (x0 - half, y1 - bevel),
            (x0 - half, y0 + bevel),
        ]
    )


def dot_matrix(character: str, *, fill: float) -> list[Shape]:
    """Squares of the lit dots; `fill` is the share of a dot's pitch that it covers along a side."""
    shapes = []
    for row, bits in enumerate(int(word, 16) for word in _ROWS[character].split()):
        for column in range(5):
            if bits >> (4 - column) & 1:
                x, y = (column + 0.5) / 5, (row + 0.5) / 7
                dx, dy = fill / 10, fill / 14
                shapes.append(np.array([(x - dx, y - dy), (x + dx, y - dy), (x + dx, y + dy), (x - dx, y + dy)]))
    return shapes


def point_shape() -> list[Shape]:
    """The decimal point: all of its box."""
    return [np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])]
