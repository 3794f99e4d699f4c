"""Results as places: what was found, in a table and on the slide; what was said, with its region; the review."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QItemSelectionModel, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QPushButton,
    QSlider,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import Message, plain_table, while_alive
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.process.running import in_background, running_of
from napari_qwenvl.results.tables import ObjectsModel
from napari_qwenvl.results.words import WordsView
from napari_qwenvl.review.panel import ReviewBar
from qwenvl.answer import Status
from workflows.review.reviewed import State
from wsi.regions.frames import PixelFrame

_STATES = {"any review": None, **{state.verdict.value: {int(state)} for state in State}}
_FILTER_MS = 40


class ResultsPanel(QWidget):
    """Shows the open run of a viewer: filters, table, words, review. Rows and boxes lead to each other."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.running = running_of(napari_viewer)
        self.session = self.running.session
        self._overlay: Overlay | None = None
        self._quiet = False
        self._rows_then = -1
        self._build()
        self._filter = _later(self, self.apply_filter)
        self._fill = _later(self, self.refresh)
        session = self.session
        session.opened.connect(self._on_opened)
        session.grown.connect(self._on_grown)
        session.settled.connect(self._on_grown)
        session.decided.connect(self._on_decided)
        self.running.said.connect(lambda kind, words: self.message.show_words(kind, words) if kind == "error" else None)
        self._on_opened()

    # ------------------------------------------------------------------ widgets

    def _build(self) -> None:
        self.summary = QLabel("No run is open.")
        self.summary.setWordWrap(True)
        self.labels = QListWidget()
        self.labels.setMaximumHeight(92)
        self.labels.setToolTip("Untick a class to hide it")
        self.labels.itemChanged.connect(lambda _: self._filter.start())
        self.score = QSlider(Qt.Orientation.Horizontal)
        self.score.setRange(0, 100)
        self.score.valueChanged.connect(lambda _: self._filter.start())
        self.score_text = QLabel("any score")
        self.score_text.setMinimumWidth(82)
        self.states = QComboBox()
        self.states.addItems(list(_STATES))
        self.states.currentTextChanged.connect(lambda _: self._filter.start())
        self.model = ObjectsModel(self.session, in_background)
        self.table: Any = _objects_table(self.model)
        self.model.arranged.connect(self._on_arranged)
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self.words = WordsView(self.session)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.table, "Objects")
        self.tabs.addTab(self.words, "Words")
        self.message = Message()
        self.review = ReviewBar(self, self.viewer, self.chosen_rows, self._go_to, lambda: self.model.rows)
        self.review.told.connect(self.message.show_words)
        self.to_qupath = QPushButton("Save for QuPath...")
        self.from_qupath = QPushButton("Read corrections...")
        self.from_qupath.setToolTip("GeoJSON that was exported here and corrected in QuPath")
        self.to_qupath.clicked.connect(self.on_save)
        self.from_qupath.clicked.connect(self.on_read)
        layout = QVBoxLayout(self)
        for widget in (
            self.summary,
            self.labels,
            _line(self.score, self.score_text, self.states),
            self.tabs,
            self.message,
            self.review,
            _line(self.to_qupath, self.from_qupath),
        ):
            layout.addWidget(widget)
        layout.setStretchFactor(self.tabs, 1)
        self.setMinimumWidth(350)

    # ------------------------------------------------------------------ filters

    def apply_filter(self) -> None:
        """Show what the filters say, on the slide and in the table."""
        if self._overlay is None:
            return
        items: list[Any] = [self.labels.item(i) for i in range(self.labels.count())]
        ticked = {item.data(_USER) for item in items if item.checkState() == Qt.CheckState.Checked}
        everything = len(ticked) == len(items)
        least = self.score.value() / 100
        self.score_text.setText(f"score ≥ {least:.2f}" if least else "any score")
        self._overlay.set_filter(
            labels=None if everything else ticked, min_score=least or None, states=_STATES[self.states.currentText()]
        )

    def _list_labels(self) -> None:
        """The classes with their colours and numbers; ticks stay."""
        overlay = self._overlay
        shown = [] if overlay is None else overlay.labels
        codes = np.zeros(0, int) if overlay is None else overlay.objects.label
        numbers = np.bincount(codes, minlength=len(shown))
        self.labels.blockSignals(True)
        items: list[Any] = [self.labels.item(i) for i in range(self.labels.count())]
        unticked = {item.data(_USER) for item in items if item.checkState() != Qt.CheckState.Checked}
        self.labels.clear()
        for label, number in zip(shown, numbers.tolist(), strict=True):
            assert overlay is not None
            item = QListWidgetItem(_swatch(overlay.colours[label]), f"{label}  ({number:,})")
            item.setData(_USER, label)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Unchecked if label in unticked else Qt.CheckState.Checked)
            self.labels.addItem(item)
        self.labels.blockSignals(False)

    # ------------------------------------------------------------------ what changed

    @while_alive
    def _on_opened(self) -> None:
        overlay = self.session.overlay
        if overlay is not self._overlay:
            self._overlay = overlay
            self._rows_then = -1
            self.labels.clear()
            self.words.clear()
            if overlay is not None:
                overlay.picked.connect(self._on_picked)
                overlay.changed.connect(self._on_overlay)
                overlay.filtered.connect(self._on_filtered)
                self.tabs.setCurrentIndex(0 if self.session.asks_for_objects else 1)
        self.review.take(overlay)
        self.refresh()
        if self.session.read_only is not None:
            self.message.show_words("note", f"The run can be looked at, not reviewed: {self.session.read_only}")

    @while_alive
    def _on_grown(self) -> None:
        self._fill.start()

    @while_alive
    def _on_overlay(self) -> None:
        self._fill.start()

    @while_alive
    def _on_filtered(self) -> None:
        self.model.refresh(order=False)
        self._mark(self._overlay.selected if self._overlay is not None else None)
        self._summarise()

    @while_alive
    def _on_arranged(self) -> None:
        self._mark(None if self._overlay is None else self._overlay.selected)

    @while_alive
    def _on_decided(self) -> None:
        self.review.show_state()
        self._fill.start()

    def refresh(self) -> None:
        """Show the session as it is."""
        overlay = self.session.overlay
        rows = 0 if overlay is None else len(overlay)
        if rows != self._rows_then:
            self._rows_then = rows
            self.model.refresh()
            self._mark(None if overlay is None else overlay.selected)
        else:
            self.model.touch()
        self.words.refresh()
        self._list_labels()
        self._summarise()
        self.review.show_state()

    def _summarise(self) -> None:
        session, overlay = self.session, self.session.overlay
        if overlay is None or session.folder is None:
            self.summary.setText("No run is open. Ask the slide something, or open a run folder.")
            return
        answered, tiles = sum(session.statuses.values()), session.tiles_in_all()
        failed = session.statuses.get(Status.FAILED, 0)
        shown = len(overlay.visible())
        objects = f"{len(overlay):,} objects" if shown == len(overlay) else f"{shown:,} of {len(overlay):,} objects"
        reviewed = int((overlay.objects.state != State.UNREVIEWED).sum())
        self.summary.setText(
            f"<b>{html.escape(session.folder.name)}</b><br>"
            + (f"{objects} · {reviewed:,} reviewed<br>" if session.asks_for_objects or len(overlay) else "")
            + f"{answered:,} of {tiles:,} tiles"
            + (f" · <span style='color:#d0554b'>{failed:,} failed</span>" if failed else "")
        )
        self.tabs.setTabText(1, f"Words ({len(session.said):,})" if session.said else "Words")

    # ------------------------------------------------------------------ rows and boxes

    def chosen_rows(self) -> list[int]:
        """Rows of the overlay that are selected in the table, or the one that is marked on the slide."""
        rows = [int(self.model.rows[i.row()]) for i in self.table.selectionModel().selectedRows()]
        if not rows and self._overlay is not None and self._overlay.selected is not None:
            rows = [self._overlay.selected]
        return rows

    def _on_row(self, current: Any, _: object = None) -> None:
        if self._quiet or self._overlay is None or not current.isValid() or current.row() >= len(self.model.rows):
            return
        self._overlay.select(int(self.model.rows[current.row()]))
        self.review.show_state()

    @while_alive
    def _on_picked(self, row: int) -> None:
        self.tabs.setCurrentIndex(0)
        self._mark(row)
        self.review.show_state()

    def _go_to(self, row: int) -> None:
        """Select a row of the overlay here and on the slide."""
        if self._overlay is not None:
            self._overlay.select(row)
            self._mark(row)

    def _mark(self, row: int | None) -> None:
        """Select a row of the overlay in the table, without moving the camera."""
        place = self.model.place_of(row)
        self._quiet = True
        try:
            if place is None:
                self.table.clearSelection()
            else:
                index = self.model.index(place, 0)
                flags = QItemSelectionModel.SelectionFlag
                self.table.selectionModel().setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
                self.table.scrollTo(index)
        finally:
            self._quiet = False

    # ------------------------------------------------------------------ QuPath

    def on_save(self) -> None:
        """Write the reviewed objects for QuPath."""
        if self.session.folder is None:
            self.message.show_words("error", "Open a run first.")
            return
        suggested = str(self.session.folder / "reviewed.geojson")
        name, _ = QFileDialog.getSaveFileName(self, "Save for QuPath", suggested, "GeoJSON (*.geojson *.geojson.gz)")
        if name:
            self._tell(lambda: self.session.save_geojson(Path(name)))

    def on_read(self) -> None:
        """Take over corrections that were made in QuPath."""
        if self.session.deciding is None:
            self.message.show_words("error", self.session.read_only or "Open a run first.")
            return
        name, _ = QFileDialog.getOpenFileName(self, "Read corrections", "", "GeoJSON (*.geojson *.json *.gz)")
        if name:
            self._tell(lambda: self._read(Path(name)))

    def _read(self, path: Path) -> str:
        from wsi.errors import FrameNeededError

        def deleted(number: int) -> bool:
            return self.ask_deleted(path, number)

        try:
            return self.session.read_corrections(path, deleted=deleted)
        except FrameNeededError:
            if (frame := self.ask_frame(path)) is None:
                return "Nothing was read."
            return self.session.read_corrections(path, frame, deleted)

    def ask_deleted(self, path: Path, number: int) -> bool:
        """Ask whether objects that are not in a file were deleted in QuPath."""
        box = QMessageBox(self)
        box.setIcon(QMessageBox.Icon.Question)
        box.setText(f"{number:,} objects of this run are not in {path.name}.")
        box.setInformativeText("Were they deleted in QuPath, or does the file hold a part of the objects?")
        reject = box.addButton("Deleted: reject them", QMessageBox.ButtonRole.AcceptRole)
        keep = box.addButton("A part: keep them", QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(keep)
        box.exec()
        return box.clickedButton() == reject

    def ask_frame(self, path: Path) -> PixelFrame | None:
        """Ask in which px a file's coordinates are; None where the user does not say."""
        box = QMessageBox(self)
        box.setIcon(QMessageBox.Icon.Question)
        box.setText(f"QuPath crops this slide, and {path.name} does not say in which pixels it is.")
        box.setInformativeText("Where does its pixel (0, 0) lie?")
        shown = box.addButton("In the corner of what QuPath shows", QMessageBox.ButtonRole.AcceptRole)
        whole = box.addButton("In the corner of the whole slide", QMessageBox.ButtonRole.AcceptRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        if box.clickedButton() == shown:
            return PixelFrame.QUPATH
        return PixelFrame.LEVEL0 if box.clickedButton() == whole else None

    def _tell(self, work: Callable[[], str]) -> None:
        from workflows.errors import WorkflowError
        from wsi.errors import SlideError

        try:
            self.message.show_words("done", work())
        except (WorkflowError, SlideError, OSError) as error:
            self.message.show_words("error", str(error))


_USER = Qt.ItemDataRole.UserRole


def _objects_table(model: ObjectsModel) -> Any:
    table: Any = plain_table(model)
    header = table.horizontalHeader()
    for section, width in enumerate((92, 46, 74, 50, 50, 78)):
        header.resizeSection(section, width)
    header.setStretchLastSection(True)
    table.setSortingEnabled(True)
    header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
    return table


def _later(parent: QWidget, call: Callable[[], None]) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(_FILTER_MS)
    timer.timeout.connect(call)
    return timer


def _swatch(colour: tuple[int, int, int]) -> QIcon:
    pixels = QPixmap(12, 12)
    pixels.fill(QColor(*colour))
    return QIcon(pixels)


def _line(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row
