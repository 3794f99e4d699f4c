"""COCO JSON: the objects of a run as annotations, of the whole slide or tile by tile.

Layout: https://cocodataset.org/#format-data. Boxes are x, y, width, height in px of the picture they belong to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Task
from workflows.errors import ExportError
from workflows.export._file import new_path, new_text_file
from workflows.export.objects import ObjectChunk, RunObjects
from workflows.inputs.reopening import reopen_run
from workflows.store.provenance import utc_now
from workflows.store.rows import tile_of
from workflows.store.run_store import RunStore
from wsi.files.names import json_text

_SUFFIXES = (".json", ".json.gz")
_LEAST_VISIBLE = 0.25
PICTURES = "_tiles"
"""Suffix of the folder of tile pictures, beside the JSON."""


def export_coco(
    run: Path | str,
    out: Path | str,
    *,
    tiles: bool = False,
    pictures: bool = False,
    overwrite: bool = False,
    slide_path: Path | None = None,
) -> int:
    """Write the objects of a detect or point run as COCO JSON.

    With the whole slide as the one image, boxes are level-0 px of the slide. With `tiles`, every tile that was
    answered completely is an image (a tile without objects is one without annotations: a negative; failed and
    unanswered tiles are left out), and an object belongs to every tile that shows at least a quarter of it, cut
    to the tile and in px of its picture. Points are keypoints. Scores are in `score`, other keys in `attributes`.

    Parameters
    ----------
    pictures : bool
        With `tiles`: also write the pictures, as PNG, into `<name of out>_tiles/`; needs the slide.
    slide_path : Path, optional
        Where the run's slide lies now; found by itself where it moved together with the run.

    Returns
    -------
    int
        Number of annotations.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError, SlideMismatchError, SlideChangedError
    """
    out = Path(out)
    with RunStore.open(run) as store:
        task = store.manifest.request.task
        if task not in (Task.DETECT, Task.POINT):
            raise ExportError(f"COCO holds objects, and task {task} finds none. Export a table of tiles instead.")
        if pictures and not tiles:
            raise ExportError("pictures: only tiles have pictures to write; the slide is a file already.")
        objects = RunObjects(store)
        frame = _Tiles(store) if tiles else _WholeSlide(store)
        if pictures:
            folder = out.with_name(out.name.split(".json")[0] + PICTURES)
            _write_pictures(store, frame, folder, slide_path)
        with new_text_file(out, _SUFFIXES, overwrite=overwrite) as stream:
            stream.write(f'{{"info":{_dumps(_info(store))},\n"licenses":[],\n')
            stream.write(f'"categories":{_dumps(list(_categories(objects)))},\n"images":[')
            _write_list(stream, frame.images(out.name.split(".json")[0] + PICTURES))
            stream.write('],\n"annotations":[')
            number = _write_list(stream, _numbered(objects, frame))
            stream.write("]}\n")
    return number


class _WholeSlide:
    """The slide as the one image."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def images(self, folder: str) -> Iterator[dict[str, object]]:
        slide = self._store.manifest.slide
        yield {"id": 1, "file_name": slide.name, "width": slide.width, "height": slide.height, **_scale(self._store)}

    def places(self, chunk: ObjectChunk) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
        rows = np.arange(len(chunk))
        yield rows, np.ones(len(chunk), np.int64), chunk.columns.box


class _Tiles:
    """Every completely answered tile as an image, numbered by its index + 1."""

    def __init__(self, store: RunStore) -> None:
        self._store, table = store, store.tiles()
        answered = np.zeros(len(table), bool)
        for found in store.iter_answers():
            answered[np.searchsorted(table["tile"], found.tile)] = found.answer.status.complete
        self.table = table[answered]
        order = np.lexsort((self.table["x0"], self.table["y0"]))
        self._sorted = self.table[order]
        self._rows0, self._first = np.unique(self._sorted["y0"], return_index=True)
        self._last = np.append(self._first[1:], len(self._sorted))

    def images(self, folder: str) -> Iterator[dict[str, object]]:
        for row in self.table:
            yield {
                "id": int(row["tile"]) + 1,
                "file_name": f"{folder}/{picture_name(int(row['tile']))}",
                "width": int(row["width"]),
                "height": int(row["height"]),
                "slide": self._store.manifest.slide.name,
                **{name: int(row[name]) for name in ("x0", "y0", "width0", "height0")},
            }

    def places(self, chunk: ObjectChunk) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
        """Rows of the chunk, image ids, and boxes in px of the tile, one part per row and column of tiles."""
        box, point = chunk.columns.box, chunk.columns.point
        if not len(self._sorted):
            return
        low, high = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
        tall, wide = int(self._sorted["height0"].max()), int(self._sorted["width0"].max())
        near = np.flatnonzero((self._rows0 <= high[1]) & (self._rows0 + tall >= low[1]))
        for at in near.tolist():
            tiles = self._sorted[self._first[at] : self._last[at]]
            here = np.flatnonzero((box[:, 3] >= self._rows0[at]) & (box[:, 1] <= self._rows0[at] + tall))
            start = np.searchsorted(tiles["x0"], box[here, 0] - wide)
            stop = np.searchsorted(tiles["x0"], box[here, 2], side="right")
            for step in range(int((stop - start).max(initial=0))):
                rows = here[start + step < stop]
                which = tiles[(start + step)[start + step < stop]]
                yield _cut(rows, which, box[rows], point[rows])


def _cut(
    rows: NDArray[np.int64], tiles: NDArray[Any], box: NDArray[np.float64], point: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    corner = np.stack([tiles["x0"], tiles["y0"]], axis=1).astype(np.float64)
    extent = np.stack([tiles["width0"], tiles["height0"]], axis=1).astype(np.float64)
    size = np.stack([tiles["width"], tiles["height"]], axis=1).astype(np.float64)
    low = np.clip(box[:, :2] - corner, 0, extent)
    high = np.clip(box[:, 2:] - corner, 0, extent)
    whole = np.prod(box[:, 2:] - box[:, :2], axis=1)
    visible = np.prod(high - low, axis=1) >= _LEAST_VISIBLE * np.maximum(whole, 1e-9)
    inside = ((box[:, :2] >= corner) & (box[:, :2] < corner + extent)).all(axis=1)
    kept = np.where(point, inside, visible & ((high - low) > 0).all(axis=1))
    placed = np.concatenate([low * size / extent, high * size / extent], axis=1)
    return rows[kept], tiles["tile"][kept] + 1, placed[kept]


def picture_name(tile: int) -> str:
    """File name of a tile's picture."""
    return f"{tile:07d}.png"


def _numbered(objects: RunObjects, frame: _WholeSlide | _Tiles) -> Iterator[dict[str, object]]:
    number = 0
    for chunk in objects:
        of, ids = chunk.columns, chunk.ids
        label, point, score = of.label.tolist(), of.point.tolist(), of.score.tolist()
        keys = list(zip(of.tile.tolist(), of.item.tolist(), strict=True))
        for rows, images, boxes in frame.places(chunk):
            for row, image, box in zip(rows.tolist(), images.tolist(), boxes.tolist(), strict=True):
                number += 1
                x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
                annotation: dict[str, object] = {
                    "id": number,
                    "image_id": image,
                    "category_id": label[row] + 1,
                    "bbox": [round(x, 2), round(y, 2), round(width, 2), round(height, 2)],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "segmentation": [],
                    "object": ids[row],
                }
                if point[row]:
                    annotation |= {"keypoints": [round(x, 2), round(y, 2), 2], "num_keypoints": 1}
                if not math.isnan(score[row]):
                    annotation["score"] = score[row]
                if extra := chunk.attributes.get(keys[row]):
                    annotation["attributes"] = extra
                yield annotation


def _categories(objects: RunObjects) -> Iterator[dict[str, object]]:
    points = objects.store.manifest.request.task is Task.POINT
    for number, label in enumerate(objects.labels, start=1):
        more = {"keypoints": ["centre"], "skeleton": []} if points else {}
        yield {"id": number, "name": label, "supercategory": "", **more}


def _write_pictures(store: RunStore, frame: _WholeSlide | _Tiles, folder: Path, slide_path: Path | None) -> None:
    from wsi.files.image_files import write_png

    assert isinstance(frame, _Tiles)
    with reopen_run(store, slide_path) as found:
        if (slide := found.slide) is None:
            raise ExportError(f"{found.said} The pictures of its tiles cannot be written.")
        if folder.exists():
            raise ExportError(f"{folder} exists already. Move it away, or name another file.")
        with new_path(folder, (PICTURES,), overwrite=False) as partial, slide.watch.held():
            partial.mkdir()
            for row in frame.table:
                tile = tile_of(row)
                picture = slide.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height))
                write_png(partial / picture_name(tile.index), picture)


def _info(store: RunStore) -> dict[str, object]:
    manifest = store.manifest
    return {
        "description": f"{manifest.request.task} on {manifest.slide.name}",
        "version": "1.0",
        "date_created": utc_now()[:10],
        "run": str(manifest.run_id),
        "model": manifest.model.model,
        **_scale(store),
    }


def _scale(store: RunStore) -> dict[str, float]:
    slide = store.manifest.slide
    return {} if slide.mpp_x is None or slide.mpp_y is None else {"mpp_x": slide.mpp_x, "mpp_y": slide.mpp_y}


def _write_list(stream: Any, items: Iterator[Mapping[str, object]]) -> int:
    number = 0
    for item in items:
        stream.write(",\n" if number else "\n")
        stream.write(_dumps(item))
        number += 1
    return number


def _dumps(value: object) -> str:
    return json_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
