"""XML of slide viewers: ASAP (`ASAP_Annotations`) and Aperio ImageScope (`Annotations/Annotation/Regions`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from finetune.dataset.importers.found import FoundLabels, Imported, box_of, ring_of
from finetune.dataset.importers.rows import Rows, load_xml, name_of, number, root_tag, short
from finetune.errors import LabelFileError

_LINES = "lines left out: rulers, arrows and other lines have no area"


def reads_asap(path: Path) -> bool:
    """Whether the file is ASAP XML."""
    return root_tag(path) == "ASAP_Annotations"


def reads_aperio(path: Path) -> bool:
    """Whether the file is Aperio XML."""
    return root_tag(path) == "Annotations"


def read_asap(path: Path) -> Imported:
    """Read ASAP XML: the class is the annotation's group, or its name where it has none.

    Raises
    ------
    LabelFileError
        Not ASAP XML. An annotation that cannot be read is refused by itself.
    """
    rows, lines = Rows(), 0
    for at, item in enumerate(_root(path, "ASAP_Annotations").iter("Annotation")):
        where = f"{path.name} annotation {at} {short(item.get('Name', ''))}"
        with rows.row(where, None):
            group = item.get("PartOfGroup", "None")
            name = name_of(item.get("Name", "") if group in ("None", "") else group)
            ordered = sorted(item.iter("Coordinate"), key=lambda c: number(c.get("Order", "0"), "Order"))
            kind = item.get("Type", "")
            points = _points(ordered)
            if kind == "Measurement" or (len(points) == 2 and kind != "PointSet"):
                lines += 1
            else:
                rows.found += _found(name, points, where, as_points=kind in ("PointSet", "Dot"))
    return _imported("asap", path, rows, lines)


def read_aperio(path: Path) -> Imported:
    """Read Aperio XML: the class is the layer's name, else the region's text, else the layer's colour.

    `NegativeROA` regions are holes of others and are left out. `LineColor` is blue, green, red in one integer.

    Raises
    ------
    LabelFileError
        Not Aperio XML. A region that cannot be read is refused by itself.
    """
    rows, lines, holes = Rows(), 0, 0
    for layer in _root(path, "Annotations").iter("Annotation"):
        for at, region in enumerate(layer.iter("Region")):
            where = f"{path.name} layer {layer.get('Id', '')[:40]} region {region.get('Id', str(at))[:40]}"
            with rows.row(where, None):
                if region.get("NegativeROA") == "1":
                    holes += 1
                    continue
                name = name_of(layer.get("Name")) or name_of(region.get("Text")) or _colour(layer)
                points = _points(list(region.iter("Vertex")))
                if region.get("Type") in ("1", "2") and len(points) == 2:  # rectangle, ellipse by two corners
                    x0, y0, x1, y1 = box_of(points)
                    points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
                if len(points) == 2:
                    lines += 1
                    continue
                rows.found += _found(name, points, where, as_points=len(points) == 1)
    notes = [f"{path.name}: {holes} regions marked as holes (NegativeROA) left out"] if holes else []
    return _imported("aperio", path, rows, lines, notes)


def _imported(kind: str, path: Path, rows: Rows, lines: int, notes: Sequence[str] = ()) -> Imported:
    said = [*notes, f"{path.name}: {lines} {_LINES}"] if lines else notes
    return Imported(kind, tuple(rows.found), notes=tuple(said), refused=tuple(rows.refused))


def _colour(layer: Element) -> str:
    colour = int(number(layer.get("LineColor") or "0", "LineColor"))
    red, green, blue = colour & 255, colour >> 8 & 255, colour >> 16 & 255
    return f"#{red:02x}{green:02x}{blue:02x}"


def _found(name: str, points: list[tuple[float, float]], where: str, *, as_points: bool) -> list[FoundLabels]:
    if not points:
        raise ValueError("no coordinates")
    if as_points:
        return [FoundLabels(None, name, (x, y, x, y), where=where, point=True) for x, y in points]
    if len(set(points)) < 3:
        raise ValueError(f"an outline of {len(set(points))} corners")
    return [FoundLabels(None, name, box_of(points), ring_of(points), where)]


def _points(items: list[Element]) -> list[tuple[float, float]]:
    # Some exports write a decimal comma.
    return [
        (number(item.get("X", "").replace(",", "."), "X"), number(item.get("Y", "").replace(",", "."), "Y"))
        for item in items
    ]


def _root(path: Path, tag: str) -> Element:
    root = load_xml(path)
    if root.tag != tag:
        raise LabelFileError(f"{path}: its root is {short(root.tag)} and not {tag!r}; export it again")
    return root
