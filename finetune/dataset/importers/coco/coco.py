"""COCO detection JSON: `images`, `annotations` with `bbox` [x, y, width, height], `categories` (cocodataset.org).

Where an annotation has no box, its polygons or its run-length mask give one. Crowd annotations (`iscrowd` 1) outline
many objects at once; they are left out, and their images are no exhaustive areas.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.dataset.importers.coco.rle import rle_box
from finetune.dataset.importers.found import FoundLabels, Imported, box_of, ring_of
from finetune.dataset.importers.rows import Rows, file_name, load_json, name_of, number, short, size_of
from finetune.dataset.samples import Box, Ring
from finetune.errors import LabelFileError


def is_coco(document: object) -> bool:
    """Whether a JSON value is COCO."""
    return (
        isinstance(document, Mapping)
        and "images" in document
        and ("annotations" in document or "categories" in document)
    )


def read(path: Path) -> Imported:
    """Read one file; see `imported`."""
    return imported(load_json(path), path)


def imported(content: Any, path: Path) -> Imported:
    """The labels of a COCO document.

    Raises
    ------
    LabelFileError
        Not COCO. An annotation that cannot be read, or points nowhere, is refused by itself.
    """
    tables: dict[str, list[Any]] = {}
    for key in ("images", "annotations", "categories"):
        table = content.get(key) if isinstance(content, Mapping) else None
        if not isinstance(table, list):
            raise LabelFileError(f"{path} is not COCO detection JSON: {key!r} is {short(table)}; export it again")
        tables[key] = table
    rows = Rows()
    pictures: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number_, row in enumerate(tables["images"]):
        with rows.row(f"{path.name} image {number_}"):
            name = file_name(row["file_name"])
            _once(pictures, _key(row["id"]), name, "image")
            sizes[name] = size_of(row.get("width"), row.get("height"))
    names: dict[str, str] = {}
    for number_, row in enumerate(tables["categories"]):
        with rows.row(f"{path.name} category {number_}"):
            _once(names, _key(row["id"]), name_of(row["name"]), "category")
    crowds = 0
    for number_, row in enumerate(tables["annotations"]):
        stated = row.get("id", number_) if isinstance(row, Mapping) else number_
        where = f"{path.name} annotation {short(stated)}"
        picture = pictures.get(_loose_key(row.get("image_id"))) if isinstance(row, Mapping) else None
        # Of a row that names no image any image may lack the label; one that names an unknown image is of none.
        named = picture is not None or not (isinstance(row, Mapping) and _loose_key(row.get("image_id")))
        with rows.row(where, *([picture] if named else [])):
            if not isinstance(row, Mapping):
                raise ValueError(f"{short(row)} is no annotation")
            category = names.get(_loose_key(row.get("category_id")))
            if picture is None or category is None:
                what, key = ("image", "image_id") if picture is None else ("category", "category_id")
                raise ValueError(f"its {what} {short(row.get(key))} is not in the file")
            if row.get("iscrowd"):
                crowds += 1
                rows.incomplete.add(picture)
                continue
            polygons = _polygons(row)
            box = _box(row, polygons, sizes.get(picture, (0, 0)))
            ring = polygons[0] if len(polygons) == 1 else ()
            rows.found.append(FoundLabels(picture, category, box, ring, where))
    notes = [f"{path.name}: {crowds} crowd annotations left out"] if crowds else []
    if None in rows.incomplete:
        rows.incomplete |= set(sizes)
    return Imported(
        "coco",
        tuple(rows.found),
        sizes=sizes,
        whole_pictures=True,
        licence=_licence(content),
        notes=tuple(notes),
        refused=tuple(rows.refused),
        incomplete=frozenset(rows.incomplete),
    )


def _key(value: object) -> str:
    """An id as a word: some exports write numbers as texts in one table and as numbers in the other."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"its id {short(value)} is none")
    return short(value) if isinstance(value, int) else value


def _loose_key(value: object) -> str:
    try:
        return _key(value)
    except ValueError:
        return ""


def _once(table: dict[str, str], key: str, name: str, what: str) -> None:
    if table.get(key, name) != name:
        del table[key]  # nobody knows which of them an annotation means
        raise ValueError(f"two rows have the {what} id {key}")
    table[key] = name


def _box(row: Mapping[str, object], polygons: list[Ring], size: tuple[int, int]) -> Box:
    stated = row.get("bbox")
    if str(row.get("bbox_mode", 1)).upper().removeprefix("BOXMODE.") not in ("1", "XYWH", "XYWH_ABS"):
        raise ValueError(f"its bbox_mode {short(row['bbox_mode'])} is not x, y, width, height")
    if stated is not None and stated != [] and not (stated == [0, 0, 0, 0] and row.get("segmentation")):
        if not isinstance(stated, list) or len(stated) != 4:
            raise ValueError(f"its bbox {short(stated)} is not x, y, width, height")
        x, y, width, height = (number(value, "bbox number") for value in stated)
        return (x, y, x + width, y + height)
    if polygons:
        return box_of([corner for ring in polygons for corner in ring])
    mask = row.get("segmentation")
    if isinstance(mask, Mapping):
        return rle_box(mask, size)
    said = "no bbox" if "bbox" not in row else f"its bbox is {short(stated)}"
    raise ValueError(f"{said}, and no polygon or mask to take it from")


def _polygons(row: Mapping[str, object]) -> list[Ring]:
    """The outlines of an annotation; those of a mask are none."""
    parts = row.get("segmentation")
    if not isinstance(parts, list) or not parts:
        return []
    if not isinstance(parts[0], list):
        parts = [parts]  # one polygon without the list around it
    rings = []
    for flat in parts:
        if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2:
            if row.get("bbox"):
                return []  # the box is there, and says enough
            raise ValueError(f"its polygon {short(flat)} has no corners x, y")
        values = [number(value, "polygon number") for value in flat]
        rings.append(ring_of(list(zip(values[::2], values[1::2], strict=True))))
    return rings


def _licence(content: Mapping[str, object]) -> str:
    listed = content.get("licenses")
    rows = listed if isinstance(listed, list) else []
    named = "; ".join(str(row.get("name", "")) for row in rows if isinstance(row, Mapping))
    info = content.get("info")
    return (named or str(info.get("license", "") if isinstance(info, Mapping) else ""))[:500]
