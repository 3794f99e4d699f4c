"""Pascal VOC: one XML per picture with `object/name` and `object/bndbox` (everingham et al., VOC2007 devkit).

Corners are 1-based pixel indices, both inside the object: x_min - 1 is its left edge, x_max its right edge.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from finetune.errors import LabelFileError
from finetune.importers.found import Found, Imported


def reads(path: Path) -> bool:
    """Whether the file, or a file of the folder, is VOC."""
    first = next(iter(sorted(path.glob("*.xml"))), None) if path.is_dir() else path
    if first is None or first.suffix.lower() != ".xml":
        return False
    with first.open("rb") as stream:
        return b"<annotation>" in stream.read(400)


def read(path: Path) -> Imported:
    """Read one file, or all files of a folder.

    Raises
    ------
    LabelFileError
        Broken XML, or an object without a name or box.
    """
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    found: list[Found] = []
    sizes: dict[str, tuple[int, int]] = {}
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as error:
            raise LabelFileError(f"{file} is not XML: {error}; export it again") from error
        picture = (root.findtext("filename") or file.stem).strip()
        size = root.find("size")
        if size is not None:
            sizes[picture] = (int(size.findtext("width") or 0), int(size.findtext("height") or 0))
        for number, item in enumerate(root.iter("object")):
            corners = item.find("bndbox")
            name = (item.findtext("name") or "").strip()
            where = f"{file.name} object {number}"
            if corners is None or not name:
                raise LabelFileError(f"{where}: no name or no bndbox; mend or remove it")
            try:
                x0, y0, x1, y1 = (
                    float(corners.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax")
                )
            except ValueError as error:
                raise LabelFileError(f"{where}: a corner is not a number; mend or remove it") from error
            # A box whose corners coincide in the file has no extent there; it must not become 1 px here.
            degenerate = x1 <= x0 or y1 <= y0
            found.append(
                Found(picture, name, (x0 - (not degenerate), y0 - (not degenerate), x1, y1), where=where)
            )
    return Imported("voc", tuple(found), sizes=sizes, whole_pictures=True)
