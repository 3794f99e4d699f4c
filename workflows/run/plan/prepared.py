"""Everything about a run that is known before the first tile is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwenvl.engines.base import Engine
from qwenvl.errors import RequestError
from qwenvl.request import Request
from workflows.inputs.fit import WHERE_FLAGS, advised
from workflows.inputs.opening import find_mask
from workflows.run.plan.budget import plan_tiles, table_hash
from workflows.run.plan.cascade import coarse_request
from workflows.run.plan.estimate import RunEstimate
from workflows.run.quality import QualitySettings
from workflows.store.provenance import (
    Manifest,
    grid_facts,
    mask_facts,
    model_facts,
    slide_facts,
    software_versions,
    utc_now,
)
from workflows.store.rows import tile_table
from wsi.grid import TileGrid
from wsi.regions.frames import PixelFrame
from wsi.slide import Slide
from wsi.tissue import TissueMask


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRun:
    """A run that could begin.

    Attributes
    ----------
    mask : TissueMask
    table : structured array (n,) of TILE_DTYPE
        The tiles.
    manifest : Manifest
    estimate : RunEstimate
    """

    mask: TissueMask
    table: NDArray[np.void]
    manifest: Manifest
    estimate: RunEstimate


def prepare(
    slide: Slide,
    request: Request,
    engine: Engine,
    *,
    mask: str | Path | TissueMask | tuple[TissueMask, str] = "auto",
    frame: PixelFrame | str | None = None,
    command: str | None = None,
    quality: QualitySettings | None = None,
) -> PreparedRun:
    """Find the tissue, lay the tiles and say what they will take.

    Raises
    ------
    SlideError
        See `wsi.errors`.
    RequestError
        The token budget is too small, or the engine does not know how many tokens a tile takes.
    """
    found, source = find_mask(mask, slide, frame)
    plan = None
    factor = int(engine.info.processor.get("factor") or 32)
    if request.token_budget is None:
        with advised(slide, request, factor):
            grid = _grid(slide, request, found)
        table, facts = tile_table(grid), grid_facts(grid, slide)
    else:
        tokens = engine.prompt_tokens(request)
        if tokens is None:
            raise RequestError(
                f"{engine.info.model} does not say how many tokens a tile takes, so a token budget cannot be "
                "kept. Leave out --token-budget, or run the model in this process (-m without --server)."
            )
        with advised(slide, request, factor):
            grid, table, plan = plan_tiles(slide, request, found, tokens)
        facts = grid_facts(grid, slide)
        facts = facts.model_copy(update={"tiles": len(table), "hash": table_hash(grid, table)})
    estimate = RunEstimate.of(table, slide.mpp, request, engine)
    if request.where is not None:
        coarse = coarse_request(request)
        with advised(slide, coarse, factor, WHERE_FLAGS):
            rows = tile_table(_grid(slide, coarse, found))
        estimate = replace(estimate, where=RunEstimate.of(rows, slide.mpp, coarse, engine))
    manifest = Manifest(
        request=request,
        request_hash=request.hash,
        slide=slide_facts(slide),
        model=model_facts(engine.info),
        grid=facts,
        mask=mask_facts(found, source, slide, frame),
        versions=software_versions(),
        command=command,
        created=utc_now(),
        plan=plan,
        quality=quality or QualitySettings(),
    )
    return PreparedRun(found, table, manifest, estimate)


def _grid(slide: Slide, request: Request, mask: TissueMask) -> TileGrid:
    return TileGrid.from_slide(
        slide,
        tile_size=request.tile_size,
        overlap=request.overlap,
        mpp=request.mpp,
        mask=mask,
        min_tissue=request.min_tissue,
    )
