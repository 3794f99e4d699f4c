"""The heatmap of a run: what tiles said, and how dense objects lie, as a picture of the slide."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Request, Task
from workflows.errors import RunNotFoundError
from workflows.store.folder import HEATMAP, PARTIAL
from workflows.store.provenance import Manifest
from workflows.store.rows import StoredAnswer

_CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """Channels over the slide.

    Attributes
    ----------
    channels : tuple of str
    values : float32 array (channels, rows, columns)
        NaN where nothing is known: no tissue, not asked yet, or failed.
    unit : str
        'probability', 'vote', 'per mm2' or 'per Mpx' (million level-0 px).
    cell0 : (width, height)
        One cell in level-0 px.
    """

    channels: tuple[str, ...]
    values: NDArray[np.float32]
    unit: str
    cell0: tuple[int, int]


def tile_channels(request: Request) -> tuple[str, ...]:
    """Names of what every tile has a number for: none for tasks that answer in words or objects."""
    match request.task:
        case Task.SCORE:
            return ("yes",)
        case Task.CLASSIFY:
            return request.labels
        case Task.COUNT:
            return (" + ".join(request.labels) or "objects",)
        case _:
            return ()


def tile_values(found: StoredAnswer, request: Request) -> tuple[float, ...]:
    """One number per channel of `tile_channels`; NaN where the answer does not speak about the whole tile.

    A classify answer without probabilities votes: 1 for the class it chose, 0 for the others.
    """
    answer, channels = found.answer, tile_channels(request)
    if not answer.status.complete:
        return (np.nan,) * len(channels)
    match request.task:
        case Task.COUNT:
            number = answer.value if isinstance(answer.value, (int, float)) else np.nan
            return (float(number),)
        case Task.CLASSIFY if not answer.scores and answer.text in channels:
            return tuple(float(label == answer.text) for label in channels)
        case _:
            return tuple(float(answer.scores.get(channel, np.nan)) for channel in channels)


def per_area(manifest: Manifest) -> tuple[float, str]:
    """Factor from 'per level-0 px' to the unit densities are given in, and that unit."""
    mm2 = manifest.slide.mm2_per_px
    return (1e6, "per Mpx") if mm2 is None else (1.0 / mm2, "per mm2")


def write_heatmap(folder: Path, heatmap: Heatmap, manifest: Manifest) -> Path:
    """Write `heatmap.zarr` (Zarr 3, OME-Zarr 0.5 metadata) into a run folder, replacing the one there.

    Scale and translation are in micrometres where the slide's scale is known, else in level-0 px. The centre
    of level-0 px 0 is the origin, so the centre of cell 0 lies at (cell - 1) / 2 px.
    """
    import zarr

    target, partial = folder / HEATMAP, folder / (HEATMAP + PARTIAL)
    if partial.exists():
        shutil.rmtree(partial)
    group = zarr.create_group(partial, zarr_format=3, attributes=_attributes(heatmap, manifest))
    shape = heatmap.values.shape
    array = group.create_array(
        "0",
        shape=shape,
        chunks=(1, min(_CHUNK, shape[1]), min(_CHUNK, shape[2])),
        dtype="float32",
        fill_value=float("nan"),
        dimension_names=("c", "y", "x"),
    )
    array[:] = heatmap.values
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    return target


def read_heatmap(folder: Path | str) -> Heatmap:
    """Read the heatmap of a run folder. Raises RunNotFoundError where the run has none."""
    import zarr

    path = Path(folder) / HEATMAP
    if not path.is_dir():
        raise RunNotFoundError(f"{path} does not exist: the task of this run has no heatmap, or it did not end yet.")
    group = zarr.open_group(path, mode="r")
    own: Any = group.attrs["qwenvl"]
    values = np.asarray(group["0"][:], np.float32)  # type: ignore[index]
    return Heatmap(tuple(own["channels"]), values, own["unit"], (own["cell0"][0], own["cell0"][1]))


def _attributes(heatmap: Heatmap, manifest: Manifest) -> dict[str, object]:
    slide = manifest.slide
    um_x, um_y = (slide.mpp_x, slide.mpp_y) if slide.mpp_x and slide.mpp_y else (1.0, 1.0)
    unit: Mapping[str, str] = {"unit": "micrometer"} if slide.mpp_x else {}
    width, height = heatmap.cell0
    axes: Sequence[Mapping[str, str]] = (
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", **unit},
        {"name": "x", "type": "space", **unit},
    )
    transformations = [
        {"type": "scale", "scale": [1.0, height * um_y, width * um_x]},
        {"type": "translation", "translation": [0.0, (height - 1) / 2 * um_y, (width - 1) / 2 * um_x]},
    ]
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [
                {
                    "name": slide.name,
                    "axes": list(axes),
                    "datasets": [{"path": "0", "coordinateTransformations": transformations}],
                }
            ],
            "omero": {
                "channels": [
                    {
                        "label": channel,
                        "color": "FF0000",
                        "active": True,
                        "window": heatmap_window(values, heatmap.unit),
                    }
                    for channel, values in zip(heatmap.channels, heatmap.values, strict=True)
                ]
            },
        },
        "qwenvl": {
            "channels": list(heatmap.channels),
            "unit": heatmap.unit,
            "cell0": list(heatmap.cell0),
            "run": str(manifest.run_id),
        },
    }


def heatmap_window(values: NDArray[np.float32], unit: str) -> dict[str, float]:
    """Range of values to show."""
    known = values[np.isfinite(values)]
    top = 1.0 if unit in ("probability", "vote") or not known.size else float(known.max()) or 1.0
    return {"min": 0.0, "max": top, "start": 0.0, "end": top}
