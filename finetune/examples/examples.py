"""Examples: what one row of a training batch is about, planned without pixels and loaded when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from finetune.examples.conversation import Exchange
from finetune.examples.tokens import Tokens
from qwenvl.answer import TileObject

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class ExamplePlan:
    """A row of a batch before its pixels are read.

    Attributes
    ----------
    source : str
        Name of the source it was drawn from.
    tokens : Tokens
    turn : Exchange
    load : callable
        Gives the picture, uint8 (height, width, 3); None for text alone.
    key : str or None
        The same for the same pixels; None where they will hardly come again.
    """

    source: str
    tokens: Tokens
    turn: Exchange
    load: Callable[[], Picture] | None = None
    key: str | None = None


class ExampleSource(Protocol):
    """Where examples come from."""

    name: str

    def plan(self, rng: np.random.Generator) -> ExamplePlan:
        """Draw an example; the same for the same state of `rng`."""
        ...


class Augmentation(BaseModel):
    """Changes of training tiles that leave their labels true."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: bool = Field(True, description="One of eight turns and mirrors.")
    colour: float = Field(0.0, ge=0, le=3, description="Strength of stain and brightness changes; 0 leaves colours.")
    scale: float = Field(
        1.0, ge=1, le=2, description="Tiles are cut up to this factor larger or smaller, and brought to size."
    )
    pool: int = Field(
        0,
        ge=0,
        description="Different training tiles, changes and all; they come again, and a frozen vision tower looks at "
        "each once. 0 draws anew every time.",
    )


@dataclass(frozen=True)
class MarkChange:
    """One draw of an `Augmentation`."""

    mirror: bool = False
    quarters: int = 0
    seed: int | None = None
    strength: float = 0.0

    @classmethod
    def draw(cls, settings: Augmentation, rng: np.random.Generator, *, square: bool) -> MarkChange:
        """A change; pictures that are not square are not turned by quarters."""
        mirror, quarters = bool(rng.integers(2)), int(rng.integers(4))
        coloured, seed = rng.random() < 0.85, int(rng.integers(2**31))
        if not settings.turns:
            mirror, quarters = False, 0
        elif not square:
            quarters -= quarters % 2
        return cls(mirror, quarters, seed if settings.colour and coloured else None, settings.colour)

    @property
    def key(self) -> str:
        """Part of a picture's key."""
        return f"{int(self.mirror)}{self.quarters}" + ("" if self.seed is None else f"/{self.seed}")

    def objects(self, items: Sequence[TileObject], width: int, height: int) -> tuple[TileObject, ...]:
        """Objects of a picture of `width` x `height` px after the change."""
        return tuple(self._object(item, width, height) for item in items)

    def _object(self, item: TileObject, width: int, height: int) -> TileObject:
        x0, y0, x1, y1 = item.box if item.box is not None else (*item.point, *item.point)  # type: ignore[misc]
        if self.mirror:
            x0, x1 = width - x1, width - x0
        for _ in range(self.quarters):
            # np.rot90 turns against the clock: (x, y) goes to (y, width - x)
            x0, y0, x1, y1 = y0, width - x1, y1, width - x0
            width, height = height, width
        if item.box is None:
            return replace(item, point=(x0, y0))
        return replace(item, box=(x0, y0, x1, y1))

    def picture(self, pixels: Picture) -> Picture:
        """The pixels after the change."""
        if self.mirror:
            pixels = pixels[:, ::-1]
        pixels = np.ascontiguousarray(np.rot90(pixels, self.quarters))
        if self.seed is not None:
            pixels = recolour(pixels, np.random.default_rng(self.seed), self.strength)
        return pixels


def recolour(image: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Scale each channel's optical density and brightness, as another stain and lamp would."""
    level = np.arange(256, dtype=np.float32)
    density = -np.log((level + 1) / 256)
    gain = np.exp(rng.normal(0, 0.12 * strength) + rng.normal(0, 0.08 * strength, 3))
    white = 1 + rng.normal(0, 0.03 * strength) + rng.normal(0, 0.02 * strength, 3)
    table = np.stack([256 * white[c] * np.exp(-density * gain[c]) - 1 for c in range(3)], -1)
    return np.asarray(cv2.LUT(image, table.clip(0, 255).astype(np.uint8)[None]), np.uint8)
