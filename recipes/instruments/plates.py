"""Printed labels: slide and plate labels, and small tables of values."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from recipes.instruments.camera import grey
from recipes.instruments.displays import SCALE
from recipes.instruments.scene import Scene, Shown
from recipes.instruments.writing import draw_text

STAINS = ("HE", "PAS", "Ki67", "HER2", "CD3", "CD20")
ROWS = (("Na", "mM", 1, 120, 160), ("K", "mM", 2, 3, 6), ("pH", None, 2, 6.8, 7.8), ("Glc", "mM", 1, 2, 20))


def draw_plate(size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """A slide's label: case, block, stain and date."""
    case = f"S{rng.integers(18, 27)}-{rng.integers(1, 99999):05d}"
    day = date(2018, 1, 1) + timedelta(days=int(rng.integers(0, 3000)))
    lines = [
        ("case", case, None),
        ("block", f"{'ABCDEF'[rng.integers(6)]}{rng.integers(1, 10)}", None),
        ("stain", str(rng.choice(STAINS)), None),
        ("date", day.isoformat(), None),
    ]
    return _printed("plate", [(field, "", text, unit) for field, text, unit in lines], size, rng)


def draw_table(size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """A printout of values: name, number and unit in each row."""
    rows = []
    for field, unit, decimals, low, high in ROWS:
        rows.append((field, field, f"{rng.uniform(low, high):.{decimals}f}", unit))
    return _printed("table", rows, size, rng)


def _printed(
    kind: str, lines: list[tuple[str, str, str, str | None]], size: tuple[int, int], rng: np.random.Generator
) -> Scene:
    """Lines of (field, name before the value, value, unit after it) on paper."""
    width, height = size
    canvas = grey(height * SCALE, width * SCALE, rng)
    paper = np.clip(rng.uniform(215, 250) + rng.normal(0, 5, 3), 0, 255)
    edge_x, edge_y = 0.06 * width, 0.07 * height
    top, left = round(edge_y * SCALE), round(edge_x * SCALE)
    canvas[top : round((height - edge_y) * SCALE), left : round((width - edge_x) * SCALE)] = paper
    ink = rng.uniform(0, 70, 3)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    pitch = (height - 2 * edge_y) / (len(lines) + 0.4)
    high = min(0.5 * pitch, 0.085 * width)
    shown = []
    for number, (field, name, text, unit) in enumerate(lines):
        y = edge_y + pitch * (number + 0.4)
        x = edge_x + 0.05 * width
        if name:
            draw_text(mask, name, (x, y), high, scale=SCALE)
            x += 0.26 * width
        box = draw_text(mask, text, (x, y), high, scale=SCALE)
        if unit:
            draw_text(mask, unit, (box[2] + 0.05 * width, y), high, scale=SCALE)
        try:
            value: float | None = float(text) if kind == "table" else None
        except ValueError:
            value = None
        shown.append(Shown(field, text, unit, box, value=value))
    share = (mask.astype(np.float32) / 255)[..., None]
    canvas[:] = (canvas * (1 - share) + share * ink.astype(np.float32)).astype(np.uint8)
    return Scene(kind, canvas, tuple(shown))
