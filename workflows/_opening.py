"""Opening a slide and its tissue mask as a user asked for them, or as an earlier run recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenvl.request import Request
from workflows.provenance import SlideFacts
from wsi.address import may_exist
from wsi.errors import ColourError, FrameError
from wsi.frames import PixelFrame, SlideFrames
from wsi.names import path_of
from wsi.readers.opened import OpenedSlide
from wsi.slide import Slide
from wsi.tissue import METHODS, TissueMask


def open_path(path: Path, mpp: float | tuple[float, float] | None, options: Mapping[str, Any]) -> Slide:
    """Open a slide. `plane` and `rendering` may be given in the words of the command line."""
    from wsi import Plane, Rendering, open_slide

    parsed = dict(options)
    for key, kind in (("plane", Plane), ("rendering", Rendering)):
        if isinstance(parsed.get(key), str):
            parsed[key] = kind.parse(parsed[key])
    if parsed.get("series") is not None:
        parsed["series"] = int(parsed["series"])
    return open_slide(path, mpp=mpp, **parsed)


def in_colours(slide: Slide, request: Request) -> tuple[Slide, Request]:
    """Slide and request with the same colours, where either asks for sRGB.

    Raises
    ------
    ColourError
        The slide has no colours to convert.
    """
    if getattr(slide, "options", {}).get("colour") == "srgb":
        return slide, request.model_copy(update={"colour": "srgb"})
    if request.colour == "stored":
        return slide, request
    if not isinstance(slide, OpenedSlide):
        raise ColourError(
            f"{slide.path}: only slides opened by open_slide can be converted to {request.colour}."
        )
    return slide.in_colour(request.colour), request


def reopen(facts: SlideFacts) -> Slide | None:
    """The slide of an earlier run, opened as it was then; None where another file or none is at its place."""
    path = path_of(facts.path)
    if not may_exist(path):
        return None
    given = facts.mpp_source == "user" and facts.mpp_x is not None and facts.mpp_y is not None
    slide = open_path(path, (facts.mpp_x, facts.mpp_y) if given else None, facts.options)  # type: ignore[arg-type]
    if slide.fingerprint == facts.fingerprint:
        return slide
    slide.close()
    return None


def frames_of(facts: SlideFacts, given: PixelFrame | str | None = None) -> SlideFrames:
    """Level-0 px and QuPath's px of a run's slide, without opening it where the run records them.

    Parameters
    ----------
    given : PixelFrame or str, optional
        What the user says about coordinates; where these are level-0 px, QuPath's frame does not matter.

    Raises
    ------
    FrameError
        The run is older than the record, and its slide is not at its place.
    """
    if facts.frames is not None:
        return facts.frames
    if facts.reader != "openslide":
        return SlideFrames()  # no other reader knew of bounds
    if (slide := reopen(facts)) is not None:
        with slide:
            return SlideFrames.of(slide)
    if given is not None and PixelFrame(given) is PixelFrame.LEVEL0:
        return SlideFrames()
    raise FrameError(
        f"The run on {facts.name} was made before runs recorded which part of a slide QuPath shows, and the slide is "
        f"not at {facts.path}. Put it back, or say --frame level0 where coordinates count from the corner of the "
        "whole slide."
    )


def frames_of_run(run: Path | str, given: PixelFrame | str | None = None) -> SlideFrames:
    """`frames_of` the slide of a run folder.

    Raises
    ------
    RunNotFoundError, StoreError, FrameError
    """
    from workflows.store import RunStore

    with RunStore.open(run) as store:
        return frames_of(store.manifest.slide, given)


def find_mask(
    mask: str | Path | TissueMask | tuple[TissueMask, str],
    slide: Slide,
    frame: PixelFrame | str | None = None,
) -> tuple[TissueMask, str]:
    """The mask that was asked for, and how to ask for it again; a pair of both is taken as it is.

    `frame` is that of the coordinates of a GeoJSON that does not record it.
    """
    if isinstance(mask, tuple):
        return mask
    if isinstance(mask, TissueMask):
        return mask, mask.origin
    if str(mask) in METHODS:
        return TissueMask.from_slide(slide, method=str(mask)), str(mask)
    return TissueMask.from_geojson(mask, slide, frame), str(Path(mask).absolute())
