"""Morphology of all cells of a label window at once.

The definitions are those of scikit-image (`regionprops`, `graycomatrix`), and the tests hold them to it; the arithmetic
runs over all pixels of a window instead of cell by cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workflows.science.cells.measure.stains import Stains

SHAPE = (
    "area",
    "equivalent_diameter",
    "perimeter",
    "major_axis",
    "minor_axis",
    "aspect_ratio",
    "eccentricity",
    "circularity",
    "solidity",
)
"""Columns of `shapes`, in px of the window where they have a unit."""
TEXTURE = ("texture_contrast", "texture_homogeneity")
LEVELS = 32
"""Gray levels of the nuclear dye's co-occurrences, from none to `DENSEST`."""
DENSEST = 2.0
"""Optical density from which the highest level is taken."""

# Of a border pixel by its border neighbours: 1 + 2 per side + 10 per corner (Benkrid and Crookes 2000).
_PERIMETER = np.zeros(50)
_PERIMETER[[5, 7, 15, 17, 25, 27]] = 1
_PERIMETER[[21, 33]] = np.sqrt(2)
_PERIMETER[[13, 23]] = (1 + np.sqrt(2)) / 2

_APART = np.concatenate([np.arange(LEVELS), np.arange(-LEVELS, 0)]).astype(np.float64)
_SQUARE, _ALIKE = _APART**2, 1 / (1 + _APART**2)
"""Of a difference of levels, which may be negative and then counts from the end."""

Labels = NDArray[np.int32]


def stain_names(stains: Stains) -> tuple[str, ...]:
    """Columns of `stain_and_texture`: mean and standard deviation of every dye, and the texture of the first."""
    return (*(f"{dye}_{of}" for dye in stains.dyes for of in ("mean", "sd")), *TEXTURE)


def shapes(labels: Labels, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Size and shape of every cell.

    Parameters
    ----------
    labels : int32 array (height, width)
        0 outside, 1 to `count` in the cells; every cell has at least one pixel, none touches the window's border.
    count : int

    Returns
    -------
    float64 arrays (count, len(SHAPE)) and (count, 2)
        Columns of `SHAPE`, and centroids as x, y of pixel centres.
    """
    width = labels.shape[1]
    flat = labels.ravel()
    at = np.flatnonzero(flat)
    of = flat[at]
    rows, columns = np.divmod(at, width)
    x, y = columns.astype(np.float64), rows.astype(np.float64)
    owner = of.astype(np.intp)  # once, instead of in every sum

    def total(values: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        return np.bincount(owner, values, count + 1)[1:].astype(np.float64)

    area = total()
    centre_x, centre_y = total(x) / area, total(y) / area
    x -= np.concatenate([[0.0], centre_x])[owner]
    y -= np.concatenate([[0.0], centre_y])[owner]
    xx, yy, xy = total(x * x) / area, total(y * y) / area, total(x * y) / area
    middle, apart = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    long, short = np.maximum(middle + apart, 0), np.maximum(middle - apart, 0)
    major, minor = 4 * np.sqrt(long), 4 * np.sqrt(short)
    perimeter = _perimeters(flat, at, of, width, count)
    table = {
        "area": area,
        "equivalent_diameter": np.sqrt(4 * area / np.pi),
        "perimeter": perimeter,
        "major_axis": major,
        "minor_axis": minor,
        # A line of pixels has no width by its moments: it is one pixel wide.
        "aspect_ratio": np.maximum(major, 1) / np.maximum(minor, 1),
        "eccentricity": np.sqrt(1 - np.divide(short, long, out=np.ones_like(long), where=long > 0)),
        "circularity": np.minimum(1, 4 * np.pi * area / np.maximum(perimeter, 1e-9) ** 2),
        "solidity": np.minimum(1, area / _hull_areas(flat, at, of, width, count)),
    }
    return np.stack([table[name] for name in SHAPE], axis=1), np.stack([centre_x, centre_y], axis=1)


def _perimeters(flat: Labels, at: NDArray[np.int64], of: Labels, width: int, count: int) -> NDArray[np.float64]:
    """Perimeter by the neighbourhoods of border pixels, as `skimage.measure.perimeter`."""
    sides, corners = (-1, 1, -width, width), (-width - 1, -width + 1, width - 1, width + 1)
    border = np.zeros(len(at), bool)
    for step in sides:
        border |= flat[at + step] != of
    edge, own = at[border], of[border]
    rim = np.zeros(len(flat), np.int32)
    rim[edge] = own
    kind = np.ones(len(edge), np.int64)
    for step in sides:
        kind += 2 * (rim[edge + step] == own)
    for step in corners:
        kind += 10 * (rim[edge + step] == own)
    return np.asarray(np.bincount(own, _PERIMETER[kind], count + 1)[1:], np.float64)


def _hull_areas(flat: Labels, at: NDArray[np.int64], of: Labels, width: int, count: int) -> NDArray[np.float64]:
    """Area of the convex hull of the middles of all pixel sides of every cell, exact.

    Level by level (pixel rows and the lines between them) a cell's outermost points left and right are two chains; a
    point that lies inside the chord of its neighbours is no corner of the hull, and goes, in all cells at once.
    """
    starts, ends = flat[at - 1] != of, flat[at + 1] != of
    row, column = np.divmod(at, width)
    top, bottom = np.full(count + 1, len(flat)), np.full(count + 1, -1)
    np.minimum.at(top, of[starts], row[starts])
    np.maximum.at(bottom, of[starts], row[starts])
    levels = 2 * (bottom - top)[1:] + 3  # half rows from above the first row to below the last
    first = np.concatenate([[0], np.cumsum(levels)])
    cell = np.repeat(np.arange(count), levels)
    level = np.arange(first[-1]) - first[cell]
    areas = np.zeros(count)
    for picked, outward in ((starts, -1.0), (ends, 1.0)):
        own = of[picked]
        middle = first[own - 1] + 2 * (row[picked] - top[own]) + 1
        reach = np.full(first[-1], -np.inf)
        np.maximum.at(reach, middle, outward * column[picked] + 0.5)
        # On the line above and below a row, its pixels end half a px earlier than in the row itself.
        for beside in (middle - 1, middle + 1):
            np.maximum.at(reach, beside, outward * column[picked])
        known = np.isfinite(reach)
        areas += _under_chains(cell[known], level[known] / 2, reach[known], count)
    return areas


def _under_chains(
    cell: NDArray[np.int64], y: NDArray[np.float64], x: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Integral of x over y under the upper hull of every cell's points, which are sorted by cell and y."""
    while True:
        inner = (cell[2:] == cell[:-2]).nonzero()[0] + 1
        chord = (x[inner + 1] - x[inner - 1]) * (y[inner] - y[inner - 1])
        sunk = (x[inner] - x[inner - 1]) * (y[inner + 1] - y[inner - 1]) <= chord
        if not sunk.any():
            break
        kept = np.ones(len(x), bool)
        kept[inner[sunk]] = False
        cell, y, x = cell[kept], y[kept], x[kept]
    joined = cell[1:] == cell[:-1]
    strips = ((x[1:] + x[:-1]) / 2 * (y[1:] - y[:-1]))[joined]
    return np.asarray(np.bincount(cell[1:][joined], strips, count), np.float64)


def stain_and_texture(labels: Labels, count: int, picture: NDArray[np.uint8], stains: Stains) -> NDArray[np.float64]:
    """Dye and texture of every cell.

    Parameters
    ----------
    labels : int32 array (height, width)
        As of `shapes`.
    count : int
    picture : uint8 array (height, width, 3)
        RGB of the same window.
    stains : Stains

    Returns
    -------
    float64 array (count, len(stain_names(stains)))
    """
    at = np.flatnonzero(labels.ravel())
    dyes = stains.unmix(picture.reshape(-1, 3)[at])
    return np.hstack([stain(labels, count, at, dyes), texture(labels, count, at, dyes[0])])


def stain(labels: Labels, count: int, at: NDArray[np.int64], dyes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and standard deviation of every dye, float64 (count, 2 per dye).

    Parameters
    ----------
    labels : int32 array (height, width)
    count : int
    at : int64 array (n,)
        Places of the pixels in cells, in the flat window.
    dyes : float32 array (dyes, n)
        Amounts there.
    """
    owner = labels.ravel()[at].astype(np.intp)
    area = np.bincount(owner, minlength=count + 1)[1:]
    found = []
    for dye in dyes:
        mean = np.bincount(owner, dye, count + 1)[1:] / area
        square = np.bincount(owner, dye * dye, count + 1)[1:] / area
        found += [mean, np.sqrt(np.maximum(square - mean**2, 0))]
    return np.stack(found, axis=1)


def texture(labels: Labels, count: int, at: NDArray[np.int64], dye: NDArray[np.float32]) -> NDArray[np.float64]:
    """Contrast and homogeneity of a dye, float64 (count, 2).

    Of the gray-level co-occurrences (Haralick 1973) of the dye in `LEVELS` levels, between neighbours to the right and
    below that lie in the same cell, symmetric: contrast is the mean squared difference, homogeneity the mean of
    1 / (1 + difference squared). A cell without such neighbours has contrast 0 and homogeneity 1.

    Parameters
    ----------
    labels, count, at
        As of `stain`.
    dye : float32 array (n,)
    """
    flat, width = labels.ravel(), labels.shape[1]
    of = flat[at]
    level = np.zeros(len(flat), np.int16)
    level[at] = np.minimum(dye * (LEVELS / DENSEST), LEVELS - 1).astype(np.int16)
    pairs, contrast, alike = np.zeros(count), np.zeros(count), np.zeros(count)
    for step in (1, width):
        same = flat[at + step] == of
        first, owner = at[same], of[same].astype(np.intp)
        apart = level[first + step] - level[first]
        pairs += np.bincount(owner, minlength=count + 1)[1:]
        contrast += np.bincount(owner, _SQUARE[apart], count + 1)[1:]
        alike += np.bincount(owner, _ALIKE[apart], count + 1)[1:]
    some = np.maximum(pairs, 1)
    return np.stack([contrast / some, np.where(pairs > 0, alike / some, 1.0)], axis=1)
