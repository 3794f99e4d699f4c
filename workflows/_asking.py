"""Asking about the tiles that are still open, batch by batch, and storing every batch before the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.errors import EngineError, RequestError
from qwenvl.request import Request
from workflows._rows import tile_of
from workflows.store import RunStore
from wsi.loader import Loaded, SlideJob, TileLoader
from wsi.slide import Slide
from wsi.tile import Tile


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, after each batch.

    Attributes
    ----------
    done, total : int
        Tiles answered so far, earlier attempts included, and all tiles that this call works towards.
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
    """

    done: int
    total: int
    resumed: int
    failed: int
    objects: int
    seconds: float
    seq: int

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
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self.store, self.slide, self.engine, self.request = store, slide, engine, request
        self.progress, self.cancel = progress, cancel
        self.asked = self.failed = self.objects = 0
        self.cancelled = False

    def run(self, *, retry_failed: bool, limit: int | None, workers: int) -> None:
        """Ask about every open tile, batch by batch."""
        table = self.store.tiles()
        done = self.store.finished()
        settled = done if retry_failed else np.union1d(done, self.store.failed())
        open_rows = np.flatnonzero(~np.isin(table["tile"], settled))[:limit]
        size = max(1, self.engine.batch_size(self.request))
        total, resumed = len(done) + len(open_rows), len(done)
        begun = time.perf_counter()
        if self._stopped() or not len(open_rows):
            return
        job = SlideJob("slide", self.slide, (tile_of(table[i]) for i in open_rows))
        with TileLoader([job], workers=workers, ahead=2 * size) as loader:
            for batch in loader.batches(size):
                answers = self._answer(batch)
                self.store.put(answers)
                self.asked += len(answers)
                self.failed += sum(answer.status is Status.FAILED for _, answer in answers)
                self.objects += sum(len(answer.objects) for _, answer in answers)
                if self.progress is not None:
                    seconds, seq = time.perf_counter() - begun, self.store.last_seq()
                    done_now = resumed + self.asked
                    self.progress(Progress(done_now, total, resumed, self.failed, self.objects, seconds, seq))
                if self._stopped():
                    return

    def _stopped(self) -> bool:
        self.cancelled = self.cancel is not None and self.cancel.is_set()
        return self.cancelled

    def _answer(self, batch: Sequence[Loaded]) -> list[tuple[Tile, Answer]]:
        read = [(item.tile, item.picture) for item in batch if isinstance(item.picture, np.ndarray)]
        answers = iter(self._ask([picture for _, picture in read]))
        result = []
        for item in batch:
            if item.tile is None:
                assert isinstance(item.picture, Exception)
                raise item.picture
            answer = (
                Answer.failure(str(item.picture)) if isinstance(item.picture, Exception) else next(answers)
            )
            result.append((item.tile, answer))
        return result

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
            return Answer.failure(f"The model raised {type(error).__name__}: {error}", notes=(note,))
        return replace(answer, notes=(*answer.notes, note))

    def _call(self, pictures: list[NDArray[np.uint8]]) -> list[Answer]:
        answers = self.engine.answer(pictures, self.request)
        if len(answers) != len(pictures):
            raise RuntimeError(f"{len(answers)} answers to {len(pictures)} pictures")
        return answers
