"""What lies between the nuclei: collagen, cytoplasm, glands, fat, debris."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.tissue.layout import (
    BACKGROUND,
    FAT,
    LYMPHOID,
    NECROSIS,
    STROMA,
    TUMOR,
    Maps,
    SceneWindow,
    SectionLayout,
)
from wsi.synthetic.tissue.noise import BASE_MPP, FloatImage, Textures, textures

_SEPTUM = 0.2
_BLOOD = 1.45  # of `_vessel`: above it a capillary runs through collagen
_RAGGED = np.array([5.0, -5.0, 3.0, -3.0, 2.0, 0.0], np.float32)  # um of border noise, by region
_SOFT = 2.5  # um over which one tissue passes into the next


@dataclass(frozen=True)
class Habitat:
    """What grows at points: region index, depth below the tissue's edge in um, septum and gland position."""

    region: NDArray[np.int64]
    depth: FloatImage
    septum: FloatImage
    gland: FloatImage  # 0 at the lumen, 1 at the outer border, NaN outside glands
    gland_angle: FloatImage
    membrane: FloatImage  # um to the nearest wall between fat cells
    wall_angle: FloatImage
    bend: FloatImage
    blood: NDArray[np.bool_]
    tone: FloatImage


def habitat(layout: SectionLayout, x: NDArray[np.float64], y: NDArray[np.float64]) -> Habitat:
    """Look up the tissue at points (n,) in um."""
    tex = textures(BASE_MPP)
    tx, ty = x + layout.texture_um[0], y + layout.texture_um[1]
    cloud, wave = tex.at("cloud", tx, ty), tex.at("wave", tx, ty)
    distance, tone = layout.at(x, y)
    distance[:5] += _RAGGED[:5, None] * cloud
    gland = np.full(x.shape, np.nan, np.float32)
    angle = np.zeros(x.shape, np.float32)
    if x.size:
        for gx, gy, outer, inner in layout.glands_near(x.min(), y.min(), x.max(), y.max()):
            u = (np.hypot(x - gx, y - gy) * (1 + 0.09 * cloud) - inner) / (outer - inner)
            inside = u < 1.1
            gland[inside] = u[inside]
            angle[inside] = np.arctan2(y - gy, x - gx)[inside]
    region = distance[:5].argmax(axis=0)
    septum = _septum(wave, cloud)
    wall_angle = np.zeros(x.shape, np.float32)
    fat = np.flatnonzero(region == FAT)
    if len(fat):
        fx, fy = tx[fat], ty[fat]
        slope_x = tex.at("adipocyte", fx + 1, fy) - tex.at("adipocyte", fx - 1, fy)
        slope_y = tex.at("adipocyte", fx, fy + 1) - tex.at("adipocyte", fx, fy - 1)
        wall_angle[fat] = np.arctan2(slope_y, slope_x) + np.float32(np.pi / 2)
    collagen = (region == STROMA) | ((region == TUMOR) & (septum < 1))
    return Habitat(
        region=region,
        depth=-(distance[BACKGROUND] + _edge_noise(cloud, tex.at("bundle", tx, ty))),
        septum=septum,
        gland=gland,
        gland_angle=angle,
        membrane=tex.at("adipocyte", tx, ty),
        wall_angle=wall_angle,
        bend=tex.at("bend", tx, ty),
        blood=collagen & (_vessel(wave, cloud) > _BLOOD) & np.isnan(gland),
        tone=tone,
    )


def _septum(wave: FloatImage, cloud: FloatImage) -> FloatImage:
    """How far a point of a tumour is from the middle of the septa between nests; below 1 is septum."""
    return np.abs(wave + np.float32(0.22) * cloud) * np.float32(1 / _SEPTUM)


def _vessel(wave: FloatImage, cloud: FloatImage) -> FloatImage:
    return np.float32(0.75) * cloud - np.float32(0.65) * np.abs(wave - np.float32(0.25))


def _edge_noise(cloud: FloatImage, bundle: FloatImage) -> FloatImage:
    return cloud * np.float32(3.0) + bundle * np.float32(1.5)


@dataclass(frozen=True)
class Ground:
    """The section without its nuclei.

    Attributes
    ----------
    hematoxylin, eosin : float32 (h, w)
        Amount of dye.
    regions : list of int
        Regions present.
    weights : float32 (len(regions), h, w)
        Share of each; they sum to one.
    artefacts : dict of str to float32 (h, w)
    """

    hematoxylin: FloatImage
    eosin: FloatImage
    regions: list[int]
    weights: FloatImage
    artefacts: dict[str, FloatImage]


class _Paint:
    """The textures under one window, each fetched once."""

    def __init__(self, layout: SectionLayout, window: SceneWindow, tex: Textures) -> None:
        self._px, self._py = layout.texture_shift(window)
        self._window, self._tex = window, tex
        self._seen: dict[str, FloatImage] = {}

    def __getitem__(self, name: str) -> FloatImage:
        if name not in self._seen:
            w = self._window
            self._seen[name] = self._tex.window(name, self._px, self._py, w.width, w.height)
        return self._seen[name]


def _step(x: FloatImage, low: float, high: float) -> FloatImage:
    """Linear ramp 0..1 from low to high."""
    out = (x - np.float32(low)) * np.float32(1 / (high - low))
    return np.clip(out, 0, 1, out=out)


def _stroma(t: _Paint) -> tuple[FloatImage, FloatImage]:
    fibre, bundle = t["fibre"], t["bundle"]
    loose = t["wave"]
    open_ = _step(bundle + fibre * np.float32(0.45) + loose * np.float32(0.8), -2.1, -1.3)
    eosin = np.float32(0.56) + bundle * np.float32(0.11) + fibre * np.float32(0.1) + loose * np.float32(0.09)
    eosin += t["cloud"] * np.float32(0.05) + t["grain"] * np.float32(0.025)
    eosin *= np.float32(0.1) + np.float32(0.9) * open_
    eosin *= 1 - np.float32(0.6) * _step(_vessel(t["wave"], t["cloud"]), _BLOOD - 0.1, _BLOOD + 0.1)
    hematoxylin = (np.float32(0.07) + np.float32(0.025) * fibre) * open_
    return hematoxylin, eosin


def _tumor(t: _Paint) -> tuple[FloatImage, FloatImage]:
    septum = _septum(t["wave"], t["cloud"])
    nest = _step(septum, 0.75, 1.05)
    hs, es = _stroma(t)
    cleft = 1 - np.float32(0.75) * _step(septum, 0.9, 1.1) * (1 - _step(septum, 1.15, 1.45)) * _step(
        t["bundle"], 0.2, 1.0
    )
    mottle, grain = t["mottle"], t["grain"]
    hole = np.float32(0.12) + np.float32(0.88) * (1 - _step(mottle + t["cloud"] * np.float32(0.5), 2.3, 2.6))
    border = np.float32(0.72) + np.float32(0.28) * _step(t["cells"], 0.1, 0.9)
    body = cleft * hole * border
    eosin = (np.float32(0.42) + mottle * np.float32(0.07) + grain * np.float32(0.045)) * body
    hematoxylin = (np.float32(0.24) + t["cloud"] * np.float32(0.05) + grain * np.float32(0.03)) * body
    return hs + (hematoxylin - hs) * nest, es + (eosin - es) * nest


def _lymphoid(t: _Paint) -> tuple[FloatImage, FloatImage]:
    gap = _step(t["mottle"] + np.float32(0.5) * t["fibre"], -1.5, -0.2)
    eosin = (np.float32(0.3) + t["grain"] * np.float32(0.05)) * (np.float32(0.25) + np.float32(0.75) * gap)
    hematoxylin = (np.float32(0.22) + t["cloud"] * np.float32(0.05)) * (np.float32(0.3) + np.float32(0.7) * gap)
    return hematoxylin, eosin


def _necrosis(t: _Paint) -> tuple[FloatImage, FloatImage]:
    mottle, grain = t["mottle"], t["grain"]
    lump = _step(mottle + t["cloud"] * np.float32(0.7), -1.8, 0.5)
    eosin = np.float32(0.22) + lump * np.float32(0.5) + grain * np.float32(0.1) + mottle * np.float32(0.07)
    dust = _step(t["chromatin"] + np.float32(0.7) * mottle, 2.1, 2.8)
    hematoxylin = np.float32(0.08) + lump * np.float32(0.09) + dust * np.float32(0.7)
    return hematoxylin, eosin


def _fat(t: _Paint) -> tuple[FloatImage, FloatImage]:
    wall = np.float32(0.7) + np.float32(0.35) * t["mottle"]
    membrane = 1 - _step(t["adipocyte"], 0.4, 1.6)
    eosin = membrane * wall * np.float32(0.6) + np.float32(0.012)
    return membrane * np.float32(0.07), eosin


_RECIPES = {TUMOR: _tumor, STROMA: _stroma, LYMPHOID: _lymphoid, NECROSIS: _necrosis, FAT: _fat}


def _weights(maps: Maps, t: _Paint) -> tuple[list[int], FloatImage]:
    """Regions present and the share of each at every pixel."""
    regions, shape = maps.regions, maps.tone.shape
    tissue = [r for r in regions if r != BACKGROUND]
    if not tissue:
        return [BACKGROUND], np.ones((1, *shape), np.float32)
    if len(tissue) == 1:
        weights = np.ones((1, *shape), np.float32)
    else:
        rows = [regions.index(r) for r in tissue]
        weights = maps.distance[rows] + _RAGGED[tissue][:, None, None] * t["cloud"]
        weights -= weights.max(axis=0)
        np.exp(weights * np.float32(1 / _SOFT), out=weights)
        weights /= weights.sum(axis=0)
    if BACKGROUND not in regions:
        return tissue, weights
    glass = maps.distance[regions.index(BACKGROUND)] + _edge_noise(t["cloud"], t["bundle"])
    glass = _step(glass, -0.8, 0.8)
    return [*tissue, BACKGROUND], np.concatenate([weights * (1 - glass), glass[None]])


def ground(layout: SectionLayout, window: SceneWindow) -> Ground:
    """Paint everything but the nuclei."""
    t = _Paint(layout, window, textures(window.mpp))
    maps = layout.maps(window)
    regions, weights = _weights(maps, t)
    shape = (window.height, window.width)
    hematoxylin, eosin = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for k, region in enumerate(regions):
        if region == BACKGROUND:
            continue
        h, e = _RECIPES[region](t)
        if len(regions) == 1:
            hematoxylin, eosin = h, e
        else:
            hematoxylin += h * weights[k]
            eosin += e * weights[k]
    for gland in layout.glands_near(*window.um):
        hematoxylin, eosin = _gland(gland, window, t, hematoxylin, eosin)
    if regions != [BACKGROUND]:
        eosin = eosin * (1 + np.float32(0.1) * maps.tone)
        hematoxylin = hematoxylin * (1 + np.float32(0.12) * maps.tone)
    return Ground(np.maximum(hematoxylin, 0), np.maximum(eosin, 0), regions, weights, maps.artefacts)


def _gland(
    gland: NDArray[np.float64], window: SceneWindow, t: _Paint, hematoxylin: FloatImage, eosin: FloatImage
) -> tuple[FloatImage, FloatImage]:
    gx, gy, outer, inner = gland
    m = window.mpp
    dx = ((np.arange(window.px, window.px + window.width) + 0.5) * m - gx).astype(np.float32)
    dy = ((np.arange(window.py, window.py + window.height) + 0.5) * m - gy).astype(np.float32)
    radius = np.sqrt(dx[None] ** 2 + dy[:, None] ** 2) * (1 + np.float32(0.09) * t["cloud"])
    inside = 1 - _step(radius, outer - 0.6, outer + 0.6)
    lumen = 1 - _step(radius + t["mottle"] * np.float32(0.5), inner - 0.5, inner + 0.5)
    cell = np.float32(0.4) + t["grain"] * np.float32(0.04) + t["mottle"] * np.float32(0.05)
    cell += np.float32(0.16) * _step(radius, inner + 4, inner)
    ring = inside * (1 - lumen)
    keep = 1 - inside
    return (
        hematoxylin * keep + ring * np.float32(0.14),
        eosin * keep + ring * cell + lumen * inside * np.float32(0.03),
    )
