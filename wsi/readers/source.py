"""What a reader gives: raw pixels of any plane and level, before orientation and rendering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wsi.errors import PlaneError
from wsi.files.fingerprint import fingerprint_files
from wsi.files.identity import FileWatch
from wsi.pixels.resample import resize
from wsi.readers.description import Description, Layout
from wsi.slide import RGB, Level

Raw = NDArray[Any]
"""Samples as the file stores them, any dtype."""


class PixelSource(ABC):
    """One opened file of one format.

    Attributes
    ----------
    name : str
        Name of the reader.
    path : Path
        File or folder.
    description : Description
        What the file states of this image, in the orientation of storage.
    """

    name: str
    path: Path
    description: Description

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of `description`, highest resolution first."""
        return self.description.levels

    @property
    def layout(self) -> Layout:
        """Planes and channels of `description`."""
        return self.description.layout

    @abstractmethod
    def read_rgb(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int) -> RGB:
        """A region in px of `level`, uint8 (height, width, 3), where `layout.is_rgb`. Raises ReadError."""

    def read_shrunk(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, factor: int) -> RGB:
        """`read_rgb`, then one area resampling by a whole factor that divides width and height."""
        return resize(self.read_rgb(x, y, width, height, level, t, z), width // factor, height // factor)

    @abstractmethod
    def read_channel(self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channel: int) -> Raw:
        """A region of one channel, (height, width) of `layout.dtype`. Raises ReadError."""

    def read_channels(
        self, x: int, y: int, width: int, height: int, level: int, t: int, z: int, channels: Sequence[int]
    ) -> list[Raw]:
        """A region of several channels, each as `read_channel` gives it; a reader may read them at once."""
        return [self.read_channel(x, y, width, height, level, t, z, channel) for channel in channels]

    @cached_property
    def watch(self) -> FileWatch:
        """The files of the image as they were when the fingerprint was taken, on first use."""
        files, identity = self.description.files, self.description.identity
        return FileWatch(self.path, files, lambda: fingerprint_files(files, identity))

    def read_associated(self, name: str) -> RGB:
        """An associated image, uint8 (h, w, 3). Raises KeyError for an unknown name."""
        raise KeyError(name)

    @abstractmethod
    def close(self) -> None:
        """Release handles."""


def require_only_image(path: Path, series: int | None) -> None:
    """Refuse to look for a second image where a format holds one. Raises PlaneError."""
    if series not in (None, 0):
        raise PlaneError(f"{path} holds one image, series 0; there is no {series}.")
