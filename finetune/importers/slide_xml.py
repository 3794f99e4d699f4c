"""XML of slide viewers: ASAP (`ASAP_Annotations`) and Aperio ImageScope (`Annotations/Annotation/Regions`)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from finetune.errors import LabelFileError
from finetune.importers.found import Found, Imported, box_of, ring_of


def reads_asap(path: Path) -> bool:
    """Whether the file is ASAP XML."""
    return _starts_with(path, b"<ASAP_Annotations")


def reads_aperio(path: Path) -> bool:
    """Whether the file is Aperio XML."""
    return _starts_with(path, b"<Annotations") and not reads_asap(path)


def read_asap(path: Path) -> Imported:
    """Read ASAP XML: the class is the annotation's group, or its name where it has none.

    Raises
    ------
    LabelFileError
    """
    found = []
    for item in _root(path).iter("Annotation"):
        where = f"{path.name} annotation {item.get('Name', '')!r}"
        group = item.get("PartOfGroup", "None")
        name = item.get("Name", "") if group in ("None", "") else group
        ordered = sorted(item.iter("Coordinate"), key=lambda c: float(c.get("Order", 0)))
        found += _found(
            name.strip(), _points(ordered, where), where, as_points=item.get("Type") == "PointSet"
        )
    return Imported("asap", tuple(found))


def read_aperio(path: Path) -> Imported:
    """Read Aperio XML: the class is the layer's name, else the region's text, else the layer's colour.

    `NegativeROA` regions are holes of others and are left out. `LineColor` is blue, green, red in one integer.

    Raises
    ------
    LabelFileError
    """
    found: list[Found] = []
    holes = 0
    for layer in _root(path).iter("Annotation"):
        stated = (layer.get("Name") or "").strip()
        for region in layer.iter("Region"):
            where = f"{path.name} layer {layer.get('Id', '')} region {region.get('Id', '')}"
            if region.get("NegativeROA") == "1":
                holes += 1
                continue
            text = (region.get("Text") or "").strip()
            colour = int(layer.get("LineColor") or 0)
            red, green, blue = colour & 255, colour >> 8 & 255, colour >> 16 & 255
            name = stated or text or f"#{red:02x}{green:02x}{blue:02x}"
            points = _points(list(region.iter("Vertex")), where)
            if region.get("Type") in ("1", "2") and len(points) == 2:  # rectangle, ellipse by two corners
                x0, y0, x1, y1 = box_of(points)
                points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
            found += _found(name, points, where, as_points=False)
    notes = (f"{path.name}: {holes} regions marked as holes (NegativeROA) left out",) if holes else ()
    return Imported("aperio", tuple(found), notes=notes)


def _found(name: str, points: list[tuple[float, float]], where: str, *, as_points: bool) -> list[Found]:
    if not points:
        raise LabelFileError(f"{where}: no coordinates; mend or remove it")
    if as_points:
        return [Found(None, name, (x, y, x, y), where=where) for x, y in points]
    return [Found(None, name, box_of(points), ring_of(points) if len(points) > 2 else (), where)]


def _points(items: list[ElementTree.Element], where: str) -> list[tuple[float, float]]:
    try:
        # Some exports write a decimal comma.
        return [tuple(float(item.get(axis, "").replace(",", ".")) for axis in ("X", "Y")) for item in items]  # type: ignore[misc]
    except ValueError as error:
        raise LabelFileError(f"{where}: a coordinate is not a number; export it again") from error


def _root(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise LabelFileError(f"{path} is not XML: {error}; export it again") from error


def _starts_with(path: Path, tag: bytes) -> bool:
    if not path.is_file() or path.suffix.lower() != ".xml":
        return False
    with path.open("rb") as stream:
        return tag in stream.read(400)
