"""What a photograph of an instrument shows: its pixels, and every line of characters with its box."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in px of the photograph, origin top-left, y down."""


@dataclass(frozen=True, slots=True)
class Character:
    """One character, or the unit as one, and its box."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Shown:
    """One value as an instrument shows it.

    Attributes
    ----------
    field : str
        What is measured, such as 'temperature'.
    text : str
        The characters, as they stand there ('0.50').
    unit : str or None
        As written beside the value; None where the instrument shows none.
    box : Box
        Around the characters, without the unit; around the dial of a gauge.
    characters : tuple of Character
        From left to right, the unit last; empty for a gauge, which has none.
    value : float or None
        None where the text is no number.
    tolerance : float or None
        How far from `value` a right reading may be; None is half of the last digit.
    """

    field: str
    text: str
    unit: str | None
    box: Box
    characters: tuple[Character, ...] = ()
    value: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """A photograph with its truth.

    Attributes
    ----------
    kind : str
        'seven-segment', 'dot-matrix', 'gauge', 'plate', 'table' or 'none'.
    pixels : uint8 array (height, width, 3)
        RGB.
    shown : tuple of Shown
    """

    kind: str
    pixels: Pixels
    shown: tuple[Shown, ...] = ()

    def moved(self, pixels: Pixels, matrix: NDArray[np.float64]) -> Scene:
        """The same through a camera: other pixels, and every box taken through a 3 x 3 homography."""
        shown = tuple(
            replace(
                one,
                box=through(one.box, matrix),
                characters=tuple(replace(c, box=through(c.box, matrix)) for c in one.characters),
            )
            for one in self.shown
        )
        return Scene(self.kind, pixels, shown)


def through(box: Box, matrix: NDArray[np.float64]) -> Box:
    """The upright box around the image of `box` under a homography."""
    x0, y0, x1, y1 = box
    corners = np.array([(x0, y0, 1), (x1, y0, 1), (x1, y1, 1), (x0, y1, 1)]) @ matrix.T
    corners = corners[:, :2] / corners[:, 2:]
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return float(left), float(top), float(right), float(bottom)


def around(boxes: list[Box] | tuple[Box, ...]) -> Box:
    """The smallest box that holds all of `boxes`."""
    array = np.array(boxes)
    (left, top), (right, bottom) = array[:, :2].min(0), array[:, 2:].max(0)
    return float(left), float(top), float(right), float(bottom)
