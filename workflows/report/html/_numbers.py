"""Counts and densities of a report, with how far they vary over the tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.export.objects import RunObjects
from workflows.report.tally import read_tiles
from workflows.store.run_store import RunStore

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One class of objects."""

    label: str
    count: int
    per_mm2: float | None
    interval: tuple[float, float] | None
    mean_score: float | None
    accepted: int
    edited: int


@dataclass(frozen=True, slots=True)
class ObjectNumbers:
    """All classes, and the tissue the densities rest on."""

    rows: tuple[LabelRow, ...]
    tissue_mm2: float | None
    tiles: int
    reviewed: bool


def object_numbers(store: RunStore, objects: RunObjects) -> ObjectNumbers:
    """Counts of every class; densities over the tissue of completely answered tiles.

    The interval is that of a ratio estimate (Cochran, Sampling Techniques, 1977, section 6.4): objects over tissue,
    with tiles as the sampled units. It says how unevenly objects lie, not how often the model errs.
    """
    tally = read_tiles(store)
    complete, index = tally.complete, tally.table["tile"]
    number = len(objects.labels)
    counts = np.zeros((number, len(index)), np.int64)
    outside = np.zeros(number, np.int64)
    scores, scored = np.zeros(number), np.zeros(number, np.int64)
    states = np.zeros((number, 4), np.int64)
    for chunk in objects:
        of = chunk.columns
        known = of.tile >= 0
        np.add.at(counts, (of.label[known], np.searchsorted(index, of.tile[known])), 1)
        np.add.at(outside, of.label[~known], 1)
        has = np.isfinite(of.score)
        scores += np.bincount(of.label[has], weights=of.score[has], minlength=number)
        scored += np.bincount(of.label[has], minlength=number)
        np.add.at(states, (of.label, chunk.review), 1)
    mm2 = store.manifest.slide.mm2_per_px
    areas = tally.table["core_tissue"][complete] * (mm2 or 0.0)
    total = float(areas.sum())
    rows = []
    for at, label in enumerate(objects.labels):
        density = interval = None
        if total > 0:
            density, interval = ratio(counts[at][complete].astype(np.float64), areas)
        rows.append(
            LabelRow(
                label,
                int(counts[at].sum() + outside[at]),
                density,
                interval,
                float(scores[at] / scored[at]) if scored[at] else None,
                int(states[at, 1]),
                int(states[at, 3]),
            )
        )
    return ObjectNumbers(tuple(rows), total or None, int(complete.sum()), objects.reviewed)


def ratio(counts: NDArray[np.float64], areas: NDArray[np.float64]) -> tuple[float, tuple[float, float] | None]:
    """Objects per area over all tiles, and its 95 % interval; none with fewer than ten tiles.

    Parameters
    ----------
    counts, areas : float64 (n,)
        Of every tile; areas add up to more than 0.
    """
    total, n = areas.sum(), len(counts)
    value = float(counts.sum() / total)
    if n < 10:
        return value, None
    residuals = counts - value * areas
    error = float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / total)
    return value, (max(0.0, value - _Z95 * error), value + _Z95 * error)
