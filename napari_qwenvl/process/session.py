"""One viewer's work on one run: its slide, its objects as they come, what people decide about them. No Qt here.

Panels show a `Session` and call it; it never knows them. Everything lasting lies in the run folder, so that another
session, or the same one tomorrow, finds all of it again. What takes time is read on another thread where there is one
(`napari_qwenvl.results.run_reading`), and what changes the viewer is done in small steps, between which it draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from psygnal import Signal

from napari_qwenvl.layers.hatching import Hatching
from napari_qwenvl.layers.keys import RUN
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.layers.run_layers import overlays, run_folder
from napari_qwenvl.read.slide_layer import layer_data, slide_layers, slide_of
from napari_qwenvl.results.run_reading import (
    AnswerBatch,
    AnswerTexts,
    LoadedRun,
    NotPossibleError,
    PreparedResults,
    Tiles,
    load_run,
    prepare,
    read_batch,
)
from napari_qwenvl.review.deciding import Deciding
from qwenvl.answer import Status
from qwenvl.request import Task
from workflows.errors import StoreError
from workflows.store.provenance import Manifest
from workflows.store.rows import TILE_DTYPE
from wsi.regions.frames import PixelFrame

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_BATCH = 100
"""Answers taken in at a time, so that catching up with a long run does not hold the viewer."""
_KEPT_TEXTS = 100_000
Step = Callable[[], None]


class Session:
    """The run that a viewer works on, and the decisions about it.

    Attributes
    ----------
    overlay : Overlay or None
        The objects of the open run.
    folder : Path or None
        Its run folder.
    said : list of AnswerTexts
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
    shown = Signal()
    """All of the run stands as it was read: objects, words, layers, and the marks of tiles without an answer."""
    decided = Signal()
    """Decisions were made, undone or redone."""
    failed = Signal(str)
    """The run could not be read; why."""

    def __init__(
        self, viewer: Viewer, background: Callable[..., None] | None = None, turns: Callable[[Step], None] | None = None
    ) -> None:
        self.viewer = viewer
        self.folder: Path | None = None
        self.manifest: Manifest | None = None
        self.overlay: Overlay | None = None
        self.deciding: Deciding | None = None
        self.read_only: str | None = None
        self.said: list[AnswerTexts] = []
        self.statuses: dict[Status, int] = {}
        self.going_on = False
        """A run of this viewer writes into the folder: tiles it has not come to yet are not hatched."""
        self._hatching = Hatching(viewer)
        self._tiles: Tiles = np.zeros(0, TILE_DTYPE)
        self._seq = 0
        self._opening = 0
        self._loading = 0
        self._reading = False
        self._told = ""
        self._polls, self._polling = 0, 0
        self._background = background or _at_once
        self._turns = turns or _now

    # ------------------------------------------------------------------ the slide

    def slide_layer(self) -> Layer:
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

    def open_run(self, folder: Path | str, *, layers: bool = True) -> None:
        """Show a run: layers, objects, words, and the state of its review. The run may still be going on.

        Without `layers` only its objects: of a run that this viewer makes itself. With a background, what goes wrong
        is told by `failed`, and the run that is shown stays.

        Raises
        ------
        NotPossibleError
            Its slide is neither shown nor at its place.
        RunNotFoundError, StoreError
        """
        self._opening += 1
        ticket = self._opening

        def show(prepared: PreparedResults) -> None:
            if ticket == self._opening:
                self._in_turns(self._opened(prepared), lambda: ticket == self._opening)
            else:
                prepared.close()

        def failed(error: Exception) -> None:
            if ticket == self._opening:
                self.failed.emit(str(error))

        slides = [slide_of(layer) for layer in slide_layers(self.viewer)]
        shown = {slide.fingerprint: slide.path.name for slide in slides if slide is not None}
        self._background(prepare, run_folder(Path(folder)), shown, layers, then=show, failed=failed)

    def _opened(self, prepared: PreparedResults) -> Iterator[Step]:
        """The steps that put a run into the viewer."""
        if self.folder is not None:
            yield self._let_go
        if prepared.slide is not None:
            data, options, _ = layer_data(prepared.slide)
            yield lambda: self.viewer.add_image(data, **options)
        for picture, further, _ in prepared.layers:
            yield lambda picture=picture, further=further: self.viewer.add_image(picture, **further)  # type: ignore[misc]
        for other in overlays(self.viewer):
            if other.layer.metadata.get(RUN) == str(prepared.folder):
                yield other.close  # napari's own reader has put it there; this one can be reviewed
        yield lambda: self._hold(prepared)
        yield self.opened.emit
        for note in prepared.notes:
            yield lambda note=note: self.failed.emit(note)  # type: ignore[misc]

    def _hold(self, prepared: PreparedResults) -> None:
        manifest, frame = prepared.manifest, prepared.frame
        reviews, self.read_only = prepared.reviews, prepared.read_only
        name = f"{manifest.request.task}: {', '.join(manifest.request.labels)}".rstrip(": ")
        scale = (frame.step_x, frame.step_y) if frame.known else None
        overlay = Overlay(self.viewer, um_per_px=scale, name=name, plane=prepared.plane)
        overlay.layer.metadata[RUN] = str(prepared.folder)
        overlay.labels = list(manifest.request.labels)
        self.folder, self.overlay, self.manifest = prepared.folder, overlay, manifest
        self.deciding = None if reviews is None else Deciding(reviews, overlay)
        if self.deciding is not None:
            self.deciding.changed.connect(self.decided.emit)
        self._seq, self._tiles, self.said = 0, prepared.tiles, []
        self.statuses = dict.fromkeys(Status, 0)
        self.reload()  # in the same step: a poll before it would bring what is read anyway

    def close_run(self) -> None:
        """Let go of the run; everything decided is stored already."""
        self._opening += 1
        self._let_go()
        self.opened.emit()

    def _let_go(self) -> None:
        self._loading += 1
        self._reading, self._polling = False, 0
        if self.deciding is not None:
            self.deciding.reviews.close()
        if self.overlay is not None:
            self.overlay.close()
            self._hatching.clear()
        self.folder = self.overlay = self.deciding = self.manifest = None
        self.said, self.statuses, self._tiles = [], {}, self._tiles[:0]

    # ------------------------------------------------------------------ objects and words

    def reload(self) -> None:
        """Read and merge everything anew, in the background where there is one; selection and filters stay."""
        if self.folder is None:
            return
        self._loading += 1
        ticket = self._loading
        self._reading, self._polling = True, 0  # what a poll under way brings will be in what is read now

        def show(loaded: LoadedRun) -> None:
            if ticket == self._loading:
                self._in_turns(self._shown(loaded), lambda: ticket == self._loading)

        def failed(error: Exception) -> None:
            if ticket == self._loading:
                self._reading = False
                self.failed.emit(f"The run cannot be read: {error}")

        self._background(load_run, self.folder, not self.going_on, then=show, failed=failed)

    def _shown(self, loaded: LoadedRun) -> Iterator[Step]:
        """The steps that put what was read in place of what is shown."""
        yield lambda: self._take(loaded)
        yield self.opened.emit
        yield self.settled.emit
        if self.overlay is not None and not self.going_on:
            yield from self._hatching.steps(loaded.hatched, self.overlay.layer)
        yield self.shown.emit

    def _take(self, loaded: LoadedRun) -> None:
        overlay = self.overlay
        if overlay is None:
            return
        selected = None if overlay.selected is None else int(overlay.objects.key[overlay.selected])
        overlay.labels = [*loaded.reviewed.labels]
        overlay.replace(loaded.objects)
        self._seq, self.said, self.statuses = loaded.seq, list(loaded.said), loaded.statuses
        self._tiles, self._reading = loaded.tiles, False
        if self.deciding is not None:
            self.deciding.take(loaded.reviewed, loaded.review_seq)
        if selected is not None:
            overlay.select(overlay.row_of(selected), move_camera=False)

    def poll(self, then: Callable[[bool], None] | None = None) -> None:
        """Take in answers that were stored since, whoever stored them; `then` is told whether there were any.

        Until the run is merged (`reload`), an object is shown by the tile that owns its centre, so that nothing
        appears twice where tiles overlap.
        """
        if self.overlay is None or self._reading or self._polling:
            return
        if self.deciding is not None:
            try:
                self.deciding.refresh()
            except StoreError as error:  # said once; the reviews are read again at the next poll
                if str(error) != self._told:
                    self._told = str(error)
                    self.failed.emit(f"The reviews cannot be read: {error}")
        self._polls += 1
        number = self._polling = self._polls

        def show(batch: AnswerBatch) -> None:
            if number == self._polling:
                self._polling = 0
                if batch.answers:
                    self._append(batch)
                if then is not None:
                    then(batch.answers > 0)

        def failed(error: Exception) -> None:
            if number == self._polling:
                self._polling = 0
                self.failed.emit(f"The run cannot be read: {error}")

        self._background(read_batch, self.folder, self._seq, _BATCH, self._tiles, then=show, failed=failed)

    def _append(self, batch: AnswerBatch) -> None:
        overlay = self.overlay
        if overlay is None:
            return
        self._seq, self._tiles = batch.seq, batch.tiles
        self._hatching.hide()  # they are hatched anew when the run rests
        if len(batch.objects):
            codes = overlay.codes_of(batch.labels)
            overlay.append(replace(batch.objects, label=codes[batch.objects.label]))
        for status, number in batch.statuses.items():
            self.statuses[status] += number
        self.said += batch.said[: max(0, _KEPT_TEXTS - len(self.said))]
        self.grown.emit()

    def _in_turns(self, steps: Iterator[Step], still: Callable[[], bool]) -> None:
        """Do steps one after the other, and let the viewer draw between them."""

        def turn() -> None:
            step = next(steps, None) if still() else None
            if step is not None:
                step()
                self._turns(turn)

        turn()

    def save_geojson(self, path: Path) -> str:
        """Write the objects as reviewed for QuPath; what was written, in words. Raises WorkflowError."""
        from workflows.export.geojson import export_geojson

        assert self.folder is not None
        written = export_geojson(self.folder, path, overwrite=True)  # the file dialogue has asked
        return f"{written:,} objects written to {path}. Correct them in QuPath, export, and read them back here."

    def read_corrections(
        self, path: Path, frame: PixelFrame | None = None, deleted: Callable[[int], bool] = lambda number: False
    ) -> str:
        """Take over what was corrected in QuPath; what changed, in words. Raises WorkflowError, FrameError.

        `deleted` is asked whether so many objects that are not in the file were deleted there.
        """
        from workflows.review.corrections import read_corrections

        assert self.folder is not None
        made = read_corrections(self.folder, path, frame=frame, reject_missing=deleted)
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


def _at_once(
    work: Callable[..., object], *args: object, then: Callable[[Any], None], failed: Callable[[Exception], None]
) -> None:
    then(work(*args))


def _now(step: Step) -> None:
    step()


_SESSIONS: WeakKeyDictionary[Viewer, Session] = WeakKeyDictionary()


def session_of(
    viewer: Viewer, background: Callable[..., None] | None = None, turns: Callable[[Step], None] | None = None
) -> Session:
    """The session of a viewer, which all its panels share."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _SESSIONS:
        _SESSIONS[viewer] = Session(viewer, background, turns)
    session = _SESSIONS[viewer]
    if background is not None and turns is not None:
        session._background, session._turns = background, turns
    return session


def forget_session(viewer: Viewer) -> None:
    """Let go of a viewer that is closed."""
    _SESSIONS.pop(getattr(viewer, "__wrapped__", viewer), None)


__all__ = ["NotPossibleError", "AnswerTexts", "Session", "forget_session", "session_of"]
