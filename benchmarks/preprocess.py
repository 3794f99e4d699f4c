"""Preprocessing 1024-px tiles: this project beside the Hugging Face image processor, in one interleaved run.

    python benchmarks/preprocess.py [--fast] [--threads N]

A patch has room for two video frames, which of a tile are copies; the engine folds them into one in the model's
first layer (`qwenvl.decoding.vision`), so that this project writes each pixel once. Two rows show the peer's layout.

First every family's patches are compared, bit for bit where nothing is resized. Then both sides take the same tiles in
turn; the table shows medians. The peer is transformers' PIL backend, the one that runs without torchvision; it gets
arrays, as here, and in one row the PIL pictures of a plain loop. Exits with 1 where the bar is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qwenvl.families import get_family
from qwenvl.images.preprocess import preprocess
from qwenvl.images.processor import ProcessorSettings

BAR = 8.0
"""Least ratio of the first row."""


@dataclass(frozen=True)
class Case:
    """One row of the table: the same tiles for both sides."""

    name: str
    family: str
    side: int
    tiles: int
    pictures: bool = False
    """Hand PIL pictures to the peer."""
    frames: int = 1
    """Frames written per patch: the engine needs one, the peer always writes both copies."""

    @property
    def settings(self) -> ProcessorSettings:
        """The family's settings with this case's frames."""
        return replace(ProcessorSettings.of_family(get_family(self.family)), temporal_patch_size=self.frames)


CASES = (
    Case("Qwen3-VL, 1024 px, eight together, as engines ask", "Qwen3-VL", 1024, 8),
    Case("Qwen3-VL, 1024 px, one at a time", "Qwen3-VL", 1024, 1),
    Case("Qwen3-VL, 1024 px, in the peer's layout", "Qwen3-VL", 1024, 1, frames=2),
    Case("Qwen3-VL, 1024 px, eight, in the peer's layout", "Qwen3-VL", 1024, 8, frames=2),
    Case("Qwen3-VL, 1024 px, peer gets PIL pictures", "Qwen3-VL", 1024, 1, pictures=True),
    Case("Qwen2.5-VL, 1008 px (no resize)", "Qwen2.5-VL", 1008, 1),
    Case("Qwen2.5-VL, 1024 px (resized to 1036)", "Qwen2.5-VL", 1024, 1),
)


def peer_of(settings: ProcessorSettings) -> Any:
    """The Hugging Face image processor with the same settings."""
    return Qwen2VLImageProcessorPil(
        patch_size=settings.patch_size,
        merge_size=settings.merge_size,
        temporal_patch_size=2,
        image_mean=list(settings.image_mean),
        image_std=list(settings.image_std),
        size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
    )


def tiles_of(case: Case) -> list[np.ndarray]:
    """Tiles with soft structure and noise, different ones each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: case.side, : case.side]
    waves = 140 + 70 * np.stack([np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 31)], axis=2)
    return [(waves + rng.integers(-8, 9, waves.shape)).astype(np.uint8) for _ in range(case.tiles)]


def check(case: Case) -> str:
    """Compare both sides; raises SystemExit where they disagree."""
    settings = case.settings
    tiles = tiles_of(case)
    theirs = peer_of(settings)(images=tiles, return_tensors="pt")
    ours = preprocess(tiles, settings)
    shape = (len(ours.pixel_values), 3, -1, settings.patch_size**2)
    difference = ours.pixel_values.view(shape) - theirs["pixel_values"].view(shape)
    steps = float(difference.abs().max()) * min(settings.image_std) * 255
    resized = ours.frames[0].resized
    if not torch.equal(ours.image_grid_thw, theirs["image_grid_thw"]) or steps > (2.01 if resized else 0):
        raise SystemExit(f"{case.name}: results differ by {steps:.2f} of 255 steps")
    return f"within {steps:.0f}/255" if resized else "bit-identical"


def measure(case: Case, rounds: int) -> tuple[float, float]:
    """Median milliseconds per tile of the peer and of this project, taken in turn."""
    settings = case.settings
    peer, tiles = peer_of(settings), tiles_of(case)
    given: list[Any] = [Image.fromarray(tile) for tile in tiles] if case.pictures else list(tiles)
    # An engine keeps its memory from batch to batch; the peer offers no such argument.
    memory = preprocess(tiles, settings).pixel_values
    sides: tuple[Callable[[], Any], ...] = (
        lambda: peer(images=given, return_tensors="pt"),
        lambda: preprocess(tiles, settings, out=memory),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            taken.append((time.perf_counter() - start) * 1000 / len(tiles))
    theirs, ours = (statistics.median(taken[1:]) for taken in times)
    return theirs, ours


def main() -> int:
    """Check, measure, print; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="fewer rounds")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; one by default, as the peer has")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = 12 if options.fast else 40
    checks = [check(case) for case in CASES]
    title = f"Preprocessing, ms per tile, {torch.get_num_threads()} thread(s), {os.cpu_count()} cores"
    table = Table("tiles", "results", "Hugging Face (PIL)", "qwenvl", "ratio", title=title)
    ratios = []
    for case, result in zip(CASES, checks, strict=True):
        theirs, ours = measure(case, rounds)
        ratios.append(theirs / ours)
        table.add_row(case.name, result, f"{theirs:.1f}", f"{ours:.2f}", f"{theirs / ours:.1f}x")
    Console(width=120).print(table)
    reached = ratios[0] >= BAR
    print(f"bar: first row at least {BAR:.0f}x: {'reached' if reached else 'MISSED'} ({ratios[0]:.1f}x)")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
