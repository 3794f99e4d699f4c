"""A few objects as shapes that the user moves, resizes, draws and deletes with napari's own tools."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from psygnal import SignalInstance

from napari_qwenvl.layers.removing import remove_layer
from napari_qwenvl.read.frame import box_of, rectangle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari import Viewer
    from napari.layers import Image, Shapes
    from napari.utils.events import Event

    from napari_qwenvl.layers.objects import Objects
    from napari_qwenvl.read.frame import Frame
    from workflows.report.images.colours import RGBColour

Rows = NDArray[np.int64]
_LINE_PX = 2.5
_POINT_PX = 10.0


class Drawn(Protocol):
    """What editing needs of an overlay."""

    viewer: Viewer
    frame: Frame
    layer: Image
    colours: dict[str, RGBColour]
    edited: SignalInstance
    added: SignalInstance
    deleted: SignalInstance

    @property
    def objects(self) -> Objects:
        """All objects."""

    @property
    def labels(self) -> list[str]:
        """Labels by code."""

    def hide(self, rows: Rows) -> None:
        """Leave rows out of the picture."""


class Editing:
    """The shapes layer of an overlay. Shape i is row `rows[i]`; what it shows is compared with what it showed."""

    def __init__(self, overlay: Drawn) -> None:
        self._overlay = overlay
        self._layer: Shapes | None = None
        self._rows: Rows = np.zeros(0, np.int64)
        self._boxes: NDArray[np.float64] = np.zeros((0, 4))
        self._silent = False

    def show(self, rows: Rows) -> Shapes:
        """Show these rows; an empty list closes the layer, which is returned all the same."""
        layer = self._layer or self._make()
        with self._quiet():
            layer.selected_data = set()
            layer.data = []
            self._rows = rows
            if len(rows):
                self._fill(layer, rows)
        self._remember(layer)
        self._overlay.hide(rows)
        if not len(rows):
            self.close()
        return layer

    def refresh(self, rows: Rows) -> None:
        """Some boxes changed from elsewhere (undo): show them as they are now."""
        if self._layer is not None and not self._silent and np.isin(rows, self._rows).any():
            self.show(self._rows)

    def close(self) -> None:
        """Remove the layer."""
        layer, self._layer = self._layer, None
        self._rows = np.zeros(0, np.int64)
        if layer is not None:
            layer.events.data.disconnect(self._on_data)
            remove_layer(self._overlay.viewer, layer)
            self._overlay.hide(self._rows)

    def _make(self) -> Shapes:
        overlay = self._overlay
        layer: Shapes = overlay.viewer.add_shapes(
            None,
            ndim=2,
            name=f"{overlay.layer.name} (editing)",
            face_color="transparent",
            edge_color="white",
            edge_width=self._line(_LINE_PX),
            opacity=1.0,
            **overlay.frame.corner_options(),
        )
        layer.events.data.connect(self._on_data)
        self._layer = layer
        return layer

    def _fill(self, layer: Shapes, rows: Rows) -> None:
        overlay = self._overlay
        objects = overlay.objects.take(rows)
        boxes = objects.box.copy()
        half = self._line(_POINT_PX) / 2
        boxes[objects.point] += np.array([-half, -half, half, half])
        palette = [overlay.colours[label] for label in overlay.labels] or [(255, 255, 255)]
        colours = np.array([palette[code % len(palette)] for code in objects.label], float) / 255
        layer.add(
            [rectangle(box) for box in boxes],
            shape_type=["ellipse" if point else "rectangle" for point in objects.point],
            edge_color=np.concatenate([colours, np.ones((len(colours), 1))], axis=1),
            face_color="transparent",
            edge_width=self._line(_LINE_PX),
        )

    def _line(self, px: float) -> float:
        """Width in level-0 px of something `px` wide on the canvas now."""
        return px / self._overlay.viewer.scene.camera.zoom / self._overlay.frame.step_x

    def _remember(self, layer: Shapes) -> None:
        self._boxes = np.array([box_of(each) for each in layer.data]).reshape(-1, 4)

    def _on_data(self, event: Event) -> None:
        """Tell what changed, once a drag is over."""
        layer = self._layer
        action = str(getattr(event, "action", ""))
        if layer is None or self._silent or action.endswith("ing"):
            return
        boxes = np.array([box_of(each) for each in layer.data]).reshape(-1, 4)
        if len(boxes) < len(self._boxes):
            gone = np.array(sorted(i % len(self._boxes) for i in event.data_indices), np.int64)
            rows, self._rows = self._rows[gone], np.delete(self._rows, gone)
            self._boxes = boxes
            self._overlay.deleted.emit(rows)
            return
        for box in boxes[len(self._boxes) :]:
            self._overlay.added.emit(box)
        moved = np.flatnonzero(~np.isclose(boxes[: len(self._boxes)], self._boxes, atol=1e-6).all(axis=1))
        self._boxes = boxes
        with self._quiet():
            for at in moved.tolist():
                self._tell(int(self._rows[at]), boxes[at])

    def _tell(self, row: int, box: NDArray[np.float64]) -> None:
        if self._overlay.objects.point[row]:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            box = np.array([x, y, x, y])
        self._overlay.edited.emit(row, box)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before
