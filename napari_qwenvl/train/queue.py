"""Fourth page of the Train panel: where the next labels help most, most uncertain tiles of the open run first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import small_table, while_alive
from napari_qwenvl.process.running import in_background, running_of
from napari_qwenvl.read.frame import look_at
from workflows.review.reviewed import reviewed_objects
from workflows.tile_table import cores_of

if TYPE_CHECKING:
    from napari import Viewer

_UNKNOWN = 0.5
"""Doubt about an object without a score."""
_MOST = 500
_WAIT_MS = 600


@dataclass(frozen=True)
class Doubt:
    """One tile of a run.

    Attributes
    ----------
    rect : (x0, y0, x1, y1)
        Level-0 px.
    doubt : float
        For each object without a verdict the share of the run's objects that the model is surer of, summed. Scores of
        different models are not comparable, their order is.
    objects : int
        Objects without a verdict.
    status : str
        That of its answer; an answer that broke off comes before all others, because what it left out is unknown.
    """

    tile: int
    rect: tuple[float, float, float, float]
    doubt: float
    objects: int
    status: str

    @property
    def broken(self) -> bool:
        """Whether the answer is not whole."""
        return self.status not in ("ok", "repaired", "empty")


def uncertain_tiles(folder: Path, most: int = _MOST) -> list[Doubt]:
    """Tiles of a run that nobody has reviewed to the end, most uncertain first.

    Raises
    ------
    StoreError, RunNotFoundError
    """
    from workflows.store.run_store import RunStore

    with RunStore.open(folder) as store:
        reviewed, tiles = reviewed_objects(store), store.tiles()
        statuses = {answer.tile: answer.answer.status.value for answer in store.iter_answers()}
    cores = cores_of(tiles).astype(float)
    centre = (reviewed.box[:, :2] + reviewed.box[:, 2:]) / 2
    doubt = _doubt(reviewed.score)
    objects, places = _owners(centre, cores)
    waiting = reviewed.state[objects] == 0
    left = np.bincount(places[waiting], minlength=len(tiles))
    doubts = np.bincount(places[waiting], weights=doubt[objects[waiting]], minlength=len(tiles))
    decided = np.bincount(places[~waiting], minlength=len(tiles))
    found = []
    for place, number in enumerate(tiles["tile"].tolist()):
        if number not in statuses:
            continue
        each = Doubt(number, tuple(cores[place].tolist()), float(doubts[place]), int(left[place]), statuses[number])
        if left[place] or (each.broken and not decided[place]):
            found.append(each)
    found.sort(key=lambda each: (not each.broken, -each.doubt, each.tile))
    return found[:most]


def _doubt(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the scores above each; a middling one where there is none."""
    known = np.sort(scores[~np.isnan(scores)])
    above = (len(known) - np.searchsorted(known, scores, side="right")) / max(1, len(known))
    return np.where(np.isnan(scores), _UNKNOWN, above)


def _owners(centre: NDArray[np.float64], cores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of objects and of the tiles that own them: those whose core holds the centre, its far edges excluded."""
    import shapely

    tree = shapely.STRtree(shapely.box(*cores.T))
    objects, places = tree.query(shapely.points(centre), predicate="intersects")
    own = (centre[objects] < cores[places, 2:]).all(axis=1)
    return objects[own], places[own]


class QueuePage(QWidget):
    """Lists tiles to label next; a click moves the camera there."""

    listed = Signal()
    """The list is new."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = running_of(viewer).session
        self.doubts: list[Doubt] = []
        self._ticket = 0
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.table = small_table(["Tile", "Doubt", "Unreviewed", "Answer"])
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header: Any = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.table.currentCellChanged.connect(self._on_row)
        self.next = QPushButton("Next tile")
        self.next.clicked.connect(self.on_next)
        line = QHBoxLayout()
        line.addWidget(self.next)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addWidget(self.words)
        layout.addWidget(self.table, 1)
        layout.addLayout(line)
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(_WAIT_MS)
        self._wait.timeout.connect(self.refresh)
        for signal in (self.session.opened, self.session.settled, self.session.decided):
            signal.connect(self.refresh_soon)
        self._take([])
        self.refresh_soon()

    @while_alive
    def refresh_soon(self, *_: object) -> None:
        """List anew once reviewing has come to rest."""
        self._wait.start()

    def refresh(self) -> None:
        """Read the open run on another thread and list its tiles."""
        self._ticket += 1
        ticket = self._ticket
        if self.session.folder is None:
            self._take([])
            return

        def show(found: list[Doubt]) -> None:
            if ticket == self._ticket:
                self._take(found)

        in_background(uncertain_tiles, self.session.folder, then=show, failed=self._unreadable)

    @while_alive
    def _unreadable(self, error: Exception) -> None:
        self.words.setText(str(error))

    @while_alive
    def _take(self, found: list[Doubt]) -> None:
        chosen = self.current()
        self.doubts = found
        self.table.blockSignals(True)
        self.table.setRowCount(len(found))
        for row, each in enumerate(found):
            cells = (str(each.tile), f"{each.doubt:.1f}", str(each.objects), each.status)
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                if column < 3:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.table.setItem(row, column, item)
        tiles = [each.tile for each in found]
        if chosen is not None and chosen.tile in tiles:
            self.table.selectRow(tiles.index(chosen.tile))
        else:
            self.table.setCurrentCell(-1, -1)
        self.table.blockSignals(False)
        self.next.setEnabled(bool(found))
        if self.session.folder is None:
            self.words.setText(
                "Open a run, best one made with the new adapter: its least certain tiles are listed here."
            )
        elif not found:
            self.words.setText("Every tile of the open run is reviewed.")
        else:
            self.words.setText(
                f"{len(found):,} tiles to review. Doubt adds up, over the objects without a verdict, what share of the "
                "run's objects the model is surer of."
            )
        self.listed.emit()

    def current(self) -> Doubt | None:
        """The tile that is selected."""
        row = self.table.currentRow()
        return self.doubts[row] if 0 <= row < len(self.doubts) else None

    def _on_row(self, row: int, *_: object) -> None:
        if 0 <= row < len(self.doubts):
            overlay = self.session.overlay
            if overlay is not None:
                look_at(self.viewer, overlay.frame, self.doubts[row].rect)

    def on_next(self) -> None:
        """Go to the next tile of the list."""
        row = self.table.currentRow() + 1
        self.table.setCurrentCell(row if row < len(self.doubts) else 0, 0)


__all__ = ["Doubt", "QueuePage", "uncertain_tiles"]
