"""The plan of a whole section: where its tissue, tumour, aggregates, glands and artefacts lie."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.tissue.layout import ARTEFACTS, BACKGROUND, FAT, LYMPHOID, NECROSIS, STROMA, TUMOR, SectionLayout
from wsi.synthetic.tissue.noise import FloatImage

PENS = ((0.12, 0.2, 0.62), (0.1, 0.42, 0.25), (0.1, 0.1, 0.13), (0.75, 0.15, 0.2))
"""Inks: what each lets through in R, G, B."""
_CUT_UM = 64.0
_FIELD_GRID_UM = 8.0
_AROUND_UM = 64.0  # of layout around a field; more than the placing of nuclei looks at
_NEIGHBOUR = np.array(
    [
        [0.0, 0.5, 0.16, 0.16, 0.06, 0.12],  # beside tumor
        [0.4, 0.0, 0.22, 0.05, 0.17, 0.16],
        [0.35, 0.5, 0.0, 0.0, 0.05, 0.1],
        [0.75, 0.15, 0.0, 0.0, 0.0, 0.1],
        [0.15, 0.6, 0.1, 0.0, 0.0, 0.15],
        [0.3, 0.45, 0.1, 0.05, 0.1, 0.0],
    ]
)
_GLAND_PITCH_UM = 130.0


def plan_section(width_um: float, height_um: float, seed: int, artefacts: tuple[str, ...] = ARTEFACTS) -> SectionLayout:
    """Lay out one section with glass around it.

    Parameters
    ----------
    width_um, height_um : float
        Size of the slide.
    seed : int
    artefacts : tuple of str
        Which of `ARTEFACTS` the slide has.

    Returns
    -------
    SectionLayout
        On a grid of 8 um, or 16 um when the slide is larger than 4 mm.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 0x51D])
    grid = 8.0 if max(width_um, height_um) <= 4000 else 16.0
    nx, ny = int(np.ceil(width_um / grid)) + 2, int(np.ceil(height_um / grid)) + 2
    x = ((np.arange(nx, dtype=np.float32) - 0.5) * grid)[None, :]
    y = ((np.arange(ny, dtype=np.float32) - 0.5) * grid)[:, None]
    side = min(width_um, height_um)
    label = np.full((ny, nx), BACKGROUND, np.uint8)

    turn = rng.uniform(0, 2 * np.pi)
    u, v = (x / width_um - 0.5) * 2, (y / height_um - 0.5) * 2
    rough = 0.16 * np.clip(_noise(rng, ny, nx, side / 5 / grid), -0.9, 2)
    rough += 0.03 * _noise(rng, ny, nx, side / 18 / grid) + (9 / side) * _noise(rng, ny, nx, 60 / grid)
    tissue = np.hypot(u, v) + rough < 0.78
    label[tissue] = STROMA
    toward = u * np.cos(turn) + v * np.sin(turn)
    lobes = _noise(rng, ny, nx, side / 9 / grid)
    fat = tissue & (-toward + 0.3 * lobes > 0.42)
    label[fat] = FAT
    cu, cv = 0.24 * np.cos(turn), 0.24 * np.sin(turn)
    tumor = tissue & (np.hypot(u - cu, v - cv) + 0.13 * _noise(rng, ny, nx, side / 12 / grid) < 0.5)
    label[tumor] = TUMOR
    if side > 800:  # fibrous bands between lobes of the tumour
        width = 0.055 * np.clip(_noise(rng, ny, nx, 900 / grid) + 1.2, 0, 3)
        label[tumor & (np.abs(_noise(rng, ny, nx, 330 / grid)) < width)] = STROMA
    depth = _signed(tumor, grid, 1e9)
    core = depth > max(40.0, 0.42 * float(depth.max()))
    label[core & (_noise(rng, ny, nx, side / 14 / grid) > -0.35)] = NECROSIS

    _aggregates(rng, label, depth, x, y, side)
    label[~tissue] = BACKGROUND
    distance = np.stack([_smooth(_signed(label == r, grid, _CUT_UM)) for r in range(6)])
    strength = np.stack(
        [
            _artefact(rng, name, u, v, tissue, grid, side) if name in artefacts else np.zeros((ny, nx), np.float32)
            for name in ARTEFACTS
        ]
    )
    return SectionLayout(
        grid_um=grid,
        origin_um=(-0.5 * grid, -0.5 * grid),
        distance=distance,
        artefacts=strength,
        tone=np.clip(_tone(rng, ny, nx, side, grid), -2, 2),
        pen_rgb=PENS[int(rng.integers(3))],
        glands=_glands(rng, distance[STROMA], grid, width_um, height_um),
        texture_um=(float(rng.integers(2048)) / 4, float(rng.integers(2048)) / 4),
    )


def _noise(rng: np.random.Generator, ny: int, nx: int, scale: float) -> FloatImage:
    """Smooth noise of unit variance whose blobs measure about `scale` grid steps."""
    step = max(1, int(scale / 4))
    small = rng.standard_normal((ny // step + 8, nx // step + 8)).astype(np.float32)
    soft = cv2.GaussianBlur(small, (0, 0), max(0.6, scale / step / 2), borderType=cv2.BORDER_REFLECT)
    big = cv2.resize(soft, ((nx // step + 8) * step, (ny // step + 8) * step), interpolation=cv2.INTER_CUBIC)
    cut = big[4 * step : 4 * step + ny, 4 * step : 4 * step + nx]
    return np.asarray((cut - cut.mean()) / (cut.std() + 1e-9), np.float32)


def _tone(rng: np.random.Generator, ny: int, nx: int, side: float, grid: float) -> FloatImage:
    fine, coarse = _noise(rng, ny, nx, 260 / grid), _noise(rng, ny, nx, max(500, side / 8) / grid)
    return np.asarray(0.7 * fine + 0.7 * coarse, np.float32)


def _signed(mask: NDArray[np.bool_], grid: float, cut: float) -> FloatImage:
    """Signed distance in um to the border of a mask, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -cut, np.float32)
    if mask.all():
        return np.full(mask.shape, cut, np.float32)
    m = mask.astype(np.uint8)
    inside = cv2.distanceTransform(m, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - m, cv2.DIST_L2, 5)
    signed = (np.maximum(inside - 0.5, 0) - np.maximum(outside - 0.5, 0)) * np.float32(grid)
    return np.clip(signed, -cut, cut).astype(np.float32)


def _smooth(distance: FloatImage) -> FloatImage:
    return np.asarray(cv2.GaussianBlur(distance, (5, 5), 1.0), np.float32)


def _aggregates(
    rng: np.random.Generator,
    label: NDArray[np.uint8],
    tumor_depth: FloatImage,
    x: FloatImage,
    y: FloatImage,
    side: float,
) -> None:
    """Lymphoid aggregates in the stroma along the tumour; `label` is painted in place."""
    rim = np.argwhere((label == STROMA) & (tumor_depth < -30) & (tumor_depth > -max(160.0, side / 8)))
    if not len(rim):
        return
    count = int(np.clip(side / 420, 2, 40))
    for row, column in rim[rng.integers(len(rim), size=count)]:
        radius = rng.uniform(45, 120) * min(1.5, max(0.6, side / 2500))
        dx, dy = x - x[0, column], y - y[row, 0]
        turn = np.arctan2(dy, dx)
        a, b, c = rng.uniform(0, 2 * np.pi, 3)
        bend = 1 + 0.14 * np.sin(2 * turn + a) + 0.08 * np.sin(3 * turn + b) + 0.05 * np.sin(5 * turn + c)
        disc = (np.hypot(dx, dy) * bend < radius) & (label != BACKGROUND) & (label != NECROSIS)
        label[disc] = LYMPHOID


def _glands(
    rng: np.random.Generator, stroma: FloatImage, grid: float, width_um: float, height_um: float
) -> NDArray[np.float64]:
    ny, nx = int(height_um // _GLAND_PITCH_UM), int(width_um // _GLAND_PITCH_UM)
    if not nx or not ny:
        return np.zeros((0, 4))
    iy, ix = np.mgrid[:ny, :nx].reshape(2, -1)
    draw = rng.uniform(size=(4, nx * ny))
    x = (ix + 0.25 + 0.5 * draw[0]) * _GLAND_PITCH_UM
    y = (iy + 0.25 + 0.5 * draw[1]) * _GLAND_PITCH_UM
    outer = 19 + 22 * draw[2]
    inner = np.maximum(outer - 12 - 5 * draw[3], 2.5)
    row, column = ((y / grid) + 0.5).astype(int), ((x / grid) + 0.5).astype(int)
    lobule = _noise(rng, stroma.shape[0], stroma.shape[1], 600 / grid)[row, column] > 0.45
    fits = lobule & (stroma[row, column] > outer + 8)
    return np.column_stack([x, y, outer, inner])[fits]


def _artefact(
    rng: np.random.Generator,
    name: str,
    u: FloatImage,
    v: FloatImage,
    tissue: NDArray[np.bool_],
    grid: float,
    side: float,
) -> FloatImage:
    """Strength 0..1 of an artefact; u, v run from -1 to 1 across the slide."""
    ny, nx = tissue.shape
    turn = rng.uniform(0, 2 * np.pi)
    along = u * np.cos(turn) + v * np.sin(turn)
    across = -u * np.sin(turn) + v * np.cos(turn)
    wobble = 0.03 * _noise(rng, ny, nx, side / 6 / grid)
    if name == "fold":
        half_um = rng.uniform(9, 15)
        line = np.abs(across - rng.uniform(-0.45, 0.45) + 0.12 * np.sin(3 * along) + wobble) * side / 2
        length = np.clip((0.42 - np.abs(along - rng.uniform(-0.2, 0.2))) * 8, 0, 1)
        out = np.clip((half_um - line) / grid + 0.5, 0, 1) * length * tissue
    elif name == "pen mark":
        radius = np.hypot(along - 0.5, across) + wobble
        half_um = np.clip(0.022 * side, 20, 220)
        stroke = np.clip((half_um - np.abs(radius - 0.5) * side / 2) / grid + 0.5, 0, 1)
        arc = np.clip((np.arctan2(across, along - 0.5) + 0.9) * 6, 0, 1)
        arc = arc * np.clip((0.9 - np.arctan2(across, along - 0.5)) * 6, 0, 1)
        streak = 0.92 + 0.02 * _noise(rng, ny, nx, max(1.5, side / 120 / grid))
        out = np.clip(stroke * arc * streak, 0, 0.98)
    else:
        cx, cy = rng.uniform(-0.5, 0.5, 2)
        out = np.clip((0.2 - np.hypot(u - cx, v - cy) + wobble) * 8, 0, 1)
    return np.asarray(cv2.GaussianBlur(out.astype(np.float32), (3, 3), 0.8), np.float32)


def plan_field(
    rng: np.random.Generator,
    side_um: float,
    primary: int,
    dominant: bool,
    classes: tuple[str, ...] | None,
    artefacts: tuple[str, ...],
) -> SectionLayout:
    """Regions of one field: one class, or two that share a border or of which one is an island."""
    axis = np.arange(-_AROUND_UM, side_um + _AROUND_UM + _FIELD_GRID_UM, _FIELD_GRID_UM, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    distance = np.full((6, len(axis), len(axis)), -64.0, np.float32)
    distance[primary] = 64.0
    if rng.random() < 0.5:
        other = int(rng.choice(6, p=_NEIGHBOUR[primary]))
        if rng.random() < 0.35 and other != BACKGROUND:
            cx, cy = rng.uniform(0.2, 0.8, 2) * side_um
            radius = rng.uniform(0.2, 0.36 if dominant else 0.5) * side_um
            d = radius - np.hypot(x - cx, y - cy)
        else:
            turn = rng.uniform(0, 2 * np.pi)
            shift = rng.uniform(0.08, 0.45) * side_um
            d = (x - side_um / 2) * np.cos(turn) + (y - side_um / 2) * np.sin(turn) - shift
        distance[other] = np.clip(d, -64, 64)
        distance[primary] = np.clip(-d, -64, 64)
    wanted = classes is not None and "epithelial" in classes
    glands = np.zeros((0, 4))
    if primary == STROMA and (wanted or rng.random() < 0.3):
        glands = _field_glands(rng, distance[STROMA], side_um)
    strength = np.stack([_field_artefact(rng, name, x, y, side_um, name in artefacts) for name in ARTEFACTS])
    pen = PENS[int(rng.integers(len(PENS)))]
    return SectionLayout(
        grid_um=_FIELD_GRID_UM,
        origin_um=(float(axis[0]), float(axis[0])),
        distance=distance,
        artefacts=strength,
        tone=np.full((len(axis), len(axis)), np.clip(rng.standard_normal(), -2, 2), np.float32),
        pen_rgb=pen,
        glands=glands,
        texture_um=(float(rng.integers(4096)) / 4, float(rng.integers(4096)) / 4),
    )


def _field_glands(rng: np.random.Generator, stroma: FloatImage, side_um: float) -> NDArray[np.float64]:
    """A few glands that lie apart from each other and wholly in the stroma."""
    kept: list[tuple[float, float, float, float]] = []
    for _ in range(3 * max(1, round((side_um / 150) ** 2))):
        x, y = rng.uniform(0.15, 0.85, 2) * side_um
        outer = rng.uniform(18, 34)
        column, row = (int((a + _AROUND_UM) / _FIELD_GRID_UM + 0.5) for a in (x, y))
        apart = all(np.hypot(x - a, y - b) > outer + other + 6 for a, b, other, _ in kept)
        if apart and stroma[row, column] > outer + 4:
            kept.append((x, y, outer, outer - rng.uniform(10, 15)))
    return np.array(kept, np.float64).reshape(-1, 4)


def _field_artefact(
    rng: np.random.Generator, name: str, x: FloatImage, y: FloatImage, side_um: float, present: bool
) -> FloatImage:
    shape = (y.shape[0], x.shape[1])
    if not present:
        return np.zeros(shape, np.float32)
    if name == "blur":
        return np.full(shape, rng.uniform(0.75, 1.0), np.float32)
    turn = rng.uniform(0, np.pi)
    across = (x - side_um / 2) * np.cos(turn) + (y - side_um / 2) * np.sin(turn)
    across = across - rng.uniform(-0.25, 0.25) * side_um
    half = rng.uniform(0.1, 0.3) * side_um if name == "pen mark" else rng.uniform(7.0, 13.0)
    peak = rng.uniform(0.75, 0.97) if name == "pen mark" else rng.uniform(0.7, 1.0)
    soft = _FIELD_GRID_UM
    return np.asarray(np.clip((half - np.abs(across)) / soft + 0.5, 0, 1) * peak, np.float32)
