"""What a reader gives: raw pixels of any plane and level, before orientation and rendering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.resample import resize
from wsi.slide import RGB, Level

Raw = NDArray[Any]
"""Samples as the file stores them, any dtype."""


@dataclass(frozen=True)
class Layout:
    """What planes and channels a file holds.

    Attributes
    ----------
    dtype : numpy dtype
        Type of the stored samples.
    channels : int
        Number of channels, 3 for colour pictures.
    times, depths : int
        Number of time points and of z planes.
    is_rgb : bool
        The channels are red, green and blue in uint8 and need no rendering.
    names : tuple of str
        Channel names where the file has them; empty otherwise.
    """

    dtype: np.dtype[Any]
    channels: int
    times: int = 1
    depths: int = 1
    is_rgb: bool = False
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{n} {name}" for n, name in ((self.times, "time points"), (self.depths, "z planes")) if n > 1
        ]
        kind = f"{self.channels} channel{'s' * (self.channels != 1)} of {self.dtype.name}"
        if any(self.names):
            kind += " (" + ", ".join(f"{i} {name}" for i, name in enumerate(self.names)) + ")"
        return ", ".join([*parts, "RGB" if self.is_rgb else kind])


class Source(ABC):
    """One opened file of one format.

    Attributes
    ----------
    name : str
        Name of the reader.
    path : Path
        File or folder.
    levels : tuple of Level
        Highest resolution first, in the orientation of storage.
    layout : Layout
        Planes and channels.
    mpp_xy : (float, float) or None
        Micrometres per stored level-0 px along stored x and y.
    orientation : int
        TIFF/EXIF orientation, 1 to 8: how stored pixels are to be turned.
    properties : mapping of str to str
        Metadata as the file states it.
    associated : tuple of str
        Names of label, macro and thumbnail images.
    seconds : tuple of float or None
        When each time point was taken, in s; None where the file does not say for all of them.
    depth_um : float or None
        Distance of neighbouring z planes in um.
    unnamed : str
        Which of 't' and 'z' is an axis that the file gives no name; '' where all have one.
    identity : str
        What else identifies a slide whose content is not in `path` alone; mixed into its fingerprint.
    """

    name: str
    path: Path
    levels: tuple[Level, ...]
    layout: Layout
    mpp_xy: tuple[float, float] | None = None
    orientation: int = 1
    properties: Mapping[str, str]
    associated: tuple[str, ...] = ()
    seconds: tuple[float, ...] | None = None
    depth_um: float | None = None
    unnamed: str = ""
    identity: str = ""

    @abstractmethod
    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region in px of `level`, uint8 (height, width, 3), where `layout.is_rgb`. Raises ReadError."""

    def read_shrunk(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, factor: int
    ) -> RGB:
        """`read_rgb`, then one area resampling by a whole factor that divides width and height."""
        return resize(self.read_rgb(x, y, width, height, level, t, z), width // factor, height // factor)

    @abstractmethod
    def read_channel(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int
    ) -> Raw:
        """A region of one channel, (height, width) of `layout.dtype`. Raises ReadError."""

    def read_associated(self, name: str) -> RGB:
        """An associated image, uint8 (h, w, 3). Raises KeyError for an unknown name."""
        raise KeyError(name)

    @abstractmethod
    def close(self) -> None:
        """Release handles."""


def level_sizes_to_levels(sizes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels from their (width, height), highest resolution first.

    Pyramid writers shrink by a whole factor and drop or round the remainder, so that 9274 px become 2318
    at a downsample of exactly 4, not 4.0009. The whole factor is taken where both sides agree with it to
    within one px; otherwise the mean of both ratios, as OpenSlide does.
    """
    width0, height0 = sizes[0]
    levels = []
    for width, height in sizes:
        ratio = (width0 / width + height0 / height) / 2
        whole = round(ratio)
        exact = abs(width0 / whole - width) < 1 and abs(height0 / whole - height) < 1
        levels.append(Level(width, height, float(whole if exact else ratio)))
    return tuple(levels)
