"""The tissue mask: which parts of a slide are worth asking about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi.errors import MaskError, ReadError
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.slide import RGB, Slide
from wsi.tile import Tile
from wsi.tissue.detection import detect

METHODS = ("auto", "brightfield", "fluorescence", "all")
_UM_PER_MASK_PX = 8.0
_SIDES = (512, 4096)
_BLOCK_PX = 16_000_000
_PIECE = 32


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue as a low-resolution picture that covers the whole slide.

    Attributes
    ----------
    array : bool array (h, w)
        True where there is tissue.
    scale_xy : (float, float)
        Level-0 px per mask px along x and y.
    origin : str
        How the mask was made: 'auto', 'brightfield', 'fluorescence', 'all', 'array' or 'geojson'.
    details : mapping
        Numbers of the method (glass colour, threshold, share of pen), as JSON values for provenance. `on_threshold`
        is the doubt: the share of the tissue that is tissue at 0.7 times the threshold and not at 1.4 times.
    exact_area_px0 : float, optional
        Area in level-0 px² where it is known better than the array tells (annotations).
    """

    array: NDArray[np.bool_]
    scale_xy: tuple[float, float]
    origin: str = "array"
    details: Mapping[str, object] = field(default_factory=dict)
    exact_area_px0: float | None = None

    def __post_init__(self) -> None:
        array = np.array(self.array, bool)
        if array.ndim != 2 or array.size == 0:
            raise MaskError(f"A tissue mask is a picture with two axes, not an array of shape {array.shape}.")
        if min(self.scale_xy) <= 0:
            raise MaskError(f"A tissue mask needs positive level-0 px per mask px, not {self.scale_xy}.")
        array.setflags(write=False)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "details", MappingProxyType(dict(self.details)))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return type(self), (self.array, self.scale_xy, self.origin, dict(self.details), self.exact_area_px0)

    @classmethod
    def from_slide(cls, slide: Slide, *, method: str = "auto") -> Self:
        """Find the tissue of a slide.

        Parameters
        ----------
        slide : Slide
        method : {'auto', 'brightfield', 'fluorescence', 'all'}
            'auto' tells a bright background from a dark one by itself; 'all' takes the whole slide.

        Raises
        ------
        MaskError
            The method is not known.

        Notes
        -----
        Places whose pixels cannot be read count as tissue, so that their tiles are asked for and reported as
        failed; `details['unreadable']` is their share.

        A mask without any tissue is returned as such; building a grid on it raises MaskError.
        """
        if method not in METHODS:
            raise MaskError(f"No tissue method is called {method!r}; use one of {', '.join(METHODS)}.")
        if method == "all":
            return cls.everything(slide)
        picture, unreadable = overview(slide, _mask_size(slide))
        height, width = picture.shape[:2]
        scale_xy = slide.width / width, slide.height / height
        um = None if slide.mpp is None else slide.mpp * float(np.sqrt(scale_xy[0] * scale_xy[1]))
        array, details = detect(picture, um_per_px=um, background=method)
        if unreadable.any():
            array, details = array | unreadable, {**details, "unreadable": round(float(unreadable.mean()), 6)}
        return cls(array, scale_xy, method, details)

    @classmethod
    def from_array(cls, array: ArrayLike, slide: Slide, *, origin: str = "array") -> Self:
        """A mask of any resolution, shape (h, w), that covers the whole slide; non-zero is tissue."""
        mask = np.asarray(array)
        if mask.ndim != 2 or mask.size == 0:
            raise MaskError(f"A tissue mask is a picture with two axes, not an array of shape {mask.shape}.")
        return cls(mask != 0, (slide.width / mask.shape[1], slide.height / mask.shape[0]), origin)

    @classmethod
    def from_geojson(cls, path: str | Path, slide: Slide, frame: PixelFrame | str | None = None) -> Self:
        """The regions of a QuPath GeoJSON file (plain or gzip).

        A FeatureCollection, a bare list, a single Feature or geometry are read; polygons with holes,
        multi-polygons and geometry collections count, points and lines do not.

        Parameters
        ----------
        path : path
        slide : Slide
        frame : PixelFrame or str, optional
            'qupath' or 'level0': the frame of the coordinates, for a file that does not record it. Needed where
            QuPath crops the slide; see `wsi.regions.frames`.

        Raises
        ------
        MaskError
            The file cannot be read, holds no region, or no region lies on the slide.
        FrameNeededError, FrameError
            It is not known in which px the coordinates are, or the file was made for another slide.
        """
        from wsi.tissue.geojson import rasterise, read_regions

        size = slide.width, slide.height
        regions, details = read_regions(Path(path), size, SlideFrames.of(slide), frame)
        array = rasterise(regions, size, _SIDES[1])
        scale_xy = slide.width / array.shape[1], slide.height / array.shape[0]
        return cls(array, scale_xy, "geojson", details, float(regions.area))

    @classmethod
    def everything(cls, slide: Slide) -> Self:
        """The whole slide."""
        return cls(np.ones((1, 1), bool), (float(slide.width), float(slide.height)), "all")

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue, 0 to 1."""
        return float(self.array.mean())

    @property
    def raster_area_px0(self) -> float:
        """Area of the array's tissue in level-0 px²."""
        return float(self._integral[-1, -1]) * self.scale_xy[0] * self.scale_xy[1]

    @property
    def area_px0(self) -> float:
        """Area of the tissue in level-0 px²; exact for annotations."""
        return self.raster_area_px0 if self.exact_area_px0 is None else self.exact_area_px0

    def area_mm2(self, mpp: float) -> float:
        """Area of the tissue in mm² for a slide of `mpp` um per level-0 px."""
        return self.area_px0 * mpp * mpp / 1e6

    @cached_property
    def _integral(self) -> NDArray[np.int64]:
        table = np.zeros((self.array.shape[0] + 1, self.array.shape[1] + 1), np.int64)
        np.cumsum(self.array, axis=0, dtype=np.int64, out=table[1:, 1:])
        np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
        return table

    def coverage(self, tiles: Tile | ArrayLike) -> Any:
        """Share of a tile that is tissue.

        Parameters
        ----------
        tiles : Tile, or array (n, 4)
            One tile, or rectangles x_min, y_min, x_max, y_max in level-0 px.

        Returns
        -------
        float, or float64 array (n,). Exact for the array: partly covered mask px count by their part.
        """
        if isinstance(tiles, Tile):
            rect = (tiles.x0, tiles.y0, tiles.x0 + tiles.width0, tiles.y0 + tiles.height0)
            return float(self.coverage([rect])[0])
        rects = np.asarray(tiles, float).reshape(-1, 4)
        left, right = rects[:, 0] / self.scale_xy[0], rects[:, 2] / self.scale_xy[0]
        top, bottom = rects[:, 1] / self.scale_xy[1], rects[:, 3] / self.scale_xy[1]
        sums = self._sum(right, bottom) - self._sum(left, bottom)
        sums -= self._sum(right, top) - self._sum(left, top)
        return np.clip(sums / np.maximum((right - left) * (bottom - top), 1e-12), 0.0, 1.0)

    def coverage_grid(self, left: ArrayLike, right: ArrayLike, top: ArrayLike, bottom: ArrayLike) -> Any:
        """`coverage` of every rectangle of a grid.

        Parameters
        ----------
        left, right : array (c,)
            Edges of the columns in level-0 px.
        top, bottom : array (r,)
            Edges of the rows in level-0 px.

        Returns
        -------
        float64 array (r, c).
        """
        x_min, x_max = np.asarray(left, float) / self.scale_xy[0], np.asarray(right, float) / self.scale_xy[0]
        y_min, y_max = np.asarray(top, float) / self.scale_xy[1], np.asarray(bottom, float) / self.scale_xy[1]
        bands = _between(self._integral, y_min, y_max)
        sums = _between(bands.T, x_min, x_max).T
        return np.clip(sums / np.maximum(np.outer(y_max - y_min, x_max - x_min), 1e-12), 0.0, 1.0)

    def touched_grid(self, left: ArrayLike, right: ArrayLike, top: ArrayLike, bottom: ArrayLike) -> Any:
        """Whether each rectangle of a grid touches any tissue: bool (r, c), arguments as `coverage_grid`."""
        x_min, x_max = self._outer(left, right, 0)
        y_min, y_max = self._outer(top, bottom, 1)
        bands = self._integral[y_max] - self._integral[y_min]
        return (bands[:, x_max] - bands[:, x_min]) > 0

    def _outer(self, low: ArrayLike, high: ArrayLike, axis: int) -> tuple[Any, Any]:
        """The mask px that a range of level-0 px touches, end excluded."""
        length = self.array.shape[1 - axis]
        first = np.floor(np.asarray(low, float) / self.scale_xy[axis]).astype(np.int64)
        last = np.ceil(np.asarray(high, float) / self.scale_xy[axis]).astype(np.int64)
        return np.clip(first, 0, length), np.clip(last, 0, length)

    def _sum(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tissue above and left of points in mask px; exact: the integral is bilinear between its nodes."""
        height, width = self.array.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        column, row = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
        u, v, table = x - column, y - row, self._integral
        upper = table[row, column] * (1 - u) + table[row, column + 1] * u
        lower = table[row + 1, column] * (1 - u) + table[row + 1, column + 1] * u
        result: NDArray[np.float64] = upper * (1 - v) + lower * v
        return result

    def describe(self) -> dict[str, object]:
        """How the mask was made, as JSON values for provenance."""
        return {
            "origin": self.origin,
            "size_px": [self.array.shape[1], self.array.shape[0]],
            "scale_xy_px0": [float(s) for s in self.scale_xy],
            "fraction": self.fraction,
            "area_px0": self.area_px0,
            **self.details,
        }


def _between(table: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of a cumulative table along its first axis, linear between its nodes: (n, m) -> (k, m)."""

    def at(position: NDArray[np.float64]) -> NDArray[np.float64]:
        position = np.clip(position, 0, len(table) - 1)
        node = np.minimum(position.astype(np.int64), len(table) - 2)
        part = (position - node)[:, None]
        value: NDArray[np.float64] = table[node] * (1 - part) + table[node + 1] * part
        return value

    return at(high) - at(low)


def _mask_size(slide: Slide) -> tuple[int, int]:
    """Size of the mask in px: about 8 um per px where the scale is known, the longer side 512 to 4096 px."""
    longer = max(slide.width, slide.height)
    wanted = longer / 32 if slide.mpp is None else longer * slide.mpp / _UM_PER_MASK_PX
    factor = min(1.0, min(max(wanted, _SIDES[0]), _SIDES[1]) / longer)
    return max(1, round(slide.width * factor)), max(1, round(slide.height * factor))


def overview(slide: Slide, size: tuple[int, int]) -> tuple[RGB, NDArray[np.bool_]]:
    """The whole slide at `size` (width, height) px, read in blocks to keep memory flat.

    Returns
    -------
    picture : uint8 (h, w, 3)
        Where nothing could be read it has the median colour of the rest.
    unreadable : bool (h, w)
        Blocks whose pixels are missing or corrupt.
    """
    width, height = size
    downsample = slide.levels[slide.best_level(min(slide.width / width, slide.height / height))].downsample
    rows = max(1, int(_BLOCK_PX * downsample**2 / slide.width * height / slide.height))
    picture = np.empty((height, width, 3), np.uint8)
    unreadable = np.zeros((height, width), bool)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        try:
            picture[top:bottom] = _block(slide, size, 0, top, width, bottom)
        except ReadError:
            _fill_by_pieces(slide, picture, unreadable, top, bottom)
    if unreadable.any():
        rest = picture[~unreadable]
        picture[unreadable] = np.median(rest, axis=0) if len(rest) else 255
    return picture, unreadable


def _block(slide: Slide, size: tuple[int, int], left: int, top: int, right: int, bottom: int) -> RGB:
    """A rectangle of the overview, given in its px."""
    width, height = size
    x0, x1 = round(left * slide.width / width), round(right * slide.width / width)
    y0, y1 = round(top * slide.height / height), round(bottom * slide.height / height)
    return slide.read_scaled(x0, y0, x1 - x0, y1 - y0, (right - left, bottom - top))


def _fill_by_pieces(slide: Slide, picture: RGB, unreadable: NDArray[np.bool_], top: int, bottom: int) -> None:
    """Read a band again in small pieces, so that one corrupt place costs its own piece only."""
    height, width = unreadable.shape
    for y in range(top, bottom, _PIECE):
        for x in range(0, width, _PIECE):
            right, low = min(width, x + _PIECE), min(bottom, y + _PIECE)
            try:
                picture[y:low, x:right] = _block(slide, (width, height), x, y, right, low)
            except ReadError:
                unreadable[y:low, x:right] = True
