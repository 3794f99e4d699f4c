"""The loader: pictures of tiles, read ahead by threads, slide after slide."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from wsi.cleanup import clean_up, cleaning_up
from wsi.errors import ReadError, SlideError
from wsi.limits import raise_limit
from wsi.slide import RGB, Slide
from wsi.threads import thread_pool
from wsi.tile import Tile


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide and the tiles wanted of it.

    Attributes
    ----------
    key : hashable
        What the loader calls this slide in its results, for example its path.
    source : Slide, or callable returning one
        An opened slide stays open. A callable is run by a thread ahead of time, and the slide it opens is
        closed after its last tile.
    tiles : iterable of Tile, or callable taking the slide and returning one
        A callable (mask and grid of the slide) is run ahead of time as well.
    """

    key: Any
    source: Slide | Callable[[], Slide]
    tiles: Iterable[Tile] | Callable[[Slide], Iterable[Tile]]


class Loaded(NamedTuple):
    """One result of the loader, in the order of jobs and tiles."""

    key: Any
    """The job's key."""
    tile: Tile | None
    """None where the slide could not be opened or its tiles not be listed."""
    picture: RGB | Exception
    """uint8 (height, width, 3); or why there is none, ReadError for a tile that could not be read."""


class TileLoader:
    """Read the tiles of many slides in order, ahead of the consumer.

    At most `ahead` tiles are read or waiting at any time, besides the one in the consumer's hand, so memory
    is bounded however slow the consumer is. The next slide is opened while the one before is read. A tile
    that cannot be read comes as an exception in its place and the loop goes on: it is never white, and never
    ends the run. Only a limit of the process does (LimitError: too many open files, no threads): no tile's fault.

    Parameters
    ----------
    jobs : iterable of SlideJob
        Taken one ahead; may be a generator.
    workers : int
        Reading threads. No process is forked.
    ahead : int
        Most tiles in flight; at least the batch size keeps a model busy.

    Examples
    --------
    >>> with TileLoader([SlideJob("a", slide, grid)]) as loader:  # doctest: +SKIP
    ...     for key, tile, picture in loader:
    ...         ...
    """

    def __init__(self, jobs: Iterable[SlideJob], *, workers: int = 4, ahead: int = 32) -> None:
        if workers < 1 or ahead < 1:
            raise ValueError(f"TileLoader needs at least one worker and one tile, not {workers} and {ahead}.")
        self._jobs, self._workers, self._ahead = jobs, workers, ahead
        # Weak, so that an iterator the consumer drops is closed at once.
        self._running: weakref.WeakSet[Generator[Loaded, None, None]] = weakref.WeakSet()

    def __iter__(self) -> Generator[Loaded, None, None]:
        run = _loaded(self._jobs, self._workers, self._ahead)
        self._running.add(run)
        return run

    def batches(self, size: int) -> Iterator[list[Loaded]]:
        """Lists of up to `size` results, across slide borders; only the last may be shorter."""
        if size < 1:
            raise ValueError(f"A batch holds at least one tile, not {size}.")
        with closing(iter(self)) as run:
            while batch := list(islice(run, size)):
                yield batch

    def close(self) -> None:
        """Stop all iterations: threads end, slides that the loader opened are closed."""
        for run in list(self._running):
            run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean_up(error, self.close)


def _loaded(jobs: Iterable[SlideJob], workers: int, ahead: int) -> Generator[Loaded, None, None]:
    reading = _Reading(iter(jobs), thread_pool(workers, "tile-loader"), ahead)
    with cleaning_up(reading.close):
        while True:
            # Top up before delivering, so that the threads read on while the consumer works.
            reading.top_up()
            item = reading.next_result()
            if item is None:
                return
            if isinstance(item.picture, Exception):
                raise_limit(item.picture)
            yield item
            del item


@dataclass(slots=True)
class _Opened:
    job: SlideJob
    slide: Slide
    tiles: Iterator[Tile]
    last: _Pending | None = None


@dataclass(slots=True)
class _Pending:
    key: Any
    tile: Tile | None
    outcome: Future[RGB] | Exception
    closes: _Opened | None = None
    """The slide to close once this is delivered."""


class _Reading:
    """What is being read: the slide at hand, the one being opened, the tiles in flight. For one thread."""

    def __init__(self, jobs: Iterator[SlideJob], pool: ThreadPoolExecutor, ahead: int) -> None:
        self.jobs, self.pool, self.ahead = jobs, pool, ahead
        self.pending: deque[_Pending] = deque()
        self.owned: set[Slide] = set()
        self.current: _Opened | None = None
        self.upcoming: tuple[SlideJob, Future[_Opened]] | None = None
        self.started = False

    def top_up(self) -> None:
        """Hand tiles to the threads until `ahead` are in flight."""
        if not self.started:
            self.started = True
            self._open_upcoming()
        while len(self.pending) < self.ahead:
            if self.current is None and not self._enter_slide():
                return
            if self.current is None:
                continue
            opened = self.current
            try:
                tile = next(opened.tiles, None)
            except Exception as error:
                opened.last = _Pending(opened.job.key, None, error)
                self.pending.append(opened.last)
                tile = None
            if tile is None:
                self._leave_slide(opened)
            else:
                opened.last = _Pending(opened.job.key, tile, self.pool.submit(read_tile, opened.slide, tile))
                self.pending.append(opened.last)

    def next_result(self) -> Loaded | None:
        """The oldest result, waited for; None at the end."""
        if not self.pending:
            return None
        item = self.pending.popleft()
        picture: RGB | Exception
        if isinstance(item.outcome, Exception):
            picture = item.outcome
        else:
            try:
                picture = item.outcome.result()
            except Exception as error:
                picture = error
        if item.closes is not None:
            self._close_slide(item.closes)
        return Loaded(item.key, item.tile, picture)

    def close(self) -> None:
        """End the threads, then close what was opened; also what was still being opened."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        owned, self.owned = self.owned, set()
        clean_up(None, *(slide.close for slide in owned))

    def _open_upcoming(self) -> None:
        job = next(self.jobs, None)
        self.upcoming = None if job is None else (job, self.pool.submit(self._open, job))

    def _open(self, job: SlideJob) -> _Opened:
        slide = job.source if isinstance(job.source, Slide) else job.source()
        if slide is not job.source:
            self.owned.add(slide)
        return _Opened(job, slide, iter(job.tiles(slide) if callable(job.tiles) else job.tiles))

    def _enter_slide(self) -> bool:
        """Make the slide opened ahead the current one; False where that is not possible yet, or ever."""
        if self.upcoming is None:
            return False
        job, opening = self.upcoming
        if self.pending and not opening.done():
            return False
        try:
            self.current = opening.result()
        except Exception as error:
            self.pending.append(_Pending(job.key, None, error))
        self._open_upcoming()
        return True

    def _leave_slide(self, opened: _Opened) -> None:
        """Close a slide after its last pending tile."""
        self.current = None
        if self.pending and self.pending[-1] is opened.last:
            opened.last.closes = opened
        else:
            self._close_slide(opened)

    def _close_slide(self, opened: _Opened) -> None:
        if opened.slide in self.owned:
            self.owned.discard(opened.slide)
            opened.slide.close()


def read_tile(slide: Slide, tile: Tile) -> RGB:
    """The image of a tile, uint8 (height, width, 3); whatever goes wrong is a SlideError that names tile and slide."""
    try:
        return slide.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height))
    except SlideError:
        raise
    except Exception as error:
        raise ReadError(
            f"Tile {tile.index} at ({tile.x0}, {tile.y0}) of {slide.path} could not be read: {error!r}."
        ) from error
