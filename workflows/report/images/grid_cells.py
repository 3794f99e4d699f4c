"""Cells one tile step wide that cover a slide: where numbers of overlapping tiles become one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.store.provenance import Manifest

_LEAST_COVER = 0.5


@dataclass(frozen=True, slots=True)
class CellGrid:
    """Cells that cover the slide from its origin.

    Attributes
    ----------
    size0 : (width, height)
        The slide in level-0 px.
    cell0 : (width, height)
        One cell in level-0 px; cells of the last column and row may reach beyond the slide.
    """

    size0: tuple[int, int]
    cell0: tuple[int, int]

    @classmethod
    def of(cls, manifest: Manifest) -> CellGrid:
        """The cells of a run: one per step of its tiles, the finest of a plan of several scales."""
        width, height = manifest.grid.step0
        plan = manifest.plan
        if plan is not None and plan.finest_mpp and manifest.grid.mpp:
            finer = max(1, round(manifest.grid.mpp / plan.finest_mpp))
            width, height = max(1, width // finer), max(1, height // finer)
        return cls((manifest.slide.width, manifest.slide.height), (width, height))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return -(-self.size0[1] // self.cell0[1]), -(-self.size0[0] // self.cell0[0])

    def areas(self) -> NDArray[np.float64]:
        """Area of each cell inside the slide in level-0 px, shape (rows, columns)."""
        rows, columns = self.shape
        heights = np.minimum(self.cell0[1], self.size0[1] - np.arange(rows) * self.cell0[1])
        widths = np.minimum(self.cell0[0], self.size0[0] - np.arange(columns) * self.cell0[0])
        return np.outer(heights, widths).astype(np.float64)

    def cells_of(self, x0: NDArray[np.float64], y0: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of points in level-0 px; points on the far border belong to the last cell."""
        rows, columns = self.shape
        column = np.clip((x0 // self.cell0[0]).astype(np.int64), 0, columns - 1)
        row = np.clip((y0 // self.cell0[1]).astype(np.int64), 0, rows - 1)
        return row, column

    def spread(
        self, rects: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of values and of weights per cell; a tile weighs with the area it shares with the cell.

        Parameters
        ----------
        rects : int64 array (n, 4)
            x_min, y_min, x_max, y_max in level-0 px, ends excluded.
        values : float64 array (n,)
            NaN is left out.

        Returns
        -------
        float64 arrays (rows, columns): the weighted sum, and the weight in level-0 px.
        """
        known = np.isfinite(values)
        rects, values = rects[known], values[known]
        total, weight = np.zeros(self.shape), np.zeros(self.shape)
        if not len(values):
            return total, weight
        width, height = self.cell0
        first_column, first_row = rects[:, 0] // width, rects[:, 1] // height
        columns = int(((rects[:, 2] - 1) // width - first_column).max()) + 1
        rows = int(((rects[:, 3] - 1) // height - first_row).max()) + 1
        for down in range(rows):
            row = first_row + down
            shared_y = np.minimum(rects[:, 3], (row + 1) * height) - np.maximum(rects[:, 1], row * height)
            for right in range(columns):
                column = first_column + right
                shared_x = np.minimum(rects[:, 2], (column + 1) * width) - np.maximum(rects[:, 0], column * width)
                inside = (shared_x > 0) & (shared_y > 0)
                area = (shared_x * shared_y)[inside].astype(np.float64)
                np.add.at(total, (row[inside], column[inside]), area * values[inside])
                np.add.at(weight, (row[inside], column[inside]), area)
        return total, weight

    def mean(self, rects: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Area-weighted mean of the tiles over each cell, float32 (rows, columns).

        NaN where tiles with a value cover less than half of the cell: unknown is never 0.
        """
        total, weight = self.spread(rects, values)
        return np.where(weight >= _LEAST_COVER * self.areas(), total / np.maximum(weight, 1e-9), np.nan).astype(
            np.float32
        )

    def known(self, cores: NDArray[np.int64]) -> NDArray[np.float64]:
        """Area of each cell in level-0 px that disjoint rectangles cover, (rows, columns)."""
        return self.spread(cores, np.ones(len(cores)))[1]


def density(
    counts: NDArray[np.float64], known: NDArray[np.float64], cells: CellGrid, factor: float
) -> NDArray[np.float32]:
    """Objects per area, float32 (channels, rows, columns), of counts per cell and the area known of each."""
    enough = known >= _LEAST_COVER * cells.areas()
    return np.where(enough, counts * factor / np.maximum(known, 1e-9), np.nan).astype(np.float32)
