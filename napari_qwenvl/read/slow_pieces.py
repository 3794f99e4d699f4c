"""Pieces that take many px of the file, read behind the viewer's back: slides without levels for an overview."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable

import numpy as np

from wsi.slide import RGB
from wsi.threads import start_thread

_GAP = 16


class SlowPieces:
    """Reads pieces one after the other on a thread of its own and keeps them.

    Parameters
    ----------
    load : callable
        Reads the piece of a key; it takes long.
    ready : callable
        Called on that thread whenever nothing is left to read.
    """

    def __init__(self, load: Callable[..., RGB], ready: Callable[[], None]) -> None:
        self._load, self._ready = load, ready
        self._kept: dict[Hashable, RGB] = {}
        self._asked: set[Hashable] = set()
        self._queue: queue.Queue[tuple[Hashable, ...]] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, key: tuple[Hashable, ...], height: int, width: int) -> RGB:
        """The piece, or, until it has been read, a pattern that says so; uint8 (height, width, 3)."""
        with self._lock:
            if key in self._kept:
                return self._kept[key]
            if key not in self._asked:
                self._asked.add(key)
                self._queue.put(key)
            if self._thread is None:
                # A daemon, so that closing the viewer does not wait for a slide to be read.
                self._thread = start_thread(self._work, name="qwenvl-overview")
        return being_read(height, width)

    def now(self, key: tuple[Hashable, ...]) -> RGB:
        """The piece, read at once where it has not been."""
        if key not in self._kept:
            self._kept[key] = self._load(*key)
        return self._kept[key]

    def _work(self) -> None:
        while True:
            self.now(self._queue.get())
            if self._queue.empty():
                self._ready()


def being_read(height: int, width: int) -> RGB:
    """Even gray with a grid of dots: neither glass nor the hatching of what cannot be read."""
    picture = np.full((height, width, 3), 205, np.uint8)
    picture[::_GAP, ::_GAP] = 120
    return picture
