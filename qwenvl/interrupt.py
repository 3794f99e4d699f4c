"""Ctrl-C as a wish to stop, for every command that works for long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second one interrupts at once."""
    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        cancel.set()
        signal.signal(number, earlier[signal.Signals(number)])

    for number in earlier:
        signal.signal(number, on_signal)
    try:
        yield cancel
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
