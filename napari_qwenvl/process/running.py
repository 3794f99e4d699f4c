"""The run of a viewer: starts it, shows its answers as they come, ends it with the window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from qtpy.QtCore import QEvent, QObject, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_qwenvl.ask.plan import AskPlan
from napari_qwenvl.process.session import Session, forget_session, session_of
from napari_qwenvl.process.worker import Worker

if TYPE_CHECKING:
    from napari import Viewer

POLL_MS = 400
_PARTING_MS = 800
"""A window that closes waits so long for the model's process, then ends it: its journal is whole at any moment."""
_QUIET_POLLS = 12
"""A run that someone else makes and that was silent for so many polls is merged as it stands."""


class Running(QObject):
    """What the panels of one viewer share: session, worker, and the state of the run under way.

    Attributes
    ----------
    plan : AskPlan or None
        The run under way or the last one.
    progress : dict or None
        Its last 'progress' event.
    """

    changed = Signal()
    """A run began, went on or ended; a model was loaded or unloaded."""
    said = Signal(str, str)
    """Something to tell: 'error', 'note' or 'done', and the words."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = getattr(viewer, "__wrapped__", viewer)
        self.session: Session = session_of(viewer, in_background, in_turn)
        self.worker = Worker(self)
        self.plan: AskPlan | None = None
        self.progress: dict[str, Any] | None = None
        self.loading: str | None = None
        self._quiet = 0
        self._stale = False
        self.session.failed.connect(self._on_unreadable)
        worker = self.worker
        worker.loading.connect(self._on_loading)
        worker.ready.connect(self._on_ready)
        worker.unloaded.connect(self._on_unloaded)
        worker.started.connect(lambda _: self.changed.emit())
        worker.progress.connect(self._on_progress)
        worker.finished.connect(self._on_finished)
        worker.stopped.connect(self._on_stopped)
        worker.failed.connect(self._on_failed)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self.poll)
        self._timer.start()
        self._closed = False
        self._window = getattr(getattr(viewer, "window", None), "_qt_window", None)
        if self._window is not None:
            self._window.installEventFilter(self)
        application = QApplication.instance()
        assert application is not None
        application.aboutToQuit.connect(self.close)

    @property
    def busy(self) -> bool:
        """A run or a question is under way."""
        return self.worker.busy

    def start(self, plan: AskPlan, tiles: int) -> None:
        """Start a run, or go on with it where it stopped."""
        self.plan, self.progress = plan, None
        folder, session = plan.out, self.session
        folder.parent.mkdir(parents=True, exist_ok=True)
        session.going_on = True
        self.worker.run(plan.for_worker(tiles))
        if session.folder != folder:
            if session.folder is not None:
                session.close_run()
            if (folder / "run.sqlite").exists():
                session.open_run(folder, layers=False)
        self.changed.emit()

    def open_run(self, folder: Path) -> None:
        """Show a run folder; whatever is wrong with it is said in words."""
        if not self.busy:
            self.session.going_on = False
        self.session.open_run(folder)

    def poll(self) -> None:
        """Take in what was stored since."""
        if self.session.folder is not None:
            self.session.poll(self._polled)

    def _polled(self, any_came: bool) -> None:
        """Merge anew when a run of someone else has come to rest."""
        session = self.session
        if any_came:
            self._quiet, self._stale = 0, True
            return
        self._quiet += 1
        ended = session.statuses and sum(session.statuses.values()) >= session.tiles_in_all()
        ours = self.busy and self.plan is not None and self.plan.out == session.folder
        if self._stale and not ours and (ended or self._quiet >= _QUIET_POLLS):
            self._stale = False
            session.reload()

    def close(self) -> None:
        """Stop a run under way (it can be resumed) and end the model's process."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self.worker.close(_PARTING_MS)
        self.session.close_run()
        if self._window is not None:
            with suppress(RuntimeError):  # Qt has deleted the window
                self._window.removeEventFilter(self)
            self._window = None
        # The values of a weak dictionary keep its keys alive where they know them, as these do.
        _RUNNING.pop(self.viewer, None)
        forget_session(self.viewer)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Notice that the window has been closed, and not merely that it was asked to close."""
        if event is not None and event.type() in (QEvent.Type.Hide, QEvent.Type.DeferredDelete):
            QTimer.singleShot(0, self._on_window_hidden)
        return False

    def _on_window_hidden(self) -> None:
        if self._closed:
            return
        try:
            hidden = self._window is None or not (self._window.isVisible() or self._window.isMinimized())
        except RuntimeError:  # Qt has deleted the window
            hidden = True
        if hidden:
            self.close()

    # ------------------------------------------------------------------ events of the worker

    def _on_loading(self, name: str) -> None:
        self.loading = name
        self.changed.emit()

    def _on_ready(self, event: Mapping[str, object]) -> None:
        self.loading = None
        self.changed.emit()

    def _on_unloaded(self) -> None:
        self.loading = None
        self.changed.emit()

    def _on_progress(self, state: dict[str, Any]) -> None:
        first, self.progress = self.progress is None, state
        self._show_ours(first)
        self.changed.emit()

    def _show_ours(self, first: bool) -> None:
        if self.plan is None:
            return
        if self.session.folder != self.plan.out:
            if not first:
                return  # the user has opened another run meanwhile; this one goes on beside it
            self.session.open_run(self.plan.out, layers=False)
        self.poll()

    def _on_finished(self, event: dict[str, Any]) -> None:
        failed = "" if event["complete"] else " Some tiles failed: they are listed under Words."
        warnings = "".join(f" {warning.rstrip('.')}." for warning in event["warnings"][:2])
        self._settle()
        self.said.emit("done" if event["complete"] else "note", f"Finished.{failed}{warnings}")
        self.changed.emit()

    def _on_stopped(self, number: int) -> None:
        self.loading = None
        self._settle()
        self.said.emit("note", "Stopped. Finished tiles are kept; press Run to go on.")
        self.changed.emit()

    def _on_failed(self, event: Mapping[str, object]) -> None:
        self.loading = None
        self._settle()
        self.said.emit("error", event["message"])
        self.changed.emit()

    def _on_unreadable(self, words: str) -> None:
        self.said.emit("error", words)

    def _settle(self) -> None:
        """Show the run as merged, with everything that was stored last."""
        session = self.session
        session.going_on = self._stale = False
        if self.plan is None or not (self.plan.out / "run.sqlite").exists():
            return
        if session.folder == self.plan.out:
            session.reload()
        elif session.folder is None:
            session.open_run(self.plan.out, layers=False)


def in_background(
    work: Callable[..., object],
    *args: object,
    then: Callable[[Any], None],
    failed: Callable[[Exception], None] | None = None,
) -> None:
    """Call `work` on another thread and `then` with its result on this one, or `failed` with what it raised."""
    from napari.qt.threading import create_worker

    worker: Any = create_worker(work, *args, _start_thread=False, _ignore_errors=failed is not None)
    worker.returned.connect(then)
    if failed is not None:
        worker.errored.connect(failed)
    worker.start()


def in_turn(step: Callable[[], None]) -> None:
    """Call something once Qt has done what is waiting."""
    QTimer.singleShot(0, step)


_RUNNING: WeakKeyDictionary[Viewer, Running] = WeakKeyDictionary()


def running_of(viewer: Viewer) -> Running:
    """What the panels of a viewer share."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _RUNNING or _RUNNING[viewer]._closed:
        _RUNNING[viewer] = Running(viewer)
    return _RUNNING[viewer]
