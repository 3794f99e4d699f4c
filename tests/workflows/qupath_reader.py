"""A reader that follows QuPath's own import, rule by rule, and raises where QuPath raises or loses something.

Rules of `QuPathTypeAdapters`, `ROITypeAdapters` and `GsonTools` of QuPath 0.5.
"""

from __future__ import annotations

import gzip
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shapely.geometry import Polygon

KINDS = {"annotation", "detection", "tile", "cell", "tmaCore"}


@dataclass
class PathObject:
    """What QuPath has in memory after import."""

    kind: str
    id: uuid.UUID
    geometry: dict[str, Any]
    name: str | None = None
    path_class: str | None = None
    colour: tuple[int, int, int] | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    plane: tuple[int, int, int] = (-1, 0, 0)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max."""
        if self.geometry["type"] == "Point":
            x, y = self.geometry["coordinates"]
            return x, y, x, y
        return Polygon(self.geometry["coordinates"][0]).bounds


def read_objects(path: Path) -> list[PathObject]:
    """Import a file as QuPath does."""
    packed = path.name.endswith(".gz")
    text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=_refuse)
    features = document["features"] if isinstance(document, dict) else document
    return [_object(feature) for feature in features]


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _object(feature: dict[str, Any]) -> PathObject:
    if feature["type"] != "Feature":
        raise ValueError("not a feature")
    lost = set(feature) - {"type", "id", "geometry", "properties", "nucleusGeometry"}
    if lost:
        raise ValueError(f"QuPath loses {lost}")
    properties = feature.get("properties", {})
    lost = set(properties) - {
        "objectType",
        "name",
        "color",
        "classification",
        "isLocked",
        "measurements",
        "metadata",
        "childObjects",
    }
    if lost:
        raise ValueError(f"QuPath loses {lost}")
    kind = properties.get("objectType", "annotation")
    found = PathObject(kind if kind in KINDS else "annotation", uuid.UUID(feature["id"]), _roi(feature["geometry"]))
    found.name = properties.get("name")
    classification = properties.get("classification")
    if isinstance(classification, str):
        found.path_class = classification
    elif classification is not None:
        if "color" not in classification or not ({"name", "names"} & set(classification)):
            raise ValueError("Unable to parse PathClass")
        found.path_class, found.colour = classification["name"], _colour(classification["color"])
    for key, value in properties.get("measurements", {}).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"measurement {key} is not a number")
        found.measurements[key] = float(value)
    for key, value in properties.get("metadata", {}).items():
        if not isinstance(value, str):
            raise ValueError(f"metadata {key} is not text")
        found.metadata[key] = value
    plane = feature["geometry"].get("plane", {})
    found.plane = (plane.get("c", -1), plane.get("z", 0), plane.get("t", 0))
    return found


def _colour(value: Any) -> tuple[int, int, int]:
    red, green, blue = value
    if not all(isinstance(part, int) and 0 <= part <= 255 for part in value):
        raise ValueError(f"colour {value}")
    return red, green, blue


def _roi(geometry: dict[str, Any]) -> dict[str, Any]:
    if geometry["type"] == "Polygon":
        for ring in geometry["coordinates"]:
            if ring[0] != ring[-1]:
                raise ValueError("ring is not closed")
            shape = Polygon(ring)
            if not shape.is_valid or shape.area <= 0:
                raise ValueError("invalid polygon")
    elif geometry["type"] not in ("Point", "MultiPoint", "LineString", "MultiPolygon", "GeometryCollection"):
        raise ValueError(f"unknown geometry {geometry['type']}")
    return geometry
