"""A command line that runs on a file as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflows.inputs.fit import finer_scale, fitting_tiles
from workflows.inputs.needed import Needed
from workflows.inputs.opening import open_path
from wsi.errors import GridError, SlideError
from wsi.files.names import path_text
from wsi.grid import side_of_tile
from wsi.readers.choices import suggested_plane, suggested_rendering
from wsi.readers.description import Description
from wsi.tissue import TissueMask

_MOST_ENLARGED = 2.0
_SMALL = 4096
"""Px of the longer side up to which an RGB image may be a field of tissue alone, on which no glass is seen."""


def suggested_options(found: Needed, options: Mapping[str, object]) -> dict[str, str]:
    """What was chosen of series, plane, rendering and colour, filled up with what is missing."""
    chosen = {key: str(value) for key, value in options.items() if value is not None}
    layout, missing = found.description.layout, {choice.name for choice in found.missing}
    if found.series is not None:
        chosen["series"] = str(found.series)
    if "plane" in missing:
        plane = suggested_plane(layout)
        sizes = (("z", layout.depths, plane.z), ("t", layout.times, plane.t))
        chosen["plane"] = ",".join(f"{axis}={at}" for axis, length, at in sizes if length > 1)
    if "rendering" in missing:
        chosen["rendering"] = suggested_rendering(layout)
    return chosen


def suggested_command(
    path: Path, found: Needed, mpp: float | None, options: Mapping[str, object], recommended: Mapping[str, object]
) -> str:
    """A `qwenvl detect` over a file, for a shell, with everything that has to be chosen.

    Parameters
    ----------
    path : Path
    found : Needed
        What the file leaves open, with `mpp` and `options` taken into account.
    mpp : float or None
        um per level-0 px as the user gives it.
    options : mapping
        As the user gives them; see `suggested_options`.
    recommended : mapping
        What the checkpoint of the command recommends.
    """
    words = ["qwenvl", "detect", path_text(path), "-l", "nucleus"]
    chosen = suggested_options(found, options)
    for name in ("series", "plane", "rendering", "colour"):
        if name in chosen:
            words += [f"--{name}", chosen[name]]
    words += _scale_and_tiles(found.description, mpp, recommended)
    if not _tissue_is_found(path, found.description, mpp, chosen):
        words += ["--mask", "all"]
    return shlex.join(words)


def _scale_and_tiles(description: Description, given: float | None, recommended: Mapping[str, Any]) -> list[str]:
    """Flags of scale and tiles: none where what the checkpoint recommends fits."""
    level = description.levels[0]
    wanted, tile = recommended.get("mpp"), int(recommended.get("tile_size", 448))
    overlap, factor = int(recommended.get("overlap", 64)), int(recommended.get("factor", 32))
    mpp_xy = description.mpp_xy if given is None else (given, given)
    words = [] if given is None else ["--slide-mpp", f"{given:g}"]
    if wanted is not None and (mpp_xy is None or min(mpp_xy) > _MOST_ENLARGED * wanted):
        words, wanted = [*words, "--native"], None
    try:
        side_of_tile((level.width, level.height), tile_size=tile, mpp=wanted, mpp_xy=mpp_xy)
    except GridError as error:
        fits = error.fits or 0.0
        tiles = fitting_tiles(fits, overlap, factor)
        if tiles is None:
            slide_mpp = None if mpp_xy is None else (mpp_xy[0] * mpp_xy[1]) ** 0.5
            finer = finer_scale(fits, wanted or slide_mpp or 1.0, factor)
            words = [*(words[:2] if given else [] if mpp_xy else ["--slide-mpp", "1"]), "--mpp", f"{finer:g}"]
            tiles = factor, min(overlap, factor // 2)
        words += ["--tile-size", str(tiles[0])]
        words += [] if tiles[1] == overlap else ["--overlap", str(tiles[1])]
    return words


def _tissue_is_found(path: Path, description: Description, mpp: float | None, options: Mapping[str, str]) -> bool:
    """Whether tissue is told from the background; slides are taken to have some, fields and stacks are looked at."""
    level = description.levels[0]
    if description.layout.is_rgb and max(level.width, level.height) > _SMALL:
        return True
    try:
        with open_path(path, mpp, options) as slide:
            return TissueMask.from_slide(slide).fraction > 0
    except SlideError:
        return True
