"""The objects of a run, merged across tile seams, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workflows.merge.across_tiles import Detections, MergeRules, merge_parts
from workflows.run.splitting import path_of
from workflows.store.rows import ObjectColumns, concatenate
from workflows.store.run_store import RunStore
from workflows.tile_table import cores_of, pack_key, rects_of, unpack_key

_PART = 8_192
"""Objects read at a time; those that may still meet objects of later tiles are held besides."""


def iter_merged(store: RunStore, labels: Sequence[str] | None = None) -> Iterator[ObjectColumns]:
    """Merge the objects of a run while reading them in the order of tiles.

    Made anew from the journal each time, so it always fits what is stored, also while a run goes on.

    Parameters
    ----------
    labels : sequence of str, optional
        What `label` indexes; by default `store.labels`.

    Yields
    ------
    ObjectColumns
        Some thousand objects at a time. `tile` and `item` name the stored object that stands for all that
        were merged with it; `box` may be larger than that object's own.
    """
    labels = store.labels if labels is None else labels
    table = _in_reading_order(store)
    rects, cores = rects_of(table), cores_of(table)
    width, height = store.manifest.grid.side0
    scale = float(np.sqrt(width * height)) / store.manifest.grid.tile_size
    area0, area = (table[f"width{which}"] * table[f"height{which}"] for which in ("0", ""))
    factor = np.sqrt(area0 / area) / scale
    parts = _parts(store, labels, table["tile"])
    for merged in merge_parts(parts, rects, cores, MergeRules.at_scale(scale), factor):
        if len(merged):
            tile, item = unpack_key(merged.ids)
            yield ObjectColumns(
                tile=tile, item=item, label=merged.classes, box=merged.boxes, point=merged.is_point, score=merged.scores
            )


def _in_reading_order(store: RunStore) -> NDArray[np.void]:
    """The tiles that count, children at the place of their parent: what is merged lies close together."""
    table, roots = store.tiles(), store.manifest.roots
    if not len(table) or table["tile"][-1] < roots:
        return table
    return table[sorted(range(len(table)), key=lambda row: path_of(int(table["tile"][row]), roots))]


def _parts(store: RunStore, labels: Sequence[str], order: NDArray[np.int64]) -> Iterator[Detections]:
    """Objects of whole tiles in their order, about `_PART` at a time; tiles are named by their place in it."""
    rank = np.argsort(order)  # place of each tile, by rising index
    by_index = order[rank]
    counts = np.array(store.object_counts(), np.int64).reshape(-1, 2)
    places = rank[np.searchsorted(by_index, counts[:, 0])]
    wanted = np.argsort(places)
    ends = np.cumsum(counts[wanted, 1])
    first = 0
    while first < len(wanted):
        before = int(ends[first - 1]) if first else 0
        stop = int(np.searchsorted(ends, before + _PART)) + 1
        rows = np.sort(wanted[first:stop])
        # Rows without another between them are read at once.
        parts = [
            store.objects(int(counts[run[0], 0]), int(counts[run[-1], 0]) + 1, labels)
            for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        ]
        found = concatenate(parts)
        yield _detections(found, labels, rank[np.searchsorted(by_index, found.tile)])
        first = stop


def _detections(found: ObjectColumns, labels: Sequence[str], places: NDArray[np.int64]) -> Detections:
    return Detections.of(
        found.box,
        found.label,
        places,
        scores=found.score,
        is_point=found.point,
        ids=pack_key(found.tile, found.item),
        labels=tuple(labels),
    )
