"""The objects of a run as every export sees them: merged, named, in one order."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.merge.merged import iter_merged
from workflows.report.images.colours import RGBColour, label_colours
from workflows.review.reviewed import ReviewedObjects, reviewed_objects
from workflows.store.rows import ObjectColumns, concatenate
from workflows.store.run_store import RunStore
from workflows.tile_table import unpack_key

_PART = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class ObjectChunk:
    """Some thousand consecutive objects.

    Attributes
    ----------
    first : int
        `instance` of the first row.
    ids : list of str
        UUID of every row, the same in every export of the run and in every repetition of it.
    columns : ObjectColumns
        Boxes in level-0 px; `label` indexes `RunObjects.labels`. `tile` is -1 for objects that a person drew.
    attributes : mapping of (tile, item) to mapping
        Further keys the model wrote, for the objects that have any.
    review : int8 (n,)
        Codes of `workflows.review.reviewed.State`; 0 where nobody looked.
    """

    first: int
    ids: list[str]
    columns: ObjectColumns
    attributes: Mapping[tuple[int, int], Mapping[str, object]]
    review: NDArray[np.int8]

    @classmethod
    def empty(cls) -> ObjectChunk:
        """No objects: for formats that name their columns all the same."""
        return cls(1, [], concatenate([]), {}, np.zeros(0, np.int8))

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def instances(self) -> NDArray[np.int64]:
        """Number of every row in the run, counted from 1: the same in all exports of a run."""
        return np.arange(self.first, self.first + len(self), dtype=np.int64)

    def attributes_json(self) -> list[str]:
        """`attributes` of every row as JSON, '' where it has none."""
        if not self.attributes:
            return [""] * len(self)
        keys = zip(self.columns.tile.tolist(), self.columns.item.tolist(), strict=True)
        found = (self.attributes.get(key) for key in keys)
        return ["" if each is None else json.dumps(each, ensure_ascii=False) for each in found]


class RunObjects:
    """All objects of a run, some thousand at a time.

    The one place where exports and the HTML report get objects from. Where people reviewed the run, objects have
    their corrected class and box, rejected ones are left out, and those that people drew come last.

    Attributes
    ----------
    store : RunStore
    labels : tuple of str
        What `ObjectColumns.label` indexes.
    colours : dict of label to (r, g, b)
    """

    def __init__(self, store: RunStore) -> None:
        store.verify()
        self.store = store
        self._reviewed = reviewed_objects(store) if store.reviews() else None
        self.labels = store.labels if self._reviewed is None else self._reviewed.labels
        self.colours: dict[str, RGBColour] = label_colours(self.labels)
        self.id_of = namer(store.manifest.run_id)

    @property
    def reviewed(self) -> bool:
        """True where people decided about objects of the run."""
        return self._reviewed is not None

    def __iter__(self) -> Iterator[ObjectChunk]:
        """Chunks in the order of the merge, which is the same every time for the same answers and reviews."""
        first = 1
        for columns, names, review in self._parts():
            if len(columns):
                tiles = columns.tile[columns.tile >= 0]
                low, high = (int(tiles.min()), int(tiles.max()) + 1) if len(tiles) else (0, 0)
                yield ObjectChunk(first, names, columns, self.store.attributes(low, high), review)
                first += len(columns)

    def _parts(self) -> Iterator[tuple[ObjectColumns, list[str], NDArray[np.int8]]]:
        if self._reviewed is not None:
            yield from _reviewed_parts(self._reviewed, self.store)
            return
        id_of = self.id_of
        for columns in iter_merged(self.store, self.labels):
            keys = zip(columns.tile.tolist(), columns.item.tolist(), strict=True)
            names = [id_of(f"{tile}/{item}") for tile, item in keys]
            yield columns, names, np.zeros(len(columns), np.int8)


def _reviewed_parts(
    found: ReviewedObjects, store: RunStore
) -> Iterator[tuple[ObjectColumns, list[str], NDArray[np.int8]]]:
    kept = np.flatnonzero(found.kept)
    for start in range(0, len(kept), _PART):
        rows = kept[start : start + _PART]
        key = found.key[rows]
        drawn = key < 0
        columns = ObjectColumns(
            tile=np.where(drawn, -1, unpack_key(key)[0]),
            item=np.where(drawn, -key, unpack_key(key)[1]),
            label=found.label[rows],
            box=found.box[rows],
            point=found.point[rows],
            score=found.score[rows],
        )
        names = [found.name(row, store.manifest) for row in rows.tolist()]
        yield columns, names, found.state[rows]


def namer(namespace: uuid.UUID) -> Callable[[str], str]:
    """`str(uuid.uuid5(namespace, name))` as a function of name, in a third of the time."""
    prefix = hashlib.sha1(namespace.bytes, usedforsecurity=False)

    def name_of(name: str) -> str:
        digest = prefix.copy()
        digest.update(name.encode())
        text = digest.hexdigest()
        # RFC 9562, version 5: the version in one digit, the variant in the upper bits of another.
        return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"

    return name_of


_VARIANT = {f"{digit:x}": f"{digit & 0x3 | 0x8:x}" for digit in range(16)}
