"""Objects on a slide as columns, and a growing store of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workflows.review.reviewed import State
from workflows.tile_table import pack_key

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from workflows.store.rows import ObjectColumns

_HEADROOM = 1.25


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects as columns; all arrays have n rows.

    Attributes
    ----------
    key : int64 (n,)
        The caller's name of each object; `workflows.tile_table.pack_key` makes it from tile and item of the journal.
    box : float64 (n, 4)
        x_min, y_min, x_max, y_max in level-0 px. A point has no extent: x_min == x_max, y_min == y_max.
    point : bool (n,)
    label : int32 (n,)
        Code of the label, an index into the labels of the overlay.
    score : float64 (n,)
        NaN where there is none.
    state : int8 (n,)
        A `State`.
    """

    key: NDArray[np.int64]
    box: NDArray[np.float64]
    point: NDArray[np.bool_]
    label: NDArray[np.int32]
    score: NDArray[np.float64]
    state: NDArray[np.int8]

    @classmethod
    def of(
        cls,
        box: ArrayLike,
        label: ArrayLike = 0,
        *,
        key: ArrayLike | None = None,
        point: ArrayLike = False,
        score: ArrayLike = np.nan,
        state: ArrayLike = State.UNREVIEWED,
    ) -> Self:
        """Objects from boxes (n, 4); every other column may be one value for all. `key` is the row by default.

        Raises
        ------
        ValueError
            Columns differ in length, a corner is not finite, a box ends before it begins, or a code is negative.
        """
        boxes = np.ascontiguousarray(np.asarray(box, np.float64).reshape(-1, 4))
        n = len(boxes)
        column = {
            "key": (np.arange(n) if key is None else key, np.int64),
            "point": (point, np.bool_),
            "label": (label, np.int32),
            "score": (score, np.float64),
            "state": (state, np.int8),
        }
        made = {name: _column(name, values, n, kind) for name, (values, kind) in column.items()}
        if not np.isfinite(boxes).all():
            raise ValueError("Boxes need finite corners.")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError("A box ends before it begins: give x_min, y_min, x_max, y_max.")
        if n and (made["label"].min() < 0 or not np.isin(made["state"], list(State)).all()):
            raise ValueError("Label codes are 0 and above; states are those of `State`.")
        return cls(box=boxes, **made)

    @classmethod
    def from_columns(cls, columns: ObjectColumns) -> Self:
        """Objects of a run as the journal or `iter_merged` gives them."""
        return cls.of(
            columns.box,
            columns.label,
            key=pack_key(columns.tile, columns.item),
            point=columns.point,
            score=columns.score,
        )

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: ArrayLike) -> Objects:
        """The rows of an index or mask, copied."""
        at = np.asarray(rows)
        return Objects(**{column.name: getattr(self, column.name)[at] for column in fields(self)})


def _column(name: str, values: ArrayLike, n: int, kind: DTypeLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim == 0:
        return np.full(n, array, kind)
    if array.shape != (n,):
        raise ValueError(f"Column {name!r} has shape {array.shape}; {n} boxes need ({n},).")
    return array.astype(kind)


class Columns:
    """Columns that grow at their end: 54 bytes per object, a quarter more while growing.

    Corners lie in rows of their own, (4, n), because looking up what is visible compares whole columns: on a
    million objects that takes 2 ms, so no index has to be kept up to date.
    """

    def __init__(self) -> None:
        self.n = 0
        self._arrays = _empty(0)

    @property
    def objects(self) -> Objects:
        """The columns, as views: valid until the next change, and not to be written to."""
        views = {name: array[..., : self.n] for name, array in self._arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        return Objects(**(views | {"box": views["box"].T}))

    def append(self, objects: Objects) -> None:
        """Add rows at the end."""
        start, stop = self.n, self.n + len(objects)
        if stop > len(self._arrays["key"]):
            grown = _empty(stop if not start else max(stop, int(start * _HEADROOM), 4096))
            for name, array in self._arrays.items():
                grown[name][..., :start] = array[..., :start]
            self._arrays = grown
        for name, array in self._arrays.items():
            array[..., start:stop] = getattr(objects, name).T
        self.n = stop

    def replace(self, objects: Objects) -> None:
        """Take these rows in place of all."""
        self.n, self._arrays = 0, _empty(0)
        self.append(objects)

    def update(self, rows: NDArray[np.int64], values: Mapping[str, object]) -> None:
        """Write some columns of some rows. KeyError for a column that does not exist."""
        for name, new in values.items():
            if name not in self._arrays:
                raise KeyError(f"Objects have no column {name!r}; they have {', '.join(self._arrays)}.")
            self._arrays[name][..., rows] = np.asarray(new).T

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Take rows out; those behind them move up."""
        keep = np.ones(self.n, bool)
        keep[rows] = False
        self._arrays = {name: array[..., : self.n][..., keep] for name, array in self._arrays.items()}
        self.n = int(keep.sum())


def _empty(n: int) -> dict[str, NDArray[Any]]:
    return {
        "key": np.empty(n, np.int64),
        "box": np.empty((4, n), np.float64),
        "point": np.empty(n, np.bool_),
        "label": np.empty(n, np.int32),
        "score": np.empty(n, np.float64),
        "state": np.empty(n, np.int8),
    }
