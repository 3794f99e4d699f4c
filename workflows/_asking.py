"""Asking about the tiles that are still open, batch by batch, and storing every batch before the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.errors import EngineError, RequestError, out_of_memory
from qwenvl.request import Request
from workflows._rows import tile_of
from workflows._splitting import (
    DETAIL_ZOOM,
    MEMORY_SPLITS,
    Split,
    Why,
    children_of,
    parent_of,
    why_split,
    zoom_of,
)
from workflows.quality import Inspector, excluded
from workflows.store import RunStore
from wsi.loader import Loaded, SlideJob, TileLoader
from wsi.slide import Slide
from wsi.tile import Tile
from wsi.tissue import TissueMask

_LEAST_SIDE = 32
"""Smallest picture, in px, that a tile is split into for lack of memory."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, after each batch.

    Attributes
    ----------
    done, total : int
        Tiles answered so far, earlier attempts included, and all tiles that this call works towards. Both grow
        where a tile is split: its parts are asked besides.
    resumed : int
        Tiles that were answered before this call.
    failed : int
        Tiles that failed in this call.
    objects : int
        Objects found in this call, before merging.
    seconds : float
        Time since the first tile was asked for.
    seq : int
        Newest `seq` of the store; see `RunStore.changes_since`.
    splits : int
        Tiles that were split in this call.
    stage : str
        'where' while the coarse tiles of a cascade are asked, else ''.
    """

    done: int
    total: int
    resumed: int
    failed: int
    objects: int
    seconds: float
    seq: int
    splits: int = 0
    stage: str = ""

    @property
    def rate(self) -> float:
        """Tiles per second in this call; 0 before the first."""
        return (self.done - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to go at this rate, or None before the first tile."""
        return (self.total - self.done) / self.rate if self.rate else None


class Asking:
    """One call's way through the tiles that are still open."""

    def __init__(
        self,
        store: RunStore,
        slide: Slide,
        engine: Engine,
        request: Request,
        mask: TissueMask,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
        inspector: Inspector | None = None,
    ) -> None:
        self._inspector = inspector
        self.store, self.slide, self.engine, self.request = store, slide, engine, request
        self.mask, self.progress, self.cancel = mask, progress, cancel
        self.asked = self.failed = self.objects = self.splits = 0
        self.cancelled = False
        self._why = {tile: why for tile, why, _, _ in store.splits()}
        self._begun = 0.0

    def run(self, *, retry_failed: bool, limit: int | None, workers: int) -> None:
        """Ask about every open tile, batch by batch; then about what those were split into, until none is left.

        Raises
        ------
        EngineError
            The model is unusable, or a tile does not fit into memory however small. What was answered is stored.
        """
        done = self.store.finished()
        settled = [done, np.array(sorted(self.store.skipped()), np.int64)]
        if not retry_failed:
            settled.append(self.store.failed())
        resumed, tried = len(done), np.concatenate(settled)
        self._begun = time.perf_counter()
        while not self._stopped():
            table = self.store.tiles()
            rows = table[~np.isin(table["tile"], tried)]
            rows = rows if limit is None else rows[: max(0, limit - self.asked)]
            if not len(rows):
                return
            self._ask_rows(rows, resumed, workers)
            tried = np.union1d(tried, rows["tile"])

    def _ask_rows(self, rows: NDArray[np.void], resumed: int, workers: int) -> None:
        """Ask about tiles until all are answered or the run is stopped."""
        size = max(1, self.engine.batch_size(self.request))
        total = resumed + self.asked + len(rows)
        place = {int(tile): row for row, tile in enumerate(rows["tile"])}
        job = SlideJob("slide", self.slide, (tile_of(row) for row in rows))
        with TileLoader([job], workers=workers, ahead=2 * size) as loader:
            for batch in loader.batches(size):
                answers = self._answer(batch)
                splits = [
                    split
                    for tile, answer in answers
                    if (split := self._split(rows[place[tile.index]], answer)) is not None
                ]
                self.store.put(answers, splits)
                self.asked += len(answers)
                self.splits += len(splits)
                self.failed += sum(answer.status is Status.FAILED for _, answer in answers)
                self.objects += sum(len(answer.objects) for _, answer in answers)
                self._why |= {split.tile: split.why for split in splits}
                total += sum(len(split.children) for split in splits)
                if self.progress is not None:
                    seconds, seq = time.perf_counter() - self._begun, self.store.last_seq()
                    self.progress(
                        Progress(
                            resumed + self.asked,
                            total,
                            resumed,
                            self.failed,
                            self.objects,
                            seconds,
                            seq,
                            self.splits,
                        )
                    )
                self._stop_without_memory(answers, splits)
                if self._stopped():
                    return

    def _split(self, row: np.void, answer: Answer) -> Split | None:
        """The split that an answer calls for, unless its tile was split often enough."""
        why = why_split(answer, self.request)
        if why is None:
            return None
        tile, roots = int(row["tile"]), self.store.manifest.roots
        earlier: list[Why] = []
        above = parent_of(tile, roots)
        while above is not None and above in self._why:
            earlier.append(self._why[above])
            above = parent_of(above, roots)
        memory = earlier.count(Why.MEMORY)
        if why is Why.MEMORY:
            if memory >= MEMORY_SPLITS or min(row["width"], row["height"]) < 2 * _LEAST_SIDE:
                return None
        elif len(earlier) - memory >= self.request.split:
            return None
        zoom = DETAIL_ZOOM if why is Why.MEMORY else zoom_of(row)
        if zoom is None:
            return None
        children = children_of(
            row,
            roots=roots,
            overlap=self.request.overlap,
            zoom=zoom,
            same_scale=why is Why.MEMORY,
            mask=self.mask,
        )
        return Split(tile, why, len(earlier) + 1, children)

    def _stop_without_memory(self, answers: Sequence[tuple[Tile, Answer]], splits: Sequence[Split]) -> None:
        """End the run where a tile does not fit into memory and cannot be made smaller: no other would fit."""
        parted = {split.tile for split in splits}
        for tile, answer in answers:
            if OUT_OF_MEMORY in answer.notes and tile.index not in parted:
                raise EngineError(
                    f"{answer.error} The tile was made smaller until {tile.width}x{tile.height} px and still does "
                    "not fit. Finished tiles are kept. Free memory and repeat the command, or take a smaller model "
                    "or --tile-size in another folder."
                )

    def _stopped(self) -> bool:
        self.cancelled = self.cancel is not None and self.cancel.is_set()
        return self.cancelled

    def _answer(self, batch: Sequence[Loaded]) -> list[tuple[Tile, Answer]]:
        notes = [self._inspect(item) for item in batch]
        skips = self._inspector is not None and self._inspector.skips
        read = [
            item.picture
            for item, flags in zip(batch, notes, strict=True)
            if isinstance(item.picture, np.ndarray) and not (skips and flags)
        ]
        answers = iter(self._ask(read))
        result = []
        for item, flags in zip(batch, notes, strict=True):
            if item.tile is None:
                assert isinstance(item.picture, Exception)
                raise item.picture
            if isinstance(item.picture, Exception):
                answer = Answer.failure(str(item.picture))
            elif skips and flags:
                answer = excluded(flags)
            else:
                answer = next(answers)
                answer = replace(answer, notes=(*answer.notes, *flags)) if flags else answer
            result.append((item.tile, answer))
        return result

    def _inspect(self, item: Loaded) -> tuple[str, ...]:
        """Why quality control flags a tile; nothing where it does not, or was not asked to."""
        if self._inspector is None or item.tile is None or isinstance(item.picture, Exception):
            return ()
        return self._inspector.inspect(item.tile, item.picture)

    def _ask(self, pictures: list[NDArray[np.uint8]]) -> list[Answer]:
        """The batch at once; if that raises, each picture alone, so that one cannot fail its neighbours."""
        if not pictures:
            return []
        try:
            return self._call(pictures)
        except (EngineError, RequestError):
            raise
        except Exception as error:
            note = f"asked-alone:{type(error).__name__}"
            return [self._ask_alone(picture, note) for picture in pictures]

    def _ask_alone(self, picture: NDArray[np.uint8], note: str) -> Answer:
        try:
            answer = self._call([picture])[0]
        except (EngineError, RequestError):
            raise
        except Exception as error:
            notes = (note, OUT_OF_MEMORY) if out_of_memory(error) else (note,)
            return Answer.failure(f"The model raised {type(error).__name__}: {error}.", notes=notes)
        return replace(answer, notes=(*answer.notes, note))

    def _call(self, pictures: list[NDArray[np.uint8]]) -> list[Answer]:
        answers = self.engine.answer(pictures, self.request)
        if len(answers) != len(pictures):
            raise RuntimeError(f"{len(answers)} answers to {len(pictures)} pictures")
        return answers
