"""Detections as columns: what many tiles saw, in level-0 px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

_COLUMNS = ("boxes", "classes", "tiles", "scores", "is_point", "ids", "sources", "settled")


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects as columns; all arrays have n rows.

    Attributes
    ----------
    boxes : float64 array (n, 4)
        x_min, y_min, x_max, y_max in level-0 px. A point has no extent: x_min == x_max, y_min == y_max.
    classes : int32 array (n,)
        Index into `labels`.
    tiles : int64 array (n,)
        Index of the tile that saw the object.
    scores : float64 array (n,)
        NaN where unknown.
    is_point : bool array (n,)
    ids : int64 array (n,)
        The caller's name for each row; kept by the row that stays.
    sources : int64 array (n,)
        How many rows were merged into this one, itself included.
    settled : bool array (n,)
        True for rows that come from a merge. They are distinct from each other and never merged again, only with
        rows that come later.
    labels : tuple of str
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int32]
    tiles: NDArray[np.int64]
    scores: NDArray[np.float64]
    is_point: NDArray[np.bool_]
    ids: NDArray[np.int64]
    sources: NDArray[np.int64]
    settled: NDArray[np.bool_]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        boxes: ArrayLike,
        classes: ArrayLike,
        tiles: ArrayLike,
        *,
        scores: ArrayLike | None = None,
        is_point: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        labels: Sequence[str] = (),
    ) -> Self:
        """Fresh detections; `scores` default to unknown, `is_point` to boxes, `ids` to row numbers.

        Raises
        ------
        ValueError
            The columns differ in length, a corner is not finite, or a class or tile is negative.
        """
        box = np.asarray(boxes, np.float64).reshape(-1, 4)
        n = len(box)
        found = cls(
            box,
            np.asarray(classes, np.int32),
            np.asarray(tiles, np.int64),
            np.full(n, np.nan) if scores is None else np.asarray(scores, np.float64),
            np.zeros(n, bool) if is_point is None else np.asarray(is_point, bool),
            np.arange(n) if ids is None else np.asarray(ids, np.int64),
            np.ones(n, np.int64),
            np.zeros(n, bool),
            tuple(labels),
        )
        if any(len(getattr(found, name)) != n for name in _COLUMNS):
            raise ValueError("The columns of Detections differ in length.")
        if not np.isfinite(box).all() or (n and min(found.classes.min(), found.tiles.min()) < 0):
            raise ValueError("Detections need finite boxes, and classes and tiles that are not negative.")
        return found

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.generic]) -> Self:
        """The rows of an index or mask."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, **columns)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All rows of parts with the same labels, in their order."""
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return replace(parts[0], **columns)
