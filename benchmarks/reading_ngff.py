"""Reading 1024-px regions of OME-Zarr: this project beside plain zarr, both giving the same px.

    python benchmarks/reading_ngff.py [--rounds N]

Writes one H&E-like image in the forms that writers choose (channels apart or together in a chunk, chunks of 256 to
1024 px, shards, zstd, blosc, gzip and none, with and without an `omero` block, 8 and 16 bits), checks that both read
the same values, and reads the same regions with each in interleaved rounds, warm page cache. This project makes an RGB
image of them; plain zarr only reads the array. Ratios are medians of per-round ratios of CPU time. Exits
with 1 where one is below 0.9.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray

SIDE = 1024
BAR = 0.9
RGB = ("FF0000", "00FF00", "0000FF")


def picture(side: int) -> NDArray[np.uint8]:
    """Tissue-like colour and grain, uint8 (side, side, 3)."""
    rng = np.random.default_rng(7)
    block = np.zeros((1024, 1024, 3), np.float32)
    for sigma, weight in ((24, 700.0), (6, 150.0), (1, 22.0)):
        block += weight * cv2.GaussianBlur(rng.standard_normal(block.shape, np.float32), (0, 0), sigma)
    pixels = np.clip(np.float32([200, 140, 185]) + block, 0, 255).astype(np.uint8)
    return np.tile(pixels, (side // 1024, side // 1024, 1))


def write(
    path: Path, values: NDArray[Any], axes: str, *, zarr_format: int = 3, omero: bool = False, **how: Any
) -> None:
    """An OME-Zarr image of one level."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    group.create_array("0", shape=values.shape, dtype=values.dtype, **how)[...] = values
    kinds = {"t": "time", "c": "channel"}
    image = {
        "axes": [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(axes)}]}],
    }
    extra = {"omero": {"channels": [{"color": color} for color in RGB]}} if omero else {}
    if zarr_format == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image], **extra}
    else:
        group.attrs.update({"multiscales": [{"version": "0.4", **image}], **extra})


def forms(pixels: NDArray[np.uint8]) -> dict[str, tuple[NDArray[Any], str, dict[str, Any], str | None]]:
    """Name -> array, axes, how it is written, rendering."""
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    gray = planes[1]
    old: dict[str, Any] = {"zarr_format": 2}
    return {
        "RGB, 256 px, c apart, zstd": (planes, "cyx", {"chunks": (1, 256, 256), "omero": True}, None),
        "RGB, 256 px, c apart, no omero": (planes, "cyx", {"chunks": (1, 256, 256)}, "rgb"),
        "RGB, 256 px, c together, no omero": (planes, "cyx", {"chunks": (3, 256, 256)}, "rgb"),
        "RGB, 1024 px, blosc, 0.4": (
            planes,
            "cyx",
            {"chunks": (1, 1024, 1024), "omero": True, "compressors": numcodecs.Blosc(), **old},
            None,
        ),
        "RGB, 512 px, interleaved (yxc)": (pixels, "yxc", {"chunks": (512, 512, 3), "omero": True}, None),
        "RGB, shards of 1024 px": (
            planes,
            "cyx",
            {"chunks": (1, 256, 256), "shards": (3, 1024, 1024), "omero": True},
            None,
        ),
        "RGB, tczyx, gzip, 0.4, no omero": (
            planes[None, :, None],
            "tczyx",
            {"chunks": (1, 1, 1, 512, 512), "compressors": numcodecs.GZip(1), **old},
            "rgb",
        ),
        "RGB, 512 px, not compressed": (
            planes,
            "cyx",
            {"chunks": (1, 512, 512), "compressors": None, "omero": True},
            None,
        ),
        "gray, 256 px": (gray, "yx", {"chunks": (256, 256)}, None),
        "gray, 1024 px": (gray, "yx", {"chunks": (1024, 1024)}, None),
        "gray, 16 bits, 256 px": (gray.astype(np.uint16) * 16, "yx", {"chunks": (256, 256)}, "0:gray:0-4095"),
    }


def measure(read: list[Callable[[int, int], Any]], corners: list[tuple[int, int]], rounds: int) -> list[list[float]]:
    """CPU milliseconds per region, for each reader and round; the first round is not counted."""
    spent: list[list[float]] = [[] for _ in read]
    for number in range(rounds + 1):
        for turn in range(len(read)):
            who = (number + turn) % len(read)
            start = time.process_time()
            for x, y in corners:
                read[who](x, y)
            if number:
                spent[who].append(1e3 * (time.process_time() - start) / len(corners))
    return spent


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    from wsi import Rendering, open_slide

    rng = np.random.default_rng(1)
    corners = [(int(x), int(y)) for x, y in rng.integers(0, 3 * SIDE, (6, 2))] + [(0, 0), (SIDE, SIDE)]
    missed = []
    print(f"{'OME-Zarr, 1024-px regions':<36} {'ours, ms':>9} {'zarr, ms':>9} {'zarr/ours':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (values, axes, how, text)) in enumerate(forms(picture(4 * SIDE)).items()):
            path = Path(folder) / f"{number}.zarr"
            write(path, values, axes, **how)
            array: Any = zarr.open_array(str(path / "0"), mode="r")

            def plain(x: int, y: int, array: Any = array, axes: str = axes) -> NDArray[Any]:
                place = {"x": slice(x, x + SIDE), "y": slice(y, y + SIDE), "c": slice(0, 3)}
                return np.asarray(array[tuple(place.get(axis, 0) for axis in axes)])

            with open_slide(path, rendering=Rendering.parse(text) if text else None) as slide:
                ours = slide.read(*corners[0], SIDE, SIDE).astype(float)
                theirs = plain(*corners[0]).astype(float)
                theirs = np.moveaxis(theirs, 0, -1) if theirs.shape[0] == 3 else theirs
                theirs = theirs if theirs.ndim == 3 else np.repeat(theirs[..., None], 3, axis=2)
                if np.abs(ours - np.round(theirs * (255 / 4095 if "16 bits" in name else 1))).max() > 0:
                    missed.append(f"{name}: px differ")
                own, other = measure([lambda x, y: slide.read(x, y, SIDE, SIDE), plain], corners, options.rounds)
            ratio = statistics.median(b / a for a, b in zip(own, other, strict=True))
            print(f"{name:<36} {statistics.median(own):9.2f} {statistics.median(other):9.2f} {ratio:10.2f}")
            if ratio < BAR:
                missed.append(f"{name}: {ratio:.2f}x plain zarr, wanted {BAR}x")
    print("\n".join(["missed:", *missed]) if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
