"""How good the pixels of a tile are: tissue, focus, pen, folds, clipped light. Measured before any model looks.

Everything is measured in micrometres, on the picture as the model would get it. What cannot be measured is NaN:
focus where a px is too coarse to show it, all but clipping where the scale is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB, Slide
from wsi.tissue import TissueMask, overview
from wsi.tissue.pen import ink

_FINE_UM, _MIDDLE_UM, _COARSE_UM = 0.3, 0.9, 3.0
"""Gaussians whose differences are the fine and the coarse detail; a nucleus' rim and chromatin lie in the fine."""
_COARSEST_UM = 0.8  # per px: beyond, the fine detail is not in the picture
_TISSUE_OD = 0.05  # grey optical density, averaged over _COARSE_UM, from which a px is tissue
_WINDOW_UM = 16.0  # side of the windows that focus is measured in
_FULL = 0.9  # share of tissue a window needs
_LEAST_POWER = 1e-5  # of coarse detail a window needs: nothing can be sharp where there is nothing to see
_FOLD_UM = 6.0
_FOLD_TIMES, _FOLD_TIMES_DENSE, _DENSE = 1.5, 1.25, 90
"""A fold lets light through two layers: up to twice the optical density of its slide. It has to stand out from the
median, and from the densest tissue (percentile _DENSE) where a slide is uneven."""
_SMALL_UM = 2.0  # per px of the picture that pen and folds are looked for on
_OVERVIEW_PX = 1024


@dataclass(frozen=True, slots=True)
class QualityReference:
    """What is usual on one slide.

    Attributes
    ----------
    fold_density : float
        Optical density in green, smoothed over a few um, from which a px is part of a fold; NaN where unknown.
    brightfield : bool
        False for fluorescence, which has neither pen nor folds of this kind.
    """

    fold_density: float
    brightfield: bool


@dataclass(frozen=True, slots=True)
class TileQuality:
    """Measures of one tile; NaN where one could not be taken.

    Attributes
    ----------
    tissue : float
        Share of px that are stained (brightfield) or lit (fluorescence), 0..1.
    focus : float
        Fine detail over coarse detail. Sharp tissue has about 0.4 to 0.8, out of focus below 0.37.
    pen, fold : float
        Share of px under felt pen, and in folds.
    saturation : float
        Share of the tissue whose light is clipped: a channel at 0, or all of them at 255.
    """

    tissue: float
    focus: float
    pen: float
    fold: float
    saturation: float


def quality_reference(slide: Slide, mask: TissueMask) -> QualityReference:
    """Look at a slide once, for what its tiles are measured against."""
    brightfield = mask.details.get("background") != "fluorescence"
    if not brightfield or slide.mpp is None:
        return QualityReference(float("nan"), brightfield)
    factor = min(1.0, _OVERVIEW_PX / max(slide.width, slide.height))
    size = max(1, round(slide.width * factor)), max(1, round(slide.height * factor))
    picture, unreadable = overview(slide, size)
    density = _blur(_density(picture[..., 1]), _FOLD_UM / (slide.mpp / factor))
    tissue = _resize_mask(mask, size) & ~unreadable & (density > _TISSUE_OD)
    if not tissue.any():
        return QualityReference(float("nan"), brightfield)
    median, dense = np.percentile(density[tissue], [50, _DENSE])
    return QualityReference(float(max(_FOLD_TIMES * median, _FOLD_TIMES_DENSE * dense)), brightfield)


def tile_quality(picture: RGB, um_per_px: float | None, reference: QualityReference) -> TileQuality:
    """Measure one tile.

    Parameters
    ----------
    picture : uint8 (h, w, 3)
    um_per_px : float or None
        Scale of the picture.
    reference : QualityReference
        Of the slide it comes from.
    """
    if um_per_px is None:
        unknown = float("nan")
        clipped = _clipped(picture, np.ones(picture.shape[:2], bool))
        return TileQuality(unknown, unknown, unknown, unknown, clipped)
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    density = _density(grey) if reference.brightfield else np.asarray(grey / 255, np.float32)
    coarse = _blur(density, _COARSE_UM / um_per_px)
    tissue = coarse > _TISSUE_OD
    share = float(tissue.mean())
    focus = _focus(density, coarse, tissue, um_per_px) if um_per_px <= _COARSEST_UM else float("nan")
    pen = fold = 0.0
    if reference.brightfield:
        pen, fold = _pen_and_fold(picture, um_per_px, reference.fold_density)
    return TileQuality(share, focus, pen, fold, _clipped(picture, tissue))


def _focus(
    density: NDArray[np.float32], coarse: NDArray[np.float32], tissue: NDArray[np.bool_], um_per_px: float
) -> float:
    """Median over small windows, so that a tile that is blurred for the most part counts as blurred."""
    middle = _blur(density, _MIDDLE_UM / um_per_px)
    fine = _blur(density, _FINE_UM / um_per_px) - middle
    height, width = density.shape
    size = max(1, round(width * um_per_px / _WINDOW_UM)), max(1, round(height * um_per_px / _WINDOW_UM))
    fine_power, coarse_power, stained = (
        cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        for values in (np.square(fine), np.square(middle - coarse), tissue.astype(np.float32))
    )
    # Beside glass the border of the tissue is all the coarse detail there is.
    usable = (stained > _FULL) & (coarse_power > _LEAST_POWER)
    if not usable.any():
        return float("nan")
    return float(np.sqrt(np.median(fine_power[usable] / coarse_power[usable])))


def _pen_and_fold(picture: RGB, um_per_px: float, fold_density: float) -> tuple[float, float]:
    factor = min(1.0, um_per_px / _SMALL_UM)
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    scale = um_per_px * picture.shape[1] / size[0]
    inked = ink(small)
    if not fold_density > 0:
        return float(inked.mean()), float("nan")
    folded = _blur(_density(small[..., 1]), _FOLD_UM / scale) > fold_density
    return float(inked.mean()), float((folded & ~inked).mean())


def _clipped(picture: RGB, tissue: NDArray[np.bool_]) -> float:
    if not tissue.any():
        return 0.0
    clipped = (picture.min(axis=2) == 0) | (picture.min(axis=2) == 255)
    return float(clipped[tissue].mean())


_DENSITY = (-np.log10((np.arange(256) + 1.0) / 256.0)).astype(np.float32)


def _density(channel: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density against white, float32 of the same shape."""
    return np.asarray(_DENSITY[channel], np.float32)


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    if sigma < 0.2:
        return values.copy()
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _resize_mask(mask: TissueMask, size: tuple[int, int]) -> NDArray[np.bool_]:
    return cv2.resize(mask.array.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
