"""Writing a scene as a pyramid, strip by strip, with its truth beside it."""

from __future__ import annotations

import functools
import math
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from wsi.cleanup import cleaning_up
from wsi.synthetic.scene import Scene
from wsi.synthetic.writing.pyramid_ngff import write_ngff
from wsi.synthetic.writing.pyramid_tiff import write_tiff
from wsi.synthetic.writing.strips import Progress, Strips
from wsi.synthetic.writing.truth import TruthWriter, write_regions

SlideFormat: TypeAlias = Literal["svs", "tiff", "ome-zarr"]
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

    Only a strip of the slide is in memory at a time. Lower levels are averages of the strips as they pass.
    The file gets its name when it is complete; until then it has a temporary one in the same folder.

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
    with cleaning_up(*(functools.partial(_remove, temporary) for temporary in partial.values())):
        with ExitStack() as stack:
            writer = None
            if geojson is not None and regions is not None:
                stream = stack.enter_context(open(partial[geojson], "w", encoding="ascii"))
                writer = TruthWriter(stream, scene.seed, mpp)
                write_regions(scene, mpp, writer, partial[regions])
            strips = Strips(scene, mpp, (width, height), _strip_height(tile, downsamples), writer, progress)
            if kind == "ome-zarr":
                write_ngff(partial[path], strips, tile, downsamples, ngff_version, path.name)
            else:
                write_tiff(partial[path], strips, tile, quality, downsamples, aperio=kind == "svs")
            if writer is not None:
                writer.close()
        for target, temporary in partial.items():
            _replace(temporary, target)
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


def _check(tile: int, quality: int, downsamples: tuple[int, ...], kind: SlideFormat, width: int, height: int) -> None:
    if tile < 16 or (kind != "ome-zarr" and tile % 16):
        raise ValueError(f"tile={tile}: TIFF tiles need a side that is a multiple of 16")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: JPEG quality runs from 1 to 100")
    rising = all(a < b for a, b in pairwise(downsamples))
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
