"""Which adapter the Ask panel asks with: one choice per viewer, shown with what it forgets."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_qwenvl._widgets import while_alive
from qwenvl.checkpoints.adapters.card import AdapterCard, read_card
from qwenvl.errors import CheckpointError

if TYPE_CHECKING:
    from napari import Viewer

KEPT, FORGETS, UNMEASURED = "kept", "forgets", "not measured"
COLOURS = {KEPT: "#4a9a5a", FORGETS: "#d0554b", UNMEASURED: "#c08a30"}


def verdict(card: AdapterCard) -> tuple[str, str]:
    """What happened to older skills: one of KEPT, FORGETS, UNMEASURED, and a sentence."""
    found = card.forgetting
    if not found:
        return UNMEASURED, "Older skills were not measured: what it forgot is not known."
    lost, limit = float(found.get("lost", float("nan"))), float(found.get("limit", float("nan")))
    if found.get("passed", True):
        return KEPT, f"Older skills kept: {lost:.1f} points lost at most, {limit:g} allowed."
    return FORGETS, f"FORGETS: lost {lost:.1f} points of older skills, {limit:g} allowed."


class Adapting(QObject):
    """The adapter that a viewer asks with."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path | None = None
        self.card: AdapterCard | None = None

    def use(self, folder: Path | None) -> None:
        """Ask with an adapter from now on, or with the model as it is.

        Raises
        ------
        CheckpointError
            There is no adapter, or it cannot be read; the choice stays.
        """
        card = None
        if folder is not None:
            if not (folder / "adapter_model.safetensors").is_file():
                raise CheckpointError(
                    f"{folder} holds no adapter (adapter_model.safetensors). Choose the folder 'adapter' of a training."
                )
            card = read_card(folder)
        self.folder, self.card = folder, card
        self.changed.emit()


class AdapterRow(QWidget):
    """Shows the adapter of a viewer, with its verdict, and lets the user choose another or none."""

    failed = Signal(str)
    """Why the chosen folder cannot be used."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.adapting = adapting_of(viewer)
        self.name = QLabel()
        self.name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.choose = QPushButton("Choose...")
        self.remove = QPushButton("Take off")
        self.state = QLabel()
        self.state.setWordWrap(True)
        self.choose.clicked.connect(self.on_choose)
        self.remove.clicked.connect(lambda: self.adapting.use(None))
        line = QHBoxLayout()
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.name, 1)
        line.addWidget(self.choose)
        line.addWidget(self.remove)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(line)
        layout.addWidget(self.state)
        self.adapting.changed.connect(self.show_adapter)
        self.show_adapter()

    @property
    def folder(self) -> Path | None:
        """The adapter's folder; None asks the model as it is."""
        return self.adapting.folder

    @while_alive
    def show_adapter(self) -> None:
        """Show what is chosen."""
        folder, card = self.adapting.folder, self.adapting.card
        self.remove.setVisible(folder is not None)
        self.state.setVisible(folder is not None)
        if folder is None:
            self.name.setText("none")
            self.name.setToolTip("")
            return
        self.name.setText(f"<b>{html.escape(card.name if card is not None else folder.name)}</b>")
        self.name.setToolTip(str(folder))
        kind, words = (UNMEASURED, "It does not say how it was trained.") if card is None else verdict(card)
        self.state.setText(f"<span style='color:{COLOURS[kind]}'>{html.escape(words)}</span>")

    def on_choose(self) -> None:
        """Ask for the folder of an adapter."""
        folder = QFileDialog.getExistingDirectory(self, "Choose the folder of an adapter")
        if folder:
            try:
                self.adapting.use(Path(folder))
            except CheckpointError as error:
                self.failed.emit(str(error))


_ADAPTING: WeakKeyDictionary[Viewer, Adapting] = WeakKeyDictionary()


def adapting_of(viewer: Viewer) -> Adapting:
    """The choice that the panels of a viewer share."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _ADAPTING:
        _ADAPTING[viewer] = Adapting()
    return _ADAPTING[viewer]


__all__ = ["AdapterRow", "Adapting", "adapting_of", "verdict"]
