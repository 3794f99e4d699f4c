"""Small parts that several panels use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHeaderView,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QTableView,
    QTableWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl.read.frame import Frame

if TYPE_CHECKING:
    from napari.layers import Layer

_COLOURS = {"error": "#c0504a", "note": "#c08a30", "done": "#4a9a5a"}


P = ParamSpec("P")


def while_alive(method: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """A method of a widget that does nothing once Qt has deleted it: viewers and threads may call it later."""

    @wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        if isalive(self):
            method(self, *args, **kwargs)

    return call


def small_table(columns: Sequence[str]) -> QTableWidget:
    """An empty table without grid and row numbers, whose cells are read only and whose first column takes the room."""
    table = QTableWidget(0, len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setShowGrid(False)
    vertical: Any = table.verticalHeader()
    vertical.hide()
    vertical.setDefaultSectionSize(21)
    header: Any = table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    return table


class Message(QLabel):
    """Words for the user inside a panel; hidden while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.kind = ""
        self.hide()

    def show_words(self, kind: str, words: str) -> None:
        """Show 'error', 'note' or 'done'; empty words hide the message."""
        self.kind = kind if words else ""
        self.setText(words)
        self.setStyleSheet(
            f"border-left: 3px solid {_COLOURS.get(kind, '#888')}; padding: 4px 4px 4px 7px; "
            "background: rgba(128, 128, 128, 30);"
        )
        self.setVisible(bool(words))


class Folded(QWidget):
    """A section that opens on a click."""

    def __init__(self, title: str, inside: QWidget) -> None:
        super().__init__()
        self.button = QToolButton()
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setArrowType(Qt.ArrowType.RightArrow)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.inside = inside
        inside.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        layout.addWidget(inside)
        self.button.toggled.connect(self._on_toggled)

    def _on_toggled(self, opened: bool) -> None:
        self.button.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self.inside.setVisible(opened)


def scrolled(inside: QWidget, outer: QWidget) -> None:
    """Fill `outer` with `inside`, scrolled where the window is small."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inside)
    area.setMinimumWidth(inside.minimumSizeHint().width() + 14)
    layout = QVBoxLayout(outer)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(area)


def style_links(browser: Any) -> None:
    """Links in a blue that can be read on dark and on light themes."""
    browser.document().setDefaultStyleSheet("a { color: #4f9dff; }")


def drawn_polygons(layer: Layer, frame: Frame, *, selected: bool = True) -> list[NDArray[np.float64]]:
    """Areas of a Shapes layer as corners (n, 2) x0, y0 in level-0 px: the selected ones, else all of them."""
    chosen: Sequence[int] = sorted(layer.selected_data) if selected and layer.selected_data else range(layer.nshapes)
    polygons = []
    for number in chosen:
        kind = layer.shape_type[number]
        if kind == "line":
            continue
        corners = np.asarray(layer.data[number], float)
        if kind == "ellipse":
            centre, (half_a, half_b) = (corners.mean(axis=0), (corners[1] - corners[0], corners[3] - corners[0]))
            turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
            corners = centre + np.cos(turn) * half_a / 2 + np.sin(turn) * half_b / 2
        world = np.array([layer.data_to_world(corner) for corner in corners])[:, -2:]
        x0, y0 = frame.to_level0(world[:, 0], world[:, 1])
        if len(world) >= 3:
            polygons.append(np.stack([x0, y0], axis=1))
    return polygons


def plain_table(model: Any) -> Any:
    """A table of whole rows that are only looked at, a million of them if need be."""
    table: Any = QTableView()
    table.setModel(model)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setShowGrid(False)
    table.setWordWrap(False)
    vertical, header = table.verticalHeader(), table.horizontalHeader()
    vertical.hide()
    vertical.setDefaultSectionSize(20)
    vertical.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)  # a million rows must not be measured
    header.setDefaultSectionSize(60)
    header.setMinimumSectionSize(36)
    return table
