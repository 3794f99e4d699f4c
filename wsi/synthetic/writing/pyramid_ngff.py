"""Strips into OME-Zarr (https://ngff.openmicroscopy.org), versions 0.4 and 0.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsi.synthetic.writing.strips import Strips, shrink

_NESTED = {"name": "v2", "separator": "/"}
_CHANNELS = (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))


def write_ngff(path: Path, strips: Strips, tile: int, downsamples: tuple[int, ...], version: str, name: str) -> None:
    """Write a multiscale image with axes c, y, x; a level is an average of whole blocks of the first."""
    width, height = strips.size
    shapes = [(width // d, height // d) for d in downsamples]
    modern = version == "0.5"
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if modern else 2)
    arrays = [
        group.create_array(
            str(k),
            shape=(3, h, w),
            chunks=(3, tile, tile),
            dtype="uint8",
            fill_value=255,
            **({"dimension_names": ("c", "y", "x")} if modern else {"chunk_key_encoding": _NESTED}),
        )
        for k, (w, h) in enumerate(shapes)
    ]
    image: dict[str, object] = {
        "name": name.split(".")[0],
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": [
            {
                "path": str(k),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, strips.mpp * d, strips.mpp * d]},
                    {"type": "translation", "translation": [0.0, *[strips.mpp * (d - 1) / 2] * 2]},
                ],
            }
            for k, d in enumerate(downsamples)
        ],
        "type": "mean",
    }
    omero = {"channels": [_channel(label, color) for label, color in _CHANNELS], "rdefs": {"model": "color"}}
    head: dict[str, Any]
    if modern:
        head = {"ome": {"version": "0.5", "multiscales": [image], "omero": omero}}
    else:
        head = {"multiscales": [{"version": "0.4", **image}], "omero": {**omero, "version": "0.4"}}
    group.attrs.update(head)
    held = [np.empty((0, w, 3), np.uint8) for w, _ in shapes]
    row = [0] * len(shapes)
    done = 0
    for strip in strips:
        done += len(strip)
        for k, d in enumerate(downsamples):
            held[k] = np.concatenate([held[k], shrink(strip, d, shapes[k][0])])
            # Whole chunk rows only, so that no chunk is written twice
            ready = len(held[k]) if done == height else len(held[k]) // tile * tile
            if ready:
                arrays[k][:, row[k] : row[k] + ready] = np.moveaxis(held[k][:ready], -1, 0)
                row[k] += ready
                held[k] = held[k][ready:].copy()


def _channel(label: str, color: str) -> dict[str, object]:
    return {"label": label, "color": color, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
