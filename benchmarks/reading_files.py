"""Slides that benchmarks/reading.py reads: written here, each with the same tissue-like texture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

# The tests put together JPEG 2000 streams with smaller chroma, which no encoder at hand writes.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "wsi"))
from jp2k_streams import ycbcr_tile

MPP = 0.25
TILE = 256
JPEG, APERIO_YCBCR, APERIO_RGB = 7, 33003, 33005
Pixels = NDArray[np.uint8]


def texture() -> Pixels:
    """2048 x 2048 px of tissue-like colour, grain and edges."""
    rng = np.random.default_rng(7)
    block = np.zeros((2048, 2048, 3), np.float32)
    for sigma, weight in ((48, 900.0), (12, 300.0), (3, 90.0), (1, 22.0)):
        block += weight * cv2.GaussianBlur(rng.standard_normal(block.shape, np.float32), (0, 0), sigma)
    return np.clip(np.array([200, 140, 185], np.float32) + block, 0, 255).astype(np.uint8)


def _jpeg(part: Pixels) -> bytes:
    return imagecodecs.jpeg8_encode(part, level=80, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")


def _jp2k(part: Pixels) -> bytes:
    return imagecodecs.jpeg2k_encode(part, level=38, codecformat="j2k")


_ENCODERS: dict[int, Callable[[Pixels], bytes]] = {
    JPEG: _jpeg,
    APERIO_YCBCR: lambda part: ycbcr_tile(part, 2, 1, level=43),
    APERIO_RGB: _jp2k,
}


def write_slide(path: Path, side: int, compression: int = JPEG) -> Path:
    """An SVS of `side` px with 256-px tiles, and levels at 1, 4 and 16.

    JPEG has quality 80 and 4:2:0; 33003 stores YCbCr 4:2:2, 33005 RGB, both with about 10 KB in a tile, as JPEG.
    """
    image, encode = texture(), _ENCODERS[compression]
    with tifffile.TiffWriter(path, bigtiff=side > 30000) as tif:
        for level, factor in enumerate((1, 4, 16)):
            size = side // factor
            text = f"Aperio Image Library v12.0.0 \r\n{side}x{side} ({TILE}x{TILE})"
            text += f" -> {size}x{size}" if level else ""
            jpeg = compression == JPEG
            options = {"subsampling": (2, 2)} if jpeg else {}
            codes: dict[tuple[int, int], bytes] = {}
            places = [
                (y * 5 // 4 % 1792, x * 5 // 4 % 1792) for y in range(0, size, TILE) for x in range(0, size, TILE)
            ]
            for y, x in set(places):
                codes[y, x] = encode(np.ascontiguousarray(image[y : y + TILE, x : x + TILE]))
            tif.write(
                (codes[place] for place in places),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr" if jpeg else "rgb",
                compression="jpeg" if jpeg else compression,
                description=f"{text} {'JPEG' if jpeg else 'J2K'}/RGB Q=80|AppMag = 40|MPP = {MPP}",
                metadata=None,
                software=False,
                **options,
            )
    return path


def write_zarr(path: Path, side: int, axes: str) -> Path:
    """An OME-Zarr 0.5 image of one level without an `omero` block: axes 'cyx' (RGB), 'yxc' (RGB) or 'yx' (gray)."""
    image = np.tile(texture(), (side // 2048, side // 2048, 1))
    array = {"cyx": np.moveaxis(image, -1, 0), "yxc": image, "yx": image[..., 1]}[axes]
    chunks = tuple(3 if axis == "c" else 512 for axis in axes)
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.create_array("0", shape=array.shape, chunks=chunks, dtype=np.uint8)[...] = array
    named = [
        {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "micrometer"}
        for axis in axes
    ]
    scale = [1.0 if axis == "c" else MPP for axis in axes]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": named, "datasets": [dataset]}]}
    return path
