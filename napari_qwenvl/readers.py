"""Slides as lazy multiscale layers, read by the project's own readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi import Slide, open_slide
from wsi.errors import SlideError

LayerData = tuple[Any, dict[str, Any], str]
_PLAIN = 4096
"""A picture without a pyramid and no larger than this is left to napari."""


@dataclass(frozen=True)
class LevelView:
    """One level of a slide as an array that reads what is sliced. Shape (height, width, 3), uint8.

    Only slices with step 1 read less than the whole level.
    """

    slide: Slide
    level: int

    dtype = np.dtype(np.uint8)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) in px of the level."""
        of = self.slide.levels[self.level]
        return of.height, of.width, 3

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        parts = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            parts[at : at + 1] = [slice(None)] * (4 - len(parts))
        parts += [slice(None)] * (3 - len(parts))
        height, width, _ = self.shape
        rows, row_rest = _bounds(parts[0], height)
        columns, column_rest = _bounds(parts[1], width)
        if rows[1] <= rows[0] or columns[1] <= columns[0]:
            pixels = np.empty((max(0, rows[1] - rows[0]), max(0, columns[1] - columns[0]), 3), np.uint8)
        else:
            down = self.slide.levels[self.level].downsample
            pixels = self.slide.read(
                round(columns[0] * down), round(rows[0] * down),
                columns[1] - columns[0], rows[1] - rows[0], self.level,
            )  # fmt: skip
        return pixels[row_rest, column_rest, parts[2]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:, :, :], dtype)


def _bounds(part: Any, length: int) -> tuple[tuple[int, int], Any]:
    """Start and stop to read, and what is left to index afterwards."""
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        if step == 1:
            return (start, stop), slice(None)
        return (0, length), part
    if np.ndim(part) == 0:
        index = int(part) % length
        return (index, index + 1), 0
    return (0, length), part


def get_slide_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """npe2 reader: None where napari itself does as well (small pictures), or no slide reader knows the file."""
    if not isinstance(path, str):
        return None
    try:
        with open_slide(path) as slide:
            plain = len(slide.levels) == 1 and max(slide.width, slide.height) <= _PLAIN and slide.mpp is None
    except (SlideError, OSError):
        return None
    return None if plain else read_slide


def read_slide(path: str) -> list[LayerData]:
    """One multiscale image layer, in um where the file states its scale.

    Raises
    ------
    SlideError
        The file cannot be opened.
    """
    slide = open_slide(path)
    metadata: dict[str, Any] = {
        "slide": str(path), "mpp": slide.mpp, "mpp_source": slide.mpp_source, "fingerprint": slide.fingerprint,
    }  # fmt: skip
    options: dict[str, Any] = {
        "name": Path(path).stem, "rgb": True, "multiscale": True, "axis_labels": ("y", "x"), "metadata": metadata,
    }  # fmt: skip
    if slide.mpp_xy is not None:
        options |= {"scale": slide.mpp_xy[::-1], "units": ("um", "um")}
    return [([LevelView(slide, i) for i in range(len(slide.levels))], options, "image")]
