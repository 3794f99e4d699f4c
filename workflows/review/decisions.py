"""What people decide about the objects of a run: a journal of its own beside the model's answers.

A decision is a row that says who, when, which object, and what the object is after it. Rows are only ever added, so
that undo and redo are rows too and have no limit. The model's answers are not touched. The state of an object
is its last decision that was not undone.
"""

from __future__ import annotations

import getpass
import os
import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workflows.errors import StoreCorruptError, StoreError
from workflows.store.checksums import rows_checksum
from workflows.store.folder import JOURNAL, journal_of
from workflows.store.provenance import Manifest, utc_now
from workflows.store.schema import REVIEWS, connect, named_errors, transaction
from wsi.cleanup import clean_up

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in level-0 px; a point has x_min == x_max and y_min == y_max."""


class Action(StrEnum):
    """What a reviewer did."""

    ACCEPT = "accept"
    REJECT = "reject"
    RELABEL = "relabel"
    RESHAPE = "reshape"
    ADD = "add"
    CLEAR = "clear"
    """Make an object unreviewed again."""
    UNDO = "undo"
    REDO = "redo"


class Verdict(StrEnum):
    """What an object is after a decision."""

    UNREVIEWED = "unreviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EDITED = "edited"
    """Right after a correction: relabelled, reshaped or drawn."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of one object; the parts of a decision that its author gives.

    Attributes
    ----------
    object : str
        UUID: `object_name` for an object of the model, `new_object_name` for one that a person draws.
    tile, item : int or None
        Key of the model's object; None for a drawn one.
    label, box, point
        The object after the decision.
    seen_label, seen_box
        The model's object as the reviewer saw it; None for a drawn one. They tell the object again later.
    """

    action: Action
    object: str
    verdict: Verdict
    label: str
    box: Box
    point: bool = False
    tile: int | None = None
    item: int | None = None
    seen_label: str | None = None
    seen_box: Box | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of the journal. Undo and redo name the step they are about in `target` and have no `change`.

    Decisions with one `step` were made together and are undone together.
    """

    seq: int
    step: int
    time: str
    """UTC, ISO 8601."""
    who: str
    action: Action
    target: int | None = None
    change: Change | None = None
    note: str | None = None


def object_name(manifest: Manifest, tile: int, item: int) -> str:
    """UUID of an object of the model: the one that exports write, on any machine."""
    return str(uuid.uuid5(manifest.run_id, f"{tile}/{item}"))


def new_object_name() -> str:
    """UUID of an object that a person draws."""
    return str(uuid.uuid4())


def reviewer_name() -> str:
    """Who is at work: QWENVL_REVIEWER, else the name of the user."""
    name = os.environ.get("QWENVL_REVIEWER", "").strip()
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


class Ledger:
    """The state that decisions add up to. Feed it rows in their order."""

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self.seq = 0
        self._history: dict[str, list[Decision]] = defaultdict(list)
        self._members: dict[int, list[str]] = defaultdict(list)
        self._undone: set[int] = set()
        self._done: dict[str, list[int]] = defaultdict(list)
        self._to_redo: dict[str, list[int]] = defaultdict(list)
        for decision in decisions:
            self.add(decision)

    def add(self, decision: Decision) -> list[str]:
        """Take in one row; the names of the objects it touches."""
        self.seq = max(self.seq, decision.seq)
        done, to_redo = self._done[decision.who], self._to_redo[decision.who]
        if decision.change is None:
            step = decision.target
            assert step is not None
            source, target = (done, to_redo) if decision.action is Action.UNDO else (to_redo, done)
            if step in source:
                source.remove(step)
                target.append(step)
            (self._undone.add if decision.action is Action.UNDO else self._undone.discard)(step)
            return list(self._members[step])
        self._history[decision.change.object].append(decision)
        self._members[decision.step].append(decision.change.object)
        if not done or done[-1] != decision.step:
            done.append(decision.step)
        to_redo.clear()
        return [decision.change.object]

    def of(self, name: str) -> Decision | None:
        """The decision that counts for an object, None where there is none."""
        history = self._history.get(name, ())
        return next((d for d in reversed(history) if d.step not in self._undone), None)

    def standing(self) -> dict[str, Decision]:
        """The decisions that count, by name of object, oldest first."""
        found = {name: decision for name in self._history if (decision := self.of(name)) is not None}
        return dict(sorted(found.items(), key=lambda pair: pair[1].seq))

    def history(self, name: str) -> tuple[Decision, ...]:
        """Every decision ever made about an object, undone ones included."""
        return tuple(self._history.get(name, ()))

    def last_step(self, who: str) -> int | None:
        """The step that undo takes back, None where there is nothing left."""
        return self._done[who][-1] if self._done[who] else None

    def next_step(self, who: str) -> int | None:
        """The step that redo brings back, None where there is none."""
        return self._to_redo[who][-1] if self._to_redo[who] else None


class Reviews:
    """The reviews of one run, for writing; a context manager.

    Every decision is on disk when its call returns. Writing is possible while the run itself goes on, in this or
    another process, and for several reviewers at a time; each undoes own steps only.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, who: str) -> None:
        self.folder, self.who = folder, who
        self._path, self._connection = folder / JOURNAL, connection
        with named_errors(self._path):
            row = connection.execute("SELECT json FROM manifest").fetchone()
            if row is None:
                raise StoreError(f"{self._path} has no manifest. Begin again in another folder.")
            self.manifest = Manifest.model_validate_json(row[0])
            self.ledger = Ledger(read_decisions(connection, 0))

    @classmethod
    def open(cls, folder: Path | str, who: str | None = None) -> Self:
        """Open the reviews of the run in `folder`; `who` is by default `reviewer_name()`.

        Raises
        ------
        RunNotFoundError, StoreCorruptError, StoreVersionError, StoreError
        """
        folder = Path(folder)
        connection = connect(journal_of(folder), readonly=False)
        try:
            return cls(folder, connection, who or reviewer_name())
        except BaseException as error:
            clean_up(error, connection.close)
            raise

    def close(self) -> None:
        """Close the journal."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean_up(error, self.close)

    def decide(self, changes: Sequence[Change], note: str | None = None) -> int:
        """Store decisions that were made together; the number of their step.

        Raises
        ------
        StoreFullError, StoreError
            Nothing was stored.
        ValueError
            There is no change, or one is not an action on an object.
        """
        if not changes:
            raise ValueError("A decision needs at least one object.")
        if any(change.action in (Action.UNDO, Action.REDO) for change in changes):
            raise ValueError("Undo and redo are methods of their own.")
        return self._write([(change.action, None, change, note) for change in changes])

    def undo(self) -> list[str]:
        """Take back this reviewer's last step; names of the objects it was about, empty where nothing is left."""
        return self._turn(Action.UNDO, self.ledger.last_step(self.who))

    def redo(self) -> list[str]:
        """Bring back what was undone last; empty where there is nothing, or something was decided since."""
        return self._turn(Action.REDO, self.ledger.next_step(self.who))

    def refresh(self) -> list[str]:
        """Take in what others wrote; names of the objects touched."""
        with named_errors(self._path):
            rows = read_decisions(self._connection, self.ledger.seq)
        return [name for row in rows for name in self.ledger.add(row)]

    def touched_since(self, seq: int) -> list[str]:
        """Names of the objects that rows after `seq` are about."""
        if seq >= self.ledger.seq:
            return []
        with named_errors(self._path):
            rows = read_decisions(self._connection, seq)
        steps = [row.target for row in rows if row.target is not None]
        names = [row.change.object for row in rows if row.change is not None]
        return list(dict.fromkeys([*names, *(name for step in steps for name in self.ledger._members[step])]))

    def _turn(self, action: Action, step: int | None) -> list[str]:
        if step is None:
            return []
        self._write([(action, step, None, None)])
        return list(dict.fromkeys(self.ledger._members[step]))

    def _write(self, rows: Sequence[tuple[Action, int | None, Change | None, str | None]]) -> int:
        time = utc_now()
        with named_errors(self._path), transaction(self._connection):
            if not _has_table(self._connection):
                for statement in _statements(REVIEWS):
                    self._connection.execute(statement)
            elif not _has_checksums(self._connection):
                self._connection.execute("ALTER TABLE reviews ADD COLUMN checksum INTEGER")
            newest = "SELECT coalesce(max(seq), 0) FROM reviews"
            step = int(self._connection.execute(newest).fetchone()[0]) + 1
            self._connection.executemany(_INSERT, [_checked(_row(step, time, self.who, *parts)) for parts in rows])
        self.refresh()
        return step


_COLUMNS = (
    "step",
    "time",
    "who",
    "action",
    "target",
    "object",
    "tile",
    "item",
    "verdict",
    "label",
    "kind",
    "x_min",
    "y_min",
    "x_max",
    "y_max",
    "seen_label",
    "seen_x_min",
    "seen_y_min",
    "seen_x_max",
    "seen_y_max",
    "note",
)
_INSERT = f"INSERT INTO reviews ({', '.join(_COLUMNS)}, checksum) VALUES ({', '.join('?' * (len(_COLUMNS) + 1))})"


def read_decisions(connection: sqlite3.Connection, since: int) -> list[Decision]:
    """Rows with a `seq` above `since`; none where the run was never reviewed.

    Raises
    ------
    StoreCorruptError
        A row is not what was stored. Rows from before reviews had checksums are taken as they are.
    """
    if not _has_table(connection):
        return []
    code = "checksum" if _has_checksums(connection) else "NULL"
    query = f"SELECT seq, {', '.join(_COLUMNS)}, {code} FROM reviews WHERE seq > ? ORDER BY seq"
    found = []
    for *row, stored in connection.execute(query, (int(since),)):
        try:
            if stored is not None and rows_checksum([row[1:]]) != stored:
                raise ValueError("its bits have changed on disk")
            found.append(_decision(tuple(row)))
        except (ValueError, TypeError) as error:
            path = connection.execute("PRAGMA database_list").fetchone()[2]
            raise StoreCorruptError(
                f"{path} is damaged: review {row[0]} is not what was stored ({error}). Restore it from a copy."
            ) from error
    return found


def _has_checksums(connection: sqlite3.Connection) -> bool:
    return "checksum" in {row[1] for row in connection.execute("PRAGMA table_info(reviews)")}


def _has_table(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'reviews'"
    return connection.execute(query).fetchone() is not None


def _statements(script: str) -> list[str]:
    """The statements of a script; `executescript` would commit the transaction around it."""
    found, begun = [], ""
    for line in script.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            found.append(begun)
            begun = ""
    return found


def _row(
    step: int, time: str, who: str, action: Action, target: int | None, change: Change | None, note: str | None
) -> tuple[object, ...]:
    if change is None:
        return (step, time, who, action.value, target, *[None] * 15, note)
    seen = (None,) * 4 if change.seen_box is None else tuple(map(float, change.seen_box))
    return (
        step,
        time,
        who,
        action.value,
        None,
        change.object,
        change.tile,
        change.item,
        change.verdict.value,
        change.label,
        "point" if change.point else "box",
        *map(float, change.box),
        change.seen_label,
        *seen,
        note,
    )


def _checked(row: tuple[object, ...]) -> tuple[Any, ...]:
    return (*row, rows_checksum([row]))


def _decision(row: tuple[Any, ...]) -> Decision:
    seq, step, time, who, action, target, name, tile, item, verdict, label, kind, *rest = row
    box, seen_label, seen, note = tuple(rest[:4]), rest[4], tuple(rest[5:9]), rest[9]
    head = Decision(seq, step, time, who, Action(action), target, None, note)
    if name is None:
        return head
    change = Change(
        Action(action),
        name,
        Verdict(verdict),
        label,
        box,
        kind == "point",
        tile,
        item,
        seen_label,
        None if seen[0] is None else seen,
    )
    return replace(head, change=change)


__all__ = ["Action", "Box", "Change", "Decision", "Ledger", "Reviews", "Verdict", "new_object_name", "object_name"]
