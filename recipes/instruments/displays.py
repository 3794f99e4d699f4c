"""Digit displays: seven-segment LCD and LED, and dot-matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.instruments.camera import grey
from recipes.instruments.glyphs import Shape, dot_matrix, point_shape, seven_segments
from recipes.instruments.scene import Box, Character, Pixels, Scene, Shown, around
from recipes.instruments.writing import draw_text

SCALE = 2
"""How many times larger than the photograph a scene is drawn."""
KINDS = ("seven-segment", "dot-matrix")


@dataclass(frozen=True)
class Measured:
    """A quantity that displays show.

    Attributes
    ----------
    field, unit : str
    decimals : tuple of int
        Numbers of decimals that occur.
    low, high : float
        Range of the values.
    """

    field: str
    unit: str
    decimals: tuple[int, ...]
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> str:
        """A value as text; every number of digits is equally likely, so that all digits stand everywhere."""
        decimals = int(rng.choice(self.decimals))
        most = len(f"{self.high:.0f}")
        for _ in range(100):
            size = 10.0 ** int(rng.integers(1, most + 1))
            value = rng.uniform(size / 10 if size > 10 else 0.0, size)
            if self.low < 0 and rng.random() < 0.2:
                value = -value / 10
            if self.low <= value <= self.high:
                break
        text = f"{value:.{decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text


QUANTITIES = (
    Measured("temperature", "°C", (1,), -20, 150),
    Measured("humidity", "%", (0, 1), 0, 100),
    Measured("mass", "g", (2,), 0, 99),
    Measured("acidity", "pH", (2,), 0, 14),
    Measured("speed", "rpm", (0,), 0, 9999),
)


@dataclass(frozen=True)
class Line:
    """A value that a panel shows; spaces before it are places that stay dark."""

    quantity: Measured
    text: str
    unit_shown: bool


def draw_panel(kind: str, lines: Sequence[Line], size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """A panel with a display per line, drawn `SCALE` times as large, its boxes in px of `size`.

    Parameters
    ----------
    kind : str
        Of `KINDS`.
    lines : sequence of Line
        From the top.
    size : tuple of int
        Width and height of the photograph.
    """
    width, height = size
    canvas = grey(height * SCALE, width * SCALE, rng)
    ink = _Ink.draw(kind, rng)
    body = (rng.uniform(30, 230) + rng.normal(0, 10, 3)).clip(0, 255)
    margin = rng.uniform(0.02, 0.08, 2) * size
    _fill(canvas, (margin[0], margin[1], width - margin[0], height - margin[1]), body)
    style = _Style.draw(kind, rng)
    band = (height - 2 * margin[1]) / len(lines)
    tall = rng.uniform(0.45, 0.68) * min(band, 0.28 * height)
    marks = _Marks(np.zeros(canvas.shape[:2], np.uint8), np.zeros(canvas.shape[:2], np.uint8))
    shown = []
    for number, line in enumerate(lines):
        room = (margin[0], margin[1] + number * band, width - margin[0], margin[1] + (number + 1) * band)
        shown.append(_draw_line(canvas, marks, line, room, tall, style, ink, rng))
    if rng.random() < 0.5:
        glow = cv2.GaussianBlur(marks.lit, (0, 0), 0.06 * tall * SCALE)
        _blend(canvas, np.asarray(glow, np.uint8), ink.lit, 0.35)
    if ink.ghosts:
        _blend(canvas, marks.faint, ink.lit, ink.ghosts)
    _blend(canvas, marks.lit, ink.lit, ink.strength)
    return Scene(kind, canvas, tuple(shown))


@dataclass(frozen=True)
class _Ink:
    """Colours of a panel's displays."""

    lit: NDArray[np.float64]
    screen: NDArray[np.float64]
    ghosts: float
    strength: float

    @classmethod
    def draw(cls, kind: str, rng: np.random.Generator) -> _Ink:
        lit, screen = _colours(rng)
        ghosts = rng.uniform(0.03, 0.1) if kind == "seven-segment" and rng.random() < 0.4 else 0.0
        return cls(lit, screen, ghosts, rng.uniform(0.85, 1.0))


@dataclass(frozen=True, eq=False)
class _Marks:
    """Where segments are lit, and where unlit ones shine through."""

    lit: Pixels
    faint: Pixels


def _draw_line(
    canvas: Pixels,
    marks: _Marks,
    line: Line,
    room: tuple[float, ...],
    tall: float,
    style: _Style,
    ink: _Ink,
    rng: np.random.Generator,
) -> Shown:
    """One display within `room`; its characters go into `marks`."""
    left, top, right, bottom = room
    unit, text, wide = line.quantity.unit, line.text, right - left
    advance = style.advance * tall
    unit_width = (0.35 + 0.28 * len(unit)) * tall if line.unit_shown else 0.0
    whole = sum(c != "." for c in text) * advance + unit_width
    if whole > 0.86 * wide:
        shrink = 0.86 * wide / whole
        tall, advance, unit_width, whole = (tall * shrink, advance * shrink, unit_width * shrink, whole * shrink)
    x = left + (wide - whole) * rng.uniform(0.12, 0.88)
    y = top + (bottom - top - tall) * rng.uniform(0.3, 0.7)
    edge = rng.uniform(0.08, 0.22, 4) * tall
    _fill(canvas, (x - edge[0], y - edge[1], x + whole + edge[2], y + tall + edge[3]), ink.screen)
    base = y + tall
    characters = []
    for character in text:
        glyph = style.width * tall
        if character == " ":
            if ink.ghosts:
                begin = x + (advance - glyph) / 2
                _paint(marks.faint, style.shapes("8"), (begin, y, begin + glyph, base), style.slant, base)
            x += advance
            continue
        if character == ".":
            side = style.thickness * glyph * 1.15
            box = (x - side / 2, base - side, x + side / 2, base)
            _paint(marks.lit, point_shape(), box, 0.0, base)
            characters.append(Character(character, box))
            continue
        begin = x + (advance - glyph) / 2
        box = (begin, y, begin + glyph, base)
        _paint(marks.lit, style.shapes(character), box, style.slant, base)
        if ink.ghosts:
            _paint(marks.faint, style.shapes("8"), box, style.slant, base)
        x += advance
        characters.append(Character(character, _slanted(box, style.slant, base)))
    around_all = around([c.box for c in characters])
    if line.unit_shown:
        high = tall * rng.uniform(0.38, 0.5)
        at = (x + 0.12 * tall, y + (tall - high if rng.random() < 0.5 else 0.0))
        characters.append(Character(unit, draw_text(marks.lit, unit, at, high, scale=SCALE)))
    return Shown(
        line.quantity.field, text.strip(), unit if line.unit_shown else None, around_all, tuple(characters), float(text)
    )


@dataclass(frozen=True)
class _Style:
    """Of the characters, in shares of their height."""

    kind: str
    width: float
    advance: float
    thickness: float
    gap: float
    slant: float

    @classmethod
    def draw(cls, kind: str, rng: np.random.Generator) -> _Style:
        width = rng.uniform(0.5, 0.62)
        slant = rng.uniform(0.0, 0.14) if kind == "seven-segment" and rng.random() < 0.5 else 0.0
        thickness = rng.uniform(0.2, 0.3) if kind == "seven-segment" else 0.24
        return cls(kind, width, width * rng.uniform(1.3, 1.5), thickness, rng.uniform(0.01, 0.05), slant)

    def shapes(self, character: str) -> list[Shape]:
        if self.kind == "seven-segment":
            return seven_segments(character, thickness=self.thickness, gap=self.gap)
        return dot_matrix(character, fill=0.86)


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the characters and of the screen: dark on light (LCD), or bright on dark (LED)."""
    if rng.random() < 0.5:
        screen = np.array([165, 180, 150]) + rng.uniform(-35, 45) + rng.normal(0, 8, 3)
        return rng.uniform(5, 50, 3), screen.clip(0, 255)
    hue = np.array([(255, 40, 30), (60, 255, 80), (80, 170, 255), (255, 190, 40), (235, 240, 245)])[rng.integers(5)]
    return (hue * rng.uniform(0.8, 1.0)).astype(float), rng.uniform(0, 40, 3)


def _slanted(box: Box, slant: float, base: float) -> Box:
    x0, y0, x1, y1 = box
    return x0 + slant * (base - y1), y0, x1 + slant * (base - y0), y1


def _paint(mask: Pixels, shapes: list[Shape], box: Box, slant: float, base: float) -> None:
    x0, y0, x1, y1 = box
    for shape in shapes:
        y = y0 + shape[:, 1] * (y1 - y0)
        x = x0 + shape[:, 0] * (x1 - x0) + slant * (base - y)
        corners = np.rint(np.stack([x, y], 1) * SCALE * 16).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA, shift=4)


def _fill(canvas: Pixels, box: tuple[float, ...], colour: NDArray[np.float64]) -> None:
    x0, y0, x1, y1 = (round(v * SCALE) for v in box)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), [float(v) for v in colour], -1)


def _blend(canvas: Pixels, mask: Pixels, colour: NDArray[np.float64], strength: float) -> None:
    share = (mask.astype(np.float32) * (strength / 255))[..., None]
    canvas[:] = canvas * (1 - share) + share * colour.astype(np.float32)
