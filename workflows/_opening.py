"""Opening a slide and its tissue mask as a user asked for them, or as an earlier run recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflows.provenance import SlideFacts
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


def reopen(facts: SlideFacts) -> Slide | None:
    """The slide of an earlier run, opened as it was then; None where another file or none is at its place."""
    path = Path(facts.path)
    if not path.exists():
        return None
    given = facts.mpp_source == "user" and facts.mpp_x is not None and facts.mpp_y is not None
    slide = open_path(path, (facts.mpp_x, facts.mpp_y) if given else None, facts.options)  # type: ignore[arg-type]
    if slide.fingerprint == facts.fingerprint:
        return slide
    slide.close()
    return None


def find_mask(mask: str | Path | TissueMask | tuple[TissueMask, str], slide: Slide) -> tuple[TissueMask, str]:
    """The mask that was asked for, and how to ask for it again; a pair of both is taken as it is."""
    if isinstance(mask, tuple):
        return mask
    if isinstance(mask, TissueMask):
        return mask, mask.origin
    if str(mask) in METHODS:
        return TissueMask.from_slide(slide, method=str(mask)), str(mask)
    return TissueMask.from_geojson(mask, slide), str(Path(mask).absolute())
