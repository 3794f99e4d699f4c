"""The store of one slide's run: every answer, written once, as soon as it is there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from qwenvl.answer import Answer, Status
from workflows._checksums import (
    TILES,
    TILES_MODULUS,
    checksum,
    rows_checksum,
    stored_checksum,
    tiles_checksum,
    what_changed,
)
from workflows._folder import JOURNAL, PARTIAL, WHERE, Claim, claim, journal_of
from workflows._rows import (
    ANSWER,
    INSERT_ANSWER,
    INSERT_OBJECT,
    INSERT_TILE,
    TILE_DTYPE,
    Changes,
    ObjectColumns,
    StoredAnswer,
    answer_row,
    concatenate,
    object_columns,
    object_rows,
    stored_answer,
)
from workflows._schema import GATE, SPLITS, TABLES, connect, named_errors, set_pragmas
from workflows._splitting import Split, Why
from workflows.errors import RunMismatchError, StoreCorruptError, StoreError
from workflows.provenance import GateFacts, Manifest
from wsi.tile import Tile

if TYPE_CHECKING:
    from workflows.review import Decision
    from workflows.reviewed import ReviewedObjects

_LABELS_OF = "SELECT DISTINCT label FROM objects WHERE tile = ?"


class RunStore:
    """The run of one slide, on disk. Make one with `create` or `open`; it is a context manager.

    One process writes, any number read meanwhile. A batch of answers and their objects is one transaction,
    so that a process killed at any moment leaves whole tiles or none.

    Attributes
    ----------
    folder : Path
    manifest : Manifest
        What was asked, of which slide and model.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, claim: Claim | None) -> None:
        self.folder = folder
        self._path = folder / JOURNAL
        self._connection = connection
        self._claim = claim
        self._tiles: tuple[int, NDArray[np.void]] | None = None
        self._found: set[str] = set()
        self._verified: int | None = None  # `seq` of the newest answer when all was compared
        with named_errors(self._path):
            row = connection.execute("SELECT json FROM manifest").fetchone()
        if row is None:
            raise StoreError(f"{self._path} has no manifest. Begin again in another folder.")
        if stored_checksum(self._rows, "manifest") not in (None, rows_checksum([row])):
            raise self._damaged("what was asked is not what was stored")
        try:
            self.manifest = Manifest.model_validate_json(row[0])
        except ValidationError as error:
            raise self._damaged(f"what was asked cannot be read ({error.errors()[0]['msg']})") from error

    # ------------------------------------------------------------------ open and close

    @classmethod
    def create(
        cls,
        folder: Path | str,
        manifest: Manifest,
        tiles: NDArray[np.void],
        *,
        overwrite: bool = False,
    ) -> RunStore:
        """Start a run in `folder`, or go on with the same run found there.

        Parameters
        ----------
        tiles : structured array (n,) of TILE_DTYPE
            Every tile of the grid; see `tile_table`.
        overwrite : bool
            Set a run found there aside (renamed to `<folder>.bak-N`, never deleted) and start afresh.

        Raises
        ------
        RunMismatchError
            The folder holds another run; the message names what differs.
        RunLockedError, ForeignFolderError, StoreError
        """
        folder = Path(folder)
        held = claim(folder, overwrite=overwrite)
        try:
            if held.fresh:
                _write_new(folder / JOURNAL, manifest, tiles)
            store = cls(folder, connect(folder / JOURNAL, readonly=False), held)
        except BaseException:
            held.undo() if held.fresh else held.release()
            raise
        if not held.fresh:
            try:
                store._require_same(manifest)
                store.verify()
            except BaseException:
                store.close()
                raise
        return store

    @classmethod
    def open(cls, folder: Path | str, *, readonly: bool = True) -> RunStore:
        """Open the run in `folder`; reading is possible while another process writes.

        Raises
        ------
        RunNotFoundError, RunLockedError (for writing), StoreCorruptError, StoreVersionError, StoreError
        """
        folder = Path(folder)
        journal = journal_of(folder)
        held = None if readonly else claim(folder)
        try:
            store = cls(folder, connect(journal, readonly=readonly), held)
            if not readonly:
                store.verify()
        except BaseException:
            if held is not None:
                held.release()
            raise
        return store

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
        """True where the folder holds more than this object made: answers, reviews, coarse tiles, an older run."""
        return not self.fresh or bool(self.last_seq() or self.reviews() or (self.folder / WHERE).exists())

    def close(self) -> None:
        """Close the journal and let others write."""
        self._connection.close()
        if self._claim is not None:
            self._claim.release()

    def discard(self) -> None:
        """Undo `create` of a run without answers: the folder is as it was before. Else raises StoreError."""
        if self._claim is None or self.begun():
            raise StoreError(f"{self.folder} holds answers or reviews, which are not thrown away.")
        self._connection.close()
        self._claim.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_same(self, manifest: Manifest) -> None:
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
        what = what_changed(self._rows)
        if what:
            raise self._damaged(what)
        self._verified = newest

    def _damaged(self, what: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"{self._path} is damaged: {what}. Restore it from a copy, or begin again with another folder (-o) or "
            "--overwrite."
        )

    # ------------------------------------------------------------------ write

    def put(self, batch: Sequence[tuple[Tile, Answer]], splits: Sequence[Split] = ()) -> None:
        """Store answers and their objects, and the splits they call for, all of them or none.

        A failed answer keeps its reason and no objects; the tile can be put again. A tile that is split no longer
        counts: its children take its place.

        Raises
        ------
        StoreFullError
            The disk is full; what was stored before stays.
        StoreError
            A tile has a finished answer already, or is not of this run.
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
            for statement in SPLITS if splits else ():
                self._connection.execute(statement)
            for split in splits:
                children = [row.item() for row in split.children]
                self._connection.executemany(INSERT_TILE, children)
                if self._has("checks"):
                    self._connection.execute(
                        f"UPDATE checks SET checksum = (checksum + ?) % {TILES_MODULUS} WHERE name = 'tiles'",
                        (tiles_checksum(children),),
                    )
                facts = (int(split.tile), split.why.value, split.depth, len(split.children))
                self._connection.execute("INSERT INTO splits VALUES (?, ?, ?, ?)", facts)

    def absorb(self, part: Path, name: str) -> bool:
        """Take over the answers of a part of this run that has a journal of its own, once, all of them or none.

        A tile that has a finished answer here keeps it. Answers keep their order, and count as further attempts
        where the tile was asked before.

        Parameters
        ----------
        part : Path
            The part's journal, to which nobody writes.
        name : str
            What it is remembered by; a name that was taken over before is left alone.

        Returns
        -------
        bool
            False where it had been taken over before.

        Raises
        ------
        StoreFullError, StoreError
        """
        with named_errors(self._path):
            self._connection.execute("ATTACH DATABASE ? AS part", (str(part),))
        try:
            return self._absorb_attached(name)
        finally:
            with named_errors(self._path):
                self._connection.execute("DETACH DATABASE part")

    def _absorb_attached(self, name: str) -> bool:
        theirs = {str(row[1]) for row in self._rows("PRAGMA part.table_info(answers)")}
        columns = [str(row[1]) for row in self._rows("PRAGMA main.table_info(answers)") if row[1] in theirs]
        taken = {
            "seq": "NULL",
            "attempt": "attempt + coalesce((SELECT n FROM before WHERE before.tile = given.tile), 0)",
        }
        open_here = "tile NOT IN (SELECT tile FROM main.answers WHERE status <> 'failed')"
        splits = next(iter(self._rows("SELECT count(*) FROM part.sqlite_master WHERE name = 'splits'")))[0]
        with self._transaction():
            execute = self._connection.execute
            execute("CREATE TABLE IF NOT EXISTS main.absorbed (part TEXT PRIMARY KEY)")
            if execute("INSERT OR IGNORE INTO main.absorbed VALUES (?)", (name,)).rowcount == 0:
                return False
            execute("INSERT OR IGNORE INTO main.tiles SELECT * FROM part.tiles")
            if self._has("checks"):
                whole = tiles_checksum(execute(TILES.replace("FROM tiles", "FROM main.tiles")))
                execute("UPDATE main.checks SET checksum = ? WHERE name = 'tiles'", (whole,))
            execute(f"INSERT INTO main.objects SELECT * FROM part.objects WHERE {open_here}")
            if splits:
                for statement in SPLITS:
                    execute(statement)
                execute(f"INSERT OR IGNORE INTO main.splits SELECT * FROM part.splits WHERE {open_here}")
            execute(
                "WITH before AS MATERIALIZED (SELECT tile, count(*) AS n FROM main.answers GROUP BY tile) "
                f"INSERT INTO main.answers ({', '.join(columns)}) "
                f"SELECT {', '.join(taken.get(column, column) for column in columns)} FROM part.answers AS given "
                f"WHERE {open_here} ORDER BY seq"
            )
        return True

    def decide(self, gate: GateFacts, skipped: Mapping[int, float]) -> None:
        """Store once what the coarse tiles decided: tiles that are not asked, with their score.

        Raises
        ------
        StoreError
            It was decided before, or one of the tiles has an answer or is not of this run.
        """
        if self.gate() is not None:
            raise StoreError(f"{self._path}: it is decided already which tiles are asked.")
        asked = set(self._integers("SELECT DISTINCT tile FROM answers").tolist())
        if asked & skipped.keys():
            raise StoreError(f"{self._path}: tiles that have an answer cannot be left out.")
        with self._transaction():
            for statement in GATE:
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO gate VALUES (?)", (gate.model_dump_json(),))
            rows = ((int(tile), float(score)) for tile, score in skipped.items())
            self._connection.executemany("INSERT INTO skipped VALUES (?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with named_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------------ read

    def tiles(self) -> NDArray[np.void]:
        """Every tile of the run that counts, ordered by index. Structured array (n,) of `TILE_DTYPE`.

        What the tiles own is disjoint. A tile that was split is not among them; its children are.
        """
        splits = self._count("splits")
        if self._tiles is None or self._tiles[0] != splits:
            columns = ", ".join(TILE_DTYPE.names or ())
            rows = self._rows(f"SELECT {columns} FROM tiles WHERE {self._counts} ORDER BY tile")
            self._tiles = splits, np.array(list(rows), TILE_DTYPE)
        return self._tiles[1]

    def splits(self) -> list[tuple[int, Why, int, int]]:
        """Tiles that were split, ordered by index: tile, reason, depth (1 for a tile of the grid), children."""
        if not self._has("splits"):
            return []
        rows = self._rows("SELECT tile, why, depth, children FROM splits ORDER BY tile")
        return [(tile, Why(why), depth, children) for tile, why, depth, children in rows]

    def gate(self) -> GateFacts | None:
        """What the coarse tiles decided, None where there are none or it is not decided yet."""

        if not self._has("gate"):
            return None
        return next(
            (GateFacts.model_validate_json(row[0]) for row in self._rows("SELECT json FROM gate")), None
        )

    def skipped(self) -> dict[int, float]:
        """Tiles that are not asked because of the coarse tiles, and the highest score of their place."""
        if not self._has("skipped"):
            return {}
        return {int(tile): float(score) for tile, score in self._rows("SELECT tile, score FROM skipped")}

    def finished(self) -> NDArray[np.int64]:
        """Indices of tiles that count with an answer other than failed, ascending."""
        query = f"SELECT tile FROM answers WHERE status <> 'failed' AND {self._counts} ORDER BY tile"
        return self._integers(query)

    def failed(self) -> NDArray[np.int64]:
        """Indices of tiles that count whose last attempt failed, ascending."""
        query = f"SELECT tile FROM latest WHERE status = 'failed' AND {self._counts} ORDER BY tile"
        return self._integers(query)

    def excluded(self) -> NDArray[np.int64]:
        """Indices of tiles that were not asked because of quality control, ascending."""
        return self._integers("SELECT tile FROM answers WHERE status = 'excluded' ORDER BY tile")

    def last_seq(self) -> int:
        """`seq` of the newest answer, 0 when there is none."""
        return int(next(iter(self._rows("SELECT coalesce(max(seq), 0) FROM answers")))[0])

    def attempts(self) -> int:
        """How often a tile was asked, repetitions included."""
        return int(next(iter(self._rows("SELECT count(*) FROM answers")))[0])

    def status_counts(self) -> dict[Status, int]:
        """Tiles by the status of their last attempt; every status is there, also with 0."""
        query = f"SELECT status, count(*) FROM latest WHERE {self._counts} GROUP BY status"
        found = dict(self._rows(query))
        return {status: int(found.get(status.value, 0)) for status in Status}

    def answer(self, tile: int) -> StoredAnswer | None:
        """The last answer of one tile with all the model wrote, or None while it has not been asked."""
        query = f"SELECT {ANSWER}, raw, reasoning FROM latest WHERE tile = ?"
        return next((stored_answer(row) for row in self._rows(query, (int(tile),))), None)

    def iter_answers(self, *, raw: bool = False) -> Iterator[StoredAnswer]:
        """The last answer of every asked tile that counts, ordered by tile.

        `raw` adds the model's text and reasoning.
        """
        columns = f"{ANSWER}, raw, reasoning" if raw else f"{ANSWER}, '', NULL"
        for row in self._rows(f"SELECT {columns} FROM latest WHERE {self._counts} ORDER BY tile"):
            yield stored_answer(row)

    def changes_since(self, seq: int, limit: int = 1000) -> Changes:
        """Answers that count stored after `seq`, at most `limit`, with their objects: what a live view polls."""
        query = (
            f"SELECT {ANSWER}, '', NULL FROM answers WHERE seq > ? AND {self._counts} ORDER BY seq LIMIT ?"
        )
        answers = tuple(stored_answer(row) for row in self._rows(query, (seq, limit)))
        tiles = sorted(a.tile for a in answers if a.objects)
        found = {
            row[0] for tile in tiles for row in self._rows(_LABELS_OF, (tile,))
        }  # not of the whole journal
        asked = self.manifest.request.labels
        labels = (*asked, *sorted(found.difference(asked)))
        parts = [self.objects(tile, tile + 1, labels) for tile in tiles]
        return Changes(answers[-1].seq if answers else seq, answers, concatenate(parts), labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the objects stored so far: those of the request first, then others alphabetically."""
        asked = self.manifest.request.labels
        found = {row[0] for row in self._rows(f"SELECT DISTINCT label FROM objects WHERE {self._counts}")}
        return (*asked, *sorted(found.difference(asked)))

    def objects(
        self, first: int = 0, stop: int | None = None, labels: Sequence[str] | None = None
    ) -> ObjectColumns:
        """Objects of the tiles with `first` <= index < `stop`, not merged; `label` indexes `labels`.

        Pass `labels` (as read from `labels` once) when reading range after range, so that codes agree.
        """
        rows = self._rows(
            "SELECT tile, item, label, kind, x_min, y_min, x_max, y_max, score FROM objects "
            f"WHERE tile >= ? AND tile < ? AND {self._counts} ORDER BY tile, item",
            (int(first), 2**62 if stop is None else int(stop)),
        )
        return object_columns(list(rows), self.labels if labels is None else labels)

    def attributes(self, first: int, stop: int) -> dict[tuple[int, int], dict[str, Any]]:
        """Further keys the model wrote, by (tile, item), for objects of a range of tiles that have any."""
        query = (
            "SELECT tile, item, attributes FROM objects "
            "WHERE tile >= ? AND tile < ? AND attributes IS NOT NULL"
        )
        return {(r[0], r[1]): json.loads(r[2]) for r in self._rows(query, (int(first), int(stop)))}

    def objects_found(self) -> int:
        """Objects stored of the tiles that count, before merging."""
        return int(next(iter(self._rows(f"SELECT total(objects) FROM answers WHERE {self._counts}")))[0])

    def object_counts(self) -> list[tuple[int, int]]:
        """Index of every tile with objects and how many it has, ordered by tile."""
        query = (
            "SELECT tile, objects FROM answers "
            f"WHERE status <> 'failed' AND objects > 0 AND {self._counts} ORDER BY tile"
        )
        return [(int(tile), int(objects)) for tile, objects in self._rows(query)]

    def reviews(self, since: int = 0) -> list[Decision]:
        """Decisions of reviewers with a `seq` above `since`, undone ones included, in their order."""
        from workflows.review import read_decisions

        with named_errors(self._path):
            return read_decisions(self._connection, since)

    def reviewed_objects(self) -> ReviewedObjects:
        """The merged objects as reviewers left them, with those they drew; see `workflows.reviewed`."""
        from workflows.reviewed import reviewed_objects

        return reviewed_objects(self)

    def effort(self) -> tuple[float, int, int]:
        """Seconds, prompt tokens and new tokens of all answers together."""
        query = "SELECT total(seconds), total(prompt_tokens), total(new_tokens) FROM answers"
        seconds, prompt, new = next(iter(self._rows(query)))
        return float(seconds), int(prompt), int(new)

    @property
    def _counts(self) -> str:
        """The condition that a tile was not split."""
        return "tile NOT IN (SELECT tile FROM splits)" if self._has("splits") else "1"

    def _count(self, table: str) -> int:
        return int(next(iter(self._rows(f"SELECT count(*) FROM {table}")))[0]) if self._has(table) else 0

    def _has(self, table: str) -> bool:
        """Whether a table that is added when it is first needed is there; another process may add it."""
        if table not in self._found:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?"
            self._found.update(row[0] for row in self._rows(query, (table,)))
        return table in self._found

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        with named_errors(self._path):
            yield from self._connection.execute(query, values)

    def _integers(self, query: str) -> NDArray[np.int64]:
        return np.array([row[0] for row in self._rows(query)], np.int64)


def _write_new(path: Path, manifest: Manifest, tiles: NDArray[np.void]) -> None:
    """Write a journal without answers beside `path`, then give it its name: no half journal is ever found."""
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    with named_errors(partial):
        connection = sqlite3.connect(partial, isolation_level=None)
        try:
            connection.executescript(f"BEGIN; {TABLES}")
            written = (manifest.model_dump_json(),)
            rows = sorted(row.item() for row in tiles)
            connection.execute("INSERT INTO manifest VALUES (?)", written)
            connection.executemany(INSERT_TILE, rows)
            checks = [("manifest", rows_checksum([written])), ("tiles", tiles_checksum(rows))]
            connection.executemany("INSERT INTO checks VALUES (?, ?)", checks)
            connection.execute("COMMIT")
            set_pragmas(connection)
        finally:
            connection.close()
    partial.rename(path)
