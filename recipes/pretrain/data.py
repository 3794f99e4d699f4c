"""Labelled tiles without end: a pool of factory fields, crops of real stained tissue, and augmentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.pretrain.config import PoolConfig
from recipes.pretrain.real import RealNuclei, crop_boxes
from recipes.pretrain.tiles import TISSUES, UNKNOWN, LabelledTile, from_field
from wsi.synthetic import sample_field


def pool_field(config: PoolConfig, number: int) -> LabelledTile:
    """Field `number` of the pool; the same for the same config."""
    seed = config.first_seed + number
    rng = np.random.default_rng([seed, 5])
    most = int(rng.choice(config.max_nuclei))
    tissue = str(rng.choice(TISSUES, p=(0.3, 0.2, 0.16, 0.14, 0.1, 0.1)))
    mpp = config.mpp * (2 if rng.random() < config.coarse_share else 1)
    named = tissue if number < config.mixed_from else None
    return from_field(sample_field(seed, size=config.tile, mpp=mpp, tissue=named, max_nuclei=most))


def _write_shard(config: PoolConfig, folder: Path, index: int) -> int:
    cv2.setNumThreads(1)
    stem = folder / f"shard_{index:04d}"
    if stem.with_suffix(".json").exists():
        return index
    first = index * config.shard_size
    tiles = [pool_field(config, first + i) for i in range(config.shard_size)]
    np.save(stem.with_suffix(".npy"), np.stack([tile.image for tile in tiles]))
    facts = [
        {
            "boxes": tile.boxes.round(2).tolist(),
            "classes": tile.classes.tolist(),
            "tissue": tile.tissue,
            "findings": sorted(tile.findings),
            "regions": [[name, list(box)] for name, box in tile.regions],
            "mpp": tile.mpp,
        }
        for tile in tiles
    ]
    partial = stem.with_suffix(".part")
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.rename(stem.with_suffix(".json"))
    return index


RARE = ("mitosis", "gland", "necrosis", "fold", "pen mark")


class TilePool:
    """Fields on disk, read through memory maps.

    Parameters
    ----------
    config : PoolConfig
    folder : Path
        Shards that are there already are kept.
    workers : int
        Processes that make the missing ones.
    """

    def __init__(self, config: PoolConfig, folder: Path, workers: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [k for k in range(config.shards) if not (folder / f"shard_{k:04d}.json").exists()]
        if len(missing) > 1 and workers > 1:
            with ProcessPoolExecutor(workers) as executor:
                list(executor.map(_write_shard, [config] * len(missing), [folder] * len(missing), missing))
        else:
            for k in missing:
                _write_shard(config, folder, k)
        self.config = config
        names = [folder / f"shard_{k:04d}" for k in range(config.shards)]
        self._images = [np.load(name.with_suffix(".npy"), mmap_mode="r") for name in names]
        self._facts = [json.loads(name.with_suffix(".json").read_text(encoding="utf-8")) for name in names]

        numbered = list(enumerate(facts for shard in self._facts for facts in shard))
        found = {name: [i for i, facts in numbered if name in facts["findings"]] for name in RARE}
        self.showing: dict[str, list[int]] = {name: numbers for name, numbers in found.items() if numbers}
        """Numbers of the fields that show a rare finding."""

    def __len__(self) -> int:
        return self.config.shards * self.config.shard_size

    def __getitem__(self, number: int) -> LabelledTile:
        shard, row = divmod(number, self.config.shard_size)
        facts = self._facts[shard][row]
        return LabelledTile(
            image=np.array(self._images[shard][row]),
            boxes=np.array(facts["boxes"], np.float32).reshape(-1, 4),
            classes=np.array(facts["classes"], np.int64),
            tissue=facts["tissue"],
            findings=frozenset(facts["findings"]),
            regions=tuple((name, tuple(box)) for name, box in facts["regions"]),
            mpp=facts["mpp"],
        )


def fresh_field(config: PoolConfig, rng: np.random.Generator, side: int) -> LabelledTile:
    """A field of any side and scale, from seeds that neither the pool nor any evaluation holds."""
    seed = config.first_seed + 1_000_000_000 + int(rng.integers(1_000_000_000))
    tissue = str(rng.choice(TISSUES)) if rng.random() < 0.5 else None
    mpp = float(np.exp(rng.uniform(*np.log(config.scales))))
    most = int(rng.choice(config.max_nuclei))
    return from_field(sample_field(seed, size=side, mpp=mpp, tissue=tissue, max_nuclei=most))


def window(tile: LabelledTile, shape: tuple[int, int], rng: np.random.Generator) -> LabelledTile:
    """A random window (height, width) of a tile. Its nuclei are known; what the whole showed is not known of it."""
    height, width = shape
    if shape == tile.image.shape[:2]:
        return tile
    y = int(rng.integers(tile.image.shape[0] - height + 1))
    x = int(rng.integers(tile.image.shape[1] - width + 1))
    boxes = crop_boxes(tile.boxes, x, y, (width, height), 1.0)
    image = np.ascontiguousarray(tile.image[y : y + height, x : x + width])
    return LabelledTile(image, boxes, np.full(len(boxes), UNKNOWN, np.int64), mpp=tile.mpp)


def augment(tile: LabelledTile, rng: np.random.Generator, colour: float = 1.0) -> LabelledTile:
    """One of eight turns and mirrors, another stain and exposure, now and then noise or blur."""
    size = tile.image.shape[0]
    image, boxes = tile.image, tile.boxes
    places = np.array([box for _, box in tile.regions], np.float32).reshape(-1, 4)
    both = np.concatenate([boxes, places])
    if rng.random() < 0.5:
        image, both = (image[:, ::-1], np.stack([size - both[:, 2], both[:, 1], size - both[:, 0], both[:, 3]], 1))
    for _ in range(int(rng.integers(4))):
        image = np.rot90(image)
        both = np.stack([both[:, 1], size - both[:, 2], both[:, 3], size - both[:, 0]], 1)
    image = np.ascontiguousarray(image)
    if colour and rng.random() < 0.85:
        image = _restain(image, rng, colour)
    if rng.random() < 0.12:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2))).astype(np.uint8)
    if rng.random() < 0.12:
        noise = rng.integers(-12, 13, image.shape, np.int16)
        image = (image.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
    regions = tuple(
        (name, tuple(map(float, box))) for (name, _), box in zip(tile.regions, both[len(boxes) :], strict=True)
    )
    return replace(tile, image=image, boxes=both[: len(boxes)], regions=regions)  # type: ignore[arg-type]


def _restain(image: NDArray[np.uint8], rng: np.random.Generator, strength: float) -> NDArray[np.uint8]:
    """Scale each channel's optical density and brightness, and mix channels a little."""
    level = np.arange(256, dtype=np.float32)
    density = -np.log((level + 1) / 256)
    gain = np.exp(rng.normal(0, 0.12 * strength) + rng.normal(0, 0.08 * strength, 3))
    white = 1 + rng.normal(0, 0.03 * strength) + rng.normal(0, 0.02 * strength, 3)
    table = np.stack([256 * white[c] * np.exp(-density * gain[c]) - 1 for c in range(3)], -1)
    out = cv2.LUT(image, table.clip(0, 255).astype(np.uint8)[None])
    if rng.random() < 0.4:
        mix = np.eye(3) + rng.normal(0, 0.05 * strength, (3, 3))
        mix /= mix.sum(1, keepdims=True)
        out = cv2.transform(out, mix)
    return np.asarray(out, np.uint8)


class TileSource:
    """The tiles of every training step; step `n` is the same whenever and however often it is asked for."""

    def __init__(self, pool: TilePool, real: RealNuclei | None, seed: int) -> None:
        self._pool = pool
        self._real = real
        self._seed = seed

    def batch(
        self, phase: int, step: int, count: int, most: int | None = None, shape: tuple[int, int] | None = None
    ) -> list[LabelledTile]:
        """`count` augmented tiles; with `most`, tiles of more objects are drawn again (up to twenty times).

        With `shape`, (height, width) in px, fresh tiles of that shape.
        """
        rng = np.random.default_rng([self._seed, phase, step])
        if shape is None:
            return [augment(self._draw(rng, most), rng) for _ in range(count)]
        return [self._shaped(rng, shape) for _ in range(count)]

    def batches(
        self,
        phase: int,
        first: int,
        last: int,
        count: int,
        most: dict[int, int],
        shapes: dict[int, tuple[int, int]] | None = None,
    ) -> Iterator[list[LabelledTile]]:
        """Batches of steps first..last-1, made ahead in a thread.

        `most` maps a step to its object limit, `shapes` to the shape of its tiles where it is not the usual one.
        """
        shapes = shapes or {}
        with ThreadPoolExecutor(1) as executor:

            def start(step: int) -> Future[list[LabelledTile]]:
                return executor.submit(self.batch, phase, step, count, most.get(step), shapes.get(step))

            ahead = [start(step) for step in range(first, min(first + 3, last))]
            for step in range(first, last):
                tiles = ahead.pop(0).result()
                if step + 3 < last:
                    ahead.append(start(step + 3))
                yield tiles

    def _shaped(self, rng: np.random.Generator, shape: tuple[int, int]) -> LabelledTile:
        """A tile of a shape or scale that the pool does not hold; a rectangle is a window of a square."""
        config, side = self._pool.config, max(shape)
        if self._real is not None and rng.random() < config.real_share:
            square = self._real.crop(rng, side)
        else:
            square = fresh_field(config, rng, side)
        return window(augment(square, rng), shape, rng)

    def _draw(self, rng: np.random.Generator, most: int | None) -> LabelledTile:
        tile = None
        for _ in range(20):
            if self._real is not None and rng.random() < self._pool.config.real_share:
                tile = self._real.crop(rng, self._pool.config.tile, most or 40)
            elif self._pool.config.rare_share and rng.random() < self._pool.config.rare_share:
                tile = self._pool[int(rng.choice(self._pool.showing[str(rng.choice(list(self._pool.showing)))]))]
            else:
                tile = self._pool[int(rng.integers(len(self._pool)))]
            if most is None or len(tile.boxes) <= most:
                return tile
        assert tile is not None
        return tile
