"""Results and heatmap of each kind of task, from the tally of its tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Task
from workflows.merge.merged import iter_merged
from workflows.report.images.grid_cells import CellGrid, density
from workflows.report.images.heatmap import Heatmap, per_area, tile_channels
from workflows.report.results import (
    ClassifyResults,
    CountResults,
    LabelObjects,
    LabelTiles,
    ObjectResults,
    ScoreResults,
)
from workflows.report.tally import TileTally
from workflows.store.run_store import RunStore

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def objects_results(store: RunStore, tiles: TileTally) -> tuple[ObjectResults, Heatmap, list[str]]:
    manifest, labels = store.manifest, store.labels
    cells = CellGrid.of(manifest)
    complete = tiles.complete
    number = np.zeros((3, len(labels)))  # objects; those in complete tiles; those with a score
    scores = np.zeros(len(labels))
    grid = np.zeros((len(labels), *cells.shape))
    for chunk in iter_merged(store, labels):
        box, label = chunk.box, chunk.label
        known = complete[np.searchsorted(tiles.table["tile"], chunk.tile)]
        scored = np.isfinite(chunk.score)
        for total, chosen in zip(number, (np.ones(len(label), bool), known, scored), strict=True):
            total += np.bincount(label[chosen], minlength=len(labels))
        scores += np.bincount(label[scored], weights=chunk.score[scored], minlength=len(labels))
        row, column = cells.cells_of((box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2)
        np.add.at(grid, (label[known], row[known], column[known]), 1.0)
    mm2 = manifest.slide.mm2_per_px
    area = None if mm2 is None else tiles.tissue(complete) * mm2
    results = ObjectResults(
        task="detect" if manifest.request.task is Task.DETECT else "point",
        found=store.objects_found(),
        total=int(number[0].sum()),
        labels=tuple(
            LabelObjects(
                label=label,
                count=int(number[0, i]),
                per_mm2=float(number[1, i] / area) if area else None,
                mean_score=float(scores[i] / number[2, i]) if number[2, i] else None,
            )
            for i, label in enumerate(labels)
        ),
    )
    factor, unit = per_area(manifest)
    cores = tiles.cores[complete]
    heatmap = Heatmap(labels, density(grid, cells.known(cores), cells, factor), unit, cells.cell0)
    foreign = labels[len(manifest.request.labels) :] if manifest.request.labels else ()
    extra = [f"The model used labels that were not asked for: {', '.join(foreign)}."] if foreign else []
    return results, heatmap, extra


def _channel_map(store: RunStore, tiles: TileTally, unit: str, values: NDArray[np.float64]) -> Heatmap:
    cells = CellGrid.of(store.manifest)
    channels = tile_channels(store.manifest.request)
    picture = np.stack([cells.mean(tiles.rects, values[:, i]) for i in range(len(channels))])
    return Heatmap(channels, picture, unit, cells.cell0)


def count_results(store: RunStore, tiles: TileTally) -> tuple[CountResults, Heatmap]:
    numbers = tiles.values[:, 0]
    known = np.isfinite(numbers)
    factor, unit = per_area(store.manifest)
    area0 = (tiles.table["width0"] * tiles.table["height0"]).astype(np.float64)
    owned = np.prod(tiles.cores[:, 2:] - tiles.cores[:, :2], axis=1) / area0
    values = numbers[known]
    total = float((values * owned[known]).sum()) if values.size else None
    mm2 = store.manifest.slide.mm2_per_px
    tissue = tiles.tissue(known)
    results = CountResults(
        task="count",
        tiles=int(known.sum()),
        total=total,
        per_mm2=total / (tissue * mm2) if total is not None and mm2 is not None and tissue else None,
        mean=_float(np.mean, values),
        median=_float(np.median, values),
        smallest=_float(np.min, values),
        largest=_float(np.max, values),
    )
    return results, _channel_map(store, tiles, unit, tiles.values * (factor / area0)[:, None])


def classify_results(store: RunStore, tiles: TileTally) -> tuple[ClassifyResults, Heatmap]:
    manifest = store.manifest
    mm2 = manifest.slide.mm2_per_px
    complete = tiles.complete
    labels = []
    for i, label in enumerate(manifest.request.labels):
        chosen = complete & (tiles.chosen == i)
        tissue = tiles.tissue(chosen)
        probabilities = tiles.values[:, i][np.isfinite(tiles.values[:, i])]
        labels.append(
            LabelTiles(
                label=label,
                tiles=int(chosen.sum()),
                share=float(chosen.sum() / complete.sum()) if complete.any() else None,
                tissue_px0=tissue,
                tissue_mm2=None if mm2 is None else tissue * mm2,
                mean_probability=None if tiles.voted else _float(np.mean, probabilities),
            )
        )
    results = ClassifyResults(task="classify", tiles=int(complete.sum()), labels=tuple(labels))
    return results, _channel_map(store, tiles, "vote" if tiles.voted else "probability", tiles.values)


def score_results(store: RunStore, tiles: TileTally) -> tuple[ScoreResults, Heatmap]:
    probability = tiles.values[:, 0]
    values = probability[np.isfinite(probability)]
    above = np.isfinite(probability) & (probability >= 0.5)
    mm2 = store.manifest.slide.mm2_per_px
    tissue = tiles.tissue(above)
    results = ScoreResults(
        task="score",
        tiles=len(values),
        mean=_float(np.mean, values),
        quantiles={str(q): float(np.quantile(values, q)) for q in _QUANTILES} if values.size else {},
        above_half_tiles=int(above.sum()),
        above_half_px0=tissue,
        above_half_mm2=None if mm2 is None else tissue * mm2,
    )
    return results, _channel_map(store, tiles, "probability", tiles.values)


def _float(function: Any, values: NDArray[np.float64]) -> float | None:
    return float(function(values)) if values.size else None
