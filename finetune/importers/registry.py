"""Which reader understands an annotation file: by its content, not by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune.errors import LabelFileError
from finetune.importers import coco, geojson, label_image, runs, slide_xml, voc
from finetune.importers.found import Imported

READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Imported]]] = {
    "run": (runs.reads, runs.read),
    "label-image": (label_image.reads, label_image.read),
    "voc": (voc.reads, voc.read),
    "asap": (slide_xml.reads_asap, slide_xml.read_asap),
    "aperio": (slide_xml.reads_aperio, slide_xml.read_aperio),
    "coco": (coco.reads, coco.read),
    "geojson": (geojson.reads, geojson.read),
}


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
        Not there, of no known format, or broken.
    """
    if not path.exists():
        raise LabelFileError(f"{path} does not exist; check the path of the annotations")
    if kind is not None:
        if kind not in READERS:
            raise LabelFileError(f"format {kind!r} is unknown; known are {', '.join(READERS)}")
        return READERS[kind][1](path)
    for reads, read in READERS.values():
        if reads(path):
            return read(path)
    raise LabelFileError(
        f"{path} is in no format that is known ({', '.join(READERS)}); export it as QuPath GeoJSON, or name the "
        "format with --format"
    )
