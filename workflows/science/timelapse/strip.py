"""The strip: the frames of a stack side by side as one slide, so that a run asks, stores and resumes them like tiles.

Level-0 px of the strip are px of the frames, shifted by a pitch per frame. Between frames lies a gap that no tile
touches, so nothing is merged from one frame to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Request
from workflows.errors import StackError
from workflows.science.timelapse.stack import Stack
from workflows.store.provenance import GridFacts, grid_facts
from workflows.store.rows import TILE_DTYPE, tile_table
from wsi.errors import RegionError
from wsi.files.identity import FileWatch
from wsi.grid import TileGrid
from wsi.slide import RGB, Level, Slide
from wsi.tissue import TissueMask

GAP = 1024
"""Px between two frames: more than any rule of the merge reaches."""


class Strip(Slide):
    """The frames of a stack as one slide.

    Parameters
    ----------
    stack : Stack
        Stays open.
    frames : sequence of int
        Which frames, in rising order; frame k of the strip is frame `frames[k]` of the stack.
    """

    options: Mapping[str, str]

    def __init__(self, stack: Stack, frames: Sequence[int]) -> None:
        self.stack, self.frames = stack, tuple(frames)
        slide = stack.slide
        self.path, self.reader = slide.path, slide.reader
        self.mpp_xy, self.mpp_source = slide.mpp_xy, slide.mpp_source
        self.properties = slide.properties
        self.pitch = slide.width + GAP
        self.levels = (Level(self.pitch * len(self.frames) - GAP, slide.height, 1.0),)
        # Whoever opens a run of frames again must see that it is none of a single plane.
        place = f"{stack.stored}={','.join(map(str, self.frames))};{'z' if stack.stored == 't' else 't'}={stack.other}"
        self.options = MappingProxyType({**slide.options, "plane": place})

    @property
    def watch(self) -> FileWatch:  # type: ignore[override]
        """That of the stack's file."""
        return self.stack.slide.watch

    def frame_at(self, x0: float) -> int:
        """Which of the strip's frames a column of level-0 px lies in."""
        return int(x0 // self.pitch)

    def read_scaled(self, x0: int, y0: int, width0: int, height0: int, size: tuple[int, int]) -> RGB:
        """A rectangle within one frame; see `Slide.read_scaled`."""
        frame = self.frame_at(x0)
        if not 0 <= frame < len(self.frames):
            raise RegionError(f"{self.path}: x {x0} lies in none of the {len(self.frames)} frames.")
        slide = self.stack.frame(self.frames[frame])
        return slide.read_scaled(x0 - frame * self.pitch, y0, width0, height0, size)

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        frame = self.frame_at(x)
        return self.stack.frame(self.frames[frame]).read(x - frame * self.pitch, y, width, height)

    def _reopen(self) -> tuple[object, tuple[object, ...]]:
        return Strip, (self.stack, self.frames)


def fit_tiles(stack: Stack, request: Request, factor: int) -> Request:
    """The request with tiles no larger than a frame, which a checkpoint's recommended ones may be.

    Parameters
    ----------
    factor : int
        Tiles stay multiples of it, so that nothing is resized.
    """
    slide = stack.slide
    scale = 1.0 if request.mpp is None or slide.mpp is None else slide.mpp / request.mpp
    shorter = int(min(slide.width, slide.height) * scale) // factor * factor
    if shorter >= request.tile_size or shorter < factor:
        return request
    return request.model_copy(update={"tile_size": shorter, "overlap": min(request.overlap, shorter // 4)})


def strip_tiles(strip: Strip, request: Request) -> tuple[NDArray[np.void], GridFacts, TissueMask]:
    """The tiles of every frame: those of the request over a whole frame, frame after frame.

    Returns
    -------
    table : structured array (n,) of TILE_DTYPE
        In px of the strip.
    facts : GridFacts
    mask : TissueMask
        Of one frame: all of it.
    """
    slide = strip.stack.slide
    if min(slide.width, slide.height) < 32:
        raise StackError(f"{slide.path}: frames of {slide.width}x{slide.height} px are too small to ask about.")
    mask = TissueMask.from_slide(slide, method="all")
    grid = TileGrid.from_slide(slide, tile_size=request.tile_size, overlap=request.overlap, mpp=request.mpp, mask=mask)
    one = tile_table(grid)
    table = np.concatenate([one] * len(strip.frames)).astype(TILE_DTYPE)
    number = np.repeat(np.arange(len(strip.frames)), len(one))
    table["tile"] = np.arange(len(table))
    for name in ("x0", "core_x0", "core_x1"):
        table[name] += number * strip.pitch
    digest = hashlib.sha256(f"{grid.hash} frames {strip.frames} pitch {strip.pitch}".encode()).hexdigest()[:32]
    facts = grid_facts(grid, slide)
    facts = facts.model_copy(
        update={"tiles": len(table), "columns": facts.columns * len(strip.frames), "hash": f"sha256:{digest}"}
    )
    return table, facts, mask
