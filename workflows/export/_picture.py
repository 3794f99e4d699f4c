"""The slide of a run as one small picture."""

from __future__ import annotations

from workflows._opening import reopen
from workflows.provenance import SlideFacts
from wsi.slide import RGB
from wsi.tissue import overview

_UNREADABLE = 128


def slide_picture(facts: SlideFacts, side: int = 2048) -> tuple[RGB, tuple[float, float]] | None:
    """The slide of a run, at most `side` px wide or high, and level-0 px per px of it along x and y.

    Gray where it cannot be read. None where the slide is no longer at its place, or another one is.
    """
    slide = reopen(facts)
    if slide is None:
        return None
    with slide:
        shrink = min(1.0, side / max(slide.width, slide.height))
        size = max(1, round(slide.width * shrink)), max(1, round(slide.height * shrink))
        picture, unreadable = overview(slide, size)
        picture[unreadable] = _UNREADABLE
    return picture, (facts.width / size[0], facts.height / size[1])
