"""Opening a slide and its tissue mask as a user asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenvl.request import Request
from wsi.errors import ColourError
from wsi.readers.opened import OpenedSlide
from wsi.regions.frames import PixelFrame
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
        raise ColourError(f"{slide.path}: only slides opened by open_slide can be converted to {request.colour}.")
    return slide.in_colour(request.colour), request


def find_mask(
    mask: str | Path | TissueMask | tuple[TissueMask, str], slide: Slide, frame: PixelFrame | str | None = None
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
