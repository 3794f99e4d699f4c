"""The scale of slides that do not state it: asked once, remembered by the slide's content."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from wsi import OpenedSlide

_FILE = "scales.json"
_MOST = 1000
_RANGE_UM = (0.001, 100.0)


def settings_folder() -> Path:
    """Folder for what this plugin remembers: beside the settings of napari."""
    from napari.settings import get_settings

    own = get_settings().config_path
    base = Path(own).parent if own else Path.home() / ".config" / "napari"
    return base / "napari-qwenvl"


def ask_mpp(slide: OpenedSlide) -> float | None:
    """Micrometres per level-0 px of a slide that does not state them, as its user once said or says now.

    None where nobody can be asked (no window) or nobody knows; it is never guessed.
    """
    known = remembered(slide.fingerprint)
    if known is not None:
        return known
    window = _window()
    if window is None:
        return None
    from qtpy.QtWidgets import QInputDialog

    value, answered = QInputDialog.getDouble(
        window,
        "Scale of the slide",
        f"{slide.path.name} ({slide.width} x {slide.height} px) does not state its pixel size.\n"
        "Micrometres per pixel (40x is often 0.25, 20x often 0.5; look into the scanner's protocol).\n"
        "Cancel when you do not know: boxes are then measured in pixels.",
        0.5,
        *_RANGE_UM,
        4,
    )
    if not answered:
        return None
    remember(slide.fingerprint, value)
    return float(value)


def _window() -> Any:
    """The window of a viewer that a person can see, or None."""
    if "qtpy" not in sys.modules:
        return None
    import napari
    from qtpy.QtWidgets import QApplication

    viewer = napari.current_viewer()
    if QApplication.instance() is None or viewer is None:
        return None
    window = viewer.window._qt_window
    return window if window.isVisible() else None


def remembered(fingerprint: str) -> float | None:
    """What was once said about a slide."""
    value = _read().get(fingerprint)
    return value if isinstance(value, float) and math.isfinite(value) and value > 0 else None


def remember(fingerprint: str, mpp: float) -> None:
    """Keep an answer; the oldest ones go when there are very many."""
    known = _read()
    known.pop(fingerprint, None)
    known[fingerprint] = float(mpp)
    path = settings_folder() / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(dict(list(known.items())[-_MOST:]), indent=1), encoding="utf-8")
    partial.replace(path)


def _read() -> dict[str, object]:
    try:
        found = json.loads((settings_folder() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
