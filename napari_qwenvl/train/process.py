"""The training's own process: `qwenvl finetune RECIPE --events`, watched from the viewer. Nothing ever waits.

The process is told to stop over its input, and stops by itself when that ends: a viewer that is closed, or dies,
leaves a saved state behind and no process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from qtpy.QtCore import QEvent, QObject, QTimer, Signal
from qtpy.QtWidgets import QApplication

from wsi.limits import LimitError
from wsi.threads import start_thread, usable_cores

if TYPE_CHECKING:
    from napari import Viewer

OUTPUT = "output.txt"
"""Beside the recipe: what the process and its libraries print."""
_BASE = re.compile(r"before training: (\S+) ([\d.]+)$")
_PATIENCE_MS = 60_000
"""A process that was asked to stop and has not, is killed after this time: its last state is whole."""


class Training(QObject):
    """One training at a time, per viewer.

    Attributes
    ----------
    recipe : Path or None
        Of the training under way, or of the last one.
    stage : str
        What it is doing.
    step : dict or None
        Its last 'step' event: step, steps, loss, seconds_left, metric, best.
    """

    changed = Signal()
    """It began, went on, or ended."""
    stepped = Signal(dict)
    measured = Signal(str, float)
    """The model before training on held-out tiles: metric and value."""
    finished = Signal(dict)
    """'finished' of `finetune.training.progress`."""
    pictured = Signal(str)
    """Held-out tiles were asked before and after: the file."""
    stopped = Signal()
    """Its state is saved; the same recipe goes on."""
    failed = Signal(str)
    """Why it ended."""
    _line = Signal(int, str)
    _ended = Signal(int, int)

    def __init__(self, viewer: Viewer | None = None) -> None:
        super().__init__()
        self._viewer = None if viewer is None else ref(viewer)
        self.recipe: Path | None = None
        self.stage = ""
        self.step: dict[str, Any] | None = None
        self.asked_to_stop = False
        self._process: subprocess.Popen[str] | None = None
        self._number = 0
        self._told = False
        self._line.connect(self._on_line)
        self._ended.connect(self._on_ended)
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.timeout.connect(self._kill)
        self._window = getattr(getattr(viewer, "window", None), "_qt_window", None)
        if self._window is not None:
            self._window.installEventFilter(self)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)

    @property
    def busy(self) -> bool:
        """A training is under way."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of its process."""
        return None if self._process is None else self._process.pid

    def start(self, recipe: Path) -> None:
        """Begin a training, or go on with one that was stopped.

        Raises
        ------
        RuntimeError
            One is under way.
        OSError, LimitError
            The process, or the thread that listens to it, cannot be started.
        """
        if self.busy:
            raise RuntimeError("A training is under way.")
        root = str(Path(__file__).resolve().parent.parent.parent)
        paths = [root, os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            # The process finds the packages where this one found them, also in a source checkout.
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            # One core is left to the viewer.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() - 1))),
        }
        command = [sys.executable, "-m", "qwenvl", "finetune", str(recipe), "--events"]
        with (recipe.parent / OUTPUT).open("a", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                encoding="utf-8",
                env=environment,
                cwd=recipe.parent,
                start_new_session=True,
            )
        self._number += 1
        try:
            start_thread(self._read, process, self._number)
        except LimitError:
            process.kill()
            process.wait()
            raise
        self._process = process
        self.recipe, self.step, self.stage = recipe, None, "Loading the model"
        self.asked_to_stop = self._told = False
        self.changed.emit()

    def cancel(self) -> None:
        """Stop after the step at hand; before the first and after the last step, where nothing is lost, at once."""
        if self._process is None:
            return
        self.asked_to_stop = True
        self.stage = "Saving the state"
        self._tell_to_stop()
        between = self.step is None or self.step["step"] >= self.step["steps"]
        if between:
            self._kill()
        else:
            self._patience.start(_PATIENCE_MS)
        self.changed.emit()

    def close(self) -> None:
        """Let go: a training under way saves its state by itself after this."""
        if self._window is not None:
            with suppress(RuntimeError):  # Qt has deleted the window
                self._window.removeEventFilter(self)
            self._window = None
        viewer = None if self._viewer is None else self._viewer()
        if viewer is not None:
            # The values of a weak dictionary keep its keys alive where they know them, as this one does.
            _TRAININGS.pop(viewer, None)
        process, self._process = self._process, None
        self._number += 1
        self._patience.stop()
        if process is None:
            return
        if self.step is None or self.step["step"] >= self.step["steps"]:
            process.kill()
        elif process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Notice that the window has been closed."""
        if event is not None and event.type() in (QEvent.Type.Hide, QEvent.Type.DeferredDelete):
            QTimer.singleShot(0, self._on_window_hidden)
        return False

    def _on_window_hidden(self) -> None:
        try:
            hidden = self._window is None or not (self._window.isVisible() or self._window.isMinimized())
        except RuntimeError:  # Qt has deleted the window
            hidden = True
        if hidden:
            self.close()

    # ------------------------------------------------------------------ the process

    def _read(self, process: subprocess.Popen[str], number: int) -> None:
        """Pass on what the process says, until it ends; on a thread of its own."""
        assert process.stdout is not None
        with suppress(RuntimeError):  # Qt has deleted this object
            for line in process.stdout:
                self._line.emit(number, line)
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was to be said to a process that is gone
                    pipe.close()
        with suppress(RuntimeError):
            self._ended.emit(number, code)

    def _on_line(self, number: int, line: str) -> None:
        if number != self._number:
            return
        event = json.loads(line)
        match event.pop("is"):
            case "said":
                self._on_said(event["text"])
            case "step":
                self.step = event
                if not self.asked_to_stop:
                    last = event["step"] >= event["steps"]
                    self.stage = "Measuring the adapter on held-out tiles" if last else "Training"
                self.stepped.emit(event)
            case "finished":
                self._told = True
                self.stage = "Asking about held-out tiles"
                self.finished.emit(event)
            case "pictured":
                self.pictured.emit(event["file"])
            case "stopped":
                self._told = True
                self.stopped.emit()
            case "failed":
                self._told = True
                self.failed.emit(event["message"])

    def _on_said(self, text: str) -> None:
        if text.startswith("Loading"):
            self.stage = text
            self.changed.emit()
        elif (found := _BASE.match(text)) is not None:
            self.measured.emit(found[1], float(found[2]))

    def _on_ended(self, number: int, code: int) -> None:
        if number != self._number:
            return
        self._process = None
        self._patience.stop()
        self.stage = ""
        if not self._told and self.asked_to_stop:
            self.stopped.emit()
        elif not self._told:
            self.failed.emit(self._last_words(code))
        self.changed.emit()

    def _last_words(self, code: int) -> str:
        last = ""
        if self.recipe is not None and (self.recipe.parent / OUTPUT).is_file():
            text = (self.recipe.parent / OUTPUT).read_text(encoding="utf-8", errors="replace")
            last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        killed = "It may have run out of memory: choose a preset that takes less. " if code in (-9, 137) else ""
        return f"The training's process ended unexpectedly ({code}). {killed}{last} Press Go on to try again."

    def _tell_to_stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write("cancel\n")
                self._process.stdin.flush()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()


_TRAININGS: WeakKeyDictionary[Viewer, Training] = WeakKeyDictionary()


def training_of(viewer: Viewer) -> Training:
    """The training of a viewer, which outlives its panel."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _TRAININGS:
        _TRAININGS[viewer] = Training(viewer)
    return _TRAININGS[viewer]


__all__ = ["Training", "training_of"]
