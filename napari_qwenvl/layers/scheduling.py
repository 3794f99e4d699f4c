"""When the overlay draws: at once, or, where Qt runs, on another thread as soon as the camera rests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from wsi.threads import thread_pool

if TYPE_CHECKING:
    from napari import Viewer

REST_MS = 80
"""A camera that has not moved for so long has stopped."""
LONGEST_MS = 300
"""While it keeps moving, the picture follows at this pace."""


class Scheduler(Protocol):
    """Runs `make() -> work`, then `work()`, then `show(result)`; requests that come meanwhile become one."""

    def request(self, *, rest: bool) -> None:
        """Ask for a new picture: now, or with `rest` once no more requests come."""

    def flush(self) -> None:
        """Wait until the newest request has been shown."""

    def close(self) -> None:
        """Stop; requests are ignored from now on."""


Work = Callable[[], Any]


class AtOnce:
    """Draws in the caller's thread: without Qt, in scripts and tests."""

    def __init__(self, make: Callable[[], Work | None], show: Callable[[Any], None]) -> None:
        self._make, self._show, self._open = make, show, True

    def request(self, *, rest: bool) -> None:
        """Draw now."""
        work = self._make() if self._open else None
        if work is not None:
            self._show(work())

    def flush(self) -> None:
        """Nothing is ever left to do."""

    def close(self) -> None:
        """Stop."""
        self._open = False


def scheduler(viewer: Viewer, make: Callable[[], Work | None], show: Callable[[Any], None]) -> Scheduler:
    """The scheduler that fits: Qt's for a viewer with a window, `AtOnce` for its model alone."""
    return _in_background(make, show) if has_window(viewer) else AtOnce(make, show)


def has_window(viewer: Viewer) -> bool:
    """Whether a viewer has a window, and with it Qt's event loop; a `ViewerModel` has none."""
    return getattr(viewer, "window", None) is not None


def _in_background(make: Callable[[], Work | None], show: Callable[[Any], None]) -> Scheduler:
    from qtpy.QtCore import QElapsedTimer, QObject, QTimer, Signal

    class Background(QObject):
        """One drawing at a time on a thread of its own; only starting and showing happen on the GUI's."""

        done = Signal(object)

        def __init__(self) -> None:
            super().__init__()
            self._pool: ThreadPoolExecutor | None = thread_pool(1, "qwenvl-overlay")
            self._timer = QTimer(self)
            self._timer.setSingleShot(True)
            self._timer.timeout.connect(self._start)
            self._since = QElapsedTimer()
            self._busy = self._again = False
            self.done.connect(self._finish)

        def request(self, *, rest: bool) -> None:
            if self._pool is None:
                return
            if not self._timer.isActive():
                self._since.start()
            wait = min(REST_MS, max(0, LONGEST_MS - self._since.elapsed())) if rest else 0
            self._timer.start(wait)

        def flush(self) -> None:
            from qtpy.QtWidgets import QApplication

            while self._pool is not None and (self._timer.isActive() or self._busy):
                if self._timer.isActive() and not self._busy:
                    self._timer.stop()
                    self._start()
                QApplication.processEvents()

        def close(self) -> None:
            self._timer.stop()
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

        def _start(self) -> None:
            if self._busy:
                self._again = True
                return
            work = make() if self._pool is not None else None
            if work is not None and self._pool is not None:
                self._busy = True
                self._pool.submit(self._run, work)

        def _run(self, work: Work) -> None:
            try:
                outcome: object = work()
            except Exception as error:
                outcome = error
            self.done.emit(outcome)

        def _finish(self, outcome: Any) -> None:
            self._busy = False
            if self._pool is None:
                return
            if self._again:
                self._again = False
                self._timer.start(0)
            if isinstance(outcome, Exception):
                raise outcome
            show(outcome)

    return Background()
