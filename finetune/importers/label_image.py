"""Instance label images: PNG or TIFF maps beside their pictures, and OME-Zarr `labels/` groups (NGFF 0.4, 0.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import LabelFileError
from finetune.importers.found import Found, Imported

_SUFFIXES = (".png", ".tif", ".tiff")


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
    """
    if path.is_dir() and _is_zarr(path):
        return _read_ngff(path)
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
    found: list[Found] = []
    sizes: dict[str, tuple[int, int]] = {}
    for file in files:
        labels = _pixels(file)
        sizes[file.stem] = (labels.shape[1], labels.shape[0])
        found += [
            Found(file.stem, "object", box, where=f"{file.name} instance {value}")
            for value, box in instances(labels)
        ]
    return Imported("label-image", tuple(found), sizes=sizes, whole_pictures=True)


def instances(labels: NDArray[Any]) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Value and box (x_min, y_min, x_max, y_max) of every instance of a map (height, width); 0 is background."""
    from scipy.ndimage import find_objects

    values, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + (0 if values[0] == 0 else 1)
    kept = values[values != 0]
    for value, place in zip(kept.tolist(), find_objects(compact.astype(np.int32)), strict=True):
        rows, columns = place
        yield value, (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))


def _pixels(file: Path) -> NDArray[Any]:
    import tifffile
    from PIL import Image

    if file.suffix.lower() == ".png":
        with Image.open(file) as picture:
            labels = np.asarray(picture)
    else:
        labels = tifffile.imread(file)
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
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
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            content = content.get("attributes", content)
            merged: dict[str, Any] = content.get("ome", content)
            return merged
    return {}


def _read_ngff(path: Path) -> Imported:
    import zarr

    root = path if path.name == "labels" else path / "labels"
    listed = _attributes(root).get("labels") if root.is_dir() else None
    names = listed or ([p.name for p in sorted(root.iterdir()) if p.is_dir()] if root.is_dir() else [])
    if not names:
        raise LabelFileError(f"{path}: its labels group lists no label images")
    found: list[Found] = []
    for name in names:
        attributes = _attributes(root / name)
        try:
            level = attributes["multiscales"][0]["datasets"][0]["path"]
            array = zarr.open_array(str(root / name / level), mode="r")
        except (KeyError, IndexError, ValueError, FileNotFoundError) as error:
            raise LabelFileError(f"{root / name}: no multiscale label image there: {error}") from error
        labels = np.asarray(array)
        if labels.ndim > 2 and max(labels.shape[:-2]) > 1:
            raise LabelFileError(
                f"{root / name} is a stack of shape {labels.shape}; labels of one plane can be learned from, "
                "so export the plane that was labelled"
            )
        labels = labels.reshape(labels.shape[-2:])
        stated = {
            int(row["label-value"]): str(row.get("class") or row.get("label") or row.get("name") or "")
            for row in (attributes.get("image-label") or {}).get("properties", [])
        }
        for value, box in instances(labels):
            found.append(Found(None, stated.get(value) or str(name), box, where=f"{name} instance {value}"))
    return Imported("label-image", tuple(found), whole_pictures=True)
