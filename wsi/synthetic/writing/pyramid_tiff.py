"""Strips into a tiled JPEG pyramid in one TIFF file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from wsi.synthetic.tissue.stain import RgbImage
from wsi.synthetic.writing.strips import Strips, shrink


class _TileRows:
    """Collects rows of one level and gives out encoded tiles as soon as a row of tiles is full."""

    def __init__(self, width: int, tile: int, quality: int) -> None:
        self._width, self._tile, self._quality = width, tile, quality
        self._rows = np.empty((0, width, 3), np.uint8)

    def push(self, rows: RgbImage, last: bool) -> Iterator[bytes]:
        self._rows = np.concatenate([self._rows, rows]) if len(self._rows) else rows
        tile = self._tile
        while len(self._rows) >= tile or (last and len(self._rows)):
            band, self._rows = self._rows[:tile], self._rows[tile:]
            for x in range(0, self._width, tile):
                yield self._encode(band[:, x : x + tile])
        self._rows = self._rows.copy()  # so that the strip itself can go

    def _encode(self, part: RgbImage) -> bytes:
        h, w = part.shape[:2]
        if h < self._tile or w < self._tile:
            part = np.pad(part, ((0, self._tile - h), (0, self._tile - w), (0, 0)), mode="edge")
        code = imagecodecs.jpeg8_encode(
            np.ascontiguousarray(part), level=self._quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
        )
        return bytes(code)


def _aperio(size: tuple[int, int], shape: tuple[int, int], tile: int, quality: int, mpp: float, level: int) -> str:
    """Image description in the form that OpenSlide's and Bio-Formats' SVS readers look for."""
    (width, height), (w, h) = size, shape
    frame = f"{width}x{height} [0,0 {width}x{height}] ({tile}x{tile})"
    if level:
        frame += f" -> {w}x{h}"
    fields = f"|AppMag = {10.0 / mpp:g}|MPP = {mpp:.4f}|Title = Synthetic H&E|ScanScope ID = SYNTHETIC"
    return f"Aperio Image Library v12.0.0 \r\n{frame} JPEG/RGB Q={quality}{fields}"


def write_tiff(
    path: Path, strips: Strips, tile: int, quality: int, downsamples: tuple[int, ...], *, aperio: bool
) -> None:
    """Write a pyramid whose levels follow each other as pages, the largest first.

    Tiles are whole JPEG streams (YCbCr, 4:2:0). With `aperio` the pages carry an Aperio description,
    otherwise lower levels are marked as reduced images.
    """
    width, height = strips.size
    shapes = [(width // d, height // d) for d in downsamples]
    levels = [_TileRows(w, tile, quality) for w, _ in shapes]
    later: list[list[bytes]] = [[] for _ in downsamples]  # compressed tiles of the lower levels

    def level_zero() -> Iterator[bytes]:
        done = 0
        for strip in strips:
            done += len(strip)
            for k in range(1, len(levels)):
                later[k].extend(levels[k].push(shrink(strip, downsamples[k], shapes[k][0]), done == height))
            yield from levels[0].push(strip, done == height)

    # Classic TIFF offsets end at 4 GB; a byte per pixel is far above what the tiles take.
    with tifffile.TiffWriter(path, bigtiff=width * height > 3_000_000_000) as tif:
        for k, (w, h) in enumerate(shapes):
            mpp = strips.mpp * width / w
            tif.write(
                level_zero() if k == 0 else iter(later[k]),
                shape=(h, w, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                description=(
                    _aperio(strips.size, (w, h), tile, quality, strips.mpp, k)
                    if aperio
                    else f"Synthetic H&E, mpp = {mpp:.6f}"
                ),
                metadata=None,
                subfiletype=0 if aperio or k == 0 else 1,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                software=False,
            )
            later[k].clear()
