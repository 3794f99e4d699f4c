"""From a drawn instrument to a photograph: perspective, light, glare, blur, noise and JPEG, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.instruments.scene import Pixels, Scene


@dataclass(frozen=True)
class Camera:
    """How far photographs differ from the drawing.

    Attributes
    ----------
    turn : float
        Largest rotation in degrees.
    tilt : float
        Largest move of a corner by perspective, as a share of the shorter side.
    shift : float
        Largest move of the instrument, as a share of each side.
    zoom : float
        Largest change of size (0.1: from 0.9 to 1.1 times).
    light : float
        Strength of brightness, colour cast and shading; 0 none, 1 strong.
    glare : float
        Chance of a reflection.
    blur : float
        Largest blur (standard deviation) in px.
    noise : float
        Largest noise (standard deviation) in grey levels.
    jpeg : float
        Chance of JPEG compression at a quality of 40 to 95.
    """

    turn: float = 4.0
    tilt: float = 0.05
    shift: float = 0.04
    zoom: float = 0.08
    light: float = 0.6
    glare: float = 0.25
    blur: float = 0.9
    noise: float = 10.0
    jpeg: float = 0.3

    def take(self, scene: Scene, size: tuple[int, int], rng: np.random.Generator, *, scale: int) -> Scene:
        """The photograph of a scene that was drawn `scale` times as large.

        Parameters
        ----------
        size : tuple of int
            Width and height of the photograph in px.
        """
        width, height = size
        matrix = self._matrix(width, height, rng)
        enlarge = np.diag([scale, scale, 1.0])
        large = cv2.warpPerspective(
            scene.pixels,
            enlarge @ matrix @ np.linalg.inv(enlarge),
            (width * scale, height * scale),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        picture = self._lit(cv2.resize(large, size, interpolation=cv2.INTER_AREA).astype(np.float32), rng)
        sigma = rng.uniform(0, self.blur)
        if sigma > 0.2:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)
        picture += rng.normal(0, rng.uniform(0, self.noise) + 1e-6, picture.shape)
        pixels = picture.clip(0, 255).astype(np.uint8)
        if rng.random() < self.jpeg:
            _, packed = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
            pixels = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return scene.moved(pixels, matrix)

    def _matrix(self, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
        angle = np.deg2rad(rng.uniform(-self.turn, self.turn))
        zoom = 1 + rng.uniform(-self.zoom, self.zoom)
        middle = np.array([width, height]) / 2
        corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float)
        turned = (corners - middle) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        reach = self.tilt * min(width, height)
        target = turned * zoom + middle + rng.uniform(-self.shift, self.shift, 2) * (width, height)
        target = target + rng.uniform(-reach, reach, (4, 2))
        matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target.astype(np.float32))
        return np.asarray(matrix, np.float64)

    def _lit(self, picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        height, width, _ = picture.shape
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        slope = rng.uniform(-0.35, 0.35, 2) * self.light
        shade = 1 + slope[0] * (x / width - 0.5) + slope[1] * (y / height - 0.5)
        cast = 1 + rng.normal(0, 0.06, 3) * self.light
        level = 1 + rng.uniform(-0.3, 0.2) * self.light
        picture = picture * (shade[..., None] * cast * level).astype(np.float32)
        if rng.random() < self.glare:
            centre, reach = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.1, 0.3) * width
            spot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * reach**2))
            picture = picture + (rng.uniform(20, 90) * spot)[..., None].astype(np.float32)
        return np.asarray(picture, np.float32)


TRIPOD = Camera(turn=0.8, tilt=0.012, shift=0.01, zoom=0.012)
"""A camera that stays where it is, before an instrument that stays where it is; light and noise change."""
STILL = Camera(turn=0, tilt=0, shift=0, zoom=0, light=0, glare=0, blur=0, noise=0, jpeg=0)
"""A camera that changes nothing, for tests and pictures of the factory itself."""


def grey(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """A wall: one colour with soft unevenness, (height, width, 3)."""
    colour = rng.uniform(60, 220) + rng.normal(0, 12, 3)
    rough = cv2.resize(rng.normal(0, 10, (4, 6)).astype(np.float32), (width, height))
    return np.asarray((colour + rough[..., None]).clip(0, 255), np.uint8)
