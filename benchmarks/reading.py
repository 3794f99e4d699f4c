"""Reading 1024-px tiles: this project beside the readers others use.

    python benchmarks/reading.py [--fast] [--only jpeg|jp2k|vendor|zarr] [--rounds N] [--slide SLIDE]

Writes Aperio-style slides with 256-px tiles (JPEG 4:2:0; JPEG 2000 as 33003, YCbCr 4:2:2, and as 33005) and OME-Zarr
images without an `omero` block, and takes an NDPI and a DICOM slide from the folder that QWENVL_TEST_DATA names. Every
reader gives a uint8 RGB array. First it is checked that they give the same px; then all read the same tiles in turn,
six at a time, one thread, warm page cache, every slide freshly opened in every round. Ratios are medians over rounds
of CPU time, theirs over ours. Exits with 1 where a ratio is below its bar in any row, px differ, or a peer with a bar
is missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("VIPS_CONCURRENCY", "1")
import cv2
import numpy as np
from reading_files import APERIO_RGB, APERIO_YCBCR, write_slide, write_zarr
from reading_peers import OURS, SIDE, SLIDE_READERS, VENDOR_READERS, ZARR_READERS, Opener, Task

TOGETHER = 6  # tiles that a reader reads before the next one has its turn
JPEG_BARS = {"cuCIM": 1.05, "OpenSlide": 5.0, "fastslide": 1.5, "pyvips": 1.5}
JPEG_TASKS = (
    Task("level 0, aligned", bars=JPEG_BARS),
    Task("level 0, off by 100 px", offset=100, bars=JPEG_BARS),
    Task("level 0, 1/8 overlap", step=SIDE * 7 // 8, bars=JPEG_BARS),
    Task("x2 (2048 px of level 0)", scale=2, shrink=2, bars=JPEG_BARS),
    Task("x4 (level 1), aligned", scale=4, level=1, bars=JPEG_BARS),
    Task("x4 (level 1), off by 100 px", scale=4, level=1, offset=400, bars=JPEG_BARS),
)
JP2K_BARS = {"OpenSlide": 1.5, "fastslide": 1.0}
VENDOR_BARS = {"OpenSlide": 1.0}
ZARR_BARS = {"zarr": 0.9}
REAL = {"NDPI": "slides/test3-DAPI-2-387.ndpi", "DICOM": "slides/dicom/camelyon_multiframe_jpeg.dcm"}


@dataclass
class Group:
    """Tasks on one file, with the readers that take part; the first one's px are the right ones."""

    title: str
    path: Path
    readers: dict[str, Opener]
    tasks: tuple[Task, ...]
    tiles: int
    missed: list[str] = field(default_factory=list)


def groups(folder: Path, fast: bool, only: str | None, slide: Path | None) -> Iterator[Group]:
    """What is measured; files are written when they are wanted."""
    if only in (None, "jpeg"):
        path = slide or write_slide(folder / "jpeg.svs", 12288 if fast else 16384)
        yield Group("JPEG 4:2:0", path, SLIDE_READERS, JPEG_TASKS, 24)
    if only in (None, "jp2k"):
        for code, name, off in ((APERIO_RGB, "33005, RGB", 0), (APERIO_YCBCR, "33003, YCbCr 4:2:2", 1)):
            path = write_slide(folder / f"{code}.svs", 6144, code)
            tasks = (
                Task(f"{name[:5]}, aligned", bars=JP2K_BARS, tolerance=off),
                Task(f"{name[:5]}, off by 100 px", offset=100, bars=JP2K_BARS, tolerance=off),
            )
            yield Group(f"JPEG 2000 {name}", path, SLIDE_READERS, tasks, 4 if fast else 8)
    if only in (None, "vendor"):
        data = os.environ.get("QWENVL_TEST_DATA")
        for name, file in REAL.items():
            path = Path(data or "") / file
            if data and path.exists():
                side = SIDE if name == "NDPI" else SIDE // 2  # the DICOM slide is 700 px high
                tasks = (Task(f"{name}, {side} px", side=side, step=side // 2, bars=VENDOR_BARS),)
                yield Group(f"{name} ({path.name})", path, VENDOR_READERS, tasks, 12)
            else:
                print(f"skipped {name}: QWENVL_TEST_DATA names no folder with {file}\n")
    if only in (None, "zarr"):
        for axes in ("cyx", "yxc", "yx"):
            path = write_zarr(folder / f"{axes}.zarr", 6144, axes)
            name = "gray (y, x)" if axes == "yx" else f"RGB ({', '.join(axes)})"
            yield Group(f"OME-Zarr, {name}", path, ZARR_READERS, (Task(name, bars=ZARR_BARS),), 12)


def available(group: Group) -> dict[str, Opener]:
    """The readers that import and open the file; the reason is printed for the others."""
    found = {}
    for name, opener in group.readers.items():
        try:
            opener(group.path)[1]()
        except Exception as error:  # a peer may fail in any way
            print(f"skipped {name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        else:
            found[name] = opener
    return found


def places(task: Task, size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Level-0 corners of `count` tiles of the task's grid, row by row, in the middle of the slide."""
    step, side = task.step * task.scale, task.side * task.scale
    along = [range(min(task.offset, n - side), n - side + 1, step) for n in size]
    grid = [(x, y) for y in along[1] for x in along[0]]
    start = max(0, (len(grid) - count) // 2)
    return grid[start : start + count]


def differences(openers: dict[str, Opener], path: Path, task: Task, where: tuple[int, int]) -> dict[str, int]:
    """Largest difference of each reader from the first on one tile; -1 where it cannot read it."""
    tiles = {}
    for name, opener in openers.items():
        reader, close = opener(path)
        try:
            tiles[name] = reader(task)(*where).astype(np.int16)
        except Exception as error:  # a peer may fail in any way
            print(f"{name} cannot read {task.name}: {(str(error).splitlines() or [''])[0]}")
        close()
    right = next(iter(tiles.values()))
    return {
        name: int(np.abs(tiles[name] - right).max()) if name in tiles and tiles[name].shape == right.shape else -1
        for name in openers
    }


def measure(
    openers: dict[str, Opener], path: Path, task: Task, corners: list[tuple[int, int]], rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of each reader in each round; the first round is a warm-up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in openers}
    names = list(openers)
    for number in range(rounds + 1):
        opened = {name: opener(path) for name, opener in openers.items()}
        reads = {name: reader(task) for name, (reader, _) in opened.items()}
        total = dict.fromkeys(names, 0)
        for turn in range(-(-len(corners) // TOGETHER)):
            first = (turn + number) % len(names)
            for name in names[first:] + names[:first]:
                begin = time.process_time_ns()
                for x0, y0 in corners[turn * TOGETHER : (turn + 1) * TOGETHER]:
                    reads[name](x0, y0)
                total[name] += time.process_time_ns() - begin
        for _, close in opened.values():
            close()
        if number:
            for name in names:
                seconds[name].append(total[name] / 1e9)
    return seconds


def run(group: Group, rounds: int) -> None:
    """Measure one group, print its rows, and note the bars it misses."""
    openers = available(group)
    size = _size(group.path)
    print(f"{group.title}: {size[0]}x{size[1]} px, {rounds} rounds\n")
    print(f"{'tiles of 1024 px':<28} {'reader':<18} {'CPU ms':>8} {'theirs/ours':>12} {'bar':>6} {'max diff':>9}")
    for task in group.tasks:
        corners = places(task, size, group.tiles if task.shrink == 1 else group.tiles // 3)
        apart = differences(openers, group.path, task, corners[len(corners) // 2])
        able = {name: opener for name, opener in openers.items() if apart[name] >= 0}
        if OURS not in able or apart[OURS] > task.tolerance:
            group.missed.append(f"{task.name}: px differ by {apart.get(OURS)}")
            continue
        seconds = measure(able, group.path, task, corners, rounds)
        for name, spent in seconds.items():
            ratio = statistics.median(t / o for t, o in zip(spent, seconds[OURS], strict=True))
            bar = task.bars.get(name)
            said = f"{bar:6.2f}" if bar else " " * 6
            short = bar is not None and ratio < bar
            cpu = 1e3 * statistics.median(spent) / len(corners)
            print(f"{task.name:<28} {name:<18} {cpu:8.2f} {ratio:12.2f} {said} {apart[name]:9d}{'  missed' * short}")
            if short:
                group.missed.append(f"{task.name}: {ratio:.2f}x {name}, wanted {bar:g}x")
        for name in task.bars:
            if name not in able:
                group.missed.append(f"{task.name}: {name} could not be measured")
        print()


def _size(path: Path) -> tuple[int, int]:
    from wsi import PlaneError, Rendering, open_slide

    try:
        slide = open_slide(path)
    except PlaneError:
        slide = open_slide(path, rendering=Rendering.parse("rgb"))
    with slide:
        return slide.width, slide.height


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="smaller slides and fewer rounds, under five minutes")
    parser.add_argument("--only", choices=["jpeg", "jp2k", "vendor", "zarr"], help="one kind of file")
    parser.add_argument(
        "--slide", type=Path, help="a tiled-JPEG SVS of 0.25 um/px with levels 1/4/16 instead of the one written"
    )
    parser.add_argument("--rounds", type=int, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    cv2.setNumThreads(1)
    rounds = options.rounds or (4 if options.fast else 11)
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for group in groups(Path(folder), options.fast, options.only, options.slide):
            run(group, rounds)
            missed += group.missed
    print("\n".join(["missed:", *missed]) if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
