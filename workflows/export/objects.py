"""The objects of a run as every export sees them: merged, named, in one order."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows._rows import ObjectColumns
from workflows.colours import RGBColour, label_colours
from workflows.merged import iter_merged
from workflows.store import RunStore


@dataclass(frozen=True, slots=True, eq=False)
class ObjectChunk:
    """Some thousand consecutive objects.

    Attributes
    ----------
    first : int
        `instance` of the first row.
    columns : ObjectColumns
        Boxes in level-0 px; `label` indexes `RunObjects.labels`.
    attributes : mapping of (tile, item) to mapping
        Further keys the model wrote, for the objects that have any.
    """

    first: int
    columns: ObjectColumns
    attributes: Mapping[tuple[int, int], Mapping[str, Any]]

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

    The one place where exports, the HTML report and training data get objects from: what is decided about
    objects after a run is applied here, and nowhere else.

    Attributes
    ----------
    store : RunStore
    labels : tuple of str
        What `ObjectColumns.label` indexes.
    colours : dict of label to (r, g, b)
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.labels = store.labels
        self.colours: dict[str, RGBColour] = label_colours(self.labels)
        self.id_of = namer(store.manifest.run_id)

    def __iter__(self) -> Iterator[ObjectChunk]:
        """Chunks in the order of the merge, which is the same every time for the same answers."""
        first = 1
        for columns in iter_merged(self.store, self.labels):
            if len(columns):
                low, high = int(columns.tile.min()), int(columns.tile.max()) + 1
                yield ObjectChunk(first, columns, self.store.attributes(low, high))
                first += len(columns)

    def ids(self, chunk: ObjectChunk) -> list[str]:
        """UUID of every row, the same in every export of the run and in every repetition of it."""
        keys = zip(chunk.columns.tile.tolist(), chunk.columns.item.tolist(), strict=True)
        return [self.id_of(f"{tile}/{item}") for tile, item in keys]


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
