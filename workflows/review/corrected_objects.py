"""The objects of a run that features of a file may be about: by name, by key, by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from workflows.export.objects import namer
from workflows.merge.merged import iter_merged
from workflows.review.corrected_file import Feature
from workflows.review.decisions import Action, Box, Change
from workflows.review.reviewed import State, reviewed_objects
from workflows.store.rows import ObjectColumns
from workflows.store.run_store import RunStore
from workflows.tile_table import unpack_key

_AGREE = 0.5


class KnownObjects:
    """Every object of a run as it stands, in the form of a change that would leave it so.

    Attributes
    ----------
    by_name : mapping of name to Change
        Objects that reviewers rejected are not there.
    """

    def __init__(self, store: RunStore, answers: int | None) -> None:
        self._store, self._answers = store, answers
        self.run_id = store.manifest.run_id
        self._name_of = namer(self.run_id)
        self.by_name = dict(_standing(store))
        side = float(np.sqrt(np.prod(store.manifest.grid.side0)))
        self._radius0 = 10.0 * side / store.manifest.grid.tile_size

    def name_of(self, key: tuple[int, int]) -> str:
        """UUID that exports give to the model's object of a key."""
        return self._name_of(f"{key[0]}/{key[1]}")

    @cached_property
    def exported(self) -> Mapping[str, tuple[str, Box]]:
        """Label and box by name of the model's objects as the file's export found them: merged as far as answers went.

        Of an export of the finished run these are the objects as they stand.
        """
        then = self._store if self._answers is None else _Earlier(self._store, self._answers)
        labels = self._store.labels
        return {
            self.name_of((tile, item)): (labels[label], tuple(box))
            for part in iter_merged(then, labels)  # type: ignore[arg-type]
            for tile, item, label, box in zip(
                part.tile.tolist(), part.item.tolist(), part.label.tolist(), part.box.tolist(), strict=True
            )
        }

    @cached_property
    def stored(self) -> Mapping[str, tuple[tuple[int, int], str, Box]]:
        """Key, label and box by name of every object that the model gave, also of those merged into others since."""
        found, labels = self._store.objects(), self._store.labels
        return {
            self.name_of((tile, item)): ((tile, item), labels[label], tuple(box))
            for tile, item, label, box in zip(
                found.tile.tolist(), found.item.tolist(), found.label.tolist(), found.box.tolist(), strict=True
            )
        }

    def agreement(self, feature: Feature, box: Box) -> float:
        """IoU with a box; of points 1 at the place and 0.5 at the radius in which points are the same."""
        return _agreement(feature.box, box, self._radius0)

    def by_place(self, features: Sequence[Feature], taken: set[str]) -> dict[str, str]:
        """Name of the object by name of the feature, for those that lie on one; each object once.

        An object in `taken` is given to a feature of its own class where nothing else lies there: it is a copy.
        """
        names = list(self.by_name)
        if not names or not features:
            return {}
        r = self._radius0
        boxes = np.array([self.by_name[name].box for name in names], float)
        tree = shapely.STRtree(shapely.box(*(boxes + np.array([-r, -r, r, r])).T))
        pairs: list[tuple[float, bool, int, str]] = []
        for at, feature in enumerate(features):
            for row in tree.query(shapely.box(*feature.box)).tolist():
                agreement = self.agreement(feature, self.by_name[names[row]].box)
                if agreement >= _AGREE:
                    pairs.append((agreement, feature.label == self.by_name[names[row]].label, at, names[row]))
        found: dict[str, str] = {}
        used = set(taken)
        for copies in (False, True):
            for _, same, at, name in sorted(pairs, key=lambda pair: (-pair[0], not pair[1], pair[2], pair[3])):
                feature = features[at]
                if feature.name not in found and (same if copies else name not in used):
                    found[feature.name] = name
                    used.add(name)
        return found

    def found_since(self) -> set[str]:
        """Names of the objects that the file could not hold: found by answers that came after its export."""
        if self._answers is None:
            return set()
        tiles = _answered(self._store, self._answers)
        return {name for name, change in self.by_name.items() if change.tile is not None and change.tile not in tiles}


def _standing(store: RunStore) -> Iterator[tuple[str, Change]]:
    reviewed = reviewed_objects(store)
    manifest = store.manifest
    for row in np.flatnonzero(reviewed.kept).tolist():
        key = int(reviewed.key[row])
        label = reviewed.labels[reviewed.label[row]]
        box: Box = tuple(reviewed.box[row].tolist())
        name = reviewed.name(row, manifest)
        tile, item = (None, None) if key < 0 else unpack_key(key)
        seen = None if key < 0 else reviewed.original.get(row, (label, box))
        decided = reviewed.about.get(row, ())
        if key < 0 and decided:
            change = reviewed.decisions[row].change
            assert change is not None
            tile, item = change.tile, change.item
            seen = None if change.seen_box is None else (change.seen_label or label, change.seen_box)
        yield (
            name,
            Change(
                Action.ACCEPT,
                decided[0] if decided else name,
                State(int(reviewed.state[row])).verdict,
                label,
                box,
                bool(reviewed.point[row]),
                tile,
                item,
                *(seen or (None, None)),
            ),
        )


def _agreement(one: Box, other: Box, radius0: float) -> float:
    a, b = np.array(one), np.array(other)
    if bool((a[:2] == a[2:]).all()) != bool((b[:2] == b[2:]).all()):
        return 0.0
    if (a[:2] == a[2:]).all():
        return float(max(0.0, 1 - np.hypot(*(a - b)[:2]) / (2 * radius0)))
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    return float(shared / max(areas - shared, 1e-9))


def _answered(store: RunStore, answers: int) -> set[int]:
    return {answer.tile for answer in store.iter_answers() if answer.seq <= answers}


class _Earlier:
    """A store as it was when it had so many answers: what `iter_merged` reads of it."""

    def __init__(self, store: RunStore, answers: int) -> None:
        self._store, self._tiles = store, _answered(store, answers)
        self.manifest, self.labels = store.manifest, store.labels

    def tiles(self) -> NDArray[np.void]:
        return self._store.tiles()

    def object_counts(self) -> list[tuple[int, int]]:
        return [pair for pair in self._store.object_counts() if pair[0] in self._tiles]

    def objects(self, *range_of: Any) -> ObjectColumns:
        found = self._store.objects(*range_of)
        rows = np.isin(found.tile, list(self._tiles))
        return ObjectColumns(*(getattr(found, each.name)[rows] for each in fields(found)))
