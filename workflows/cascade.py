"""The cascade: a cheap question about coarse tiles decides which tiles are worth the request itself.

The coarse tiles are a run of their own, in the folder `where` of the run: with journal, report, heatmap and overview.
Its scores decide once, in the journal of the run, which tiles are left out. What was left out is unknown: it counts
in no density and is never reported as negative.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qwenvl.request import Request, Task, Where
from workflows.provenance import Facts

WHERE = "where"
"""Folder of the coarse run inside the folder of the run."""


class GateFacts(Facts):
    """What the coarse tiles decided."""

    threshold: float = Field(description="Least probability of a place to be looked at.")
    mpp: float = Field(description="Scale of the coarse tiles in um/px.")
    scored: int = Field(description="Coarse tiles with a probability.")
    passed: int = Field(description="Of these, tiles with at least the threshold.")
    unknown: int = Field(
        description="Coarse tiles without a probability (failed): their place is looked at all the same."
    )
    tiles: int = Field(description="Tiles of the request on the whole tissue.")
    skipped: int = Field(
        description="Tiles that are not asked: all their tissue lies in places below the threshold."
    )


def coarse_request(request: Request) -> Request:
    """The request that the coarse tiles are asked, for a request with `where`."""
    where = request.where
    assert where is not None
    return Request(
        task=Task.CLASSIFY if where.labels else Task.SCORE,
        labels=where.labels,
        prompt=where.question,
        system_prompt=request.system_prompt,
        mpp=where.mpp,
        tile_size=where.tile_size or request.tile_size,
        overlap=where.overlap,
        generation=request.generation,
    )


def wanted_probability(scores: Mapping[str, float], where: Where) -> float:
    """The probability that a coarse tile is to be looked at; NaN where the answer does not say."""
    names = where.wanted or ("yes",)
    if not all(name in scores for name in names):
        return float("nan")
    return float(sum(scores[name] for name in names))


def highest_score(
    cores: NDArray[np.int64], coarse: NDArray[np.int64], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The highest score that any coarse tile gives to the place of each tile.

    Parameters
    ----------
    cores : int64 array (n, 4)
        What the tiles own: x_min, y_min, x_max, y_max in level-0 px, end excluded.
    coarse : int64 array (m, 4)
        What the coarse tiles own, disjoint.
    scores : float64 array (m,)
        NaN where unknown.

    Returns
    -------
    float64 array (n,)
        Infinity where an unknown tile, or no coarse tile at all, lies there: such a place is looked at.
    """
    from workflows._merge_pairs import overlapping_pairs

    known = np.where(np.isnan(scores), np.inf, scores)
    boxes = np.concatenate([cores, coarse]).astype(np.float64)
    # Half a px inside, so that rectangles which only share an edge do not touch.
    boxes += np.array([0.5, 0.5, -0.5, -0.5])
    n = len(cores)
    i, j = overlapping_pairs(boxes, np.zeros(len(boxes), np.int64), lambda p, q: (p < n) != (q < n))
    tile, place = np.minimum(i, j), np.maximum(i, j) - n
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, tile, known[place])
    return np.where(np.isneginf(highest), np.inf, highest)
