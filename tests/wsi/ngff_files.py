"""OME-Zarr files whose metadata is written as it is given, right or wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

KINDS = {"t": "time", "c": "channel"}


def ramp(width: int, height: int, dtype: str = "u1") -> np.ndarray:
    """(height, width) with 10 y + x, in 8 bits, so that every px tells its place."""
    y, x = np.mgrid[:height, :width]
    return ((10 * y + x) % 251).astype(dtype)


def axes_of(letters: str, unit: str | None = "micrometer") -> list[dict[str, Any]]:
    """Axes as NGFF 0.4 describes them."""
    return [
        {"name": a, "type": KINDS.get(a, "space"), **({"unit": unit} if unit and a in "zyx" else {})} for a in letters
    ]


def scale(*values: Any) -> list[dict[str, Any]]:
    """A list with one scale transformation."""
    return [{"type": "scale", "scale": list(values)}]


def image_of(axes: str, scales: list[Any], **more: Any) -> dict[str, Any]:
    """A multiscales entry with datasets '0', '1', ...; a scale of None is left out."""
    datasets = [
        {"path": str(n), **({} if each is None else {"coordinateTransformations": scale(*each)})}
        for n, each in enumerate(scales)
    ]
    return {"axes": axes_of(axes), "datasets": datasets, "name": "made", **more}


def write_arrays(group: zarr.Group, arrays: dict[str, np.ndarray], **options: Any) -> None:
    """Arrays by their path below a group."""
    for name, values in arrays.items():
        given = {"chunks": tuple(min(16, n) for n in values.shape), **options}
        group.create_array(name, shape=values.shape, dtype=values.dtype, **given)[...] = values


def write_zarr(
    path: Path, arrays: dict[str, np.ndarray], ome: dict[str, Any], *, modern: bool = True, **options: Any
) -> Path:
    """A group with arrays and with OME metadata: below 'ome' (0.5), or as the attributes (0.4)."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if modern else 2)
    write_arrays(group, arrays, **options)
    write_metadata(path, ome, modern)
    return path


def write_metadata(path: Path, ome: Any, modern: bool) -> None:
    """Metadata as it is, NaN included."""
    if modern:
        text = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        (path / "zarr.json").write_text(json.dumps(text))
    else:
        (path / ".zattrs").write_text(json.dumps(ome))


def write_image(
    path: Path, values: np.ndarray, axes: str = "yx", *, modern: bool = True, name: str = "made", **options: Any
) -> Path:
    """An image of one level at 0.5 um per px."""
    steps = [0.5 if axis in "yx" else 1.0 for axis in axes]
    image = image_of(axes, [steps], name=name)
    version = {"version": "0.5"} if modern else {}
    if not modern:
        image["version"] = "0.4"
    return write_zarr(path, {"0": values}, {**version, "multiscales": [image]}, modern=modern, **options)
