"""Label images: one integer per cell, 0 outside, over a whole slide. Read window by window."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError
from wsi.files.identity import FileWatch
from wsi.slide import Slide

_BLOCK = 2048
_IN_MEMORY = 64_000_000  # px
LARGEST = 2048
"""Longest side of one cell in px of the label image; ids that span more are not those of single cells."""


@dataclass(frozen=True, eq=False)
class LabelImage:
    """A label image that covers a slide.

    Attributes
    ----------
    path : Path
    array : array of integers (height, width)
        Anything that numpy can slice: in memory, or on disk.
    scale0 : float
        Level-0 px per px of the label image.
    """

    path: Path
    array: Any
    scale0: float

    @cached_property
    def watch(self) -> FileWatch:
        """Whether the file is still the one that is read, from the first use on; nothing for one in memory."""
        return FileWatch.of(self.path) if self.path.exists() else FileWatch.nothing(self.path)

    @classmethod
    def open(cls, path: Path | str, slide: Slide, scale0: float | None = None) -> Self:
        """Open a TIFF, PNG or OME-Zarr label image that belongs to a slide.

        Of a pyramid the finest level is read; of an OME-Zarr image with `labels`, its only label image.

        Parameters
        ----------
        path : path
        slide : Slide
        scale0 : float, optional
            Level-0 px per px of the label image. It is not guessed from the sizes, because the label image of a square
            tile fits a square slide at some scale too: without it the sizes must be equal.

        Raises
        ------
        CellsError
            The file holds no integers, several planes, or does not have the slide's size at that scale.
        """
        path = Path(path)
        if not path.exists():
            raise CellsError(f"{path} does not exist. Name a label image: TIFF, PNG or OME-Zarr.")
        array = _zarr_labels(path) if path.is_dir() else _file_labels(path)
        if not np.issubdtype(array.dtype, np.integer) and array.dtype != np.bool_:
            raise CellsError(f"{path} holds {array.dtype}, and a label image holds whole numbers, one per cell.")
        if array.dtype == np.bool_:
            raise CellsError(f"{path} is a mask of yes and no. Number its cells first (skimage.measure.label).")
        kept = [length for length in array.shape if length > 1]
        if len(kept) != 2:
            raise CellsError(f"{path} has the shape {array.shape}; a label image has one plane.")
        height, width = kept
        scale = 1.0 if scale0 is None else float(scale0)
        if scale <= 0:
            raise CellsError(f"The scale of {path} is {scale0}; it is the number of level-0 px per px.")
        # A reduced image may have lost the last part of a px on either side.
        reach = 0.0 if scale0 is None else scale
        if abs(width * scale - slide.width) > reach or abs(height * scale - slide.height) > reach:
            raise CellsError(
                f"{path} measures {width}x{height} px and {slide.path.name} {slide.width}x{slide.height} px: they do "
                f"not cover the same field{'' if scale0 is None else f' at {scale:g} level-0 px per px'}. Give the "
                "label image of the whole slide; where it is a smaller picture of all of it, say so: --label-scale N."
            )
        if width * height <= _IN_MEMORY:
            array = np.asarray(array[...]).reshape(height, width)
        return cls(path, array, scale)

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.int64]:
        """A window in px of the label image."""
        before = (0,) * (len(self.array.shape) - 2)
        squeezed = len(self.array.shape) > 2
        window = (*before, slice(y, y + height), slice(x, x + width))
        return np.asarray(self.array[window] if squeezed else self.array[y : y + height, x : x + width]).astype(
            np.int64
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.array.shape[-1]), int(self.array.shape[-2])

    def boxes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of all cells, ascending, and their boxes (n, 4) in px of the label image, ends excluded.

        Raises
        ------
        CellsError
            An id spans more than `LARGEST` px: the ids of a tiled segmentation start again in every tile.
        """
        width, height = self.size
        parts = [
            _boxes_in(self.read(x, y, min(_BLOCK, width - x), min(_BLOCK, height - y)), x, y)
            for y in range(0, height, _BLOCK)
            for x in range(0, width, _BLOCK)
        ]
        ids = np.concatenate([part[0] for part in parts])
        boxes = np.concatenate([part[1] for part in parts])
        if not len(ids):
            return ids, boxes
        ids, boxes = _union(ids, boxes)
        if ids[0] < 0:
            raise CellsError(f"{self.path} holds the negative label {ids[0]}; cells are numbered from 1.")
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        if (sides > LARGEST).any():
            worst = int(sides.argmax())
            raise CellsError(
                f"{self.path}: label {ids[worst]} spans {sides[worst]} px. Either ids are used again elsewhere in the "
                "image (number the cells of the whole image anew), or it is a region and no cell."
            )
        return ids, boxes


def _boxes_in(block: NDArray[np.int64], x0: int, y0: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes of the labels of one block, from its runs of equal pixels."""
    wide = np.pad(block, ((0, 0), (1, 1)))
    changes = wide[:, 1:] != wide[:, :-1]
    row, column = np.nonzero(changes)
    after = wide[row, column + 1]
    begins = after != 0
    ends = wide[row, column] != 0
    ids = np.concatenate([after[begins], wide[row, column][ends]])
    x, y = np.concatenate([column[begins], column[ends]]), np.concatenate([row[begins], row[ends]])
    places = np.stack([x + x0, y + y0, x + x0, y + y0 + 1], axis=1).astype(np.int64)
    return _union(ids, places) if len(ids) else (ids, places)


def _union(ids: NDArray[np.int64], boxes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.argsort(ids, kind="stable")
    ids, boxes = ids[order], boxes[order]
    first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    low = np.minimum.reduceat(boxes[:, :2], first, axis=0)
    high = np.maximum.reduceat(boxes[:, 2:], first, axis=0)
    return ids[first], np.concatenate([low, high], axis=1)


def _file_labels(path: Path) -> Any:
    if path.suffix.lower() in (".tif", ".tiff"):
        return _tiff_labels(path)
    import cv2

    from wsi.files.image_files import read_image

    picture = read_image(path, cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise CellsError(f"{path} cannot be read; a label image is TIFF, PNG or OME-Zarr.")
    return picture


def _tiff_labels(path: Path) -> object:
    import tifffile
    import zarr

    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, OSError) as error:
        raise CellsError(f"{path} cannot be read as TIFF: {error}.") from error
    level = file.series[0].levels[0]
    if level.size <= _IN_MEMORY:  # strips of a small file would be unpacked again for every window
        with file:
            return level.asarray()
    store = level.aszarr()
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, _close, store, file)
    return array


def _close(*files: Any) -> None:
    for file in files:
        file.close()


def _zarr_labels(path: Path) -> Any:
    import zarr

    try:
        group: Any = zarr.open_group(path, mode="r")
        if "labels" in group:
            names = sorted(group["labels"].group_keys())
            if len(names) != 1:
                listed = ", ".join(names) or "none"
                raise CellsError(f"{path} has these label images: {listed}. Name one: {path.name}/labels/NAME.")
            group = group[f"labels/{names[0]}"]
        attributes = group.attrs.asdict()
        attributes = attributes.get("ome", attributes)
        return group[attributes["multiscales"][0]["datasets"][0]["path"]]
    except (KeyError, IndexError, TypeError, FileNotFoundError, ValueError) as error:
        if isinstance(error, CellsError):
            raise
        raise CellsError(f"{path} is no OME-Zarr label image: {error!r}.") from error
