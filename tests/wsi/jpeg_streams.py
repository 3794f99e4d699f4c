"""JPEG streams whose markers are rewritten: what they state, and what their samples are, apart from each other."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
MARKERS = {
    "none": b"",
    "JFIF": JFIF,
    **{f"Adobe {n}": b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([n]) for n in range(3)},
}
IDS = {"123": b"\1\2\3", "RGB": b"RGB", "012": b"\0\1\2"}
PHOTOMETRIC = {"RGB": 2, "YCbCr": 6}
_TABLES = (0xDB, 0xC4)


def segments(stream: bytes) -> list[tuple[int, bytes]]:
    """Markers with their whole segments, from after the start of the image to the first scan, which ends the list."""
    found, at = [], 2
    while True:
        marker = stream[at + 1]
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xDA:
            return [*found, (marker, stream[at:])]
        found.append((marker, stream[at:end]))
        at = end


def encoded(pixels: np.ndarray, truth: str, subsampling: str) -> bytes:
    """A stream whose samples are `truth` ('RGB' or 'YCbCr'), whatever its markers say."""
    inside = "YCBCR" if truth == "RGB" else "RGB"  # told that RGB is YCbCr, the encoder stores it as it is
    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(pixels), level=90, colorspace=inside, outcolorspace="YCBCR", subsampling=subsampling
    )


def rewritten(stream: bytes, marker: str, ids: str, abbreviated: bool = False) -> tuple[bytes, bytes | None]:
    """The stream with other markers and component ids, and the tables apart where it is abbreviated."""
    parts, tables = [b"\xff\xd8", MARKERS[marker]], []
    for kind, segment in segments(stream):
        if kind in (0xE0, 0xEE):
            continue
        if kind in (0xC0, 0xC2):
            segment = bytearray(segment)
            segment[10::3] = IDS[ids]
        elif kind == 0xDA:
            segment = bytearray(segment)
            segment[5:11:2] = IDS[ids]
        (tables if abbreviated and kind in _TABLES else parts).append(bytes(segment))
    return b"".join(parts), b"\xff\xd8" + b"".join(tables) + b"\xff\xd9" if abbreviated else None


def write_tiff(
    path: Path,
    tiles: list[bytes],
    *,
    columns: int,
    side: int,
    photometric: int = 2,
    tables: bytes | None = None,
    samples: int = 3,
    compression: int = 7,
    description: str = "tiles",
    size: tuple[int, int] | None = None,
) -> Path:
    """A TIFF of ready tiles, `columns` in a row. `size` is (width, height) where the tiles are not full."""
    height, width = side * (len(tiles) // columns), side * columns
    if size:
        width, height = size
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            iter(tiles),
            shape=(height, width, samples) if samples > 1 else (height, width),
            dtype=np.uint8,
            tile=(side, side),
            photometric="rgb" if samples == 3 else "minisblack",
            compression=compression,
            compressionargs={"outcolorspace": "rgb"} if compression == 7 and samples == 3 else None,
            jpegtables=tables,
            description=description,
            metadata=None,
        )
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages.first.tags[262].overwrite(photometric)
    return path
