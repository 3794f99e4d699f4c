"""What a run will take: tiles, memory, time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.request import Request
    from wsi.grid import TileGrid
    from wsi.slide import Slide
    from wsi.tissue import TissueMask


@dataclass(frozen=True)
class Cost:
    """What a run will take; None where it cannot be known before.

    Attributes
    ----------
    tiles : int
    memory : int or None
        Bytes, weights and a batch.
    probes : tuple of (x0, y0, width0, height0, width, height)
        Some tiles of the grid to measure the model's pace on.
    """

    tiles: int
    memory: int | None
    probes: tuple[tuple[int, ...], ...] = ()


def cost_of(slide: Slide, request: Request, options: RunOptions, masks: dict[str, TissueMask]) -> Cost:
    """Count the tiles of a run and estimate its memory. Reads the slide's overview the first time.

    Parameters
    ----------
    masks : dict
        Tissue masks found so far, by their name; kept by the caller for one slide.

    Raises
    ------
    SlideError
        Slide, mask or grid; the message says what to do.
    """
    from workflows.inputs.opening import find_mask
    from wsi.grid import TileGrid

    if options.mask not in masks:
        masks[options.mask] = find_mask(options.mask, slide, options.frame)[0]
    grid: TileGrid = TileGrid.from_slide(
        slide,
        tile_size=request.tile_size,
        overlap=request.overlap,
        mpp=request.mpp,
        mask=masks[options.mask],
        min_tissue=request.min_tissue,
    )
    rows = np.unique(np.linspace(0, len(grid) - 1, 5).astype(int)[1:-1]) if len(grid) > 4 else [0]
    probes = tuple((int(grid.x0[i]), int(grid.y0[i]), *grid.side0, grid.tile_size, grid.tile_size) for i in rows)
    return Cost(len(grid), memory_of(options, request), probes)


def memory_of(options: RunOptions, request: Request) -> int | None:
    """Estimated bytes of weights and one batch; None for a served model or one that is not known."""
    from qwenvl.checkpoints.catalogue import KNOWN_MODELS
    from qwenvl.checkpoints.checkpoint_metadata import EMBEDDED, describe_checkpoint

    if options.server is not None:
        return None
    if options.model == EMBEDDED or Path(options.model).expanduser().is_dir():
        dtype = None if options.dtype == "auto" else options.dtype
        return (
            describe_checkpoint(options.model)
            .estimate_memory(request.tile_size, batch=8, new_tokens=request.generation.max_new_tokens, dtype=dtype)
            .total
        )
    known = {model.name: model for model in KNOWN_MODELS}.get(options.model)
    return None if known is None else round(known.memory_gib(request.tile_size, 8) * 2**30)


def in_words(seconds: float | None) -> str:
    """A time span as people say it."""
    if seconds is None or not np.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
