"""Felt pen: inks by colour, told from stains of the same colour by how they lie."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB
from wsi.tissue.shapes import contact, grown
from wsi.tissue.strokes import Stroke, find_strokes

Mask = NDArray[np.bool_]
Density = NDArray[np.float32]

_MIN_LENGTH, _SURE_LENGTH, _LONG = 2.2, 5.0, 12.0
"""Length of a stroke in widths: smallest; from which it is pen where its colour is an ink's; from which it is pen
whatever else has its colour."""
_MIN_ON_GLASS = 0.5
"""Share of its flanks that is glass, where a long stroke is told from strands of tissue."""
_MIN_SIDE = 0.1
"""Length of a pen's longest stroke as a share of the image's longer side."""
_MIN_SHARE_PIECE, _MIN_PIECES, _MIN_AREA, _MIN_SEEDS = 0.15, 0.15, 0.45, 0.18
"""A piece is drawn where strokes make up this share of it; a colour is ink where this share of its pieces, and of its
px, is drawn, and strokes make up this share of its px."""
_MIN_SHARE_OF_COLOUR = 0.3
"""Share that strokes make up of the px like them, from which their colour is their own."""
_COLOUR_SIGMA, _COLOUR_REACH = 0.04, (2.5, 4.0)
"""Optical density by which one ink varies at least; standard deviations that count as like it, and as joined to it."""
_SIDE = 1024
"""Longer side of the image that strokes are looked for on, px."""
_WIDTHS_UM = 30.0, 4000.0


@dataclass(frozen=True)
class Pen:
    """Ink found: its px, and the numbers it was found by."""

    mask: Mask
    details: dict[str, object]


def find_pen(picture: RGB, stained: Mask, um_per_px: float | None) -> Pen:
    """Find felt pen.

    Parameters
    ----------
    picture : uint8 (h, w, 3)
        With white glass.
    stained : bool (h, w)
        Px that are not glass.
    um_per_px : float or None

    Notes
    -----
    A colour is no pen by itself. Px of an ink's colour are pen where they form strokes (`find_strokes`), and where
    strokes make up a good part of that colour's px in the same surroundings: on glass, or within tissue. A stain
    lies in patches that turn and fork, and a piece of tissue in one colour is no stroke.
    """
    height, width = picture.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        small_stained = cv2.resize(stained.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        found = find_pen(small, small_stained, None if um_per_px is None else um_per_px / factor)
        whole = cv2.resize(found.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return Pen((whole > 0) & stained, found.details)
    side = max(height, width)
    density = np.log10(256 / (cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32) + 1))
    widths = (
        (4.0, side / 10)
        if um_per_px is None
        else (max(4.0, _WIDTHS_UM[0] / um_per_px), min(side / 10, _WIDTHS_UM[1] / um_per_px))
    )
    pen = np.zeros_like(stained)
    details: dict[str, object] = {}
    for name, ink in inks(picture).items():
        ink &= stained
        if ink.sum() < 12:
            continue
        strokes, facts = _of_colour(density, ink, stained, widths)
        pen |= strokes
        if facts:
            details[name] = facts
    return Pen(pen, details)


def _of_colour(
    density: Density, ink: Mask, stained: Mask, widths: tuple[float, float]
) -> tuple[Mask, dict[str, object]]:
    others = stained & ~grown(ink, 3)
    strokes = sorted(find_strokes(ink, others, widths, min_length=_MIN_LENGTH), key=lambda s: -s.length * s.width)
    if not strokes:
        return np.zeros_like(ink), {}
    every = _painted(strokes, ink)
    side = max(ink.shape)
    if max(s.length for s in strokes) < _MIN_SIDE * side:
        return np.zeros_like(ink), {}
    longest = float(max(s.length / s.width for s in strokes))
    together = sum(s.length / s.width for s in strokes)
    ink_only = _is_ink_only(ink, every, strokes)
    if ink_only and (longest >= _SURE_LENGTH or together >= 2 * _SURE_LENGTH or others.sum() > ink.sum()):
        pen = _all_of(ink, every, others, strokes)
    else:
        ink_only = False
        pen = _beside_stain(density, ink, every, strokes)
    if not pen.any():
        return pen, {}
    pen |= _within_reach(pen, ink, float(np.median([s.width for s in strokes])) / 4)
    return pen, {"strokes": len(strokes), "longest": round(longest, 1), "ink_only": bool(ink_only)}


def _is_ink_only(ink: Mask, every: Mask, strokes: list[Stroke]) -> bool:
    """Whether a colour lies as pen does: in few pieces, most of them strokes. A stain has many patches beside."""
    lengths = np.array([s.length for s in strokes])
    width = float(np.average([s.width for s in strokes], weights=lengths))
    count, labels, _, _ = cv2.connectedComponentsWithStats(_bridged(ink, width), connectivity=8)
    area = np.bincount(labels.ravel(), ink.ravel(), count)
    area[0] = 0
    drawn = np.bincount(labels.ravel(), every.ravel(), count) >= _MIN_SHARE_PIECE * np.maximum(area, 1)
    sizeable = area >= 0.5 * width**2
    pieces = float((drawn & sizeable).sum() / max(1, sizeable.sum()))
    drawn_area = float(area[drawn].sum()) / float(area.sum())
    return pieces >= _MIN_PIECES and drawn_area >= _MIN_AREA and every.sum() >= _MIN_SEEDS * ink.sum()


def _all_of(ink: Mask, every: Mask, others: Mask, strokes: list[Stroke]) -> Mask:
    """All px of an ink that are no wider than its strokes: on glass, and in tissue where a stroke runs across it."""
    width = max(s.width for s in strokes)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (int(1.6 * width) | 1,) * 2)
    wide = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, disc)
    narrow = ink & (wide == 0)
    count, labels, _, _ = cv2.connectedComponentsWithStats(narrow.astype(np.uint8), connectivity=8)
    drawn = np.bincount(labels.ravel(), every.ravel(), count) > 0
    chosen = drawn | (contact(labels, count, others) < 0.25) | any(s.on_glass < 0.8 for s in strokes)
    chosen[0] = False
    return np.asarray(chosen[labels])


def _beside_stain(density: Density, ink: Mask, every: Mask, strokes: list[Stroke]) -> Mask:
    """The strokes that are pen although a stain has a similar colour: long ones, or such of a colour of their own."""
    pen = np.zeros_like(ink)
    for stroke in strokes:
        place = stroke.rows, stroke.columns
        own = stroke.mask & ink[place]
        long = stroke.length >= _LONG * stroke.width and stroke.on_glass >= _MIN_ON_GLASS
        if own.sum() < 8 or not (long or stroke.length >= _SURE_LENGTH * stroke.width):
            continue
        if (pen[place] & own).sum() > 0.8 * own.sum():
            continue
        match, near = ink.copy(), ink.copy()
        apart = _unlikeness(density[ink], density[place][_core(own)])
        match[ink], near[ink] = apart < _COLOUR_REACH[0] ** 2, apart < _COLOUR_REACH[1] ** 2
        if not long and (every & match).sum() < _MIN_SHARE_OF_COLOUR * match.sum():
            continue
        seed = np.zeros_like(ink)
        seed[place] = own
        pen |= seed | _within_reach(seed, match, 3 * stroke.width) | _within_reach(seed, near, 0.8 * stroke.width)
    return pen


def _bridged(ink: Mask, width: float) -> NDArray[np.uint8]:
    """The ink with the gaps closed that a dry pen leaves."""
    gap = max(1, int(0.3 * width)) | 1
    return np.asarray(cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8)))


def _core(own: Mask) -> Mask:
    """The inner half of a stroke, whose colour no edge has thinned."""
    depth = cv2.distanceTransform(np.pad(own, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(depth >= np.median(depth[own])) & own


def _unlikeness(colours: Density, sample: Density) -> NDArray[np.float64]:
    """How far densities (n, 3) are from those of a sample (m, 3): Mahalanobis distance, squared."""
    centre = np.median(sample, axis=0)
    near = sample[np.linalg.norm(sample - centre, axis=1) <= np.percentile(np.linalg.norm(sample - centre, axis=1), 90)]
    spread = np.cov(near.T) + np.eye(3) * _COLOUR_SIGMA**2
    apart = colours - near.mean(axis=0)
    return np.asarray(np.einsum("ij,jk,ik->i", apart, np.linalg.inv(spread), apart))


def _within_reach(seeds: Mask, ink: Mask, distance: float) -> Mask:
    """Px of the ink that are joined to the strokes within a distance."""
    reached, disc = seeds.copy(), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    for _ in range(max(1, round(distance / 2))):
        reached = (cv2.dilate(reached.astype(np.uint8), disc) > 0) & (ink | seeds)
    return reached


def _painted(strokes: list[Stroke], ink: Mask) -> Mask:
    mask = np.zeros_like(ink)
    for stroke in strokes:
        mask[stroke.rows, stroke.columns] |= stroke.mask
    return mask & ink


def inks(picture: RGB) -> dict[str, Mask]:
    """Px that have the colour of a pen, by pen; on a picture with white glass."""
    hue, saturation, value = _hue(picture)
    green = (hue >= 70) & (hue < 190) & (saturation > 40)
    blue = (hue >= 180) & (hue < 250) & (saturation > 60)
    red = ((hue >= 338) | (hue < 16)) & (saturation > 120) & (value > 100)
    dark = value < 115
    return {"green": green, "blue": blue, "red": red, "black": dark}


def ink(picture: RGB) -> Mask:
    """Ink of green, blue and black felt pens in a small piece of a slide, where no stroke can be followed."""
    hue, saturation, value = _hue(picture)
    green = (hue >= 75) & (hue < 185) & (saturation > 50)
    blue = (hue >= 185) & (hue < 240) & (saturation > np.where(hue < 225, 105, 150))
    black = (value < 70) & (picture.max(axis=2) - picture.min(axis=2) < 25)
    return np.asarray(green | blue | black)


def _hue(picture: RGB) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    """Hue in degrees, saturation and value, of the picture softened a little."""
    hsv = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.0), cv2.COLOR_RGB2HSV).astype(np.int16)
    return hsv[..., 0] * 2, hsv[..., 1], hsv[..., 2]
