"""Nuclei: where they lie, what shape they have, how their chromatin looks.

Positions come from a fine grid whose every cell proposes one nucleus with its own hashed numbers; proposals
that would lie too deep in a neighbour are dropped by a local priority rule. The result at a place depends on
the surroundings within a fixed distance only, so any window can be computed by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsi.synthetic.tissue.layout import FAT, LYMPHOID, NECROSIS, STROMA, TUMOR, SceneWindow, SectionLayout
from wsi.synthetic.tissue.noise import FloatImage, hash_uniform
from wsi.synthetic.tissue.tissue import Habitat, habitat

CLASSES = ("tumor", "lymphocyte", "stromal", "epithelial", "mitosis")
"""Nucleus classes; a class index in this package is a position in this tuple."""
REACH_UM = 11.0
"""No nucleus reaches further than this from its centre."""

_T, _L, _S, _E, _M = range(5)
_PITCH = 4.4  # um between proposals
_CONTEXT = 46.0  # um around a window that decide about its nuclei
_ROUNDS = 2
_CROWDING = 0.83  # of the sum of the radii: the least distance of two centres
_VERTICES = 24
_GRID = 16  # vertices lie on a grid of 1/16 px when drawn

# class:            tumor  lymph stroma epith mitosis
_RADIUS = np.array([4.5, 3.1, 2.7, 3.6, 3.3])  # um, geometric mean of the half axes
_SPREAD = np.array([0.17, 0.08, 0.14, 0.07, 0.12])  # of the logarithm of the radius
_ASPECT = np.array([1.28, 1.1, 4.0, 1.35, 2.3])
_ROUGH = np.array([0.055, 0.03, 0.04, 0.022, 0.10])  # amplitude of the outline's harmonics
_DYE = np.array([1.15, 1.9, 1.35, 1.2, 2.6])  # hematoxylin in the chromatin
_PALE = np.array([0.5, 0.18, 0.15, 0.35, 0.0])  # how much emptier the middle is (vesicular)
_CLUMPS = np.array([0.17, 0.16, 0.12, 0.14, 0.1])  # chromatin texture, share of the dye
_DYE_SPREAD = np.array([0.45, 0.22, 0.35, 0.2, 0.1])  # half the range of the dye's logarithm
_NUCLEOLI = np.array([0.6, 0.0, 0.0, 0.25, 0.0])  # probability of each of two nucleoli

_DENSITY = np.zeros(5)
_MIX = np.zeros((5, 5))  # region, class
_DENSITY[[TUMOR, STROMA, LYMPHOID, NECROSIS, FAT]] = 0.62, 0.085, 0.92, 0.035, 0.13
_MIX[TUMOR] = 0.918, 0.06, 0.01, 0.0, 0.012
_MIX[STROMA] = 0.0, 0.2, 0.8, 0.0, 0.0
_MIX[LYMPHOID] = 0.0, 0.965, 0.03, 0.0, 0.005
_MIX[NECROSIS] = 0.35, 0.6, 0.05, 0.0, 0.0
_MIX[FAT] = 0.0, 0.12, 0.88, 0.0, 0.0


@dataclass(frozen=True)
class Nuclei:
    """Nuclei as columns.

    Attributes
    ----------
    kind : int64 (n,)
        Index into `CLASSES`.
    centre_um : float64 (n, 2)
        x, y in world um.
    polygon_um : float64 (n, 24, 2)
        Outline in world um, not closed.
    cell : int64 (n, 2)
        Identity: the grid cell (x, y) that the nucleus came from.
    dye : float64 (n,)
        Hematoxylin of its chromatin.
    spots_um : float64 (n, 2, 3)
        x, y, radius of up to two nucleoli; radius 0 where there is none.
    """

    kind: NDArray[np.int64]
    centre_um: NDArray[np.float64]
    polygon_um: NDArray[np.float64]
    cell: NDArray[np.int64]
    dye: NDArray[np.float64]
    spots_um: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Nuclei:
        return Nuclei(
            self.kind[rows],
            self.centre_um[rows],
            self.polygon_um[rows],
            self.cell[rows],
            self.dye[rows],
            self.spots_um[rows],
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(CLASSES[k] for k in self.kind)


def nuclei_in(layout: SectionLayout, seed: int, x0: float, y0: float, x1: float, y1: float) -> Nuclei:
    """All nuclei whose centre lies in x0 <= x < x1, y0 <= y < y1 (um), row by row of the proposal grid."""
    low_x, high_x = int(np.floor((x0 - _CONTEXT) / _PITCH)), int(np.ceil((x1 + _CONTEXT) / _PITCH))
    low_y, high_y = int(np.floor((y0 - _CONTEXT) / _PITCH)), int(np.ceil((y1 + _CONTEXT) / _PITCH))
    iy, ix = np.mgrid[low_y:high_y, low_x:high_x].reshape(2, -1)
    u = hash_uniform(ix, iy, seed, 5)
    x = (ix + 0.14 + 0.72 * u[0]) * _PITCH
    y = (iy + 0.14 + 0.72 * u[1]) * _PITCH
    home = habitat(layout, x, y)
    kind = _choose(home, u[2], u[3])
    alive = np.flatnonzero(kind >= 0)
    cell = np.stack([ix[alive], iy[alive]], axis=1)
    shape = hash_uniform(cell[:, 0], cell[:, 1], seed + 0x5EED, 18)
    kind, x, y = kind[alive], x[alive], y[alive]
    radius = _RADIUS[kind] * np.exp(_SPREAD[kind] * _normal(shape[0], shape[1]))
    kept = _thin(x, y, radius, u[4][alive])
    kept &= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    rows = np.flatnonzero(kept)
    angle = _orientation(kind, home, alive, shape[2])[rows]
    return _build(kind[rows], x[rows], y[rows], radius[rows], angle, cell[rows], shape[:, rows])


def _normal(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Box-Muller, cut at 2.5 so that sizes stay plausible."""
    z = np.sqrt(-2 * np.log1p(-a)) * np.cos(2 * np.pi * b)
    return np.clip(z, -2.5, 2.5)


def _choose(home: Habitat, accept: NDArray[np.float64], draw: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class of every proposal, -1 for none."""
    region = home.region
    septum = (region == TUMOR) & (home.septum < 1.0)
    region = np.where(septum, STROMA, region)
    density = _DENSITY[region]
    density = np.where(septum, 0.2, density)
    density = np.where((region == FAT) & (home.membrane > 2.0), 0.0, density)
    cleft = (home.region == TUMOR) & (home.septum >= 1.0) & (home.septum < 1.35)
    density = np.where(cleft, 0.25 * density, density)
    kind = (draw[:, None] > np.cumsum(_MIX, axis=1)[region]).sum(axis=1)
    kind = np.minimum(kind, 4)
    density = np.where(home.blood, 0.0, density)
    gland = ~np.isnan(home.gland) & (home.gland > -9)
    density = np.where(gland, np.where((home.gland > 0.35) & (home.gland < 0.8), 0.95, 0.0), density)
    kind = np.where(gland, _E, kind)
    density = density * np.exp(0.22 * home.tone)
    return np.where((accept < density) & (home.depth > 3.0), kind, -1)


def _thin(
    x: NDArray[np.float64], y: NDArray[np.float64], radius: NDArray[np.float64], rank: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Keep the higher-ranked of nuclei that are too close; a fixed number of rounds keeps the rule local."""
    n = len(x)
    kept = np.zeros(n, bool)
    if n < 2:
        return ~kept
    pairs = cKDTree(np.stack([x, y], 1)).query_pairs(11.6, output_type="ndarray")
    a, b = pairs[:, 0], pairs[:, 1]
    near = np.hypot(x[a] - x[b], y[a] - y[b]) < _CROWDING * (radius[a] + radius[b])
    a, b = a[near], b[near]
    swap = rank[a] < rank[b]
    high, low = np.where(swap, b, a), np.where(swap, a, b)
    open_ = np.ones(n, bool)
    for _ in range(_ROUNDS):
        contest = open_[high] & open_[low]
        beaten = np.zeros(n, bool)
        beaten[low[contest]] = True
        winners = open_ & ~beaten
        kept |= winners
        open_ &= ~winners
        open_[low[winners[high]]] = False
        open_[high[winners[low]]] = False
    return kept


def _orientation(
    kind: NDArray[np.int64], home: Habitat, alive: NDArray[np.int64], u: NDArray[np.float64]
) -> NDArray[np.float64]:
    angle = np.pi * u
    along = home.bend[alive] + 0.5 * (u - 0.5)
    along = np.where(home.region[alive] == FAT, home.wall_angle[alive], along)
    angle = np.where(kind == _S, along, angle)
    return np.where(kind == _E, home.gland_angle[alive] + 0.5 * (u - 0.5), angle)


def _build(
    kind: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
    angle: NDArray[np.float64],
    cell: NDArray[np.int64],
    u: NDArray[np.float64],
) -> Nuclei:
    theta = np.arange(_VERTICES) * (2 * np.pi / _VERTICES)
    aspect = 1 + (_ASPECT[kind] - 1) * (0.35 + 1.3 * u[3])
    long, short = radius * np.sqrt(aspect), radius / np.sqrt(aspect)
    wobble = np.ones((len(kind), _VERTICES))
    for k, order in enumerate((2, 3, 4, 5, 7)):
        amplitude = _ROUGH[kind] * (2 * u[4 + k] - 1) * (2.4 / order**0.5)
        wobble += amplitude[:, None] * np.cos(order * theta + 2 * np.pi * u[9 + k % 3][:, None] * (k + 1))
    along = long[:, None] * np.cos(theta) * wobble
    across = short[:, None] * np.sin(theta) * wobble
    across += (0.16 * (2 * u[12] - 1) * (kind == _S) * long)[:, None] * np.cos(theta) ** 2  # bent spindles
    reach = np.hypot(along, across).max(axis=1, initial=1e-6)
    fit = np.minimum(1, (REACH_UM - 0.5) / reach)[:, None]
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    polygon = np.stack(
        [x[:, None] + fit * (along * c - across * s), y[:, None] + fit * (along * s + across * c)], axis=2
    )
    spots = np.zeros((len(kind), 2, 3))
    for k in range(2):
        phase, far = 2 * np.pi * (u[13] + 0.5 * k), 0.42 * u[14 + k]
        spots[:, k, 0] = x + far * (long * np.cos(phase) * c[:, 0] - short * np.sin(phase) * s[:, 0])
        spots[:, k, 1] = y + far * (long * np.cos(phase) * s[:, 0] + short * np.sin(phase) * c[:, 0])
        spots[:, k, 2] = np.where(u[15 + k] < _NUCLEOLI[kind], 0.14 * radius * (1 + u[16]), 0.0)
    dye = _DYE[kind] * np.exp(_DYE_SPREAD[kind] * (u[17] * 2 - 1))
    return Nuclei(kind, np.stack([x, y], 1), polygon, cell, dye, spots)


def stain_nuclei(
    nuclei: Nuclei, window: SceneWindow, hematoxylin: FloatImage, eosin: FloatImage, chromatin: FloatImage
) -> tuple[FloatImage, FloatImage]:
    """Lay nuclei over the ground.

    Parameters
    ----------
    nuclei : Nuclei
        Drawn in their order; a later one covers an earlier one.
    window : SceneWindow
    hematoxylin, eosin : float32 (h, w)
        Dye of the ground.
    chromatin : float32 (h, w)
        Unit noise.

    Returns
    -------
    hematoxylin, eosin : float32 (h, w)
    """
    if len(nuclei) == 0:
        return hematoxylin, eosin
    mpp = window.mpp
    origin = np.array([window.px, window.py], np.int64) * _GRID
    # fillPoly takes pixel centres as integers, hence the half pixel
    points = (np.round(nuclei.polygon_um * (_GRID / mpp) - _GRID / 2).astype(np.int64) - origin).astype(np.int32)
    owner = np.zeros((window.height, window.width), np.int32)
    for k in range(len(nuclei)):
        cv2.fillPoly(owner, [points[k]], k + 1, cv2.LINE_8, 4)
    inside = (owner > 0).astype(np.uint8)
    same = inside.copy()
    same[:, 1:] &= (owner[:, 1:] == owner[:, :-1]).view(np.uint8)
    same[1:] &= (owner[1:] == owner[:-1]).view(np.uint8)
    depth = cv2.distanceTransform(same, cv2.DIST_L2, 3) * np.float32(mpp)
    dye, pale, clumps = (
        np.concatenate([[0.0], column]).astype(np.float32)
        for column in (nuclei.dye, _PALE[nuclei.kind], _CLUMPS[nuclei.kind])
    )
    pale_here, dye_here = pale[owner], dye[owner]
    body = np.minimum(depth * np.float32(1 / 1.5), 1)
    body = 1 - pale_here * body + chromatin * clumps[owner]
    body *= dye_here
    _spots(nuclei, window, body)
    cover = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), max(0.3, 0.22 / mpp))
    halo = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), max(0.3, 0.9 / mpp))
    reach = 2 * round(2.5 / mpp) + 1
    body_around = cv2.blur(cover, (reach, reach))  # cytoplasm is densest around the nucleus
    eosin = eosin * (1 + np.float32(0.3) * body_around)
    out_h = hematoxylin + cover * (body - hematoxylin * np.float32(0.6)) + halo * np.float32(0.07)
    out_e = eosin * (1 - np.float32(0.35) * cover)
    return np.maximum(out_h, 0), out_e


def _spots(nuclei: Nuclei, window: SceneWindow, body: FloatImage) -> None:
    spots = nuclei.spots_um.reshape(-1, 3)
    spots = spots[spots[:, 2] > 0]
    if not len(spots):
        return
    m = window.mpp
    add = np.zeros_like(body)
    xy = np.round(spots[:, :2] * (_GRID / m) - _GRID / 2).astype(int) - np.array([window.px, window.py]) * _GRID
    radii = np.maximum(np.round(spots[:, 2] * _GRID / m), _GRID // 2).astype(int)
    for (x, y), r in zip(xy.tolist(), radii.tolist(), strict=True):
        cv2.circle(add, (x, y), r, 0.75, cv2.FILLED, cv2.LINE_8, 4)
    body += add
