"""Peak memory of a whole-slide run: does it stay flat when the slide grows sixteenfold?

    python benchmarks/memory.py          10,000 x 10,000 beside 40,000 x 40,000
    python benchmarks/memory.py --fast   5,000 x 5,000 beside 20,000 x 20,000, a minute or two

A stand-in engine answers at once with 40 boxes per tile, so that reading, storing, merging, the report, the
picture and the exports are what is measured. Each run is a process of its own on a written slide (tiled JPEG
pyramid, half of it tissue); its peak is the resident memory's high-water mark. Before anything is compared, each run
is checked: every tile answered, every box stored, every export as long as the report says.

Exit code 1 where the large slide needs more than 1.2 times the memory of the small one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

BAR = 1.2
BOXES = 40
TILE, OVERLAP = 448, 64
_SIDE = 256  # of the JPEG tiles
_KINDS = 61  # different tiles of tissue; a prime, so that rows do not repeat
_LEVELS = (1, 4, 16)
_TISSUE_RADIUS = 0.4  # of the side: a disc of half the slide


@dataclass(frozen=True)
class Measured:
    """One run."""

    side: int
    tiles: int
    boxes: int
    merged: int
    peak_mib: float
    start_mib: float
    seconds: float


def write_slide(path: Path, side: int) -> None:
    """A tiled JPEG pyramid at 0.25 um/px: a disc of tissue, made of a few encoded tiles in changing order."""
    rng = np.random.default_rng(0)
    tissue = [_encode(_tissue(rng)) for _ in range(_KINDS)]
    glass = _encode(np.full((_SIDE, _SIDE, 3), 243, np.uint8))

    def tiles(level_side: int, downsample: int) -> Iterator[bytes]:
        count = -(-level_side // _SIDE)
        for row in range(count):
            for column in range(count):
                y, x = ((np.array([row, column]) + 0.5) * _SIDE * downsample) / side - 0.5
                reach = _SIDE * downsample / side
                distance = np.hypot(x, y)
                if abs(distance - _TISSUE_RADIUS) < reach and downsample > 1:
                    yield _encode(_edge(row, column, downsample, side))
                else:
                    inside = distance < _TISSUE_RADIUS
                    yield tissue[(row * 7919 + column * 104729) % _KINDS] if inside else glass

    with tifffile.TiffWriter(path, bigtiff=False) as tif:
        for downsample in _LEVELS:
            level_side = side // downsample
            tif.write(
                tiles(level_side, downsample),
                shape=(level_side, level_side, 3),
                dtype=np.uint8,
                tile=(_SIDE, _SIDE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if downsample > 1 else 0,
                resolution=(40_000 / downsample, 40_000 / downsample),
                resolutionunit="CENTIMETER",
            )


def _tissue(rng: np.random.Generator) -> NDArray[np.uint8]:
    coarse = rng.normal(0, 1, (_SIDE // 8, _SIDE // 8)).repeat(8, 0).repeat(8, 1)
    fine = rng.normal(0, 1, (_SIDE, _SIDE))
    shade = (coarse * 18 + fine * 6)[..., None]
    return np.clip(np.array([200, 130, 170]) + shade, 0, 255).astype(np.uint8)


def _edge(row: int, column: int, downsample: int, side: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[row * _SIDE : (row + 1) * _SIDE, column * _SIDE : (column + 1) * _SIDE] * downsample / side - 0.5
    inside = np.hypot(x, y) < _TISSUE_RADIUS
    return np.where(inside[..., None], [200, 130, 170], 243).astype(np.uint8)


def _encode(picture: NDArray[np.uint8]) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(picture, level=80, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
    )


def run_once(path: Path, side: int, out: Path) -> Measured:
    """The run that is measured: everything `qwenvl detect` and two exports do."""
    from qwenvl.engines.fake import FakeEngine
    from qwenvl.request import Request, Task
    from workflows.export import export_geojson, export_objects_csv
    from workflows.run.slide import run_slide

    start, begun = peak_memory(), time.perf_counter()
    request = Request(task=Task.DETECT, labels=("nucleus", "mitosis"), tile_size=TILE, overlap=OVERLAP, mpp=0.25)
    result = run_slide(path, request, FakeEngine(BOXES), out)
    features = export_geojson(out, out.with_suffix(".geojson.gz"))
    rows = export_objects_csv(out, out.with_suffix(".csv"))
    results, tiles = result.report.results, result.report.tiles.total
    assert results.task == "detect"
    if not (result.complete and results.found == tiles * BOXES and features == rows == results.total > 0):
        raise SystemExit(f"The run is not what it should be: {result.report.tiles}, {features}, {rows}, {results}")
    return Measured(side, tiles, results.found, results.total, peak_memory(), start, time.perf_counter() - begun)


def peak_memory() -> float:
    """Highest resident memory of this process in MiB.

    Linux keeps it per program (VmHWM); getrusage there would count what the parent held before the program began.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


def measure(side: int, folder: Path) -> Measured:
    """Write a slide and run over it, each in a process of its own."""
    path, out = folder / f"{side}.tif", folder / f"run-{side}"
    subprocess.run([sys.executable, __file__, "--write", str(path), str(side)], check=True)
    done = subprocess.run(
        [sys.executable, __file__, "--run", str(path), str(side), str(out)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    path.unlink()
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Measure both sizes, print the table, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="5,000 and 20,000 px instead of 10,000 and 40,000")
    parser.add_argument("--write", nargs=2, metavar=("PATH", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=3, metavar=("PATH", "SIDE", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_slide(Path(given.write[0]), int(given.write[1]))
        return 0
    if given.run:
        path, side, out = given.run
        print(json.dumps(asdict(run_once(Path(path), int(side), Path(out)))))
        return 0
    sides = (5_000, 20_000) if given.fast else (10_000, 40_000)
    with tempfile.TemporaryDirectory() as folder:
        small, large = (measure(side, Path(folder)) for side in sides)
    ratio = large.peak_mib / small.peak_mib
    print("| slide (px) | tiles | boxes stored | boxes merged | peak MiB | above imports MiB | seconds | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for row in (small, large):
        print(
            f"| {row.side:,} x {row.side:,} | {row.tiles:,} | {row.boxes:,} | {row.merged:,} | {row.peak_mib:.0f} | "
            f"{row.peak_mib - row.start_mib:.0f} | {row.seconds:.0f} | {row.peak_mib / small.peak_mib:.2f} |"
        )
    met = ratio <= BAR
    print(f"\npeak memory {ratio:.2f}x (bar: at most {BAR}x): {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
