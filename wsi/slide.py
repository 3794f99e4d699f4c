"""The slide: an opened image, its scale, and the one way to get pixels out of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi.cleanup import clean_up
from wsi.errors import RegionError, UnknownMppError
from wsi.files.identity import FileWatch
from wsi.pixels.resample import band_height, extend, resize, snap, whole_factor

RGB = NDArray[np.uint8]
"""Pictures are uint8 arrays of shape (height, width, 3), red first."""

_PIXELS_IN_MEMORY = 48_000_000  # source px that one resampling may hold at a time


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a pyramid.

    Attributes
    ----------
    width, height : int
        Size in px.
    downsample_x, downsample_y : float
        Level-0 px per px of this level along x and y; y is as x where it is left out.
    """

    width: int
    height: int
    downsample_x: float
    downsample_y: float = 0.0

    def __post_init__(self) -> None:
        if not self.downsample_y:
            object.__setattr__(self, "downsample_y", self.downsample_x)

    def covers(self, x0: float, y0: float) -> bool:
        """Whether the level reaches to a level-0 place, or ends less than one of its px before it."""
        return (self.width + 1) * self.downsample_x > x0 and (self.height + 1) * self.downsample_y > y0

    @property
    def downsample(self) -> float:
        """Level-0 px per px of this level: the geometric mean of both sides."""
        if self.downsample_x == self.downsample_y:
            return self.downsample_x
        return math.sqrt(self.downsample_x * self.downsample_y)


class Slide(ABC):
    """An opened slide.

    Readers give it `path`, `levels`, `mpp_xy` and `_read`; everything else follows. Slides are safe to
    read from several threads, and pickle as their path and options, so that a worker opens its own.

    Attributes
    ----------
    path : Path
        File or folder.
    reader : str
        Name of the reader that opened it, as shown in reports.
    levels : tuple of Level
        Highest resolution first; `levels[0].downsample == 1`.
    mpp_xy : tuple of float, or None
        Micrometres per level-0 px along x and y. None when the file does not say: it is never guessed.
    mpp_source : str
        Where the scale comes from: 'file', 'user' or 'unknown'.
    properties : mapping of str to str
        Metadata as the file states it.
    qupath_bounds : (int, int, int, int) or None
        x0, y0, width and height, in level-0 px, of the part that QuPath shows; None where it shows all.
    """

    path: Path
    reader: str
    levels: tuple[Level, ...]
    mpp_xy: tuple[float, float] | None
    mpp_source: str
    properties: Mapping[str, str]
    qupath_bounds: tuple[int, int, int, int] | None = None

    @abstractmethod
    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        """Pixels of `level`; (x, y) is in px of that level, the region lies inside it. Raises ReadError."""

    def _read_shrunk(self, x: int, y: int, width: int, height: int, level: int, factor: int) -> RGB:
        """`_read`, then one area resampling by a whole factor; a reader may do both at once."""
        return resize(self._read(x, y, width, height, level), width // factor, height // factor)

    @abstractmethod
    def _reopen(self) -> tuple[object, tuple[object, ...]]:
        """Callable and arguments that open this slide again in another process."""

    @property
    def width(self) -> int:
        """Width of level 0 in px."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Height of level 0 in px."""
        return self.levels[0].height

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 px (geometric mean of x and y), or None when unknown."""
        return None if self.mpp_xy is None else float(np.sqrt(self.mpp_xy[0] * self.mpp_xy[1]))

    def require_mpp(self) -> float:
        """The scale in um per level-0 px; raises UnknownMppError with the remedy when the file has none."""
        if self.mpp is None:
            raise UnknownMppError(
                f"{self.path} does not state its pixel size. Give it in micrometres per pixel: "
                "--slide-mpp 0.25 on the command line, open_slide(path, mpp=0.25) in Python."
            )
        return self.mpp

    @cached_property
    def watch(self) -> FileWatch:
        """The files as they were when the fingerprint was taken; nothing where `path` is not on the disk."""
        return FileWatch.of(self.path) if self.path.exists() else FileWatch.nothing(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's content (size and samples), the same on every machine that holds the file."""
        return self.watch.fingerprint

    def read(self, x0: int, y0: int, width: int, height: int, level: int = 0) -> RGB:
        """Read a region of one level, without resampling.

        Parameters
        ----------
        x0, y0 : int
            Top-left corner in level-0 px.
        width, height : int
            Size in px of `level`.
        level : int
            Index into `levels`.

        Returns
        -------
        uint8 array (height, width, 3).

        Raises
        ------
        RegionError
            The region has no area or is not inside the slide.
        ReadError
            The file's data for this region is missing or corrupt.
        """
        if not 0 <= level < len(self.levels):
            raise RegionError(f"{self.path} has levels 0 to {len(self.levels) - 1}, not {level}.")
        of = self.levels[level]
        x, y = round(x0 / of.downsample_x), round(y0 / of.downsample_y)
        if width < 1 or height < 1 or x < 0 or y < 0 or x + width > of.width or y + height > of.height:
            raise RegionError(
                f"Region {width}x{height} at ({x}, {y}) is not inside level {level} of {self.path}, "
                f"which measures {of.width}x{of.height} px."
            )
        return self._read(x, y, width, height, level)

    def best_level(self, downsample: float, downsample_y: float | None = None) -> int:
        """The coarsest level that still holds every detail wanted at `downsample` (0.5 % tolerance).

        `downsample_y` is the one wanted along y where it is another.
        """
        along_y = downsample if downsample_y is None else downsample_y
        fits = [
            i
            for i, level in enumerate(self.levels)
            if level.downsample_x <= downsample * 1.005 and level.downsample_y <= along_y * 1.005
        ]
        return fits[-1] if fits else 0

    def read_scaled(self, x0: int, y0: int, width0: int, height0: int, size: tuple[int, int]) -> RGB:
        """Read a level-0 rectangle at another scale: the best level, then one area resampling at most.

        Parameters
        ----------
        x0, y0, width0, height0 : int
            Rectangle in level-0 px.
        size : (width, height)
            Size of the result in px.

        Returns
        -------
        uint8 array (height, width, 3). Where the level has exactly this size no pixel is changed, and the
        rectangle's place is rounded to whole px of the level; otherwise its sides are. Either way the picture
        lies within half a px of where it belongs. A level that was cut short by a fraction of a px at its
        right or lower border repeats its last column or row.

        Raises
        ------
        RegionError
            The rectangle or the result has no area, or the rectangle is not inside the slide.
        ReadError
            The file's data for this region is missing or corrupt.
        """
        width, height = size
        inside = x0 >= 0 and y0 >= 0 and x0 + width0 <= self.width and y0 + height0 <= self.height
        if not inside or min(width0, height0, width, height) < 1:
            raise RegionError(
                f"Rectangle {width0}x{height0} at ({x0}, {y0}), wanted as {width}x{height} px, has no area "
                f"or is not inside {self.path} ({self.width}x{self.height} px)."
            )
        level = self.best_level(width0 / width, height0 / height)
        while level and not self.levels[level].covers(x0 + width0, y0 + height0):
            level -= 1  # a level that was cut to whole tiles ends before the slide does
        of = self.levels[level]
        scale_x, scale_y = of.downsample_x, of.downsample_y
        if width * scale_x == width0 and height * scale_y == height0 and width * height <= _PIXELS_IN_MEMORY:
            x, y = round(x0 / scale_x), round(y0 / scale_y)
            if x + width <= of.width and y + height <= of.height:
                return self._read(x, y, width, height, level)  # what follows, without its arithmetic
        columns = snap(x0 / scale_x, (x0 + width0) / scale_x, width, of.width)
        rows_in_memory = band_height(height0 / scale_y / height, _PIXELS_IN_MEMORY // columns.length)
        bands = []
        for top in range(0, height, rows_in_memory):
            bottom = min(height, top + rows_in_memory)
            y_top, y_bottom = y0 + height0 * top / height, y0 + height0 * bottom / height
            rows = snap(y_top / scale_y, y_bottom / scale_y, bottom - top, of.height)
            factor = whole_factor(columns, rows, width, bottom - top)
            if factor > 1:
                band = self._read_shrunk(columns.start, rows.start, columns.length, rows.length, level, factor)
            else:
                pixels = self._read(columns.start, rows.start, columns.stored, rows.stored, level)
                band = resize(extend(pixels, columns, rows), width, bottom - top)
            bands.append(band)
        return bands[0] if len(bands) == 1 else np.concatenate(bands)

    def thumbnail(self, side: int = 1024) -> RGB:
        """The whole slide with its longer side at most `side` px. uint8 (h, w, 3)."""
        factor = min(1.0, side / max(self.width, self.height))
        size = (max(1, round(self.width * factor)), max(1, round(self.height * factor)))
        return self.read_scaled(0, 0, self.width, self.height, size)

    @property
    def associated(self) -> Sequence[str]:
        """Names of associated images (label, macro, thumbnail); empty when there are none."""
        return ()

    def read_associated(self, name: str) -> RGB:
        """An associated image as uint8 (h, w, 3). Raises KeyError for a name not in `associated`."""
        raise KeyError(name)

    def close(self) -> None:  # noqa: B027 (a slide without handles has nothing to close)
        """Release file handles. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean_up(error, self.close)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._reopen()
