"""The slide of a run as one small picture."""

from __future__ import annotations

from pathlib import Path

from workflows.inputs.reopening import reopen_run
from workflows.store.run_store import RunStore
from wsi.slide import RGB
from wsi.tissue import overview

_UNREADABLE = 128


def slide_picture(
    store: RunStore, side: int = 2048, slide: Path | None = None
) -> tuple[RGB, tuple[float, float]] | str:
    """The slide of a run, at most `side` px wide or high, and level-0 px per px of it along x and y.

    Gray where it cannot be read. A sentence that says why, where the slide is not found; see
    `workflows.inputs.reopening`.

    Raises
    ------
    SlideMismatchError, SlideError
        `slide`, where the user says it lies, is another one or cannot be opened.
    SlideChangedError
        It was rewritten meanwhile.
    """
    with reopen_run(store, slide) as found:
        if found.slide is None:
            return found.said
        opened, facts = found.slide, store.manifest.slide
        shrink = min(1.0, side / max(opened.width, opened.height))
        size = max(1, round(opened.width * shrink)), max(1, round(opened.height * shrink))
        with opened.watch.held():
            picture, unreadable = overview(opened, size)
        picture[unreadable] = _UNREADABLE
    return picture, (facts.width / size[0], facts.height / size[1])
