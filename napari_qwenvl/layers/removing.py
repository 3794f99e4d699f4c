"""Taking layers out of a viewer without making it wait."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


def remove_layer(viewer: Viewer, layer: Layer) -> None:
    """Remove a layer where it is there still."""
    if layer in viewer.layers:
        with _garbage_left():
            viewer.layers.remove(layer)


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Within this block a full collection looks at new objects only.

    napari collects the garbage of the whole process whenever a layer goes: a fifth of a second in which the window
    stands still. What is left lies for the next collection of Python itself. On Windows that collection keeps drivers
    from meeting what is half deleted, so there it stays.
    """
    if sys.platform == "win32" or gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
