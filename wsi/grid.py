"""The grid: every tile that covers the tissue, and the part of the plane that each tile owns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import ceil
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from wsi._cores import cores
from wsi.errors import GridError, MaskError, UnknownMppError
from wsi.slide import Slide
from wsi.tile import Tile
from wsi.tissue import TissueMask

_MOST_POSITIONS = 50_000_000


class TileGrid(Sequence[Tile]):
    """Tiles of one size at one scale, in reading order (row by row, left to right).

    Columns start every `step0` level-0 px; the last column and row are shifted inwards, so that every tile
    lies inside the slide and all have the same size. Sides and steps are whole level-0 px, so nothing drifts
    however wide the slide is; the overlap is rounded up, so it is never less than asked.

    Parameters
    ----------
    size : (width, height)
        Size of the slide in level-0 px.
    tile_size : int
        Side of a tile's picture in px.
    overlap : int
        Least overlap of neighbours in px of the picture.
    mpp : float, optional
        Scale of the pictures in um/px. None takes the pixels of level 0 as they are.
    mpp_xy : (float, float), optional
        Scale of the slide in um per level-0 px.
    mask : TissueMask, optional
        Only tiles that touch it are listed. None lists all.
    min_tissue : float
        Tiles with a smaller share of tissue are left out. 0 keeps every tile that touches the mask.

    Attributes
    ----------
    side0 : (int, int)
        Width and height of a tile in level-0 px.
    step0 : (int, int)
        Distance of neighbouring tiles in level-0 px.
    columns0, rows0 : int64 arrays
        Left edges of all columns and top edges of all rows, in level-0 px.
    column, row : int64 arrays (n,)
        Column and row of each listed tile.
    x0, y0 : int64 arrays (n,)
        Top-left corner of each listed tile in level-0 px.

    Raises
    ------
    GridError
        Tile size, overlap or scale are out of range, or the tile is larger than the slide.
    UnknownMppError
        `mpp` is given and the slide's scale is unknown.
    MaskError
        The mask has no tissue, or no tile has `min_tissue` of it.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        tile_size: int,
        overlap: int = 0,
        mpp: float | None = None,
        mpp_xy: tuple[float, float] | None = None,
        mask: TissueMask | None = None,
        min_tissue: float = 0.0,
    ) -> None:
        if tile_size < 1 or not 0 <= overlap < tile_size:
            raise GridError(
                f"Tile size {tile_size} px with overlap {overlap} px: the overlap must be at least 0 and "
                "smaller than the tile."
            )
        if mpp is not None and not 0 < mpp < float("inf"):
            raise GridError(f"Scale {mpp} um/px: give a positive number, for example 0.5.")
        if not 0 <= min_tissue <= 1:
            raise GridError(f"min_tissue {min_tissue}: give a share between 0 and 1.")
        if mpp is not None and mpp_xy is None:
            raise UnknownMppError(
                f"Tiles at {mpp} um/px need the slide's pixel size, which the slide does not state. Give it "
                "in micrometres per pixel (--slide-mpp 0.25, open_slide(path, mpp=0.25)), or leave out the "
                "scale to take the pixels of level 0 as they are."
            )
        self.size, self.tile_size, self.overlap, self.min_tissue = size, tile_size, overlap, min_tissue
        self.mpp, self.mpp_xy, self.mask = mpp, mpp_xy, mask
        scale = _scale(mpp, mpp_xy)
        self.side0 = side_of_tile(size, tile_size=tile_size, mpp=mpp, mpp_xy=mpp_xy)
        # The tolerance keeps an overlap that is whole up to rounding (64 * 0.5 / 0.25) whole.
        lap = [ceil(overlap * s - 1e-6) for s in scale]
        self.step0 = (max(1, self.side0[0] - lap[0]), max(1, self.side0[1] - lap[1]))
        self.columns0 = _origins(size[0], self.side0[0], self.step0[0])
        self.rows0 = _origins(size[1], self.side0[1], self.step0[1])
        if len(self.columns0) * len(self.rows0) > _MOST_POSITIONS:
            raise GridError(
                f"{len(self.columns0)} x {len(self.rows0)} tiles of {self.side0[0]} level-0 px are more than "
                f"{_MOST_POSITIONS:,}; use larger tiles or a coarser scale."
            )
        self.row, self.column = self._select()
        self.x0, self.y0 = self.columns0[self.column], self.rows0[self.row]
        for array in (self.columns0, self.rows0, self.row, self.column, self.x0, self.y0):
            array.setflags(write=False)

    @classmethod
    def from_slide(
        cls,
        slide: Slide,
        *,
        tile_size: int,
        overlap: int = 0,
        mpp: float | None = None,
        mask: TissueMask | None = None,
        min_tissue: float = 0.0,
    ) -> Self:
        """The grid of an opened slide; parameters and errors as for the class."""
        return cls(
            (slide.width, slide.height),
            tile_size=tile_size,
            overlap=overlap,
            mpp=mpp,
            mpp_xy=slide.mpp_xy,
            mask=mask,
            min_tissue=min_tissue,
        )

    def _select(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the tiles that the mask asks for."""
        shape = len(self.rows0), len(self.columns0)
        if self.mask is None:
            rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
            return rows, columns
        if self.mask.fraction == 0:
            raise MaskError(
                f"No tissue was found on the slide (mask: {self.mask.origin}). Use --mask all to ask about "
                "every tile, or give a GeoJSON of the regions you want."
            )
        x, y = self.columns0, self.rows0
        wanted = self.mask.touched_grid(x, x + self.side0[0], y, y + self.side0[1])
        if self.min_tissue > 0:
            share = self.mask.coverage_grid(x, x + self.side0[0], y, y + self.side0[1])
            wanted &= share >= self.min_tissue
            if not wanted.any():
                raise MaskError(
                    f"No tile holds {self.min_tissue:.0%} tissue; the fullest holds {share.max():.1%}. "
                    "Lower min_tissue or use smaller tiles."
                )
        rows, columns = np.nonzero(wanted)
        return rows, columns

    def __len__(self) -> int:
        return len(self.x0)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)}")
        return Tile(i, int(self.x0[i]), int(self.y0[i]), *self.side0, self.tile_size, self.tile_size)

    def __iter__(self) -> Iterator[Tile]:
        for i in range(len(self)):
            yield self[i]

    @property
    def scale(self) -> float:
        """Level-0 px per px of a tile's picture (geometric mean of x and y)."""
        return float(np.sqrt(self.side0[0] * self.side0[1])) / self.tile_size

    @property
    def upsampling(self) -> float:
        """How many times finer than level 0 the pictures are; 1 where nothing is invented."""
        return max(1.0, self.tile_size / min(self.side0))

    @cached_property
    def rects(self) -> NDArray[np.int64]:
        """Rectangles of the tiles, int64 (n, 4): x_min, y_min, x_max, y_max in level-0 px, end excluded."""
        return np.stack([self.x0, self.y0, self.x0 + self.side0[0], self.y0 + self.side0[1]], axis=1)

    @cached_property
    def coverage(self) -> NDArray[np.float64]:
        """Share of each tile that is tissue, float64 (n,)."""
        return np.ones(len(self)) if self.mask is None else self.mask.coverage(self.rects)

    @cached_property
    def tissue_coverage(self) -> float:
        """Share of the tissue that lies in a tile: 1 unless `min_tissue` left tiles out."""
        if self.mask is None:
            return 1.0
        area0 = np.prod(self.cores[:, 2:] - self.cores[:, :2], axis=1)
        return float(min(1.0, (self.mask.coverage(self.cores) * area0).sum() / self.mask.raster_area_px0))

    @cached_property
    def cores(self) -> NDArray[np.int64]:
        """What each tile owns, int64 (n, 4): x_min, y_min, x_max, y_max in level-0 px, end excluded.

        Seams lie midway in the overlap of neighbours, so the cores are disjoint, each lies inside its tile,
        and together they hold all of the mask (the whole slide where every tile is listed). Where the
        neighbour is not listed a core reaches to its tile's edge, unless it would meet another core there.
        """
        return cores(self.size[0], self.side0, self.columns0, self.rows0, self.column, self.row)

    def describe(self) -> dict[str, object]:
        """What the grid was made of, as JSON values for provenance."""
        return {
            "slide_size_px0": list(self.size),
            "slide_mpp_xy": None if self.mpp_xy is None else list(self.mpp_xy),
            "tile_size_px": self.tile_size,
            "overlap_px": self.overlap,
            "mpp": self.mpp,
            "min_tissue": self.min_tissue,
            "side_px0": list(self.side0),
            "step_px0": list(self.step0),
            "tiles": len(self),
            "columns": len(self.columns0),
            "rows": len(self.rows0),
            "upsampling": self.upsampling,
            "tissue_coverage": self.tissue_coverage,
            "mask": None if self.mask is None else self.mask.describe(),
        }

    @cached_property
    def hash(self) -> str:
        """'sha256:' and 32 hexadecimal digits over the tiles' rectangles and picture size."""
        head = json.dumps([list(self.size), self.tile_size, list(self.side0)])
        digest = hashlib.sha256(head.encode())
        digest.update(self.x0.astype("<i8").tobytes())
        digest.update(self.y0.astype("<i8").tobytes())
        return f"sha256:{digest.hexdigest()[:32]}"


def side_of_tile(
    size: tuple[int, int], *, tile_size: int, mpp: float | None = None, mpp_xy: tuple[float, float] | None = None
) -> tuple[int, int]:
    """Width and height of a tile in level-0 px; parameters as for `TileGrid`.

    Raises
    ------
    GridError
        The tile is larger than the slide; `fits` says how large one may be.
    """
    scale = _scale(mpp, mpp_xy)
    side0 = (max(1, round(tile_size * scale[0])), max(1, round(tile_size * scale[1])))
    if side0[0] <= size[0] and side0[1] <= size[1]:
        return side0
    exact = min(size[0] / scale[0], size[1] / scale[1])
    fits = int(exact)
    at = "" if mpp is None else f" at {mpp:g} um/px"
    remedy = (
        f"use a tile size of at most {fits // 32 * 32 or fits} px{at}"
        if fits
        else f"ask for a finer scale than {mpp:g} um/px"
    )
    raise GridError(
        f"A tile of {tile_size} px{at} covers {side0[0]}x{side0[1]} level-0 px and the slide has only "
        f"{size[0]}x{size[1]}; {remedy}.",
        exact,
    )


def _scale(mpp: float | None, mpp_xy: tuple[float, float] | None) -> tuple[float, float]:
    """Level-0 px per px of a tile along x and y."""
    return (1.0, 1.0) if mpp is None or mpp_xy is None else (mpp / mpp_xy[0], mpp / mpp_xy[1])


def _origins(length: int, side: int, step: int) -> NDArray[np.int64]:
    """Starts of tiles of `side` px that cover `length` px; the last one is shifted to end with it."""
    count = -(-(length - side) // step) + 1
    return np.minimum(np.arange(count, dtype=np.int64) * step, length - side)
