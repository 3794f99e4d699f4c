"""Pair finding against all-against-all, and one-to-one matching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workflows.merge.pairs as pairs
from workflows.merge.groups import groups, match, suppress

BOX = st.tuples(*[st.floats(-50, 300, width=32)] * 2, *[st.one_of(st.just(0.0), st.floats(0, 120, width=32))] * 2)


@given(st.lists(BOX, max_size=60), st.integers(1, 3), st.sampled_from([3, 4_000_000]))
@settings(max_examples=200, deadline=None)
def test_strips_find_every_touching_pair_once(rows: list[tuple[float, ...]], kinds: int, chunk: int) -> None:
    boxes = np.array(rows, float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    group = np.arange(len(boxes)) % kinds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_CHUNK", chunk)
        i, j = pairs.overlapping_pairs(boxes, group, lambda p, q: np.ones(len(p), bool))
    found = sorted(zip(np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), strict=True))
    expected = [
        (a, b)
        for a in range(len(boxes))
        for b in range(a + 1, len(boxes))
        if group[a] == group[b] and (boxes[a, :2] <= boxes[b, 2:]).all() and (boxes[b, :2] <= boxes[a, 2:]).all()
    ]
    assert found == expected


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=40))
@settings(max_examples=100, deadline=None)
def test_near_identical_pairs_are_those_of_high_iou(rows: list[tuple[int, ...]]) -> None:
    boxes = np.array(rows, float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    group = np.arange(len(boxes)) % 2
    i, j = pairs.near_identical_pairs(boxes, group, 0.8)
    found = set(zip(np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), strict=True))
    a, b = np.triu_indices(len(boxes), 1)
    same = (pairs.iou(boxes[a], boxes[b]) > 0.8) | (boxes[a] == boxes[b]).all(axis=1)
    same &= group[a] == group[b]
    assert found == set(zip(a[same].tolist(), b[same].tolist(), strict=True))


def test_matching_is_one_to_one_best_first() -> None:
    i, j = np.array([0, 0, 1]), np.array([2, 3, 2])
    tile = np.array([0, 0, 1, 1])
    chosen = match(i, j, tile, np.array([0.6, 0.5, 0.9]), np.arange(4))
    assert chosen.tolist() == [False, True, True]


def test_a_group_holds_one_object_per_tile() -> None:
    tile = np.array([0, 1, 2, 0])
    label = groups(4, np.array([0, 1, 2]), np.array([1, 2, 3]), tile, np.array([0.9, 0.5, 0.8]), np.arange(4))
    assert label[0] == label[1] != label[2] == label[3]


def test_suppression_keeps_the_best_of_a_chain() -> None:
    into = suppress(4, np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([1, 0, 3, 2]))
    assert into.tolist() == [1, 1, 1, 3]
