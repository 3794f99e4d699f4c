"""The objects of one run over one slide: a million of them, filtered, picked and edited without waiting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from psygnal import Signal

from napari_qwenvl.layers.camera import look_at_object, stands_at, view_of
from napari_qwenvl.layers.keys import OVERLAY
from napari_qwenvl.layers.objects import Columns, Objects
from napari_qwenvl.layers.raster import Job, Picture, ScreenView, draw, rows_in
from napari_qwenvl.layers.removing import remove_layer
from napari_qwenvl.layers.scheduling import scheduler
from napari_qwenvl.preferences import preferences
from napari_qwenvl.read.frame import Frame, UmPerPx, look_at, visible_field
from napari_qwenvl.results.picking import Filter, clicks, nearest
from napari_qwenvl.review.editing import Editing
from napari_qwenvl.shortcuts import ACTIONS, bind
from workflows.report.images.colours import PALETTE, RGBColour

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Image, Shapes
    from napari.utils.events import Event

    from wsi import Plane

Rows = NDArray[np.int64]
_REACH_PX = 6
"""A click this near (px of the canvas) meets a point or a small box."""
_MOST_LIT = 5_000


class Overlay:
    """Objects drawn over a slide, whatever their number: only what is visible, in px of the screen.

    One image layer shows the picture of the visible field: outlines while they can be distinguished, density where
    they are too many. It is drawn anew when the camera rests, on another thread where Qt runs. Rows that are
    being edited are shapes of a layer of their own (`editable`).

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    um_per_px : float, (float, float) or None
        Scale of level 0, one number or (x, y); None where unknown: then world units are level-0 px.
    name : str
        Name of the layer.
    plane : Plane, optional
        The plane of a stack that the objects lie on; on others the overlay is empty.

    Attributes
    ----------
    layer : napari.layers.Image
        The picture; its opacity and visibility are the user's.
    frame : Frame
        Converts between level-0 px and world coordinates.
    selected : int or None
    colours : dict of str to (int, int, int)
        Red, green and blue of each label; changed with `set_colour`.
    """

    picked = Signal(int)
    """The user clicked an object: its row."""
    edited = Signal(int, object)
    """The user changed an editable object: its row and the new box, float64 (4,) in level-0 px."""
    added = Signal(object)
    """The user drew a new shape into the editable layer: its box, float64 (4,) in level-0 px."""
    deleted = Signal(object)
    """The user deleted editable shapes: their rows, int64 (k,). Nothing is removed until `remove` is called."""
    changed = Signal()
    """Objects were appended, replaced, updated or removed."""
    filtered = Signal()
    """Another set of rows passes the filters."""
    drawn = Signal()
    """A new picture is shown; `in_field` is that of the camera now."""

    def __init__(
        self, viewer: Viewer, *, um_per_px: UmPerPx, name: str = "objects", plane: Plane | None = None
    ) -> None:
        self.viewer = viewer
        self.plane = plane
        self.frame = Frame.of(um_per_px)
        self.selected: int | None = None
        self.colours: dict[str, RGBColour] = {}
        self._labels: list[str] = []
        self._columns = Columns()
        self._keep = np.zeros(0, bool)
        self._hidden: Rows = np.zeros(0, np.int64)
        self._lit: Rows = np.zeros(0, np.int64)
        self._bounds: tuple[float, float, float, float] | None = None
        self._filter = Filter()
        self._picture: Picture | None = None
        self._closed = False
        self._first = not len(viewer.layers)
        self.layer: Image = viewer.add_image(
            np.zeros((1, 1, 4), np.uint8),
            rgb=True,
            name=name,
            blending="translucent_no_depth",
            interpolation2d="linear",
            units=self.frame.units,
            axis_labels=("y", "x"),
            metadata={OVERLAY: self},
        )
        self._scheduler = scheduler(viewer, self._work, self._show)
        self._editing = Editing(self)
        camera = viewer.scene.camera.events
        self._sources: list[Any] = [camera.center, camera.zoom, viewer.canvas.events.size, viewer.dims.events.ndisplay]
        if plane is not None:
            self._sources.append(viewer.dims.events.current_step)
        for source in self._sources:
            source.connect(self._on_camera)
        viewer.layers.events.removed.connect(self._on_removed)
        self._press = clicks(self._on_click)
        viewer.mouse_drag_callbacks.append(self._press)
        bind(viewer, ACTIONS)

    # ------------------------------------------------------------------ objects

    @property
    def objects(self) -> Objects:
        """All objects as columns: views that hold until the next change."""
        return self._columns.objects

    def __len__(self) -> int:
        return self._columns.n

    @property
    def labels(self) -> list[str]:
        """Labels by code. Set it before objects of new labels come; a label keeps its colour."""
        return self._labels

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        for label in self._labels:
            self.colours.setdefault(label, PALETTE[len(self.colours) % len(PALETTE)])
        self._refilter()

    def codes_of(self, labels: Iterable[str]) -> NDArray[np.int32]:
        """Codes of labels; those not seen before are added at the end."""
        names = list(labels)
        known = {label: code for code, label in enumerate(self._labels)}
        for name in names:
            known.setdefault(name, len(known))
        if len(known) > len(self._labels):
            self.labels = list(known)
        return np.array([known[name] for name in names], np.int32)

    def set_colour(self, label: str, colour: RGBColour) -> None:
        """Give a label another colour."""
        self.colours[label] = colour
        self._draw()

    def append(self, objects: Objects) -> None:
        """Add objects at the end, as they come from a run."""
        if not len(objects):
            return
        self._columns.append(objects)
        self._keep = np.concatenate([self._keep, self._filter.passes(objects, self._labels)])
        self._widen(objects)
        self.changed.emit()
        self._look_first()
        self._draw()

    def replace(self, objects: Objects) -> None:
        """Take these objects in place of all; selection and lights go out."""
        self._columns.replace(objects)
        self._bounds = None
        self._widen(objects)
        self._forget_rows()
        self._refilter()
        self._look_first()
        self.changed.emit()

    def update(self, index: int | ArrayLike, **columns: object) -> None:
        """Write columns (`box`, `label`, `score`, `state`, ...) of some rows.

        Raises
        ------
        IndexError
            There is no such row.
        KeyError
            There is no such column.
        """
        rows = self._rows(index)
        self._columns.update(rows, columns)
        changed = self.objects.take(rows)
        self._keep[rows] = self._filter.passes(changed, self._labels)
        self._widen(changed)
        if "box" in columns:
            self._editing.refresh(rows)
        self.changed.emit()
        self._draw()

    def remove(self, indices: int | ArrayLike) -> None:
        """Take rows out; those behind them move up, and selection and lights go out."""
        rows = self._rows(indices)
        self._columns.remove(rows)
        self._keep = np.delete(self._keep, rows)
        self._forget_rows()
        self.changed.emit()
        self._draw()

    def row_of(self, key: int) -> int | None:
        """Row of the object with this key, or None."""
        found = np.flatnonzero(self.objects.key == key)
        return int(found[0]) if len(found) else None

    # ------------------------------------------------------------------ filters

    def set_filter(
        self, *, labels: set[str] | None = None, min_score: float | None = None, states: set[int] | None = None
    ) -> None:
        """Show only these labels, scores and states; None does not filter.

        An object without a score is never hidden by `min_score`: unknown is not low.
        """
        self._filter = Filter(labels, min_score, states)
        self._refilter()

    def visible(self) -> Rows:
        """Rows that pass the filters, ascending."""
        return np.flatnonzero(self._keep)

    def in_field(self) -> Rows:
        """Rows that pass the filters and lie in the field that the camera shows, ascending."""
        if not self._plane_shown():
            return np.zeros(0, np.int64)
        return rows_in(self.objects, self._keep, visible_field(self.viewer, self.frame))

    def _plane_shown(self) -> bool:
        """Whether the sliders stand at the plane of the objects."""
        return self.plane is None or stands_at(self.viewer, self.plane)

    def _refilter(self) -> None:
        self._keep = self._filter.passes(self.objects, self._labels)
        self.filtered.emit()
        self._draw()

    # ------------------------------------------------------------------ selecting

    def select(self, index: int | None, *, move_camera: bool = True) -> None:
        """Mark one object, and bring it to the middle of the canvas."""
        self.selected = None if index is None else int(self._rows(index)[0])
        if self.selected is not None and move_camera:
            look_at_object(self.viewer, self.frame, self.objects.box[self.selected])
        self._draw()

    def highlight(self, indices: ArrayLike) -> None:
        """Light up objects; an empty list puts the lights out."""
        self._lit = self._rows(indices)[:_MOST_LIT]
        self._draw()

    def hit(self, y_um: float, x_um: float) -> int | None:
        """Row of the object at a place in world coordinates: the smallest box around it, else the nearest one.

        Boxes smaller than some px of the canvas are met within that reach; objects that filters hide are not.
        """
        if not self._plane_shown():
            return None
        x0, y0 = self.frame.to_level0(y_um, x_um)
        reach = _REACH_PX / self.viewer.scene.camera.zoom
        reach0 = reach / self.frame.step_x, reach / self.frame.step_y
        return nearest(self.objects, self._keep, (x0, y0), reach0)

    def _on_click(self, y_um: float, x_um: float) -> None:
        """Pick what was clicked."""
        row = None if self._closed or not self.layer.visible else self.hit(y_um, x_um)
        if row is not None:
            self.select(row, move_camera=False)
            self.picked.emit(row)

    # ------------------------------------------------------------------ editing

    def editable(self, indices: ArrayLike) -> Shapes:
        """Show some rows as shapes that the user can move and resize, in place of the drawn ones.

        Changes come through `edited`, `added` and `deleted`, each once when the mouse is released. An empty
        list ends editing and removes the layer.
        """
        return self._editing.show(self._rows(indices))

    def hide(self, rows: Rows) -> None:
        """Leave rows out of the picture, because they are shown as shapes."""
        self._hidden = rows
        self._draw()

    # ------------------------------------------------------------------ drawing

    @property
    def detail(self) -> str:
        """How the visible objects are shown: 'nothing', 'outlines' or 'density'."""
        return "nothing" if self._picture is None or not len(self._picture.rows) else self._picture.detail

    @property
    def closed(self) -> bool:
        """Whether the overlay has left the viewer; nothing is drawn any more."""
        return self._closed

    def flush(self) -> None:
        """Wait until the picture shows the present state; screenshots and tests need it."""
        self._scheduler.flush()

    def close(self) -> None:
        """Remove the layers and stop listening."""
        if self._closed:
            return
        self._closed = True
        self._scheduler.close()
        for source in self._sources:
            source.disconnect(self._on_camera)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        if self._press in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._press)
        self._editing.close()
        remove_layer(self.viewer, self.layer)

    def _draw(self) -> None:
        if not self._closed:
            self._scheduler.request(rest=False)

    def _on_camera(self) -> None:
        self._scheduler.request(rest=True)

    def _on_removed(self, event: Event) -> None:
        if event.value is self.layer:
            self.close()

    def _work(self) -> Callable[[], Picture | None] | None:
        """What is to be drawn now, as a call for another thread."""
        view = self._view()
        if view is None:
            return lambda: None
        keep = self._keep
        if len(self._hidden):
            keep = keep.copy()
            keep[self._hidden] = False
        palette = [self.colours[label] for label in self._labels] or [PALETTE[0]]
        wanted = preferences()
        job = Job(
            view,
            self.objects,
            keep,
            np.array(palette, np.uint8),
            self.selected,
            self._lit,
            wanted.line_width,
            wanted.keep_outlines_up_to,
        )
        return lambda: draw(job)

    def _view(self) -> ScreenView | None:
        """The field with its margin, on the px of the screen, cut to where objects are."""
        if self._bounds is None or self.viewer.dims.ndisplay != 2 or not self._plane_shown():
            return None
        return view_of(self.viewer, self.frame).cut(self._bounds, margin=8)

    def _show(self, picture: Picture | None) -> None:
        if self._closed:
            return
        self._picture = picture
        if picture is None:
            if self.layer.data.shape[:2] != (1, 1):
                self.layer.data = np.zeros((1, 1, 4), np.uint8)
        else:
            view = picture.view
            y, x = self.frame.to_world(view.left0 + view.px_x / 2, view.top0 + view.px_y / 2)
            step_y, step_x = view.px_y * self.frame.step_y, view.px_x * self.frame.step_x
            self.layer.data = picture.rgba
            self.layer.affine = np.array([[step_y, 0, y], [0, step_x, x], [0, 0, 1]])
        self.drawn.emit()

    def _widen(self, objects: Objects) -> None:
        """Bounds of all objects; they are not made smaller again."""
        if not len(objects):
            return
        low, high = objects.box[:, :2].min(axis=0), objects.box[:, 2:].max(axis=0)
        if self._bounds is not None:
            low, high = np.minimum(low, self._bounds[:2]), np.maximum(high, self._bounds[2:])
        self._bounds = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def _look_first(self) -> None:
        """Look at the first objects, where no slide has told the camera where to look."""
        if not self._first or self._bounds is None:
            return
        self._first = False
        look_at(self.viewer, self.frame, self._bounds, share=0.9)

    def _forget_rows(self) -> None:
        self.selected = None
        self._lit = self._hidden = np.zeros(0, np.int64)
        self._picture = None
        self._editing.close()

    def _rows(self, indices: int | ArrayLike) -> Rows:
        rows = np.atleast_1d(np.asarray(indices))
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"Rows go from 0 to {len(self) - 1}, not from {rows.min()} to {rows.max()}.")
        return rows
