"""Which objects pass the filters, and which one lies at a place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.raster import rows_in

if TYPE_CHECKING:
    from napari import Viewer
    from napari.utils.events import Event

_CLICK_PX = 4
"""A mouse that moved further (px of the canvas) was dragged."""


@dataclass(frozen=True)
class Filter:
    """Labels, least score and states that are shown; None does not filter."""

    labels: set[str] | None = None
    min_score: float | None = None
    states: set[int] | None = None

    def passes(self, objects: Objects, labels: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each object passes; `labels` is what `objects.label` indexes. Unknown scores are not low."""
        keep = np.ones(len(objects), bool)
        if self.labels is not None and len(objects):
            known = np.zeros(max(int(objects.label.max()) + 1, len(labels)), bool)
            known[[code for code, label in enumerate(labels) if label in self.labels]] = True
            keep &= known[objects.label]
        if self.min_score is not None:
            keep &= ~(objects.score < self.min_score)
        if self.states is not None:
            keep &= np.isin(np.arange(-128, 128), list(self.states))[objects.state.astype(np.int16) + 128]
        return keep


def nearest(
    objects: Objects, keep: NDArray[np.bool_], place0: tuple[float, float], reach0: tuple[float, float]
) -> int | None:
    """Row of the smallest box around a place, else of the nearest small one within reach; all in level-0 px."""
    (x0, y0), (reach_x, reach_y) = place0, reach0
    rows = rows_in(objects, keep, (x0 - reach_x, y0 - reach_y, x0 + reach_x, y0 + reach_y))
    if not len(rows):
        return None
    x_min, y_min, x_max, y_max = objects.box[rows].T
    inside = (x_min <= x0) & (x0 <= x_max) & (y_min <= y0) & (y0 <= y_max) & ~objects.point[rows]
    if inside.any():
        area = (x_max - x_min) * (y_max - y_min)
        return int(rows[np.argmin(np.where(inside, area, np.inf))])
    distance = np.hypot((x_min + x_max) / 2 - x0, (y_min + y_max) / 2 - y0)
    small = np.maximum(x_max - x_min, y_max - y_min) <= 2 * max(reach_x, reach_y)
    if not small.any():
        return None
    return int(rows[np.argmin(np.where(small, distance, np.inf))])


def clicks(on_click: Callable[[float, float], None]) -> Callable[[Viewer, Event], Iterator[None]]:
    """A mouse callback of napari that tells clicks (world y, x): drags are the camera's, and tools keep theirs."""

    def pressed(viewer: Viewer, event: Event) -> Iterator[None]:
        active = viewer.layers.selection.active
        drawing = active is not None and str(getattr(active, "mode", "pan_zoom")) != "pan_zoom"
        if event.button != 1 or drawing:
            return
        start, moved = np.asarray(event.pos, float), False
        yield
        while event.type == "mouse_move":
            moved = moved or float(np.abs(np.asarray(event.pos, float) - start).max()) > _CLICK_PX
            yield
        if not moved:
            on_click(*event.position[-2:])

    return pressed
