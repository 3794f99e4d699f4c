"""Slides and label images with cells of known shape, place and stain."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi import open_slide
from wsi.readers.opened import OpenedSlide

SIDE = 1200
MPP = 0.5
DARK, PALE = (70, 50, 130), (150, 120, 190)
GROUND = (235, 190, 215)


def draw(seed: int = 0, side: int = SIDE) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]:
    """Picture, labels and class of every label: 1 round dark discs, 2 pale long ellipses. None overlap.

    Some lie across the tiles' border at 1024 px, label 7 right in the middle of it.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = GROUND
    kinds = [0]
    for y in range(44, side - 20, 70):
        for x in range(44, side - 20, 70):
            number, kind = len(kinds), 1 + (len(kinds) % 2)
            axes = (9, 9) if kind == 1 else (22, 8)
            turn = float(rng.uniform(0, 180))
            cv2.ellipse(labels, (x, y), axes, turn, 0, 360, number, -1)
            inside = labels == number
            picture[inside] = DARK if kind == 1 else PALE
            kinds.append(kind)
    noise = rng.integers(-4, 5, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8), labels, np.array(kinds)


def write_slide(folder: Path, picture: NDArray[np.uint8], mpp: float | None = MPP) -> OpenedSlide:
    """The picture as a TIFF without loss, opened."""
    path = folder / "slide.tif"
    tifffile.imwrite(path, picture, photometric="rgb", tile=(256, 256), compression="zlib")
    return open_slide(path, mpp=mpp)
