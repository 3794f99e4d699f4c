"""QuPath GeoJSON, written the way QuPath reads it.

The rules are those of QuPath's own readers (`QuPathTypeAdapters`, `ROITypeAdapters`, `GsonTools`):
`objectType`, `classification` and `measurements` lie inside `properties`; a missing object type makes an
annotation; ids are UUIDs; measurements are numbers only; a classification names its colour; rings are
closed. Coordinates are px of what QuPath shows, which on slides with bounds is not the whole of level 0
(`wsi.regions.frames`); the head records it. Features are written one by one, so a file of any size needs no memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Status
from qwenvl.request import Task
from workflows.export._columns import REVIEWS
from workflows.export._file import new_text_file
from workflows.export.objects import ObjectChunk, RunObjects
from workflows.inputs.reopening import frames_of
from workflows.report.images.colours import FAILED, RGBColour
from workflows.report.images.heatmap import tile_channels, tile_values
from workflows.store.rows import StoredAnswer
from workflows.store.run_store import RunStore
from wsi.files.names import json_text
from wsi.regions.frames import HEAD, PixelFrame

_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
Place = Callable[..., NDArray[Any]]
"""Level-0 px, x and y in turn, as px of the file."""
ANSWERS = "answers"
"""Member of the head, and key of an object's metadata: see `_answers_so_far`."""
_OBJECT_TASKS = (Task.DETECT, Task.POINT)


def export_geojson(
    run: Path | str,
    out: Path | str,
    *,
    tiles: bool | None = None,
    overwrite: bool = False,
    frame: PixelFrame | str = PixelFrame.QUPATH,
) -> int:
    """Write a run as QuPath GeoJSON; plain or gzip by the file's name.

    Objects become detections with their score as a measurement (points as Point). Tiles become QuPath tiles
    with numbers as measurements and words as metadata; a failed tile has the class 'Failed' and no numbers.
    The same run always gives the same ids, and the same bytes.

    Parameters
    ----------
    run : path
        Run folder; it may still be running.
    out : path
        File ending in .geojson, .json, .geojson.gz or .json.gz.
    tiles : bool, optional
        Write tiles; by default for every task that does not find objects.
    overwrite : bool
        Replace `out` where it exists.
    frame : 'qupath' or 'level0'
        Px of what QuPath shows, or of the whole slide: for other programs, and for QuPath with `--no-crop`. Both are
        the same where the slide states no bounds. The file's head records frame and bounds.

    Returns
    -------
    int
        Number of features.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
    FrameError
        What QuPath shows is not known: the run is older than its record, and the slide is not at its place.
    """
    with RunStore.open(run) as store:
        with_objects = store.manifest.request.task in _OBJECT_TASKS
        frames = frames_of(store.manifest.slide, frame, store.folder)
        place = partial(frames.from_level0, frame=frame)
        mark = _answers_so_far(store)
        head = _dumps(_head(store) | ({} if mark is None else {ANSWERS: mark}) | frames.record(frame))
        number = 0
        with new_text_file(Path(out), _SUFFIXES, overwrite=overwrite) as stream:
            stream.write(f'{{"type":"FeatureCollection","{HEAD}":{head},"features":[')
            separator = "\n"
            with_tiles = tiles if tiles is not None else not with_objects
            for features in _features(store, with_objects, with_tiles, place, mark):
                if features:
                    stream.write(separator)
                    stream.write(",\n".join(features))
                    separator = ",\n"
                    number += len(features)
            stream.write("\n]}\n")
    return number


def _head(store: RunStore) -> dict[str, object]:
    manifest = store.manifest
    return {
        "run": str(manifest.run_id),
        "slide": manifest.slide.fingerprint,
        "model": manifest.model.model,
        "request": manifest.request_hash,
    }


def _answers_so_far(store: RunStore) -> int | None:
    """Number of the newest answer of a run that may still get more; None of a finished one.

    It is written to every object too, because QuPath drops the head: who reads the file back must know which objects
    it could not hold yet (`workflows.review.corrections`).
    """
    number = store.last_seq()
    return number if len(store.finished()) < len(store.tiles()) else None


def _features(
    store: RunStore, with_objects: bool, with_tiles: bool, place: Place, mark: int | None
) -> Iterator[list[str]]:
    """Features as text, some thousands at a time."""
    objects = RunObjects(store)
    plane = _plane(store.manifest.slide.options.get("plane"))
    if with_tiles:
        yield from _tile_features(objects, plane, place)
    if with_objects:
        classes = [_dumps(_classification(label, objects.colours[label])) for label in objects.labels]
        for chunk in objects:
            yield _object_features(chunk, plane, classes, place, mark)


def _object_features(
    chunk: ObjectChunk, plane: str, classes: Sequence[str], place: Place, mark: int | None
) -> list[str]:
    columns, attributes = chunk.columns, chunk.attributes
    boxes = np.array(place(columns.box))
    # A ring without area is not valid geometry.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.01)
    middle = [f'{plane}}},"properties":{{"objectType":"detection","classification":{of},' for of in classes]
    rows = zip(
        chunk.ids,
        columns.tile.tolist(),
        columns.item.tolist(),
        columns.label.tolist(),
        boxes.tolist(),
        columns.point.tolist(),
        columns.score.tolist(),
        chunk.review.tolist(),
        strict=True,
    )
    features = []
    made = {} if mark is None else {ANSWERS: str(mark)}
    for name, tile, item, label, (x0, y0, x1, y1), point, score, review in rows:
        left, top = f"{x0:.2f}", f"{y0:.2f}"
        if point:
            geometry = f'"Point","coordinates":[{left},{top}]'
        else:
            right, bottom = f"{x1:.2f}", f"{y1:.2f}"
            geometry = (
                f'"Polygon","coordinates":[[[{left},{top}],[{right},{top}],[{right},{bottom}],[{left},{bottom}],'
                f"[{left},{top}]]]"
            )
        measured = "" if score != score else f'"measurements":{{"score":{score!r}}},'
        metadata = f'{{"tile":"{tile}","item":"{item}"}}'
        extra = attributes.get((tile, item)) if attributes else None
        if review or extra or made:
            words = _as_strings(extra or {}) | ({"review": REVIEWS[review]} if review else {}) | made
            metadata = _dumps({"tile": str(tile), "item": str(item), **words})
        features.append(
            f'{{"type":"Feature","id":"{name}","geometry":{{"type":{geometry}{middle[label]}{measured}'
            f'"metadata":{metadata}}}}}'
        )
    return features


def _tile_features(objects: RunObjects, plane: str, place: Place) -> Iterator[list[str]]:
    store, name_of, colours = objects.store, objects.id_of, objects.colours
    table, request = store.tiles(), store.manifest.request
    rows = {int(row["tile"]): row for row in table}
    features: list[str] = []
    for found in store.iter_answers():
        row = rows[found.tile]
        x0, y0 = place([int(row["x0"]), int(row["y0"])]).tolist()
        x1, y1 = x0 + int(row["width0"]), y0 + int(row["height0"])
        properties: dict[str, Any] = {"objectType": "tile", "name": f"Tile {found.tile}"}
        if found.answer.status is Status.FAILED:
            properties["classification"] = _classification("Failed", FAILED)
        elif request.task is Task.CLASSIFY and (chosen := found.answer.text) in request.labels:
            assert chosen is not None
            properties["classification"] = _classification(chosen, colours[chosen])
        names, values = tile_channels(request), tile_values(found, request)
        numbers = {name: value for name, value in zip(names, values, strict=True) if math.isfinite(value)}
        numbers["tissue"] = float(row["tissue"])
        properties["measurements"] = numbers
        properties["metadata"] = _tile_words(found)
        features.append(
            f'{{"type":"Feature","id":"{name_of(f"tile/{found.tile}")}","geometry":{{"type":"Polygon",'
            f'"coordinates":[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]{plane}}},'
            f'"properties":{_dumps(properties)}}}'
        )
        if len(features) == 4096:
            yield features
            features = []
    yield features


def _tile_words(found: StoredAnswer) -> dict[str, str]:
    answer = found.answer
    words: dict[str, Any] = {"status": answer.status.value, "text": answer.text, "error": answer.error}
    if isinstance(answer.value, Mapping):
        words.update({f"value.{key}": value for key, value in answer.value.items()})
    else:
        words["value"] = answer.value
    return _as_strings({key: value for key, value in words.items() if value is not None})


def _as_strings(values: Mapping[str, object]) -> dict[str, str]:
    """Metadata of QuPath: strings only."""
    return {str(key): value if isinstance(value, str) else _dumps(value) for key, value in values.items()}


def _classification(name: str, colour: RGBColour) -> dict[str, object]:
    return {"name": name, "color": list(colour)}


def _plane(words: str | None) -> str:
    """The `plane` member of a geometry for one plane of a stack ('z=3,t=0'), else nothing."""
    if words is None:
        return ""
    found = dict(re.findall(r"([zt])=(\d+)", words))
    return f',"plane":{{"c":-1,"z":{found.get("z", 0)},"t":{found.get("t", 0)}}}'


def _dumps(value: object) -> str:
    return json_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
