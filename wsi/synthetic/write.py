"""Writing a scene as a pyramid, strip by strip, with its truth beside it."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import imagecodecs
import numpy as np
import tifffile
import zarr

from wsi.synthetic.nuclei import Nuclei
from wsi.synthetic.scene import BLOCK_PX, Scene
from wsi.synthetic.stain import RgbImage
from wsi.synthetic.tissue import Window
from wsi.synthetic.truth import TruthWriter, write_regions

SlideFormat: TypeAlias = Literal["svs", "tiff", "ome-zarr"]
Progress: TypeAlias = Callable[[int, int], None]
_STRIP_PX = 1024  # rows in memory, unless tiles and levels need more


@dataclass(frozen=True)
class WrittenSlide:
    """What `write_slide` left on disk.

    Attributes
    ----------
    path : Path
        The slide.
    size_px : tuple of int
        Width and height at level 0.
    truth, regions : Path or None
        GeoJSON and region map, when they were asked for.
    nuclei : int
        Number of nuclei planted.
    """

    path: Path
    size_px: tuple[int, int]
    truth: Path | None
    regions: Path | None
    nuclei: int


def write_slide(
    path: str | Path,
    scene: Scene,
    *,
    mpp: float = 0.25,
    tile: int = 256,
    quality: int = 80,
    downsamples: tuple[int, ...] = (1, 4, 16),
    truth: bool = True,
    format: SlideFormat | None = None,
    ngff_version: Literal["0.4", "0.5"] = "0.5",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WrittenSlide:
    """Write a scene as a pyramidal slide.

    Only a strip of the slide is in memory at a time. Lower levels are averages of the strips as they pass. The
    file gets its name when it is complete; until then it has a temporary one in the same folder.

    Parameters
    ----------
    path : path
    scene : Scene
    mpp : float
        um per px of level 0.
    tile : int
        Tile side in px, a multiple of 16 for the TIFF formats; chunk side of OME-Zarr.
    quality : int
        JPEG quality 1..100 (4:2:0), TIFF formats only.
    downsamples : tuple of int
        Level scales, rising, the first 1.
    truth : bool
        Write `<stem>.truth.geojson` and `<stem>.regions.png` too.
    format : 'svs', 'tiff' or 'ome-zarr', optional
        'svs' carries an Aperio description, 'tiff' is a generic tiled pyramid. By suffix when left out.
    ngff_version : '0.4' or '0.5'
        Version of OME-Zarr (Zarr 2 or 3).
    overwrite : bool
        Replace what is there. Without it an existing file is never touched.
    progress : callable, optional
        Called with rows done and rows in all.

    Raises
    ------
    FileExistsError
        If the slide or a truth file exists and `overwrite` is off.
    ValueError
        If tile, quality or downsamples cannot be used.
    """
    path = Path(path)
    kind = format or _format_of(path)
    width, height = round(scene.width_um / mpp), round(scene.height_um / mpp)
    _check(tile, quality, downsamples, kind, width, height)
    stem = path.name.removesuffix(".zarr").rsplit(".", 1)[0] if "." in path.name else path.name
    geojson = path.with_name(f"{stem}.truth.geojson") if truth else None
    regions = path.with_name(f"{stem}.regions.png") if truth else None
    targets = [p for p in (path, geojson, regions) if p is not None]
    for target in targets:
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists; pass overwrite=True to replace it, or choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{uuid.uuid4().hex[:8]}.partial"
    partial = {p: p.with_name(p.name + mark) for p in targets}
    try:
        with ExitStack() as stack:
            writer = None
            if geojson is not None and regions is not None:
                stream = stack.enter_context(open(partial[geojson], "w", encoding="ascii"))
                writer = TruthWriter(stream, scene.seed, mpp)
                write_regions(scene, mpp, writer, partial[regions])
            strips = _Strips(scene, mpp, (width, height), _strip_height(tile, downsamples), writer, progress)
            if kind == "ome-zarr":
                _write_ngff(partial[path], strips, tile, downsamples, ngff_version, path.name)
            else:
                _write_tiff(partial[path], strips, tile, quality, downsamples, kind)
            if writer is not None:
                writer.close()
        for target, temporary in partial.items():
            _replace(temporary, target)
    finally:
        for temporary in partial.values():
            _remove(temporary)
    return WrittenSlide(path, (width, height), geojson, regions, strips.planted)


def _format_of(path: Path) -> SlideFormat:
    suffix = path.suffix.lower()
    if suffix == ".svs":
        return "svs"
    if suffix in (".tif", ".tiff"):
        return "tiff"
    if suffix == ".zarr":
        return "ome-zarr"
    raise ValueError(f"cannot tell the format of {path.name!r}: name it .svs, .tif or .zarr, or pass format=")


def _check(
    tile: int, quality: int, downsamples: tuple[int, ...], kind: SlideFormat, width: int, height: int
) -> None:
    if tile < 16 or (kind != "ome-zarr" and tile % 16):
        raise ValueError(f"tile={tile}: TIFF tiles need a side that is a multiple of 16")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: JPEG quality runs from 1 to 100")
    rising = all(a < b for a, b in zip(downsamples, downsamples[1:], strict=False))
    if not downsamples or downsamples[0] != 1 or not rising:
        raise ValueError(f"downsamples={downsamples}: they start with 1 and rise")
    if _strip_height(tile, downsamples) > 8 * _STRIP_PX:
        raise ValueError(f"downsamples={downsamples} and tile={tile} have no small common multiple")
    if min(width, height) < downsamples[-1]:
        raise ValueError(f"a slide of {width}x{height} px has no level at 1/{downsamples[-1]}")


def _strip_height(tile: int, downsamples: tuple[int, ...]) -> int:
    unit = math.lcm(tile, *downsamples)
    return unit * max(1, _STRIP_PX // unit)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    temporary.replace(target)


class _Strips:
    """Full-width strips of level 0 from top to bottom; nuclei go to the truth as they are drawn."""

    def __init__(
        self,
        scene: Scene,
        mpp: float,
        size: tuple[int, int],
        rows: int,
        writer: TruthWriter | None,
        progress: Progress | None,
    ) -> None:
        self.mpp, self.size, self.rows, self.planted = mpp, size, rows, 0
        self._scene, self._writer, self._progress = scene, writer, progress

    def __iter__(self) -> Iterator[RgbImage]:
        width, height = self.size
        for top in range(0, height, self.rows):
            rows = min(self.rows, height - top)
            strip = np.empty((rows, width, 3), np.uint8)
            for y in range(0, rows, BLOCK_PX):
                for x in range(0, width, BLOCK_PX):
                    window = Window(x, top + y, min(BLOCK_PX, width - x), min(BLOCK_PX, rows - y), self.mpp)
                    image, nuclei = self._scene.render_block(window)
                    strip[y : y + window.height, x : x + window.width] = image
                    self._record(nuclei)
            if self._progress is not None:
                self._progress(top + rows, height)
            yield strip

    def _record(self, nuclei: Nuclei) -> None:
        self.planted += len(nuclei)
        if self._writer is not None:
            self._writer.nuclei(nuclei)


def _shrink(strip: RgbImage, factor: int, columns: int) -> RgbImage:
    """Area average by a whole factor; rows and columns that fill no whole pixel are left out."""
    rows = strip.shape[0] // factor
    if factor == 1 or rows == 0:
        return strip[:rows]
    part = strip[: rows * factor, : columns * factor]
    return np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


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
            np.ascontiguousarray(part),
            level=self._quality,
            colorspace="RGB",
            outcolorspace="YCBCR",
            subsampling="420",
        )
        return bytes(code)


def _description(kind: SlideFormat, size: tuple[int, int], level: int, shape: tuple[int, int], opts: Any) -> str:
    """Image description; the Aperio form is what OpenSlide's and Bio-Formats' SVS readers look for."""
    tile, quality, mpp = opts
    (width, height), (w, h) = size, shape
    if kind != "svs":
        return f"Synthetic H&E, mpp = {mpp:.6f}"
    frame = f"{width}x{height} [0,0 {width}x{height}] ({tile}x{tile})"
    if level:
        frame += f" -> {w}x{h}"
    power = 10.0 / mpp
    fields = f"|AppMag = {power:g}|MPP = {mpp:.4f}|Title = Synthetic H&E|ScanScope ID = SYNTHETIC"
    return f"Aperio Image Library v12.0.0 \r\n{frame} JPEG/RGB Q={quality}{fields}"


def _write_tiff(
    path: Path, strips: _Strips, tile: int, quality: int, downsamples: tuple[int, ...], kind: SlideFormat
) -> None:
    width, height = strips.size
    shapes = [(width // d, height // d) for d in downsamples]
    levels = [_TileRows(w, tile, quality) for w, _ in shapes]
    later: list[list[bytes]] = [[] for _ in downsamples]  # compressed tiles of the lower levels

    def level_zero() -> Iterator[bytes]:
        done = 0
        for strip in strips:
            done += len(strip)
            for k in range(1, len(levels)):
                later[k].extend(levels[k].push(_shrink(strip, downsamples[k], shapes[k][0]), done == height))
            yield from levels[0].push(strip, done == height)

    # More than 4 GB of tiles does not fit classic TIFF offsets; 1 byte per pixel is far above what they take.
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
                description=_description(kind, strips.size, k, (w, h), (tile, quality, strips.mpp)),
                metadata=None,
                subfiletype=0 if kind == "svs" or k == 0 else 1,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                software=False,
            )
            later[k].clear()


def _write_ngff(
    path: Path, strips: _Strips, tile: int, downsamples: tuple[int, ...], version: str, name: str
) -> None:
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
    image: dict[str, Any] = {
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
    if modern:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image], "omero": omero}
    else:
        group.attrs.update({"multiscales": [{"version": "0.4", **image}], "omero": {**omero, "version": "0.4"}})
    held = [np.empty((0, w, 3), np.uint8) for w, _ in shapes]
    row = [0] * len(shapes)
    done = 0
    for strip in strips:
        done += len(strip)
        for k, d in enumerate(downsamples):
            held[k] = np.concatenate([held[k], _shrink(strip, d, shapes[k][0])])
            # Whole chunk rows only, so that no chunk is written twice
            ready = len(held[k]) if done == height else len(held[k]) // tile * tile
            if ready:
                arrays[k][:, row[k] : row[k] + ready] = np.moveaxis(held[k][:ready], -1, 0)
                row[k] += ready
                held[k] = held[k][ready:].copy()


_NESTED = {"name": "v2", "separator": "/"}
_CHANNELS = (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))


def _channel(label: str, color: str) -> dict[str, Any]:
    return {"label": label, "color": color, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
