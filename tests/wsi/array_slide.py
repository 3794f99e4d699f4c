"""A slide in memory, for tests of everything above the readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsi.errors import ReadError
from wsi.slide import RGB, Level, Slide


class ArraySlide(Slide):
    """A picture as a slide of one or two levels; regions that meet `broken` raise ReadError."""

    def __init__(
        self,
        picture: RGB,
        mpp: float | None = 0.5,
        *,
        name: str = "array.svs",
        downsample: int = 1,
        broken: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.picture, self.broken, self.closed = picture, broken, 0
        self.path, self.reader, self.properties = Path(name), "array", {}
        height, width = picture.shape[:2]
        self.pictures = [picture]
        self.levels: tuple[Level, ...] = (Level(width, height, 1.0),)
        if downsample > 1:
            size = width // downsample, height // downsample
            smaller = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            self.pictures.append(np.asarray(smaller, np.uint8))
            self.levels += (Level(*size, float(downsample)),)
        self.mpp_xy = None if mpp is None else (mpp, mpp)
        self.mpp_source = "unknown" if mpp is None else "file"

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        if self.closed:
            raise ReadError(f"{self.path} is closed.")
        if self.broken is not None and level == 0:
            x0, y0, x1, y1 = self.broken
            if x < x1 and y < y1 and x + width > x0 and y + height > y0:
                raise ReadError(f"{self.path}: data at ({x}, {y}) is corrupt.")
        return self.pictures[level][y : y + height, x : x + width].copy()

    def _reopen(self) -> tuple[Any, tuple[Any, ...]]:
        return ArraySlide, (self.picture,)

    def close(self) -> None:
        self.closed += 1


def blank(width: int, height: int, colour: tuple[int, int, int] = (242, 241, 243)) -> RGB:
    """A picture of one colour, uint8 (height, width, 3)."""
    return np.full((height, width, 3), colour, np.uint8)
