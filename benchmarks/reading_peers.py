"""The readers that benchmarks/reading.py puts beside each other: each gives uint8 RGB arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

SIDE = 1024
OURS = "napari-qwenvl"
Read = Callable[[int, int], NDArray[np.uint8]]
Opener = Callable[[Path], tuple[Callable[["Task"], Read], Callable[[], None]]]


@dataclass(frozen=True)
class Task:
    """One way to ask.

    Attributes
    ----------
    name : str
        For the table.
    scale : int
        Level-0 px per px of a tile.
    level : int
        The level that serves it, and by which whole number it is then shrunk.
    step : int
        Distance of tiles, in their px.
    offset : int
        Where the grid begins, in level-0 px.
    side : int
        Side of a tile in its px.
    bars : dict of str to float
        How many times faster than each peer this project has to be.
    tolerance : int
        How far px may differ from the first peer's.
    """

    name: str
    scale: int = 1
    level: int = 0
    shrink: int = 1
    step: int = SIDE
    offset: int = 0
    side: int = SIDE
    bars: dict[str, float] = field(default_factory=dict)
    tolerance: int = 0


def _shrink(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return pixels
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def open_ours(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """This project."""
    from wsi import PlaneError, Rendering, open_slide

    try:
        slide = open_slide(path)
    except PlaneError:  # three channels without a word about their colours
        slide = open_slide(path, rendering=Rendering.parse("rgb"))

    def reader(task: Task) -> Read:
        side0 = task.side * task.scale
        return lambda x0, y0: slide.read_scaled(x0, y0, side0, side0, (task.side, task.side))

    return reader, slide.close


def open_openslide(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """OpenSlide, one thread."""
    from openslide import OpenSlide

    slide = OpenSlide(str(path))

    def reader(task: Task) -> Read:
        side = task.side * task.shrink

        def read(x0: int, y0: int) -> NDArray[np.uint8]:
            rgba = np.asarray(slide.read_region((x0, y0), task.level, (side, side)))
            return _shrink(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), task.shrink)

        return read

    return reader, slide.close


def open_cucim(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """cuCIM on the CPU."""
    from cucim import CuImage

    slide = CuImage(str(path))

    def reader(task: Task) -> Read:
        side = SIDE * task.shrink
        return lambda x0, y0: _shrink(np.asarray(slide.read_region((x0, y0), (side, side), task.level)), task.shrink)

    return reader, slide.close


def open_fastslide(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """fastslide; its places are px of the level."""
    from fastslide import FastSlide

    slide = FastSlide.from_file_path(str(path))

    def reader(task: Task) -> Read:
        side, factor = task.side * task.shrink, task.scale // task.shrink
        return lambda x0, y0: _shrink(
            np.ascontiguousarray(
                slide.read_region((x0 // factor, y0 // factor), task.level, (side, side)).numpy()[..., :3]
            ),
            task.shrink,
        )

    return reader, slide.close


def open_pyvips(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """libvips' own TIFF loader, an image and a crop of it for every tile."""
    import pyvips

    pages = {level: pyvips.Image.tiffload(str(path), page=level) for level in (0, 1)}

    def reader(task: Task) -> Read:
        side, factor, page = SIDE * task.shrink, task.scale // task.shrink, pages[task.level]

        def read(x0: int, y0: int) -> NDArray[np.uint8]:
            pixels = page.crop(x0 // factor, y0 // factor, side, side).numpy()
            return _shrink(np.ascontiguousarray(pixels[..., :3]), task.shrink)

        return read

    return reader, lambda: None


def open_pyvips_region(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """libvips' own TIFF loader, one region for all tiles: no pipeline is built for each."""
    import pyvips

    pages = {level: pyvips.Image.tiffload(str(path), page=level) for level in (0, 1)}
    regions = {level: pyvips.Region.new(page) for level, page in pages.items()}

    def reader(task: Task) -> Read:
        side, factor = SIDE * task.shrink, task.scale // task.shrink
        region, bands = regions[task.level], pages[task.level].bands

        def read(x0: int, y0: int) -> NDArray[np.uint8]:
            data = region.fetch(x0 // factor, y0 // factor, side, side)
            pixels = np.frombuffer(data, np.uint8).reshape(side, side, bands)
            return _shrink(np.ascontiguousarray(pixels[..., :3]), task.shrink)

        return read

    return reader, lambda: None


def open_tifffile(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """tifffile's Zarr view."""
    import zarr

    tif = tifffile.TiffFile(path)
    arrays = [zarr.open_array(page.aszarr(), mode="r") for page in tif.pages if page.is_tiled]

    def reader(task: Task) -> Read:
        side, factor = SIDE * task.shrink, task.scale // task.shrink

        def read(x0: int, y0: int) -> NDArray[np.uint8]:
            x, y = x0 // factor, y0 // factor
            return _shrink(np.asarray(arrays[task.level][y : y + side, x : x + side]), task.shrink)

        return read

    return reader, tif.close


def open_zarr(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """Plain zarr: the array itself, made RGB."""
    import zarr

    array = zarr.open_array(str(path / "0"), mode="r")

    def reader(task: Task) -> Read:
        def read(x0: int, y0: int) -> NDArray[np.uint8]:
            rows, columns = slice(y0, y0 + SIDE), slice(x0, x0 + SIDE)
            if array.ndim == 2:
                return np.asarray(cv2.cvtColor(np.asarray(array[rows, columns]), cv2.COLOR_GRAY2RGB), np.uint8)
            if array.shape[-1] == 3:
                return np.asarray(array[rows, columns])
            return np.ascontiguousarray(np.moveaxis(np.asarray(array[:, rows, columns]), 0, -1))

        return read

    return reader, lambda: None


def open_tiatoolbox(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """TIAToolbox's TIFF reader."""
    from reading_files import MPP
    from tiatoolbox.wsicore.wsireader import TIFFWSIReader

    slide = TIFFWSIReader(path)

    def reader(task: Task) -> Read:
        return lambda x0, y0: np.asarray(
            slide.read_rect((x0, y0), (SIDE, SIDE), resolution=MPP * task.scale, units="mpp")
        )

    return reader, lambda: None


SLIDE_READERS: dict[str, Opener] = {
    "OpenSlide": open_openslide,
    OURS: open_ours,
    "cuCIM": open_cucim,
    "fastslide": open_fastslide,
    "pyvips": open_pyvips,
    "pyvips, region": open_pyvips_region,
    "tifffile + zarr": open_tifffile,
    "TIAToolbox, TIFF": open_tiatoolbox,
}
VENDOR_READERS: dict[str, Opener] = {"OpenSlide": open_openslide, OURS: open_ours, "fastslide": open_fastslide}
ZARR_READERS: dict[str, Opener] = {"zarr": open_zarr, OURS: open_ours}
