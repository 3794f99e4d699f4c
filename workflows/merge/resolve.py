"""One merge: pairs, matches, groups, and the row that stands for each group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workflows.merge.detections import Detections
from workflows.merge.groups import components, fingerprints, groups, match, suppress
from workflows.merge.pairs import Bools, Floats, Ints, area, intersection, near_identical_pairs, overlapping_pairs
from workflows.merge.views import MergeRules, Views, own_views


@dataclass(frozen=True, eq=False)
class MergePlane:
    """The tiles of a slide: `rects`, `cores` and `own` views, float64 (t, 4), and `last` neighbours, int64 (t,).

    `factor`, float64 (t,), is the scale of each tile relative to the one that the lengths of the rules are meant for.
    """

    rects: Floats
    cores: Floats
    factor: Floats
    own: Floats
    last: Ints

    @classmethod
    def of(cls, rects: ArrayLike, cores: ArrayLike, rules: MergeRules, factor: ArrayLike | None = None) -> Self:
        """The plane of `TileGrid.rects` and `TileGrid.cores`; `factor` is 1 where it is not given."""
        tiles = np.asarray(rects, np.float64).reshape(-1, 4)
        by = np.ones(len(tiles)) if factor is None else np.asarray(factor, np.float64)
        own = own_views(tiles, rules.margin0 * by)
        return cls(tiles, np.asarray(cores, np.float64).reshape(-1, 4), by, *own)


@dataclass(frozen=True, eq=False)
class PairLinks:
    """Pairs i, j of rows, how well they agree, and whether an edge cuts i or j where the other sees on.

    `agreement` and `weight` are those of `Views.agreement`.
    """

    i: Ints
    j: Ints
    agreement: Floats
    weight: Floats
    short_i: Bools
    short_j: Bools

    def take(self, rows: NDArray[np.bool_]) -> PairLinks:
        return PairLinks(
            *(getattr(self, name)[rows] for name in ("i", "j", "agreement", "weight", "short_i", "short_j"))
        )


def resolve(
    found: Detections, plane: MergePlane, rules: MergeRules, unseen_from: int | None = None
) -> tuple[Detections, Bools]:
    """Merge what can be merged for good.

    Parameters
    ----------
    found : Detections
    plane : MergePlane
    rules : MergeRules
    unseen_from : int, optional
        First tile whose objects are still to come; None when all are there.

    Returns
    -------
    merged : Detections
        Objects that nothing to come can change.
    waits : bool array (n,)
        Rows of `found` that are to be looked at again with the next tiles.
    """
    n = len(found)
    if n and int(found.tiles.max()) >= len(plane.rects):
        raise ValueError(f"A detection names tile {found.tiles.max()}; there are {len(plane.rects)} tiles.")
    waits = np.zeros(n, bool)
    if found.settled.all():
        return found, waits
    twins, into = _within_tiles(found, rules)
    seam = np.flatnonzero((into == np.arange(n)) & _is_shared(found, plane, rules))
    rows = found.take(seam)
    views = Views(rows.boxes, rows.is_point, plane.rects[rows.tiles], plane.factor[rows.tiles], rules)
    links = _candidates(rows, views)
    tie = fingerprints(*rows.boxes.T, rows.scores, rows.tiles, rows.classes)
    strong, label = _groups(rows, links, tie, rules)
    chosen, boxes, joined = _representatives(rows, views, plane, strong, label, tie)
    root = _absorb_parts(rows, views, links, label, tie, chosen, boxes, joined)
    into[seam] = seam[chosen[root[label]]]
    into = into[into]
    if unseen_from is not None:
        ties = links.take(links.short_i | links.short_j)
        i = np.concatenate([twins[0], seam[strong.i], seam[ties.i]])
        j = np.concatenate([twins[1], seam[strong.j], seam[ties.j]])
        waits[seam] = plane.last[rows.tiles] >= unseen_from
        part = components(n, i, j)
        held = np.zeros(n, bool)
        held[part[waits]] = True
        waits = held[part]
    new = found.boxes.copy()
    new[seam[chosen[joined]]] = boxes[joined]
    sources = np.bincount(into, weights=found.sources, minlength=n).astype(np.int64)
    settled = np.ones(n, bool)
    merged = replace(found, boxes=new, sources=sources, settled=settled)
    return merged.take(np.flatnonzero((into == np.arange(n)) & ~waits)), waits


def _is_shared(found: Detections, plane: MergePlane, rules: MergeRules) -> Bools:
    """Rows that may have been seen by another tile too, bool (n,)."""
    views = Views(found.boxes, found.is_point, plane.rects[found.tiles], plane.factor[found.tiles], rules)
    reach, own = views.reaching(), plane.own[found.tiles]
    inside = np.hstack([reach[:, :2] > own[:, :2], reach[:, 2:] < own[:, 2:]]).all(axis=1)
    return np.asarray(~inside, bool)


def _within_tiles(found: Detections, rules: MergeRules) -> tuple[tuple[Ints, Ints], Ints]:
    """Near-identical pairs of one class and tile, and the row that each row gave way to, int64 (n,)."""
    kind = 2 * found.classes.astype(np.int64) + found.is_point
    group = found.tiles * (int(kind.max()) + 1) + kind
    i, j = near_identical_pairs(found.boxes, group, rules.same_tile)
    fresh = ~(found.settled[i] & found.settled[j])
    i, j = i[fresh], j[fresh]
    involved, place = np.unique(np.concatenate([i, j]), return_inverse=True)
    pick = found.take(involved)
    worth = np.where(np.isnan(pick.scores), -np.inf, pick.scores)
    order = np.lexsort((fingerprints(*pick.boxes.T), -area(pick.boxes), -worth))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    into = np.arange(len(found))
    into[involved] = involved[suppress(len(involved), place[: len(i)], place[len(i) :], rank)]
    return (i, j), into


def _candidates(rows: Detections, views: Views) -> PairLinks:
    """Pairs of different tiles that touch."""
    kind = 2 * rows.classes.astype(np.int64) + rows.is_point
    tiles, settled = rows.tiles, rows.settled
    i, j = overlapping_pairs(views.reaching(), kind, lambda p, q: (tiles[p] != tiles[q]) & ~(settled[p] & settled[q]))
    return PairLinks(i, j, *views.agreement(i, j), views.cut_short(i, j), views.cut_short(j, i))


def _groups(rows: Detections, links: PairLinks, tie: Ints, rules: MergeRules) -> tuple[PairLinks, Ints]:
    """The pairs that agree, and the group of each row, int64 (n,)."""
    least = np.where(links.short_i & links.short_j, rules.line_up, rules.agreement)
    strong = links.take(links.agreement >= np.where(rows.is_point[links.i], 1e-9, least))
    chosen = strong.take(match(strong.i, strong.j, rows.tiles, strong.agreement, tie))
    return strong, groups(len(rows), chosen.i, chosen.j, rows.tiles, chosen.weight, tie)


def _representatives(
    rows: Detections, views: Views, plane: MergePlane, strong: PairLinks, label: Ints, tie: Ints
) -> tuple[Ints, Floats, Bools]:
    """The row that stands for each group, its box, and whether that box joins parts.

    A row is short in its group where an edge cut it and a partner saw beyond that edge without being cut itself.
    Among the others the fewest cut sides win, then the centre owned by its own tile, then the score.
    """
    count = int(label.max()) + 1 if len(label) else 0
    pairs = strong.take(label[strong.i] == label[strong.j])
    short = np.zeros(len(rows), bool)
    short[pairs.i[pairs.short_i & ~pairs.short_j]] = True
    short[pairs.j[pairs.short_j & ~pairs.short_i]] = True
    whole = np.zeros(count, bool)
    whole[label[~short]] = True
    short &= whole[label]
    joins = pairs.short_i & pairs.short_j & ~short[pairs.i] & ~short[pairs.j]
    joined = np.zeros(count, bool)
    joined[label[pairs.i[joins]]] = True

    centre = (rows.boxes[:, :2] + rows.boxes[:, 2:]) / 2
    core = plane.cores[rows.tiles]
    owned = ((centre >= core[:, :2]) & (centre < core[:, 2:])).all(axis=1)
    worth = np.where(np.isnan(rows.scores), -np.inf, rows.scores)
    # Only groups of several rows need the long sort.
    size = np.bincount(label, minlength=count)
    several = np.flatnonzero(size[label] > 1)
    standing = 2 * views.cut.sum(axis=1) + ~owned + 16 * short
    order = several[np.lexsort((tie[several], -worth[several], 32 * label[several] + standing[several]))]
    chosen = np.empty(count, np.int64)
    chosen[label] = np.arange(len(rows))
    first = np.ones(len(order), bool)
    first[1:] = label[order][1:] != label[order][:-1]
    chosen[label[order[first]]] = order[first]

    boxes = rows.boxes[chosen]
    part = np.flatnonzero(joined[label] & ~short)
    np.minimum.at(boxes[:, :2], label[part], rows.boxes[part, :2])
    np.maximum.at(boxes[:, 2:], label[part], rows.boxes[part, 2:])
    return chosen, boxes, joined


def _absorb_parts(
    rows: Detections, views: Views, links: PairLinks, label: Ints, tie: Ints, chosen: Ints, boxes: Floats, joined: Bools
) -> Ints:
    """The group that each group goes into: a cut part inside a box that goes on across the cut, int64 (g,)."""
    part, other = np.concatenate([links.i, links.j]), np.concatenate([links.j, links.i])
    tried = np.concatenate([links.short_i, links.short_j]) & ~rows.is_point[part]
    tried &= (label[part] != label[other]) & ~joined[label[part]]
    tried[tried] &= chosen[label[part[tried]]] == part[tried]
    part, into = part[tried], label[other[tried]]
    box, host = rows.boxes[part], boxes[into]
    outward = np.array([-1.0, -1.0, 1.0, 1.0])
    border0 = (views.rules.border0 * views.factor[part])[:, None]
    goes_on = (views.cut[part] & ((host - views.tiles[part]) * outward > border0)).any(axis=1)
    size, host_size = area(box), area(host)
    inside = (intersection(box, host) >= views.rules.inside * size) & (host_size > size) & goes_on
    # A tile that saw the host as well told the two apart.
    span = int(rows.tiles.max()) + 1 if len(rows) else 1
    host_rows = np.isin(label, into[inside])
    known = (label * span + rows.tiles)[host_rows]
    inside &= ~np.isin(into * span + rows.tiles[part], known)
    part, into, host_size = part[inside], into[inside], host_size[inside]
    order = np.lexsort((tie[chosen[into]], host_size))
    root = np.arange(len(chosen))
    root[label[part[order]]] = into[order]
    while not np.array_equal(root, root[root]):
        root = root[root]
    return root
