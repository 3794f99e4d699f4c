"""Telling tissue from glass, pen and black borders in a low-resolution picture of a slide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from wsi.slide import RGB

Mask = NDArray[np.bool_]

_OD_LOW, _OD_HIGH = 0.02, 0.07
"""Range of the threshold on stain density: below is noise and uneven light, above is certainly tissue."""
_SPECK_UM2, _HOLE_UM2, _PEN_UM2 = 5_000.0, 40_000.0, 5_000.0
"""Largest speck dropped, largest hole filled, smallest patch that can be a felt pen's."""
_SPECK_SHARE, _HOLE_SHARE, _PEN_SHARE = 5e-5, 5e-4, 3e-4
"""The same as shares of the picture where the scale is unknown."""
_WHITE = np.full(3, 243, np.float32)
"""Stands for the glass on a picture that shows none."""


def detect(picture: RGB, *, um_per_px: float | None, background: str = "auto") -> tuple[Mask, dict[str, Any]]:
    """Find the tissue in a picture of a whole slide.

    Parameters
    ----------
    picture : uint8 array (h, w, 3)
    um_per_px : float or None
        Scale of the picture, used for the size of specks and holes.
    background : {'auto', 'brightfield', 'fluorescence'}

    Returns
    -------
    mask : bool array (h, w)
    details : dict
        JSON values: background found, glass colour, threshold, shares of pen and border.
    """
    if background == "auto":
        background = "fluorescence" if _is_dark_field(picture) else "brightfield"
    find = _fluorescence if background == "fluorescence" else _brightfield
    mask, excluded, details = find(picture, um_per_px)
    mask, tidied = _tidy(mask, excluded, um_per_px)
    return mask, {"background": background, **details, **tidied}


def _is_dark_field(picture: RGB) -> bool:
    """True where most of the picture is dark and nothing looks like lit glass."""
    brightest, dimmest = picture.max(axis=2), picture.min(axis=2)
    lit_glass = (dimmest > 130) & (brightest - dimmest < 60)
    return bool(np.median(brightest) < 80 and lit_glass.mean() < 0.05)


def _fluorescence(picture: RGB, um_per_px: float | None) -> tuple[Mask, Mask, dict[str, Any]]:
    """Tissue is what is brighter than the dark background, whose level and noise come from the picture."""
    signal = cv2.GaussianBlur(picture.max(axis=2).astype(np.float32), (0, 0), 1.5)
    dark = signal[signal <= np.median(signal)] if signal.size else signal
    floor, noise = float(np.median(dark)), float(np.median(np.abs(dark - np.median(dark)))) * 1.4826
    # Otsu on the logarithm: nuclei are many times brighter than the cytoplasm around them.
    level = float(np.expm1(_otsu(np.log1p(signal))))
    threshold = min(max(level, floor + max(3.0, 5 * noise)), floor + 40)
    # Only nuclei may shine: what lies between them is tissue too.
    radius = 3 if um_per_px is None else int(np.clip(round(20 / um_per_px), 1, 25))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    lit = np.pad((signal > threshold).astype(np.uint8), radius, mode="edge")
    closed = cv2.morphologyEx(lit, cv2.MORPH_CLOSE, disc)[radius:-radius, radius:-radius]
    mask = closed.astype(bool)
    return mask, np.zeros_like(mask), {"threshold": round(threshold, 2), "background_level": round(floor, 2)}


def _brightfield(picture: RGB, um_per_px: float | None) -> tuple[Mask, Mask, dict[str, Any]]:
    """Tissue is what is denser or more coloured than the glass, and is neither pen nor black border."""
    brightest, dimmest = picture.max(axis=2), picture.min(axis=2)
    chroma = brightest - dimmest
    in_colour = bool(np.percentile(chroma, 95) >= 12)
    black = (brightest < 25) | ((brightest < 90) & (chroma < 25))
    # A grey picture has dark nuclei, which only the border tells from black.
    black &= _components(black, lambda area, reach: (area > 1e-3 * black.size) & (reach | in_colour))
    glasses, noise, assumed = _glass(picture[~black].reshape(-1, 3))
    sigma = 1.5 if um_per_px is None else float(np.clip(6 / um_per_px, 1.0, 4.0))
    stain = np.min([_stain(picture, glass, sigma) for glass in glasses], axis=0)
    floor = float(np.clip(4.0 * noise, _OD_LOW, 0.05))
    usable = stain[~black]
    # Square root: Otsu on density itself would put pale tissue beside dark tissue with the glass.
    otsu = _otsu(np.sqrt(usable)) ** 2 if usable.size else floor
    threshold = float(np.clip(otsu, floor, _OD_HIGH))
    mask = (stain > threshold) & ~black
    least = _PEN_SHARE * black.size if um_per_px is None else _PEN_UM2 / um_per_px**2
    pen = _pen(picture) & ~black
    pen &= _components(pen, lambda area, reach: area >= least)
    share = float((pen & mask).sum() / max(1, int(mask.sum())))
    # Where most of the "tissue" has a pen's colour, it is a green or blue stain.
    is_stain = share > 0.5
    if is_stain:
        pen = np.zeros_like(pen)
    # The blur carries ink and black over their edges.
    reach = 2 * int(np.ceil(1.5 * sigma)) + 1
    excluded = cv2.dilate((black | pen).astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool)
    details = {
        "glass_rgb": [[int(v) for v in glass] for glass in glasses],
        "glass_assumed": assumed,
        "threshold": round(threshold, 4),
        "pen_share": round(float(pen.mean()), 5),
        "black_share": round(float(black.mean()), 5),
        "pen_colour_is_stain": is_stain,
    }
    return mask & ~excluded, excluded, details


def _stain(picture: RGB, glass: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Stain density against the glass, float32 (h, w).

    Optical density (Beer-Lambert) averaged over the channels, plus its spread between them: dust, shadow and
    uneven light absorb all channels alike, stains do not.
    """
    values = np.minimum(np.arange(256)[:, None], glass)
    tables = np.log10((glass + 1.0) / (values + 1.0)).astype(np.float32)
    density = np.stack([tables[picture[..., c], c] for c in range(3)], axis=2)
    density = cv2.GaussianBlur(density, (0, 0), sigma)
    return np.asarray(density.mean(axis=2) + (density.max(axis=2) - density.min(axis=2)), np.float32)


def _glass(pixels: NDArray[np.uint8]) -> tuple[list[NDArray[np.float32]], float, bool]:
    """Colours of the glass, the noise of its optical density, and whether the colour is assumed.

    The glass is the brightest peak of brightness that holds at least 1 % of the pixels. Where that is
    coloured the picture is tissue from edge to edge, and white is assumed. A second sharp grey peak close
    below is glass too: scanners fill what they did not scan with a white of their own.
    """
    if not len(pixels):
        return [_WHITE], 0.0, True
    light = pixels.min(axis=1).astype(np.int16)
    counts = np.bincount(light, minlength=256).astype(float)
    window = np.convolve(np.pad(counts, 3, mode="reflect"), np.ones(7), "valid")
    high = maximum_filter1d(window, 15)
    peaks = [int(p) for p in np.flatnonzero((window == high) & (window >= 0.01 * len(pixels)))]
    first = peaks[-1] if peaks else int(np.percentile(light, 99))
    glasses: list[NDArray[np.float32]] = []
    for peak in [first, *(p for p in reversed(peaks[:-1]) if first - p <= 45)]:
        near = pixels[np.abs(light - peak) <= 3]
        chroma = np.median(near.max(axis=1) - near.min(axis=1)) if len(near) else 0
        if peak == first or (len(near) > 0.1 * len(pixels) and chroma < 10):
            colour = np.median(near, axis=0) if len(near) else np.full(3, peak)
            glasses.append(colour.astype(np.float32))
    if np.ptp(glasses[0]) > (40 if glasses[0].min() > 200 else 28):
        return [_WHITE], 0.0, True
    above = light[(light >= first) & (light <= first + 20)] - first
    noise = float(np.sqrt(np.mean(np.square(above, dtype=float)))) if len(above) else 0.0
    return glasses, noise / (2.303 * (first + 1.0)), False


def _pen(picture: RGB) -> Mask:
    """Ink of felt pens: saturated green or blue, and lines of saturated red.

    Hues of H&E and of brown immunostains (pink, purple, brown) are left alone; red counts only where it forms
    a thin line, because blood and strong eosin are red as well.
    """
    hue, saturation, value = _hue(picture)
    coloured = _coloured_ink(hue, saturation)
    red = ((hue >= 346) | (hue < 14)) & (saturation > 150) & (value > 120)
    # The edge of a stroke thins out towards the glass: as blue, but paler.
    fringe = (hue >= 75) & (hue < 240) & (saturation > 25)
    around = cv2.dilate(coloured.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    return np.asarray(coloured | (fringe & around) | _thin(red))


def ink(picture: RGB) -> Mask:
    """Ink of green, blue and black felt pens in a small piece of a slide, where no line can be followed."""
    hue, saturation, value = _hue(picture)
    black = (value < 70) & (picture.max(axis=2) - picture.min(axis=2) < 25)
    return np.asarray(_coloured_ink(hue, saturation) | black)


def _hue(picture: RGB) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    """Hue in degrees, saturation and value, of the picture softened a little."""
    hsv = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.0), cv2.COLOR_RGB2HSV).astype(np.int16)
    return hsv[..., 0] * 2, hsv[..., 1], hsv[..., 2]


def _coloured_ink(hue: NDArray[np.int16], saturation: NDArray[np.int16]) -> Mask:
    green = (hue >= 75) & (hue < 185) & (saturation > 50)
    blue = (hue >= 185) & (hue < 240) & (saturation > np.where(hue < 225, 105, 150))
    return np.asarray(green | blue)


def _thin(mask: Mask) -> Mask:
    """The components of a mask that are at least six times longer than wide, as drawn lines are."""
    if not mask.any():
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    half_width = np.zeros(count, np.float32)
    np.maximum.at(half_width, labels.ravel().astype(np.intp), distance.ravel())
    length = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    thin = length >= np.maximum(12 * half_width, 20)
    thin[0] = False
    return np.asarray(thin[labels])


def _components(mask: Mask, keep: Callable[[NDArray[np.int32], Mask], Mask]) -> Mask:
    """The components of a mask that `keep` chooses, by area in px and by whether they meet the border."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    reach = (left == 0) | (top == 0) | (right == mask.shape[1]) | (bottom == mask.shape[0])
    chosen = keep(stats[:, cv2.CC_STAT_AREA].astype(np.int32), reach)
    chosen[0] = False
    return np.asarray(chosen[labels])


def _tidy(mask: Mask, excluded: Mask, um_per_px: float | None) -> tuple[Mask, dict[str, Any]]:
    """Fill small holes and drop small specks; `excluded` px (pen, black) stay out."""
    specks, holes = _SPECK_SHARE * mask.size, _HOLE_SHARE * mask.size
    if um_per_px is not None:
        specks, holes = min(specks, _SPECK_UM2 / um_per_px**2), min(holes * 10, _HOLE_UM2 / um_per_px**2)
    filled = mask | _components(~mask & ~excluded, lambda area, reach: (area <= holes) & ~reach)
    kept = _components(filled, lambda area, reach: area > specks)
    # Scattered cells (smears, cytology) are specks that matter: then nothing is dropped.
    scattered = bool(kept.sum() < 0.8 * filled.sum())
    details = {"hole_px": round(holes, 1), "speck_px": 0.0 if scattered else round(specks, 1)}
    return (filled if scattered else kept), details


def _otsu(values: NDArray[np.floating[Any]]) -> float:
    """Otsu's threshold (1979) over 256 bins: the split with the largest variance between the two classes."""
    flat = values.ravel()
    low, high = float(flat.min()), float(flat.max())
    if high <= low:
        return high
    counts, edges = np.histogram(flat, bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts, dtype=float)
    above = flat.size - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(spread[:-1]))])
