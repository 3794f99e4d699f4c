"""Third page of the Train panel: base beside adapter, what was forgotten, pictures of both, one click to use it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPen, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import small_table, while_alive
from napari_qwenvl.ask.adapter_row import COLOURS, FORGETS, UNMEASURED, adapting_of, verdict
from napari_qwenvl.train.process import training_of
from napari_qwenvl.train.recipe import RUN
from qwenvl.checkpoints.adapters.card import CARD, AdapterCard, read_card
from qwenvl.errors import CheckpointError

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtGui import QPaintEvent

TILES = Path("before-after") / "tiles.json"
_METRICS = {
    "f1": "F1 (IoU 0.5)",
    "f1@0.3": "F1 (IoU 0.3)",
    "precision": "precision",
    "recall": "recall",
    "ap": "AP",
    "point_f1": "F1 of points",
    "count_error": "count error per tile",
    "duplicate_rate": "duplicates",
    "parse_rate": "answers that could be read",
}
_SMALLER = ("count_error", "duplicate_rate")
"""Metrics that are better where they are smaller."""


class ResultPage(QWidget):
    """Shows what a training ended with."""

    told = Signal(str, str)
    used = Signal()
    """The adapter was chosen for asking."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.folder: Path | None = None
        self.card: AdapterCard | None = None
        self.pictures: BeforeAfter | None = None
        self._dock: Any = None
        self.title = QLabel("No training is shown.")
        self.title.setWordWrap(True)
        self.gate = QLabel()
        self.gate.setWordWrap(True)
        self.table = small_table(["Held-out tiles", "Base", "Adapter", ""])
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.use = QPushButton("Use it in the Ask panel")
        self.compare = QPushButton("Before and after")
        self.compare.setToolTip("Held-out tiles side by side: labels, the model before, the model now")
        self.use.clicked.connect(self.on_use)
        self.compare.clicked.connect(self.on_compare)
        line = QHBoxLayout()
        line.addWidget(self.use)
        line.addWidget(self.compare)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addWidget(self.title)
        layout.addWidget(self.gate)
        layout.addWidget(self.table, 1)
        layout.addLayout(line)
        training_of(viewer).pictured.connect(self._on_pictured)
        self.show_training(None)

    def show_training(self, folder: Path | None) -> None:
        """Show the adapter of a training, where it has one."""
        self.folder, self.card = folder, None
        if folder is not None and (folder / RUN / "adapter" / CARD).is_file():
            try:
                self.card = read_card(folder / RUN / "adapter")
            except CheckpointError as error:
                self.told.emit("error", str(error))
        card = self.card
        self.use.setEnabled(card is not None)
        self.compare.setEnabled(self.tiles_file() is not None)
        self.gate.setVisible(card is not None)
        self.table.setRowCount(0)
        if card is None:
            name = "No training is shown." if folder is None else f"{folder.name} has no adapter yet."
            self.title.setText(name)
            return
        metrics = card.facts.get("metrics") or {}
        base, adapter = metrics.get("base") or {}, metrics.get("adapter") or {}
        tiles = f"{adapter['tiles']} held-out tiles" if adapter else "nothing was held out"
        self.title.setText(
            f"<b>{html.escape(card.name)}</b> of {html.escape(card.base)} for "
            f"{html.escape(', '.join(card.labels))}; {tiles}"
        )
        kind, words = verdict(card)
        self.gate.setText(gate_html(card, kind, words))
        self.gate.setStyleSheet(
            f"border-left: 4px solid {COLOURS[kind]}; padding: 5px 4px 5px 8px; background: rgba(128, 128, 128, 30);"
        )
        for row in metric_rows(base, adapter, card.labels):
            self._add(*row)

    def _add(self, name: str, base: float | None, adapter: float | None, smaller: bool, note: str = "") -> None:
        row = self.table.rowCount()
        self.table.insertRow(row)
        change = None if base is None or adapter is None else adapter - base
        better = None if not change or abs(change) < 5e-4 else (change < 0) == smaller
        cells = (name, _number(base), _number(adapter), "" if change is None else f"{change:+.3f}")
        for column, text in enumerate(cells):
            item = QTableWidgetItem(text)
            if column:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            if column == 3 and better is not None:
                item.setForeground(QColor("#4ac26b" if better else "#e0675e"))
            if note:
                item.setToolTip(note)
            self.table.setItem(row, column, item)

    def tiles_file(self) -> Path | None:
        """The pictures of held-out tiles, where there are some."""
        path = None if self.folder is None else self.folder / RUN / TILES
        return path if path is not None and path.is_file() else None

    # ------------------------------------------------------------------ what is done with it

    def on_use(self) -> None:
        """Ask with this adapter from now on; the Ask panel says so, with what it forgets."""
        if self.folder is None:
            return
        try:
            adapting_of(self.viewer).use(self.folder / RUN / "adapter")
        except CheckpointError as error:
            self.told.emit("error", str(error))
            return
        assert self.card is not None
        kind, words = verdict(self.card)
        self.told.emit(
            "note" if kind in (FORGETS, UNMEASURED) else "done",
            f"The Ask panel asks with {self.card.name} now. {words}",
        )
        self.used.emit()

    def on_compare(self) -> None:
        """Show held-out tiles before and after, below the slide."""
        path = self.tiles_file()
        if path is None:
            return
        if self.pictures is None:
            self.pictures = BeforeAfter()
            window = getattr(self.viewer, "window", None)
            if window is None:
                self.pictures.show()
            else:
                self._dock = window.add_dock_widget(self.pictures, name="Before and after", area="bottom")
        elif self._dock is not None:
            self._dock.show()
        self.pictures.show_tiles(path, self.card.labels if self.card is not None else ())

    @while_alive
    def _on_pictured(self, _: str) -> None:
        self.compare.setEnabled(self.tiles_file() is not None)


def gate_html(card: AdapterCard, kind: str, words: str) -> str:
    """The forgetting gate in plain sight: the verdict, and every older skill before and after."""
    lines = [f"<b style='color:{COLOURS[kind]}'>{html.escape(words)}</b>"]
    for name, points in (card.forgetting.get("skills") or {}).items():
        change = points["after"] - points["before"]
        lines.append(f"{html.escape(name)}: {points['before']:.1f} before, {points['after']:.1f} after ({change:+.1f})")
    return "<br>".join(lines)


def metric_rows(
    base: dict[str, Any], adapter: dict[str, Any], labels: Sequence[str]
) -> list[tuple[str, float | None, float | None, bool, str]]:
    """Rows of the table: name, base, adapter, whether smaller is better, explanation."""
    rows: list[tuple[str, float | None, float | None, bool, str]] = []
    if not adapter:
        return rows
    low, high = adapter.get("f1_interval") or (None, None)
    note = "" if low is None or high is None else f"95 % interval of the adapter's F1: {low:.3f} to {high:.3f}"
    for key, title in _METRICS.items():
        if adapter.get(key) is None and base.get(key) is None:
            continue
        rows.append((title, base.get(key), adapter.get(key), key in _SMALLER, note if key == "f1" else ""))
    if len(labels) > 1:
        for name in labels:
            before = ((base.get("classes") or {}).get(name) or {}).get("f1")
            after = ((adapter.get("classes") or {}).get(name) or {}).get("f1")
            rows.append((f"F1 of {name}", before, after, False, ""))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ---------------------------------------------------------------------- pictures

PALETTE = ("#ffd23f", "#3bceac", "#ff6b6b", "#4f9dff", "#c77dff", "#f4a261")


class BeforeAfter(QWidget):
    """Held-out tiles: the labels, the model before, the model now, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.tiles: list[dict[str, Any]] = []
        self.place = 0
        self.labels: tuple[str, ...] = ()
        self._folder = Path()
        self.caption = QLabel()
        self.back, self.next = QPushButton("◀"), QPushButton("▶")
        for button, step in ((self.back, -1), (self.next, 1)):
            button.setFixedWidth(36)
            button.clicked.connect(lambda _=False, step=step: self.turn(step))
        self.views = [TileView(title) for title in ("Labels", "Before", "After")]
        line = QHBoxLayout()
        line.addWidget(self.back)
        line.addWidget(self.next)
        line.addWidget(self.caption, 1)
        row = QHBoxLayout()
        for view in self.views:
            row.addWidget(view, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 4)
        layout.addLayout(line)
        layout.addLayout(row, 1)
        self.setMinimumHeight(220)

    def show_tiles(self, path: Path, labels: Sequence[str]) -> None:
        """Show the tiles of a file of `finetune.evaluation.before_after`."""
        self._folder, self.labels = path.parent, tuple(labels)
        self.tiles = json.loads(path.read_text(encoding="utf-8"))
        self.place = 0
        self.turn(0)

    def turn(self, step: int) -> None:
        """Go to another tile."""
        if not self.tiles:
            return
        self.place = (self.place + step) % len(self.tiles)
        tile = self.tiles[self.place]
        picture = QPixmap(str(self._folder / tile["picture"]))
        x0, y0 = tile["rect"][:2]
        self.caption.setText(
            f"Held-out tile {self.place + 1} of {len(self.tiles)} · {html.escape(tile['slide'])} at {x0}, {y0} px"
        )
        for view, key in zip(self.views, ("truth", "before", "after"), strict=True):
            words = f"{len(tile['truth'])} objects"
            if key != "truth":
                counts = tile["counts"][key]
                words = f"{counts['found']} found, {counts['missed']} missed, {counts['invented']} invented"
                if tile["status"][key] not in ("ok", "empty"):
                    words += f" ({tile['status'][key]})"
            view.show_objects(picture, tile["size"], tile[key], self.labels, words)


class TileView(QWidget):
    """One picture with boxes in the colours of their classes."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self.words = ""
        self.objects: list[dict[str, Any]] = []
        self.labels: tuple[str, ...] = ()
        self._picture = QPixmap()
        self._size = (1, 1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def show_objects(
        self, picture: QPixmap, size: Sequence[int], objects: list[dict[str, Any]], labels: tuple[str, ...], words: str
    ) -> None:
        """Show a picture of `size` (width, height) with objects in its px."""
        self._picture, self._size = picture, (size[0], size[1])
        self.objects, self.labels, self.words = objects, labels, words
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the picture, its boxes and its caption."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        line = QFontMetrics(painter.font()).height() + 4
        painter.setPen(self.palette().windowText().color())
        painter.drawText(
            QRectF(0, 0, self.width(), line), int(Qt.AlignmentFlag.AlignHCenter), f"{self.title}: {self.words}"
        )
        room = QRectF(0, line, self.width(), self.height() - line)
        scale = min(room.width() / self._size[0], room.height() / self._size[1])
        width, height = self._size[0] * scale, self._size[1] * scale
        area = QRectF(room.left() + (room.width() - width) / 2, room.top(), width, height)
        painter.drawPixmap(area, self._picture, QRectF(self._picture.rect()))
        for each in self.objects:
            number = self.labels.index(each["label"]) if each["label"] in self.labels else len(self.labels)
            painter.setPen(QPen(QColor(PALETTE[number % len(PALETTE)]), 2))
            if each["box"] is not None:
                x0, y0, x1, y1 = (value * scale for value in each["box"])
                painter.drawRect(QRectF(area.left() + x0, area.top() + y0, x1 - x0, y1 - y0))
            elif each["point"] is not None:
                x, y = (value * scale for value in each["point"])
                painter.drawEllipse(QRectF(area.left() + x - 4, area.top() + y - 4, 8, 8))
        painter.end()


__all__ = ["BeforeAfter", "ResultPage", "TileView", "gate_html", "metric_rows"]
