"""QuPath GeoJSON of every version, and GeoJSON of other tools that name a class the same way.

Keys as QuPath writes them (`PathObjectTypeAdapters`, `ROITypeAdapters`): a class is `classification` as an object with
`name` or `names`, or as a string; `objectType` was `object_type` once; a geometry may be of any GeoJSON type.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.errors import LabelFileError
from finetune.importers.found import Found, Imported, box_of, ring_of
from wsi.frames import FrameRecord
from wsi.geojson import load_unframed

_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
_PARTS = ("Polygon", "MultiPolygon", "LineString", "MultiLineString", "Point", "MultiPoint")


def reads(path: Path) -> bool:
    """Whether the file is GeoJSON."""
    if not path.name.lower().endswith(_SUFFIXES):
        return False
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as stream:
        head = stream.read(4000)
    return b'"Feature' in head or (b'"geometry"' in head)


def read(path: Path) -> Imported:
    """Read one file, plain or gzip; a bare list of features counts too.

    Raises
    ------
    LabelFileError
        Not GeoJSON, or a feature without geometry.
    FrameError
        It records the frame of its coordinates in a way that is not known.
    """
    content = load_unframed(path, LabelFileError)
    features = content.get("features", [content]) if isinstance(content, dict) else content
    found: list[Found] = []
    for number, feature in enumerate(features):
        where = f"{path.name} feature {feature.get('id', number) if isinstance(feature, dict) else number}"
        try:
            properties = feature.get("properties") or {}
            kind = properties.get("objectType", properties.get("object_type", "annotation"))
            if kind in ("tile", "tmaCore", "tma_core"):
                continue
            name = class_of(properties)
            for points in _outlines(feature["geometry"]):
                ring = ring_of(points) if len(points) > 2 else ()
                found.append(Found(None, name, box_of(points), ring, where))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise LabelFileError(f"{where}: no usable geometry ({error!r}); mend or remove it") from error
    return Imported("geojson", tuple(found), framed=True, record=FrameRecord.of(content, path))


def class_of(properties: Mapping[str, Any]) -> str:
    """The class of a feature; of a derived class ('Tumor: Positive') all parts; '' where there is none."""
    stated = properties.get("classification")
    if isinstance(stated, Mapping):
        names = stated.get("names")
        return ": ".join(names) if names else str(stated.get("name") or "").strip()
    if isinstance(stated, str):
        return stated.strip()
    # HistomicsTK and its relatives
    label = properties.get("label") or properties.get("group") or ""
    return str(label.get("value", "") if isinstance(label, Mapping) else label).strip()


def _outlines(geometry: Mapping[str, Any]) -> Iterator[list[list[float]]]:
    """Outer rings and lines; every point of a MultiPoint is one object."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _outlines(part)
        return
    if kind not in _PARTS:
        raise ValueError(f"geometry of type {kind!r}")
    coordinates = geometry["coordinates"]
    if kind == "Point":
        yield [coordinates]
    elif kind == "MultiPoint":
        yield from ([point] for point in coordinates)
    elif kind == "Polygon":
        yield coordinates[0]
    elif kind == "MultiPolygon":
        # One object in several pieces: its box spans them, its outline is that of the largest.
        rings = [part[0] for part in coordinates]
        if len(rings) == 1:
            yield rings[0]
        else:
            x0, y0, x1, y1 = box_of([point for ring in rings for point in ring])
            yield [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    elif kind == "LineString":
        yield coordinates
    else:
        yield from coordinates
