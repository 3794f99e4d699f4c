"""CSV tables of a run: one row per object, or one row per tile."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from workflows.export._file import new_text_file
from workflows.heatmap import tile_channels, tile_values
from workflows.merged import iter_merged
from workflows.store import RunStore

_SUFFIXES = (".csv", ".csv.gz")
_SAID = (
    "objects", "text", "value", "notes", "finish_reason", "prompt_tokens", "new_tokens", "seconds", "error"
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_objects_csv(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the merged objects of a run: box or point in level-0 px, and in um where the scale is known.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
    """
    with RunStore.open(run) as store:
        slide, labels = store.manifest.slide, store.labels
        edges = ["x_min", "y_min", "x_max", "y_max"]
        scale = (slide.mpp_x, slide.mpp_y) if slide.mpp_x and slide.mpp_y else None
        header = ["tile", "item", "label", "kind", *(f"{edge}_px" for edge in edges)]
        header += [f"{edge}_um" for edge in edges] if scale else []
        number = 0
        with new_text_file(Path(out), _SUFFIXES, overwrite=overwrite) as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow([*header, "score", "attributes"])
            words = [_inert(label) for label in labels]
            for chunk in iter_merged(store, labels):
                if not len(chunk):
                    continue
                extra = store.attributes(int(chunk.tile.min()), int(chunk.tile.max()) + 1)
                columns = (chunk.tile, chunk.item, chunk.label, chunk.box, chunk.point, chunk.score)
                for tile, item, label, box, point, score in zip(*(c.tolist() for c in columns), strict=True):
                    um = [f"{edge * scale[i % 2]:.3f}" for i, edge in enumerate(box)] if scale else []
                    table.writerow(
                        [
                            tile,
                            item,
                            words[label],
                            "point" if point else "box",
                            *(f"{edge:.2f}" for edge in box),
                            *um,
                            "" if math.isnan(score) else score,
                            _json(extra.get((tile, item))),
                        ]
                    )
                number += len(chunk)
    return number


def export_tiles_csv(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the tiles of a run with their status and answer; tiles not asked yet have the status 'pending'.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
    """
    with RunStore.open(run) as store:
        request, slide = store.manifest.request, store.manifest.slide
        channels = tile_channels(request)
        scale = (slide.mpp_x, slide.mpp_y) if slide.mpp_x and slide.mpp_y else None
        sides = ("x0", "y0", "width0", "height0")
        places = [f"{side}_px" for side in sides] + ([f"{side}_um" for side in sides] if scale else [])
        with new_text_file(Path(out), _SUFFIXES, overwrite=overwrite) as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["tile", *places, "tissue", "status", *channels, *_SAID])
            answers = store.iter_answers()
            found = next(answers, None)
            for row in store.tiles():
                place = [int(row[side]) for side in sides]
                um = [f"{px * scale[i % 2]:.3f}" for i, px in enumerate(place)] if scale else []
                head = [int(row["tile"]), *place, *um, f"{row['tissue']:.4f}"]
                if found is None or found.tile != row["tile"]:
                    table.writerow([*head, "pending", *[""] * (len(channels) + len(_SAID))])
                    continue
                answer = found.answer
                table.writerow(
                    [
                        *head,
                        answer.status.value,
                        *("" if math.isnan(value) else value for value in tile_values(found, request)),
                        found.objects,
                        _inert(answer.text),
                        _inert(answer.value) if isinstance(answer.value, str) else _json(answer.value),
                        " ".join(answer.notes),
                        answer.finish_reason,
                        answer.prompt_tokens,
                        answer.new_tokens,
                        round(answer.seconds, 3),
                        _inert(answer.error),
                    ]
                )
                found = next(answers, None)
        return len(store.tiles())


def _inert(text: str | None) -> str:
    """Text of a model for a spreadsheet: a leading quote keeps it from being run as a formula (OWASP)."""
    if not text:
        return ""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
