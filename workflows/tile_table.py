"""Tables of tiles as numbers, and the keys of objects in them: what is computed of them is computed here."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_ITEM_BITS = 20
Integers = TypeVar("Integers", int, NDArray[np.int64])


def rects_of(table: NDArray[np.void]) -> NDArray[np.int64]:
    """The tiles of a table of TILE_DTYPE, int64 (n, 4): x_min, y_min, x_max, y_max in level-0 px, end excluded."""
    x0, y0 = table["x0"], table["y0"]
    return np.stack([x0, y0, x0 + table["width0"], y0 + table["height0"]], axis=1)


def cores_of(table: NDArray[np.void]) -> NDArray[np.int64]:
    """What each tile owns, int64 (n, 4) as of `rects_of`; disjoint between tiles that count."""
    return np.stack([table[f"core_{edge}"] for edge in ("x0", "y0", "x1", "y1")], axis=1)


def pack_key(tile: Integers, item: Integers) -> Integers:
    """The key of an object: one number of its tile and its place in that tile's answer.

    >>> pack_key(3, 5), unpack_key(pack_key(3, 5))
    (3145733, (3, 5))
    """
    return tile << _ITEM_BITS | item


def unpack_key(key: Integers) -> tuple[Integers, Integers]:
    """Tile and item of a key; keys of objects that only reviewers have are negative and have none."""
    return key >> _ITEM_BITS, key & ((1 << _ITEM_BITS) - 1)
