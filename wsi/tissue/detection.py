"""Telling tissue from glass, pen and borders in a low-resolution image of a slide."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB
from wsi.tissue.focus import out_of_focus
from wsi.tissue.glass import Glass, find_glass
from wsi.tissue.gray import black_border, gray_dirt
from wsi.tissue.pen import find_pen
from wsi.tissue.shapes import components, extremes, grown

Mask = NDArray[np.bool_]

_OD_LOW, _OD_HIGH = 0.018, 0.06
"""Range of the threshold on stain density: below is noise and uneven light, above is certainly tissue."""
_NOISES = 1.5
"""Lowest threshold in standard deviations of one px of glass; stain density is smoothed."""
_NEAR, _EDGE_PX, _SIDE = 1.3, 5.0, 1024
"""Px within this factor of a threshold are near it; width in px of a sharp edge, on an image of this longer side."""
_NO_COLOUR, _MEAN_WEIGHT = 0.02, 0.5
_DOUBT = 0.7, 1.4
"""Tissue hangs on the threshold where it is tissue at the first of these times the threshold and not at the second."""
_SPECK_UM2, _HOLE_UM2, _PEN_UM2 = 5_000.0, 40_000.0, 5_000.0
"""Largest speck dropped, largest hole filled, smallest patch that can be a felt pen's."""
_SPECK_SHARE, _HOLE_SHARE, _PEN_SHARE = 5e-5, 5e-4, 3e-4
"""The same as shares of the picture where the scale is unknown."""


def detect(picture: RGB, *, um_per_px: float | None, background: str = "auto") -> tuple[Mask, dict[str, object]]:
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
    brightest, dimmest = extremes(picture)
    lit_glass = (dimmest > 130) & (brightest - dimmest < 60)
    return bool(np.median(brightest) < 80 and lit_glass.mean() < 0.05)


def _fluorescence(picture: RGB, um_per_px: float | None) -> tuple[Mask, Mask, dict[str, object]]:
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


def _brightfield(picture: RGB, um_per_px: float | None) -> tuple[Mask, Mask, dict[str, object]]:
    """Tissue is what absorbs more than the glass, but for pen, borders and gray dirt."""
    black = black_border(picture)
    glass = find_glass(picture, ~black)
    sigma = 1.5 if um_per_px is None else float(np.clip(6 / um_per_px, 1.0, 4.0))
    density, stain = _stain(picture, glass, sigma)
    threshold = _threshold(np.where(black, np.float32(0), stain), glass.noise)
    stained = (stain > threshold) & ~black
    least = _PEN_SHARE * black.size if um_per_px is None else _PEN_UM2 / um_per_px**2
    found = find_pen(_white_balanced(picture, glass), stained, um_per_px)
    pen = components(found.mask, lambda area, reach: area >= least)
    pen |= out_of_focus(density, stained & ~pen)
    dirt = gray_dirt(stained & ~pen, density)
    # The blur carries ink and black over their edges.
    excluded = grown(black | pen, int(np.ceil(1.5 * sigma))) | dirt
    mask = stained & ~excluded
    low, high = (float(((stain > times * threshold) & ~excluded).sum()) for times in _DOUBT)
    details = {
        "glass_rgb": [[int(v) for v in colour] for colour in glass.colours],
        "glass_assumed": glass.assumed,
        "threshold": round(threshold, 4),
        "on_threshold": round((low - high) / max(1.0, low), 4),
        "pen_share": round(float(pen.mean()), 5),
        "black_share": round(float(black.mean()), 5),
        "gray_share": round(float(dirt.mean()), 5),
        "pen": found.details,
    }
    return mask, excluded, details


def _stain(picture: RGB, glass: Glass, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Optical density against the glass, float32 (h, w, 3), and stain density, float32 (h, w).

    Stain density is the spread of the optical density (Beer-Lambert) between the channels plus half its mean: dust,
    shadow and uneven light absorb all channels alike, stains do not. On an image without colour it is the mean.
    """
    best: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    for colour in glass.colours:
        values = np.minimum(np.arange(256)[:, None], colour)
        tables = np.log10((colour + 1.0) / (values + 1.0)).astype(np.float32)
        density = np.stack([tables[picture[..., c], c] for c in range(3)], axis=2)
        density = np.asarray(cv2.GaussianBlur(density, (0, 0), sigma), np.float32)
        high, low = extremes(density)
        spread = high - low
        weight = 1.0 if np.percentile(spread, 98) < _NO_COLOUR else _MEAN_WEIGHT
        stain = np.asarray(spread + weight * (density[..., 0] + density[..., 1] + density[..., 2]) / 3, np.float32)
        if best is None:
            best = density, stain
        else:
            closer = stain < best[1]
            best = np.where(closer[..., None], density, best[0]), np.minimum(stain, best[1])
    assert best is not None
    return best


def _threshold(stain: NDArray[np.float32], noise: float) -> float:
    """The lowest stain density at which the tissue has a sharp edge.

    Above the noise of the glass, thresholds are tried up to what is certainly tissue. Px near a threshold, over the
    length of the outline there, are the width of the edge: a px or two at the border of tissue, many in a haze of
    spilled stain or a shadow. How much of the tissue is dense does not move it.

    Parameters
    ----------
    stain : float32 (h, w)
        0 where there is a border.
    noise : float
        Standard deviation of the optical density of one px of glass.
    """
    low = float(np.clip(_NOISES * noise, _OD_LOW, _OD_HIGH))
    factor = min(1.0, _SIDE / max(stain.shape))
    size = max(1, round(stain.shape[1] * factor)), max(1, round(stain.shape[0] * factor))
    small = np.asarray(cv2.resize(stain, size, interpolation=cv2.INTER_AREA), np.float32)
    steps = np.geomspace(low, _OD_HIGH, 9)
    widths = np.array([_edge_width(small, step) for step in steps])
    return float(steps[int(np.argmax(widths <= max(widths.min() + 1, _EDGE_PX)))])


def _edge_width(stain: NDArray[np.float32], step: float) -> float:
    inside = (stain > step).astype(np.uint8)
    outline = int(np.count_nonzero(inside)) - int(np.count_nonzero(cv2.erode(inside, np.ones((3, 3), np.uint8))))
    band = int(np.count_nonzero(stain > step / _NEAR)) - int(np.count_nonzero(stain > step * _NEAR))
    return band / max(1, outline)


def _white_balanced(picture: RGB, glass: Glass) -> RGB:
    """The image as if its glass were white."""
    gain = 245.0 / np.maximum(glass.colours[-1], 1)
    tables = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)
    return np.stack([tables[picture[..., c], c] for c in range(3)], axis=2)


def _tidy(mask: Mask, excluded: Mask, um_per_px: float | None) -> tuple[Mask, dict[str, Any]]:
    """Fill small holes and drop small specks; `excluded` px (pen, black) stay out."""
    specks, holes = _SPECK_SHARE * mask.size, _HOLE_SHARE * mask.size
    if um_per_px is not None:
        specks, holes = min(specks, _SPECK_UM2 / um_per_px**2), min(holes * 10, _HOLE_UM2 / um_per_px**2)
    filled = mask | components(~mask & ~excluded, lambda area, reach: (area <= holes) & ~reach)
    kept = components(filled, lambda area, reach: area > specks)
    # Scattered cells (smears, cytology) are specks that matter: then nothing is dropped.
    scattered = bool(kept.sum() < 0.8 * filled.sum())
    details = {"hole_px": round(holes, 1), "speck_px": 0.0 if scattered else round(specks, 1)}
    return (filled if scattered else kept), details


def _otsu(values: NDArray[np.floating]) -> float:
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
