"""Pictures of single cells: a square of the slide with the cell in its middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.slide import Slide


@dataclass(frozen=True, slots=True)
class CropSize:
    """How much of the slide a crop shows, and at how many px.

    Attributes
    ----------
    px : int
        Side of the picture.
    side0 : float
        Side in level-0 px.
    """

    px: int
    side0: float

    @classmethod
    def of(cls, slide: Slide, px: int = 64, um: float = 16.0) -> CropSize:
        """`um` across; where the slide's scale is unknown, level-0 px as they are."""
        return cls(px, float(px) if slide.mpp is None else um / slide.mpp)


def read_crop(slide: Slide, centre0: NDArray[np.float64], size: CropSize) -> tuple[NDArray[np.uint8], bool]:
    """One crop, uint8 (px, px, 3), and whether it lies wholly inside the slide.

    Where it does not, the border's pixels are repeated outwards, so that the cell stays in the middle.
    """
    side = max(1, round(size.side0))
    x0, y0 = (round(float(at) - side / 2) for at in centre0)
    left, top = max(0, x0), max(0, y0)
    right, bottom = min(slide.width, x0 + side), min(slide.height, y0 + side)
    inside = (right - left, bottom - top) == (side, side)
    if inside:
        return slide.read_scaled(x0, y0, side, side, (size.px, size.px)), True
    import cv2

    # The cell itself lies on the slide, so that something of its surroundings does too.
    left, top = min(left, slide.width - 1), min(top, slide.height - 1)
    found = slide.read(left, top, max(1, right - left), max(1, bottom - top))
    around = ((top - y0, y0 + side - top - found.shape[0]), (left - x0, x0 + side - left - found.shape[1]), (0, 0))
    whole = np.pad(found, [(max(0, low), max(0, high)) for low, high in around], mode="edge")
    smaller = size.px < side
    picture = cv2.resize(whole, (size.px, size.px), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(picture, np.uint8), False


def iter_crops(slide: Slide, centres0: NDArray[np.float64], size: CropSize) -> Iterator[NDArray[np.uint8]]:
    """A crop per centre, in the order given."""
    for centre0 in centres0:
        yield read_crop(slide, centre0, size)[0]
