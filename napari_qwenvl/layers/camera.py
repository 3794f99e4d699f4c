"""Where the camera looks, and the picture that fits what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_qwenvl.layers.raster import ScreenView
from napari_qwenvl.read.frame import Frame, canvas_size, visible_field
from wsi import Plane

if TYPE_CHECKING:
    import numpy as np
    from napari import Viewer
    from numpy.typing import NDArray

_MARGIN = 0.2
"""Drawn beyond each border of the canvas (share of its side), so that a small move shows no edge."""
_POINT_PX = 16
"""A point counts as so many level-0 px wide."""
_SMALLEST = 24
"""An object smaller than this on the canvas (px) is hard to see."""


def view_of(viewer: Viewer, frame: Frame) -> ScreenView:
    """The field with its margin, on the px of the screen."""
    x_min, y_min, x_max, y_max = visible_field(viewer, frame)
    height, width = canvas_size(viewer)
    px_x, px_y = (x_max - x_min) / width, (y_max - y_min) / height
    beyond_x, beyond_y = round(width * _MARGIN), round(height * _MARGIN)
    corner = x_min - beyond_x * px_x, y_min - beyond_y * px_y
    return ScreenView(*corner, px_x, px_y, width + 2 * beyond_x, height + 2 * beyond_y)


def stands_at(viewer: Viewer, plane: Plane) -> bool:
    """Whether the sliders stand at a plane of a stack."""
    at = dict(zip(viewer.dims.axis_labels, viewer.dims.current_step, strict=False))
    return bool(at.get("t", plane.t) == plane.t and at.get("z", plane.z) == plane.z)


def look_at_object(viewer: Viewer, frame: Frame, box0: Sequence[float] | NDArray[np.floating]) -> None:
    """Centre the camera; the zoom changes only where the object would be too small or too large to see."""
    center = frame.to_world((box0[0] + box0[2]) / 2, (box0[1] + box0[3]) / 2)
    camera = viewer.scene.camera
    side = max((box0[2] - box0[0]) * frame.step_x, (box0[3] - box0[1]) * frame.step_y)
    canvas = min(canvas_size(viewer))
    if side <= 0:
        side = _POINT_PX * frame.step_x
    shown = side * camera.zoom
    if shown < _SMALLEST or shown > canvas / 2:
        camera.zoom = canvas / 8 / side
    camera.center = (camera.center[0], *center)
