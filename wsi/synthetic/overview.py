"""Overviews of whole slides in any stain, with planted tissue, pen, borders and dirt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.tissue.stain import jpeg_roundtrip

Colour = tuple[int, int, int]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SyntheticStroke:
    """Felt pen along a smooth curve.

    Attributes
    ----------
    ink : tuple of 3 int
        RGB of the ink on the glass.
    points : tuple of (float, float)
        Places x, y that it passes, as shares of the overview's width and height.
    width : float
        Width as a share of the longer side.
    opacity : float
        0..1: at 1 nothing shines through; below, the ink filters what lies under it.
    streaks : float
        0..1: share of the stroke that a dry pen left out.
    closed : bool
    """

    ink: Colour
    points: tuple[tuple[float, float], ...]
    width: float = 0.016
    opacity: float = 0.4
    streaks: float = 0.0
    closed: bool = False


@dataclass(frozen=True)
class SyntheticOverview:
    """One overview and its truth.

    Attributes
    ----------
    image : uint8 (h, w, 3)
    tissue, pen, border : bool (h, w)
        Tissue that no pen covers; px under pen; scanner border, coverslip edge and dirt.
    unscored : bool (h, w), optional
        Px of which nobody knows.
    """

    image: NDArray[np.uint8]
    tissue: Mask
    pen: Mask
    border: Mask
    unscored: Mask | None = None

    @property
    def glass(self) -> Mask:
        """Px that are nothing else."""
        known = self.tissue | self.pen | self.border
        return np.asarray(~known if self.unscored is None else ~(known | self.unscored))


def stained_overview(
    seed: int,
    stains: Sequence[tuple[Colour, float]],
    *,
    size: tuple[int, int] = (800, 600),
    glass: Colour = (240, 240, 240),
    coverage: float = 0.3,
    patch_px: float = 7.0,
    texture: float = 0.0,
    softness: float = 0.0,
    noise: float = 3.0,
    shading: float = 0.0,
    pen: Sequence[SyntheticStroke] = (),
    border: Sequence[str] = (),
    dark_patch: Colour | None = None,
    blur: float = 0.0,
    jpeg: int | None = None,
) -> SyntheticOverview:
    """Plant tissue whose colours lie side by side in patches, as trichromes and immunostains do.

    Parameters
    ----------
    seed : int
    stains : sequence of (RGB, share)
        Colours of the tissue and the share of each; shares sum to one.
    size : (width, height)
    glass : RGB
    coverage : float
        Share of the overview that is tissue; 0 is an empty slide, 1 tissue from edge to edge.
    patch_px : float
        Size of the patches, px.
    texture, softness : float
        Standard deviation of the stain's density relative to its mean, and px over which one colour passes into
        the next. At 0 patches are flat.
    noise : float
        Standard deviation of the sensor, gray levels.
    shading : float
        Loss of light from the centre to the corners, 0..1.
    pen : sequence of SyntheticStroke
    border : sequence of {'frame', 'edge', 'corner', 'unscanned', 'coverslip', 'dirt'}
    dark_patch : RGB, optional
        A rectangle of dense pigment within the largest piece of tissue.
    blur : float
        Standard deviation in px of a blur over everything.
    jpeg : int, optional
        Quality of a JPEG compression.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    shape = (height, width)
    field_ = _smooth(rng, shape, max(size) / 14)
    tissue = np.full(shape, coverage >= 1) if coverage in (0, 1) else field_ > np.quantile(field_, 1 - coverage)
    light = np.array(glass, np.float32) + 1
    density = _mosaic(rng, shape, stains, light, patch_px, softness)
    if texture:
        grain = 0.6 * _smooth(rng, shape, 1.2) + 0.6 * _smooth(rng, shape, 4) + 0.5 * _smooth(rng, shape, 18)
        density *= np.clip(1 + texture * grain, 0.25, None)[..., None]
    density *= tissue[..., None]
    if dark_patch is not None:
        patch = _patch(tissue)
        density[patch] = np.log(light / (np.array(dark_patch) + 1))
    image = light * np.exp(-density) - 1
    pen_mask = np.zeros(shape, bool)
    for stroke in pen:
        image, pen_mask = _draw(image, pen_mask, stroke, light, rng)
    if shading:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        image = image * (1 - shading * np.hypot(x, y) / np.sqrt(2))[..., None]
    border_mask = np.zeros(shape, bool)
    for name in border:
        image, where = _BORDERS[name](image, rng)
        border_mask |= where & ~tissue if name == "dirt" else where
    if blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur), np.float32)
    scanned = (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)
    if "unscanned" in border:  # no sensor saw it
        scanned[:, -width // 7 :] = 255
    if jpeg is not None:
        scanned = jpeg_roundtrip(scanned, jpeg)
    pen_mask &= ~border_mask
    return SyntheticOverview(scanned, tissue & ~pen_mask & ~border_mask, pen_mask, border_mask)


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> NDArray[np.float32]:
    """Smooth noise of unit variance."""
    step = max(1, int(sigma / 4))
    coarse = rng.standard_normal((shape[0] // step + 3, shape[1] // step + 3)).astype(np.float32)
    soft = cv2.GaussianBlur(coarse, (0, 0), sigma / step)
    grown = cv2.resize(soft, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
    return np.asarray((grown - grown.mean()) / grown.std(), np.float32)


def _mosaic(
    rng: np.random.Generator,
    shape: tuple[int, int],
    stains: Sequence[tuple[Colour, float]],
    light: NDArray[np.float32],
    patch_px: float,
    softness: float,
) -> NDArray[np.float32]:
    """Density (natural logarithm) of the stains, each in patches of its own."""
    field_ = _smooth(rng, shape, patch_px)
    cuts = np.quantile(field_, np.clip(np.cumsum([share for _, share in stains])[:-1], 0, 1))
    which = np.digitize(field_, cuts)
    densities = np.log(light / (np.array([colour for colour, _ in stains], np.float32) + 1))
    density = densities[which]
    return np.asarray(cv2.GaussianBlur(density, (0, 0), softness) if softness else density, np.float32)


def _patch(tissue: Mask) -> Mask:
    """A rectangle around the deepest place of the tissue."""
    depth = cv2.distanceTransform(np.pad(tissue.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    half = int(0.8 * depth[y, x])
    patch = np.zeros_like(tissue)
    patch[max(0, y - int(0.7 * half)) : y + int(0.7 * half), max(0, x - half) : x + half] = True
    return np.asarray(patch & tissue)


def _draw(
    image: NDArray[np.float32],
    drawn: Mask,
    stroke: SyntheticStroke,
    light: NDArray[np.float32],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], Mask]:
    height, width = image.shape[:2]
    corners = np.array(stroke.points, float) * (width, height)
    if stroke.closed:
        corners = np.vstack([corners, corners[:1]])
    t, fine = np.arange(len(corners)), np.linspace(0, len(corners) - 1, 40 * len(corners))
    curve = np.stack([np.interp(fine, t, corners[:, k]) for k in range(2)], axis=1)
    if len(corners) > 2:  # rounded corners
        weights = np.hanning(43)[1:-1]
        around = ((20, 20), (0, 0))
        padded = np.pad(curve, around, mode="wrap") if stroke.closed else np.pad(curve, around, mode="edge")
        curve = np.stack([np.convolve(padded[:, k], weights / weights.sum(), "valid") for k in range(2)], axis=1)
    thick = max(2, round(stroke.width * max(width, height)))
    canvas = np.zeros((height, width), np.uint8)
    cv2.polylines(canvas, [np.round(curve * 16).astype(np.int32)], stroke.closed, 255, thick, cv2.LINE_AA, 4)
    strength = canvas.astype(np.float32) / 255
    if stroke.streaks:
        lines = cv2.GaussianBlur(rng.standard_normal((height, 1)).astype(np.float32), (1, 0), 0, sigmaY=1.0)
        lines = lines + 0.5 * _smooth(rng, (height, width), thick / 2)
        strength *= lines > np.quantile(lines, stroke.streaks)
    strength = strength * (0.93 + 0.05 * _smooth(rng, (height, width), thick)).clip(0.7, 1)
    strength = cv2.GaussianBlur(strength, (0, 0), 0.7)[..., None]
    ink = np.array(stroke.ink, np.float32)
    filtered = image * (1 - strength * (1 - (ink + 1) / light))
    covered = image * (1 - strength) + ink * strength
    where = strength[..., 0] > 0.5
    return np.asarray(filtered * (1 - stroke.opacity) + covered * stroke.opacity, np.float32), drawn | where


def _frame(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    """Black around, as where a scanner saw no slide."""
    where = np.ones(image.shape[:2], bool)
    thick = max(3, max(image.shape) // 20)
    where[thick // 2 : -thick, thick:-thick] = False
    return np.where(where[..., None], np.float32(12), image), where


def _edge(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    """The slide's own dark edge along one side."""
    where = np.zeros(image.shape[:2], bool)
    where[:, : max(3, image.shape[1] // 25)] = True
    return np.where(where[..., None], np.array((38, 35, 33), np.float32), image), where


def _corner(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    where = np.zeros(image.shape[:2], bool)
    where[-image.shape[0] // 6 :, -image.shape[1] // 5 :] = True
    return np.where(where[..., None], np.float32(0), image), where


def _unscanned(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    """White that a scanner filled in."""
    where = np.zeros(image.shape[:2], bool)
    where[:, -image.shape[1] // 7 :] = True
    return np.where(where[..., None], np.float32(255), image), where


def _coverslip(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    """The dark, slightly oblique line of a coverslip's edge, and bare glass, a little darker, beyond it."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    offset = x - 0.1 * width - 0.06 * y
    image = image * np.where(offset < 0, np.float32(0.93), np.float32(1))[..., None]
    line = np.exp(-((offset / (0.004 * width)) ** 2)).astype(np.float32)
    return np.asarray(image * (1 - 0.75 * line)[..., None], np.float32), np.asarray(line > 0.3)


def _dirt(image: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    """Gray smears without colour."""
    smear = np.clip(_smooth(rng, image.shape[:2], 9) - 2.2, 0, 1) * 0.12
    return np.asarray(image * (1 - smear)[..., None], np.float32), smear > 0.01


_BORDERS = {
    "frame": _frame,
    "edge": _edge,
    "corner": _corner,
    "unscanned": _unscanned,
    "coverslip": _coverslip,
    "dirt": _dirt,
}
