"""One geometry: what a model writes, and where that is in the tile's picture.

Three frames: *model* numbers as they stand in the model's text, the *processed* picture that the vision
tower sees, and *tile* px of the picture that was handed in. All have their origin top-left, x to the right,
y down. Tile px become level-0 px in `wsi`; nothing here knows slides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwenvl.errors import PictureError

MAX_ASPECT = 200
"""Largest ratio of a picture's sides that the Qwen-VL families process."""


class CoordinateSpace(StrEnum):
    """What the numbers of a family mean (QwenLM/Qwen3-VL `cookbooks/2d_grounding.ipynb`, issues 676, 721, 1659)."""

    RELATIVE_1000 = "relative_1000"
    """0..1000 over the width and height of the original picture, both axes independent."""
    ABSOLUTE_RESIZED = "absolute_resized"
    """px of the processed picture."""


@dataclass(frozen=True, slots=True)
class PictureFrame:
    """Size of one picture as it was handed in, and as the vision tower saw it.

    Parameters
    ----------
    width, height : int
        Size of the picture in px; tile px range over it.
    processed_width, processed_height : int
        Size after the resize that makes both sides multiples of the family's factor.

    Raises
    ------
    ValueError
        A side is smaller than one px.
    """

    width: int
    height: int
    processed_width: int
    processed_height: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.processed_width, self.processed_height) < 1:
            raise ValueError(f"PictureFrame: every side is at least 1 px, not {self}")

    @classmethod
    def same(cls, width: int, height: int) -> PictureFrame:
        """The frame of a picture that is not resized."""
        return cls(width, height, width, height)

    @property
    def resized(self) -> bool:
        """True where the vision tower saw another size than was handed in."""
        return (self.width, self.height) != (self.processed_width, self.processed_height)

    def extent(self, space: CoordinateSpace) -> tuple[float, float]:
        """Largest valid x and y of `space` in this frame."""
        if space is CoordinateSpace.RELATIVE_1000:
            return 1000.0, 1000.0
        return float(self.processed_width), float(self.processed_height)

    def to_tile(self, points: ArrayLike, space: CoordinateSpace) -> NDArray[np.float64]:
        """Model numbers to tile px.

        Parameters
        ----------
        points : array-like (..., 2) or (..., 4)
            x, y pairs; a box x_min, y_min, x_max, y_max counts as two pairs.
        space : CoordinateSpace

        Returns
        -------
        float64 array of the same shape, in px of the picture that was handed in. Nothing is clipped.
        """
        return _scaled(points, (self.width, self.height), self.extent(space))

    def to_model(self, points: ArrayLike, space: CoordinateSpace) -> NDArray[np.float64]:
        """Tile px to model numbers, unrounded; the inverse of `to_tile` with the same shapes."""
        return _scaled(points, self.extent(space), (self.width, self.height))


def _scaled(points: ArrayLike, numerator: Sequence[float], denominator: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] not in (2, 4):
        raise ValueError(f"points: the last axis holds x, y or two such pairs; got shape {array.shape}")
    pairs = array.shape[-1] // 2
    # Multiplied before divided, so that whole model numbers of a frame come back as they went in.
    scaled: NDArray[np.float64] = array * np.array((*numerator,) * pairs, np.float64)
    return scaled / np.array((*denominator,) * pairs, np.float64)


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Size at which a picture is processed: sides divisible by `factor`, area within the limits.

    The rule of the families from Qwen2-VL on (transformers `image_processing_qwen2_vl.smart_resize`):
    each side is rounded to the nearest multiple of `factor`, halves to even; a picture that is then too large
    (too small) is scaled by one ratio and rounded down (up).

    Parameters
    ----------
    height, width : int
        Size in px.
    factor : int
        Patch size times merge size, 28 or 32 px.
    min_pixels, max_pixels : int
        Limits of the processed area in px.

    Returns
    -------
    tuple of int
        Processed height and width in px.

    Raises
    ------
    PictureError
        The picture is empty, or more than 200 times as long as it is wide.
    """
    if height < 1 or width < 1:
        raise PictureError(f"picture of {width}x{height} px is empty; hand over at least one pixel")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise PictureError(
            f"picture of {width}x{height} px: one side is more than {MAX_ASPECT} times the other, which no Qwen-VL "
            "model accepts; cut it into squarer tiles"
        )
    processed_height, processed_width = round(height / factor) * factor, round(width / factor) * factor
    if processed_height * processed_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if processed_height * processed_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return processed_height, processed_width
