"""Saving layers as QuPath GeoJSON, in px of what QuPath shows of the slide."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.layers.keys import RUN
from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.read.frame import Frame
from workflows.errors import ExportError
from workflows.export._file import new_text_file
from workflows.inputs.reopening import frames_of_run
from workflows.review.reviewed import State
from wsi.regions.frames import HEAD, PixelFrame, SlideFrames

LayerTuple = tuple[Any, dict[str, Any], str]
_SUFFIXES = (".geojson", ".geojson.gz")
_NAMES = uuid.UUID("0f0d7a86-43a1-5e0e-9a5a-2d6f1f2f1d55")
_LABEL_COLUMNS = ("label", "class", "classification", "name")
_ELLIPSE_CORNERS = 64
_KINDS = {"rectangle": "Polygon", "polygon": "Polygon", "ellipse": "Polygon"}


def write_geojson(path: str, layers: Sequence[LayerTuple]) -> list[str]:
    """npe2 writer: overlays, shapes and points as one GeoJSON file that QuPath reads.

    Objects of an overlay become detections, with score and review state; what is drawn by hand becomes annotations,
    of the class that a feature column `label` names, else of the layer's name. Level-0 px, and what QuPath shows of
    them, come from the slide that the viewer shows; the file's head records it. Napari asks before it replaces a
    file; the new one takes its name when it is whole.

    Raises
    ------
    ExportError
        There is nothing to save, no slide tells where px of level 0 are, or the disk is full.
    """
    found = [layer for layer in layers if layer[2] in ("shapes", "points") or _overlay(layer) is not None]
    if not found:
        raise ExportError(
            "None of these layers can be saved as GeoJSON. Select objects of a run, shapes or points; pictures are "
            "saved as TIFF or PNG."
        )
    with new_text_file(Path(path), _SUFFIXES, overwrite=True) as stream:
        frames = _slide_frames(found)
        head = "" if frames is None else f'"{HEAD}":{_dumps(frames.record(PixelFrame.QUPATH))},'
        stream.write(f'{{"type":"FeatureCollection",{head}"features":[')
        separator = "\n"
        for layer in found:
            for feature in _features(layer):
                if frames is not None:
                    feature = frames.document_from_level0(feature, PixelFrame.QUPATH)
                stream.write(separator + _dumps(feature))
                separator = ",\n"
        stream.write("\n]}\n")
    return [path]


def _slide_frames(layers: Sequence[LayerTuple]) -> SlideFrames | None:
    """Level-0 px and QuPath's of the slide that the layers lie on; None where neither a slide nor a run tells.

    Raises
    ------
    ExportError
        Slides are concerned of which QuPath shows other parts.
    """
    import napari

    from napari_qwenvl.read.slide_layer import slide_layers, slide_of

    viewer = napari.current_viewer()
    slides = [] if viewer is None else [slide_of(layer) for layer in slide_layers(viewer)]
    runs = {layer[1].get("metadata", {}).get(RUN) for layer in layers} - {None}
    found = {SlideFrames.of(slide) for slide in slides if slide is not None}
    found |= {frames_of_run(run) for run in runs}
    if len(found) > 1:
        raise ExportError(
            "Several slides are open of which QuPath shows different parts, and a file is about one of them. Close "
            "all but the one that the layers belong to, and save again."
        )
    return found.pop() if found else None


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _overlay(layer: LayerTuple) -> Overlay | None:
    found = layer[1].get("metadata", {}).get("qwenvl_overlay")
    return found if isinstance(found, Overlay) else None


def _features(layer: LayerTuple) -> Iterator[dict[str, object]]:
    overlay = _overlay(layer)
    if overlay is not None:
        yield from _object_features(overlay)
    elif len(layer[0]):
        yield from _drawn_features(layer)


def _object_features(overlay: Overlay) -> Iterator[dict[str, object]]:
    objects: Objects = overlay.objects
    colours = [overlay.colours[label] for label in overlay.labels]
    columns = (objects.key, objects.box, objects.point, objects.label, objects.score, objects.state)
    for key, box, point, label, score, state in zip(*(c.tolist() for c in columns), strict=True):
        x_min, y_min, x_max, y_max = (round(edge, 3) for edge in box)
        if point:
            geometry = {"type": "Point", "coordinates": [x_min, y_min]}
        else:
            # A ring without area is not valid geometry.
            x_max, y_max = max(x_max, x_min + 0.01), max(y_max, y_min + 0.01)
            ring = [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max], [x_min, y_min]]
            geometry = {"type": "Polygon", "coordinates": [ring]}
        properties: dict[str, Any] = {
            "objectType": "detection",
            "classification": {"name": overlay.labels[label], "color": list(colours[label])},
            "metadata": {"key": str(key), "review": State(state).name.lower()},
        }
        if score == score:
            properties["measurements"] = {"score": score}
        yield _feature(geometry, properties, f"object/{key}")


def _drawn_features(layer: LayerTuple) -> Iterator[dict[str, object]]:
    data, meta, kind = layer
    frame = _frame(meta)
    to_world = _transform(meta, np.asarray(data[0]).shape[-1])
    kinds = meta.get("shape_type", "rectangle") if kind == "shapes" else "point"
    colours = np.asarray(meta.get("edge_color" if kind == "shapes" else "face_color"), object)
    labels = _labels(meta, len(data))
    for row, coordinates in enumerate(data):
        vertices = np.atleast_2d(np.asarray(coordinates, float))
        shape = kinds if isinstance(kinds, str) else kinds[row]
        world = to_world(_ellipse(vertices) if shape == "ellipse" else vertices)
        x0, y0 = frame.to_level0(world[:, -2], world[:, -1])  # world is (y, x)
        places = np.round(np.stack([x0, y0], axis=1), 3).tolist()
        properties = {"objectType": "annotation", "classification": {"name": labels[row], "color": _rgb(colours, row)}}
        geometry: dict[str, object] = _geometry(shape, places)
        plane = _plane(meta, vertices)
        yield _feature(geometry | plane, properties, json.dumps([labels[row], geometry, plane]))


def _geometry(shape: str, places: list[list[float]]) -> dict[str, Any]:
    if shape == "point":
        return {"type": "Point", "coordinates": places[0]}
    if _KINDS.get(shape) == "Polygon":
        return {"type": "Polygon", "coordinates": [[*places, places[0]]]}
    return {"type": "LineString", "coordinates": places}


def _feature(geometry: Mapping[str, object], properties: Mapping[str, object], name: str) -> dict[str, Any]:
    return {"type": "Feature", "id": str(uuid.uuid5(_NAMES, name)), "geometry": geometry, "properties": properties}


def _labels(meta: dict[str, Any], n: int) -> list[str]:
    features = meta.get("features")
    for column in _LABEL_COLUMNS:
        if features is not None and column in features and len(features[column]) == n:
            return [str(value) for value in features[column]]
    return [str(meta.get("name", "annotation"))] * n


def _rgb(colours: Any, row: int) -> list[int]:
    """Red, green and blue of one shape; a colour given by name, for all, is looked up."""
    if colours.ndim == 2:
        return [round(float(value) * 255) for value in colours[row][:3]]
    from napari.utils.colormaps.standardize_color import transform_color

    name = colours.item() if colours.ndim == 0 else colours[row]
    return [round(float(value) * 255) for value in transform_color(name)[0][:3]]


def _plane(meta: dict[str, Any], vertices: NDArray[np.float64]) -> dict[str, Any]:
    """The `plane` member of a shape on one plane of a stack."""
    axes = list(meta.get("axis_labels", ()))[:-2]
    at = {axis: round(float(vertices[0, i])) for i, axis in enumerate(axes) if axis in ("t", "z")}
    return {"plane": {"c": -1, "z": at.get("z", 0), "t": at.get("t", 0)}} if at else {}


def _ellipse(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of a polygon along the ellipse that napari gives by the corners of its box, (n, d)."""
    center = corners.mean(axis=0)
    across, down = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    ring: NDArray[np.float64] = center + np.cos(angle) * across + np.sin(angle) * down
    return ring


def _transform(meta: Mapping[str, object], ndim: int) -> Any:
    """From data to world coordinates, by the layer's scale, translation, rotation, shear and affine."""
    from napari.layers import Points

    keys = ("scale", "translate", "rotate", "shear", "affine")
    layer = Points(np.zeros((1, ndim)), ndim=ndim, **{key: meta[key] for key in keys if meta.get(key) is not None})
    return lambda places: np.array([layer.data_to_world(place) for place in places])


def _frame(meta: dict[str, Any]) -> Frame:
    """Where level 0 lies: that of the slide shown; px where neither layer nor slide is in micrometres."""
    import napari

    from napari_qwenvl.read.slide_layer import slide_layers, slide_of

    viewer = napari.current_viewer()
    slides = [] if viewer is None else [slide_of(layer) for layer in slide_layers(viewer)]
    frames = {Frame.of(slide.mpp_xy) for slide in slides if slide is not None}
    if len(frames) == 1:
        return frames.pop()
    in_um = any("pixel" not in str(unit) for unit in list(meta.get("units") or ("pixel",))[-2:])
    if frames or in_um:
        raise ExportError(
            f"Where px of level 0 lie for {meta.get('name', 'this layer')!r} is not known: "
            + ("slides of several scales are open." if frames else "its slide is not open.")
            + " Open the one slide that it belongs to, and save again."
        )
    return Frame()
