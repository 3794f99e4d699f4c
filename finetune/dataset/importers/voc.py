"""Pascal VOC: one XML per picture with `object/name` and `object/bndbox` (everingham et al., VOC2007 devkit).

Corners are 1-based pixel indices, both inside the object: x_min - 1 is its left edge, x_max its right edge. LabelImg
and its relatives write attributes to the root element, and parts of other kinds beside the box.
"""

from __future__ import annotations

from pathlib import Path

from finetune.dataset.importers.found import FoundLabels, Imported
from finetune.dataset.importers.rows import Rows, file_name, load_xml, name_of, number, root_tag, short, size_of
from finetune.errors import LabelFileError


def reads(path: Path) -> bool:
    """Whether the file, or a file of the folder, is VOC."""
    if path.is_dir():
        return any(root_tag(file) == "annotation" for file in sorted(path.glob("*.xml"))[:20])
    return root_tag(path) == "annotation"


def read(path: Path) -> Imported:
    """Read one file, or all files of a folder.

    Raises
    ------
    LabelFileError
        Broken XML, where it is the only file. An object without a name or box is refused by itself, a broken file of a
        folder as well.
    """
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    rows = Rows()
    sizes: dict[str, tuple[int, int]] = {}
    for file in files:
        try:
            _file(file, rows, sizes)
        except LabelFileError as error:
            if not path.is_dir():
                raise
            rows.refused.append(str(error))
    if rows.refused and not sizes:
        raise LabelFileError(f"{path} holds no file that can be read: {rows.refused[0]}")
    return Imported(
        "voc",
        tuple(rows.found),
        sizes=sizes,
        whole_pictures=True,
        refused=tuple(rows.refused),
        incomplete=frozenset(rows.incomplete),
    )


def _file(file: Path, rows: Rows, sizes: dict[str, tuple[int, int]]) -> None:
    root = load_xml(file)
    if root.tag != "annotation":
        raise LabelFileError(f"{file} is not VOC: its root is {short(root.tag)}; export it again")
    try:
        picture = file_name(root.findtext("filename") or file.stem)
    except ValueError as error:
        raise LabelFileError(f"{file}: {error}; export it again") from error
    size = root.find("size")
    stated = (0, 0) if size is None else size_of(size.findtext("width"), size.findtext("height"))
    sizes[picture] = stated
    for at, item in enumerate(root.iter("object")):
        with rows.row(f"{file.name} object {at}", picture):
            corners = item.find("bndbox")
            name = name_of(item.findtext("name"))
            if corners is None or not name:
                raise ValueError("no bndbox" if corners is None else "no name")
            if len(item.findall("bndbox")) > 1:
                raise ValueError("two bndbox in one object")
            x0, y0, x1, y1 = (number(corners.findtext(key), key) for key in ("xmin", "ymin", "xmax", "ymax"))
            # A box whose corners coincide in the file has no extent there; it must not become 1 px here.
            degenerate = x1 <= x0 or y1 <= y0
            box = (x0 - (not degenerate), y0 - (not degenerate), x1, y1)
            rows.found.append(FoundLabels(picture, name, box, where=f"{file.name} object {at}"))
