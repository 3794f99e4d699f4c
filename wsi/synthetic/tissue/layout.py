"""Where things lie: windows of the pixel grid, and the coarse maps that say which region is where."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.tissue.noise import FloatImage

REGIONS = ("tumor", "stroma", "lymphoid aggregate", "necrosis", "fat", "background")
"""Region classes; a region index in this package is a position in this tuple."""
ARTEFACTS = ("fold", "pen mark", "blur")
TUMOR, STROMA, LYMPHOID, NECROSIS, FAT, BACKGROUND = range(6)

_FAR = np.float32(-24.0)  # um: a region this far off has no weight


@dataclass(frozen=True)
class SceneWindow:
    """A rectangle of the global pixel grid of one scale: pixel (i, j) covers i * mpp .. (i + 1) * mpp um."""

    px: int
    py: int
    width: int
    height: int
    mpp: float

    def grown(self, margin: int) -> SceneWindow:
        return SceneWindow(
            self.px - margin, self.py - margin, self.width + 2 * margin, self.height + 2 * margin, self.mpp
        )

    @property
    def um(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in um."""
        m = self.mpp
        return self.px * m, self.py * m, (self.px + self.width) * m, (self.py + self.height) * m


@dataclass(frozen=True)
class Maps:
    """The maps of a layout under one window.

    Attributes
    ----------
    regions : list of int
        Regions that matter here.
    distance : float32 (len(regions), h, w)
        Signed distance to the border of each, in um.
    artefacts : dict of str to float32 (h, w)
        Strength of the artefacts that are present.
    tone : float32 (h, w)
    """

    regions: list[int]
    distance: FloatImage
    artefacts: dict[str, FloatImage]
    tone: FloatImage


@dataclass(frozen=True)
class SectionLayout:
    """Where the regions are: coarse maps that are read by interpolation.

    Attributes
    ----------
    grid_um : float
        Spacing of the maps.
    origin_um : tuple of 2 float
        World position of the centre of map element [0, 0] (x, y).
    distance : float32 (6, gy, gx)
        Signed distance in um to the border of each region of `REGIONS`, positive inside, cut at +-64.
    artefacts : float32 (3, gy, gx)
        Strength 0..1 of each of `ARTEFACTS`.
    pen_rgb : tuple of 3 float
        What the ink lets through.
    glands : float64 (n, 4)
        x, y, outer radius, lumen radius in um of normal glands.
    tone : float32 (gy, gx)
        Slow variation of stain and cell density, about unit variance.
    texture_um : tuple of 2 float
        Where this world starts in the shared textures.
    """

    grid_um: float
    origin_um: tuple[float, float]
    distance: FloatImage
    artefacts: FloatImage
    tone: FloatImage
    pen_rgb: tuple[float, float, float] = (0.25, 0.35, 0.8)
    glands: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    texture_um: tuple[float, float] = (0.0, 0.0)

    def _axis(self, start: int, count: int, mpp: float, axis: int) -> tuple[slice, NDArray[np.int64], FloatImage]:
        """Map elements under one axis of a window, the lower neighbour of every pixel, and its distance."""
        size = self.distance.shape[2 - axis]
        at = ((np.arange(start, start + count) + 0.5) * mpp - self.origin_um[axis]) / self.grid_um
        at = np.clip(at, 0, size - 1.000001)
        low = at.astype(np.int64)
        return slice(low[0], low[-1] + 2), low - low[0], (at - low).astype(np.float32)

    def maps(self, window: SceneWindow) -> Maps:
        """Interpolated maps under a window."""
        cols, ix, tx = self._axis(window.px, window.width, window.mpp, 0)
        rows, iy, ty = self._axis(window.py, window.height, window.mpp, 1)

        def spread(patch: FloatImage) -> FloatImage:
            tall = patch[:, iy] + (patch[:, iy + 1] - patch[:, iy]) * ty[:, None]
            slope = np.diff(tall, axis=2)
            out = slope[..., ix]
            out *= tx
            out += tall[..., ix]
            return np.asarray(out, np.float32)

        patch = self.distance[:, rows, cols]
        regions = np.flatnonzero(patch.max(axis=(1, 2)) > _FAR).tolist()
        marks = self.artefacts[:, rows, cols]
        present = np.flatnonzero(marks.max(axis=(1, 2)) > 0.004).tolist()
        return Maps(
            regions=regions,
            distance=spread(patch[regions]),
            artefacts={ARTEFACTS[k]: spread(marks[k : k + 1])[0] for k in present},
            tone=spread(self.tone[None, rows, cols])[0],
        )

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[FloatImage, FloatImage]:
        """Signed distances (6, n) and tone (n,) at points in um."""
        return self._read(self.distance, x, y), self._read(self.tone, x, y)

    def artefact_at(self, name: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatImage:
        """Strength (n,) of an artefact at points in um."""
        return self._read(self.artefacts[ARTEFACTS.index(name)], x, y)

    def _read(self, maps: FloatImage, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatImage:
        gy, gx = maps.shape[-2:]
        fx = np.clip((x - self.origin_um[0]) / self.grid_um, 0, gx - 1.000001)
        fy = np.clip((y - self.origin_um[1]) / self.grid_um, 0, gy - 1.000001)
        ix, iy = fx.astype(int), fy.astype(int)
        tx, ty = fx - ix, fy - iy
        top = maps[..., iy, ix] * (1 - tx) + maps[..., iy, ix + 1] * tx
        low = maps[..., iy + 1, ix] * (1 - tx) + maps[..., iy + 1, ix + 1] * tx
        return np.asarray(top * (1 - ty) + low * ty, np.float32)

    def texture_shift(self, window: SceneWindow) -> tuple[int, int]:
        """Global pixel index of the window in the shared textures."""
        return (window.px + round(self.texture_um[0] / window.mpp), window.py + round(self.texture_um[1] / window.mpp))

    def glands_near(self, x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
        g = self.glands
        r = g[:, 2] * 1.4
        return g[(g[:, 0] + r > x0) & (g[:, 0] - r < x1) & (g[:, 1] + r > y0) & (g[:, 1] - r < y1)]
