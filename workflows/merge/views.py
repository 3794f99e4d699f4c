"""What two tiles see of the same place: where they overlap, which boxes a border cuts, how well two boxes agree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from workflows.merge.pairs import Bools, Floats, Ints, area, iou, overlapping_pairs


@dataclass(frozen=True, slots=True)
class MergeRules:
    """How much two detections must agree to be one object.

    Attributes
    ----------
    border0 : float
        A box that ends within this many level-0 px of its tile's edge is cut there.
    radius0 : float
        Points closer than this many level-0 px are the same.
    agreement : float
        Least IoU, in what both tiles see, of two views of an object.
    line_up : float
        The same where both tiles cut the object.
    inside : float
        Least share of a cut part that lies inside a box going on across the cut.
    same_tile : float
        Boxes of one tile with a larger IoU are the same object twice.
    """

    border0: float = 2.0
    radius0: float = 10.0
    agreement: float = 0.25
    line_up: float = 0.5
    inside: float = 0.7
    same_tile: float = 0.9

    @classmethod
    def at_scale(cls, scale: float, **changes: float) -> Self:
        """The defaults in px of a tile's picture, for pictures of `scale` level-0 px per px."""
        return cls(**{"border0": 2.0 * scale, "radius0": 10.0 * scale, **changes})

    @property
    def margin0(self) -> float:
        """How far beyond a tile, in level-0 px, an object can tie to one that the tile saw."""
        return max(self.border0, self.radius0 / 2)


@dataclass(frozen=True, eq=False)
class Views:
    """Boxes and the tiles they were seen in.

    Attributes
    ----------
    boxes : float64 array (n, 4)
        Level-0 px.
    is_point : bool array (n,)
    tiles : float64 array (n, 4)
        Rectangle of the tile of each box, level-0 px.
    factor : float64 array (n,)
        Scale of the tile of each box relative to the one that the lengths of `rules` are meant for.
    rules : MergeRules
    """

    boxes: Floats
    is_point: Bools
    tiles: Floats
    factor: Floats
    rules: MergeRules

    @cached_property
    def cut(self) -> Bools:
        """Which sides (left, top, right, bottom) of each box its tile's edge cuts, bool (n, 4)."""
        border0 = (self.rules.border0 * self.factor)[:, None]
        result: Bools = (np.abs(self.boxes - self.tiles) <= border0) & ~self.is_point[:, None]
        return result

    def agreement(self, i: Ints, j: Ints) -> tuple[Floats, Floats]:
        """How well the boxes i and j agree where both tiles look, and how much of them that is.

        For boxes: the IoU of the parts that lie in the overlap of the two tiles. A side that a tile's edge cuts
        is taken to go on beyond it. So a whole box agrees with the part of it that the neighbour saw, and two
        parts of an object larger than the overlap agree when they line up along the seam; with no overlap at
        all the seam itself, `border0` wide on either side, is what both see. For points: 1 at the same place,
        0 at `radius0` and beyond.

        Returns
        -------
        agreement : float64 array (m,)
            0 to 1.
        weight : float64 array (m,)
            The agreement times the share of the larger box that both tiles see: two thin slices that fit
            weigh less than two whole boxes that nearly do.
        """
        border0 = self.rules.border0 * np.maximum(self.factor[i], self.factor[j])
        grow = np.array([-1.0, -1.0, 1.0, 1.0]) * border0[:, None]
        edge_i, edge_j = self.tiles[i], self.tiles[j]
        both = np.concatenate(
            [np.maximum(edge_i[:, :2], edge_j[:, :2]), np.minimum(edge_i[:, 2:], edge_j[:, 2:])], axis=1
        )
        both += grow
        cut = self.cut
        visible = []
        for k, edge in ((i, edge_i), (j, edge_j)):
            box = np.where(cut[k], edge + grow, self.boxes[k])
            visible.append(
                np.concatenate([np.maximum(box[:, :2], both[:, :2]), np.minimum(box[:, 2:], both[:, 2:])], axis=1)
            )
        agreement = iou(*visible)
        seen = np.minimum(area(visible[0]), area(visible[1]))
        larger = np.maximum(area(self.boxes[i]), area(self.boxes[j]))
        weight = agreement * np.minimum(1, seen / np.maximum(larger, 1e-9))
        agreement[(both[:, 2:] <= both[:, :2]).any(axis=1)] = 0
        point = self.is_point[i]
        if point.any():
            distance = np.hypot(*(self.boxes[i[point], :2] - self.boxes[j[point], :2]).T)
            radius0 = self.rules.radius0 * (self.factor[i[point]] + self.factor[j[point]]) / 2
            agreement[point] = weight[point] = np.maximum(0, 1 - distance / radius0)
        return agreement, weight

    def cut_short(self, i: Ints, j: Ints) -> Bools:
        """True where the edge of i's tile cuts box i on a side beyond which the tile of j still sees."""
        outward = np.array([-1.0, -1.0, 1.0, 1.0])
        border0 = self.rules.border0 * np.maximum(self.factor[i], self.factor[j])
        beyond = (self.tiles[j] - self.tiles[i]) * outward > border0[:, None]
        result: Bools = (self.cut[i] & beyond).any(axis=1)
        return result

    def reaching(self) -> Floats:
        """Boxes grown by what may tie them to others: `border0`, or half of `radius0` for points."""
        by = np.where(self.is_point, self.rules.radius0 / 2, self.rules.border0) * self.factor
        return self.boxes + by[:, None] * np.array([-1.0, -1.0, 1.0, 1.0])


def own_views(rects: Floats, margin0: Floats) -> tuple[Floats, Ints]:
    """The part of every tile that no other tile sees, and the last tile that shares the rest.

    Parameters
    ----------
    rects : float64 array (t, 4)
        Tiles in level-0 px.
    margin0 : float64 array (t,)
        Tiles are grown by this much, so that what lies just beside an overlap counts as seen.

    Returns
    -------
    own : float64 array (t, 4)
        Rectangles that no other tile meets; empty (min above max) where all of a tile is shared.
    last : int64 array (t,)
        Largest index among the tile and its neighbours.
    """
    outward = np.array([-1.0, -1.0, 1.0, 1.0])
    grown = rects + margin0[:, None] * outward
    i, j = overlapping_pairs(grown, np.zeros(len(rects), np.int64), lambda p, q: np.ones(len(p), bool))
    own = rects + 2 * margin0[:, None] * outward
    last = np.arange(len(rects))
    for a, b in ((i, j), (j, i)):
        np.maximum.at(last, a, b)
        near, far = rects[a], grown[b]
        # Of the four cuts that keep b out, the one that leaves the most of a.
        left = np.concatenate([near[:, 2:] - far[:, 2:], far[:, :2] - near[:, :2]], axis=1)
        side = left.argmax(axis=1)
        for k in range(4):
            chosen = side == k
            if k < 2:
                np.maximum.at(own[:, k], a[chosen], far[chosen, k + 2])
            else:
                np.minimum.at(own[:, k], a[chosen], far[chosen, k - 2])
    return own, last
