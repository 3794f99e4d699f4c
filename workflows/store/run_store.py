"""The store of one slide's run: its journal, with the tiles that the items are."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from workflows.errors import StoreError
from workflows.run.journal import Journal
from workflows.run.splitting import Split, Why
from workflows.store.checksums import SUMMED, sum_checksum
from workflows.store.folder import WHERE
from workflows.store.provenance import GateFacts, Manifest
from workflows.store.rows import (
    ANSWER,
    INSERT_TILE,
    TILE_DTYPE,
    Changes,
    ObjectColumns,
    concatenate,
    object_columns,
    stored_answer,
)
from workflows.store.schema import DOUBTS, GATE, SPLIT_VERSION, SPLITS, TABLES, VERSION, named_errors
from wsi.cleanup import cleaning_up

if TYPE_CHECKING:
    from workflows.review.decisions import Decision

_LABELS_OF = "SELECT DISTINCT label FROM objects WHERE tile = ?"


class RunStore(Journal[Manifest]):
    """The run of one slide, on disk. Make one with `create` or `open`; it is a context manager.

    Attributes
    ----------
    folder : Path
    manifest : Manifest
        What was asked, of which slide and model.
    """

    _manifest_type = Manifest
    _versions = (VERSION, SPLIT_VERSION)
    _summed = SUMMED
    _tiles: tuple[int, NDArray[np.void]] | None = None

    @classmethod
    def create(
        cls, folder: Path | str, manifest: Manifest, tiles: NDArray[np.void], *, overwrite: bool = False
    ) -> Self:
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
        return cls._create(Path(folder), manifest, partial(_fill, tiles), overwrite=overwrite)

    def verify(self) -> None:
        """Compare tiles, answers with their objects, and reviews with the checksums they were stored with."""
        super().verify()
        self.reviews()

    def begun(self) -> bool:
        """True where the folder holds more than this object made: answers, reviews, coarse tiles, an older run."""
        return super().begun() or bool(self.reviews()) or (self.folder / WHERE).exists()

    # ------------------------------------------------------------------ write

    def _put_splits(self, splits: Sequence[Split]) -> None:
        for statement in SPLITS if splits else ():
            self._connection.execute(statement)
        for split in splits:
            children = [row.item() for row in split.children]
            self._connection.executemany(INSERT_TILE, children)
            self._note_sum("tiles", children)
            facts = (int(split.tile), split.why.value, split.depth, len(split.children))
            self._connection.execute("INSERT INTO splits VALUES (?, ?, ?, ?)", facts)
            self._note_sum("splits", [facts])

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
        with cleaning_up(self._detach):
            return self._absorb_attached(name)

    def _detach(self) -> None:
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
        tables = {str(row[0]) for row in self._rows("SELECT name FROM part.sqlite_master")}
        with self._transaction():
            execute = self._connection.execute
            execute("CREATE TABLE IF NOT EXISTS main.absorbed (part TEXT PRIMARY KEY)")
            if execute("INSERT OR IGNORE INTO main.absorbed VALUES (?)", (name,)).rowcount == 0:
                return False
            execute("INSERT OR IGNORE INTO main.tiles SELECT * FROM part.tiles")
            self._note_sum("tiles")
            execute(f"INSERT INTO main.objects SELECT * FROM part.objects WHERE {open_here}")
            if "doubts" in tables:
                execute(DOUBTS)
                execute("INSERT OR IGNORE INTO main.doubts SELECT * FROM part.doubts")
            if "splits" in tables:
                for statement in SPLITS:
                    execute(statement)
                execute(f"INSERT OR IGNORE INTO main.splits SELECT * FROM part.splits WHERE {open_here}")
                self._note_sum("splits")
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
            self._note_sum("gate")
            self._note_sum("skipped")

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
        return next((GateFacts.model_validate_json(row[0]) for row in self._rows("SELECT json FROM gate")), None)

    def skipped(self) -> dict[int, float]:
        """Tiles that are not asked because of the coarse tiles, and the highest score of their place."""
        if not self._has("skipped"):
            return {}
        return {int(tile): float(score) for tile, score in self._rows("SELECT tile, score FROM skipped")}

    def excluded(self) -> NDArray[np.int64]:
        """Indices of tiles that were not asked because of quality control, ascending."""
        return self._integers("SELECT tile FROM answers WHERE status = 'excluded' ORDER BY tile")

    def changes_since(self, seq: int, limit: int = 1000) -> Changes:
        """Answers that count stored after `seq`, at most `limit`, with their objects: what a live view polls."""
        query = f"SELECT {ANSWER}, '', NULL FROM answers WHERE seq > ? AND {self._counts} ORDER BY seq LIMIT ?"
        answers = tuple(stored_answer(row) for row in self._rows(query, (seq, limit)))
        tiles = sorted(a.tile for a in answers if a.objects)
        found = {row[0] for tile in tiles for row in self._rows(_LABELS_OF, (tile,))}  # not of the whole journal
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

    def objects(self, first: int = 0, stop: int | None = None, labels: Sequence[str] | None = None) -> ObjectColumns:
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
        query = "SELECT tile, item, attributes FROM objects WHERE tile >= ? AND tile < ? AND attributes IS NOT NULL"
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
        from workflows.review.decisions import read_decisions

        with named_errors(self._path):
            return read_decisions(self._connection, since)


def _fill(tiles: NDArray[np.void], connection: sqlite3.Connection) -> int:
    """Write tables and tiles into a new journal."""
    connection.executescript(f"BEGIN; {TABLES}")
    rows = sorted(row.item() for row in tiles)
    connection.executemany(INSERT_TILE, rows)
    return sum_checksum(rows)
