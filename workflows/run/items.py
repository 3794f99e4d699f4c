"""The one loop of every workflow: ask about items, store each batch before the next, go on where a call stopped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.engines.questions import ask_questions
from qwenvl.errors import EngineError, QwenVLError, ServerError
from qwenvl.request import Request
from qwenvl.subject import Picture, Subject
from workflows.errors import WorkflowError
from workflows.run.splitting import Split
from workflows.store.rows import StoredAnswer
from wsi.cleanup import cleaning_up
from wsi.errors import SlideError
from wsi.limits import raise_limit
from wsi.threads import thread_pool
from wsi.tile import Tile

Retry = bool | Callable[[Answer], bool]
"""Whether items that failed in an earlier call are asked again, or which."""
_MOST_BYTES = 1 << 30
"""Pixels that are handed to an engine in one call, in bytes, besides those of one item."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Something that is asked about.

    Attributes
    ----------
    key : int
        Its number in the journal.
    load : callable
        Gives the image, uint8 (height, width, 3), or `Subject` that is asked about; or an `Answer` where there is
        nothing to ask. What it raises fails this item alone.
    request : Request, optional
        The item's own question, where the items of a run have different ones.
    tile : Tile, optional
        Frame of the image in level-0 px of a slide; objects are stored in px of the image without it.
    """

    key: int
    load: Callable[[], Picture | Subject | Answer]
    request: Request | None = None
    tile: Tile | None = None


class AnswerStore(Protocol):
    """What the runner needs of a store."""

    def finished(self) -> NDArray[np.int64]:
        """Keys of items with an answer other than failed."""

    def failed(self) -> NDArray[np.int64]:
        """Keys of items whose last attempt failed."""

    def answer(self, tile: int) -> StoredAnswer | None:
        """The last answer of an item."""

    def put(self, batch: Sequence[tuple[Tile, Answer]], splits: Sequence[Split] = ()) -> None:
        """Store answers, all or none."""

    def last_seq(self) -> int:
        """Number of the newest answer."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, after each batch.

    Attributes
    ----------
    done, total : int
        Items answered so far, earlier attempts included, and all items that this call works towards. Both grow
        where an item is split: its parts are asked besides.
    resumed : int
        Items that were answered before this call.
    failed : int
        Answers that failed in this call.
    objects : int
        Objects found in this call, before merging.
    seconds : float
        Time since the first item was asked for.
    seq : int
        Newest `seq` of the store; see `RunStore.changes_since`.
    splits : int
        Items that were split in this call.
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
        """Items per second in this call; 0 before the first."""
        return (self.done - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to go at this rate, or None before the first item."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call of `run_items` did: answers stored, and whether it was stopped."""

    answers: int
    cancelled: bool


def run_items(
    items: Sequence[Item],
    requests: Sequence[Request],
    engine: Engine,
    store: AnswerStore | Sequence[AnswerStore],
    *,
    split: Callable[[Item, Answer], Split | None] | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    refine: Callable[[Item, Answer], Answer] | None = None,
    no_room: Callable[[Item, Answer], EngineError] | None = None,
    guard: Callable[[], None] | None = None,
    cancel: threading.Event | None = None,
    retry_failed: Retry = True,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int = 0,
) -> Asked:
    """Ask about every item that has no answer yet; then about what those were split into, until none is left.

    An item that cannot be loaded, or on which the engine raises, fails alone. A batch that does not fit into memory is
    asked in halves. Each batch is stored before the next is asked: killed at any moment, the same call goes on.

    Parameters
    ----------
    items : sequence of Item
    requests : sequence of Request
        Each is asked about every item, and its answers are kept in the store of its place; items with a request of
        their own are asked that one, and there is one store.
    engine : Engine
    store : AnswerStore, or sequence of them
    split : callable, optional
        The items that take the place of an answered one (`Split.items`); None where it stays.
    on_batch : callable, optional
        Called after every batch.
    refine : callable, optional
        Makes the answer that is stored out of the engine's.
    no_room : callable, optional
        The error that ends the run, once it is stored, where one item does not fit into memory and is not split: for
        items of one size, of which no other would fit. Without it such an item fails alone.
    guard : callable, optional
        Called before a batch is stored; what it raises ends the run, and the batch is not stored.
    cancel : threading.Event, optional
        Once set, nothing more is asked after the batch at hand.
    retry_failed : bool or callable
        Ask again about items that failed in an earlier call, or about those of which a callable says so.
    limit : int, optional
        Ask about at most so many items.
    batch_size : int, optional
        Items of a batch; by default what the engine says.
    workers : int
        Threads that load items ahead; 0 loads each when it is asked about.

    Raises
    ------
    EngineError, RequestError
        The model is unusable. What was answered is stored, also the part of a batch that arrived from a server.
    StoreError
    """
    stores = tuple(store) if isinstance(store, Sequence) else (store,)
    size = batch_size or max(1, min((engine.batch_size(request) for request in requests), default=1))
    runner = _Runner(requests, engine, stores, split, on_batch, refine, no_room, guard, cancel)
    return runner.run(items, retry_failed=retry_failed, limit=limit, size=size, workers=workers)


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    item: Item
    subject: Picture | Subject | Answer


@dataclass(eq=False)
class _Runner:
    requests: Sequence[Request]
    engine: Engine
    stores: tuple[AnswerStore, ...]
    split: Callable[[Item, Answer], Split | None] | None
    on_batch: Callable[[Progress], None] | None
    refine: Callable[[Item, Answer], Answer] | None
    no_room: Callable[[Item, Answer], EngineError] | None
    guard: Callable[[], None] | None
    cancel: threading.Event | None
    cancelled: bool = False
    settled: list[set[int]] = field(default_factory=list)
    resumed: int = 0
    items: int = 0
    answers: int = 0
    failed: int = 0
    objects: int = 0
    splits: int = 0
    total: int = 0
    begun: float = 0.0

    def run(
        self,
        items: Sequence[Item],
        *,
        retry_failed: bool | Callable[[Answer], bool],
        limit: int | None,
        size: int,
        workers: int,
    ) -> Asked:
        self.settled = [set(store.finished().tolist()) for store in self.stores]
        keys = [item.key for item in items]
        self.resumed = sum(all(key in known for known in self.settled) for key in keys)
        for known, store in zip(self.settled, self.stores, strict=True):
            known.update(_given_up(store, retry_failed))
        self.begun = time.perf_counter()
        while not self._stopped():
            left = [n for n, key in enumerate(keys) if any(key not in known for known in self.settled)]
            left = left if limit is None else left[: max(0, limit - self.items)]
            if not left:
                break
            self.total = self.resumed + self.items + len(left)
            parts = self._ask_all((items[n] for n in left), size, workers)
            items = sorted(parts, key=lambda item: item.key)
            keys = [item.key for item in items]
        return Asked(self.answers, self.cancelled)

    def _ask_all(self, items: Iterable[Item], size: int, workers: int) -> list[Item]:
        """Ask about items until all are answered or the run is stopped; the items that some were split into."""
        parts: list[Item] = []
        with closing(load_ahead(items, workers, 2 * size)) as loaded:
            for batch in _batches(loaded, size):
                parts += self._ask_batch(batch)
                if self._stopped():
                    break
        return parts

    def _ask_batch(self, batch: Sequence[_Loaded]) -> list[Item]:
        """Ask about a batch and store its answers; the items that some were split into."""
        parts: list[Item] = []
        of_store = [[each for each in batch if each.item.key not in known] for known in self.settled]
        told, lost = self._answers([(each, n) for n, row in enumerate(of_store) for each in row])
        answers = iter(told)
        if self.guard is not None:
            self.guard()
        stop: EngineError | None = lost
        for store, row in zip(self.stores, of_store, strict=True):
            arrived = [(each.item, next(answers)) for each in row]
            found = [(item, answer) for item, answer in arrived if answer is not None]
            splits = self._put(store, found)
            parts += [item for made in splits for item in made.items]
            stop = stop or self._without_room(found, {made.tile for made in splits})
        self.items += len(batch)
        self.total += len(parts)
        self._report()
        if stop is not None:
            raise stop
        return parts

    def _put(self, store: AnswerStore, found: Sequence[tuple[Item, Answer]]) -> list[Split]:
        """Store answers with the splits they call for."""
        made = [self.split(item, answer) for item, answer in found] if self.split is not None else []
        splits = [each for each in made if each is not None]
        store.put([(_tile(item), answer) for item, answer in found], splits)
        self.answers += len(found)
        self.splits += len(splits)
        self.failed += sum(answer.status is Status.FAILED for _, answer in found)
        self.objects += sum(len(answer.objects) for _, answer in found)
        return splits

    def _report(self) -> None:
        if self.on_batch is None:
            return
        seconds, seq = time.perf_counter() - self.begun, self.stores[0].last_seq()
        self.on_batch(
            Progress(
                self.resumed + self.items,
                self.total,
                self.resumed,
                self.failed,
                self.objects,
                seconds,
                seq,
                self.splits,
            )
        )

    def _without_room(self, found: Sequence[tuple[Item, Answer]], parted: set[int]) -> EngineError | None:
        """The error that ends the run where an item does not fit into memory and is not made smaller."""
        if self.no_room is None:
            return None
        lost = ((i, a) for i, a in found if OUT_OF_MEMORY in a.notes and i.key not in parted)
        return next((self.no_room(item, answer) for item, answer in lost), None)

    def _stopped(self) -> bool:
        self.cancelled = self.cancel is not None and self.cancel.is_set()
        return self.cancelled

    def _answers(self, cells: Sequence[tuple[_Loaded, int]]) -> tuple[list[Answer | None], ServerError | None]:
        """An answer to every item and number of a request; None where the server was lost before it arrived."""
        asked = [
            (each.subject, each.item.request or self.requests[number])
            for each, number in cells
            if not isinstance(each.subject, Answer)
        ]
        arrived, lost = ask_questions(self.engine, asked, raise_limit)
        told = iter(arrived)
        answers = [each.subject if isinstance(each.subject, Answer) else next(told) for each, _ in cells]
        if self.refine is not None:
            items = [each.item for each, _ in cells]
            answers = [a and self.refine(item, a) for item, a in zip(items, answers, strict=True)]
        return answers, lost


def _given_up(store: AnswerStore, retry: Retry) -> Iterator[int]:
    """Keys of items that failed and are not asked again."""
    for key in () if retry is True else store.failed().tolist():
        stored = store.answer(key) if callable(retry) else None
        if stored is None or not (callable(retry) and retry(stored.answer)):
            yield key


def load_ahead(items: Iterable[Item], workers: int, ahead: int) -> Generator[_Loaded, None, None]:
    """Items with what is asked about, in their order, at most `ahead` of them loaded and waiting."""
    if not workers:
        yield from map(_load, items)
        return
    pool = thread_pool(workers, "items")
    with cleaning_up(partial(pool.shutdown, wait=True, cancel_futures=True)):
        waiting: deque[Future[_Loaded]] = deque()
        for item in items:
            waiting.append(pool.submit(_load, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load(item: Item) -> _Loaded:
    try:
        return _Loaded(item, item.load())
    except (SlideError, WorkflowError, QwenVLError) as error:
        raise_limit(error)
        return _Loaded(item, Answer.failure(str(error)))
    except Exception as error:
        raise_limit(error)
        return _Loaded(item, Answer.failure(f"It cannot be read: {error!r}."))


def _batches(loaded: Iterator[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    """As many at once as the engine wants and memory holds."""
    batch: list[_Loaded] = []
    held = 0
    for each in loaded:
        batch.append(each)
        held += _bytes(each.subject)
        if len(batch) >= size or held >= _MOST_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _bytes(subject: Picture | Subject | Answer) -> int:
    if isinstance(subject, Answer):
        return 0
    if isinstance(subject, Subject):
        return sum(picture.pixels.nbytes for picture in subject.pictures)
    return subject.nbytes


def _tile(item: Item) -> Tile:
    """Where the item's objects lie; px of its own image without a frame."""
    return item.tile or Tile(item.key, 0, 0, 1, 1, 1, 1)
