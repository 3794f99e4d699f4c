"""One viewer's work on one run: its slide, its objects as they come, what people decide about them. No Qt here.

Panels show a `Session` and call it; it never knows them. Everything lasting lies in the run folder, so that another
session, or the same one tomorrow, finds all of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_qwenvl.deciding import Deciding
from napari_qwenvl.frame import look_at
from napari_qwenvl.heatmap import tile_layers
from napari_qwenvl.objects import Objects
from napari_qwenvl.overlay import Overlay
from napari_qwenvl.run_layers import RUN, folder_layers, frame_of, overlays, plane_of_run, run_folder
from napari_qwenvl.slide_layer import slide_layers, slide_of
from qwenvl.answer import Status
from qwenvl.request import Task
from workflows._rows import Changes, StoredAnswer
from workflows.provenance import Manifest
from workflows.review import Reviews
from workflows.reviewed import ReviewedObjects, reviewed_objects
from workflows.store import RunStore

_BATCH = 100
"""Answers taken in at a time, so that catching up with a long run does not hold the viewer."""
_KEPT_TEXTS = 100_000
_TILES = "qwenvl_tiles"
"""Key of the metadata of layers that hatch tiles without an answer."""


class NotPossibleError(Exception):
    """What was asked for cannot be done; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class Said:
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
class Loaded:
    """A run as read from its folder, ready to be shown."""

    reviewed: ReviewedObjects
    said: tuple[Said, ...]
    seq: int
    statuses: dict[Status, int]


class Session:
    """The run that a viewer works on, and the decisions about it.

    Attributes
    ----------
    overlay : Overlay or None
        The objects of the open run.
    folder : Path or None
        Its run folder.
    said : list of Said
        Its words and failed tiles, in the order they came.
    deciding : Deciding or None
        Decisions about its objects; None where the folder cannot be written in.
    """

    opened = Signal()
    """Another run is open, or none."""
    grown = Signal()
    """New answers were taken in."""
    settled = Signal()
    """Objects were merged anew: rows have changed."""
    decided = Signal()
    """Decisions were made, undone or redone."""
    failed = Signal(str)
    """The run could not be read; why."""

    def __init__(self, viewer: Any, background: Callable[..., None] | None = None) -> None:
        self.viewer = viewer
        self.folder: Path | None = None
        self.manifest: Manifest | None = None
        self.overlay: Overlay | None = None
        self.deciding: Deciding | None = None
        self.read_only: str | None = None
        self.said: list[Said] = []
        self.statuses: dict[Status, int] = {}
        self._store: RunStore | None = None
        self._tiles: dict[int, np.void] = {}
        self._seq = 0
        self._loading = 0
        self._reading = False
        self._background = background or _at_once

    # ------------------------------------------------------------------ the slide

    def slide_layer(self) -> Any:
        """The layer to ask about: the active one where it is a slide, else the topmost slide.

        Raises
        ------
        NotPossibleError
            There is no slide, or the active layer is a picture that is none.
        """
        active = self.viewer.layers.selection.active
        if slide_of(active) is not None:
            return active
        found = slide_layers(self.viewer)
        if found:
            return found[0]
        if active is not None:
            raise NotPossibleError(
                f"'{active.name}' is not a slide that this plugin opened. Open the file with File > Open, "
                "and choose 'Qwen-VL for slides' where napari asks."
            )
        raise NotPossibleError("Open a slide first: drop a file on the viewer, or File > Open Sample.")

    # ------------------------------------------------------------------ open and close

    def open_run(
        self, folder: Path | str, done: Callable[[], None] | None = None, *, layers: bool = True
    ) -> None:
        """Show a run: layers, objects, words, and the state of its review. The run may still be going on.

        Raises
        ------
        NotPossibleError
            Its slide is neither shown nor at its place.
        RunNotFoundError, StoreError
        """
        folder = run_folder(Path(folder))
        store = RunStore.open(folder)
        try:
            further = self._layers_of(folder, store) if layers else []
            reviews, read_only = _open_reviews(folder)
        except BaseException:
            store.close()
            raise
        self.close_run()
        for data, options, kind in further:
            if _TILES not in options.get("metadata", {}):
                getattr(self.viewer, f"add_{kind}")(data, **options)
        self._hold(folder, store, reviews, read_only)
        self.opened.emit()
        self.reload(done)

    def follow(self, folder: Path | str) -> None:
        """Show a run that this viewer makes itself: its objects alone, because adding layers takes time.

        Raises
        ------
        RunNotFoundError, StoreError
        """
        self.open_run(folder, layers=False)

    def _layers_of(self, folder: Path, store: RunStore) -> list[Any]:
        facts = store.manifest.slide
        shown = [slide_of(layer) for layer in slide_layers(self.viewer)]
        if any(slide is not None and slide.fingerprint == facts.fingerprint for slide in shown):
            return folder_layers(folder, self.viewer)
        layers = folder_layers(folder, self.viewer)
        if layers and layers[0][1].get("multiscale"):
            return layers
        others = " and ".join(slide.path.name for slide in shown if slide is not None)
        raise NotPossibleError(
            f"{folder.name} is a run of {facts.name} ({facts.width} x {facts.height} px), which is not at "
            f"{facts.path}." + (f" The viewer shows {others}, another slide." if others else "")
            + f" Open {facts.name} where it lies now, then open the run again."
        )  # fmt: skip

    def _hold(self, folder: Path, store: RunStore, reviews: Reviews | None, read_only: str | None) -> None:
        frame = frame_of(store)
        for other in overlays(self.viewer):
            if other.layer.metadata.get(RUN) == str(folder):
                other.close()  # napari's own reader has put it there; this one can be reviewed
        name = f"{store.manifest.request.task}: {', '.join(store.manifest.request.labels)}".rstrip(": ")
        scale = (frame.step_x, frame.step_y) if frame.known else None
        overlay = Overlay(self.viewer, um_per_px=scale, name=name, plane=plane_of_run(store))
        overlay.layer.metadata[RUN] = str(folder)
        overlay.labels = list(store.manifest.request.labels)
        self.folder, self._store, self.overlay, self.manifest = folder, store, overlay, store.manifest
        self.read_only = read_only
        self.deciding = None if reviews is None else Deciding(reviews, overlay)
        if self.deciding is not None:
            self.deciding.changed.connect(self.decided.emit)
        self._seq, self.said = 0, []
        self.statuses = dict.fromkeys(Status, 0)
        self._tiles = {int(row["tile"]): row for row in store.tiles()}

    def close_run(self) -> None:
        """Let go of the run; everything decided is stored already."""
        self._loading += 1
        self._reading = False
        if self._store is not None:
            self._store.close()
        if self.deciding is not None:
            self.deciding.reviews.close()
        if self.overlay is not None:
            self.overlay.close()
            self._forget_tiles()
        self.folder = self._store = self.overlay = self.deciding = self.manifest = None
        self.said, self.statuses, self._tiles = [], {}, {}
        self.opened.emit()

    # ------------------------------------------------------------------ objects and words

    def reload(self, done: Callable[[], None] | None = None) -> None:
        """Read and merge everything anew, in the background where there is one; selection and filters stay."""
        if self.folder is None:
            return
        self._loading += 1
        ticket = self._loading
        self._reading = True

        def show(loaded: Loaded) -> None:
            if ticket == self._loading and self.overlay is not None:
                self._reading = False
                self._show(loaded)
                if done is not None:
                    done()

        def failed(error: Exception) -> None:
            if ticket == self._loading:
                self._reading = False
                self.failed.emit(str(error))

        self._background(load_run, self.folder, then=show, failed=failed)

    def _show(self, loaded: Loaded) -> None:
        overlay, reviewed = self.overlay, loaded.reviewed
        assert overlay is not None
        selected = None if overlay.selected is None else int(overlay.objects.key[overlay.selected])
        overlay.labels = [*reviewed.labels]
        overlay.replace(
            Objects.of(
                reviewed.box, reviewed.label, key=reviewed.key, point=reviewed.point, score=reviewed.score,
                state=reviewed.state,
            )
        )  # fmt: skip
        if self.deciding is not None:
            self.deciding.take(reviewed)
        self._show_tiles()
        self._seq, self.said, self.statuses = loaded.seq, list(loaded.said), loaded.statuses
        if selected is not None:
            overlay.select(overlay.row_of(selected), move_camera=False)
        self.opened.emit()
        self.settled.emit()

    def _show_tiles(self) -> None:
        """Hatch the tiles that failed or were not asked yet, as they are now."""
        self._forget_tiles()
        if self._store is None or self.overlay is None:
            return
        active = self.viewer.layers.selection.active
        for data, options, _ in tile_layers(self._store, self.overlay.frame):
            layer = self.viewer.add_image(data, **options)
            self.viewer.layers.move(
                self.viewer.layers.index(layer), self.viewer.layers.index(self.overlay.layer)
            )
        if active in self.viewer.layers:
            self.viewer.layers.selection.active = active

    def _forget_tiles(self) -> None:
        for layer in [layer for layer in self.viewer.layers if _TILES in layer.metadata]:
            self.viewer.layers.remove(layer)

    def poll(self) -> bool:
        """Take in answers that were stored since, whoever stored them; True where there were any.

        Until the run is merged (`reload`), an object is shown by the tile that owns its centre, so that nothing
        appears twice where tiles overlap.
        """
        if self._store is None or self.overlay is None or self._reading:
            return False
        changes = self._store.changes_since(self._seq, _BATCH)
        if self.deciding is not None:
            self.deciding.refresh()
        if not changes.answers:
            return False
        self._seq = changes.seq
        self._forget_tiles()  # they are hatched anew when the run rests
        self._append(changes)
        for found in changes.answers:
            self.statuses[found.answer.status] += 1
            said = said_by(found, self._tiles.get(found.tile))
            if said is not None and len(self.said) < _KEPT_TEXTS:
                self.said.append(said)
        self.grown.emit()
        return True

    def _append(self, changes: Changes) -> None:
        assert self.overlay is not None
        found = changes.objects
        if not len(found):
            return
        codes = self.overlay.codes_of(changes.labels)
        rows = [self._tiles.get(tile) for tile in found.tile.tolist()]
        if any(row is None for row in rows):  # tiles that were split since
            assert self._store is not None
            self._tiles = {int(row["tile"]): row for row in self._store.tiles()}
            rows = [self._tiles.get(tile) for tile in found.tile.tolist()]
        cores = np.array([
            [np.inf] * 4 if row is None else [row[f"core_{edge}"] for edge in ("x0", "y0", "x1", "y1")]
            for row in rows
        ], float)  # fmt: skip
        centre = (found.box[:, :2] + found.box[:, 2:]) / 2
        owned = (centre >= cores[:, :2]).all(axis=1) & (centre < cores[:, 2:]).all(axis=1)
        objects = Objects.from_columns(found)
        self.overlay.append(
            Objects.of(
                objects.box, codes[found.label], key=objects.key, point=objects.point, score=objects.score
            ).take(owned)
        )

    def save_geojson(self, path: Path) -> str:
        """Write the objects as reviewed for QuPath; what was written, in words. Raises WorkflowError."""
        from workflows.export.geojson import export_geojson

        assert self.folder is not None
        written = export_geojson(self.folder, path, overwrite=True)  # the file dialogue has asked
        return (
            f"{written:,} objects written to {path}. Correct them in QuPath, export, and read them back here."
        )

    def read_corrections(self, path: Path) -> str:
        """Take over what was corrected in QuPath; what changed, in words. Raises WorkflowError."""
        from workflows.corrections import read_corrections

        assert self.folder is not None
        made = read_corrections(self.folder, path)
        if self.deciding is not None:
            self.deciding.refresh()
        self.reload()
        return f"{path.name}: {made}. One undo takes it back."

    @property
    def asks_for_objects(self) -> bool:
        """True where the open run finds objects."""
        return self.manifest is not None and self.manifest.request.task in (Task.DETECT, Task.POINT)

    def tiles_in_all(self) -> int:
        """Tiles of the open run."""
        return len(self._tiles)

    def look_at(self, rect: Sequence[float]) -> None:
        """Bring a rectangle of level-0 px into the middle of the canvas, whole."""
        if self.overlay is not None:
            look_at(self.viewer, self.overlay.frame, rect)

    def rows_inside(self, rect: Sequence[float], labels: Iterable[str] | None = None) -> NDArray[np.int64]:
        """Rows of objects whose centre lies in a rectangle, of some labels only where they are given."""
        if self.overlay is None:
            return np.zeros(0, np.int64)
        objects = self.overlay.objects
        x, y = (objects.box[:, 0] + objects.box[:, 2]) / 2, (objects.box[:, 1] + objects.box[:, 3]) / 2
        inside = (x >= rect[0]) & (x <= rect[2]) & (y >= rect[1]) & (y <= rect[3])
        if labels is not None:
            codes = [code for code, label in enumerate(self.overlay.labels) if label in set(labels)]
            inside &= np.isin(objects.label, codes)
        return np.flatnonzero(inside)

    def next_row(self, *, uncertain: bool = False, back: bool = False) -> int | None:
        """The unreviewed object to look at next, among those that pass the filters; None where all are reviewed.

        In the order of the table's rows after the selected one, or, with `uncertain`, the one whose score is nearest
        to undecided (0.5). Objects without a score come last then.
        """
        if self.overlay is None:
            return None
        overlay = self.overlay
        rows = overlay.visible()
        rows = rows[overlay.objects.state[rows] == 0]
        if not len(rows):
            return None
        at = overlay.selected
        if uncertain:
            others = rows[rows != at] if at is not None and len(rows) > 1 else rows
            distance = np.abs(overlay.objects.score[others] - 0.5)
            return int(others[np.argmin(np.where(np.isnan(distance), np.inf, distance))])
        if at is None:
            return int(rows[-1 if back else 0])
        if back:
            before = rows[rows < at]
            return int(before[-1] if len(before) else rows[-1])
        after = rows[rows > at]
        return int(after[0] if len(after) else rows[0])


def load_run(folder: Path) -> Loaded:
    """Read a run: objects merged and reviewed, words, counts. Takes a second per some 100,000 objects."""
    with RunStore.open(folder) as store:
        seq = store.last_seq()
        table = {int(row["tile"]): row for row in store.tiles()}
        said: list[Said] = []
        for found in store.iter_answers(raw=store.manifest.request.task in (Task.ASK, Task.DESCRIBE)):
            one = said_by(found, table.get(found.tile))
            if one is not None and len(said) < _KEPT_TEXTS:
                said.append(one)
        return Loaded(reviewed_objects(store), tuple(said), seq, store.status_counts())


def said_by(found: StoredAnswer, row: Any) -> Said | None:
    """What an answer says in words; None where it only has objects."""
    answer = found.answer
    if row is None:
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
    x0, y0 = float(row["x0"]), float(row["y0"])
    rect = (x0, y0, x0 + float(row["width0"]), y0 + float(row["height0"]))
    return Said(rect, answer.status.value, words, found.tile, answer.reasoning)


def _open_reviews(folder: Path) -> tuple[Reviews | None, str | None]:
    """The reviews for writing, or None and why not."""
    from workflows.errors import StoreError

    try:
        return Reviews.open(folder), None
    except StoreError as error:
        return None, str(error)


def _at_once(
    work: Callable[..., Any], *args: Any, then: Callable[[Any], None], failed: Callable[[Exception], None]
) -> None:
    then(work(*args))


_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(viewer: Any, background: Callable[..., None] | None = None) -> Session:
    """The session of a viewer, which all its panels share."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _SESSIONS:
        _SESSIONS[viewer] = Session(viewer, background)
    session = _SESSIONS[viewer]
    if background is not None:
        session._background = background
    return session


def forget_session(viewer: Any) -> None:
    """Let go of a viewer that is closed."""
    _SESSIONS.pop(getattr(viewer, "__wrapped__", viewer), None)


__all__ = ["NotPossibleError", "Said", "Session", "forget_session", "session_of"]
