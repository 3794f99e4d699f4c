"""The loader keeps order, memory and promises: bounded, across slides, errors as values, no thread left."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from array_slide import ArraySlide

from wsi import SlideJob, Tile, TileGrid, TileLoader
from wsi.errors import MaskError, ReadError, RegionError, SlideError, UnsupportedSlideError
from wsi.slide import RGB


class CountingSlide(ArraySlide):
    """A slide that takes its time and counts the reads begun."""

    def __init__(self, name: str, seconds: float = 0.0, **options: object) -> None:
        y, x = np.mgrid[:128, :128]
        picture = np.stack([x, y, np.full_like(x, len(name))], -1).astype(np.uint8)
        super().__init__(picture, name=name, **options)
        self.seconds, self.reads, self.lock = seconds, 0, threading.Lock()

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        with self.lock:
            self.reads += 1
        time.sleep(self.seconds)
        return super()._read(x, y, width, height, level)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("tile-loader")]


def _grid(slide: ArraySlide) -> TileGrid:
    return TileGrid.from_slide(slide, tile_size=16)


def test_pictures_come_in_the_order_of_jobs_and_tiles() -> None:
    slides = [CountingSlide("a", 0.001), CountingSlide("b")]
    jobs = [SlideJob(slide.path.name, slide, _grid(slide)) for slide in slides]
    results = list(TileLoader(jobs, workers=4, ahead=7))
    assert [(r.key, r.tile.index) for r in results] == [(k, i) for k in "ab" for i in range(64)]
    for key, tile, picture in results:
        assert picture.shape == (16, 16, 3)
        assert picture[0, 0].tolist() == [tile.x0, tile.y0, len(key)]
    assert [slide.closed for slide in slides] == [0, 0]


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 5), (4, 16)])
def test_a_slow_consumer_does_not_pile_up_pictures(workers: int, ahead: int) -> None:
    slide = CountingSlide("a")
    for taken, _ in enumerate(
        TileLoader([SlideJob("a", slide, _grid(slide))], workers=workers, ahead=ahead), 1
    ):
        time.sleep(0.002)
        assert slide.reads <= taken + ahead - 1


def test_a_read_error_is_a_value_in_its_place() -> None:
    slide = CountingSlide("a", broken=(20, 20, 40, 40))
    results = list(TileLoader([SlideJob("a", slide, _grid(slide))]))
    failed = [r.tile.index for r in results if isinstance(r.picture, Exception)]
    assert failed == [9, 10, 17, 18]
    assert all(isinstance(results[i].picture, ReadError) for i in failed)
    assert len(results) == 64


def test_any_other_failure_becomes_a_read_error_that_names_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = CountingSlide("a")
    monkeypatch.setattr(slide, "_read", lambda *_: 1 / 0)
    results = list(
        TileLoader([SlideJob("a", slide, _grid(slide)[:2]), SlideJob("b", CountingSlide("b"), [])])
    )
    assert [type(r.picture) for r in results] == [ReadError, ReadError]
    assert "Tile 1 at (16, 0) of a" in str(results[1].picture)


def test_a_tile_outside_the_slide_is_an_error_value() -> None:
    [result] = TileLoader([SlideJob("a", CountingSlide("a"), [Tile(0, 120, 0, 16, 16, 16, 16)])])
    assert isinstance(result.picture, RegionError)


def test_a_slide_that_does_not_open_is_one_error_and_the_next_follows() -> None:
    def refuse() -> ArraySlide:
        raise UnsupportedSlideError("b.svs is truncated.")

    def no_tissue(slide: object) -> list[Tile]:
        raise MaskError("No tissue.")

    def breaks(slide: ArraySlide) -> Iterator[Tile]:
        yield from _grid(slide)[:1]
        raise SlideError("list broke")

    opened: list[CountingSlide] = []

    def opener() -> CountingSlide:
        opened.append(CountingSlide("x"))
        return opened[-1]

    jobs = [
        SlideJob("a", opener, lambda slide: _grid(slide)[:3]),
        SlideJob("b", refuse, _grid),
        SlideJob("c", opener, no_tissue),
        SlideJob("d", opener, breaks),
        SlideJob("e", opener, []),
        SlideJob("f", opener, _grid),
    ]
    results = list(TileLoader(jobs))
    assert [r.key for r in results] == ["a"] * 3 + ["b", "c", "d", "d"] + ["f"] * 64
    errors = {r.key: (r.tile, type(r.picture)) for r in results if isinstance(r.picture, Exception)}
    assert errors == {
        "b": (None, UnsupportedSlideError),
        "c": (None, MaskError),
        "d": (None, SlideError),
    }
    assert [slide.closed for slide in opened] == [1] * 5


def test_the_next_slide_is_open_before_the_last_tile_of_the_one_before_is_taken() -> None:
    first, second = CountingSlide("a"), CountingSlide("b")
    opening = threading.Event()

    def open_second() -> CountingSlide:
        opening.set()
        return second

    jobs = [SlideJob("a", first, _grid(first)), SlideJob("b", open_second, _grid)]
    loader = TileLoader(jobs, workers=2, ahead=8)
    for count, (key, _, _) in enumerate(loader):
        if count == 1:
            assert opening.wait(60)
        if key == "a" and count == 63:
            deadline = time.monotonic() + 60
            while second.reads < 7 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert second.reads == 7
    assert second.closed == 1


def test_a_slide_is_closed_after_its_last_tile_and_not_before() -> None:
    slides = [CountingSlide(name, 0.001) for name in "abc"]
    jobs = [SlideJob(s.path.name, lambda s=s: s, _grid) for s in slides]
    for result in TileLoader(jobs, ahead=100):
        assert not isinstance(result.picture, Exception)
    assert [s.closed for s in slides] == [1, 1, 1]


@pytest.mark.parametrize("how", ["break", "error", "interrupt", "close", "exit"])
def test_stopping_early_ends_threads_and_closes_slides(how: str) -> None:
    slides = [CountingSlide(name, 0.001) for name in "ab"]
    loader = TileLoader([SlideJob(s.path.name, lambda s=s: s, _grid) for s in slides])
    run = iter(loader)
    next(run)
    if how == "break":
        for _ in run:
            break
        del run, _
    elif how in ("error", "interrupt"):
        kind = ValueError if how == "error" else KeyboardInterrupt
        with pytest.raises(kind):
            _consume_badly(loader, run, kind)
    elif how == "close":
        loader.close()
        with pytest.raises(StopIteration):
            next(run)
    else:
        with loader:
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("tile-loader")]
    assert [s.closed for s in slides] == [1, 1]


def _consume_badly(loader: TileLoader, run: Iterator[object], kind: type[BaseException]) -> None:
    with loader:
        for _ in run:
            raise kind


def test_an_interrupt_while_waiting_ends_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = CountingSlide("a", 0.001)
    run = iter(TileLoader([SlideJob("a", lambda: slide, _grid)]))
    next(run)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(run)
    assert slide.closed == 1


def test_batches_cross_slide_borders() -> None:
    slides = [CountingSlide(name) for name in "ab"]
    jobs = [SlideJob(s.path.name, s, _grid(s)[:10]) for s in slides]
    batches = list(TileLoader(jobs).batches(8))
    assert [len(b) for b in batches] == [8, 8, 4]
    assert [r.key for r in batches[1]] == ["a"] * 2 + ["b"] * 6


def test_a_dropped_batch_iterator_ends_its_threads() -> None:
    slide = CountingSlide("a")
    batches = TileLoader([SlideJob("a", slide, _grid(slide))]).batches(4)
    next(batches)
    batches.close()


def test_jobs_are_taken_one_ahead() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[SlideJob]:
        for i in range(5):
            taken.append(i)
            slide = CountingSlide(str(i))
            yield SlideJob(i, slide, _grid(slide))

    run = iter(TileLoader(jobs(), ahead=4))
    next(run)
    assert taken == [0, 1]
    run.close()


@pytest.mark.parametrize("options", [{"workers": 0}, {"ahead": 0}])
def test_nothing_can_be_read_without_a_worker_or_room(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        TileLoader([], **options)
