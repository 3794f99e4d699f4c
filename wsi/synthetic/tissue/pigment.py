"""Pigment-laden cells planted on a finished field: something to find that no nucleus class looks like."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.tissue.stain import RgbImage

_BROWN = (0.55, 1.0, 1.65)
"""Optical density of the granules in R, G, B: golden brown, as hemosiderin and melanin in macrophages."""
_RADIUS_UM = (3.6, 6.5)
_GRANULE_UM = (0.35, 0.85)
_ATTEMPTS = 40


@dataclass(frozen=True)
class Pigmented:
    """A field with pigmented cells.

    Attributes
    ----------
    image : uint8 (height, width, 3)
    boxes : float64 (n, 4)
        x0, y0, x1, y1 in px around the granules of every cell, clipped to the image.
    """

    image: RgbImage
    boxes: NDArray[np.float64]


def plant_pigment(image: RgbImage, seed: int, *, mpp: float = 0.25, most: int = 6) -> Pigmented:
    """Put up to `most` cells full of brown granules on a picture.

    Parameters
    ----------
    image : uint8 (height, width, 3)
        Such as a `Field`'s. It is not changed.
    seed : int
        The same seed and settings give the same cells.
    mpp : float
        um per px.
    most : int
        The number is drawn from 0 (one picture in ten) or 1 to `most`; fewer where there is no room.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 0xB20])
    height, width = image.shape[:2]
    wanted = 0 if rng.random() < 0.1 else int(rng.integers(1, most + 1))
    density = np.zeros((height, width), np.float32)
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(_ATTEMPTS):
        if len(boxes) == wanted:
            break
        radius = rng.uniform(*_RADIUS_UM) / mpp
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if any(x + radius > b[0] and x - radius < b[2] and y + radius > b[1] and y - radius < b[3] for b in boxes):
            continue
        boxes.append(_cell(density, rng, x, y, radius, mpp))
    white = float(np.percentile(image, 99.5)) / 255
    soft = cv2.GaussianBlur(density, (0, 0), 0.25 / mpp)
    colour = np.array(_BROWN, np.float32) * np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    light = image.astype(np.float32) / 255 * np.exp(-soft[..., None] * colour) + 0.02 * soft[..., None] * white
    painted = np.rint(light.clip(0, 1) * 255).astype(np.uint8)
    return Pigmented(painted, np.array(boxes, np.float64).reshape(-1, 4))


def _cell(
    density: NDArray[np.float32], rng: np.random.Generator, x: float, y: float, radius: float, mpp: float
) -> tuple[float, float, float, float]:
    """Draw the granules of one cell, and give the box around them."""
    height, width = density.shape
    reach = radius + 2 * _GRANULE_UM[1] / mpp
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    around = density[top : int(y + reach) + 1, left : int(x + reach) + 1]
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    long, short = radius, radius / aspect
    strength = rng.uniform(0.7, 1.5)
    places = []
    for _ in range(int(1.4 * (radius * mpp) ** 2) + 10):
        far, turn = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        along, across = far * long * np.cos(turn), far * short * np.sin(turn)
        gx = x + along * np.cos(angle) - across * np.sin(angle)
        gy = y + along * np.sin(angle) + across * np.cos(angle)
        size = rng.uniform(*_GRANULE_UM) / mpp
        disc = np.zeros(around.shape, np.uint8)
        centre = round((gx - left) * 16), round((gy - top) * 16)
        cv2.circle(disc, centre, round(size * 16), 255, -1, cv2.LINE_AA, 4)
        around += strength * rng.uniform(0.4, 1.0) / 255 * disc
        places.append((gx - size, gy - size, gx + size, gy + size))
    edges = np.array(places)
    return (
        float(max(0.0, edges[:, 0].min())),
        float(max(0.0, edges[:, 1].min())),
        float(min(width, edges[:, 2].max())),
        float(min(height, edges[:, 3].max())),
    )
