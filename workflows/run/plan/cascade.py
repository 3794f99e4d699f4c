"""The cascade: a cheap question about coarse tiles decides which tiles are worth the request itself.

The coarse tiles are a run of their own, in the folder `where` of the run: with journal, report, heatmap and overview.
Its scores decide once, in the journal of the run, which tiles are left out. What was left out is unknown: it counts
in no density and is never reported as negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Request, Task, Where
from workflows.report.images.heatmap import tile_channels
from workflows.report.tally import read_tiles
from workflows.store.folder import WHERE
from workflows.store.provenance import GateFacts
from workflows.store.run_store import RunStore
from workflows.tile_table import cores_of, rects_of


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
        colour=request.colour,
        generation=request.generation,
    )


def coarse_scores(scores: RunStore, where: Where) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What the tiles of a coarse run own, int64 (m, 4), and the probability that each is to be looked at, float64 (m,).

    The probability is NaN where the answer does not say: the tile failed or was not asked.
    """
    tiles = read_tiles(scores)
    request = scores.manifest.request
    wanted = [tile_channels(request).index(name) for name in where.wanted or ("yes",)]
    return tiles.cores, tiles.values[:, wanted].sum(axis=1)


def decide(store: RunStore, scores: RunStore) -> GateFacts:
    """Store which tiles of a run are left out because of its coarse tiles.

    Parameters
    ----------
    store : RunStore
        The run, open for writing, with `where` in its request.
    scores : RunStore
        The run of its coarse tiles.
    """
    where = store.manifest.request.where
    assert where is not None
    table = store.tiles()
    places, probability = coarse_scores(scores, where)
    highest = tile_scores(table, places, probability)
    below = highest < where.threshold
    known = np.isfinite(probability)
    facts = GateFacts(
        threshold=where.threshold,
        mpp=where.mpp,
        scored=int(known.sum()),
        passed=int((probability[known] >= where.threshold).sum()),
        unknown=int((~known).sum()),
        tiles=len(table),
        skipped=int(below.sum()),
    )
    store.decide(facts, dict(zip(table["tile"][below].tolist(), highest[below].tolist(), strict=True)))
    return facts


__all__ = ["WHERE", "GateFacts", "coarse_request", "coarse_scores", "decide", "highest_score", "tile_scores"]


def tile_scores(table: NDArray[np.void], places: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest score of the place of each tile, float64 (n,); see `highest_score`.

    The place is what the tile owns; for a tile that owns nothing but glass beyond the coarse tiles, what it sees.

    Parameters
    ----------
    table : structured array (n,) of TILE_DTYPE
    places, scores
        As `coarse_scores` gives them.
    """
    cores = cores_of(table)
    owned = highest_score(cores, places, scores)
    beyond = np.isinf(highest_score(cores, places, np.zeros(len(places))))
    owned[beyond] = highest_score(rects_of(table)[beyond], places, scores)
    return owned


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
    from workflows.merge.pairs import overlapping_pairs

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
