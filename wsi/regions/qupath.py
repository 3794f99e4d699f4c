"""Objects of a GeoJSON as QuPath writes them: the one reader for corrections, training labels and truth.

The rules are those of QuPath's own readers (`QuPathTypeAdapters`, `ROITypeAdapters`, `PathClass`), of every version
that wrote GeoJSON: the kind of object is `objectType`, `object_type`, `type`, or (0.2) the id; a class is an object
with `name` or `names`, with a `parentClass` (up to 0.3), or a string; children lie in `childObjects` or `children`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]
Ring = tuple[tuple[float, float], ...]

MAX_NAME = 300
"""Characters of a class; a longer one is a text that got into the wrong field."""
_MAX_DEPTH = 32
"""Geometries in geometries, parent classes of parent classes."""
_FAR = 1e9
"""px; no image is as large."""
_LEGACY = {
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
    "PathDetectionObject": "detection",
    "PathAnnotationObject": "annotation",
    "tma_core": "tmaCore",
}
_KINDS = {"annotation", "detection", "cell", "tile", "tmaCore", "root"}
_POINTS, _LINES, _AREAS = (("Point", "MultiPoint"), ("LineString", "MultiLineString"), ("Polygon", "MultiPolygon"))


@dataclass(frozen=True, slots=True)
class QuPathPlace:
    """Where one object lies, in px of the file.

    Attributes
    ----------
    box : (x_min, y_min, x_max, y_max)
        Without extent for a point.
    rings : tuple of rings
        Outline of every piece, without its repeated last corner; none for a point.
    holes : bool
        A piece has a hole.
    """

    box: Box
    rings: tuple[Ring, ...] = ()
    holes: bool = False

    @property
    def point(self) -> bool:
        """Whether only a place is known."""
        return not self.rings


@dataclass(frozen=True, slots=True)
class QuPathObject:
    """One feature.

    Attributes
    ----------
    where : str
        'feature 3', for messages; with its id where it has one.
    id : str or None
    kind : str
        'annotation', 'detection' or 'cell'.
    label : str
        Class as QuPath shows it ('CD3: CD8'), '' where there is none.
    places : tuple of QuPathPlace
        One, but for several points, each of which is an object.
    z, t : int
        Plane of a stack; 0 where none is stated, as in QuPath.
    metadata : mapping
    """

    where: str
    id: str | None
    kind: str
    label: str
    places: tuple[QuPathPlace, ...]
    z: int
    t: int
    metadata: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class QuPathObjects:
    """What a file holds.

    Attributes
    ----------
    objects : tuple of QuPathObject
    refused : tuple of str
        Features that cannot be read, each with its place in the file and the reason.
    lines : int
        Rulers, arrows and other open lines: they have no area and are no objects.
    containers : int
        Tiles, cores of a tissue array and roots left out; what lies in them is among the objects.
    """

    objects: tuple[QuPathObject, ...]
    refused: tuple[str, ...] = ()
    lines: int = 0
    containers: int = 0
    unread: tuple[str, ...] = ()
    """Ids of the refused features, of lines and of containers."""


class NotAnObjectError(ValueError):
    """A feature is well formed, and no object."""


def read_objects(document: object) -> QuPathObjects:
    """The objects of a GeoJSON value: a collection, a list of features, a feature, or a geometry.

    What cannot be read is refused feature by feature; nothing is raised for it.
    """
    found: list[QuPathObject] = []
    refused: list[str] = []
    unread: list[str] = []
    lines = containers = 0
    for where, feature in _features(document):
        name = feature.get("id") if isinstance(feature, Mapping) else None
        try:
            kind = _kind(feature)
            if kind not in ("tile", "tmaCore", "root"):
                found.append(_object(feature, kind, where))
                continue
            containers += 1
        except NotAnObjectError:
            lines += 1
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
            refused.append(f"{where}: {_reason(error)}")
        unread += [name] if isinstance(name, str) else []
    return QuPathObjects(tuple(found), tuple(refused), lines, containers, tuple(unread))


def class_of(properties: Mapping[str, object]) -> str:
    """The class that a feature's properties state, as QuPath shows it; '' where they state none.

    Raises
    ------
    ValueError
        There is one, and it is no name.
    """
    stated = _unpacked(properties.get("classification"), "class")
    if stated is None:
        # HistomicsTK and its relatives
        stated = properties.get("label") or properties.get("group") or ""
        if isinstance(stated, Mapping):
            stated = stated.get("value") or ""
    parts: list[str] = []
    for _ in range(_MAX_DEPTH):
        if not isinstance(stated, Mapping):
            break
        names = stated.get("names")
        if names is not None and not isinstance(names, list):
            raise ValueError(f"the names of its class are {_short(names)}")
        own = names or [stated.get("name")]
        parts = [_name(each) for each in own if each is not None] + parts
        stated = stated.get("parentClass")
    else:
        raise ValueError("its class has parents without end")
    if stated is not None:
        parts = [_name(stated), *parts]
    return class_name(": ".join(parts))


def class_name(text: str) -> str:
    """A class as QuPath shows it after its own split: 'CD3:CD8' is 'CD3: CD8' (`PathClass.fromString`)."""
    return ": ".join(part.strip() for part in text.split(":") if part.strip())


def _unpacked(value: object, what: str) -> object:
    """An object that a table in between has turned into text (GeoPandas writes and reads nested objects so)."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise ValueError(f"its {what} {_short(value)} is no name")


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"its class {_short(value)} is no name")
    if len(value) > MAX_NAME:
        raise ValueError(f"its class has {len(value)} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"its class {value!a} is no text") from error
    return value


def _features(document: object) -> Iterator[tuple[str, Any]]:
    """Every feature with words for its place, children after their parents; without recursion."""
    waiting = [("", document)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(f"{where or 'feature'} {i}", each) for i, each in reversed(list(enumerate(value)))]
            continue
        if isinstance(value, Mapping) and "geometry" not in value:
            if isinstance(value.get("features"), list):
                waiting.append((where, value["features"]))
                continue
            if not where and "features" in value:
                yield "features", value["features"]
                continue
            if "coordinates" in value or "geometries" in value:
                value = {"geometry": value}
        where = where or "feature 0"
        yield _with_id(where, value), value
        if isinstance(value, Mapping):
            properties = value.get("properties")
            for holder in (value, properties if isinstance(properties, Mapping) else {}):
                for key in ("childObjects", "children"):
                    if holder.get(key):
                        # A list, a collection, or nothing that holds objects, which is then refused by name.
                        waiting.append((f"{where} child", holder[key]))


def _with_id(where: str, feature: object) -> str:
    name = feature.get("id") if isinstance(feature, Mapping) else None
    return f"{where} ({_short(name)})" if isinstance(name, str | int) and name not in _LEGACY else where


def _kind(feature: object) -> str:
    if not isinstance(feature, Mapping):
        raise ValueError(f"{_short(feature)} is no feature")
    properties = _properties(feature)
    stated = [properties.get(key) for key in ("objectType", "object_type", "type")] + [feature.get("id")]
    for each in stated:
        if isinstance(each, str) and (each in _KINDS or each in _LEGACY):
            return _LEGACY.get(each, each)
    return "annotation"


def _properties(feature: Mapping[str, object]) -> Mapping[str, object]:
    properties = feature.get("properties")
    if properties is None:
        return {}
    if not isinstance(properties, Mapping):
        raise ValueError(f"its properties are {_short(properties)}")
    return properties


def _object(feature: Mapping[str, object], kind: str, where: str) -> QuPathObject:
    geometry = feature.get("geometry")
    if not isinstance(geometry, Mapping):
        raise ValueError("no geometry")
    properties = _properties(feature)
    label = class_of(properties)
    places = tuple(_places(geometry))
    metadata = _unpacked(properties.get("metadata"), "metadata")
    name = feature.get("id")
    return QuPathObject(
        where,
        str(name) if isinstance(name, str | int) and name not in _LEGACY else None,
        kind,
        label,
        places,
        *_plane(geometry),
        metadata if isinstance(metadata, Mapping) else {},
    )


def _plane(geometry: Mapping[str, object]) -> tuple[int, int]:
    plane = geometry.get("plane")
    if plane is None:
        return 0, 0
    if not isinstance(plane, Mapping):
        raise ValueError(f"its plane is {_short(plane)}")
    found = []
    for axis in ("z", "t"):
        value = plane.get(axis, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value or value < 0:
            raise ValueError(f"{axis} of its plane is {_short(value)}")
        found.append(int(value))
    return found[0], found[1]


# ---------------------------------------------------------------------- geometry


def _places(geometry: Mapping[str, object]) -> list[QuPathPlace]:
    """Of a collection what has the most dimensions, as in QuPath: areas are one object, points are one each."""
    points: list[tuple[float, float]] = []
    rings: list[Ring] = []
    lines, holes = 0, False
    for part in _parts(geometry):
        kind, coordinates = part["type"], part["coordinates"]
        if kind in _POINTS:
            points += [_corner(each) for each in ([coordinates] if kind == "Point" else _listed(coordinates))]
        elif kind in _AREAS:
            for polygon in [coordinates] if kind == "Polygon" else _listed(coordinates):
                outer, *inner = _listed(polygon)
                rings.append(_ring(outer))
                holes = holes or bool(inner)
        else:
            for line in [coordinates] if kind == "LineString" else _listed(coordinates):
                corners = [_corner(each) for each in _listed(line)]
                if len(corners) > 3 and corners[0] == corners[-1]:
                    rings.append(_ring(line))
                else:
                    lines += 1
    if rings:
        return [QuPathPlace(_box([corner for ring in rings for corner in ring]), tuple(rings), holes)]
    if lines and not points:
        raise NotAnObjectError("a line")
    if not points:
        raise ValueError("its geometry is empty")
    return [QuPathPlace((x, y, x, y)) for x, y in points]


def _parts(geometry: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    waiting = [(geometry, 0)]
    while waiting:
        part, depth = waiting.pop(0)
        if not isinstance(part, Mapping):
            raise ValueError(f"its geometry holds {_short(part)}")
        kind = part.get("type")
        if kind == "GeometryCollection":
            if depth >= _MAX_DEPTH:
                raise ValueError("its geometry is nested too deep")
            waiting[:0] = [(each, depth + 1) for each in _listed(part.get("geometries"))]
        elif kind in (*_POINTS, *_LINES, *_AREAS):
            yield {"type": kind, "coordinates": part.get("coordinates")}
        else:
            raise ValueError(f"geometry of type {_short(kind)}")


def _listed(value: object) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{_short(value)} in place of coordinates")
    return value


def _corner(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{_short(value)} in place of x and y")
    corner = []
    for number in value[:2]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"coordinate {_short(number)} is no number")
        if not abs(number) < _FAR:
            raise ValueError(f"coordinate {_short(number)} lies in no image")
        corner.append(float(number))
    return corner[0], corner[1]


def _ring(coordinates: object) -> Ring:
    corners = [_corner(each) for each in _listed(coordinates)]
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners = corners[:-1]
    if len(corners) < 3:
        raise ValueError(f"an outline of {len(corners)} corners")
    x0, y0, x1, y1 = _box(corners)
    if x0 == x1 or y0 == y1:
        raise ValueError(f"an outline without area ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
    return tuple(corners)


def _box(corners: list[tuple[float, float]]) -> Box:
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"cannot be read ({error!r})"


def _short(value: object) -> str:
    """A value for a message, whatever it is."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


__all__ = ["MAX_NAME", "QuPathPlace", "QuPathObject", "QuPathObjects", "class_name", "class_of", "read_objects"]
