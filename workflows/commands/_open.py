"""Flags to an opened slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi.slide import Slide


def open_with_flags(
    path: Path, *, slide_mpp: float | None, plane: str | None, rendering: str | None, series: int | None
) -> Slide:
    """Open a slide as the flags of a command say; raises the errors of `wsi.open_slide`."""
    from wsi import Plane, Rendering, open_slide

    return open_slide(
        path,
        mpp=slide_mpp,
        plane=None if plane is None else Plane.parse(plane),
        rendering=None if rendering is None else Rendering.parse(rendering),
        series=series,
    )
