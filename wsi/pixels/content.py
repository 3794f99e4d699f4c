"""How much there is to see: a coarse map of nuclear stain and texture, made without a model."""

from __future__ import annotations

from typing import Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi.slide import RGB, Slide
from wsi.tissue import TissueMask, overview

STATISTIC = "haematoxylin density and texture at 4 um/px"
_UM_PER_PX = 4.0
_SIDES = 256, 4096
_HAEMATOXYLIN, _EOSIN = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105)
"""Optical density of the stains in R, G, B (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291)."""
_TEXTURE_PX = 2.0


class ContentMap:
    """A picture of the whole slide that says how much there is to see.

    In brightfield it is the density of haematoxylin, which nuclei bind, and how much it varies from place to place;
    in fluorescence it is brightness and its variation. The numbers compare places of one slide, not slides.

    Parameters
    ----------
    values : float array (h, w)
        Not negative; 0 outside the tissue.
    scale_xy : (float, float)
        Level-0 px per element along x and y.
    """

    def __init__(self, values: NDArray[np.floating], scale_xy: tuple[float, float]) -> None:
        self.values, self.scale_xy = np.asarray(values, np.float32), scale_xy
        self._integral = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
        self._integral[1:, 1:] = np.asarray(values, np.float64).cumsum(axis=0).cumsum(axis=1)

    @classmethod
    def from_slide(cls, slide: Slide, mask: TissueMask) -> Self:
        """Make the map of an opened slide; what cannot be read counts as empty."""
        longer = max(slide.width, slide.height)
        wanted = longer / 16 if slide.mpp is None else longer * slide.mpp / _UM_PER_PX
        factor = min(1.0, min(max(wanted, _SIDES[0]), _SIDES[1]) / longer)
        size = max(1, round(slide.width * factor)), max(1, round(slide.height * factor))
        picture, unreadable = overview(slide, size)
        dark = mask.details.get("background") == "fluorescence"
        values = _brightness(picture) if dark else _stain(picture)
        tissue = cv2.resize(mask.array.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        values[unreadable | ~tissue] = 0
        return cls(values, (slide.width / size[0], slide.height / size[1]))

    def total(self, rects: ArrayLike) -> NDArray[np.float64]:
        """Sum of the map over rectangles, float64 (n,), in map elements.

        Parameters
        ----------
        rects : array (n, 4)
            x_min, y_min, x_max, y_max in level-0 px. Elements count where their centre lies inside.
        """
        at = np.asarray(rects, np.float64).reshape(-1, 4) / np.array([*self.scale_xy, *self.scale_xy])
        height, width = self.values.shape
        x0, y0, x1, y1 = np.clip(np.rint(at), 0, [width, height, width, height]).astype(np.int64).T
        table = self._integral
        return np.asarray(table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0])


def _stain(picture: RGB) -> NDArray[np.float32]:
    density = -np.log10((picture.astype(np.float32) + 1) / 256)
    cross = np.cross(_HAEMATOXYLIN, _EOSIN)
    stains = np.array([np.divide(v, np.linalg.norm(v)) for v in (_HAEMATOXYLIN, _EOSIN, cross)])
    haematoxylin = np.maximum(density @ np.linalg.inv(stains)[:, 0].astype(np.float32), 0)
    return _with_texture(haematoxylin.astype(np.float32))


def _brightness(picture: RGB) -> NDArray[np.float32]:
    signal = picture.max(axis=2).astype(np.float32) / 255
    return _with_texture(np.maximum(signal - np.float32(np.median(signal)), 0))


def _with_texture(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """The signal and its standard deviation around each place."""
    mean = cv2.GaussianBlur(signal, (0, 0), _TEXTURE_PX)
    square = cv2.GaussianBlur(signal * signal, (0, 0), _TEXTURE_PX)
    result: NDArray[np.float32] = signal + np.sqrt(np.maximum(square - mean * mean, 0))
    return result
