"""Marks on a picture: boxes, points and outlines, half transparent, that a question can speak of.

"What is inside the red box?", "Which of the numbered cells is in mitosis?": the model sees the marks because they are
in the pixels. They are drawn on a copy, at the tile's own resolution, and recorded with the request or the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qwenvl.errors import PictureError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 200, 0),
    "blue": (0, 80, 255),
    "yellow": (255, 230, 0),
    "cyan": (0, 220, 220),
    "magenta": (255, 0, 255),
    "orange": (255, 140, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
"""RGB of each colour; all of them are words that models know."""

_LINE = 0.75  # opacity of lines and dots
_FILL = 0.15  # opacity of what a box or an outline encloses
_SHIFT = 4  # OpenCV draws at sixteenths of a px
_FONT_PX = 22  # height of a capital of OpenCV's font at scale 1


class MarkKind(StrEnum):
    """What a mark looks like."""

    BOX = "box"
    """Two opposite corners."""
    POINT = "point"
    """One place."""
    OUTLINE = "outline"
    """Three corners or more, such as a lasso."""


_CORNERS = {MarkKind.BOX: (2, 2), MarkKind.POINT: (1, 1), MarkKind.OUTLINE: (3, 10_000)}


class Mark(BaseModel):
    """One mark, in px of the tile's picture (origin top-left, x right, y down)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: MarkKind
    points: tuple[tuple[float, float], ...] = Field(description="x, y in px of the picture.")
    number: int | None = Field(None, ge=0, le=999, description="Written beside the mark; None writes nothing.")
    colour: str = Field("red", description=f"One of {', '.join(COLOURS)}.")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        least, most = _CORNERS[self.kind]
        if not least <= len(self.points) <= most:
            raise ValueError(f"points: a {self.kind} has {least} to {most} points, not {len(self.points)}")
        if self.colour not in COLOURS:
            raise ValueError(f"colour: {self.colour!r} is none of {', '.join(COLOURS)}")
        return self

    @classmethod
    def box(cls, x_min: float, y_min: float, x_max: float, y_max: float, **settings: object) -> Mark:
        """A box by its corners; `settings` are number and colour."""
        return cls(kind=MarkKind.BOX, points=((x_min, y_min), (x_max, y_max)), **settings)

    @classmethod
    def point(cls, x: float, y: float, **settings: object) -> Mark:
        """A point; `settings` are number and colour."""
        return cls(kind=MarkKind.POINT, points=((x, y),), **settings)

    @classmethod
    def outline(cls, points: Sequence[tuple[float, float]], **settings: object) -> Mark:
        """A closed outline; `settings` are number and colour."""
        return cls(kind=MarkKind.OUTLINE, points=tuple(points), **settings)


def draw_marks(picture: NDArray[np.uint8], marks: Sequence[Mark]) -> NDArray[np.uint8]:
    """A copy of a picture with marks on it.

    Parameters
    ----------
    picture : uint8 array (height, width, 3)
        RGB; it stays as it is.
    marks : sequence of Mark
        Drawn in order. Parts outside the picture are cut off.

    Returns
    -------
    uint8 array of the same shape

    Raises
    ------
    PictureError
        A mark lies outside the picture altogether, so that it must be of another one.
    """
    import cv2
    import numpy as np

    drawn = np.array(picture)
    height, width = drawn.shape[:2]
    line = max(1, round(min(height, width) / 150))
    for number, mark in enumerate(marks):
        corners = np.array(mark.points, np.float64)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (high < 0).any() or (low >= (width, height)).any():
            raise PictureError(
                f"mark {number} ({mark.kind} at {low[0]:g}, {low[1]:g}) lies outside a picture of {width}x{height} px; "
                "marks are in px of the picture they are drawn on"
            )
        if mark.kind is MarkKind.BOX:
            corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
        # OpenCV has the centre of the first px at 0, this project its corner.
        at = np.round((corners - 0.5) * 2**_SHIFT).astype(np.int32)
        full, lines = np.zeros((2, height, width), np.uint8)
        if mark.kind is MarkKind.POINT:
            x, y = at[0].tolist()
            cv2.circle(lines, (x, y), (2 * line) << _SHIFT, 255, -1, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(full, [at], 255, cv2.LINE_AA, _SHIFT)
            cv2.polylines(lines, [at], True, 255, line, cv2.LINE_AA, _SHIFT)
        opacity = np.maximum(full * _FILL, lines * _LINE)[..., None] / 255
        drawn = np.round(drawn * (1 - opacity) + np.array(COLOURS[mark.colour]) * opacity).astype(np.uint8)
        if mark.number is not None:
            _write(drawn, str(mark.number), low, high, line)
    result: NDArray[np.uint8] = drawn
    return result


def _write(drawn: Any, text: str, low: Any, high: Any, line: int) -> None:
    """A number beside a mark, white with a black rim, so that it can be read on any stain."""
    import cv2

    height, width = drawn.shape[:2]
    scale = max(10.0, min(height, width) / 24) / _FONT_PX
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    # Above the mark where there is room, else below it; always within the picture.
    y = low[1] - 2 * line if low[1] - 2 * line >= tall + line else high[1] + tall + 3 * line
    place = (int(min(max(low[0], line), width - wide - line)), int(min(max(y, tall + line), height - line)))
    for colour, thick in (((0, 0, 0), 3 * line + 2), ((255, 255, 255), line)):
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
