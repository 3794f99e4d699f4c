"""What `qwenvl info` says of a file, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflows.inputs.needed import Needed, needed_for
from workflows.inputs.opening import open_path
from workflows.inputs.suggested import suggested_command
from wsi.errors import PlaneError, SlideError
from wsi.files.names import path_text
from wsi.pixels.colour import profile_name
from wsi.readers.choices import complaint
from wsi.readers.describe import describe_images, image_line
from wsi.readers.description import Description
from wsi.slide import Slide


def file_facts(path: Path, mpp: float | None, options: Mapping[str, object]) -> dict[str, object]:
    """What a file states, what it leaves to its user, and a command line that runs on it.

    Parameters
    ----------
    path : Path
    mpp : float or None
        um per level-0 px, in place of what the file states.
    options : mapping
        `plane`, `rendering`, `series` and `colour` of `open_slide`; what is missing of them is no error.

    Raises
    ------
    SlideError
        The file cannot be opened, or what was chosen does not exist.
    """
    from qwenvl.checkpoints.recommended import factor_of, recommended_of

    found = needed_for(path, mpp=mpp, options=options)
    if found.wrong:
        if len(found.wrong) == 1 and not isinstance(found.wrong[0], PlaneError):
            raise found.wrong[0]
        words = [str(error) for error in found.wrong]
        raise PlaneError(complaint(path, str(found.description.layout), (), words))
    with open_described(path, found, mpp, options) as slide:
        facts: dict[str, Any] = {
            "path": path_text(path),
            "reader": slide.reader,
            **image_facts(found.description),
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "fingerprint": slide.fingerprint,
        }
    if found.series is not None:
        facts["several"] = [_image(number, each) for number, each in enumerate(describe_images(path))]
    facts["series"] = found.series if found.series is not None else options.get("series")
    facts["missing"] = [{"name": each.name, "flag": each.flag} for each in found.missing]
    recommended = dict(recommended_of("embedded") or {}) | {"factor": factor_of("embedded") or 32}
    facts["command"] = suggested_command(path, found, mpp, options, recommended)
    return facts


def open_described(path: Path, found: Needed, mpp: float | None, options: Mapping[str, object]) -> Slide:
    """Open a file without its choices, to ask for what needs no px: fingerprint, reader, associated images."""
    opening = {key: value for key, value in options.items() if value is not None and key != "colour"}
    if found.series is not None:
        opening["series"] = found.series
    missing = {choice.name for choice in found.missing}
    opening |= {"plane": "z=0,t=0"} if "plane" in missing else {}
    opening |= {"rendering": "0:gray:0-1"} if not found.description.layout.is_rgb else {}
    return open_path(path, mpp, opening)


def image_facts(description: Description) -> dict[str, object]:
    """One image as its file states it, as JSON values. Sizes are in px, `mpp_x` in um/px, times in s, depths in um."""
    layout, level = description.layout, description.levels[0]
    mpp_x, mpp_y = description.mpp_xy or (None, None)
    lengths = {"t": layout.times, "z": layout.depths, "c": layout.channels}
    names = layout.names or ("",) * layout.channels
    if layout.is_rgb and not layout.names:
        names = ("red", "green", "blue", *("",) * (layout.channels - 3))
    profile = description.icc_profile
    return {
        "image": path_text(description.image),
        "images": [path_text(name) for name in description.images],
        "width": level.width,
        "height": level.height,
        "axes": {axis: n for axis, n in lengths.items() if n > 1} | {"y": level.height, "x": level.width},
        "dtype": layout.dtype.name,
        "bits": layout.bits or (1 if layout.dtype == bool else 8 * layout.dtype.itemsize),
        "rgb": layout.is_rgb,
        "channels": [{"index": i, "name": path_text(name)} for i, name in enumerate(names)],
        "times": layout.times,
        "seconds": None if description.seconds is None else list(description.seconds),
        "depths": layout.depths,
        "depth_um": description.depth_um,
        "unnamed_axis": description.unnamed or None,
        "mpp_x": mpp_x,
        "mpp_y": mpp_y,
        "mpp_from": path_text(description.mpp_from),
        "levels": [[of.width, of.height, round(of.downsample, 4)] for of in description.levels],
        "level_factors": [[round(of.downsample_x, 6), round(of.downsample_y, 6)] for of in description.levels],
        "hole": description.hole,
        "icc_profile": None if profile is None else profile_name(profile),
        "qupath_bounds": description.qupath_bounds,
        "associated": list(description.associated),
        "files": [path_text(file) for file in description.files],
        "notes": [path_text(note) for note in description.notes],
    }


def _image(number: int, found: Description | SlideError) -> dict[str, object]:
    line = {"series": number, "line": path_text(image_line(number, found))}
    return line if isinstance(found, SlideError) else line | image_facts(found)
