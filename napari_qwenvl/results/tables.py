"""Tables over columns: a million rows sort and filter without a Python object per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor

from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.process.session import Session
from napari_qwenvl.results.run_reading import AnswerTexts
from workflows.review.reviewed import Conflict, State

_AT_ONCE = 100_000
"""So many rows are put in order within 20 ms."""
_COLUMNS = ("label", "score", "review", "x", "y", "size")
STATE_COLOURS = {
    State.ACCEPTED: QColor(80, 180, 90),
    State.REJECTED: QColor(215, 85, 75),
    State.EDITED: QColor(225, 170, 60),
}
_CONFLICTS = {
    Conflict.FOLLOWED: "",
    Conflict.GROWN: " (part of a larger one now)",
    Conflict.MISSING: " (not found by the model now)",
    Conflict.DISAGREE: "two opinions",
}
_ROLE = Qt.ItemDataRole


class ObjectsModel(QAbstractTableModel):
    """The objects that pass the overlay's filters, in the order of a column.

    Where many are put in order, that is done on another thread: the table stays as it is until then, and rows that
    came meanwhile stand at its end.
    """

    arranged = Signal()
    """The rows stand in the order that was asked for."""

    def __init__(self, session: Session, background: Callable[..., None]) -> None:
        super().__init__()
        self._session, self._background = session, background
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self._column, self._descending = -1, False
        self._order: NDArray[np.int64] | None = None
        self._ticket = 0

    @property
    def _overlay(self) -> Overlay | None:
        return self._session.overlay

    def refresh(self, *, order: bool = True) -> None:
        """Take the overlay's rows anew; with `order`, their values changed too."""
        if order:
            self._arrange()
        self._show()

    def _arrange(self) -> bool:
        """Put the rows in order, at once where that is quick; True where it is done."""
        overlay = self._overlay
        self._ticket += 1
        if overlay is None or self._column < 0:
            self._order = None
            return True
        objects, labels, column = overlay.objects, list(overlay.labels), self._column
        if len(overlay) <= _AT_ONCE:
            self._order = _ascending(objects, labels, column)
            return True
        ticket = self._ticket

        def show(order: NDArray[np.int64]) -> None:
            if ticket == self._ticket and isalive(self):
                self._order = order
                self._show()
                self.arranged.emit()

        self._background(_ascending, objects, labels, column, then=show)
        return False

    def _show(self) -> None:
        overlay = self._overlay
        self.beginResetModel()
        rows = np.zeros(0, np.int64) if overlay is None else overlay.visible()
        if overlay is not None and self._order is not None and len(rows):
            order = self._order
            if len(order) > len(overlay):
                order = order[order < len(overlay)]
            passes = np.zeros(len(overlay), bool)
            passes[rows] = True
            shown = order[passes[order]]
            if self._descending:
                shown = shown[::-1]
            rows = np.concatenate([shown, rows[rows >= len(order)]])
        self.rows = rows
        self.endResetModel()

    def touch(self) -> None:
        """Values of shown rows changed; their order stays until it is asked for again."""
        if len(self.rows):
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, len(_COLUMNS) - 1))

    def place_of(self, row: int | None) -> int | None:
        """Where a row of the overlay stands in the table, None where filters hide it."""
        if row is None:
            return None
        found = np.flatnonzero(self.rows == row)
        return int(found[0]) if len(found) else None

    def sort(self, column: int, order: object = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; -1 is the order of reading. `arranged` tells when it is done."""
        turned = column == self._column and self._order is not None
        self._column, self._descending = column, order == Qt.SortOrder.DescendingOrder
        done = turned or self._arrange()
        self._show()
        if done:
            self.arranged.emit()

    def rowCount(self, parent: Any = None) -> int:
        """Rows that pass the filters."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: Any = None) -> int:
        """Columns."""
        return 0 if parent is not None and parent.isValid() else len(_COLUMNS)

    def headerData(self, section: int, orientation: object, role: int = _ROLE.DisplayRole) -> object:
        """Names of the columns, with units."""
        if role != _ROLE.DisplayRole or orientation != Qt.Orientation.Horizontal:
            return None
        name = _COLUMNS[section]
        overlay = self._overlay
        unit = "um" if overlay is not None and overlay.frame.known else "px"
        return f"{name} ({unit})" if name in ("x", "y", "size") else name

    def data(self, index: QModelIndex, role: int = _ROLE.DisplayRole) -> Any:
        """What a cell shows."""
        overlay = self._overlay
        if overlay is None or not index.isValid() or index.row() >= len(self.rows):
            return None
        row, name = int(self.rows[index.row()]), _COLUMNS[index.column()]
        if row >= len(overlay):
            return None
        if role == _ROLE.DisplayRole:
            return self._text(overlay, row, name)
        if role == _ROLE.DecorationRole and name == "label":
            return QColor(*overlay.colours[overlay.labels[overlay.objects.label[row]]])
        if role == _ROLE.ForegroundRole and name == "review":
            return STATE_COLOURS.get(State(int(overlay.objects.state[row])))
        if role == _ROLE.TextAlignmentRole and name not in ("label", "review"):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == _ROLE.ToolTipRole and name == "review" and self._session.deciding is not None:
            made = self._session.deciding.last_decision(row)
            return None if made is None else f"{made.action.value} by {made.who}, {made.time.replace('T', ' ')}"
        return None

    def _text(self, overlay: Overlay, row: int, name: str) -> str:
        objects, frame = overlay.objects, overlay.frame
        box = objects.box[row]
        match name:
            case "label":
                return overlay.labels[objects.label[row]]
            case "score":
                score = objects.score[row]
                return "" if np.isnan(score) else f"{score:.2f}"
            case "review":
                state = State(int(objects.state[row]))
                deciding = self._session.deciding
                conflicts = {} if deciding is None else deciding.conflicts
                conflict = conflicts.get(int(objects.key[row]), Conflict.NONE)
                return ("" if state is State.UNREVIEWED else state.verdict.value) + _CONFLICTS.get(conflict, "")
            case "x":
                return f"{(box[0] + box[2]) / 2 * frame.step_x:,.0f}"
            case "y":
                return f"{(box[1] + box[3]) / 2 * frame.step_y:,.0f}"
            case _:
                if objects.point[row]:
                    return "point"
                return f"{(box[2] - box[0]) * frame.step_x:.1f} x {(box[3] - box[1]) * frame.step_y:.1f}"


def _ascending(objects: Objects, labels: Sequence[str], column: int) -> NDArray[np.int64]:
    """All rows in the order of a column; unknown scores come first, as if lowest."""
    box = objects.box
    match _COLUMNS[column]:
        case "label":
            by_name = np.argsort(np.argsort(np.array(labels or [""])))
            values: NDArray[Any] = by_name[objects.label].astype(np.int16)
        case "score":
            values = np.nan_to_num(objects.score, nan=-1.0)
        case "review":
            values = objects.state
        case "x":
            values = box[:, 0] + box[:, 2]
        case "y":
            values = box[:, 1] + box[:, 3]
        case _:
            values = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    # Stable where there are many ties: small integers are sorted by radix. Floats are quicker without.
    return np.argsort(values, kind="stable" if values.dtype.itemsize <= 2 else None)


_SAID = ("tile", "status", "words")


class SaidModel(QAbstractTableModel):
    """What tiles and regions said in words, and the tiles that failed."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._shown = 0

    def refresh(self) -> None:
        """Show what was said since; all anew where there is less than before."""
        now = len(self._session.said)
        if now > self._shown > 0:
            self.beginInsertRows(QModelIndex(), self._shown, now - 1)
            self._shown = now
            self.endInsertRows()
        elif now != self._shown:
            self.beginResetModel()
            self._shown = now
            self.endResetModel()

    def said(self, place: int) -> AnswerTexts | None:
        """The entry at a place of the table."""
        return self._session.said[place] if 0 <= place < min(self._shown, len(self._session.said)) else None

    def rowCount(self, parent: Any = None) -> int:
        """Entries."""
        return 0 if parent is not None and parent.isValid() else min(self._shown, len(self._session.said))

    def columnCount(self, parent: Any = None) -> int:
        """Columns."""
        return 0 if parent is not None and parent.isValid() else len(_SAID)

    def headerData(self, section: int, orientation: object, role: int = _ROLE.DisplayRole) -> object:
        """Names of the columns."""
        shown = role == _ROLE.DisplayRole and orientation == Qt.Orientation.Horizontal
        return _SAID[section] if shown else None

    def data(self, index: QModelIndex, role: int = _ROLE.DisplayRole) -> Any:
        """What a cell shows; failed tiles are red, never empty."""
        said = self.said(index.row())
        if said is None:
            return None
        if role == _ROLE.DisplayRole:
            words = " ".join(said.words.split())
            return ("here" if said.tile < 0 else str(said.tile), said.status, words)[index.column()]
        if role == _ROLE.ForegroundRole and said.failed:
            return STATE_COLOURS[State.REJECTED]
        if role == _ROLE.ToolTipRole:
            return said.question or said.words
        return None
