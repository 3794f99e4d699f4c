"""Analogue gauges: a dial with ticks and numbers, and a needle between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from recipes.instruments.camera import grey
from recipes.instruments.displays import SCALE
from recipes.instruments.scene import Scene, Shown
from recipes.instruments.writing import draw_text

_BEGIN, _SWEEP = 135.0, 270.0
"""Angle of the lowest value and of the whole scale in degrees, clockwise from the right."""


@dataclass(frozen=True)
class Scale:
    """A gauge's scale.

    Attributes
    ----------
    field, unit : str
    low, high : float
        Values at the ends of the scale.
    major, minor : float
        Steps of the numbered and of the small ticks.
    """

    field: str
    unit: str
    low: float
    high: float
    major: float
    minor: float

    def angle(self, value: float) -> float:
        """Direction of a value in radians, clockwise from the right."""
        return math.radians(_BEGIN + _SWEEP * (value - self.low) / (self.high - self.low))


SCALES = (
    Scale("pressure", "bar", 0, 10, 2, 0.5),
    Scale("pressure", "bar", 0, 4, 1, 0.2),
    Scale("temperature", "°C", 0, 120, 20, 5),
    Scale("vacuum", "mbar", 0, 1000, 200, 50),
)


def draw_gauge(scale: Scale, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """One gauge, drawn `SCALE` times as large. Its value is read to a fifth of a small tick."""
    width, height = size
    canvas = grey(height * SCALE, width * SCALE, rng)
    step = scale.minor / 5
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    value = round(rng.uniform(scale.low, scale.high) / step) * step
    radius = rng.uniform(0.36, 0.44) * min(size)
    x, y = width / 2 + rng.uniform(-0.04, 0.04) * width, height / 2 + rng.uniform(-0.04, 0.04) * height
    face = np.full(3, rng.uniform(205, 250)) + rng.normal(0, 4, 3)
    ink = rng.uniform(0, 60, 3)

    def at(angle: float, share: float) -> tuple[int, int]:
        reach = share * radius
        return round((x + reach * math.cos(angle)) * SCALE * 16), round((y + reach * math.sin(angle)) * SCALE * 16)

    centre = at(0, 0)
    for share, colour in ((1.0, rng.uniform(20, 190, 3)), (0.92, face)):
        cv2.circle(canvas, centre, round(radius * share * SCALE * 16), _colour(colour), -1, cv2.LINE_AA, 4)
    for number in range(round((scale.high - scale.low) / scale.minor) + 1):
        tick = scale.low + number * scale.minor
        numbered = abs(tick / scale.major - round(tick / scale.major)) < 1e-6
        angle = scale.angle(tick)
        thick = max(1, round(radius * SCALE * (0.03 if numbered else 0.015)))
        begin, end = at(angle, 0.74 if numbered else 0.8), at(angle, 0.87)
        cv2.line(canvas, begin, end, _colour(ink), thick, cv2.LINE_AA, 4)
        if numbered:
            mask = np.zeros(canvas.shape[:2], np.uint8)
            words, high = f"{tick:g}", 0.115 * radius
            left = x + 0.58 * radius * math.cos(angle) - 0.32 * high * len(words)
            draw_text(mask, words, (left, y + 0.58 * radius * math.sin(angle) - high / 2), high, scale=SCALE)
            canvas[:] = np.where(mask[..., None] > 127, ink.astype(np.uint8), canvas)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    draw_text(mask, scale.unit, (x - 0.1 * radius * len(scale.unit) / 2, y + 0.35 * radius), 0.13 * radius, scale=SCALE)
    canvas[:] = np.where(mask[..., None] > 127, ink.astype(np.uint8), canvas)
    angle = scale.angle(value)
    needle = (200.0, 20.0, 20.0) if rng.random() < 0.5 else tuple(float(v) for v in ink)
    tip, tail = at(angle, 0.76), at(angle + math.pi, 0.18)
    cv2.line(canvas, tail, tip, needle, max(2, round(radius * SCALE * 0.035)), cv2.LINE_AA, 4)
    cv2.circle(canvas, centre, round(radius * 0.07 * SCALE * 16), _colour(ink), -1, cv2.LINE_AA, 4)
    shown = Shown(
        scale.field,
        f"{value:.{decimals}f}",
        scale.unit,
        (x - radius, y - radius, x + radius, y + radius),
        value=float(f"{value:.{decimals}f}"),
        tolerance=scale.minor / 2,
    )
    return Scene("gauge", canvas, (shown,))


def _colour(colour: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in np.clip(colour, 0, 255))
    return first, second, third  # the canvas is RGB throughout; OpenCV only sees three channels
