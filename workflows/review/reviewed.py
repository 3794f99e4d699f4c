"""The objects of a run as its reviewers left them.

A decision names an object of the model by its key (tile and position in the answer) and remembers the place
it was made at. Both are needed: the key of the object that stands for a merged group may change while a run goes
on, and a repetition of a run on other hardware may give a key to another cell. A decision therefore finds its object

1. by key, where the object of that key lies where the reviewer saw it;
2. else by place: the object that agrees best with what was seen (IoU at least 0.5, points within the merge radius);
3. else the larger object of the same class that has swallowed it (a part that was joined across a seam).

What it does not find is not applied to anything else: an accepted or corrected object then stays by itself, where it
was seen. Everything but the plain case is marked in `conflict`, and two decisions of different meaning about what has
become one object leave it unreviewed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workflows.merge.merged import iter_merged
from workflows.review.decisions import Box, Change, Decision, Ledger, Verdict, object_name
from workflows.store.rows import ObjectColumns, concatenate
from workflows.tile_table import pack_key, unpack_key

if TYPE_CHECKING:
    from workflows.store.provenance import Manifest
    from workflows.store.run_store import RunStore

_AGREE = 0.5
_INSIDE = 0.8


class State(IntEnum):
    """`Verdict` as a number, for columns."""

    UNREVIEWED = 0
    ACCEPTED = 1
    REJECTED = 2
    EDITED = 3

    @classmethod
    def of(cls, verdict: Verdict) -> State:
        """The number of a verdict."""
        return cls[verdict.name]

    @property
    def verdict(self) -> Verdict:
        """The verdict of a number."""
        return Verdict[self.name]


class Conflict(IntEnum):
    """What a decision met that was not as its author saw it."""

    NONE = 0
    FOLLOWED = 1
    """The object has another key now and lies at the same place: the decision went with it."""
    GROWN = 2
    """The object was joined with its other part across a seam since; the decision is about the whole now."""
    MISSING = 3
    """No object lies there any more; the reviewed one is kept by itself."""
    DISAGREE = 4
    """Decisions of different meaning about what is one object now; it counts as unreviewed."""


@dataclass(frozen=True, eq=False)
class ReviewedObjects:
    """Objects as columns: those of the model, merged, then those that only reviewers have. All arrays have n rows.

    Attributes
    ----------
    labels : tuple of str
        What `label` indexes: the run's own first.
    key : int64 (n,)
        `workflows.tile_table.pack_key`; negative, and never used twice in a run, for objects that only reviewers have.
    label : int32 (n,)
    box : float64 (n, 4)
        Level-0 px, x_min, y_min, x_max, y_max.
    point : bool (n,)
    score : float64 (n,)
        The model's, NaN where it gave none or a person drew the object.
    state : int8 (n,)
        Codes of `State`.
    conflict : int8 (n,)
        Codes of `Conflict`.
    decisions : mapping of int to Decision
        The decision that counts, by row, where there is one.
    about : mapping of int to tuple of str
        Names of the objects that the decisions about a row speak of, by row; several where parts became one object.
    original : mapping of int to (str, Box)
        Label and box that the model gave, by row, for those of its objects that have a decision.
    lost : tuple of Decision
        Decisions about objects that are no longer there and that leave nothing behind (rejections).
    """

    labels: tuple[str, ...]
    key: NDArray[np.int64]
    label: NDArray[np.int32]
    box: NDArray[np.float64]
    point: NDArray[np.bool_]
    score: NDArray[np.float64]
    state: NDArray[np.int8]
    conflict: NDArray[np.int8]
    decisions: Mapping[int, Decision]
    about: Mapping[int, tuple[str, ...]]
    original: Mapping[int, tuple[str, Box]]
    lost: tuple[Decision, ...]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Rows that a report of the corrected result counts: all that were not rejected."""
        return np.asarray(self.state != State.REJECTED)

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """Rows that a person vouched for without conflict: what training learns from."""
        return np.isin(self.state, (State.ACCEPTED, State.EDITED)) & np.isin(
            self.conflict, (Conflict.NONE, Conflict.FOLLOWED)
        )

    def name(self, row: int, manifest: Manifest) -> str:
        """UUID of an object, the one that exports write."""
        if row in self.decisions and (self.key[row] < 0 or self.conflict[row] == Conflict.NONE):
            change = self.decisions[row].change
            assert change is not None
            return change.object
        key = int(self.key[row])
        return object_name(manifest, *unpack_key(key))


def reviewed_objects(store: RunStore, ledger: Ledger | None = None) -> ReviewedObjects:
    """The merged objects of a run with its reviews applied.

    Parameters
    ----------
    store : RunStore
    ledger : Ledger, optional
        The reviews; by default those in the store.
    """
    labels = store.labels
    merged = concatenate(list(iter_merged(store, labels)))
    ledger = Ledger(store.reviews()) if ledger is None else ledger
    width, height = store.manifest.grid.side0
    radius0 = 10.0 * float(np.sqrt(width * height)) / store.manifest.grid.tile_size
    return apply_reviews(merged, labels, ledger, radius0=radius0)


def apply_reviews(
    merged: ObjectColumns, labels: Sequence[str], ledger: Ledger, *, radius0: float = 10.0
) -> ReviewedObjects:
    """Merged objects with decisions applied.

    Parameters
    ----------
    merged : ObjectColumns
    labels : sequence of str
        What `merged.label` indexes.
    ledger : Ledger
    radius0 : float
        Points closer than this many level-0 px are the same.
    """
    standing = ledger.standing().values()
    codes = {label: code for code, label in enumerate(labels)}
    for decision in standing:
        codes.setdefault(_change(decision).label, len(codes))
    key = pack_key(merged.tile, merged.item)
    finder = _Finder(merged, key, codes, radius0)
    about: dict[int, list[tuple[Decision, Conflict]]] = defaultdict(list)
    alone: list[tuple[Decision, Conflict]] = []
    lost: list[Decision] = []
    for decision in standing:
        change = _change(decision)
        if change.seen_box is None:
            if change.verdict is not Verdict.REJECTED:
                alone.append((decision, Conflict.NONE))
            else:
                lost.append(decision)
            continue
        row, conflict = finder.find(change)
        if row is not None:
            about[row].append((decision, conflict))
        elif change.verdict in (Verdict.ACCEPTED, Verdict.EDITED):
            alone.append((decision, Conflict.MISSING))
        elif change.verdict is Verdict.REJECTED:
            lost.append(decision)
    label, box, point = merged.label.copy(), merged.box.copy(), merged.point.copy()
    state = np.zeros(len(key), np.int8)
    conflicts = np.zeros(len(key), np.int8)
    decisions: dict[int, Decision] = {}
    for row, made in about.items():
        newest, conflict = made[-1]
        change = _change(newest)
        decisions[row] = newest
        if len({_meaning(each) for each, _ in made}) > 1:
            conflicts[row] = Conflict.DISAGREE
            continue
        conflicts[row], state[row] = conflict, State.of(change.verdict)
        label[row] = codes[change.label]
        if change.box != change.seen_box:
            box[row], point[row] = change.box, change.point
    original: dict[int, tuple[str, Box]] = {
        row: (labels[merged.label[row]], tuple(merged.box[row].tolist())) for row in about
    }
    n = len(key)
    changes = [_change(decision) for decision, _ in alone]
    decisions |= {n + i: decision for i, (decision, _) in enumerate(alone)}
    return ReviewedObjects(
        labels=tuple(codes),
        key=np.concatenate([key, _new_keys(alone, ledger)]),
        label=np.concatenate([label, np.array([codes[c.label] for c in changes], np.int32)]),
        box=np.concatenate([box, np.array([c.box for c in changes], np.float64).reshape(-1, 4)]),
        point=np.concatenate([point, np.array([c.point for c in changes], bool)]),
        score=np.concatenate([merged.score, np.full(len(alone), np.nan)]),
        state=np.concatenate([state, np.array([State.of(c.verdict) for c in changes], np.int8)]),
        conflict=np.concatenate([conflicts, np.array([c for _, c in alone], np.int8)]),
        decisions=decisions,
        about={row: tuple(_change(each).object for each, _ in made) for row, made in about.items()}
        | {n + i: (change.object,) for i, change in enumerate(changes)},
        original=original,
        lost=tuple(lost),
    )


def new_key(ledger: Ledger, name: str) -> int:
    """The negative key of an object that only reviewers have: from the first decision about it."""
    return -ledger.history(name)[0].seq


def _new_keys(alone: Sequence[tuple[Decision, Conflict]], ledger: Ledger) -> NDArray[np.int64]:
    return np.array([new_key(ledger, _change(decision).object) for decision, _ in alone], np.int64)


def _change(decision: Decision) -> Change:
    assert decision.change is not None
    return decision.change


def _meaning(decision: Decision) -> tuple[bool, str]:
    change = _change(decision)
    return change.verdict is Verdict.REJECTED, change.label


class _Finder:
    """Merged objects, to be found by key and place."""

    def __init__(self, merged: ObjectColumns, key: NDArray[np.int64], codes: Mapping[str, int], radius0: float) -> None:
        self._merged, self._codes, self._radius0 = merged, codes, radius0
        self._order = np.argsort(key)
        self._keys = key[self._order]

    def find(self, change: Change) -> tuple[int | None, Conflict]:
        """Row of the object a change is about, and how it was found."""
        if change.seen_box is None or change.tile is None or change.item is None:
            raise ValueError(f"The decision about {change.object} does not say what was seen.")
        wanted = pack_key(change.tile, change.item)
        at = int(np.searchsorted(self._keys, wanted))
        if at < len(self._keys) and self._keys[at] == wanted:
            row = int(self._order[at])
            if self._agree(change, np.array([row]))[0] >= _AGREE:
                return row, Conflict.NONE
            if self._holds(change, np.array([row]))[0]:
                return row, Conflict.GROWN
        near = self._near(change.seen_box)
        if not len(near):
            return None, Conflict.MISSING
        agreement = self._agree(change, near)
        best = int(np.argmax(agreement))
        if agreement[best] >= _AGREE:
            return int(near[best]), Conflict.FOLLOWED
        holding = near[self._holds(change, near)]
        if len(holding) == 1:
            return int(holding[0]), Conflict.GROWN
        return None, Conflict.MISSING

    def _near(self, box: Box) -> NDArray[np.int64]:
        """Rows that touch a box grown by the radius."""
        boxes, r = self._merged.box, self._radius0
        touch = (boxes[:, 0] <= box[2] + r) & (boxes[:, 2] >= box[0] - r)
        touch &= (boxes[:, 1] <= box[3] + r) & (boxes[:, 3] >= box[1] - r)
        return np.flatnonzero(touch)

    def _agree(self, change: Change, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """IoU with what was seen; for points 1 at the place and 0.5 at the radius. Other classes and kinds: 0."""
        boxes, seen = self._merged.box[rows], np.array(change.seen_box)
        was_point = bool(seen[0] == seen[2] and seen[1] == seen[3])
        same = (self._merged.label[rows] == self._codes.get(change.seen_label or "", -1)) & (
            self._merged.point[rows] == was_point
        )
        if was_point:
            distance = np.hypot(boxes[:, 0] - seen[0], boxes[:, 1] - seen[1])
            return np.where(same, np.clip(1 - distance / (2 * self._radius0), 0, 1), 0.0)
        shared, own = _shared(boxes, seen), (seen[2] - seen[0]) * (seen[3] - seen[1])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return np.where(same, shared / np.maximum(areas + own - shared, 1e-9), 0.0)

    def _holds(self, change: Change, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether objects of the same class hold nearly all of what was seen."""
        seen = np.array(change.seen_box)
        own = (seen[2] - seen[0]) * (seen[3] - seen[1])
        if own <= 0:
            return np.zeros(len(rows), bool)
        same = self._merged.label[rows] == self._codes.get(change.seen_label or "", -1)
        return np.asarray(same & (_shared(self._merged.box[rows], seen) >= _INSIDE * own))


def _shared(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    return np.asarray(np.prod(np.clip(sides, 0, None), axis=1))


__all__ = ["Conflict", "ReviewedObjects", "State", "apply_reviews", "reviewed_objects"]
