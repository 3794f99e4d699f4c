"""Answers about a time-lapse or z-stack as layers: the film, boxes, points and tracks on its axis, ranges as frames.

The first axis counts frames, so that uneven times stay what they are; the place of every frame is in the layers'
metadata and in the features of what was found in it. Along a z-stack the axis is scaled in um.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import StackError
from workflows.inputs.reopening import reopen
from workflows.science.timelapse.report import NAME, TRACKS, TimelapseReport
from workflows.science.timelapse.stack import Stack, open_stack
from wsi.files.names import path_of

if TYPE_CHECKING:
    from napari import Viewer

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keyword arguments and type of a layer, as napari's readers give them."""

MOST_SHAPES = 5_000
"""Boxes above which only their centres are shown; Shapes layers grow slow from there."""

_BAND = "#e8a028"
_BOX = "#2e7d5b"


def timelapse_layers(folder: Path | str, stack: Stack | None = None) -> list[LayerData]:
    """The layers of a folder that `qwenvl timelapse` wrote.

    Parameters
    ----------
    folder : path
    stack : Stack, optional
        The film; by default it is looked for where the report says, and beside the folder; a message says where it is
        not found.

    Returns
    -------
    list of (data, keyword arguments, layer type)
        The film as an image (t, y, x, 3) that reads its frames when they are looked at; then, as far as there are any,
        'boxes' (Shapes), 'centres' (Points), 'tracks' (Tracks, with divisions as their graph) and 'answer' (Shapes: a
        border around the frames of every range).

    Raises
    ------
    RunNotFoundError
        The folder holds no report.
    """
    folder = Path(folder)
    report = TimelapseReport.read(folder)
    film = stack or _reopened(report, folder)
    layers = [] if film is None else [_film(film, report)]
    rows = _rows(folder / TRACKS)
    if rows:
        layers += _objects(rows, report)
    if report.ranges:
        layers.append(_ranges(report))
    return layers


def get_timelapse_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """npe2 reader of the folders of `qwenvl timelapse` and their report; None for any other file."""
    if not isinstance(path, str):
        return None
    return read_timelapse if (_folder(path) / NAME).is_file() else None


def read_timelapse(path: str) -> list[LayerData]:
    """The layers of `timelapse_layers`, of a folder or of the report in it.

    Raises
    ------
    RunNotFoundError, StackError
    """
    return timelapse_layers(_folder(path))


def _folder(path: str) -> Path:
    return Path(path).parent if Path(path).name == NAME else Path(path)


def add_timelapse(viewer: Viewer, folder: Path | str) -> list[object]:
    """Add the layers of a folder to a viewer and show the first frame of the first range; the layers, in order."""
    from napari.layers import Layer

    added = [viewer.add_layer(Layer.create(*each)) for each in timelapse_layers(folder)]
    report = TimelapseReport.read(folder)
    if report.ranges and viewer.dims.ndim >= 3:
        viewer.dims.set_current_step(0, report.ranges[0].first)
    return added


def _common(report: TimelapseReport, name: str) -> dict[str, object]:
    slide = report.stack.slide
    known = slide.mpp_x is not None and slide.mpp_y is not None
    places = report.stack.places
    depth = report.stack.axis == "z"
    side = (slide.mpp_y, slide.mpp_x) if known else (1.0, 1.0)
    # Depths are even, times need not be; and a um beside a pixel of unknown size would be no scale.
    step = places[1] - places[0] if depth and known else 1.0
    return {
        "name": f"{Path(slide.path).name.split('.')[0]} {name}",
        "scale": (step, *side),
        "axis_labels": ("z" if depth else "frame", "y", "x"),
        "metadata": {"places": places, "unit": report.stack.unit, "model": report.model.model},
    }


def _reopened(report: TimelapseReport, folder: Path) -> Stack | None:
    """The film where it lies now; None, with a message, where it is not found. Raises StackError where it changed."""
    facts = report.stack
    recorded = facts.slide.options
    options: dict[str, str] = {key: recorded[key] for key in ("rendering", "series") if key in recorded}
    # A run of frames records all of them as its plane; any one opens the file.
    as_slide = facts.slide.model_copy(update={"options": {**options, "plane": "z=0,t=0"}})
    with reopen(as_slide, folder) as found:
        if found.slide is None:
            if path_of(facts.slide.path).exists():
                raise StackError(f"{found.note} It has changed since it was asked about.")
            from napari.utils.notifications import show_warning

            show_warning(f"{found.note} The answers are shown without it.")
            return None
        path = found.slide.path
    given = facts.slide.mpp_source == "user" and facts.slide.mpp_x is not None
    opening: dict[str, Any] = dict(options)
    if "series" in opening:
        opening["series"] = int(opening["series"])
    return open_stack(
        path,
        axis=facts.axis,
        interval=facts.places[1] - facts.places[0] if facts.source == "user" else None,
        other=facts.other,
        mpp=facts.slide.mpp_x if given else None,
        options=opening,
    )


def _film(film: Stack, report: TimelapseReport) -> LayerData:
    import dask.array as da
    from dask import delayed

    height, width = film.slide.height, film.slide.width
    frames = [
        da.from_delayed(delayed(film.picture, pure=True)(frame, (width, height)), (height, width, 3), np.uint8)
        for frame in range(len(film))
    ]
    return da.stack(frames), {**_common(report, "film"), "rgb": True}, "image"


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _objects(rows: list[dict[str, str]], report: TimelapseReport) -> list[LayerData]:
    track = np.array([int(row["track"]) for row in rows])
    frame = np.array([int(row["frame"]) for row in rows])
    box = np.array([[float(row[side]) for side in ("x_min", "y_min", "x_max", "y_max")] for row in rows])
    features = {
        "track": track,
        "label": np.array([row["label"] for row in rows]),
        "score": np.array([float(row["score"]) if row["score"] else np.nan for row in rows]),
        "place": np.array([float(row["place"]) for row in rows]),
    }
    centre = np.stack([frame, (box[:, 1] + box[:, 3]) / 2, (box[:, 0] + box[:, 2]) / 2], axis=1)
    layers: list[LayerData] = []
    sized = (box[:, 2] > box[:, 0]).any()
    if sized and len(rows) <= MOST_SHAPES:
        shapes = {
            **_common(report, "boxes"),
            "shape_type": "rectangle",
            "edge_color": _BOX,
            "face_color": "transparent",
            "edge_width": 1,
            "features": features,
        }
        layers.append((_corners(frame, box), shapes, "shapes"))
    points = {**_common(report, "centres"), "size": 4, "face_color": _BOX, "features": features, "visible": not layers}
    layers.append((centre, points, "points"))
    assert report.tracks is not None
    lines = np.concatenate([track[:, None], centre], axis=1)
    order = np.lexsort([frame, track])
    graph = {child: [mother] for child, mother in report.tracks.parents.items()}
    length = max(2, len(report.stack.places))
    settings = {
        **_common(report, "tracks"),
        "graph": graph,
        "tail_length": length,
        "head_length": 0,
        "features": {name: values[order] for name, values in features.items() if name != "label"},
    }
    layers.append((lines[order], settings, "tracks"))
    return layers


def _corners(frame: NDArray[np.int64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of boxes, float64 (n, 4, 3) as (frame, y, x)."""
    x0, y0, x1, y1 = box.T
    y, x = np.stack([y0, y0, y1, y1], axis=1), np.stack([x0, x1, x1, x0], axis=1)
    return np.stack([np.repeat(frame[:, None], 4, axis=1).astype(np.float64), y, x], axis=2)


def _ranges(report: TimelapseReport) -> LayerData:
    """A border around every frame of every range."""
    slide = report.stack.slide
    height, width = slide.height, _frame_width(report)
    spans = [(number, frame) for number, each in enumerate(report.ranges) for frame in range(each.first, each.last + 1)]
    frame = np.array([at for _, at in spans], np.int64)
    box = np.tile([0.0, 0.0, width, height], (len(spans), 1))
    edge = max(2.0, 0.015 * max(width, height))
    features = {
        "range": np.array([number for number, _ in spans]),
        "place": np.array([report.stack.places[at] for _, at in spans]),
    }
    settings = {
        **_common(report, "answer"),
        "shape_type": "rectangle",
        "edge_color": _BAND,
        "face_color": "transparent",
        "edge_width": edge,
        "features": features,
    }
    return _corners(frame, box), settings, "shapes"


def _frame_width(report: TimelapseReport) -> int:
    """Width of one frame in px; the report's slide is a strip of all frames that were asked."""
    from workflows.science.timelapse.strip import GAP

    count = len(report.sampling.frames)
    return (report.stack.slide.width + GAP) // count - GAP
