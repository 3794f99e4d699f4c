"""The journal of a run: every answer, written once, as soon as it is there; what holds for items of all kinds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from qwenvl.answer import Answer, Status
from workflows.errors import RunMismatchError, StoreCorruptError, StoreError
from workflows.run.splitting import Split
from workflows.store.checksums import SUM_MODULUS, checksum, rows_checksum, stored_checksum, sum_checksum, what_changed
from workflows.store.folder import JOURNAL, PARTIAL, Claim, claim, journal_of
from workflows.store.provenance import Identified
from workflows.store.rows import (
    ANSWER,
    INSERT_ANSWER,
    INSERT_OBJECT,
    StoredAnswer,
    answer_row,
    object_rows,
    stored_answer,
)
from workflows.store.schema import DOUBTS, connect, named_errors, set_pragmas, transaction
from wsi.cleanup import clean_up, cleaning_up
from wsi.tile import Tile

M = TypeVar("M", bound=Identified)


class Journal(Generic[M]):
    """The journal of one run, on disk; a context manager.

    One process writes, any number read meanwhile. A batch of answers and their objects is one transaction,
    so that a process killed at any moment leaves whole items or none.

    Attributes
    ----------
    folder : Path
    manifest : Identified
        What was asked, of what and which model.
    """

    _manifest_type: ClassVar[type[Identified]]
    _versions: ClassVar[tuple[int, ...]]
    _summed: ClassVar[Mapping[str, str]]
    """Tables with one checksum, that of the items first, and the query of the rows that it covers."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, claim: Claim | None) -> None:
        self.folder = folder
        self._path = folder / JOURNAL
        self._connection = connection
        self._claim = claim
        self._found: set[str] = set()
        self._verified: int | None = None  # `seq` of the newest answer when all was compared
        with named_errors(self._path):
            row = connection.execute("SELECT json FROM manifest").fetchone()
        if row is None:
            raise StoreError(f"{self._path} has no manifest. Begin again in another folder.")
        if stored_checksum(self._rows, "manifest") not in (None, rows_checksum([row])):
            raise self._damaged("what was asked is not what was stored")
        try:
            self.manifest: M = self._manifest_type.model_validate_json(row[0])  # type: ignore[assignment]
        except ValidationError as error:
            raise self._damaged(f"what was asked cannot be read ({error.errors()[0]['msg']})") from error

    @classmethod
    def _create(cls, folder: Path, manifest: M, fill: Callable[[sqlite3.Connection], int], *, overwrite: bool) -> Self:
        """Start a run in `folder`, or go on with the same run found there.

        `fill` writes the tables into a new journal, and gives the checksum of the items in them.
        """
        held = claim(folder, overwrite=overwrite)
        try:
            if held.fresh:
                _write_new(folder / JOURNAL, manifest, fill, next(iter(cls._summed)))
            store = cls._connected(folder, held)
        except BaseException as error:
            clean_up(error, held.undo if held.fresh else held.release)
            raise
        if not held.fresh:
            try:
                store._require_same(manifest)
                store.verify()
            except BaseException as error:
                clean_up(error, store.close)
                raise
        return store

    @classmethod
    def open(cls, folder: Path | str, *, readonly: bool = True) -> Self:
        """Open the run in `folder`; reading is possible while another process writes.

        Raises
        ------
        RunNotFoundError, RunLockedError (for writing), StoreCorruptError, StoreVersionError, StoreError
        """
        folder = Path(folder)
        journal_of(folder)
        if readonly:
            return cls._connected(folder, None)
        held = claim(folder)
        try:
            store = cls._connected(folder, held)
        except BaseException as error:
            clean_up(error, held.release)
            raise
        try:
            store.verify()
        except BaseException as error:
            clean_up(error, store.close)
            raise
        return store

    @classmethod
    def _connected(cls, folder: Path, held: Claim | None) -> Self:
        connection = connect(folder / JOURNAL, readonly=held is None, versions=cls._versions)
        try:
            return cls(folder, connection, held)
        except BaseException as error:
            clean_up(error, connection.close)
            raise

    @property
    def fresh(self) -> bool:
        """True where this object started the run rather than finding it."""
        return self._claim is not None and self._claim.fresh

    @property
    def journal_mode(self) -> str:
        """SQLite's journal mode: 'wal', or 'truncate' where the file system has no shared memory."""
        return str(next(iter(self._rows("PRAGMA journal_mode")))[0]).lower()

    @property
    def backup(self) -> Path | None:
        """Where an older run was set aside to."""
        return None if self._claim is None else self._claim.backup

    def begun(self) -> bool:
        """True where the folder holds more than this object made: answers, or an older run."""
        return not self.fresh or bool(self.last_seq())

    def close(self) -> None:
        """Close the journal and let others write."""
        release = [] if self._claim is None else [self._claim.release]
        clean_up(None, self._connection.close, *release)

    def discard(self) -> None:
        """Undo `create` of a run without answers: the folder is as it was before. Else raises StoreError."""
        if self._claim is None or self.begun():
            raise StoreError(f"{self.folder} holds answers or reviews, which are not thrown away.")
        clean_up(None, self._connection.close, self._claim.undo)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean_up(error, self.close)

    def _require_same(self, manifest: M) -> None:
        if doubts := self.doubts():
            raise RunMismatchError(f"{self.folder} may hold answers about two contents of one file. {doubts[0]}")
        here, asked = self.manifest.identity, manifest.identity
        differing = [key for key in asked if here.get(key) != asked[key]]
        if differing:
            raise RunMismatchError(
                f"{self.folder} holds another run. What differs: "
                + "; ".join(f"{key} (there {here.get(key)}, asked {asked[key]})" for key in differing)
                + ". Name another folder with -o, or set the old run aside with --overwrite."
            )

    def verify(self) -> None:
        """Compare every answer and its objects with the checksum it was stored with, once until there are new ones.

        Answers from before there were checksums are taken as they are.

        Raises
        ------
        StoreCorruptError
            Bits of an answer have changed on disk; the message names the tiles.
        """
        newest = self.last_seq()
        if newest == self._verified:
            return
        what = what_changed(self._rows, self._summed)
        if what:
            raise self._damaged(what)
        self._verified = newest

    def _damaged(self, what: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"{self._path} is damaged: {what}. Restore it from a copy, or begin again with another folder (-o) or "
            "--overwrite."
        )

    def put(self, batch: Sequence[tuple[Tile, Answer]], splits: Sequence[Split] = ()) -> None:
        """Store answers and their objects, and the splits they call for, all of them or none.

        A failed answer keeps its reason and no objects; the item can be put again. A tile that is split no longer
        counts: its children take its place.

        Raises
        ------
        StoreFullError
            The disk is full; what was stored before stays.
        StoreError
            An item has a finished answer already, or is not of this run.
        """
        answers, objects = [], []
        for tile, answer in batch:
            found = () if answer.status is Status.FAILED else answer.objects
            row, rows = answer_row(tile, answer, len(found)), object_rows(tile, found)
            answers.append((*row, checksum(row, rows)))
            objects.extend(rows)
        with self._transaction():
            self._connection.executemany(INSERT_ANSWER, answers)
            self._connection.executemany(INSERT_OBJECT, objects)
            self._put_splits(splits)

    def _put_splits(self, splits: Sequence[Split]) -> None:
        """Store splits within the transaction of their answers."""
        if splits:
            raise StoreError(f"{self._path}: the items of this run are not split.")

    def _note_sum(self, name: str, added: Sequence[Sequence[object]] | None = None) -> None:
        """Store the checksum of a table: what there was with that of the rows `added`, or that of the whole table.

        Journals from before there were checksums stay without.
        """
        if not self._has("checks"):
            return
        before = None if added is None else stored_checksum(self._rows, name)
        if before is None or added is None:
            code = sum_checksum(self._connection.execute(self._summed[name]))
        else:
            code = (before + sum_checksum(added)) % SUM_MODULUS
        self._connection.execute("INSERT OR REPLACE INTO main.checks VALUES (?, ?)", (name, code))

    def doubt(self, words: str) -> None:
        """Remember why the answers may be of two contents of a file; the run cannot go on from then on."""
        with self._transaction():
            self._connection.execute(DOUBTS)
            self._connection.execute("INSERT OR IGNORE INTO doubts VALUES (?)", (words,))

    def doubts(self) -> tuple[str, ...]:
        """Why the answers may be of two contents of a file; empty where they are of one."""
        return tuple(row[0] for row in self._rows("SELECT words FROM doubts")) if self._has("doubts") else ()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with named_errors(self._path), transaction(self._connection):
            yield

    def finished(self) -> NDArray[np.int64]:
        """Numbers of items that count with an answer other than failed, ascending."""
        query = f"SELECT tile FROM answers WHERE status <> 'failed' AND {self._counts} ORDER BY tile"
        return self._integers(query)

    def failed(self) -> NDArray[np.int64]:
        """Numbers of items that count whose last attempt failed, ascending."""
        query = f"SELECT tile FROM latest WHERE status = 'failed' AND {self._counts} ORDER BY tile"
        return self._integers(query)

    def last_seq(self) -> int:
        """`seq` of the newest answer, 0 when there is none."""
        return int(next(iter(self._rows("SELECT coalesce(max(seq), 0) FROM answers")))[0])

    def attempts(self) -> int:
        """How often an item was asked, repetitions included."""
        return int(next(iter(self._rows("SELECT count(*) FROM answers")))[0])

    def status_counts(self) -> dict[Status, int]:
        """Items by the status of their last attempt; every status is there, also with 0."""
        query = f"SELECT status, count(*) FROM latest WHERE {self._counts} GROUP BY status"
        found = dict(self._rows(query))
        return {status: int(found.get(status.value, 0)) for status in Status}

    def answer(self, tile: int) -> StoredAnswer | None:
        """The last answer of one item with all the model wrote, or None while it has not been asked."""
        query = f"SELECT {ANSWER}, raw, reasoning FROM latest WHERE tile = ?"
        return next((stored_answer(row) for row in self._rows(query, (int(tile),))), None)

    def iter_answers(self, *, raw: bool = False) -> Iterator[StoredAnswer]:
        """The last answer of every asked item that counts, ordered by number.

        `raw` adds the model's text and reasoning.
        """
        columns = f"{ANSWER}, raw, reasoning" if raw else f"{ANSWER}, '', NULL"
        for row in self._rows(f"SELECT {columns} FROM latest WHERE {self._counts} ORDER BY tile"):
            yield stored_answer(row)

    def effort(self) -> tuple[float, int, int]:
        """Seconds, prompt tokens and new tokens of all answers together."""
        query = "SELECT total(seconds), total(prompt_tokens), total(new_tokens) FROM answers"
        seconds, prompt, new = next(iter(self._rows(query)))
        return float(seconds), int(prompt), int(new)

    @property
    def _counts(self) -> str:
        """The condition that an item counts: that it was not split."""
        return "tile NOT IN (SELECT tile FROM splits)" if self._has("splits") else "1"

    def _count(self, table: str) -> int:
        return int(next(iter(self._rows(f"SELECT count(*) FROM {table}")))[0]) if self._has(table) else 0

    def _has(self, table: str) -> bool:
        """Whether a table that is added when it is first needed is there; another process may add it."""
        if table not in self._found:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?"
            self._found.update(row[0] for row in self._rows(query, (table,)))
        return table in self._found

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        with named_errors(self._path):
            yield from self._connection.execute(query, values)

    def _integers(self, query: str) -> NDArray[np.int64]:
        return np.array([row[0] for row in self._rows(query)], np.int64)


def _write_new(path: Path, manifest: Identified, fill: Callable[[sqlite3.Connection], int], unit: str) -> None:
    """Write a journal without answers beside `path`, then give it its name: no half journal is ever found."""
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    with named_errors(partial):
        connection = sqlite3.connect(partial, isolation_level=None)
        with cleaning_up(connection.close):
            code = fill(connection)
            written = (manifest.model_dump_json(),)
            connection.execute("INSERT INTO manifest VALUES (?)", written)
            checks = [("manifest", rows_checksum([written])), (unit, code)]
            connection.executemany("INSERT INTO checks VALUES (?, ?)", checks)
            connection.execute("COMMIT")
            set_pragmas(connection)
    partial.rename(path)
