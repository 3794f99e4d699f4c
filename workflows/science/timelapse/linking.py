"""Linking: objects found frame by frame become tracks, by assignments of least total cost, over gaps and divisions.

After Jaqaman et al., Nature Methods 5 (2008) 695: first neighbouring frames are linked, then the ends of the pieces to
the beginnings of others over gaps, last beginnings to the middle of pieces as divisions. Each step is one linear
assignment (scipy), solved apart for every group of objects that could be linked at all, so that thousands per frame
stay quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Candidates: rows, columns, cost of 0 to 1."""

_OVERLAP = 0.4  # of the cost that overlap can take away
_SETTLED = 3  # objects of each daughter, and _BEFORE of the mother, below which a division is not believed
_BEFORE = 2
_GROWTH = 0.5  # cost of a change of area by e, before squaring


@dataclass(frozen=True, slots=True)
class LinkRules:
    """What may be one object.

    Attributes
    ----------
    reach : float or None
        Px that a centre may move from frame to frame; over a gap of n frames sqrt(n) times as far. None takes the
        median diagonal of the boxes.
    gap : int
        Frames in a row that an object may be missing.
    divisions : bool
        Let tracks begin as daughters of others. Both daughters must be seen three times, the mother twice: what a
        model sees in a single frame is more often its mistake than a birth.
    shortest : int
        Tracks of fewer objects are dropped, as most false finds are.
    """

    reach: float | None = None
    gap: int = 2
    divisions: bool = False
    shortest: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrackLinks:
    """Tracks.

    Attributes
    ----------
    tracks : tuple of int64 arrays
        For each frame the track of every object, -1 for those of tracks that were dropped.
    parents : dict of int to int
        Mother of every track that begins by division.
    reach : float
        Px that were allowed.
    """

    tracks: tuple[NDArray[np.int64], ...]
    parents: dict[int, int] = field(default_factory=dict)
    reach: float = 0.0

    @property
    def count(self) -> int:
        """Number of tracks."""
        return len({int(track) for row in self.tracks for track in row if track >= 0})


@dataclass
class _Piece:
    """Objects of consecutive frames, as (frame, row)."""

    items: list[tuple[int, int]]


def link(boxes: Sequence[NDArray[np.float64]], rules: LinkRules | None = None) -> TrackLinks:
    """Link the objects of a film.

    Parameters
    ----------
    boxes : sequence of float64 arrays (n, 4)
        Of every frame in order: x_min, y_min, x_max, y_max in px; points have no extent. Frames that could not be read
        are empty: an object may be missing there, see `LinkRules.gap`.
    rules : LinkRules, optional

    Returns
    -------
    TrackLinks
        Tracks are numbered by the frame and row of their first object.
    """
    rules = rules or LinkRules()
    frames = [np.asarray(each, np.float64).reshape(-1, 4) for each in boxes]
    reach = rules.reach if rules.reach is not None else _reach(frames)
    pieces = _neighbours(frames, reach)
    pieces = _bridge(pieces, frames, reach, rules.gap)
    parents = _divide(pieces, frames, reach) if rules.divisions else {}
    return _numbered(pieces, parents, frames, reach, rules.shortest)


def _reach(frames: list[NDArray[np.float64]]) -> float:
    every = np.concatenate(frames) if frames else np.zeros((0, 4))
    if not len(every):
        return 1.0
    diagonal = float(np.median(np.hypot(every[:, 2] - every[:, 0], every[:, 3] - every[:, 1])))
    return diagonal if diagonal > 0 else 16.0  # points have no size to go by


def _centres(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.maximum(area, 1e-9)


def _candidates(before: NDArray[np.float64], after: NDArray[np.float64], reach: NDArray[np.float64] | float) -> Pairs:
    """Pairs within reach, and what they cost: distance, change of area, less where the boxes overlap."""
    none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    if not len(before) or not len(after):
        return none
    most = float(np.max(reach))
    near = cKDTree(_centres(before)).query_ball_tree(cKDTree(_centres(after)), most)
    rows = np.repeat(np.arange(len(before)), [len(each) for each in near])
    columns = np.array([column for each in near for column in each], np.int64)
    if not len(rows):
        return none
    a, b = before[rows], after[columns]
    far = np.hypot(*(_centres(a) - _centres(b)).T)
    allowed = np.broadcast_to(reach, len(before))[rows] if np.ndim(reach) else np.full(len(rows), most)
    cost = (far / allowed) ** 2 + (_GROWTH * np.log(_area(a) / _area(b))) ** 2
    shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    cost -= _OVERLAP * shared / (_area(a) + _area(b) - shared)
    keep = (far <= allowed) & (cost < 1)
    return rows[keep], columns[keep], cost[keep]


def assign(rows: NDArray[np.int64], columns: NDArray[np.int64], cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The links of least total cost, where to leave two objects unlinked costs 1.

    Parameters
    ----------
    rows, columns : int64 (n,)
        Candidate pairs.
    cost : float64 (n,)
        Below 1.
    """
    if not len(rows):
        return []
    width = int(rows.max()) + 1
    size = width + int(columns.max()) + 1
    graph = coo_array((np.ones(len(rows)), (rows, columns + width)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    found: list[tuple[int, int]] = []
    for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(part) == 1:
            found.append((int(rows[part[0]]), int(columns[part[0]])))
            continue
        own, row = np.unique(rows[part], return_inverse=True)
        others, column = np.unique(columns[part], return_inverse=True)
        table = np.zeros((len(own), len(others)))  # 0: no link, which is never better than one below 1
        table[row, column] = cost[part] - 1
        for a, b in zip(*linear_sum_assignment(table), strict=True):
            if table[a, b] < 0:
                found.append((int(own[a]), int(others[b])))
    return found


def _neighbours(frames: list[NDArray[np.float64]], reach: float) -> list[_Piece]:
    pieces: list[_Piece] = []
    open_: dict[int, _Piece] = {}
    for frame, boxes in enumerate(frames):
        linked: dict[int, _Piece] = {}
        if frame:
            for before, after in assign(*_candidates(frames[frame - 1], boxes, reach)):
                linked[after] = open_[before]
        now: dict[int, _Piece] = {}
        for row in range(len(boxes)):
            piece = linked.get(row)
            if piece is None:
                piece = _Piece([])
                pieces.append(piece)
            piece.items.append((frame, row))
            now[row] = piece
        open_ = now
    return pieces


def _bridge(pieces: list[_Piece], frames: list[NDArray[np.float64]], reach: float, gap: int) -> list[_Piece]:
    """Join ends of pieces to beginnings of others over 1 to `gap` missing frames."""
    if gap < 1 or not pieces:
        return pieces
    starts: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        starts.setdefault(piece.items[0][0], []).append(index)
    rows, columns, costs = [], [], []
    ends: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        ends.setdefault(piece.items[-1][0], []).append(index)
    for frame, ending in ends.items():
        last = np.stack([frames[frame][pieces[index].items[-1][1]] for index in ending])
        for missing in range(1, gap + 1):
            beginning = starts.get(frame + missing + 1)
            if not beginning:
                continue
            first = np.stack([frames[frame + missing + 1][pieces[index].items[0][1]] for index in beginning])
            row, column, cost = _candidates(last, first, reach * (missing + 1) ** 0.5)
            rows.append(np.array(ending)[row])
            columns.append(np.array(beginning)[column])
            # A longer gap is a little less likely, all else being equal.
            costs.append(np.minimum(cost + 0.05 * missing, 0.999))
    if not rows:
        return pieces
    follows = dict(assign(np.concatenate(rows), np.concatenate(columns), np.concatenate(costs)))
    taken = set(follows.values())
    joined = []
    for index, piece in enumerate(pieces):
        if index in taken:
            continue
        items, at = list(piece.items), index
        while at in follows:
            at = follows[at]
            items += pieces[at].items
        joined.append(_Piece(items))
    return joined


def _divide(pieces: list[_Piece], frames: list[NDArray[np.float64]], reach: float) -> dict[int, int]:
    """Cut pieces where another begins beside them as a sister; parents by number of piece. Adds to `pieces`."""
    at: dict[tuple[int, int], tuple[int, int]] = {
        item: (index, place) for index, piece in enumerate(pieces) for place, item in enumerate(piece.items)
    }
    rows, columns, costs = [], [], []
    mothers: list[tuple[int, int]] = []
    for index, piece in enumerate(pieces):
        frame, row = piece.items[0]
        if frame == 0 or len(piece.items) < _SETTLED:
            continue
        one = frames[frame][row]
        for other_row in range(len(frames[frame])):
            owner, place = at[(frame, other_row)]
            if owner == index or place < _BEFORE or pieces[owner].items[place - 1][0] != frame - 1:
                continue
            if len(pieces[owner].items) - place < _SETTLED:
                continue
            sister, mother = frames[frame][other_row], frames[frame - 1][pieces[owner].items[place - 1][1]]
            cost = _division_cost(mother, one, sister, reach)
            if cost < 1:
                rows.append(index)
                columns.append(len(mothers))
                costs.append(cost)
                mothers.append((owner, place))
    if not rows:
        return {}
    # One division for each cut: candidates of the same mother share a column.
    places = {mother: number for number, mother in enumerate(dict.fromkeys(mothers))}
    shared = np.array([places[mothers[column]] for column in columns], np.int64)
    chosen = assign(np.array(rows, np.int64), shared, np.array(costs))
    by_number = {number: mother for mother, number in places.items()}
    parents: dict[int, int] = {}
    cuts: dict[int, list[tuple[int, int]]] = {}
    for daughter, number in chosen:
        owner, place = by_number[number]
        cuts.setdefault(owner, []).append((place, daughter))
    for owner, found in cuts.items():
        # From the last cut back, so that what is cut off keeps its later divisions.
        for place, daughter in sorted(found, reverse=True):
            rest = len(pieces)
            pieces.append(_Piece(pieces[owner].items[place:]))
            for child, mother_of in list(parents.items()):
                if mother_of == owner:
                    parents[child] = rest
            pieces[owner] = _Piece(pieces[owner].items[:place])
            parents[daughter] = parents[rest] = owner
    return parents


def _division_cost(
    mother: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], reach: float
) -> float:
    """Daughters lie on both sides of where the mother was, are alike, and together about as large as she."""
    centre, a, b = (_centres(box[None])[0] for box in (mother, one, other))
    middle = float(np.hypot(*(centre - (a + b) / 2))) / (0.6 * reach)
    apart = float(np.hypot(*(a - b))) / (1.6 * reach)
    area_m, area_a, area_b = (float(_area(box[None])[0]) for box in (mother, one, other))
    alike = float(np.log(area_a / area_b))
    sum_ = float(np.log((area_a + area_b) / area_m))
    shrunk = max(0.0, max(area_a, area_b) / area_m - 0.9) * 4  # a daughter as large as her mother is none
    if apart > 1:
        return 1.0
    return middle**2 + 0.5 * apart**2 + 0.5 * alike**2 + 0.5 * (sum_ - 0.2) ** 2 + shrunk


def _numbered(
    pieces: list[_Piece], parents: dict[int, int], frames: list[NDArray[np.float64]], reach: float, shortest: int
) -> TrackLinks:
    related = {*parents, *parents.values()}
    kept = [
        index
        for index, piece in enumerate(pieces)
        if piece.items and (len(piece.items) >= shortest or index in related)
    ]
    kept.sort(key=lambda index: pieces[index].items[0])
    number = {index: place for place, index in enumerate(kept)}
    tracks = tuple(np.full(len(boxes), -1, np.int64) for boxes in frames)
    for index in kept:
        for frame, row in pieces[index].items:
            tracks[frame][row] = number[index]
    named = {number[child]: number[mother] for child, mother in parents.items() if child in number and mother in number}
    return TrackLinks(tracks, dict(sorted(named.items())), reach)


def link_nearest(boxes: Sequence[NDArray[np.float64]], reach: float) -> TrackLinks:
    """The naive way, to compare with: each object goes on from the nearest one left of the frame before."""
    tracks: list[NDArray[np.int64]] = []
    following = 0
    for frame, found in enumerate(boxes):
        row = np.full(len(found), -1, np.int64)
        free = set(range(len(boxes[frame - 1]))) if frame else set()
        for index, centre in enumerate(_centres(np.asarray(found, np.float64).reshape(-1, 4))):
            if free:
                before = _centres(np.asarray(boxes[frame - 1], np.float64).reshape(-1, 4))
                nearest = min(free, key=lambda other: float(np.hypot(*(before[other] - centre))))
                if np.hypot(*(before[nearest] - centre)) <= reach:
                    row[index] = tracks[frame - 1][nearest]
                    free.discard(nearest)
            if row[index] < 0:
                row[index], following = following, following + 1
        tracks.append(row)
    return TrackLinks(tuple(tracks), {}, reach)
