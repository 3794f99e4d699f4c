"""Splitting a tile: when it is done, and which smaller tiles take its place.

Tiles form a forest. The tiles of the grid are its roots, 0 to n - 1; the children of tile t are n + 4 t + k, for
k = 0 to 3 (top left, top right, bottom left, bottom right). So a child has the same number in every repetition of a
run, whatever was split before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.request import SPLIT_TASKS, Request, Task
from workflows.tile_table import cores_of, rects_of
from wsi.tissue import TissueMask

if TYPE_CHECKING:
    from workflows.run.items import Item

DETAIL_ZOOM, ENLARGING_ZOOM, MOST_ENLARGED = 2.0, 1.5, 2.0
"""Magnification of children: where the slide holds the detail, where it has to be enlarged, and how far at most.

Measured with the embedded model on crowded tiles at the slide's own scale: four parts enlarged 1.45-fold give more of
the nuclei, and fewer that are none, than four parts enlarged 2-fold, although those overlap less."""
_LEAST_ZOOM = 1.2
MEMORY_SPLITS = 2
"""How often a tile that does not fit into memory is split before the run stops."""


class Why(StrEnum):
    """Why a tile was split."""

    TRUNCATED = "truncated"
    """The answer was cut off at its longest."""
    LOOP = "loop"
    """The model began to repeat itself."""
    CROWDED = "crowded"
    """It found `Request.crowded` objects or more, or as many as it may list."""
    MEMORY = "memory"
    """The tile did not fit into memory: its children have half its side and the same scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A tile that others take the place of.

    Attributes
    ----------
    tile : int
        Index of the tile.
    why : Why
    depth : int
        1 for a tile of the grid, 2 for a child of such a tile, and so on.
    children : structured array (n,) of TILE_DTYPE
        One to four tiles that own what the tile owned, without those that own no tissue; none for other items.
    items : sequence of Item
        What is asked about in its place: an item for each of `children`.
    """

    tile: int
    why: Why
    depth: int
    children: NDArray[np.void]
    items: Sequence[Item] = ()


def parent_of(tile: int, roots: int) -> int | None:
    """The tile that `tile` came from, None for a tile of the grid."""
    return None if tile < roots else (tile - roots) // 4


def path_of(tile: int, roots: int) -> tuple[int, ...]:
    """The root of a tile and the position of every child on the way down: sorts tiles in reading order."""
    path: list[int] = []
    while tile >= roots:
        tile, place = divmod(tile - roots, 4)
        path.append(place)
    return (tile, *reversed(path))


def why_split(answer: Answer, request: Request) -> Why | None:
    """The reason to split the tile of an answer, None where there is none."""
    if answer.status is Status.FAILED:
        return Why.MEMORY if OUT_OF_MEMORY in answer.notes else None
    if not request.split or request.task not in SPLIT_TASKS:
        return None
    if answer.status is Status.TRUNCATED:
        return Why.LOOP if answer.finish_reason == "loop" else Why.TRUNCATED
    if request.task is Task.COUNT:
        crowded = isinstance(answer.value, int | float) and answer.value >= request.crowded
    else:
        crowded = len(answer.objects) >= min(request.crowded, request.max_objects)
    return Why.CROWDED if crowded else None


def zoom_of(tile: np.void) -> float | None:
    """Magnification of a tile's children, None where it is enlarged as far as makes sense already."""
    enlarged = max(int(tile["width"]) / int(tile["width0"]), int(tile["height"]) / int(tile["height0"]))
    if enlarged * DETAIL_ZOOM <= 1.05:
        return DETAIL_ZOOM
    zoom = min(ENLARGING_ZOOM, MOST_ENLARGED / enlarged)
    return zoom if zoom >= _LEAST_ZOOM else None


def children_of(
    tile: np.void,
    *,
    roots: int,
    overlap: int,
    zoom: float = DETAIL_ZOOM,
    same_scale: bool = False,
    mask: TissueMask | None = None,
) -> NDArray[np.void]:
    """The tiles that take the place of one tile.

    They lie inside it and overlap each other and its neighbours' part by at least half as many level-0 px as it
    overlaps its neighbours. The side of a child is that of its parent divided by `zoom`, and so its magnification in
    a picture of the same size is `zoom`-fold; where the parent owns so much that two such sides would not overlap
    enough, slightly less. Along an axis on which one child sees all that the parent owns there is only one.

    Parameters
    ----------
    tile : row of TILE_DTYPE
    roots : int
        Tiles of the grid.
    overlap : int
        Overlap of neighbouring tiles in px of the picture (`Request.overlap`).
    zoom : float
        More than 1, at most 2.
    same_scale : bool
        Give the children smaller pictures at the parent's scale instead of a higher magnification.
    mask : TissueMask, optional
        Children that own none of it are left out; without it none is.

    Returns
    -------
    structured array (n,) of TILE_DTYPE, 1 to 4 rows, with the parent's value in any further column
        Their cores are disjoint, each lies inside its tile, and together they are the parent's core.
    """
    columns = _halves(tile, "x0", "width0", "core_x0", "core_x1", overlap / int(tile["width"]), zoom)
    rows = _halves(tile, "y0", "height0", "core_y0", "core_y1", overlap / int(tile["height"]), zoom)
    children = np.zeros(len(columns) * len(rows), tile.dtype)
    for name in tile.dtype.names or ():
        children[name] = tile[name]
    for down, (y0, height0, core_y0, core_y1) in enumerate(rows):
        for right, (x0, width0, core_x0, core_x1) in enumerate(columns):
            child = children[down * len(columns) + right]
            child["tile"] = roots + 4 * int(tile["tile"]) + 2 * down + right
            child["x0"], child["y0"], child["width0"], child["height0"] = x0, y0, width0, height0
            child["core_x0"], child["core_y0"] = core_x0, core_y0
            child["core_x1"], child["core_y1"] = core_x1, core_y1
            if same_scale:
                child["width"] = max(1, round(int(tile["width"]) * width0 / int(tile["width0"])))
                child["height"] = max(1, round(int(tile["height"]) * height0 / int(tile["height0"])))
    children["tissue"] = 1.0
    area = (children["core_x1"] - children["core_x0"]) * (children["core_y1"] - children["core_y0"])
    children["core_tissue"] = area
    if mask is None:
        return children
    children["tissue"] = mask.coverage(rects_of(children))
    children["core_tissue"] = mask.coverage(cores_of(children)) * area
    needed = children[children["core_tissue"] > 0]
    return needed if len(needed) else children


def _halves(
    tile: np.void, at: str, length: str, core_low: str, core_high: str, overlap: float, zoom: float
) -> list[tuple[int, int, int, int]]:
    """Start, side, and core (end excluded) of the children along one axis, in level-0 px."""
    low, side = int(tile[at]), int(tile[length])
    first, last = int(tile[core_low]), int(tile[core_high])
    lap = round(overlap * side / 2)  # what two children share
    margin = lap // 2  # what they see beyond the core, where the parent does
    start, stop = max(low, first - margin), min(low + side, last + margin)
    half = min(side, max(ceil(side / zoom - 1e-6), (stop - start + lap + 1) // 2))
    if stop - start <= half:
        begin = min(max(low, (start + stop - half) // 2), low + side - half)
        return [(begin, half, first, last)]
    right = stop - half
    seam = (start + half + right) // 2
    return [(start, half, first, seam), (right, half, seam, last)]
