"""From dye to pixels: Beer-Lambert absorption and the habits of one scanner."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
RgbImage = NDArray[np.uint8]

HEMATOXYLIN = (0.63, 0.71, 0.31)
"""Optical density of hematoxylin in R, G, B (Ruifrok and Johnston, Anal Quant Cytol Histol 23, 2001)."""
EOSIN = (0.18, 0.90, 0.40)
"""Eosin; redder than in that paper, which is how most laboratories' slides look."""

Vector = tuple[float, float, float]


def _unit(vector: NDArray[np.float64]) -> Vector:
    v = np.clip(vector, 0.01, None)
    v = v / np.linalg.norm(v)
    return float(v[0]), float(v[1]), float(v[2])


@dataclass(frozen=True)
class Scanner:
    """One laboratory's stain and one scanner's optics.

    Attributes
    ----------
    hematoxylin, eosin : tuple of 3 float
        Directions in optical density space (natural logarithm), R, G, B.
    hematoxylin_gain, eosin_gain : float
        How much of each dye the section took up; 1 is ordinary.
    white : tuple of 3 float
        Intensity of empty glass, 0..1: brightness and white balance.
    gamma : float
        Exponent of the tone curve; 1 is linear in transmitted light.
    blur_um : float
        Standard deviation of the point spread, in um.
    sharpen : float
        Strength of the unsharp mask of the scanner software; 0 is none.
    noise : float
        Standard deviation of the sensor noise, 0..1.
    """

    hematoxylin: Vector = HEMATOXYLIN
    eosin: Vector = EOSIN
    hematoxylin_gain: float = 1.0
    eosin_gain: float = 1.0
    white: Vector = (0.95, 0.94, 0.95)
    gamma: float = 1.0
    blur_um: float = 0.22
    sharpen: float = 0.0
    noise: float = 0.008

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scanner:
        """Draw a plausible laboratory and scanner."""
        bright = rng.uniform(0.88, 0.985)
        return cls(
            hematoxylin=_unit(np.array(HEMATOXYLIN) + rng.normal(0, (0.05, 0.05, 0.06))),
            eosin=_unit(np.array(EOSIN) + rng.normal(0, (0.06, 0.05, 0.08))),
            hematoxylin_gain=float(np.exp(rng.normal(0.0, 0.16))),
            eosin_gain=float(np.exp(rng.normal(0.0, 0.2))),
            white=tuple(np.clip(bright + rng.normal(0, 0.012, 3), 0.8, 1.0).tolist()),
            gamma=float(np.exp(rng.normal(0, 0.09))),
            blur_um=float(rng.uniform(0.12, 0.36)),
            sharpen=float(max(0.0, rng.normal(0.25, 0.35))),
            noise=float(rng.uniform(0.002, 0.016)),
        )

    def transmit(self, hematoxylin: FloatImage, eosin: FloatImage) -> FloatImage:
        """Light that passes the section: (h, w) dye amounts -> (h, w, 3) float32 RGB in 0..1."""
        vectors = np.array([_unit(np.array(self.hematoxylin)), _unit(np.array(self.eosin))], np.float32)
        vectors *= np.float32(self.gamma) * np.array([[self.hematoxylin_gain], [self.eosin_gain]], np.float32)
        out = np.empty((*hematoxylin.shape, 3), np.float32)
        for channel in range(3):
            density = hematoxylin * -vectors[0, channel] - eosin * vectors[1, channel]
            density += np.float32(self.gamma * np.log(self.white[channel]))
            out[..., channel] = np.exp(density)
        return out

    def expose(self, light: FloatImage, sensor: FloatImage, mpp: float) -> RgbImage:
        """Optics and sensor: (h, w, 3) light and (h, w) unit noise -> uint8 RGB."""
        sigma = self.blur_um / mpp
        if sigma > 0.15:
            light = np.asarray(cv2.GaussianBlur(light, _kernel(sigma), sigma), np.float32)
        if self.sharpen > 0.05:
            soft = cv2.GaussianBlur(light, (5, 5), 1.0)
            sharp = cv2.addWeighted(light, 1.0 + self.sharpen, soft, -self.sharpen, 0.0)
            light = np.asarray(sharp, np.float32)
        grain = sensor * np.float32(255 * self.noise) + np.float32(0.5)
        out = light * np.float32(255.0)
        out += grain[..., None]
        np.clip(out, 0, 255, out=out)
        return out.astype(np.uint8)


def _kernel(sigma: float) -> tuple[int, int]:
    k = 2 * int(np.ceil(2.5 * sigma)) + 1
    return k, k


def jpeg_roundtrip(image: RgbImage, quality: int) -> RgbImage:
    """The picture after one JPEG compression (4:2:0), as every scanner file has seen it."""
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])
