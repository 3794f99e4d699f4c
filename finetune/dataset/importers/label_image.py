"""Instance label images: PNG or TIFF maps beside their pictures, and OME-Zarr `labels/` groups (NGFF 0.4, 0.5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.dataset.importers.found import FoundLabels, Imported
from finetune.dataset.importers.rows import ROW_ERRORS, load_json, name_of, short
from finetune.errors import LabelFileError

_SUFFIXES = (".png", ".tif", ".tiff")
# What decoders raise for damaged files: Pillow, tifffile, imagecodecs and zarr have no common error.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    EOFError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def reads(path: Path) -> bool:
    """Whether this is a label map, a folder of them, or an OME-Zarr with labels."""
    if path.is_file():
        return path.suffix.lower() in _SUFFIXES
    return _is_zarr(path) or any(file.suffix.lower() in _SUFFIXES for file in path.iterdir())


def read(path: Path) -> Imported:
    """Read one map, a folder of maps (each for the picture of the same name), or OME-Zarr labels.

    The class is that of `image-label/properties` (`class`, `label` or `name`) where OME-Zarr states one, else
    the name of the label group, else 'object'.

    Raises
    ------
    LabelFileError
        No map that can be read. A broken map of a folder is refused by itself.
    """
    if path.is_dir() and _is_zarr(path):
        return _read_ngff(path)
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
    found: list[FoundLabels] = []
    refused: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    for file in files:
        try:
            labels = _pixels(file)
        except LabelFileError as error:
            if not path.is_dir():
                raise
            refused.append(str(error))
            continue
        sizes[file.stem] = (labels.shape[1], labels.shape[0])
        found += [
            FoundLabels(file.stem, "object", box, where=f"{file.name} instance {value}")
            for value, box in instances(labels)
        ]
    if refused and not sizes:
        raise LabelFileError(f"{path} holds no label map that can be read: {refused[0]}")
    return Imported("label-image", tuple(found), sizes=sizes, whole_pictures=True, refused=tuple(refused))


def instances(labels: NDArray[np.generic]) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Value and box (x_min, y_min, x_max, y_max) of every instance of a map (height, width); 0 is background."""
    from scipy.ndimage import find_objects

    values, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + (0 if values[0] == 0 else 1)
    kept = values[values != 0]
    for value, place in zip(kept.tolist(), find_objects(compact.astype(np.int32)), strict=True):
        rows, columns = place
        yield value, (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))


def _pixels(file: Path) -> NDArray[np.generic]:
    import tifffile

    try:
        if file.suffix.lower() == ".png":
            with Image.open(file) as picture:
                labels = np.asarray(picture)
        else:
            labels = np.asarray(tifffile.imread(file))
    except _BROKEN as error:
        raise LabelFileError(f"{file} cannot be read: {error!r:.200}; export it again") from error
    if labels.ndim != 2 or labels.dtype.kind not in "ui" or 0 in labels.shape:
        raise LabelFileError(
            f"{file}: an instance map has whole numbers in one plane, not {labels.dtype} {labels.shape}; "
            "export one plane of labels"
        )
    return labels


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in (".zattrs", "zarr.json", ".zgroup"))


def _attributes(folder: Path) -> dict[str, Any]:
    for name in (".zattrs", "zarr.json"):
        if (folder / name).is_file():
            content = load_json(folder / name)
            for key in ("attributes", "ome"):
                content = content.get(key, content) if isinstance(content, Mapping) else None
            if not isinstance(content, Mapping):
                raise LabelFileError(f"{folder / name} holds no attributes; export the labels again")
            return dict(content)
    return {}


def _read_ngff(path: Path) -> Imported:
    import zarr

    root = path if path.name == "labels" else path / "labels"
    listed = _attributes(root).get("labels") if root.is_dir() else None
    names = listed or ([p.name for p in sorted(root.iterdir()) if p.is_dir()] if root.is_dir() else [])
    if not isinstance(names, list) or not names:
        raise LabelFileError(f"{path}: its labels group lists no label images")
    strange = [name for name in names if not isinstance(name, str) or not (root / name).is_dir()]
    if strange:
        raise LabelFileError(f"{path}: its labels group lists {short(strange[0])}, which is not there")
    found: list[FoundLabels] = []
    for name in names:
        attributes = _attributes(root / name)
        try:
            level = attributes["multiscales"][0]["datasets"][0]["path"]
            labels = np.asarray(zarr.open_array(str(root / name / level), mode="r"))
        except _BROKEN as error:
            raise LabelFileError(f"{root / name}: no multiscale label image there: {error!r:.200}") from error
        if labels.ndim > 2 and max(labels.shape[:-2]) > 1:
            raise LabelFileError(
                f"{root / name} is a stack of shape {labels.shape}; labels of one plane can be learned from, "
                "so export the plane that was labelled"
            )
        if labels.ndim < 2 or 0 in labels.shape or labels.dtype.kind not in "ui":
            raise LabelFileError(f"{root / name} holds {labels.dtype} {labels.shape} and no plane of labels")
        labels = labels.reshape(labels.shape[-2:])
        stated = _classes(attributes, root / name)
        for value, box in instances(labels):
            found.append(FoundLabels(None, stated.get(value) or name, box, where=f"{name} instance {value}"))
    return Imported("label-image", tuple(found), whole_pictures=True)


def _classes(attributes: Mapping[str, object], where: Path) -> dict[int, str]:
    """Classes by label value."""
    about = attributes.get("image-label")
    listed = about.get("properties") if isinstance(about, Mapping) else None
    found: dict[int, str] = {}
    for row in listed if isinstance(listed, list) else []:
        try:
            value, text = row["label-value"], name_of(row.get("class") or row.get("label") or row.get("name"))
            if isinstance(value, bool) or int(value) != value:
                raise ValueError(f"label-value {short(value)}")
        except ROW_ERRORS as error:
            raise LabelFileError(f"{where}: property {short(row)} cannot be read ({error!r})") from error
        if text and found.setdefault(int(value), text) != text:
            raise LabelFileError(
                f"{where}: label value {int(value)} has the classes {found[int(value)]!r} and {text!r}; keep one"
            )
    return found
