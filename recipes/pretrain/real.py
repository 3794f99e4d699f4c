"""Tiles of real stained tissue: Data Science Bowl 2018, held apart by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.pretrain.config import PoolConfig
from recipes.pretrain.tiles import UNKNOWN, LabelledTile


class RealNuclei:
    """The stained-tissue nuclei set, split by image with a recorded seed.

    Parameters
    ----------
    folder : Path
        Holds `images/*.png` and `labels/*.png` (instance maps).
    config : PoolConfig
    """

    def __init__(self, folder: Path, config: PoolConfig) -> None:
        names = sorted(path.name for path in (folder / "images").glob("*.png"))
        order = np.random.default_rng(config.real_split_seed).permutation(len(names))
        held_out = round(len(names) * config.real_validation)
        self.validation_names = tuple(sorted(names[i] for i in order[:held_out]))
        self.training_names = tuple(sorted(names[i] for i in order[held_out:]))
        self._folder = folder
        self._read: dict[str, tuple[NDArray[np.uint8], NDArray[np.float32]]] = {}

    def image(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """RGB uint8 picture and the boxes (n, 4) of its nuclei."""
        if name not in self._read:
            picture = cv2.imread(str(self._folder / "images" / name), cv2.IMREAD_COLOR)
            labels = cv2.imread(str(self._folder / "labels" / name), cv2.IMREAD_UNCHANGED)
            if picture is None or labels is None:
                raise OSError(f"{self._folder}: cannot read image or labels of {name}")
            self._read[name] = (np.ascontiguousarray(picture[..., ::-1]).astype(np.uint8), instance_boxes(labels))
        return self._read[name]

    def crop(self, rng: np.random.Generator, size: int, most: int = 40) -> LabelledTile:
        """A random square of a training picture, enlarged to `size` px; of eight, one with at most `most` nuclei."""
        picture, boxes = self.image(str(rng.choice(self.training_names)))
        for _ in range(8):
            side = int(rng.integers(96, 257))
            x = int(rng.integers(0, picture.shape[1] - side + 1))
            y = int(rng.integers(0, picture.shape[0] - side + 1))
            inside = crop_boxes(boxes, x, y, side, size / side)
            if len(inside) <= most:
                break
        patch = cv2.resize(picture[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_CUBIC)
        return LabelledTile(patch.astype(np.uint8), inside, np.full(len(inside), UNKNOWN, np.int64))

    def held_out(self, size: int, side: int = 160) -> list[LabelledTile]:
        """Two squares of every validation picture, enlarged to `size` px."""
        tiles = []
        for name in self.validation_names:
            picture, boxes = self.image(name)
            for x, y in ((0, 0), (picture.shape[1] - side, picture.shape[0] - side)):
                inside = crop_boxes(boxes, x, y, side, size / side)
                patch = cv2.resize(picture[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_CUBIC)
                tiles.append(LabelledTile(patch.astype(np.uint8), inside, np.full(len(inside), UNKNOWN, np.int64)))
        return tiles


def instance_boxes(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Bounding boxes (x_min, y_min, x_max, y_max) of every label > 0, float32 (n, 4)."""
    from scipy.ndimage import find_objects

    found = [s for s in find_objects(labels.astype(np.int32)) if s is not None]
    boxes = [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in found]
    return np.array(boxes, np.float32).reshape(-1, 4)


def crop_boxes(
    boxes: NDArray[np.float32],
    x: float,
    y: float,
    side: float | tuple[float, float],
    scale: float,
    visible: float = 0.35,
) -> NDArray[np.float32]:
    """Boxes in the frame of a crop of one side, or (width, height).

    Those shown to less than `visible` or under 5 px are dropped.
    """
    moved = boxes - np.array([x, y, x, y], np.float32)
    cut = moved.clip(0, np.tile(side, 4 if np.isscalar(side) else 2).astype(np.float32))
    area = np.prod(cut[:, 2:] - cut[:, :2], 1)
    whole = np.prod(moved[:, 2:] - moved[:, :2], 1)
    cut = cut * np.float32(scale)
    keep = (area >= visible * whole) & ((cut[:, 2:] - cut[:, :2]).min(1, initial=1e9) >= 5)
    return np.asarray(cut[keep], np.float32)
