"""Physical pixel size as files state it. Nothing is guessed: what is implausible counts as not stated."""

from __future__ import annotations

import math
from itertools import pairwise

# Length units of the OME schema (UnitsLength) and of NGFF (UDUNITS-2 names), in micrometres.
_MICROMETRES = {
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
    "dm": 1e5,
    "decimeter": 1e5,
    "cm": 1e4,
    "centimeter": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "pm": 1e-6,
    "picometer": 1e-6,
    "\u00e5": 1e-4,
    "angstrom": 1e-4,
    "inch": 25400.0,
    "in": 25400.0,
}

# Time units of the OME schema (UnitsTime), of NGFF (UDUNITS-2 names) and of ImageJ, in seconds.
_SECONDS = {
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "millisecond": 1e-3,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "microsecond": 1e-6,
    "ns": 1e-9,
    "nanosecond": 1e-9,
}

PLAUSIBLE_TIFF_MPP = (0.01, 10.0)
"""Bounds in um/px within which a TIFF resolution in px/cm counts as a microscope's.

Below 10 um/px begin flatbed scanners (2540 dpi) and printing (300 dpi = 84.7 um/px, 72 dpi = 353 um/px).
"""


_USUAL_DPI = (72, 75, 90, 96, 100, 110, 120, 144, 150, 180, 192, 200, 240, 250, 300, 360, 400, 600, 720, 1200, 2400)


def to_micrometres(value: float | str | None, unit: str | None) -> float | None:
    """A length in um, or None when the value is not a positive number or the unit is not a length."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    factor = _MICROMETRES.get((unit or "").strip().replace("\\u00B5", "\u00b5").lower())
    if factor is None or not math.isfinite(number) or number <= 0:
        return None
    return number * factor


def to_seconds(value: float | str | None, unit: str | None) -> float | None:
    """A time in s, or None when the value is no finite number of at least 0 or the unit is not one of time."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    factor = _SECONDS.get((unit or "").strip().lower())
    if factor is None or not math.isfinite(number) or number < 0:
        return None
    return number * factor


def rising(values: list[float | None]) -> tuple[float, ...] | None:
    """All values, where all are stated and each lies above the one before; else None."""
    known = [value for value in values if value is not None]
    rises = all(later > earlier for earlier, later in pairwise(known))
    return tuple(known) if len(known) == len(values) and rises else None


def pair(x: float | None, y: float | None) -> tuple[float, float] | None:
    """Both sides of a scale, or None when one is missing."""
    return None if x is None or y is None else (x, y)


def at_even_times(step: float | None, times: int) -> tuple[float, ...] | None:
    """Times from 0 in steps of `step` s; None where no step is stated."""
    return tuple(t * step for t in range(times)) if step else None


def plausible(sides: tuple[float, float] | None) -> tuple[float, float] | None:
    """A scale that a file states in a unit of length, or None where it is what printing leaves behind.

    Programs that convert images write 72, 96 or 300 dpi into whatever field there is. A scale that coarse and
    that close to a usual number of dots per inch was set by no microscope.
    """
    if sides is None or not all(math.isfinite(side) and side > 0 for side in sides):
        return None
    coarse = max(sides) > PLAUSIBLE_TIFF_MPP[1]
    return None if coarse and all(_is_dpi(25400 / side) for side in sides) else sides


def _is_dpi(dots: float) -> bool:
    return any(abs(dots - usual) < 0.001 * usual for usual in _USUAL_DPI)


def within_microscopy(sides: tuple[float, float] | None) -> tuple[float, float] | None:
    """A scale from resolution tags where it lies within `PLAUSIBLE_TIFF_MPP`, else None."""
    low, high = PLAUSIBLE_TIFF_MPP
    return sides if sides and all(low <= side <= high for side in sides) else None


def from_tiff_resolution(
    x_resolution: tuple[int, int] | None, y_resolution: tuple[int, int] | None, unit: int | None
) -> tuple[float, float] | None:
    """Scale from TIFF's XResolution, YResolution and ResolutionUnit (rationals; 3 is centimetre).

    Only px per centimetre within `PLAUSIBLE_TIFF_MPP` count. Px per inch never do: that unit is what
    drawing programs and cameras fill in (72, 96, 300 dpi).
    """
    if unit != 3 or not x_resolution or not y_resolution:
        return None
    sides = []
    for numerator, denominator in (x_resolution, y_resolution):
        if not numerator or not denominator:
            return None
        sides.append(1e4 * denominator / numerator)
    return within_microscopy((sides[0], sides[1]))


def from_imagej(
    x_resolution: tuple[int, int] | None, y_resolution: tuple[int, int] | None, unit: str
) -> tuple[float, float] | None:
    """Scale from the resolution tags of an ImageJ file and the unit in its description.

    Units of microscopy (mm and below) are what a person set. ImageJ itself turns printing resolutions into
    inch and cm: per inch never counts, and per cm only within `PLAUSIBLE_TIFF_MPP`.
    """
    sides = []
    for rational in (x_resolution, y_resolution):
        if not rational or not rational[0] or not rational[1]:
            return None
        sides.append(to_micrometres(rational[1] / rational[0], unit))
    scale, word = pair(*sides), unit.strip().lower()
    if word in ("inch", "inches", "in"):
        return None
    if word in ("cm", "centimeter", "dm", "decimeter", "m", "meter", "metre"):
        return within_microscopy(scale)
    return plausible(scale)
