"""A slide as levels that napari reads piece by piece: only what is in view, each piece once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.read.slow_pieces import SlowPieces
from wsi import OpenedSlide, Plane
from wsi.errors import ReadError
from wsi.readers.tiff.storage import PieceCache
from wsi.slide import RGB, Level
from wsi.threads import thread_pool

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

PIECE = 512
"""Side in px of what is read and kept at a time."""
CACHE_BYTES = 160 << 20
_SMALLEST = 768
"""Levels are added until the longer side is no larger than this."""
_THREADS = 4
_HATCH = 12
_SLOW_PX = 24_000_000
Key = tuple[slice | int, ...]


class SlidePyramid:
    """Levels of a slide for looking at it, each half the one before.

    The file's own levels are used as they are; sizes between and below them are resampled from the next finer
    one, so that the canvas never takes in more than four times its px, also where the file has few levels or one.

    Pieces that cannot be read are hatched, never white, and named in `unreadable`.

    Parameters
    ----------
    slide : OpenedSlide
        Stays open as long as the pyramid lives.

    Attributes
    ----------
    levels : tuple of DisplayLevel
        Finest first.
    planes : dict of str to int
        How many time points ('t') and depths ('z') there are, for those with more than one.
    pieces_read : int
        How often a piece was read from the file.
    unreadable : dict of str to str
        Places that could not be read, and why.
    on_unreadable : callable, optional
        Told the reason of the first of them, on the thread that reads.

    Parameters
    ----------
    on_ready : callable, optional
        Where given, pieces that take more than 24 million px of the file (a slide without levels, seen whole) come
        later: a pattern stands in their place, and `on_ready` is called on another thread when they are there.
    """

    def __init__(self, slide: OpenedSlide, on_ready: Callable[[], None] | None = None) -> None:
        self.slide = slide
        self._slow = None if on_ready is None else SlowPieces(self._load_slow, on_ready)
        self.levels = _display_levels(slide)
        self.planes = _planes(slide)
        self.pieces_read = 0
        self.unreadable: dict[str, str] = {}
        self.on_unreadable: Callable[[str], None] | None = None
        self._cache = PieceCache(CACHE_BYTES)
        self._planes: dict[Plane, OpenedSlide] = {}
        self._lock = threading.Lock()
        self._pool = thread_pool(_THREADS, "qwenvl-slide")

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of a level without colour: ('y', 'x'), with 't' or 'z' before where there are several."""
        return (*self.planes, "y", "x")

    def views(self) -> list[LevelView]:
        """Every level as an array."""
        return [LevelView.whole(self, number) for number in range(len(self.levels))]

    def read(self, number: int, plane: Plane | None, rows: slice, columns: slice) -> RGB:
        """A region of a level from its pieces, uint8 (h, w, 3); `plane` is None for a slide without planes."""
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        wanted = [
            (row, column)
            for row in range(rows.start // PIECE, -(-rows.stop // PIECE))
            for column in range(columns.start // PIECE, -(-columns.stop // PIECE))
        ]
        if len(wanted) == 1:
            pieces: Iterator[RGB] = iter([self._piece(number, plane, *wanted[0])])
        else:
            pieces = self._pool.map(lambda at: self._piece(number, plane, *at), wanted)
        for (row, column), piece in zip(wanted, pieces, strict=True):
            top, left = row * PIECE, column * PIECE
            y1, y2 = max(rows.start, top), min(rows.stop, top + piece.shape[0])
            x1, x2 = max(columns.start, left), min(columns.stop, left + piece.shape[1])
            out[y1 - rows.start : y2 - rows.start, x1 - columns.start : x2 - columns.start] = piece[
                y1 - top : y2 - top, x1 - left : x2 - left
            ]
        return out

    def _piece(self, number: int, plane: Plane | None, row: int, column: int) -> RGB:
        key = (number, plane, row, column)
        if self._slow is not None and self._is_slow(number):
            level = self.levels[number]
            height, width = min(PIECE, level.height - row * PIECE), min(PIECE, level.width - column * PIECE)
            return self._slow.get(key, height, width)
        piece = self._cache.get(key)
        if piece is None:
            piece = self._load(number, plane, row * PIECE, column * PIECE)
            with self._lock:
                self.pieces_read += 1
            self._cache.put(key, piece)
        return piece

    def _load(self, number: int, plane: Plane | None, top: int, left: int) -> RGB:
        level = self.levels[number]
        width, height = min(PIECE, level.width - left), min(PIECE, level.height - top)
        slide, scale = self._on(plane), level.downsample
        try:
            if level.stored is not None:
                return slide.read(round(left * scale), round(top * scale), width, height, level.stored)
            factor = round(scale)
            return slide.read_scaled(left * factor, top * factor, width * factor, height * factor, (width, height))
        except ReadError as error:
            self._report(f"level {number}, x {left}, y {top}", str(error))
            return hatched(height, width)

    def _is_slow(self, number: int) -> bool:
        """Whether a piece of a level takes very many px of the file."""
        level = self.levels[number]
        if level.stored is not None:
            return False
        source = self.slide.levels[self.slide.best_level(level.downsample)]
        return (PIECE * level.downsample / source.downsample) ** 2 > _SLOW_PX

    def _load_slow(self, number: int, plane: Plane | None, row: int, column: int) -> RGB:
        """A slow piece: from the four pieces of the next finer level where they are slow, too, else from the file."""
        assert self._slow is not None
        with self._lock:
            self.pieces_read += 1
        if not self._is_slow(number - 1):
            return self._load(number, plane, row * PIECE, column * PIECE)
        level = self.levels[number]
        height, width = min(PIECE, level.height - row * PIECE), min(PIECE, level.width - column * PIECE)
        finer = np.empty((2 * height, 2 * width, 3), np.uint8)
        for down in range(-(-2 * height // PIECE)):
            for right in range(-(-2 * width // PIECE)):
                part = self._slow.now((number - 1, plane, 2 * row + down, 2 * column + right))
                y, x = down * PIECE, right * PIECE
                rows, columns = min(PIECE, 2 * height - y), min(PIECE, 2 * width - x)
                finer[y : y + rows, x : x + columns] = part[:rows, :columns]
        return np.asarray(cv2.resize(finer, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    def _on(self, plane: Plane | None) -> OpenedSlide:
        if plane is None:
            return self.slide
        if plane not in self._planes:
            self._planes[plane] = self.slide.on_plane(plane)
        return self._planes[plane]

    def _report(self, place: str, reason: str) -> None:
        first = not self.unreadable
        self.unreadable[place] = reason
        if first and self.on_unreadable is not None:
            self.on_unreadable(reason)


@dataclass(frozen=True, slots=True)
class DisplayLevel:
    """One level: size, level-0 px per px, and which level of the file it is (None: resampled)."""

    width: int
    height: int
    downsample: float
    stored: int | None = None


def _display_levels(slide: OpenedSlide) -> tuple[DisplayLevel, ...]:
    levels: list[DisplayLevel] = []
    for number, of in enumerate(slide.levels):
        if levels:
            levels += _between(slide, levels[-1].downsample, of)
        levels.append(DisplayLevel(of.width, of.height, of.downsample, number))
    while max(levels[-1].width, levels[-1].height) > _SMALLEST:
        factor = 1 << int(np.floor(np.log2(levels[-1].downsample))) + 1
        if min(slide.width, slide.height) < factor:
            break
        levels.append(_resampled(slide, factor))
    return tuple(levels)


def _between(slide: OpenedSlide, finer: float, coarser: Level) -> list[DisplayLevel]:
    """Powers of two well between two levels of the file."""
    factors = [1 << k for k in range(1, 24) if finer * 1.5 < 1 << k < coarser.downsample / 1.5]
    return [_resampled(slide, factor) for factor in factors]


def _resampled(slide: OpenedSlide, factor: int) -> DisplayLevel:
    return DisplayLevel(slide.width // factor, slide.height // factor, float(factor))


def _planes(slide: OpenedSlide) -> dict[str, int]:
    """Axes of planes with more than one: 't' and 'z', and how many there are."""
    sizes = {"t": slide.layout.times, "z": slide.layout.depths}
    return {axis: size for axis, size in sizes.items() if size > 1}


def hatched(height: int, width: int) -> RGB:
    """Gray with dark red stripes: what stands where pixels could not be read."""
    stripes = (np.arange(height)[:, None] + np.arange(width)) % (2 * _HATCH) < _HATCH // 2
    colours = np.array([[150, 150, 150], [170, 40, 40]], np.uint8)
    return colours[stripes.astype(np.intp)]


@dataclass(frozen=True)
class LevelView:
    """A level, or a part of it, as an array that is read when its values are asked for (`numpy.asarray`).

    Slices with step 1 and whole numbers give a smaller view; anything else reads first. The shape is
    (planes..., height, width, 3), dtype uint8. `chunks` lets napari ask for whole pieces, so that moving
    within them reads nothing.
    """

    pyramid: SlidePyramid
    level: int
    window: tuple[slice | int, ...]

    dtype = np.dtype(np.uint8)

    @classmethod
    def whole(cls, pyramid: SlidePyramid, level: int) -> LevelView:
        """All of a level."""
        of = pyramid.levels[level]
        sizes = (*pyramid.planes.values(), of.height, of.width, 3)
        return cls(pyramid, level, tuple(slice(0, size) for size in sizes))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes that were not indexed away."""
        return tuple(part.stop - part.start for part in self.window if isinstance(part, slice))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that all values would take."""
        return self.size

    @property
    def chunks(self) -> tuple[int, ...]:
        """Sizes of the pieces."""
        sizes = (*(1 for _ in self.pyramid.planes), PIECE, PIECE, 3)
        return tuple(
            min(size, max(1, part.stop - part.start))
            for part, size in zip(self.window, sizes, strict=True)
            if isinstance(part, slice)
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        keys = _complete(key, self.ndim)
        plain = all(_is_whole(part) or (isinstance(part, slice) and part.step in (None, 1)) for part in keys)
        if not plain:
            return np.asarray(self)[key]
        left = iter(keys)
        window = tuple(_cut(part, next(left)) if isinstance(part, slice) else part for part in self.window)
        view = LevelView(self.pyramid, self.level, window)
        return view if view.ndim else np.asarray(view)[()]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        *planes, rows, columns, colour = self.window
        spans = [part if isinstance(part, slice) else slice(part, part + 1) for part in planes]
        y, x = (part if isinstance(part, slice) else slice(part, part + 1) for part in (rows, columns))
        sizes = tuple(span.stop - span.start for span in (*spans, y, x))
        out = np.empty((*sizes, 3), np.uint8)
        if out.size:
            for at in np.ndindex(sizes[:-2]):
                plane = self._plane([span.start + i for span, i in zip(spans, at, strict=True)])
                out[at] = self.pyramid.read(self.level, plane, y, x)
        drop = tuple(0 if _is_whole(part) else slice(None) for part in (*planes, rows, columns))
        return np.asarray(out[(*drop, colour)], dtype)

    def _plane(self, indices: list[int]) -> Plane | None:
        if not indices:
            return None
        return Plane(**dict(zip(self.pyramid.planes, indices, strict=True)))


def _is_whole(part: object) -> bool:
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def _complete(key: object, ndim: int) -> list[Any]:
    """One entry per axis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, part in enumerate(keys) if part is Ellipsis), None)
    if at is not None:
        keys[at : at + 1] = [slice(None)] * (ndim + 1 - len(keys))
    if len(keys) > ndim:
        raise IndexError(f"{len(keys)} indices for an array with {ndim} axes.")
    return keys + [slice(None)] * (ndim - len(keys))


def _cut(part: slice, key: Any) -> slice | int:
    """An index or slice within what a window holds already."""
    length = part.stop - part.start
    if isinstance(key, slice):
        start, stop, _ = key.indices(length)
        return slice(part.start + start, part.start + max(start, stop))
    index = int(key)
    if not -length <= index < length:
        raise IndexError(f"Index {index} is not within {length}.")
    return int(part.start + index % length)
