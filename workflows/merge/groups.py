"""From pairs that agree to groups that are one object: one match per tile, no two objects of a tile in a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from workflows.merge.pairs import Bools, Floats, Ints


def fingerprints(*columns: NDArray[np.generic]) -> Ints:
    """A number per row that depends on its content alone, never negative: breaks ties whatever the order."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        words = np.ascontiguousarray(column, np.float64).view(np.uint64)
        mixed = (mixed ^ words) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(1)).astype(np.int64)


def suppress(count: int, i: Ints, j: Ints, rank: Ints) -> Ints:
    """Keep the best of every neighbourhood, as greedy non-maximum suppression does.

    Parameters
    ----------
    count : int
        Number of rows.
    i, j : int64 arrays (m,)
        Pairs of which only one may stay.
    rank : int64 array (count,)
        Lower is better; no two rows are equal.

    Returns
    -------
    int64 array (count,) : the row that each row gave way to; its own index where it stays.
    """
    into = np.arange(count)
    better, worse = np.where(rank[i] <= rank[j], i, j), np.where(rank[i] <= rank[j], j, i)
    while len(better):
        losing = np.zeros(count, bool)
        losing[worse] = True
        wins = ~losing[better]
        by = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(by, worse[wins], better[wins])
        gone = by < np.iinfo(np.int64).max
        into[gone] = by[gone]
        open_pairs = ~(wins | gone[better] | gone[worse])
        better, worse = better[open_pairs], worse[open_pairs]
    return into


def match(i: Ints, j: Ints, tile: Ints, agreement: Floats, tie: Ints) -> Bools:
    """Match objects one to one between every two tiles, best agreement first.

    An object of one tile has at most one match among the objects of another: two objects that one tile told
    apart are two objects.

    Parameters
    ----------
    i, j : int64 arrays (m,)
        Candidate pairs, of different tiles.
    tile : int64 array (n,)
    agreement : float64 array (m,)
    tie : int64 array (n,)
        Numbers of content, for equal agreement.

    Returns
    -------
    bool array (m,) : the pairs that are matches.
    """
    order = np.lexsort((np.maximum(tie[i], tie[j]), np.minimum(tie[i], tie[j]), -agreement))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    span = int(tile.max()) + 1 if len(tile) else 1
    sides = np.concatenate([i * span + tile[j], j * span + tile[i]])
    _, sides = np.unique(sides, return_inverse=True)
    one, two = sides[: len(i)], sides[len(i) :]
    count = int(sides.max()) + 1 if len(sides) else 0
    matched, taken = np.zeros(len(i), bool), np.zeros(count, bool)
    rest = np.arange(len(i))
    while len(rest):
        best = np.full(count, len(i), np.int64)
        np.minimum.at(best, one[rest], place[rest])
        np.minimum.at(best, two[rest], place[rest])
        chosen = rest[(best[one[rest]] == place[rest]) & (best[two[rest]] == place[rest])]
        matched[chosen] = True
        taken[one[chosen]] = taken[two[chosen]] = True
        rest = rest[~(taken[one[rest]] | taken[two[rest]])]
    return matched


def components(count: int, i: Ints, j: Ints) -> Ints:
    """Number of the connected component of each of `count` rows, int64 (count,)."""
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count))
    labels: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def groups(count: int, i: Ints, j: Ints, tile: Ints, weight: Floats, tie: Ints) -> Ints:
    """Join matches to groups that hold at most one object of every tile.

    Chains that would join two objects of one tile are built again, heaviest match first, without the matches
    that do so.

    Returns
    -------
    int64 array (count,) : number of each row's group.
    """
    label = components(count, i, j)
    span = int(tile.max()) + 1 if len(tile) else 1
    member = np.sort(label * span + tile)
    twice = member[1:][member[1:] == member[:-1]] // span
    if not len(twice):
        return label
    bad = np.zeros(int(label.max()) + 1, bool)
    bad[twice] = True
    edges = np.flatnonzero(bad[label[i]])
    low, high = np.minimum(tie[i], tie[j]), np.maximum(tie[i], tie[j])
    edges = edges[np.lexsort((high[edges], low[edges], -weight[edges]))]
    members = {int(k): {int(k)} for k in np.flatnonzero(bad[label])}
    home = {k: k for k in members}
    tiles = {k: {int(tile[k])} for k in members}
    for a, b in zip(i[edges].tolist(), j[edges].tolist(), strict=True):
        one, two = home[a], home[b]
        if one == two or tiles[one] & tiles[two]:
            continue
        if len(members[one]) < len(members[two]):
            one, two = two, one
        members[one] |= members.pop(two)
        tiles[one] |= tiles.pop(two)
        for k in members[one]:
            home[k] = one
    fresh = int(label.max()) + 1
    for k, root in home.items():
        label[k] = fresh + root
    result: Ints = np.unique(label, return_inverse=True)[1]
    return result
