"""The review: decisions by button or key, each stored as it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_qwenvl._widgets import while_alive
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.process.running import running_of
from napari_qwenvl.read.frame import box_of
from napari_qwenvl.results.choosing import Rows, next_row
from napari_qwenvl.review.deciding import Deciding
from napari_qwenvl.shortcuts import ACTIONS, SHORTCUTS, bind
from qwenvl.request import Task

if TYPE_CHECKING:
    from napari import Viewer
    from napari.utils.events import Event

_BUTTONS = {
    "accept": "Accept",
    "reject": "Reject",
    "clear": "Clear",
    "next": "Next",
    "back": "Back",
    "uncertain": "Most uncertain",
    "edit": "Move / resize",
    "draw": "Draw",
    "undo": "Undo",
    "redo": "Redo",
}
_PLACES = (("accept", "reject", "clear"), ("back", "next", "uncertain"), ("edit", "draw"), ("undo", "redo"))


class ReviewBar(QWidget):
    """Buttons of the review, and its keys, which hold on the canvas and all over `panel`.

    What it decides about is `chosen()`; `go_to` shows a row; `order()` are the rows as the reviewer sees them.
    """

    told = Signal(str, str)
    """Something to tell: 'error' or 'note', and the words."""

    def __init__(
        self,
        panel: QWidget,
        viewer: Viewer,
        chosen: Callable[[], list[int]],
        go_to: Callable[[int], None],
        order: Callable[[], Rows],
    ) -> None:
        super().__init__()
        self.viewer, self._chosen, self._go_to, self._order = viewer, chosen, go_to, order
        self.session = running_of(viewer).session
        self._overlay: Overlay | None = None
        self._drawing: Any = None
        self._editing = False
        self._waiting: list[Callable[[], object]] = []
        """Changes that could not be saved yet."""
        self.buttons: dict[str, QPushButton] = {}
        keys = {shortcut.action: shortcut for shortcut in SHORTCUTS}
        grid = QGridLayout()
        grid.setSpacing(4)
        for line, names in enumerate(_PLACES):
            for column, name in enumerate(names):
                button = self.buttons[name] = QPushButton(_BUTTONS[name])
                button.setToolTip(f"{keys[name].does}  ({keys[name].key})")
                button.clicked.connect(getattr(self, name))
                span = 6 // len(names)
                grid.addWidget(button, line, column * span, 1, span)
        self.buttons["edit"].setCheckable(True)
        self.buttons["draw"].setCheckable(True)
        self.label = QComboBox()
        self.label.setEditable(True)
        self.label.setToolTip("The class that Relabel and Draw give; a new one may be written")
        self.buttons["relabel"] = QPushButton("Relabel")
        self.buttons["relabel"].setToolTip(f"{keys['relabel'].does}  ({keys['relabel'].key})")
        self.buttons["relabel"].clicked.connect(self.relabel)
        self.onward = QCheckBox("then on to the next")
        self.onward.setChecked(True)
        self.who = QLabel()
        classes = QHBoxLayout()
        classes.addWidget(self.label, 1)
        classes.addWidget(self.buttons["relabel"])
        last = QHBoxLayout()
        last.addWidget(self.onward)
        last.addStretch()
        last.addWidget(self.who)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (grid, classes, last):
            layout.addLayout(part)
        own = {name: self._key(name) for name in self.buttons}
        for shortcut in bind(viewer, own | ACTIONS):
            # Panels keep keys to themselves that the canvas would get: tables look for rows that begin with a letter.
            key = QShortcut(QKeySequence(_qt_keys(shortcut.key)), panel)
            key.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            key.activated.connect(partial((own | ACTIONS)[shortcut.action], viewer))

    def _key(self, name: str) -> Callable[[Viewer], None]:
        def pressed(viewer: Viewer) -> None:
            getattr(self, name)()

        return pressed

    # ------------------------------------------------------------------ state

    def take(self, overlay: Overlay | None) -> None:
        """Work on another overlay, or none."""
        if overlay is not self._overlay:
            self._stop_drawing()
            self._editing, self._waiting = False, []
            self.buttons["edit"].setChecked(False)
            self._overlay = overlay
            if overlay is not None:
                overlay.edited.connect(self._on_edited)
                overlay.deleted.connect(self._on_deleted)
                overlay.added.connect(self._on_added)
        self.show_state()

    def show_state(self) -> None:
        """Enable what can be done, and offer the classes there are."""
        deciding, overlay = self.session.deciding, self._overlay
        for name, button in self.buttons.items():
            button.setEnabled(deciding is not None)
            if name in ("undo", "redo") and deciding is not None:
                button.setEnabled(deciding.can_undo if name == "undo" else deciding.can_redo)
        labels = [] if overlay is None else overlay.labels
        if [self.label.itemText(i) for i in range(self.label.count())] != labels:
            shown = self.label.currentText()
            self.label.clear()
            self.label.addItems(labels)
            if shown:
                self.label.setCurrentText(shown)
        self.who.setText("" if deciding is None else f"as {deciding.reviews.who}")

    def _deciding(self) -> Deciding | None:
        if self.session.deciding is None:
            self.told.emit("error", self.session.read_only or "Open a run first: nothing can be reviewed yet.")
        return self.session.deciding

    def _decide(self, decide: Callable[[Deciding, list[int]], None], *, onward: bool = True) -> None:
        """Decide about the chosen rows; errors come as words, and nothing is lost."""
        from workflows.errors import WorkflowError

        deciding, rows = self._deciding(), self._chosen()
        if deciding is None:
            return
        if not rows:
            self.told.emit("note", "Choose an object first: click a box on the slide or a row of the table.")
            return
        try:
            decide(deciding, rows)
        except (WorkflowError, ValueError) as error:
            self.told.emit("error", str(error))
            return
        self.told.emit("", "")
        if onward and self.onward.isChecked():
            self.next()

    # ------------------------------------------------------------------ actions

    def accept(self) -> None:
        """The chosen objects are right."""
        self._decide(lambda deciding, rows: deciding.accept(rows))

    def reject(self) -> None:
        """The chosen objects are not there."""
        self._decide(lambda deciding, rows: deciding.reject(rows))

    def clear(self) -> None:
        """The chosen objects were not looked at after all."""
        self._decide(lambda deciding, rows: deciding.clear(rows), onward=False)

    def relabel(self) -> None:
        """The chosen objects are of the class in the box."""
        label = self.label.currentText()
        self._decide(lambda deciding, rows: deciding.relabel(rows, label))

    def next(self) -> None:
        """Show the next object without review."""
        self._look()

    def back(self) -> None:
        """Show the one before."""
        self._look(back=True)

    def uncertain(self) -> None:
        """Show the object whose score is nearest to undecided."""
        self._look(uncertain=True)

    def _look(self, **which: bool) -> None:
        if self._overlay is None:
            return
        row = next_row(self._overlay, self._order(), **which)
        if row is not None:
            self._go_to(row)
        elif len(self._overlay):
            self.told.emit("done", "Every object that the filters show is reviewed.")

    def undo(self) -> None:
        """Take back the last decision, and show what it was about."""
        self._turn("undo")

    def redo(self) -> None:
        """Bring back what was undone."""
        self._turn("redo")

    def _turn(self, way: str) -> None:
        deciding = self._deciding()
        rows: list[int] = []
        if deciding is not None and self._saved(lambda: rows.extend(getattr(deciding, way)())) and rows:
            self._go_to(rows[0])

    def _saved(self, work: Callable[[], object], *, keep: bool = False) -> bool:
        """Store what is waiting and then this; False, and why in words, where the journal cannot be written.

        With `keep` it waits in this window for the next save.
        """
        from workflows.errors import WorkflowError
        from wsi.errors import SlideError

        waiting, self._waiting = [*self._waiting, work], []
        while waiting:
            try:
                waiting[0]()
            except (WorkflowError, SlideError, OSError) as error:
                self._waiting = waiting if keep else waiting[:-1]
                kept = " The change stays in this window and is saved with the next one." if keep else ""
                self.told.emit("error", f"Not saved: {error}{kept}")
                return False
            del waiting[0]
        return True

    # ------------------------------------------------------------------ shapes

    def edit(self) -> None:
        """Show the chosen objects as shapes to move and resize, or end that."""
        if self._overlay is None or self._deciding() is None:
            self.buttons["edit"].setChecked(False)
            return
        rows: Sequence[int] = [] if self._editing else self._chosen()
        if not self._editing and not rows:
            self.told.emit("note", "Choose an object first: click a box on the slide or a row of the table.")
        self._editing = bool(rows)
        self.buttons["edit"].setChecked(self._editing)
        if not rows:
            self._overlay.editable([])
            return
        shapes = self._overlay.editable(rows)
        self.viewer.layers.selection.active = shapes
        shapes.mode = "select"
        shapes.selected_data = set(range(len(rows)))
        self.told.emit("note", "Drag the box or its corners; every change is stored. Press Move again to end.")

    def draw(self) -> None:
        """Draw objects of the class in the box until pressed again."""
        if self._drawing is not None or self._overlay is None or self._deciding() is None:
            self._stop_drawing()
            return
        overlay = self._overlay
        width = 2 / self.viewer.scene.camera.zoom / overlay.frame.step_x
        layer = self._drawing = self.viewer.add_shapes(
            None,
            ndim=2,
            name="draw objects",
            face_color="transparent",
            edge_color="yellow",
            edge_width=width,
            **overlay.frame.corner_options(),
        )
        layer.mode = "add_rectangle"
        layer.events.data.connect(self._on_drawn)
        self.viewer.layers.events.removed.connect(self._on_layer_removed)
        self.buttons["draw"].setChecked(True)
        self.told.emit("note", f"Drag boxes around objects of class '{self._new_label()}'. Press Draw again to end.")

    def _new_label(self) -> str:
        return self.label.currentText().strip() or "object"

    @while_alive
    def _on_drawn(self, event: Any) -> None:
        layer = self._drawing
        if layer is None or not layer.nshapes or str(getattr(event, "action", "")) != "added":
            return
        boxes = [box_of(np.asarray(corners)) for corners in layer.data]
        saved = {row for row, box in enumerate(boxes) if self._saved(partial(self._add, box))}
        with layer.events.data.blocker(self._on_drawn):  # what could not be saved stays, and is tried again
            layer.selected_data = saved
            layer.remove_selected()

    @while_alive
    def _on_added(self, box: object) -> None:
        self._saved(partial(self._add, box), keep=True)

    def _add(self, box: Any) -> None:
        deciding, manifest = self.session.deciding, self.session.manifest
        if deciding is None or manifest is None:
            return
        if manifest.request.task is Task.POINT:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            row = deciding.add([x, y, x, y], self._new_label(), point=True)
        else:
            row = deciding.add(box, self._new_label())
        self._go_to_quietly(row)

    def _go_to_quietly(self, row: int) -> None:
        if self._overlay is not None:
            self._overlay.select(row, move_camera=False)

    def _stop_drawing(self) -> None:
        layer, self._drawing = self._drawing, None
        self.buttons["draw"].setChecked(False)
        if layer is not None:
            self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
            self.told.emit("", "")

    @while_alive
    def _on_layer_removed(self, event: Event) -> None:
        if event.value is self._drawing:
            self._stop_drawing()

    @while_alive
    def _on_edited(self, row: int, box: Any) -> None:
        deciding, overlay = self._deciding(), self._overlay
        if deciding is not None and overlay is not None:
            key = int(overlay.objects.key[row])

            def reshape() -> None:
                now = overlay.row_of(key)
                if now is not None:
                    deciding.reshape(now, box)

            self._saved(reshape, keep=True)

    @while_alive
    def _on_deleted(self, rows: Any) -> None:
        deciding = self._deciding()
        if deciding is not None and len(rows):
            self._saved(lambda: deciding.reject(rows))


def _qt_keys(keys: str) -> str:
    """napari's name of a key as Qt's."""
    return keys.replace("Control", "Ctrl").replace("-", "+")
