"""Neighbours of spots: smoothing, what counts as high on a slide, and regions of high spots as boxes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.errors import SpatialError

NEIGHBOUR = 1.5
"""Spots within this many pitches are neighbours: eight on a square lattice, six on a hexagonal one."""


@dataclass(frozen=True)
class ExpressionLevel:
    """What counts as high on one slide: values above its median, Otsu's threshold, or a quantile.

    Attributes
    ----------
    words : str
        'median', 'otsu', or a quantile as 'q0.75'.
    """

    words: str = "median"

    def __post_init__(self) -> None:
        if self.words in ("median", "otsu"):
            return
        match = re.fullmatch(r"q(0?\.\d+)", self.words)
        if match is None or not 0 < float(match[1]) < 1:
            raise SpatialError(f"{self.words!r} is no threshold; use 'median', 'otsu', or a quantile as 'q0.75'.")

    def of(self, values: NDArray[np.float64]) -> float:
        """The threshold of one slide's values; NaN is left out. nan where none is known."""
        known = values[np.isfinite(values)]
        if not len(known):
            return float("nan")
        if self.words == "otsu":
            return otsu(known)
        return float(np.quantile(known, 0.5 if self.words == "median" else float(self.words[1:])))

    def high(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which spots are above the threshold; none where all are alike. NaN is never high."""
        return np.asarray(np.nan_to_num(values, nan=-np.inf) > self.of(values))


def otsu(values: NDArray[np.float64]) -> float:
    """The threshold that parts values into two groups of least variance within (Otsu 1979), exact."""
    ordered = np.sort(values)
    below = np.cumsum(ordered)[:-1]
    n, total = len(ordered), float(ordered.sum())
    if n < 2 or ordered[0] == ordered[-1]:
        return float(ordered[-1])
    low = np.arange(1, n)
    between = low * (n - low) * (below / low - (total - below) / (n - low)) ** 2
    at = int(np.argmax(np.where(ordered[1:] > ordered[:-1], between, -1.0)))
    return float((ordered[at] + ordered[at + 1]) / 2)


def neighbour_pairs(places0: NDArray[np.float64], pitch0: float) -> NDArray[np.int64]:
    """Pairs of neighbouring spots, int64 (k, 2), each once."""
    from scipy.spatial import cKDTree

    return cKDTree(places0).query_pairs(NEIGHBOUR * pitch0, output_type="ndarray").astype(np.int64).reshape(-1, 2)


def smooth(
    values: NDArray[np.float64], places0: NDArray[np.float64], pitch0: float, rounds: int = 1
) -> NDArray[np.float64]:
    """Mean of each spot and its neighbours, `rounds` times.

    Parameters
    ----------
    values : float64 (n,) or (n, k)
        NaN is left out; a spot stays NaN where it was, so that what is unknown is never made up.

    Returns
    -------
    float64, of the same shape.
    """
    import scipy.sparse

    n = len(values)
    pairs = neighbour_pairs(places0, pitch0)
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(n)])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(n)])
    near = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    known = np.isfinite(values)
    result = np.asarray(values, np.float64)
    for _ in range(rounds):
        weight = near @ known.astype(np.float64)
        total = near @ np.where(known, result, 0.0)
        result = np.where(known, total / np.maximum(weight, 1.0), np.nan)
    return result


def join_regions(
    high: NDArray[np.bool_],
    places0: NDArray[np.float64],
    pitch0: float,
    *,
    least: int = 3,
    size0: tuple[int, int] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Neighbouring high spots as regions.

    Parameters
    ----------
    high : bool (n,)
    least : int
        Regions of fewer spots are left out.
    size0 : (width, height), optional
        Slide in level-0 px, to which boxes are cut.

    Returns
    -------
    boxes0 : float64 (k, 4)
        x_min, y_min, x_max, y_max in level-0 px, half a pitch around the outermost spots; largest region first.
    region : int64 (n,)
        Row in `boxes0` of every spot, -1 for none.
    """
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    n = len(high)
    pairs = neighbour_pairs(places0, pitch0)
    pairs = pairs[high[pairs].all(axis=1)]
    graph = scipy.sparse.csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    sizes = np.bincount(component[high], minlength=component.max(initial=-1) + 1)
    kept = np.flatnonzero(sizes >= least)
    kept = kept[np.argsort(-sizes[kept], kind="stable")]
    region, boxes = np.full(n, -1, np.int64), np.empty((len(kept), 4))
    for row, label in enumerate(kept.tolist()):
        spots = high & (component == label)
        region[spots] = row
        boxes[row, :2] = places0[spots].min(axis=0) - pitch0 / 2
        boxes[row, 2:] = places0[spots].max(axis=0) + pitch0 / 2
    if size0 is not None:
        boxes = boxes.clip(0, np.tile(np.asarray(size0, np.float64), 2))
    return boxes, region
