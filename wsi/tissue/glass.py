"""The glass of a slide: its colour, also when it is yellowed or gray, and the noise of its light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from wsi.slide import RGB
from wsi.tissue.shapes import extremes

Mask = NDArray[np.bool_]

_WHITE = (243.0, 243.0, 243.0)
"""Stands for the glass on an image that shows none."""
_OPEN_SHARE = 0.04
"""Radius, as a share of the shorter side, of the largest open place that tinted glass has. Pale tissue lies between
other tissue."""


@dataclass(frozen=True)
class Glass:
    """Empty glass.

    Attributes
    ----------
    colours : list of float32 (3,)
        RGB, brightest first. A second one where a scanner fills what it did not scan with a white of its own.
    noise : float
        Standard deviation of the optical density of one px.
    assumed : bool
        True where the image shows no glass and white is assumed.
    """

    colours: list[NDArray[np.float32]]
    noise: float
    assumed: bool


def find_glass(picture: RGB, usable: Mask) -> Glass:
    """The glass is the brightest peak of brightness that holds at least 1 % of the px and has a colour glass can have.

    Parameters
    ----------
    picture : uint8 (h, w, 3)
    usable : bool (h, w)
        Px that are not a black border.
    """
    assumed = Glass([np.array(_WHITE, np.float32)], 0.0, True)
    if not usable.any():
        return assumed
    light = extremes(picture)[1].astype(np.int16)
    values = light[usable]
    counts = np.bincount(values, minlength=256).astype(float)
    window = np.convolve(np.pad(counts, 3, mode="reflect"), np.ones(7), "valid")
    peaks = np.flatnonzero((window == maximum_filter1d(window, 15)) & (window >= 0.01 * len(values)))[::-1]
    first = int(peaks[0]) if len(peaks) else int(np.percentile(values, 99))
    near = usable & (np.abs(light - first) <= 3)
    if not near.any():
        return assumed
    colour = np.median(picture[near], axis=0).astype(np.float32)
    if not _can_be_glass(colour, near):
        return assumed
    colours = [colour]
    if (picture[near] == colour).all(axis=1).mean() > 0.6:  # of one value: no sensor saw it
        for peak in (int(p) for p in peaks[1:] if 7 <= first - p <= 60):
            second = usable & (np.abs(light - peak) <= 3)
            other = np.median(picture[second], axis=0).astype(np.float32)
            if second.sum() > 0.1 * len(values) and _can_be_glass(other, second):
                colours.append(other)
                break
    last = round(float(colours[-1].min()))
    above = values[(values >= last) & (values <= min(last + 20, 254))] - last
    noise = float(np.sqrt(np.mean(np.square(above, dtype=float)))) if len(above) else 0.0
    return Glass(colours, noise / (2.303 * (last + 1.0)), False)


def _can_be_glass(colour: NDArray[np.float32], where: Mask) -> bool:
    """Neutral; or a little tinted, or yellow to brown as mounting medium ages, and then in the open."""
    red, green, blue = (float(v) for v in colour)
    chroma = max(red, green, blue) - min(red, green, blue)
    if chroma < 10:
        return True
    aged = red >= green - 2 and green >= blue and red - green <= 0.5 * (red - blue) and red - blue <= 85
    tinted = chroma <= (40 if min(red, green, blue) > 200 else 28)
    if not (aged or tinted):
        return False
    # Nearly all of the px around have to be alike, over a wide place.
    dense = cv2.blur(where.astype(np.float32), (5, 5)) > 0.35
    depth = cv2.distanceTransform(np.pad(dense, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 3)
    return bool(depth.max() > _OPEN_SHARE * min(where.shape))
