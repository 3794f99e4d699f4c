"""The merge: objects that several tiles saw become one, objects that only one tile saw stay.

What counts as the same object, for objects of one class:

1. *Seen whole by both.* In the overlap of their tiles the two boxes agree (IoU of the parts both tiles see).
   The box whose centre its own tile owns stays; the other goes. Ownership never deletes an object that has no
   partner, so an object that only the other tile reported is kept.
2. *Cut by one tile's edge.* The part agrees with the whole box where both tiles see; the whole box stays. A part
   that agrees too little, but lies inside a box that goes on across the edge that cut it, goes too.
3. *Cut by both*, being larger than the overlap: the parts line up along the seam; their common bounding box
   stays, over any number of tiles.

Objects are matched one to one between every two tiles, and a group never holds two objects of one tile: crowded
objects that a tile distinguished are never fused. Within a tile only near-identical boxes are dropped. Points are the
same when they are closer than a radius. The result does not depend on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from numpy.typing import ArrayLike

from workflows.merge.detections import Detections
from workflows.merge.resolve import MergePlane, resolve
from workflows.merge.views import MergeRules

__all__ = ["Detections", "MergeRules", "merge", "merge_parts"]


def merge(
    found: Detections,
    rects: ArrayLike,
    cores: ArrayLike,
    rules: MergeRules | None = None,
    factor: ArrayLike | None = None,
) -> Detections:
    """Merge the objects of all tiles of a slide.

    Parameters
    ----------
    found : Detections
    rects, cores : array (t, 4)
        Rectangle of every tile, and of what it owns, in level-0 px: `TileGrid.rects` and `TileGrid.cores`.
    rules : MergeRules, optional
    factor : array (t,), optional
        Scale of every tile relative to the one that the lengths of `rules` are meant for; 1 where not given.

    Returns
    -------
    Detections
        The objects that stay, in the order of their rows in `found`, with `sources` and `settled` set.

    Raises
    ------
    ValueError
        A detection names a tile that is not in `rects`.
    """
    rules = rules or MergeRules()
    return resolve(found, MergePlane.of(rects, cores, rules, factor), rules)[0]


def merge_parts(
    parts: Iterable[Detections],
    rects: ArrayLike,
    cores: ArrayLike,
    rules: MergeRules | None = None,
    factor: ArrayLike | None = None,
) -> Iterator[Detections]:
    """Merge objects that come tile by tile, keeping in memory only those that may still meet others.

    Parameters
    ----------
    parts : iterable of Detections
        In the order of tiles: no part names a tile before the last one of the part before it. The parts together
        may hold any number of rows.
    rects, cores, rules, factor
        As for `merge`.

    Yields
    ------
    Detections
        Merged objects; all together the set that `merge` returns for the parts as one.

    Raises
    ------
    ValueError
        A detection names a tile that is not in `rects`, or the parts are not in the order of tiles.
    """
    rules = rules or MergeRules()
    plane = MergePlane.of(rects, cores, rules, factor)
    waiting: Detections | None = None
    seen = 0
    for part in parts:
        if not len(part):
            continue
        if int(part.tiles.min()) < seen:
            raise ValueError(f"Parts must come in the order of tiles: {part.tiles.min()} after {seen - 1}.")
        seen = int(part.tiles.max()) + 1
        found = part if waiting is None else Detections.concatenate([waiting, part])
        merged, waits = resolve(found, plane, rules, seen)
        waiting = found.take(waits)
        if len(merged):
            yield merged
    if waiting is not None and len(waiting):
        yield resolve(waiting, plane, rules)[0]
