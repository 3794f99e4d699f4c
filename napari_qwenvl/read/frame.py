"""Level-0 px of a slide and world coordinates of the viewer: converted here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari import Viewer

UmPerPx = float | tuple[float, float] | None
"""Micrometres per level-0 px, one number or (x, y) as in `Slide.mpp_xy`; None where unknown."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a slide lies in the viewer.

    napari puts the centre of px 0 at the origin, while boxes count from its corner: level-0 x0 lies at world
    (x0 - 0.5) * step_x.

    Attributes
    ----------
    step_x, step_y : float
        World units per level-0 px.
    known : bool
        World units are micrometres; otherwise they are level-0 px.
    """

    step_x: float = 1.0
    step_y: float = 1.0
    known: bool = False

    @classmethod
    def of(cls, um_per_px: UmPerPx) -> Self:
        """The frame of a slide; ValueError where the scale is not positive."""
        if um_per_px is None:
            return cls()
        x, y = um_per_px if isinstance(um_per_px, tuple) else (um_per_px, um_per_px)
        if not (np.isfinite([x, y]).all() and x > 0 and y > 0):
            raise ValueError(f"{um_per_px} is not a positive number of micrometres per px.")
        return cls(float(x), float(y), True)

    @property
    def scale(self) -> tuple[float, float]:
        """`scale` of a napari layer whose px are those of level 0: (y, x)."""
        return self.step_y, self.step_x

    @property
    def units(self) -> tuple[str, str]:
        """`units` of a napari layer."""
        return ("um", "um") if self.known else ("pixel", "pixel")

    def options(self) -> dict[str, Any]:
        """Keywords of `viewer.add_*` for a layer in level-0 px whose coordinates are px centres (images)."""
        return {"scale": self.scale, "units": self.units, "axis_labels": ("y", "x")}

    def corner_options(self) -> dict[str, object]:
        """Keywords of `viewer.add_*` for shapes and points given in level-0 px from the corner of px 0."""
        return self.options() | {"translate": (-0.5 * self.step_y, -0.5 * self.step_x)}

    def to_world(self, x0: Any, y0: Any) -> tuple[Any, Any]:
        """World (y, x) of places in level-0 px."""
        return (y0 - 0.5) * self.step_y, (x0 - 0.5) * self.step_x

    def to_level0(self, world_y: Any, world_x: Any) -> tuple[Any, Any]:
        """(x0, y0) in level-0 px of places in world coordinates."""
        return world_x / self.step_x + 0.5, world_y / self.step_y + 0.5


def visible_field(viewer: Viewer, frame: Frame) -> tuple[float, float, float, float]:
    """What the canvas shows: x_min, y_min, x_max, y_max in level-0 px, not cut to the slide.

    `corner_pixels` of a layer is not this: napari widens it to whole chunks.
    """
    height, width = canvas_size(viewer)
    center_y, center_x = viewer.scene.camera.center[-2:]
    half_y, half_x = height / viewer.scene.camera.zoom / 2, width / viewer.scene.camera.zoom / 2
    x_min, y_min = frame.to_level0(center_y - half_y, center_x - half_x)
    x_max, y_max = frame.to_level0(center_y + half_y, center_x + half_x)
    return float(x_min), float(y_min), float(x_max), float(y_max)


def canvas_size(viewer: Viewer) -> tuple[int, int]:
    """Height and width of the canvas in px (of one view in grid mode)."""
    height, width = viewer.canvas.viewbox_size(viewer.layers)
    return max(1, round(float(height))), max(1, round(float(width)))


def look_at(viewer: Viewer, frame: Frame, box: Iterable[float], share: float = 0.8) -> None:
    """Bring a rectangle x0, y0, x1, y1 of level-0 px into the middle of the canvas, whole, over a share of its side."""
    height, width = canvas_size(viewer)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    sides = max((x1 - x0) * frame.step_x, 1e-9), max((y1 - y0) * frame.step_y, 1e-9)
    camera = viewer.scene.camera
    camera.zoom = share * min(width / sides[0], height / sides[1])
    camera.center = (camera.center[0], *frame.to_world((x0 + x1) / 2, (y0 + y1) / 2))


def rectangle(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners (4, 2) as (y, x) of a box x_min, y_min, x_max, y_max: the vertices of a napari rectangle."""
    x_min, y_min, x_max, y_max = box
    return np.array([[y_min, x_min], [y_min, x_max], [y_max, x_max], [y_max, x_min]], np.float64)


def box_of(vertices: NDArray[np.generic]) -> NDArray[np.float64]:
    """The upright box (4,) around vertices (n, 2) given as (y, x)."""
    low, high = np.min(vertices, axis=0), np.max(vertices, axis=0)
    return np.array([low[-1], low[-2], high[-1], high[-2]], np.float64)
