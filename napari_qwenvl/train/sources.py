"""Where the labels of a training come from: reviewed runs, and layers drawn over a slide. No Qt here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.read.frame import Frame
from wsi.files.names import path_of
from wsi.regions.frames import HEAD, PixelFrame, SlideFrames

if TYPE_CHECKING:
    from napari.layers import Layer

    from finetune.dataset.samples import Dataset
    from wsi.slide import Slide

AREA = "labelled area"
"""Class of outlines inside which everything is labelled."""
_LARGEST_LABELS = 200_000_000
"""Px of a Labels layer that is read whole."""


@dataclass(frozen=True)
class RunSource:
    """A run folder whose objects people have reviewed."""

    folder: Path

    @property
    def title(self) -> str:
        """Short name for tables."""
        return f"review of {self.folder.name}"

    def dataset(self, searched: bool, folder: Path) -> Dataset:
        """The labels that reviewers vouch for, and the tiles that they have been through."""
        from finetune.dataset.build import BuildOptions, build_dataset
        from workflows.store.run_store import RunStore

        with RunStore.open(self.folder) as store:
            facts = store.manifest.slide
        mpp = facts.mpp if facts.mpp_source == "user" else None
        options = BuildOptions(exhaustive="searched" if searched else "reviewed", kind="run", mpp=mpp)
        dataset = build_dataset(self.folder.name, [(self.folder, path_of(facts.path).parent)], options)
        _require_same(dataset, facts.fingerprint, "when the run was made")
        return dataset


@dataclass(frozen=True)
class LayerSource:
    """What a layer of the viewer says about a slide, as it was when it was added.

    Attributes
    ----------
    features : tuple of dict
        GeoJSON features in level-0 px, classes as QuPath writes them.
    """

    layer: str
    slide: Path
    features: tuple[dict[str, object], ...]
    fingerprint: str = ""
    """Of the slide it was drawn on."""
    mpp: float | None = None
    """Where the user states it."""
    frames: SlideFrames = field(default_factory=SlideFrames)
    """What QuPath shows of the slide: recorded in the file, whose coordinates are level-0 px."""

    @property
    def title(self) -> str:
        """Short name for tables."""
        return f"layer {self.layer}"

    def dataset(self, searched: bool, folder: Path) -> Dataset:
        """The labels and areas of the layer; its features are written to `folder` first."""
        import hashlib

        from finetune.dataset.build import BuildOptions, build_dataset

        head = {HEAD: self.frames.record(PixelFrame.LEVEL0)}
        document = {"type": "FeatureCollection", **head, "features": self.features}
        text = json.dumps(document, ensure_ascii=False)
        digest = hashlib.sha256(f"{self.slide}{text}".encode()).hexdigest()[:8]
        path = folder / f"{self.slide.stem}-{digest}.geojson"
        path.write_text(text, encoding="utf-8")
        options = BuildOptions(exhaustive="areas", area_names=(AREA,), kind="geojson", mpp=self.mpp)
        dataset = build_dataset(self.layer, [(path, self.slide)], options)
        _require_same(dataset, self.fingerprint, "the one that was drawn on")
        return dataset


Source = RunSource | LayerSource


def _require_same(dataset: Dataset, fingerprint: str, than: str) -> None:
    """Raise DatasetError where a slide's file is not the one that was labelled: every box would be misplaced."""
    from finetune.errors import DatasetError

    for entry in dataset.slides:
        if fingerprint and entry.fingerprint != fingerprint:
            raise DatasetError(
                f"{Path(entry.path).name} is another picture than {than}: its labels would lie in the wrong places. "
                "Bring the old file back, or label the new one."
            )


# ---------------------------------------------------------------------- layers


def layer_source(layer: Layer, slide: Slide, path: Path, *, areas: bool = False) -> LayerSource:
    """Take the labels of a Shapes, Points or Labels layer over a slide.

    The class is that of the feature column 'label' (or class, classification, name), else the layer's name. Each
    connected part of a Labels layer is an object.

    Parameters
    ----------
    areas : bool
        The shapes are no objects: they outline where everything is labelled.

    Raises
    ------
    ValueError
        Another kind of layer, an empty one, or one that cannot be read.
    """
    kind = getattr(layer, "_type_string", "")
    frame = Frame.of(slide.mpp_xy)
    if kind == "labels":
        features = _label_features(layer, frame)
    elif kind in ("shapes", "points"):
        features = _drawn_features(layer, frame)
    else:
        raise ValueError(f"'{layer.name}' is no layer of labels. Choose a Shapes, Points or Labels layer.")
    if not features:
        raise ValueError(f"'{layer.name}' is empty. Draw on it first.")
    if areas:
        features = [each for each in features if each["geometry"]["type"] == "Polygon"]
        for each in features:
            each["properties"]["classification"] = {"name": AREA}
        if not features:
            raise ValueError(f"'{layer.name}' has no area. Draw a rectangle, an ellipse or a polygon.")
    stated = slide.mpp if getattr(slide, "mpp_source", None) == "user" else None
    name = f"{layer.name} (areas)" if areas else layer.name
    return LayerSource(name, path, tuple(features), slide.fingerprint, stated, SlideFrames.of(slide))


def whole_slide(slide: Slide, path: Path) -> LayerSource:
    """The statement that everything on a slide is labelled."""
    ring = [[0, 0], [slide.width, 0], [slide.width, slide.height], [0, slide.height], [0, 0]]
    stated = slide.mpp if getattr(slide, "mpp_source", None) == "user" else None
    features = (_feature("Polygon", [ring], AREA),)
    return LayerSource("all of the slide", path, features, slide.fingerprint, stated, SlideFrames.of(slide))


def _feature(kind: str, coordinates: object, name: str) -> dict[str, object]:
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def _names(layer: Layer, count: int) -> list[str]:
    features = getattr(layer, "features", None)
    for column in ("label", "class", "classification", "name"):
        if features is not None and column in features and len(features[column]) == count:
            words = [str(value).strip() for value in features[column]]
            return [word if word and word != "nan" else layer.name for word in words]
    return [str(layer.name)] * count


def _level0(layer: Layer, frame: Frame, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places (n, d) of a layer's data as (n, 2) x0, y0."""
    world = np.array([layer.data_to_world(place) for place in places])[:, -2:]
    x0, y0 = frame.to_level0(world[:, 0], world[:, 1])
    return np.round(np.stack([x0, y0], axis=1), 3)


def _drawn_features(layer: Layer, frame: Frame) -> list[dict[str, Any]]:
    from napari_qwenvl.results.writer import _ellipse

    found = []
    if layer._type_string == "points":
        if not len(layer.data):
            return []
        places, names = _level0(layer, frame, np.asarray(layer.data, float)), _names(layer, len(layer.data))
        return [_feature("Point", place.tolist(), name) for place, name in zip(places, names, strict=True)]
    names = _names(layer, layer.nshapes)
    for number, name in enumerate(names):
        kind, corners = layer.shape_type[number], np.asarray(layer.data[number], float)
        if kind in ("line", "path"):
            continue
        ring = _level0(layer, frame, _ellipse(corners) if kind == "ellipse" else corners).tolist()
        found.append(_feature("Polygon", [[*ring, ring[0]]], name))
    return found


def _label_features(layer: Layer, frame: Frame) -> list[dict[str, Any]]:
    import cv2

    if getattr(layer, "multiscale", False) or np.ndim(layer.data) != 2 or np.size(layer.data) > _LARGEST_LABELS:
        raise ValueError(
            f"'{layer.name}' is not one plane of labels that fits in memory. Export it as an OME-Zarr label image, and "
            "use qwenvl dataset build."
        )
    data = np.asarray(layer.data)
    classes = _classes_of_values(layer)
    found = []
    for value in np.unique(data[data != 0]).tolist():
        count, _, boxes, _ = cv2.connectedComponentsWithStats((data == value).astype(np.uint8), connectivity=8)
        for left, top, width, height, _ in boxes[1:count].tolist():
            edges = [(top, left), (top, left + width), (top + height, left + width), (top + height, left)]
            # A px of the layer reaches half a px to both sides of its place.
            ring = _level0(layer, frame, np.array(edges, float) - 0.5).tolist()
            found.append(_feature("Polygon", [[*ring, ring[0]]], classes.get(value, str(layer.name))))
    return found


def _classes_of_values(layer: Layer) -> dict[int, str]:
    """Classes by value, where the layer's features have a row per value ('index' names it, else its place)."""
    features = getattr(layer, "features", None)
    if features is None or not len(features):
        return {}
    column = next((name for name in ("label", "class", "classification", "name") if name in features), None)
    if column is None:
        return {}
    values = features["index"] if "index" in features else range(len(features))
    return {int(value): str(name) for value, name in zip(values, features[column], strict=True) if str(name).strip()}


__all__ = ["AREA", "LayerSource", "RunSource", "Source", "layer_source", "whole_slide"]
