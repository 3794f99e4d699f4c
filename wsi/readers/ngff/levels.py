"""Which datasets of an OME-Zarr image are levels of one plane, and at what factor: as stated, per axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi.readers.description import whole_levels
from wsi.readers.ngff.metadata import Multiscale
from wsi.slide import Level

_APART = 1.1  # x and y of a level may shrink by factors that differ by this much: sizes are rounded


@dataclass(frozen=True)
class Stored:
    """Size along each axis and chunk of the array of one dataset, and its dtype."""

    shape: Mapping[str, int]
    chunk: Mapping[str, int]
    dtype: Any


def levels_of(image: Multiscale, stored: Sequence[Stored]) -> tuple[tuple[Level, ...], list[int], list[str]]:
    """Levels of a plane from what the file states.

    Parameters
    ----------
    image : Multiscale
        Datasets from fine to coarse.
    stored : sequence of Stored
        The array of each dataset.

    Returns
    -------
    levels : tuple of Level
        A level that is padded to whole chunks ends where the image does. One that is cut keeps its size.
    numbers : list of int
        Which dataset each level is.
    notes : list of str
        Which datasets are no levels of one plane, and why; where factors come from, where not from the file.
    """
    notes: list[str] = []
    order = list(range(len(stored)))
    stated = image.datasets[0].scale is not None
    if stated and _says_nothing(image, stored):
        notes.append("All levels state the same scale; their factors are those of their sizes.")
        stated = False
    if not stated:
        order.sort(key=lambda number: -stored[number].shape["x"] * stored[number].shape["y"])
        if order != sorted(order):
            notes.append("The levels are not listed from fine to coarse; they are sorted by their size.")
    first = order[0]
    kept = [first]
    for number in order[1:]:
        why = _other_than_plane(image, stored, first, number)
        if not why and stated:
            why = _contradiction(image, stored, first, number)
        if why:
            notes.append(f"Dataset {image.datasets[number].path!r} {why}; it is left out.")
        else:
            kept.append(number)
    sizes = [(stored[number].shape["x"], stored[number].shape["y"]) for number in kept]
    if not stated:
        chunks = [(stored[number].chunk["x"], stored[number].chunk["y"]) for number in kept]
        levels, more = whole_levels(sizes, None, list(chunks))
        return levels, kept, notes + list(more)
    factors = [_factors(image, first, number) for number in kept]
    width0, height0 = sizes[0]
    levels = tuple(
        Level(min(w, math.ceil(width0 / fx - 1e-9)), min(h, math.ceil(height0 / fy - 1e-9)), fx, fy)
        for (w, h), (fx, fy) in zip(sizes, factors, strict=True)
    )
    return levels, kept, notes


def _factors(image: Multiscale, first: int, number: int) -> tuple[float, float]:
    scale0, scale = image.datasets[first].scale, image.datasets[number].scale
    assert scale0 is not None
    assert scale is not None
    x, y = (scale[axis] / scale0[axis] for axis in "xy")
    return _tidy(x), _tidy(y)


def _tidy(factor: float) -> float:
    """A factor without the rounding of its two decimal scales: 2.0000000001 is 2."""
    return float(round(factor)) if abs(factor - round(factor)) < 1e-6 * factor else factor


def _says_nothing(image: Multiscale, stored: Sequence[Stored]) -> bool:
    """Whether all levels state one scale in x and y, and yet have other sizes."""
    scales = {(each.scale["x"], each.scale["y"]) for each in image.datasets if each.scale is not None}
    sizes = {(each.shape["x"], each.shape["y"]) for each in stored}
    return len(scales) == 1 and len(sizes) == len(stored) > 1


def _other_than_plane(image: Multiscale, stored: Sequence[Stored], first: int, number: int) -> str:
    """Why a dataset does not show the same planes and channels as the first, or ''."""
    top, this = stored[first], stored[number]
    if image.datasets[number].path in [each.path for each in image.datasets[:number]]:
        return "is listed twice"
    for axis in top.shape:
        if axis not in "xy" and this.shape[axis] != top.shape[axis]:
            return f"differs along {axis} ({this.shape[axis]} of {top.shape[axis]}) and is no level of one plane"
    if this.dtype != top.dtype:
        return f"holds {this.dtype} where level 0 holds {top.dtype}"
    if any(this.shape[axis] > top.shape[axis] for axis in "xy"):
        return "is larger than level 0"
    return ""


def _contradiction(image: Multiscale, stored: Sequence[Stored], first: int, number: int) -> str:
    """Why the stated scale of a dataset cannot be that of a level of the first, or ''."""
    factors = dict(zip("xy", _factors(image, first, number), strict=True))
    low, high = sorted(factors.values())
    if not math.isfinite(high) or low < 1:
        return f"states a factor of {factors['x']:g} x {factors['y']:g}"
    if high > _APART * low:
        return f"shrinks by {factors['x']:g} along x and {factors['y']:g} along y"
    zero, here = image.datasets[first], image.datasets[number]
    for axis, factor in factors.items():
        size0, size, chunk = (stored[first].shape[axis], stored[number].shape[axis], stored[number].chunk[axis])
        away = abs(size - size0 / factor)
        if away > 1 and not (size % chunk == 0 and away < chunk):
            return f"states a factor of {factor:g} along {axis}, which its size contradicts ({size} of {size0} px)"
        assert zero.scale is not None
        moved = here.translation.get(axis, 0.0) - zero.translation.get(axis, 0.0)
        moved /= zero.scale[axis]
        # The first px of a level lies up to half a px of it further in, where px are measured at their middle.
        if not -0.5 <= moved <= (factor - 1) / 2 + 0.5:
            return f"begins {moved:.6g} px of level 0 off along {axis}"
    return ""
