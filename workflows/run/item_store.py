"""The store of a run that is about no slide: its journal, with items that have keys of their own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Self

from qwenvl.answer import Answer, TileObject
from workflows.run.journal import Journal
from workflows.run.splitting import Split
from workflows.store.provenance import ItemsManifest
from workflows.store.rows import OBJECT
from workflows.store.schema import ITEM_TABLES, ITEMS_VERSION


class ItemStore(Journal[ItemsManifest]):
    """The run of photographs, or of answers to be judged, on disk. Make one with `create` or `open`."""

    _manifest_type = ItemsManifest
    _versions = (ITEMS_VERSION,)
    _summed: ClassVar = {"items": "SELECT tile, key FROM items"}

    @classmethod
    def create(cls, folder: Path | str, manifest: ItemsManifest, *, overwrite: bool = False) -> Self:
        """Start a run in `folder`, or go on with the same run found there.

        Parameters
        ----------
        overwrite : bool
            Set a run found there aside (renamed to `<folder>.bak-N`, never deleted) and start afresh.

        Raises
        ------
        RunMismatchError
            The folder holds another run; the message names what differs.
        RunLockedError, ForeignFolderError, StoreError
        """
        return cls._create(Path(folder), manifest, _fill, overwrite=overwrite)

    def numbers(self, keys: Sequence[str]) -> dict[str, int]:
        """Numbers of items by their keys; those that are new get one."""
        known = dict(self._rows("SELECT key, tile FROM items"))
        fresh = [key for key in dict.fromkeys(keys) if key not in known]
        if fresh:
            rows = list(enumerate(fresh, 1 + max(known.values(), default=-1)))
            with self._transaction():
                self._connection.executemany("INSERT INTO items VALUES (?, ?)", rows)
                self._note_sum("items", rows)
            known |= {key: number for number, key in rows}
        return known

    def answers(self) -> dict[str, Answer]:
        """The last answer of every item that was asked, by key, with objects in px of the item's image."""
        keys = dict(self._rows("SELECT tile, key FROM items"))
        rows = self._rows(f"SELECT {OBJECT} FROM objects ORDER BY tile, item")
        objects = {tile: tuple(map(_object, found)) for tile, found in groupby(rows, key=itemgetter(0))}
        return {
            keys[stored.tile]: replace(stored.answer, objects=objects.get(stored.tile, ()))
            for stored in self.iter_answers(raw=True)
        }

    def _put_splits(self, splits: Sequence[Split]) -> None:
        """Nothing: which items others took the place of follows from their answers."""


def _object(row: tuple[Any, ...]) -> TileObject:
    _, _, label, kind, x_min, y_min, x_max, y_max, score, attributes = row
    place: dict[str, Any] = {"point": (x_min, y_min)} if kind == "point" else {"box": (x_min, y_min, x_max, y_max)}
    return TileObject(label, score=score, attributes=json.loads(attributes or "{}"), **place)


def _fill(connection: sqlite3.Connection) -> int:
    """Write the tables into a new journal; it has no items yet."""
    connection.executescript(f"BEGIN; {ITEM_TABLES}")
    return 0
