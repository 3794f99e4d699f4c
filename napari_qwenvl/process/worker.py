"""The model's process, seen from the viewer: commands go out, events come back, nothing ever waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QProcess, QProcessEnvironment, QTimer, Signal

_PARTING_MS = 3_000
"""A process that was asked to stop and has not, is killed after this time; its journal is safe at any moment."""
_CANCEL_MS = 900
"""A run that was cancelled and is held up in one long computation counts as stopped after this time."""
_HELD_UP_MS = 15_000
"""A process that is held up for so much longer is killed."""


class Worker(QObject):
    """Loads models and runs requests in a process of its own.

    The process starts with the first command and stays, so that the model stays warm. Signals carry dicts of plain
    values as `napari_qwenvl.process.child` sends them.

    Attributes
    ----------
    busy : bool
        A run or question is under way.
    model : dict or None
        What is loaded: 'info', 'recommended', 'asked'.
    """

    loading = Signal(str)
    """A model is being loaded: its name."""
    ready = Signal(dict)
    """A model is loaded."""
    unloaded = Signal()
    """No model is loaded, and its memory is free."""
    started = Signal(int)
    """A run begins."""
    progress = Signal(dict)
    """A batch was stored."""
    finished = Signal(dict)
    """A run ended: 'id', 'complete', 'warnings'."""
    stopped = Signal(int)
    """A run or question was cancelled."""
    answered = Signal(dict)
    """A region was asked about: 'id', 'answer'."""
    paced = Signal(str, float)
    """The model's pace was measured: the key that was given, seconds per tile."""
    failed = Signal(dict)
    """A command could not be done: 'kind', 'message', and 'id' where it was a run or question."""

    def __init__(self, parent: QObject | None = None, module: str = "napari_qwenvl.process.child") -> None:
        super().__init__(parent)
        self._module = module
        self.model: dict[str, Any] | None = None
        self.current: int | None = None
        self._ids = count(1)
        self._process: QProcess | None = None
        self._buffer = b""
        self._errors = ""
        self._parting = False
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.timeout.connect(self._lose_patience)
        self._held_up = QTimer(self)
        self._held_up.setSingleShot(True)
        self._held_up.setInterval(_CANCEL_MS)
        self._held_up.timeout.connect(self._let_go)

    @property
    def busy(self) -> bool:
        """A run or question is under way."""
        return self.current is not None

    def load(self, model: Mapping[str, object]) -> None:
        """Load a model in the background; `model` holds fields of `RunOptions`."""
        self._send("load", model=model)

    def run(self, command: Mapping[str, object]) -> int:
        """Start a run; `command` is that of `Plan.command_for_worker`. Its number comes back with every event."""
        return self._begin("run", command)

    def ask(self, command: Mapping[str, object]) -> int:
        """Ask about one region."""
        return self._begin("ask", command)

    def probe(self, key: str, command: Mapping[str, object]) -> None:
        """Measure the model's pace on some tiles, while nothing else is to be done."""
        if not self.busy:
            self._send("probe", key=key, **command)

    def cancel(self) -> None:
        """Stop the run or question; `stopped` follows within a second, and finished tiles are kept."""
        if not self.busy or self._process is None:
            return
        if self.model is None:  # still loading: there is nothing to keep
            self._lose_patience()
        else:
            self._send("cancel")
            self._held_up.start()
            self._patience.start(_HELD_UP_MS)

    def unload(self) -> None:
        """Free the model's memory: the process ends, and with it everything it held."""
        self._end(_PARTING_MS)

    def close(self, wait_ms: int = _PARTING_MS) -> None:
        """End the process before this returns; a run under way is stopped and can be resumed."""
        process = self._process
        self._end(wait_ms)
        if process is None or process.state() == QProcess.ProcessState.NotRunning:
            return
        if not process.waitForFinished(wait_ms):
            process.kill()
            process.waitForFinished(10_000)

    # ------------------------------------------------------------------ the process

    def _begin(self, do: str, command: Mapping[str, object]) -> int:
        if self.busy:
            raise RuntimeError("A run is under way.")
        if self._process is not None and self.model is not None:
            self._send("cancel")  # a measurement or a report that is still being made gives way
        self.current = next(self._ids)
        self._send(do, id=self.current, **command)
        return self.current

    def _send(self, do: str, **facts: object) -> None:
        if self._process is None:
            self._process = self._start()
        self._process.write(json.dumps({"do": do, **facts}).encode() + b"\n")

    def _start(self) -> QProcess:
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        # The process finds the packages where this one found them, also in a source checkout.
        root = str(Path(__file__).resolve().parent.parent.parent)
        paths = [root, environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", (":" if sys.platform != "win32" else ";").join(p for p in paths if p))
        environment.insert("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would take the viewer's cores
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._read_errors)
        process.finished.connect(self._on_end)
        process.errorOccurred.connect(self._on_process_error)
        process.start(sys.executable, ["-m", self._module])
        self._buffer, self._errors, self._parting = b"", "", False
        return process

    def _end(self, patience_ms: int) -> None:
        if self._process is None:
            return
        self._parting = True
        self._send("quit")
        self._process.closeWriteChannel()
        self._patience.start(patience_ms)

    def _let_go(self) -> None:
        """The process is not back yet: whatever it still says about this command is not listened to."""
        number, self.current = self.current, None
        if number is not None:
            self.stopped.emit(number)

    def _lose_patience(self) -> None:
        if self._process is not None:
            self._parting = True
            self._process.kill()

    def _on_process_error(self, error: QProcess.ProcessError) -> None:
        """A process that never started does not end either."""
        if error is QProcess.ProcessError.FailedToStart and self._process is not None:
            self._errors = f"It cannot be started: {self._process.errorString()}."
            self._on_end()

    def _on_end(self, *_: object) -> None:
        process, self._process = self._process, None
        self._patience.stop()
        self._held_up.stop()
        number, self.current, self.model = self.current, None, None
        if process is not None:
            process.deleteLater()
        if self._parting:
            if number is not None:
                self.stopped.emit(number)
        else:
            last = self._errors.strip().splitlines()[-1:] or ["no reason given"]
            facts = {} if number is None else {"id": number}
            self.failed.emit(
                facts
                | {
                    "kind": "ProcessEnded",
                    "message": f"The model's process ended unexpectedly: {last[0]} "
                    "Finished tiles are kept. It may have run out of memory: choose a smaller model or tile size, "
                    "then press Run to go on.",
                }
            )
        self.unloaded.emit()

    def _read_errors(self) -> None:
        if self._process is not None:
            text = bytes(self._process.readAllStandardError().data()).decode(errors="replace")
            self._errors = (self._errors + text)[-20_000:]

    def _read(self) -> None:
        if self._process is None:
            return
        self._buffer += bytes(self._process.readAllStandardOutput().data())
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._on_event(json.loads(line))

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event.pop("is")
        ends = kind in ("finished", "stopped", "answer") or (kind == "failed" and "id" in event)
        if ends and not self._parting:
            self._patience.stop()
        if "id" in event and event["id"] != self.current:
            return  # it was let go
        if ends:
            self.current = None
            self._held_up.stop()
        match kind:
            case "loading":
                self.model = None
                self.loading.emit(event["model"])
            case "ready":
                self.model = event
                self.ready.emit(event)
            case "unloaded":
                self.model = None
            case "started" | "stopped":
                getattr(self, kind).emit(event["id"])
            case "pace":
                self.paced.emit(event["key"], event["seconds"])
            case "answer":
                self.answered.emit(event)
            case "progress" | "finished" | "failed":
                getattr(self, kind).emit(event)


__all__ = ["Worker"]
