"""LabelMe JSON: one file per image with `shapes`, `imagePath` and, since 3.0, the kind of every shape.

Of all versions and relatives (labelme 2 to 6, X-AnyLabeling, AnyLabeling): before 3.0 every shape is a polygon; a
rectangle has two corners or, of late, four; a circle its centre and a place on its edge; `mask` has the corners of its
box. Shapes of one label with one `group_id` are one instance, as in labelme's own exports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.dataset.importers.found import FoundLabels, Imported, box_of, ring_of
from finetune.dataset.importers.rows import Rows, file_name, load_json, name_of, number, short, size_of
from finetune.errors import LabelFileError

_LINES = ("line", "linestrip")
_OUTLINES = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")
_CORNERS = 64
"""Of the outline of a circle."""


def is_labelme(document: object) -> bool:
    """Whether a JSON value is LabelMe's."""
    return isinstance(document, Mapping) and "shapes" in document and "imagePath" in document


def reads(path: Path) -> bool:
    """Whether a file of the folder is LabelMe's."""
    return path.is_dir() and any(_is_file(file) for file in sorted(path.glob("*.json"))[:20])


def _is_file(file: Path) -> bool:
    try:
        return is_labelme(load_json(file))
    except LabelFileError:
        return False


def read(path: Path) -> Imported:
    """Read one file, or all files of a folder.

    Raises
    ------
    LabelFileError
        Not LabelMe, where it is the only file. A shape that cannot be read is refused by itself, a broken file of a
        folder as well.
    """
    if not path.is_dir():
        return imported(load_json(path), path)
    rows = Rows()
    sizes: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    for file in sorted(path.glob("*.json")):
        try:
            one = imported(load_json(file), file)
        except LabelFileError as error:
            rows.refused.append(str(error))
            continue
        twice = set(one.sizes) & set(sizes)
        if twice:
            rows.refuse(file.name, f"its image {short(min(twice))} has labels in another file already")
            rows.incomplete |= twice
            continue
        rows.found += one.found
        rows.refused += one.refused
        rows.incomplete |= one.incomplete
        sizes |= one.sizes
        notes += one.notes
    if not sizes:
        raise LabelFileError(f"{path} holds no LabelMe file that can be read: {'; '.join(rows.refused[:1])}")
    return _imported(rows, sizes, notes)


def imported(content: Any, path: Path) -> Imported:
    """The labels of a LabelMe document.

    Raises
    ------
    LabelFileError
    """
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    if not isinstance(shapes, list):
        raise LabelFileError(f"{path} is not LabelMe JSON: its shapes are {short(shapes)}; export it again")
    try:
        picture = file_name(content.get("imagePath"))
    except ValueError as error:
        raise LabelFileError(f"{path}: {error}; export it again") from error
    rows, lines = Rows(), 0
    groups: dict[tuple[str, str], int] = {}
    for at, shape in enumerate(shapes):
        where = f"{path.name} shape {at}"
        with rows.row(where, picture):
            if not isinstance(shape, Mapping):
                raise ValueError(f"{short(shape)} is no shape")
            if shape.get("shape_type") in _LINES:
                lines += 1
                continue
            name = name_of(shape.get("label"))
            found = _found(shape, name, picture, where)
            group = shape.get("group_id")
            key = (name, short(group))
            if group is not None and len(found) == 1 and not found[0].point:
                if key in groups:
                    rows.found[groups[key]] = _joined(rows.found[groups[key]], found[0])
                    continue
                groups[key] = len(rows.found)
            rows.found += found
    notes = [f"{path.name}: {lines} lines left out: they have no area"] if lines else []
    return _imported(rows, {picture: size_of(content.get("imageWidth"), content.get("imageHeight"))}, notes)


def _imported(rows: Rows, sizes: dict[str, tuple[int, int]], notes: list[str]) -> Imported:
    return Imported(
        "labelme",
        tuple(rows.found),
        sizes=sizes,
        whole_pictures=True,
        notes=tuple(notes),
        refused=tuple(rows.refused),
        incomplete=frozenset(rows.incomplete),
    )


def _found(shape: Mapping[str, object], name: str, picture: str, where: str) -> list[FoundLabels]:
    stated = shape.get("points")
    if not isinstance(stated, list) or not stated:
        raise ValueError(f"its points are {short(stated)}")
    points = []
    for point in stated:
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"{short(point)} in place of x and y")
        points.append((number(point[0]), number(point[1])))
    kind = shape.get("shape_type")
    if kind is None or kind == "":
        kind = "polygon"  # before 3.0
    if kind in ("point", "points"):
        if kind == "point" and len(points) != 1:
            raise ValueError(f"a point of {len(points)} places")
        return [FoundLabels(picture, name, (x, y, x, y), where=where, point=True) for x, y in points]
    if kind in ("rectangle", "mask"):
        if len(points) not in (2, 4) or (kind == "mask" and len(points) != 2):
            raise ValueError(f"a {kind} of {len(points)} corners")
        x0, y0, x1, y1 = box_of(points)
        if kind == "mask":  # the corners are px indices, both inside
            x1, y1 = x1 + 1, y1 + 1
        return [FoundLabels(picture, name, (x0, y0, x1, y1), where=where)]
    if kind == "circle":
        if len(points) != 2:
            raise ValueError(f"a circle of {len(points)} places, not its centre and a place on its edge")
        (x, y), radius = points[0], math.dist(*points)
        turns = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
        ring = tuple((x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns)
        return [FoundLabels(picture, name, (x - radius, y - radius, x + radius, y + radius), ring, where)]
    if kind in _OUTLINES:
        if len(set(points)) < 3:
            raise ValueError(f"a {kind} of {len(set(points))} corners")
        return [FoundLabels(picture, name, box_of(points), ring_of(points), where)]
    raise ValueError(f"shape_type {short(kind)} is not known")


def _joined(one: FoundLabels, other: FoundLabels) -> FoundLabels:
    """Two pieces of one instance."""
    box = box_of([one.box[:2], one.box[2:], other.box[:2], other.box[2:]])
    rings = [ring for each in (one, other) for ring in (each.pieces or (each.ring,)) if ring]
    return replace(one, box=box, ring=(), pieces=tuple(rings))
