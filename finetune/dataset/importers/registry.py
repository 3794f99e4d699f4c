"""Which reader understands an annotation file: by its content, not by its name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.dataset.importers import geojson, label_image, labelme, runs, slide_xml, voc, yolo
from finetune.dataset.importers.coco import coco
from finetune.dataset.importers.found import Imported
from finetune.dataset.importers.rows import load_json
from finetune.errors import LabelFileError
from wsi.errors import FrameError
from wsi.regions.geojson import load_unframed

JSON_READERS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Path], Imported]]] = {
    "labelme": (labelme.is_labelme, labelme.imported),
    "coco": (coco.is_coco, coco.imported),
    "geojson": (geojson.is_geojson, geojson.imported),
}
"""What tells a JSON value of each format, and what reads it."""

READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Imported]]] = {
    "run": (runs.reads, runs.read),
    "voc": (voc.reads, voc.read),
    "asap": (slide_xml.reads_asap, slide_xml.read_asap),
    "aperio": (slide_xml.reads_aperio, slide_xml.read_aperio),
    "labelme": (labelme.reads, labelme.read),
    "yolo": (yolo.reads, yolo.read),
    "coco": (lambda path: False, coco.read),
    "geojson": (lambda path: False, geojson.read),
    "label-image": (label_image.reads, label_image.read),
}
"""What tells a file or folder of each format, and what reads it; JSON files are told by `JSON_READERS`."""

_JSON = (".json", ".geojson")
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What a damaged file may raise in a library below a reader."""


def read_labels(path: Path, kind: str | None = None) -> Imported:
    """Read an annotation file or folder.

    Parameters
    ----------
    path : Path
    kind : str, optional
        A key of `READERS`, in place of the choice by content.

    Raises
    ------
    LabelFileError
        Not there, of no known format, of several, or broken. Rows that cannot be read are in `Imported.refused`.
    FrameError
        A GeoJSON records its frame in a way that is not known.
    """
    if not path.exists():
        raise LabelFileError(f"{path} does not exist; check the path of the annotations")
    if kind is not None and kind not in READERS:
        raise LabelFileError(f"format {kind!r} is unknown; known are {', '.join(READERS)}")
    try:
        if kind is not None:
            return READERS[kind][1](path)
        if path.is_file() and _is_json(path):
            return _read_json(path)
        names = _claimed(path)
        if len(names) == 1:
            return READERS[names[0]][1](path)
    except FrameError:
        raise
    except _BROKEN as error:
        raise LabelFileError(f"{path} cannot be read: {error!r:.200}; export it again") from error
    if names:
        raise LabelFileError(
            f"{path} holds labels of {len(names)} formats ({', '.join(names)}); name one with --format"
        )
    raise LabelFileError(
        f"{path} is in no format that is known ({', '.join(READERS)}); export it as QuPath GeoJSON, or name the "
        "format with --format"
    )


def _is_json(path: Path) -> bool:
    name = path.name.lower()
    return name.removesuffix(".gz").endswith(_JSON)


def _read_json(path: Path) -> Imported:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    content = load_unframed(path, LabelFileError) if packed else load_json(path)
    for tells, read in JSON_READERS.values():
        if tells(content):
            return read(content, path)
    if content == [] or path.name.lower().removesuffix(".gz").endswith(".geojson"):
        return geojson.imported(content, path)
    raise LabelFileError(
        f"{path} is in no JSON format that is known ({', '.join(JSON_READERS)}); export it as QuPath GeoJSON"
    )


def _claimed(path: Path) -> list[str]:
    """Formats that a file or folder may be of. Images beside labels of another kind are images, no label maps."""
    names = [name for name, (reads, _) in READERS.items() if reads(path)]
    return [name for name in names if name != "label-image"] or names
