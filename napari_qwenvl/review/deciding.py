"""Decisions about rows of an overlay: written to the run's journal first, then shown. No Qt here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from psygnal import Signal

from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from workflows.review.decisions import Action, Box, Change, Decision, Reviews, Verdict, new_object_name, object_name
from workflows.review.reviewed import Conflict, ReviewedObjects, State, new_key
from workflows.tile_table import pack_key, unpack_key


class Deciding:
    """What one reviewer does to the objects of a run. Every call is on disk when it returns.

    Attributes
    ----------
    reviews : Reviews
    conflicts : dict of int to Conflict
        By key: decisions that did not find their object as it was (see `workflows.review.reviewed`).
    """

    changed = Signal()
    """Decisions were made, undone or redone, here or by others."""

    def __init__(self, reviews: Reviews, overlay: Overlay) -> None:
        self.reviews, self._overlay = reviews, overlay
        self.conflicts: dict[int, Conflict] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        self._key_of: dict[str, int] = {}
        self._original: dict[int, tuple[str, Box]] = {}

    def take(self, reviewed: ReviewedObjects, seq: int) -> None:
        """The overlay shows these objects now, row by row; decisions after `seq` are not in them yet."""
        keys = reviewed.key
        self._names = {int(keys[row]): names for row, names in reviewed.about.items()}
        self._key_of = {name: key for key, names in self._names.items() for name in names}
        self._original = {int(keys[row]): seen for row, seen in reviewed.original.items()}
        rows = np.flatnonzero(reviewed.conflict)
        self.conflicts = {int(keys[row]): Conflict(int(reviewed.conflict[row])) for row in rows}
        if meanwhile := self.reviews.touched_since(seq):
            self._sync(meanwhile)
        self.changed.emit()

    # ------------------------------------------------------------------ what a reviewer does

    def accept(self, rows: ArrayLike) -> None:
        """These objects are right as they are. One that was corrected stays marked as such."""
        state = self._overlay.objects.state
        self._decide(
            rows, Action.ACCEPT, lambda row: Verdict.EDITED if state[row] == State.EDITED else Verdict.ACCEPTED
        )

    def reject(self, rows: ArrayLike) -> None:
        """There is no such thing at these places."""
        self._decide(rows, Action.REJECT, lambda row: Verdict.REJECTED)

    def clear(self, rows: ArrayLike) -> None:
        """Take back every decision about these objects, as if never looked at."""
        self._decide(rows, Action.CLEAR, lambda row: Verdict.UNREVIEWED, restore=True)

    def relabel(self, rows: ArrayLike, label: str) -> None:
        """These objects are of another class; a new one may be named.

        Raises
        ------
        ValueError
            The name is empty.
        """
        label = label.strip()
        if not label:
            raise ValueError("Name the class.")
        self._decide(rows, Action.RELABEL, lambda row: Verdict.EDITED, label=label)

    def reshape(self, row: int, box: ArrayLike) -> None:
        """The object lies here: moved, resized."""
        corners = np.asarray(box, float)
        self._decide([row], Action.RESHAPE, lambda row: Verdict.EDITED, box=tuple(corners.tolist()))

    def add(self, box: ArrayLike, label: str, *, point: bool = False) -> int:
        """Draw a new object; its row."""
        self.add_all([(box, label, point)])
        return len(self._overlay) - 1

    def add_all(self, drawn: Sequence[tuple[ArrayLike, str, bool]]) -> None:
        """Draw objects given as box, label and whether it is a point: one step, at the end of the rows."""
        changes = []
        for box, label, point in drawn:
            corners: Any = tuple(np.asarray(box, float).tolist())
            changes.append(Change(Action.ADD, new_object_name(), Verdict.EDITED, label, corners, point))
        if changes:
            self.reviews.decide(changes)
            self._sync([change.object for change in changes])
            self.changed.emit()

    def undo(self) -> list[int]:
        """Take back the last step; the rows it was about."""
        return self._after(self.reviews.undo())

    def redo(self) -> list[int]:
        """Bring back what was undone last; the rows it is about."""
        return self._after(self.reviews.redo())

    def refresh(self) -> None:
        """Show what others decided meanwhile."""
        names = self.reviews.refresh()
        if names:
            self._sync(names)
            self.changed.emit()

    @property
    def can_undo(self) -> bool:
        """There is a step of this reviewer to take back."""
        return self.reviews.ledger.last_step(self.reviews.who) is not None

    @property
    def can_redo(self) -> bool:
        """There is an undone step to bring back."""
        return self.reviews.ledger.next_step(self.reviews.who) is not None

    def last_decision(self, row: int) -> Decision | None:
        """Who decided what about an object, and when."""
        key = int(self._overlay.objects.key[row])
        found = [self.reviews.ledger.of(name) for name in self._names_of(key)]
        return max((d for d in found if d is not None), key=lambda d: d.seq, default=None)

    # ------------------------------------------------------------------ parts

    def _decide(
        self,
        rows: ArrayLike,
        action: Action,
        verdict: Any,
        *,
        label: str | None = None,
        box: Box | None = None,
        restore: bool = False,
    ) -> None:
        overlay = self._overlay
        objects, labels = overlay.objects, overlay.labels
        changes: list[Change] = []
        for row in np.atleast_1d(np.asarray(rows, np.int64)).tolist():
            key = int(objects.key[row])
            shown: tuple[str, Any] = (labels[objects.label[row]], tuple(objects.box[row].tolist()))
            seen = None if key < 0 else self._original.setdefault(key, shown)
            tile, item = (None, None) if key < 0 else map(int, unpack_key(key))
            now = seen if restore and seen is not None else shown
            for name in self._names_of(key):
                kept = self._seen_of(name) if key < 0 else (tile, item, seen)
                changes.append(
                    Change(
                        action,
                        name,
                        verdict(row),
                        label or now[0],
                        box or now[1],
                        bool(objects.point[row]),
                        kept[0],
                        kept[1],
                        *(kept[2] or (None, None)),
                    )
                )
        if not changes:
            return
        self.reviews.decide(changes)
        self._sync([change.object for change in changes])
        self.changed.emit()

    def _seen_of(self, name: str) -> tuple[int | None, int | None, tuple[str | None, Box | None]]:
        """What an object without a row of the model's was once seen as: nothing for a drawn one."""
        history = self.reviews.ledger.history(name)
        change = history[-1].change if history else None
        if change is None:
            return None, None, (None, None)
        return change.tile, change.item, (change.seen_label, change.seen_box)

    def _names_of(self, key: int) -> tuple[str, ...]:
        if key not in self._names:
            name = object_name(self.reviews.manifest, *map(int, unpack_key(key)))
            self._names[key], self._key_of[name] = (name,), key
        return self._names[key]

    def _after(self, names: list[str]) -> list[int]:
        if names:
            self._sync(names)
            self.changed.emit()
        keys = [self._key_of[name] for name in names if name in self._key_of]
        rows = [self._overlay.row_of(key) for key in keys]
        return [row for row in rows if row is not None]

    def _sync(self, names: Iterable[str]) -> None:
        """Show the decisions that count now about these objects: as few changes of the overlay as possible."""
        updates: list[tuple[int, State, str, Box]] = []
        gone: list[int] = []
        new: list[Change] = []
        rows = self._rows_of({self._key(name) for name in names})
        for name in dict.fromkeys(names):
            key = self._key(name)
            decision = self.reviews.ledger.of(name)
            row = rows.get(key)
            if decision is None or decision.change is None:
                if row is not None and key < 0:
                    gone.append(row)
                elif row is not None and key in self._original:
                    updates.append((row, State.UNREVIEWED, *self._original[key]))
            elif row is not None:
                change = decision.change
                updates.append((row, State.of(change.verdict), change.label, change.box))
                self.conflicts.pop(key, None)
            elif key < 0 and decision.change.verdict is not Verdict.UNREVIEWED:
                new.append(decision.change)
        overlay = self._overlay
        if updates:
            at, states, labels, boxes = zip(*updates, strict=True)
            codes = overlay.codes_of(labels)
            overlay.update(np.array(at), state=np.array(states, np.int8), label=codes, box=np.array(boxes, float))
        if gone:
            overlay.remove(gone)
        if new:
            overlay.append(self._as_objects(new))

    def _as_objects(self, new: Sequence[Change]) -> Objects:
        keys = [self._key(change.object) for change in new]
        return Objects.of(
            [change.box for change in new],
            self._overlay.codes_of([change.label for change in new]),
            key=np.array(keys, np.int64),
            point=np.array([change.point for change in new]),
            state=np.array([State.of(change.verdict) for change in new], np.int8),
        )

    def _key(self, name: str) -> int:
        """Key of an object of the overlay; one that others decided about first gets it from their decision."""
        if name not in self._key_of:
            change = self.reviews.ledger.history(name)[0].change
            assert change is not None
            if change.tile is None or change.item is None:
                key = new_key(self.reviews.ledger, name)
            else:
                key = pack_key(change.tile, change.item)
                if change.seen_label is not None and change.seen_box is not None:
                    self._original.setdefault(key, (change.seen_label, change.seen_box))
            self._key_of[name] = key
            self._names.setdefault(key, (name,))
        return self._key_of[name]

    def _rows_of(self, keys: set[int]) -> dict[int, int]:
        column: NDArray[np.int64] = self._overlay.objects.key
        if len(keys) <= 4:
            found = {key: self._overlay.row_of(key) for key in keys}
            return {key: row for key, row in found.items() if row is not None}
        rows = np.flatnonzero(np.isin(column, np.fromiter(keys, np.int64, len(keys))))
        return dict(zip(column[rows].tolist(), rows.tolist(), strict=True))
