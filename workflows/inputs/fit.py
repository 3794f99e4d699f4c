"""Tiles that fit a slide: the size to advise where those asked for do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from qwenvl.request import MIN_TILE, Request
from wsi.errors import GridError
from wsi.slide import Slide

FLAGS = ("--tile-size", "--overlap", "--mpp")
WHERE_FLAGS = ("--where-tile-size", "--where-overlap", "--where-mpp")


def fitting_tiles(fits: float, overlap: int, factor: int) -> tuple[int, int] | None:
    """The largest tile size and overlap that a request and a slide accept; None where no tile is small enough.

    Parameters
    ----------
    fits : float
        Side of the largest tile that lies inside the slide, in px of a tile; see `GridError.fits`.
    overlap : int
        The overlap asked for, in px.
    factor : int
        What the model wants sides to be multiples of; where none of them fits, px that it will resize.
    """
    side = int(fits) // factor * factor
    side = side if side >= MIN_TILE else int(fits)
    return None if side < MIN_TILE else (side, min(overlap, side // 2))


def finer_scale(fits: float, mpp: float, factor: int) -> float:
    """The scale in um/px, three digits rounded down, at which a tile of one factor, and of min size, fits.

    `fits` is as above, at `mpp` um/px.
    """
    wanted = mpp * fits / (math.ceil(MIN_TILE / factor) * factor)
    digits = 2 - math.floor(math.log10(wanted))
    return math.floor(wanted * 10**digits) / 10**digits


def fit_advice(
    error: GridError,
    request: Request,
    mpp_xy: tuple[float, float] | None,
    factor: int,
    flags: tuple[str, str, str] = FLAGS,
) -> str:
    """What is wrong with tiles that are too large, and flags that are accepted instead.

    `mpp_xy` is the slide's scale. Where no scale is asked for, `error.fits` counts level-0 px; the finer side of px
    that are not square bounds the scale then.
    """
    assert error.fits is not None
    problem = str(error).rpartition(";")[0]
    tiles = fitting_tiles(error.fits, request.overlap, factor)
    if tiles is not None:
        overlap = "" if tiles[1] == request.overlap else f" {flags[1]} {tiles[1]}"
        return f"{problem}; use a tile size of at most {tiles[0]} px: {flags[0]} {tiles[0]}{overlap}."
    unit = "" if mpp_xy is not None or request.mpp is not None else "--slide-mpp 1 "
    mpp = finer_scale(error.fits, request.mpp or min(mpp_xy or (1.0,)), factor)
    tile = math.ceil(MIN_TILE / factor) * factor
    return (
        f"{problem}; that is less than any tile. Enlarge it: {unit}{flags[2]} {mpp:g} {flags[0]} {tile} "
        f"{flags[1]} {min(request.overlap, tile // 2)}."
    )


@contextmanager
def advised(slide: Slide, request: Request, factor: int, flags: tuple[str, str, str] = FLAGS) -> Iterator[None]:
    """Let a GridError about tiles that are too large name sizes that the model and the slide accept."""
    try:
        yield
    except GridError as error:
        if error.fits is None:
            raise
        raise GridError(fit_advice(error, request, slide.mpp_xy, factor, flags), error.fits) from None
