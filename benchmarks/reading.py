"""Reading 1024-px tiles from a tiled-JPEG slide: this project beside the readers others use.

    python benchmarks/reading.py [--fast] [--slide SLIDE]

Writes a synthetic Aperio-style SVS (256-px JPEG tiles, quality 80, 4:2:0, levels 1/4/16) or takes the slide
given, checks that every reader returns the same pixels, then reads the same tiles with each of them in
interleaved rounds, one thread, warm page cache, a freshly opened slide per round. Ratios are medians of
per-round ratios. Exits with 1 where this project, as geometric mean of the four tasks, is below 5x OpenSlide or
1x cuCIM's CPU reader, or where pixels differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

SIDE = 1024
MPP = 0.25
BARS = {"OpenSlide": 5.0, "cuCIM": 1.0}
OURS = "napari-qwenvl"
Read = Callable[[int, int], NDArray[np.uint8]]
Opener = Callable[[Path], tuple[Callable[["Task"], Read], Callable[[], None]]]


@dataclass(frozen=True)
class Task:
    """One way to ask: level-0 px per tile px, the level that serves it, and the grid's step in px."""

    name: str
    scale: int
    level: int
    shrink: int
    step: int = SIDE


TASKS = (
    Task("level 0", 1, 0, 1),
    Task("level 0, 1/8 overlap", 1, 0, 1, SIDE * 7 // 8),
    Task("x2 (2048 px of level 0)", 2, 0, 2),
    Task("x4 (level 1)", 4, 1, 1),
)


@dataclass
class Timing:
    """Wall and CPU seconds per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def write_slide(path: Path, side: int) -> None:
    """A tiled-JPEG SVS of `side` px with tissue-like colour, grain and edges."""
    rng = np.random.default_rng(7)
    block = np.zeros((2048, 2048, 3), np.float32)
    for sigma, weight in ((48, 900.0), (12, 300.0), (3, 90.0), (1, 22.0)):
        block += weight * cv2.GaussianBlur(rng.standard_normal(block.shape, np.float32), (0, 0), sigma)
    picture = np.clip(np.array([200, 140, 185], np.float32) + block, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=side > 30000) as tif:
        for level, factor in enumerate((1, 4, 16)):
            size = side // factor
            text = f"Aperio Image Library v12.0.0 \r\n{side}x{side} (256x256)"
            text += f" -> {size}x{size}" if level else ""
            tif.write(
                _tiles(picture, size),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(256, 256),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                description=f"{text} JPEG/RGB Q=80|AppMag = 40|MPP = {MPP}",
                metadata=None,
                software=False,
            )


def _tiles(picture: NDArray[np.uint8], size: int) -> Iterator[bytes]:
    codes: dict[tuple[int, int], bytes] = {}
    for y in range(0, size, 256):
        for x in range(0, size, 256):
            at = (y * 5 // 4 % 1792, x * 5 // 4 % 1792)
            if at not in codes:
                part = np.ascontiguousarray(picture[at[0] : at[0] + 256, at[1] : at[1] + 256])
                codes[at] = imagecodecs.jpeg8_encode(
                    part, level=80, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
                )
            yield codes[at]


def _shrink(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return pixels
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def open_ours(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """This project."""
    from wsi import open_slide

    slide = open_slide(path)

    def reader(task: Task) -> Read:
        side0 = SIDE * task.scale
        return lambda x0, y0: slide.read_scaled(x0, y0, side0, side0, (SIDE, SIDE))

    return reader, slide.close


def open_openslide(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """OpenSlide, one thread."""
    from openslide import OpenSlide

    slide = OpenSlide(str(path))

    def reader(task: Task) -> Read:
        side = SIDE * task.shrink

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
        return lambda x0, y0: _shrink(
            np.asarray(slide.read_region((x0, y0), (side, side), task.level)), task.shrink
        )

    return reader, slide.close


def open_tifffile(path: Path) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    """tifffile's Zarr view."""
    import zarr

    tif = tifffile.TiffFile(path)
    pages = [page for page in tif.pages if page.is_tiled]
    arrays = [zarr.open_array(page.aszarr(), mode="r") for page in pages]

    def reader(task: Task) -> Read:
        side, factor = SIDE * task.shrink, task.scale // task.shrink

        def read(x0: int, y0: int) -> NDArray[np.uint8]:
            x, y = x0 // factor, y0 // factor
            return _shrink(np.asarray(arrays[task.level][y : y + side, x : x + side]), task.shrink)

        return read

    return reader, tif.close


def _open_tiatoolbox(path: Path, kind: str) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    from tiatoolbox.wsicore import wsireader

    slide = getattr(wsireader, kind)(path)

    def reader(task: Task) -> Read:
        return lambda x0, y0: np.asarray(
            slide.read_rect((x0, y0), (SIDE, SIDE), resolution=MPP * task.scale, units="mpp")
        )

    return reader, lambda: None


def _open_wsidata(path: Path, backend: str) -> tuple[Callable[[Task], Read], Callable[[], None]]:
    from wsidata import open_wsi

    slide = open_wsi(str(path), store=None, reader=backend)

    def reader(task: Task) -> Read:
        side = SIDE * task.shrink
        return lambda x0, y0: _shrink(
            np.ascontiguousarray(
                np.asarray(slide.read_region(x0, y0, side, side, level=task.level))[..., :3]
            ),
            task.shrink,
        )

    return reader, lambda: None


READERS: dict[str, Opener] = {
    OURS: open_ours,
    "OpenSlide": open_openslide,
    "cuCIM": open_cucim,
    "tifffile + zarr": open_tifffile,
    "TIAToolbox, OpenSlide": lambda path: _open_tiatoolbox(path, "OpenSlideWSIReader"),
    "TIAToolbox, TIFF": lambda path: _open_tiatoolbox(path, "TIFFWSIReader"),
    "wsidata, openslide": lambda path: _open_wsidata(path, "openslide"),
    "wsidata, tiffslide": lambda path: _open_wsidata(path, "tiffslide"),
}


def available(path: Path) -> dict[str, Opener]:
    """The readers that import and open the slide; the reason is printed for the others."""
    found = {}
    for name, opener in READERS.items():
        try:
            _, close = opener(path)
            close()
        except Exception as error:  # a peer may fail in any way
            print(
                f"skipped {name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            continue
        found[name] = opener
    return found


def places(task: Task, size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Level-0 corners of `count` tiles of the task's grid, row by row, in the middle of the slide."""
    width, height = size
    step, side = task.step * task.scale, SIDE * task.scale
    grid = [(x, y) for y in range(0, height - side + 1, step) for x in range(0, width - side + 1, step)]
    start = max(0, (len(grid) - count) // 2)
    return grid[start : start + count]


def same_pixels(openers: dict[str, Opener], path: Path, task: Task, where: tuple[int, int]) -> dict[str, int]:
    """Largest difference of each reader from OpenSlide on one tile."""
    tiles = {}
    for name, opener in openers.items():
        reader, close = opener(path)
        tiles[name] = reader(task)(*where).astype(np.int16)
        close()
    return {name: int(np.abs(tile - tiles["OpenSlide"]).max()) for name, tile in tiles.items()}


def measure(
    openers: dict[str, Opener], path: Path, task: Task, corners: list[tuple[int, int]], rounds: int
) -> dict[str, Timing]:
    """Interleaved rounds; the first is a warm-up and is not counted."""
    timings = {name: Timing() for name in openers}
    names = list(openers)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            reader, close = openers[name](path)
            read = reader(task)
            wall, cpu = time.perf_counter(), time.process_time()
            for x0, y0 in corners:
                read(x0, y0)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            close()
            if number:
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
    return timings


def report(
    task: Task, tiles: int, timings: dict[str, Timing], differences: dict[str, int]
) -> dict[str, float]:
    """Print the task's rows; returns how much faster than each reader this project is."""
    ratios = {}
    ours = timings[OURS].wall
    for name, timing in timings.items():
        to_openslide = statistics.median(
            o / t for o, t in zip(timings["OpenSlide"].wall, timing.wall, strict=True)
        )
        faster = statistics.median(t / o for o, t in zip(ours, timing.wall, strict=True))
        rate = tiles / statistics.median(timing.wall)
        cpu = 1e3 * statistics.median(timing.cpu) / tiles
        print(
            f"{task.name:<24} {name:<23} {rate:8.1f} {cpu:9.2f} {to_openslide:10.2f} {faster:10.2f} "
            f"{differences[name]:9d}"
        )
        ratios[name] = faster
    return ratios


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="12288 px and fewer rounds, under five minutes")
    parser.add_argument(
        "--slide", type=Path, help="a tiled-JPEG SVS of 0.25 um/px with levels 1/4/16 to read instead"
    )
    parser.add_argument("--rounds", type=int, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    cv2.setNumThreads(1)
    rounds = options.rounds or (9 if options.fast else 11)
    side = 12288 if options.fast else 16384
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or Path(folder) / "synthetic.svs"
        if options.slide is None:
            write_slide(path, side)
        from wsi import open_slide

        with open_slide(path) as slide:
            size = (slide.width, slide.height)
        openers = available(path)
        print(
            f"{path.name}, {size[0]}x{size[1]} px, {path.stat().st_size / 1e6:.0f} MB; "
            f"{rounds} rounds, one thread\n"
        )
        print(
            f"{'tiles of 1024 px':<24} {'reader':<23} {'tiles/s':>8} {'CPU ms':>9} {'/OpenSlide':>10} "
            f"{'ours/it':>10} {'max diff':>9}"
        )
        missed: list[str] = []
        ratios: list[dict[str, float]] = []
        for task in TASKS:
            corners = places(task, size, 24 if task.shrink == 1 else 8)
            differences = same_pixels(openers, path, task, corners[len(corners) // 2])
            different = {
                n: d for n, d in differences.items() if d > 0 and n in (OURS, *BARS, "tifffile + zarr")
            }
            if different:
                missed.append(f"{task.name}: pixels differ from OpenSlide: {different}")
            ratios.append(
                report(task, len(corners), measure(openers, path, task, corners, rounds), differences)
            )
            print()
    for name, bar in BARS.items():
        if name not in openers:
            missed.append(f"{name} could not be measured")
            continue
        overall = statistics.geometric_mean(task[name] for task in ratios)
        print(f"over all tasks {overall:.2f}x {name}, wanted {bar:.1f}x")
        if overall < bar:
            missed.append(f"{overall:.2f}x {name}, wanted {bar:.1f}x")
    print("\n".join(["missed:", *missed]) if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
