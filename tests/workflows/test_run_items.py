"""The runner by itself: which calls an engine gets, what is stored, and what happens to items that fail."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.engines.fake import FakeEngine
from qwenvl.errors import EngineError
from qwenvl.request import Request
from qwenvl.subject import Subject
from workflows.run import Item, Progress, run_items
from workflows.run.items import load_ahead
from workflows.run.splitting import Split, Why
from wsi.errors import LimitError
from wsi.tile import Tile

ASK = Request(task="ask", prompt="What?")
OTHER = Request(task="ask", prompt="Which?")
NONE = np.zeros(0)


class MemoryJournal:
    """Keeps answers in memory."""

    def __init__(self) -> None:
        self.batches: list[dict[int, Answer]] = []
        self.splits: list[int] = []

    @property
    def answers(self) -> dict[int, Answer]:
        return {key: answer for batch in self.batches for key, answer in batch.items()}

    def _of(self, *, failed: bool) -> np.ndarray:
        keys = (k for k, a in self.answers.items() if (a.status is Status.FAILED) is failed)
        return np.array(sorted(keys), np.int64)

    def finished(self) -> np.ndarray:
        return self._of(failed=False)

    def failed(self) -> np.ndarray:
        return self._of(failed=True)

    def put(self, batch: Sequence[tuple[Tile, Answer]], splits: Sequence[Split] = ()) -> None:
        self.batches.append({tile.index: answer for tile, answer in batch})
        self.splits += [split.tile for split in splits]

    def last_seq(self) -> int:
        return len(self.batches)


class CallEngine(FakeEngine):
    """Notes every call as (images, requests), and raises where told."""

    def __init__(self, trouble: Callable[[Sequence[Any]], Exception | None] = lambda shown: None) -> None:
        super().__init__(batch=4)
        self.calls: list[tuple[int, int]] = []
        self.trouble = trouble

    def answer_many(self, pictures: Sequence[Any], requests: Sequence[Request]) -> list[list[Answer]]:
        self.calls.append((len(pictures), len(requests)))
        if (error := self.trouble(pictures)) is not None:
            raise error
        return [super(CallEngine, self).answer(pictures, request) for request in requests]

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        return self.answer_many(pictures, [request])[0]


def image(number: int) -> np.ndarray:
    return np.full((8, 8, 3), number, np.uint8)


def items(count: int = 8, broken: frozenset[int] = frozenset(), **fields: Any) -> list[Item]:
    def load(n: int) -> np.ndarray:
        if n in broken:
            raise OSError(f"{n} is cut off")
        return image(n)

    return [Item(n, lambda n=n: load(n), **fields) for n in range(count)]


def shows(number: int) -> Callable[[Sequence[Any]], bool]:
    return lambda shown: any(each.flat[0] == number for each in shown)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_cannot_be_loaded_fails_alone(workers: int) -> None:
    journal, engine = MemoryJournal(), CallEngine()
    done = run_items(items(broken=frozenset({5})), [ASK], engine, journal, workers=workers)
    assert done.answers == 8
    assert engine.calls == [(4, 1), (3, 1)]
    assert [k for k, a in journal.answers.items() if a.status is Status.FAILED] == [5]
    assert "5 is cut off" in str(journal.answers[5].error)
    assert list(journal.answers) == list(range(8))


def test_an_item_on_which_the_engine_raises_fails_alone() -> None:
    journal = MemoryJournal()
    engine = CallEngine(lambda shown: ValueError("ugly") if shows(2)(shown) else None)
    run_items(items(), [ASK], engine, journal)
    assert [k for k, a in journal.answers.items() if a.status is Status.FAILED] == [2]
    assert engine.calls == [(4, 1), *[(1, 1)] * 4, (4, 1)]
    assert "asked-alone:ValueError" in journal.answers[1].notes


def test_a_batch_without_memory_is_asked_in_halves() -> None:
    journal = MemoryJournal()
    engine = CallEngine(lambda shown: MemoryError() if len(shown) > 2 else None)
    run_items(items(), [ASK], engine, journal)
    assert engine.calls == [(4, 1), (2, 1), (2, 1)] * 2
    assert all(answer.status is Status.OK for answer in journal.answers.values())
    assert len(journal.batches) == 2


def test_an_item_without_memory_fails_alone_or_ends_the_run_once_it_is_stored() -> None:
    journal = MemoryJournal()
    engine = CallEngine(lambda shown: MemoryError() if shows(1)(shown) else None)
    run_items(items(), [ASK], engine, journal)
    assert [k for k, a in journal.answers.items() if OUT_OF_MEMORY in a.notes] == [1]
    journal = MemoryJournal()
    with pytest.raises(EngineError, match="item 1"):
        run_items(items(), [ASK], engine, journal, no_room=lambda item, _: EngineError(f"item {item.key}"))
    assert sorted(journal.answers) == [0, 1, 2, 3]


def test_an_unusable_model_ends_the_run_and_the_batches_before_are_kept() -> None:
    journal = MemoryJournal()
    engine = CallEngine(lambda shown: EngineError("gone") if shows(6)(shown) else None)
    with pytest.raises(EngineError, match="gone"):
        run_items(items(), [ASK], engine, journal)
    assert sorted(journal.answers) == [0, 1, 2, 3]


def test_several_questions_about_each_item_are_one_call_and_only_the_open_ones_are_asked() -> None:
    first, second = MemoryJournal(), MemoryJournal()
    engine = CallEngine()
    run_items(items(4), [ASK], engine, first)
    seen: list[Progress] = []
    run_items(items(), [ASK, OTHER], engine, [first, second], on_batch=seen.append)
    assert engine.calls == [(4, 1), (4, 1), (4, 2)]
    assert sorted(first.answers) == sorted(second.answers) == list(range(8))
    assert [(state.done, state.total, state.resumed) for state in seen] == [(4, 8, 0), (8, 8, 0)]


def test_items_with_questions_of_their_own_are_asked_by_question() -> None:
    journal, engine = MemoryJournal(), CallEngine()
    mixed = [Item(n, lambda n=n: image(n), [ASK, OTHER][n % 2]) for n in range(4)]
    run_items(mixed, [ASK, OTHER], engine, journal)
    assert engine.calls == [(2, 1), (2, 1)]
    nothing = Subject()
    without = [Item(n, lambda: nothing, ASK.model_copy()) for n in range(4)]
    engine.calls.clear()
    run_items(without, [ASK], engine, MemoryJournal())
    assert engine.calls == [(1, 4)], "questions without an image are one call"


def test_parts_take_the_place_of_an_item_and_are_asked_in_the_next_round() -> None:
    journal, engine = MemoryJournal(), CallEngine()

    def split(item: Item, answer: Answer) -> Split | None:
        if item.key != 1:
            return None
        parts = [Item(11, lambda: image(11)), Item(10, lambda: image(10))]
        return Split(item.key, Why.CROWDED, 1, NONE, parts)

    seen: list[Progress] = []
    done = run_items(items(5), [ASK], engine, journal, split=split, on_batch=seen.append)
    assert list(journal.answers) == [0, 1, 2, 3, 4, 10, 11]
    assert journal.splits == [1]
    assert done.answers == 7
    assert [(state.done, state.total, state.splits) for state in seen] == [(4, 7, 1), (5, 7, 1), (7, 7, 1)]


def test_limits_retries_and_stops() -> None:
    journal = MemoryJournal()
    broken = items(broken=frozenset({0}))
    assert run_items(broken, [ASK], CallEngine(), journal, limit=3).answers == 3
    assert run_items(broken, [ASK], CallEngine(), journal, retry_failed=False, limit=2).answers == 2
    assert sorted(journal.answers) == [0, 1, 2, 3, 4]
    stop = threading.Event()
    done = run_items(items(), [ASK], CallEngine(), journal, cancel=stop, on_batch=lambda _: stop.set())
    assert done.cancelled
    assert sorted(journal.answers) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert journal.answers[0].status is Status.OK, "what failed is asked again"
    assert run_items(items(), [ASK], CallEngine(), journal, cancel=stop).cancelled


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (3, 4), (2, 9)])
def test_items_are_loaded_ahead_in_order_and_no_more_than_asked(workers: int, ahead: int) -> None:
    loaded: list[int] = []
    many = [Item(n, lambda n=n: loaded.append(n) or image(n)) for n in range(30)]
    for taken, each in enumerate(load_ahead(many, workers, ahead)):
        assert each.item.key == taken
        assert len(loaded) <= taken + ahead


@pytest.mark.parametrize("how", ["dropped", "closed", "raised"])
def test_stopping_early_ends_the_threads(how: str) -> None:
    running = load_ahead(items(30), 3, 9)
    next(running)
    assert [t for t in threading.enumerate() if t.name.startswith("items")]
    if how == "raised":
        with pytest.raises(KeyboardInterrupt):
            running.throw(KeyboardInterrupt())
    elif how == "closed":
        running.close()
    del running
    assert not [t for t in threading.enumerate() if t.name.startswith("items")]


def test_a_limit_of_the_process_ends_the_run_and_fails_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = MemoryJournal()
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.svs")

    def exhausted() -> np.ndarray:
        raise error

    with pytest.raises(LimitError, match="Too many files are open"):
        run_items([*items(4), Item(4, exhausted)], [ASK], CallEngine(), journal)
    assert sorted(journal.answers) == [0, 1, 2, 3]
    engine = CallEngine(lambda shown: error if shows(5)(shown) else None)
    with pytest.raises(LimitError, match="Too many files are open"):
        run_items(items(), [ASK], engine, journal)

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(LimitError, match="No further thread"):
        run_items(items(), [ASK], CallEngine(), journal, workers=2)
    assert sorted(journal.answers) == [0, 1, 2, 3]


def test_what_a_guard_refuses_is_not_stored() -> None:
    journal = MemoryJournal()

    def guard() -> None:
        if journal.batches:
            raise OSError("rewritten")

    with pytest.raises(OSError, match="rewritten"):
        run_items(items(), [ASK], CallEngine(), journal, guard=guard)
    assert sorted(journal.answers) == [0, 1, 2, 3]


def test_an_answer_in_place_of_an_image_is_kept_without_asking_and_answers_are_refined() -> None:
    journal, engine = MemoryJournal(), CallEngine()
    left_out = Item(0, lambda: Answer(Status.EXCLUDED))
    run_items([left_out, *items()[1:3]], [ASK], engine, journal, refine=lambda item, a: Answer(a.status, text="x"))
    assert engine.calls == [(2, 1)]
    assert [a.status for a in journal.answers.values()] == [Status.EXCLUDED, Status.OK, Status.OK]
    assert {a.text for a in journal.answers.values()} == {"x"}
