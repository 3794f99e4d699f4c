"""A run as read from its folder, ready to be shown: all that takes time, on whatever thread. No viewer, no Qt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.layers.heatmap import tile_layers
from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.run_layers import frame_of, further_layers, plane_of_run
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import LayerData
from qwenvl.answer import Status
from qwenvl.request import Task
from workflows.errors import StoreError
from workflows.inputs.reopening import reopen_run
from workflows.review.decisions import Reviews
from workflows.review.reviewed import ReviewedObjects, reviewed_objects
from workflows.store.provenance import Manifest
from workflows.store.rows import Changes, StoredAnswer
from workflows.store.run_store import RunStore
from wsi import Plane

_KEPT_TEXTS = 100_000
Tiles = NDArray[np.void]
"""Rows of `TILE_DTYPE`, ordered by tile."""


class NotPossibleError(Exception):
    """What was asked for cannot be done; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class AnswerTexts:
    """What a tile (or a region that was asked about) said in words, or why it said nothing.

    Attributes
    ----------
    rect : (x0, y0, x1, y1)
        Level-0 px.
    status : str
    words : str
        Text, value or reason of failure.
    tile : int
        Index in the run, -1 for a region that was asked about.
    """

    rect: tuple[float, float, float, float]
    status: str
    words: str
    tile: int
    reasoning: str | None = None
    question: str | None = None
    rows: tuple[int, ...] = field(default=(), compare=False)

    @property
    def failed(self) -> bool:
        """True where nothing is known about the place."""
        return self.status == Status.FAILED


@dataclass(frozen=True, eq=False)
class PreparedResults:
    """A run that is about to be shown.

    Attributes
    ----------
    slide : Slide or None
        Opened where the viewer does not show it already and was asked to.
    layers : tuple of LayerData
        Tissue and heatmaps.
    notes : tuple of str
        What the user should know about them.
    reviews : Reviews or None
        For writing; None where the folder cannot be written in, and `read_only` says why.
    """

    folder: Path
    manifest: Manifest
    frame: Frame
    plane: Plane | None
    tiles: Tiles
    slide: Any = None
    layers: tuple[LayerData, ...] = ()
    notes: tuple[str, ...] = ()
    reviews: Reviews | None = None
    read_only: str | None = None

    def close(self) -> None:
        """Let go of what is open: it is not shown after all."""
        for opened in (self.slide, self.reviews):
            if opened is not None:
                opened.close()


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """All that a run found so far, merged and reviewed.

    Attributes
    ----------
    reviewed : ReviewedObjects
    objects : Objects
        The same, as the overlay takes them.
    hatched : tuple of LayerData
        Tiles that failed or were not looked at yet.
    """

    reviewed: ReviewedObjects
    objects: Objects
    said: tuple[AnswerTexts, ...]
    seq: int
    review_seq: int
    tiles: Tiles
    statuses: dict[Status, int]
    hatched: tuple[LayerData, ...]


@dataclass(frozen=True, eq=False)
class AnswerBatch:
    """Answers stored since the last look.

    Attributes
    ----------
    objects : Objects
        Those in the part of the slide that their tile owns, so that nothing appears twice where tiles overlap.
    labels : tuple of str
        What `objects.label` indexes.
    """

    seq: int
    answers: int
    objects: Objects
    labels: tuple[str, ...]
    said: tuple[AnswerTexts, ...]
    statuses: Mapping[Status, int]
    tiles: Tiles


def prepare(folder: Path, shown: Mapping[str, str], layers: bool) -> PreparedResults:
    """Read what has to be known before a run is shown.

    Parameters
    ----------
    shown : mapping of str to str
        Fingerprints of the slides that the viewer shows, and their names.
    layers : bool
        Read tissue and heatmaps too, and open the slide where it is not shown.

    Raises
    ------
    NotPossibleError
        The slide is neither shown nor at its place.
    RunNotFoundError, StoreError
    """
    with RunStore.open(folder) as store:
        manifest, found, notes = store.manifest, None, list[str]()
        further: list[LayerData] = []
        if layers:
            facts = manifest.slide
            reopened = reopen_run(store)
            found = reopened.slide
            if found is None and facts.fingerprint not in shown:
                others = " and ".join(shown.values())
                raise NotPossibleError(
                    f"{folder.name} is a run of {facts.name} ({facts.width} x {facts.height} px). {reopened.note}"
                    + (f" The viewer shows {others}, another slide." if others else "")
                    + f" Open {facts.name} where it lies now, then open the run again."
                )
            further = further_layers(store, found, notes.append)
            if found is not None and facts.fingerprint in shown:
                found.close()
                found = None
        return PreparedResults(
            folder,
            manifest,
            frame_of(store),
            plane_of_run(store),
            store.tiles(),
            found,
            tuple(further),
            tuple(notes),
            *_open_reviews(folder),
        )


def _open_reviews(folder: Path) -> tuple[Reviews | None, str | None]:
    """The reviews for writing, or None and why not."""
    try:
        return Reviews.open(folder), None
    except StoreError as error:
        return None, str(error)


def load_run(folder: Path, hatch: bool = True) -> LoadedRun:
    """Read a run: objects merged and reviewed, words, counts. Takes a second per some 100,000 objects."""
    with RunStore.open(folder) as store:
        seq, reviews = store.last_seq(), store.reviews()
        tiles = store.tiles()
        said: list[AnswerTexts] = []
        for found in store.iter_answers(raw=store.manifest.request.task in (Task.ASK, Task.DESCRIBE)):
            one = said_by(found, tiles)
            if one is not None and len(said) < _KEPT_TEXTS:
                said.append(one)
        reviewed = reviewed_objects(store)
        objects = Objects.of(
            reviewed.box,
            reviewed.label,
            key=reviewed.key,
            point=reviewed.point,
            score=reviewed.score,
            state=reviewed.state,
        )
        hatched = tile_layers(store, frame_of(store)) if hatch else []
        return LoadedRun(
            reviewed,
            objects,
            tuple(said),
            seq,
            reviews[-1].seq if reviews else 0,
            tiles,
            store.status_counts(),
            tuple(hatched),
        )


def read_batch(folder: Path, seq: int, most: int, tiles: Tiles) -> AnswerBatch:
    """Answers stored after `seq`, the oldest `most` of them; `tiles` are those of the last look."""
    with RunStore.open(folder) as store:
        changes = store.changes_since(seq, most)
        if not np.isin([found.tile for found in changes.answers], tiles["tile"]).all():
            tiles = store.tiles()  # some were split since
    words = tuple(said for found in changes.answers if (said := said_by(found, tiles)) is not None)
    statuses = Counter(found.answer.status for found in changes.answers)
    objects = _owned(changes, tiles)
    return AnswerBatch(changes.seq, len(changes.answers), objects, changes.labels, words, statuses, tiles)


def _owned(changes: Changes, tiles: Tiles) -> Objects:
    """Objects whose centre lies in the core of their tile."""
    found = changes.objects
    objects = Objects.from_columns(found)
    if not len(found):
        return objects
    at = np.minimum(np.searchsorted(tiles["tile"], found.tile), len(tiles) - 1)
    rows = tiles[at]
    x, y = (found.box[:, 0] + found.box[:, 2]) / 2, (found.box[:, 1] + found.box[:, 3]) / 2
    owned = (rows["tile"] == found.tile) & (x >= rows["core_x0"]) & (x < rows["core_x1"])
    return objects.take(owned & (y >= rows["core_y0"]) & (y < rows["core_y1"]))


def said_by(found: StoredAnswer, tiles: Tiles) -> AnswerTexts | None:
    """What an answer says in words; None where it only has objects."""
    answer = found.answer
    at = int(np.searchsorted(tiles["tile"], found.tile))
    if at >= len(tiles) or tiles["tile"][at] != found.tile:
        return None
    if answer.status is Status.FAILED:
        words = answer.error or "no reason given"
    elif answer.text:
        words = answer.text
    elif answer.value is not None:
        words = str(answer.value)
    elif answer.scores:
        words = ", ".join(f"{name} {value:.2f}" for name, value in answer.scores.items())
    elif answer.status in (Status.TRUNCATED, Status.REFUSED):
        words = "cut off: what comes after is unknown" if answer.status is Status.TRUNCATED else "declined"
    else:
        return None
    row = tiles[at]
    x0, y0 = float(row["x0"]), float(row["y0"])
    rect = (x0, y0, x0 + float(row["width0"]), y0 + float(row["height0"]))
    return AnswerTexts(rect, answer.status.value, words, found.tile, answer.reasoning)
