"""Tiles of several scales within a token budget: coarse everywhere, finer where there is most to see."""

from __future__ import annotations

import hashlib
import heapq

import numpy as np
from numpy.typing import NDArray

from qwenvl.errors import RequestError
from qwenvl.request import Request
from workflows.run.splitting import children_of
from workflows.store.provenance import PlanFacts
from workflows.store.rows import TILE_DTYPE, tile_table
from workflows.tile_table import cores_of
from wsi.errors import GridError
from wsi.grid import TileGrid
from wsi.pixels.content import STATISTIC, ContentMap
from wsi.slide import Slide
from wsi.tissue import TissueMask

_MOST_LEVELS = 6
"""Scales from the request's to the coarsest that is tried, each twice as coarse as the one before."""


def plan_tiles(
    slide: Slide, request: Request, mask: TissueMask, tokens_per_tile: int
) -> tuple[TileGrid, NDArray[np.void], PlanFacts]:
    """Choose tiles of several scales for a request with a token budget.

    Where tiles of the request's scale fit everywhere, they are taken. Otherwise the plan begins with tiles at most
    four times as coarse (coarser still where even these are too many) and replaces the tile with the most to see by
    its children of twice the magnification, again and again, while the budget lasts. What is to be seen in a tile is
    the sum of the content map over the part it owns, so a child has to hold as much as a whole coarse tile to come
    first.

    Parameters
    ----------
    slide : Slide
    request : Request
        With `token_budget`.
    mask : TissueMask
    tokens_per_tile : int
        Prompt tokens of one tile, whatever its scale.

    Returns
    -------
    grid : TileGrid
        The tiles the plan began with.
    table : structured array (n,) of TILE_DTYPE
        The tiles that were chosen, ordered by index; what they own is disjoint and holds all of the tissue.
    facts : PlanFacts

    Raises
    ------
    RequestError
        Even the coarsest tiles take more than the budget.
    GridError, MaskError, UnknownMppError
        As `TileGrid`.
    """
    budget = request.token_budget
    assert budget is not None
    finest = _grid(slide, request, mask, 0)
    uniform = len(finest) * tokens_per_tile
    level, grid = 0, finest
    if uniform > budget:
        level, grid = _coarse(slide, request, mask, budget // tokens_per_tile)
    table = tile_table(grid)
    if level:
        content = ContentMap.from_slide(slide, mask)
        table = _refine(table, content, request, mask, len(grid), level, budget // tokens_per_tile)
    facts = PlanFacts(
        token_budget=budget,
        tokens_per_tile=tokens_per_tile,
        tokens=len(table) * tokens_per_tile,
        uniform_tokens=uniform,
        finest_mpp=None if slide.mpp is None else finest.scale * slide.mpp,
        roots=len(grid),
        statistic=STATISTIC if level else "none: tiles of the request's scale fit everywhere",
    )
    return grid, table, facts


def table_hash(grid: TileGrid, table: NDArray[np.void]) -> str:
    """'sha256:' and 32 hexadecimal digits over the grid that a plan began with and the tiles it chose."""
    digest = hashlib.sha256(grid.hash.encode())
    digest.update(np.ascontiguousarray(table["tile"], "<i8").tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def _grid(slide: Slide, request: Request, mask: TissueMask, level: int) -> TileGrid:
    """Tiles `2 ** level` times as coarse as the request's; level 0 of a slide without a scale is its own."""
    mpp, mpp_xy, coarser = request.mpp, slide.mpp_xy, 2**level
    if mpp is None and level:
        # Pixels of level 0 as they are: any unit will do.
        mpp, mpp_xy = 1.0, (1.0, 1.0)
    return TileGrid(
        (slide.width, slide.height),
        tile_size=request.tile_size,
        overlap=request.overlap,
        mpp=None if mpp is None else mpp * coarser,
        mpp_xy=mpp_xy,
        mask=mask,
        min_tissue=request.min_tissue if not level else 0.0,
    )


def _coarse(slide: Slide, request: Request, mask: TissueMask, most: int) -> tuple[int, TileGrid]:
    """The grid a plan begins with, at most `most` tiles: two levels up if these are few enough."""
    fewest = None
    for level in (2, 1, *range(3, _MOST_LEVELS + 1)):
        try:
            grid = _grid(slide, request, mask, level)
        except GridError:
            continue  # a tile this coarse is larger than the slide
        if len(grid) <= most:
            return level, grid
        fewest = len(grid) if fewest is None else min(fewest, len(grid))
    least = "" if fewest is None else f" The coarsest tiles of this slide number {fewest}."
    raise RequestError(
        f"A token budget of {request.token_budget:,} allows {most} tiles of {request.tile_size} px.{least} "
        "Raise --token-budget, or use a smaller tile size."
    )


def _refine(
    table: NDArray[np.void], content: ContentMap, request: Request, mask: TissueMask, roots: int, levels: int, most: int
) -> NDArray[np.void]:
    """Replace tiles by their children, most to see first, while there are at most `most`."""
    chosen = {int(row["tile"]): row for row in table}
    waiting = [(-seen, int(row["tile"]), levels) for seen, row in zip(_seen(content, table), table, strict=True)]
    heapq.heapify(waiting)
    while waiting:
        seen, tile, left = heapq.heappop(waiting)
        if not seen:
            break  # nothing to see there, nor in what is left
        children = children_of(chosen[tile], roots=roots, overlap=request.overlap, mask=mask)
        if len(chosen) - 1 + len(children) > most:
            continue
        del chosen[tile]
        chosen |= {int(row["tile"]): row for row in children}
        if left > 1:
            for value, row in zip(_seen(content, children), children, strict=True):
                heapq.heappush(waiting, (-value, int(row["tile"]), left - 1))
    return np.array([chosen[tile] for tile in sorted(chosen)], TILE_DTYPE)


def _seen(content: ContentMap, table: NDArray[np.void]) -> list[float]:
    return [round(float(value), 6) for value in content.total(cores_of(table))]
