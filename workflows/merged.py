"""The objects of a run, merged across tile seams, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from workflows._rows import ObjectColumns
from workflows.merge import Detections, MergeRules, merge_parts
from workflows.store import RunStore

_PART = 8_192
"""Objects read at a time; those that may still meet objects of later tiles are held besides."""
_ITEM_BITS = 20


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
    table = store.tiles()
    x0, y0 = table["x0"], table["y0"]
    rects = np.stack([x0, y0, x0 + table["width0"], y0 + table["height0"]], axis=1)
    cores = np.stack([table[f"core_{edge}"] for edge in ("x0", "y0", "x1", "y1")], axis=1)
    width, height = store.manifest.grid.side0
    rules = MergeRules.at_scale(float(np.sqrt(width * height)) / store.manifest.grid.tile_size)
    for merged in merge_parts(_parts(store, labels), rects, cores, rules):
        if len(merged):
            yield ObjectColumns(
                tile=merged.ids >> _ITEM_BITS,
                item=merged.ids & ((1 << _ITEM_BITS) - 1),
                label=merged.classes,
                box=merged.boxes,
                point=merged.is_point,
                score=merged.scores,
            )


def _parts(store: RunStore, labels: Sequence[str]) -> Iterator[Detections]:
    """Objects of whole tiles, about `_PART` at a time."""
    first, number = 0, 0
    for tile, objects in store.object_counts():
        number += objects
        if number >= _PART:
            yield _detections(store.objects(first, tile + 1, labels), labels)
            first, number = tile + 1, 0
    yield _detections(store.objects(first, None, labels), labels)


def _detections(found: ObjectColumns, labels: Sequence[str]) -> Detections:
    return Detections.of(
        found.box,
        found.label,
        found.tile,
        scores=found.score,
        is_point=found.point,
        ids=found.tile << _ITEM_BITS | found.item,
        labels=tuple(labels),
    )
