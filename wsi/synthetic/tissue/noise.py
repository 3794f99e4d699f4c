"""World-anchored randomness: a hash for objects and periodic textures for everything between them.

Nothing here depends on the window that is asked for. A pixel or a grid cell has the same value in
every window that holds it, which is what makes windows of one slide agree at their seams.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

FloatImage = NDArray[np.float32]

BASE_MPP = 0.25
"""Texel size of the textures as they are made, in um; other scales are averages of it."""

_LARGE = 2048  # texels: 512 um, for whatever is visible at low magnification
_SMALL = 512  # texels: 128 um, for grain that nobody can follow by eye
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_uniform(ix: NDArray[np.int64], iy: NDArray[np.int64], seed: int, streams: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) that belong to integer cells.

    Parameters
    ----------
    ix, iy : int64 arrays of one shape
        Cell indices, negative ones included.
    seed : int
        Seed of the world.
    streams : int
        How many independent numbers each cell gets.

    Returns
    -------
    float64 array, shape (streams, *ix.shape)
    """
    with np.errstate(over="ignore"):
        key = np.uint64(seed & 0xFFFFFFFFFFFFFFFF) * np.uint64(0x9E3779B97F4A7C15)
        cell = _mix(ix.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03) + key)
        cell = _mix(cell ^ (iy.astype(np.uint64) * np.uint64(0xABC98388FB8FAC03)))
        steps = np.arange(1, streams + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(cell[None] + steps.reshape(-1, *([1] * ix.ndim)))
    return (bits >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def _band_noise(rng: np.random.Generator, n: int, low_um: float, high_um: float, mpp: float) -> FloatImage:
    """Periodic Gaussian noise with wavelengths of about low_um..high_um; zero mean, unit variance."""
    fx = fft.rfftfreq(n, mpp).astype(np.float32)
    fy = fft.fftfreq(n, mpp).astype(np.float32)
    square = fy[:, None] ** 2 + fx[None, :] ** 2
    spectrum = np.exp(-square * np.float32(low_um**2)) * -np.expm1(-square * np.float32(high_um**2))
    white = fft.rfft2(rng.standard_normal((n, n), np.float32))
    out = fft.irfft2(white * spectrum, s=(n, n))
    return np.asarray((out - out.mean()) / out.std(), np.float32)


def _look_up(image: FloatImage, x: FloatImage, y: FloatImage) -> FloatImage:
    """A periodic texture at positions 0 <= x, y < n, bilinear."""
    # Padding instead of BORDER_WRAP, whose result is not the same in all OpenCV versions.
    wrapped = np.pad(image, 1, mode="wrap")
    found = cv2.remap(wrapped, x + 1, y + 1, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def _line_integral(noise: FloatImage, cos: FloatImage, sin: FloatImage, steps: int, step: float) -> FloatImage:
    """Smear noise along a direction field (line integral convolution, Cabral and Leedom 1993), periodic."""
    n = noise.shape[0]
    axis = np.arange(n, dtype=np.float32)
    start_x, start_y = np.meshgrid(axis, axis)
    total = noise.copy()
    for sign in (step, -step):
        x, y = start_x.copy(), start_y.copy()
        for _ in range(steps):
            column, row = x.astype(np.int32), y.astype(np.int32)
            at = row * n + column
            x += cos.ravel()[at] * np.float32(sign)
            y += sin.ravel()[at] * np.float32(sign)
            x -= np.floor(x * np.float32(1 / n)) * np.float32(n)
            y -= np.floor(y * np.float32(1 / n)) * np.float32(n)
            # Rounding may have left exactly n
            np.minimum(x, np.float32(n - 0.001), out=x)
            np.minimum(y, np.float32(n - 0.001), out=y)
            total += _look_up(noise, x, y)
    return ((total - total.mean()) / total.std()).astype(np.float32)


def _worley(rng: np.random.Generator, n: int, mpp: float, pitch_um: float, jitter: float) -> FloatImage:
    """Distance in um to the border between periodic Voronoi cells (second minus first distance, halved)."""
    period = n * mpp
    count = max(2, round(period / pitch_um))
    pitch = period / count
    centres = np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2) + 0.5
    centres[:, 0] += 0.5 * (centres[:, 1].astype(int) % 2)
    centres = np.mod((centres + rng.uniform(-jitter, jitter, centres.shape)) * pitch, period)
    axis = (np.arange(n) + 0.5) * mpp
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    distance, _ = cKDTree(centres, boxsize=period).query(points, k=2)
    return (0.5 * (distance[:, 1] - distance[:, 0])).reshape(n, n).astype(np.float32)


def _bent(rng: np.random.Generator, image: FloatImage, amount: float) -> FloatImage:
    """Displace a periodic texture by smooth noise of `amount` texels, so that straight walls curve."""
    n = image.shape[0]
    axis = np.arange(n, dtype=np.float32)
    x = axis[None] + amount * _band_noise(rng, n, 22.0, 90.0, 1.0)
    y = axis[:, None] + amount * _band_noise(rng, n, 22.0, 90.0, 1.0)
    return _look_up(image, np.mod(x, np.float32(n)), np.mod(y, np.float32(n)))


def _upsample(image: FloatImage, n: int) -> FloatImage:
    """Enlarge a periodic texture to n texels without a seam at its border."""
    pad = 4
    wrapped = np.pad(image, pad, mode="wrap")
    factor = n // image.shape[0]
    size = wrapped.shape[0] * factor
    big = cv2.resize(wrapped, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[pad * factor : pad * factor + n, pad * factor : pad * factor + n])


@lru_cache(maxsize=1)
def _base_textures() -> dict[str, FloatImage]:
    """All textures at 0.25 um per texel. They are the same in every world; worlds start elsewhere in them."""
    rng = np.random.default_rng(20240611)
    half = _LARGE // 2
    bend = _band_noise(rng, half, 95, 400, 0.5) * 0.8 + _band_noise(rng, half, 15, 36, 0.5) * 0.3
    cos, sin = np.cos(bend), np.sin(bend)
    fine = _line_integral(_band_noise(rng, half, 0.9, 2.6, 0.5), cos, sin, 12, 1.3)
    bundle = _line_integral(_band_noise(rng, half, 2.4, 11.0, 0.5), cos, sin, 13, 2.6)
    return {
        "grain": _band_noise(rng, _SMALL, 0.7, 2.5, BASE_MPP),
        "chromatin": _band_noise(rng, _SMALL, 1.0, 3.2, BASE_MPP),
        "sensor": rng.standard_normal((_SMALL, _SMALL), np.float32),
        "cloud": _band_noise(rng, _LARGE, 9.0, 40.0, BASE_MPP),
        "mottle": _band_noise(rng, _LARGE, 2.6, 9.0, BASE_MPP),
        "wave": _band_noise(rng, _LARGE, 55.0, 160.0, BASE_MPP),
        "fibre": _upsample(fine, _LARGE),
        "bundle": _upsample(bundle, _LARGE),
        "bend": _upsample(bend.astype(np.float32), _LARGE),
        "cells": _upsample(_bent(rng, _worley(rng, _LARGE // 4, 1.0, 11.5, 0.38), 1.2), _LARGE),
        "adipocyte": _upsample(_bent(rng, _worley(rng, _LARGE // 4, 1.0, 62.0, 0.3), 2.6), _LARGE),
    }


@dataclass(frozen=True)
class Textures:
    """Periodic textures at one scale.

    Attributes
    ----------
    mpp : float
        um per texel.
    images : dict of str to float32 (n, n)
        Square and periodic in both directions; noise has zero mean and unit variance at 0.25 um per texel,
        'adipocyte' and 'cells' are distances in um, 'bend' an angle in radians.
    """

    mpp: float
    images: dict[str, FloatImage]

    def window(self, name: str, px: int, py: int, width: int, height: int) -> FloatImage:
        """The texture under a window whose corner has the global pixel index (px, py); (height, width)."""
        image = self.images[name]
        n = image.shape[0]
        x, y = px % n, py % n
        if x + width <= n and y + height <= n:
            return image[y : y + height, x : x + width]
        rows = image.take(np.arange(y, y + height), axis=0, mode="wrap")
        return rows.take(np.arange(x, x + width), axis=1, mode="wrap")

    def at(self, name: str, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> FloatImage:
        """The texture at points in um, without interpolation."""
        image = self.images[name]
        n = image.shape[0]
        ix = np.floor(x_um / self.mpp).astype(np.int64) % n
        iy = np.floor(y_um / self.mpp).astype(np.int64) % n
        return image[iy, ix]


@lru_cache(maxsize=8)
def _textures_at(step: int) -> Textures:
    mpp = BASE_MPP * 2 ** (step / 16)
    images = {}
    for name, base in _base_textures().items():
        n = round(base.shape[0] * BASE_MPP / mpp)
        how = cv2.INTER_AREA if mpp > BASE_MPP else cv2.INTER_CUBIC
        images[name] = base if step == 0 else np.asarray(cv2.resize(base, (n, n), interpolation=how), np.float32)
    images["sensor"] = _base_textures()["sensor"]
    return Textures(mpp, images)


def textures(mpp: float) -> Textures:
    """Textures for a scale, on a ladder of 16 steps per octave so that free scales do not fill the memory."""
    return _textures_at(round(16 * float(np.log2(mpp / BASE_MPP))))
