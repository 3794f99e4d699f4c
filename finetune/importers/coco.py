"""COCO detection JSON: `images`, `annotations` with `bbox` [x, y, width, height], `categories` (cocodataset.org).

Crowd annotations (`iscrowd` 1) outline many objects at once; they are left out, and their box is no exhaustive area.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import LabelFileError
from finetune.importers.found import Found, Imported, ring_of
from finetune.samples import Ring


def reads(path: Path) -> bool:
    """Whether the file is COCO."""
    if path.suffix.lower() != ".json":
        return False
    with path.open("rb") as stream:
        head = stream.read(2_000_000)
    return b'"images"' in head and (b'"annotations"' in head or b'"categories"' in head)


def read(path: Path) -> Imported:
    """Read one file.

    Raises
    ------
    LabelFileError
        Not COCO, or an annotation points nowhere.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures = {row["id"]: row for row in content["images"]}
        names = {row["id"]: str(row["name"]).strip() for row in content["categories"]}
        rows = content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise LabelFileError(f"{path} is not COCO detection JSON: {error!r} is missing or wrong") from error
    found, crowds = [], 0
    for number, row in enumerate(rows):
        where = f"{path.name} annotation {row.get('id', number)}"
        if row.get("image_id") not in pictures or row.get("category_id") not in names:
            raise LabelFileError(f"{where}: its image or category is not in the file; export it again")
        if row.get("iscrowd"):
            crowds += 1
            continue
        x, y, width, height = (float(value) for value in row["bbox"])
        picture = str(pictures[row["image_id"]]["file_name"])
        found.append(
            Found(picture, names[row["category_id"]], (x, y, x + width, y + height), _outline(row), where)
        )
    sizes = {
        str(row["file_name"]): (int(row["width"]), int(row["height"]))
        for row in pictures.values()
        if row.get("width") and row.get("height")
    }
    for row in pictures.values():
        sizes.setdefault(str(row["file_name"]), (0, 0))
    licence = "; ".join(str(row.get("name", "")) for row in content.get("licenses", [])) or str(
        (content.get("info") or {}).get("license", "") if isinstance(content.get("info"), dict) else ""
    )
    notes = (f"{path.name}: {crowds} crowd annotations left out",) if crowds else ()
    return Imported("coco", tuple(found), sizes=sizes, whole_pictures=True, licence=licence, notes=notes)


def _outline(row: Mapping[str, Any]) -> Ring:
    """The outline, where it is a single polygon; run-length masks and several parts leave the box."""
    parts = row.get("segmentation")
    if isinstance(parts, list) and len(parts) == 1 and len(parts[0]) >= 6:
        flat = parts[0]
        return ring_of([(flat[i], flat[i + 1]) for i in range(0, len(flat) - 1, 2)])
    return ()
