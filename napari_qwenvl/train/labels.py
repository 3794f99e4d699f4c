"""First page of the Train panel: whose labels, of which slides, how many of each class, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMenu,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_qwenvl._widgets import Message, while_alive
from napari_qwenvl.process.running import in_background, running_of
from napari_qwenvl.process.session import NotPossibleError
from napari_qwenvl.read.slide_layer import slide_of
from napari_qwenvl.train.gather import HELD_OUT, TRAIN, Gathered, gather
from napari_qwenvl.train.recipe import tile_of
from napari_qwenvl.train.sources import RunSource, Source, layer_source, whole_slide

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

PARTS = {TRAIN: "training", HELD_OUT: "held out"}
_WAIT_MS = 250


class LabelsPage(QWidget):
    """Gathers sources; `gathered` says what they add up to."""

    changed = Signal()
    """`gathered` is new."""
    told = Signal(str, str)
    """'error', 'note' or 'done', and the words."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = running_of(viewer).session
        self.sources: list[Source] = []
        self.gathered = Gathered()
        self.patients: dict[str, str] = {}
        self.parts: dict[str, str] = {}
        self.left_out: set[str] = set()
        self.base: Callable[[], str] = lambda: "embedded"
        self._ticket = 0
        self._build()
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(_WAIT_MS)
        self._wait.timeout.connect(self.gather)
        self.session.opened.connect(self._on_session)
        self.session.decided.connect(self._on_session)
        self._show()

    def _build(self) -> None:
        self.add = QPushButton("Add labels")
        self.menu = QMenu(self)
        self.menu.aboutToShow.connect(self.fill_menu)
        self.add.setMenu(self.menu)
        self.remove = QPushButton("Remove")
        self.remove.setToolTip("Take the chosen slides out, with all their labels")
        self.remove.clicked.connect(self.on_remove)
        self.slides = _table(("Slide", "Labels", "Tiles", "Patient", "Part"))
        self.slides.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.slides.cellChanged.connect(self._on_cell)
        self.classes = _table(("Class", "Training", "Held out"))
        self.classes.cellChanged.connect(self._on_class)
        self.searched = QCheckBox("Tiles without objects were looked at too")
        self.searched.setToolTip("They then teach that nothing is there. Without it, only tiles with decisions count.")
        self.searched.toggled.connect(self.gather_soon)
        self.problems = Message()
        self.warnings = Message()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        line = QHBoxLayout()
        line.addWidget(self.add, 1)
        line.addWidget(self.remove)
        layout.addLayout(line)
        layout.addWidget(self.slides, 2)
        layout.addWidget(self.searched)
        layout.addWidget(QLabel("Classes (untick what is not to be learned)"))
        layout.addWidget(self.classes, 2)
        layout.addWidget(self.problems)
        layout.addWidget(self.warnings)

    # ------------------------------------------------------------------ sources

    def fill_menu(self) -> None:
        """What labels can be taken from now."""
        self.menu.clear()
        action: Any = self.menu.addAction("Reviews of the open run")
        action.setEnabled(self.session.folder is not None)
        action.triggered.connect(self.add_open_run)
        action = self.menu.addAction("Run folder...")
        action.triggered.connect(self.on_folder)
        layers = [layer for layer in self.viewer.layers if layer._type_string in ("shapes", "points", "labels")]
        layers = [layer for layer in layers if not layer.name.startswith("qwenvl")]
        if layers:
            self.menu.addSeparator()
        for layer in layers:
            action = self.menu.addAction(f"Layer '{layer.name}': objects")
            action.triggered.connect(partial(self.add_layer, layer))
            if layer._type_string == "shapes":
                action = self.menu.addAction(f"Layer '{layer.name}': areas where all is labelled")
                action.triggered.connect(partial(self.add_layer, layer, areas=True))
        self.menu.addSeparator()
        action = self.menu.addAction("Everything on the shown slide is labelled")
        action.triggered.connect(self.add_whole)

    def add_open_run(self) -> None:
        """Take the reviews of the run that is shown."""
        if self.session.folder is None:
            self.told.emit("error", "No run is open. Ask the slide something, or open a run folder.")
            return
        self.add_source(RunSource(self.session.folder))

    def on_folder(self) -> None:
        """Ask for a run folder and take its reviews."""
        folder = QFileDialog.getExistingDirectory(self, "Take the reviews of a run")
        if folder:
            self.add_source(RunSource(Path(folder)))

    def add_layer(self, layer: Layer, *_: object, areas: bool = False) -> None:
        """Take a layer as it is now, as objects or as areas where everything is labelled."""
        try:
            slide = slide_of(self.session.slide_layer())
            assert slide is not None
            self.add_source(layer_source(layer, slide, slide.path.absolute(), areas=areas))
        except (NotPossibleError, ValueError) as error:
            self.told.emit("error", str(error))

    def add_whole(self) -> None:
        """State that everything on the shown slide is labelled."""
        try:
            slide = slide_of(self.session.slide_layer())
            assert slide is not None
            self.add_source(whole_slide(slide, slide.path.absolute()))
        except NotPossibleError as error:
            self.told.emit("error", str(error))

    def add_source(self, source: Source) -> None:
        """Add a source, or bring one that is there up to date."""
        self.sources = [each for each in self.sources if not _same(each, source)] + [source]
        self.told.emit("", "")
        self.gather()

    def on_remove(self) -> None:
        """Take the chosen slides out, or everything where nothing was read yet."""
        rows = sorted({index.row() for index in self.slides.selectedIndexes()})
        chosen = [self.gathered.rows[row] for row in rows if row < len(self.gathered.rows)]
        titles = {title for row in chosen for title in row.sources}
        names = {row.name for row in chosen}
        self.sources = [
            each
            for each in self.sources
            if chosen and not (each.title in titles and (isinstance(each, RunSource) or each.slide.name in names))
        ]
        self.parts = {key: part for key, part in self.parts.items() if key not in {row.id for row in chosen}}
        self.gather()

    # ------------------------------------------------------------------ what they add up to

    @while_alive
    def _on_session(self) -> None:
        """Reviews went on: count them anew where the run is a source."""
        if any(isinstance(each, RunSource) and each.folder == self.session.folder for each in self.sources):
            self.gather_soon()

    def gather_soon(self, *_: object) -> None:
        """Count again once the user has come to rest."""
        self._wait.start()

    def choices(self) -> dict[str, Any]:
        """What the user chose, as `gather` takes it."""
        return {"searched": self.searched.isChecked(), "patients": dict(self.patients), "parts": dict(self.parts)}

    def gather(self) -> None:
        """Read all sources on another thread, and show what they add up to."""
        self._wait.stop()
        self._ticket += 1
        ticket = self._ticket

        def show(found: Gathered) -> None:
            if ticket == self._ticket:
                self._take(found)

        in_background(
            _gather,
            list(self.sources),
            self.base(),
            tuple(self.left_out),
            self.choices(),
            then=show,
            failed=lambda error: self.told.emit("error", str(error)),
        )

    @while_alive
    def _take(self, found: Gathered) -> None:
        self.gathered = found
        self._show()
        self.changed.emit()

    def _show(self) -> None:
        found = self.gathered
        self._show_slides(found)
        self._show_classes(found)
        self.problems.show_words("error", "\n".join(found.problems) if self.sources else "")
        self.warnings.show_words("note", "\n".join(found.warnings))
        if not self.sources:
            self.warnings.show_words("note", found.problems[0] if found.problems else _FIRST)

    def _show_slides(self, found: Gathered) -> None:
        table = self.slides
        table.blockSignals(True)
        table.setRowCount(len(found.rows))
        for number, row in enumerate(found.rows):
            name = _item(row.name)
            name.setToolTip(f"{row.name}: " + ", ".join(row.sources))
            table.setItem(number, 0, name)
            table.setItem(number, 1, _item(f"{row.labels:,}", right=True))
            table.setItem(number, 2, _item(f"{row.tiles:,}", right=True))
            table.setItem(number, 3, _item(row.patient, editable=True))
            part = QComboBox()
            part.addItems(list(PARTS.values()))
            part.setCurrentText(PARTS[row.part])
            part.activated.connect(partial(self._on_part, row.id))
            table.setCellWidget(number, 4, part)
        table.blockSignals(False)

    def _show_classes(self, found: Gathered) -> None:
        table = self.classes
        table.blockSignals(True)
        table.setRowCount(len(found.counts))
        for number, (name, (training, held)) in enumerate(found.counts.items()):
            item = _item(name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Unchecked if name in self.left_out else Qt.CheckState.Checked)
            table.setItem(number, 0, item)
            table.setItem(number, 1, _item(f"{training:,}", right=True))
            table.setItem(number, 2, _item(f"{held:,}", right=True))
        table.blockSignals(False)

    def _on_cell(self, row: int, column: int) -> None:
        item: Any = self.slides.item(row, column)
        if column == 3 and row < len(self.gathered.rows):
            self.patients[self.gathered.rows[row].id] = item.text()
            self.gather_soon()

    def _on_part(self, slide: str, number: int) -> None:
        """The user divides: what the others are now, they stay."""
        self.parts = {row.id: row.part for row in self.gathered.rows} | {slide: list(PARTS)[number]}
        self.gather_soon()

    def _on_class(self, row: int, column: int) -> None:
        item: Any = self.classes.item(row, 0)
        if column == 0:
            ticked = item.checkState() == Qt.CheckState.Checked
            (self.left_out.discard if ticked else self.left_out.add)(item.text())
            self.gather_soon()


_FIRST = (
    "Add labels: reviews of a run ('Results and review'), or layers drawn over a slide. Two slides or more, so that "
    "one can be held out and measure what was learned."
)


def _gather(sources: list[Source], base: str, left_out: tuple[str, ...], choices: dict[str, Any]) -> Gathered:
    from workflows.errors import WorkflowError

    try:
        tile, _ = tile_of(sources, base)
    except (WorkflowError, OSError) as error:
        return Gathered(problems=(str(error),))
    return gather(sources, tile, left_out=left_out, **choices)


def _same(one: Source, other: Source) -> bool:
    if isinstance(one, RunSource) or isinstance(other, RunSource):
        return one == other
    return (one.layer, one.slide) == (other.layer, other.slide)


def _table(columns: tuple[str, ...]) -> QTableWidget:
    table = QTableWidget(0, len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.setShowGrid(False)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    vertical: Any = table.verticalHeader()
    header: Any = table.horizontalHeader()
    vertical.hide()
    vertical.setDefaultSectionSize(26 if len(columns) > 3 else 21)
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    table.setMinimumHeight(84)
    return table


def _item(text: str, *, right: bool = False, editable: bool = False) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    if right:
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    if not editable:
        item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
    return item


__all__ = ["PARTS", "LabelsPage"]
