"""Merging detections across tile seams: time per box, misses and duplicates, beside SAHI and LazySlide.

Objects of known place are planted on a slide and seen by the tiles of a grid: with a jitter of one px, cut at the
tiles' edges, missed by a tile now and then. A merge is right when every object that any tile saw comes out once.

    python benchmarks/merge.py          a million boxes
    python benchmarks/merge.py --fast   200,000 boxes, under a minute

Exit code 1 where a bar is missed: 3x SAHI's NMS and 20x LazySlide's per box, and fewer misses and duplicates.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from workflows.merge.across_tiles import Detections, merge
from wsi.grid import TileGrid

TILE, OVERLAP, PER_TILE = 448, 32, 40


@dataclass(frozen=True)
class World:
    """Planted objects (level-0 px) and what the tiles saw of them; `ids` of `seen` are object numbers."""

    truth: NDArray[np.float64]
    seen: Detections
    grid: TileGrid

    @property
    def on_seam(self) -> NDArray[np.int64]:
        """Objects that several tiles saw."""
        return np.flatnonzero(np.bincount(self.seen.ids, minlength=len(self.truth)) > 1)


def plant(boxes: int, *, easy: bool = False, seed: int = 0) -> World:
    """A world of about `boxes` detections, a fifth of them second views at seams.

    Nuclei of 14 to 40 px in four classes lie on a loose lattice, one in 25 overlaps a neighbour heavily, one in
    500 objects is a gland of 120 to 800 px. `easy` plants apart nuclei only, and all views are whole and exact.
    """
    rng = np.random.default_rng(seed)
    n = max(4, round(boxes / 1.2))
    spacing = (TILE - OVERLAP) / np.sqrt(PER_TILE)
    across = int(np.ceil(np.sqrt(n)))
    side = int(across * spacing) + 1
    cell = rng.permutation(across * across)[:n]
    centre = (np.stack([cell % across, cell // across], 1) + 0.5) * spacing
    size = rng.uniform(14, 40, (n, 2)) * (1 if not easy else 0.9)
    centre += rng.uniform(-0.5, 0.5, (n, 2)) * (0.2 if easy else 1.0) * spacing
    classes = rng.integers(0, 4, n)
    if not easy:
        crowd = rng.random(n) < 0.04
        twin = np.flatnonzero(crowd[:-1])
        size[twin + 1] = size[twin]
        centre[twin + 1] = centre[twin] + size[twin] * rng.uniform(0.15, 0.3, (len(twin), 2))
        classes[twin + 1] = classes[twin]
        gland = rng.random(n) < 0.002
        size[gland] = rng.uniform(120, 800, (gland.sum(), 2))
        classes[gland] = 4
    grid = TileGrid((side, side), tile_size=TILE, overlap=OVERLAP)
    truth = np.clip(np.concatenate([centre - size / 2, centre + size / 2], 1), 0, side)
    return World(truth, _views(truth, classes, grid, rng, easy), grid)


def _views(
    truth: NDArray[np.float64], classes: NDArray[np.int64], grid: TileGrid, rng: np.random.Generator, easy: bool
) -> Detections:
    """What every tile sees of every object."""
    spans = []
    for starts, low, high in ((grid.columns0, 0, 2), (grid.rows0, 1, 3)):
        first = np.searchsorted(starts + TILE, truth[:, low], "right")
        spans.append((first, np.searchsorted(starts, truth[:, high], "left") - first))
    (column, columns), (row, rows) = spans
    ids = np.repeat(np.arange(len(truth)), columns * rows)
    nth = np.arange(len(ids)) - np.repeat(np.cumsum(columns * rows) - columns * rows, columns * rows)
    tiles = (row[ids] + nth // columns[ids]) * len(grid.columns0) + column[ids] + nth % columns[ids]
    rects = grid.rects[tiles].astype(float)
    jitter = rng.normal(0, 0.2 if easy else 1.0, (len(ids), 4))
    box = truth[ids] + jitter
    box = np.concatenate([np.maximum(box[:, :2], rects[:, :2]), np.minimum(box[:, 2:], rects[:, 2:])], 1)
    extent = np.maximum(box[:, 2:] - box[:, :2], 0)
    share = extent.prod(1) / (truth[ids, 2:] - truth[ids, :2]).prod(1)
    seen = (share > 0.98) if easy else ((share > 0.25) | (extent.min(1) > 40)) & (rng.random(len(ids)) > 0.05)
    seen &= extent.min(1) > 3
    scores = rng.uniform(0.3, 1.0, len(ids))
    return Detections.of(box[seen], classes[ids[seen]], tiles[seen], scores=scores[seen], ids=ids[seen])


Method = Callable[[World], NDArray[np.int64]]
"""Merges what was seen and returns the ids (object numbers) of the rows that stay."""


def ours(world: World) -> NDArray[np.int64]:
    """The project's merge."""
    return merge(world.seen, world.grid.rects, world.grid.cores).ids


def sahi_nms(world: World, metric: str = "IOU") -> NDArray[np.int64]:
    """SAHI's class-wise NMS at 0.5, on the bare array: building its objects is not timed."""
    from sahi.postprocess.combine import batched_nms

    seen = world.seen
    table = np.column_stack([seen.boxes, seen.scores, seen.classes]).astype(np.float32)
    return seen.ids[np.asarray(batched_nms(table, metric, 0.5), np.int64)]


def lazyslide_nms(world: World) -> NDArray[np.int64]:
    """LazySlide's NMS for every class at an IoU of 0.5; building the GeoDataFrames is not timed apart."""
    import geopandas
    import shapely

    seen, kept = world.seen, []
    module = _lazyslide()
    for label in np.unique(seen.classes):
        rows = np.flatnonzero(seen.classes == label)
        frame = geopandas.GeoDataFrame(
            {"prob": seen.scores[rows], "id": seen.ids[rows]}, geometry=shapely.box(*seen.boxes[rows].T)
        )
        kept.append(module.nms(frame, "prob", iou_threshold=0.5)["id"].to_numpy())
    return np.concatenate(kept)


def _lazyslide() -> ModuleType:
    """The one module of LazySlide that holds `nms`: the package itself imports much that is not needed here."""
    found = importlib.util.find_spec("lazyslide")
    if found is None or found.origin is None:
        raise ImportError("No module named 'lazyslide'")
    path = Path(found.origin).parent / "cv" / "tiles_merger.py"
    spec = importlib.util.spec_from_file_location("lazyslide_tiles_merger", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Result:
    """One run: boxes in, CPU seconds, and per 10,000 seam objects how many were lost or came out more than once."""

    name: str
    boxes: int
    seconds: float
    misses: float
    duplicates: float

    @property
    def us_per_box(self) -> float:
        return self.seconds / self.boxes * 1e6


def measure(name: str, method: Method, world: World, rounds: int) -> Result:
    """Best CPU time of `rounds` (every method uses one core), misses and duplicates on the seams."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        ids = method(world)
        times.append(time.process_time() - start)
    seam = world.on_seam
    out = np.bincount(ids, minlength=len(world.truth))[seam]
    per = 10_000 / max(1, len(seam))
    misses, duplicates = (out == 0).sum() * per, np.maximum(out - 1, 0).sum() * per
    return Result(name, len(world.seen), min(times), float(misses), float(duplicates))


def same_answer(methods: dict[str, Method]) -> None:
    """On apart, exactly seen objects every method must return every object once."""
    world = plant(3000, easy=True, seed=1)
    expected = np.unique(world.seen.ids)
    for name, method in methods.items():
        if not np.array_equal(np.sort(method(world)), expected):
            raise SystemExit(f"{name} does not return every apart object once: the comparison would be unfair.")
    print(f"Same answer on {len(world.seen)} views of {len(expected)} apart objects: {', '.join(methods)}\n")


def main() -> int:
    """Measure, print one table, return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="Merge planted detections beside SAHI and LazySlide.")
    parser.add_argument("--fast", action="store_true", help="200,000 boxes instead of a million")
    boxes = 200_000 if parser.parse_args().fast else 1_000_000
    peers: dict[str, tuple[Method, int, float]] = {}
    sizes: dict[str, tuple[Method, int, float]] = {
        "SAHI NMS": (sahi_nms, boxes, 3.0),
        "SAHI NMS by IOS": (partial(sahi_nms, metric="IOS"), boxes, 3.0),
        "LazySlide nms": (lazyslide_nms, boxes // 40, 20.0),
    }
    for name, peer in sizes.items():
        try:
            peer[0](plant(100, easy=True))
            peers[name] = peer
        except ImportError as error:
            print(f"{name} is left out: {error}. Install it with pip install sahi lazyslide.")
    same_answer({"napari-qwenvl": ours} | {name: peer[0] for name, peer in peers.items()})

    full = measure("napari-qwenvl", ours, plant(boxes), 3)
    rows, missed = [(full, "")], []
    for name, (method, count, bar) in peers.items():
        world = plant(count)
        theirs = measure(name, method, world, 1)
        same = full if count == boxes else measure("napari-qwenvl, same boxes", ours, world, 3)
        ratio = theirs.us_per_box / full.us_per_box
        rows += [(theirs, f"{ratio:.1f}x (bar {bar:g}x)")] + ([] if same is full else [(same, "")])
        if ratio < bar:
            missed.append(f"{name}: {ratio:.1f}x per box, the bar is {bar:g}x")
        if (
            same.misses > theirs.misses
            or same.duplicates > theirs.duplicates
            or (same.misses + same.duplicates >= theirs.misses + theirs.duplicates)
        ):
            missed.append(f"{name}: misses and duplicates are not fewer on the same boxes")
    heads = f"{'':26}{'boxes':>10}{'CPU s':>9}{'us/box':>8}{'misses':>9}{'dupl.':>8}"
    print(f"{heads}   time per box against ours")
    for row, ratio_words in rows:
        print(
            f"{row.name:26}{row.boxes:>10,}{row.seconds:>9.2f}{row.us_per_box:>8.2f}"
            f"{row.misses:>9.1f}{row.duplicates:>8.1f}   {ratio_words}"
        )
    print("\nMisses and duplicates per 10,000 objects that several tiles saw.")
    for words in missed:
        print(f"BAR MISSED  {words}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
