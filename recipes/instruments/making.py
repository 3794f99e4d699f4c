"""Photographs with known values, one by one and as a set on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.instruments.camera import TRIPOD, Camera, grey
from recipes.instruments.displays import KINDS as DISPLAYS
from recipes.instruments.displays import QUANTITIES, SCALE, Line, Measured, draw_panel
from recipes.instruments.gauges import SCALES, draw_gauge
from recipes.instruments.plates import draw_plate, draw_table
from recipes.instruments.scene import Scene
from workflows.science.instruments.errors import TruthError
from workflows.science.instruments.truth import TRUTH, PhotographTruth, ReadingTruth, ValueTruth
from workflows.store.folder import PARTIAL

KINDS = (*DISPLAYS, "gauge", "plate", "table", "none")
"""What can be photographed; 'none' is a photograph without an instrument."""
TRAINING_SEED = 1_000_000
"""Photographs to learn from have this seed or a greater one, those to measure with a smaller one."""
_TRIES = 20  # a camera that cuts characters off takes another photograph


@dataclass(frozen=True)
class Factory:
    """What is photographed, and how.

    Attributes
    ----------
    kinds : tuple of str
        Of `KINDS`; several stand for an even mix.
    size : tuple of int
        Width and height in px.
    unit_share : float
        Share of the panels with one display that show its unit; those with several always do.
    empty_share : float
        Share of photographs without an instrument, among displays.
    most_lines : int
        Panels have 1 to so many displays, equally often.
    instrument : int, optional
        All photographs show this one instrument, whose values change; None shows another one each time.
    camera : Camera, optional
        None takes a camera in the hand, and before one instrument a camera on a tripod.
    """

    kinds: tuple[str, ...] = DISPLAYS
    size: tuple[int, int] = (256, 256)
    unit_share: float = 0.5
    empty_share: float = 0.04
    most_lines: int = 3
    instrument: int | None = None
    camera: Camera | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise TruthError(f"kinds {', '.join(unknown) or '(none)'}: known are {', '.join(KINDS)}")
        if not 1 <= self.most_lines <= len(QUANTITIES):
            raise TruthError(f"most_lines {self.most_lines}: 1 to {len(QUANTITIES)}")
        if min(self.size) < 64 or max(self.size) > 4096:
            raise TruthError(f"size {self.size[0]} x {self.size[1]}: sides of 64 to 4096 px")

    def photograph(self, seed: int) -> Scene:
        """The photograph of a seed: always the same."""
        rng = np.random.default_rng([seed, 77])
        kind = str(rng.choice(self.kinds))
        if kind in DISPLAYS and rng.random() < self.empty_share:
            kind = "none"
        size = self.size
        camera = self.camera or (Camera() if self.instrument is None else TRIPOD)
        for _ in range(_TRIES):
            scene = camera.take(self._scene(kind, size, rng), size, rng, scale=SCALE)
            boxes = [box for one in scene.shown for box in (one.box, *(c.box for c in one.characters))]
            if all(_inside(box, size) for box in boxes):
                break
        return scene

    def _scene(self, kind: str, size: tuple[int, int], rng: np.random.Generator) -> Scene:
        if kind in DISPLAYS:
            if self.instrument is None:
                return draw_panel(kind, self._lines(rng), size, rng)
            # Everything that belongs to the instrument is drawn anew from its own number, the same every time.
            own = np.random.default_rng([self.instrument, 78])
            lines = [_in_place(line, rng) for line in self._lines(own)]
            return draw_panel(str(own.choice(self.kinds)), lines, size, own)
        if kind == "gauge":
            return draw_gauge(SCALES[int(rng.integers(len(SCALES)))], size, rng)
        if kind == "plate":
            return draw_plate(size, rng)
        if kind == "table":
            return draw_table(size, rng)
        return Scene("none", grey(size[1] * SCALE, size[0] * SCALE, rng))

    def _lines(self, rng: np.random.Generator) -> list[Line]:
        """What a panel shows: different quantities, each with its unit where there are several."""
        count = int(rng.integers(1, self.most_lines + 1))
        chosen = rng.permutation(len(QUANTITIES))[:count]
        named = count > 1 or bool(rng.random() < self.unit_share)
        return [Line(QUANTITIES[int(i)], QUANTITIES[int(i)].draw(rng), named) for i in chosen]


def _in_place(line: Line, rng: np.random.Generator) -> Line:
    """Another value on the same display: its last digit always stands in the same place."""
    quantity = line.quantity
    decimals = max(quantity.decimals)
    fixed = Measured(quantity.field, quantity.unit, (decimals,), quantity.low, quantity.high)
    widest = max(len(f"{value:.{decimals}f}") for value in (quantity.low, quantity.high))
    return Line(quantity, fixed.draw(rng).rjust(widest), line.unit_shown)


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def make_set(
    folder: Path, factory: Factory, count: int, seed: int, *, lossless: bool = False, overwrite: bool = False
) -> ReadingTruth:
    """Write photographs with their truth.

    Parameters
    ----------
    folder : Path
        New or empty; gets `photographs/` and the truth.
    count : int
    seed : int
        Photograph k has seed `seed` + k.
    lossless : bool
        PNG in place of JPEG (quality 95).

    Raises
    ------
    TruthError
        The folder holds something already.
    """
    from PIL import Image

    taken = folder.exists() and any(folder.iterdir())
    ours = (folder / TRUTH).is_file() or (folder / (TRUTH + PARTIAL)).is_file()
    if taken and not (overwrite and ours):
        raise TruthError(f"{folder} is not empty; name a new folder" + (", or say --overwrite" if ours else ""))
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    (folder / (TRUTH + PARTIAL)).touch()
    rows = []
    for number in range(count):
        scene = factory.photograph(seed + number)
        name = f"photographs/{seed + number:07d}.{'png' if lossless else 'jpg'}"
        Image.fromarray(scene.pixels).save(folder / name, quality=95)  # PNG takes no notice of it
        rows.append(truth_of(scene, name))
    truth = ReadingTruth(made_by=_facts(factory, count, seed), photographs=tuple(rows))
    truth.save(folder)
    (folder / (TRUTH + PARTIAL)).unlink(missing_ok=True)
    return truth


def truth_of(scene: Scene, name: str) -> PhotographTruth:
    """The truth of a photograph under the name of its file."""
    height, width, _ = scene.pixels.shape
    return PhotographTruth(
        name=name,
        kind=scene.kind,
        width=width,
        height=height,
        values=tuple(
            ValueTruth(
                field=one.field,
                text=one.text,
                value=one.value,
                unit=one.unit,
                box=_clipped(one.box, width, height),
                tolerance=one.tolerance,
                characters=tuple((c.text, _clipped(c.box, width, height)) for c in one.characters),
            )
            for one in scene.shown
        ),
    )


def _clipped(box: tuple[float, ...], width: int, height: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return (
        round(min(max(x0, 0), width), 2),
        round(min(max(y0, 0), height), 2),
        round(min(max(x1, 0), width), 2),
        round(min(max(y1, 0), height), 2),
    )


def _facts(factory: Factory, count: int, seed: int) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(factory.__dict__, default=lambda value: value.__dict__))
    return {"factory": facts, "count": count, "seed": seed}
