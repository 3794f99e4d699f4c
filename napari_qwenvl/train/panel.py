"""The Train panel: labels, training, result, and what to label next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from napari_qwenvl._widgets import Message, while_alive
from napari_qwenvl.train.labels import LabelsPage
from napari_qwenvl.train.process import training_of
from napari_qwenvl.train.queue import QueuePage
from napari_qwenvl.train.result import ResultPage
from napari_qwenvl.train.run import RunPage

PLUGIN, ASK = "napari-qwenvl", "Ask Qwen-VL"


class TrainPanel(QWidget):
    """Teaches a model the labels of its user. One object of this class per viewer."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.training = training_of(napari_viewer)
        self.message = Message()
        self.labels = LabelsPage(napari_viewer)
        self.run = RunPage(napari_viewer, self.labels)
        self.result = ResultPage(napari_viewer)
        self.queue = QueuePage(napari_viewer)
        self.tabs = QTabWidget()
        for page, title in (
            (self.labels, "Labels"),
            (self.run, "Train"),
            (self.result, "Result"),
            (self.queue, "Label next"),
        ):
            self.tabs.addTab(page, title)
        for page in (self.labels, self.run, self.result):
            page.told.connect(self._on_told)
        self.run.opened.connect(self._on_opened)
        self.training.finished.connect(self._on_finished)
        self.result.used.connect(self.show_ask)
        layout = QVBoxLayout(self)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.message)
        self.setMinimumWidth(370)
        if self.run.folder is not None:
            self._on_opened(self.run.folder)

    @while_alive
    def _on_told(self, kind: str, words: str) -> None:
        self.message.show_words(kind, words)

    @while_alive
    def _on_opened(self, folder: Path) -> None:
        self.result.show_training(folder)
        card = self.result.card
        metrics = {} if card is None else (card.facts.get("metrics") or {})
        if card is not None:
            self.run.curves.base = (metrics.get("base") or {}).get(self.run.curves.metric_name)
            self.run.curves.update()

    @while_alive
    def _on_finished(self, event: dict[str, Any]) -> None:
        self.tabs.setCurrentWidget(self.result)
        base, score = event["base"], event["score"]
        if score is None:
            self.message.show_words("note", "Trained. Nothing was held out, so nothing was measured.")
        elif base is not None:
            self.message.show_words(
                "done", f"Trained: F1 {base['f1'] or 0:.3f} before, {score['f1'] or 0:.3f} with the adapter."
            )

    def show_ask(self) -> None:
        """Bring the Ask panel to the front, opened where it is not."""
        window = getattr(self.viewer, "window", None)
        if window is None:
            return
        dock = next((dock for name, dock in window.dock_widgets.items() if name.startswith(ASK)), None)
        if dock is None:
            try:
                window.add_plugin_dock_widget(PLUGIN, ASK, tabify=True)
            except (KeyError, ValueError):
                return  # the plugin is not registered, as in scripts: the choice holds for any panel opened later
        else:
            _raise(dock)


def _raise(widget: QWidget) -> None:
    """Bring the dock of a widget before its neighbours."""
    from qtpy.QtWidgets import QDockWidget

    parent: Any = widget
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parent()
    if parent is not None:
        parent.show()
        parent.raise_()


__all__ = ["TrainPanel"]
