"""Objects and tiles of a run as batches of columns: what every table format is written from.

A batch is a dict of column name to array or list, all of one length. Names end in their unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from workflows.export.objects import ObjectChunk, RunObjects
from workflows.report.images.heatmap import tile_channels, tile_values
from workflows.review.reviewed import State
from workflows.store.provenance import SlideFacts
from workflows.store.rows import TILE_DTYPE, StoredAnswer
from workflows.store.run_store import RunStore

Batch = dict[str, Any]
EDGES = ("x_min", "y_min", "x_max", "y_max")
_SIDES = ("x0", "y0", "width0", "height0")
_TILES = 4096
_KNOWN = {*(TILE_DTYPE.names or ()), "tile"}
PENDING, SKIPPED = "pending", "skipped"
"""Status of a tile that has not been asked yet, and of one that coarse tiles left out."""
KINDS = ("box", "point")
REVIEWS = tuple(state.verdict.value for state in State)


def scale_of(slide: SlideFacts) -> tuple[float, float] | None:
    """um per level-0 px along x and y, or None where the slide's scale is not known."""
    return (slide.mpp_x, slide.mpp_y) if slide.mpp_x and slide.mpp_y else None


def object_batch(objects: RunObjects, chunk: ObjectChunk) -> Batch:
    """Columns of a chunk: id, instance, tile, item, label, kind and review (codes), places, score.

    Places and areas are in level-0 px, and in um where the scale is known. A point has no area (NaN).
    """
    of = chunk.columns
    batch: Batch = {
        "id": chunk.ids,
        "instance": chunk.instances,
        "tile": of.tile,
        "item": of.item,
        "label": of.label,
        "kind": of.point.astype(np.int8),
    }
    batch |= {f"{edge}_px": of.box[:, i] for i, edge in enumerate(EDGES)}
    area = np.prod(of.box[:, 2:] - of.box[:, :2], axis=1)
    area[of.point] = np.nan
    batch["area_px2"] = area
    scale = scale_of(objects.store.manifest.slide)
    if scale is not None:
        batch |= {f"{edge}_um": of.box[:, i] * scale[i % 2] for i, edge in enumerate(EDGES)}
        batch["area_um2"] = area * scale[0] * scale[1]
    batch["score"] = of.score
    batch["review"] = chunk.review
    batch["attributes"] = chunk.attributes_json()
    return batch


def tile_batches(store: RunStore) -> Iterator[Batch]:
    """Every tile with its place, status, numbers and words; tiles not asked yet have the status 'pending'.

    Those that coarse tiles left out are 'skipped'. Missing numbers are NaN, missing words ''. What quality control
    found is among the notes; further columns of the tile table come along under their own names.
    """
    request, scale = store.manifest.request, scale_of(store.manifest.slide)
    channels = tile_channels(request)
    table = store.tiles()
    further = [name for name in table.dtype.names or () if name not in _KNOWN]
    skipped = store.skipped()
    answers = store.iter_answers()
    found = next(answers, None)
    for start in range(0, len(table), _TILES):
        rows = table[start : start + _TILES]
        batch: Batch = {"tile": rows["tile"]}
        batch |= {f"{side}_px": rows[side] for side in _SIDES}
        if scale is not None:
            batch |= {f"{side}_um": rows[side] * scale[i % 2] for i, side in enumerate(_SIDES)}
        batch |= {"tissue": rows["tissue"], **{name: rows[name] for name in further}}
        batch["status"] = [SKIPPED if tile in skipped else PENDING for tile in rows["tile"].tolist()]
        values = np.full((len(rows), len(channels)), np.nan)
        said: dict[str, list[Any]] = {name: [blank] * len(rows) for name, blank in _SAID.items()}
        for at, tile in enumerate(rows["tile"].tolist()):
            if found is None or found.tile != tile:
                continue
            batch["status"][at] = found.answer.status.value
            values[at] = tile_values(found, request)
            for name, value in _words(found).items():
                said[name][at] = value
            found = next(answers, None)
        batch |= {name: values[:, i] for i, name in enumerate(channel_columns(channels, batch))}
        yield {**batch, **said}


def channel_columns(channels: tuple[str, ...], taken: Batch | None = None) -> tuple[str, ...]:
    """Column names of channels: their own, with '_score' behind where another column has it already."""
    used = {
        *(taken or {}),
        *_SAID,
        "id",
        *(f"{s}_{u}" for s in _SIDES for u in ("px", "um")),
        "status",
        "tissue",
        "tile",
    }
    return tuple(f"{name}_score" if name in used else name for name in channels)


_SAID: dict[str, object] = {
    "objects": 0,
    "text": "",
    "value": "",
    "notes": "",
    "finish_reason": "",
    "prompt_tokens": 0,
    "new_tokens": 0,
    "seconds": math.nan,
    "error": "",
}


def _words(found: StoredAnswer) -> dict[str, object]:
    answer = found.answer
    value = answer.value
    return {
        "objects": found.objects,
        "text": answer.text or "",
        "value": value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False),
        "notes": " ".join(answer.notes),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "seconds": round(answer.seconds, 3),
        "error": answer.error or "",
    }
