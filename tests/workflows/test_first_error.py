"""What went wrong first is what is said: faults planted in the cleaning up are notes on it, and locks are free."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cohort_helpers import plan_of, run_cohort, study_of, threads
from run_helpers import CountingEngine, MemorySlide

import workflows.cohort.study.engines
import workflows.cohort.workers.work
import workflows.store.folder
from qwenvl.answer import Answer
from qwenvl.errors import EngineError
from qwenvl.request import Request
from workflows.cohort import look_at
from workflows.cohort.folder import AtWork, BatchFolder
from workflows.cohort.study.config import ModelSettings
from workflows.errors import ExportError, StoreError
from workflows.export._file import new_text_file
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore
from wsi.synthetic import Scene, write_slide


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "no room to clean up")


class Gone(CountingEngine):
    """Fails at a given batch, and lets other things fail from then on."""

    def __init__(self, at: int, then: Callable[[], object] = lambda: None) -> None:
        super().__init__(boxes=6, batch=4)
        self.at, self.batches, self.then = at, 0, then

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        self.batches += 1
        if self.batches == self.at:
            self.then()
            raise EngineError("The server is gone.")
        return super().answer(pictures, request)


def notes_of(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", []))


@pytest.mark.parametrize("at", [1, 3])
def test_a_store_that_cannot_be_closed_or_discarded(
    detect: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:

        def then() -> None:
            patch.setattr(RunStore, "close", full)
            patch.setattr(Path, "unlink", full)

        with pytest.raises(EngineError, match="server is gone") as caught:
            run_slide(MemorySlide(), detect, Gone(at, then), out, mask="all", overview=False)
    assert "no room to clean up" in notes_of(caught.value)
    if at == 1:
        assert run_slide(MemorySlide(), detect, Gone(0), out, mask="all", overview=False).complete, "the lock is free"


def test_a_run_whose_journal_is_lost_meanwhile(
    detect: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: RunStore) -> bool:
        raise StoreError("the journal cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "begun", lost)
        with pytest.raises(EngineError, match="server is gone") as caught:
            run_slide(MemorySlide(), detect, Gone(2), tmp_path / "run", mask="all", overview=False)
    assert "the journal cannot be read" in notes_of(caught.value)
    with RunStore.open(tmp_path / "run", readonly=False) as store:
        assert len(store.finished()) == 4


def test_a_lock_that_cannot_be_given_back(detect: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_slide(MemorySlide(), detect, Gone(0), tmp_path / "run", mask="all", overview=False)
    monkeypatch.setattr(workflows.store.folder.Claim, "release", full)
    with (
        pytest.raises(ValueError, match="the first") as caught,
        RunStore.open(tmp_path / "run", readonly=False) as store,
    ):
        raise ValueError("the first")
    assert "no room to clean up" in notes_of(caught.value)
    with pytest.raises(StoreError, match="closed"):
        store.last_seq()


def test_an_export_whose_temporary_file_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.geojson"
    context = new_text_file(path, (".geojson",), overwrite=False)
    stream = context.__enter__()
    stream.write("half")
    monkeypatch.setattr(Path, "unlink", full)
    first = ExportError("the first")
    assert not context.__exit__(ExportError, first, None)
    assert "no room to clean up" in notes_of(first)
    assert not path.exists()


def test_an_engine_that_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        @property
        def info(self) -> Any:
            raise EngineError("The server says nothing of its model.")

        def close(self) -> None:
            raise OSError("the engine cannot be closed")

    with monkeypatch.context() as patch:
        patch.setattr(workflows.cohort.study.engines, "_own", lambda path: Odd())
        with pytest.raises(EngineError, match="says nothing") as caught:
            look_at(ModelSettings(engine="a:b"), allow_code=True)
    assert "the engine cannot be closed" in notes_of(caught.value)

    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    monkeypatch.setenv("COHORT_TOLD", "gone")
    monkeypatch.setattr("cohort_engine.Told.close", lambda self: full())
    write_slide(tmp_path / "a.svs", Scene(100, 100, 0), mpp=0.25, downsamples=(1, 4), truth=False)
    workflows.cohort.workers.work._engines.clear()
    plan = plan_of_unclosed(tmp_path, monkeypatch)
    outcome = run_cohort(plan, tmp_path / "out").outcomes["a"]
    assert outcome.reason.startswith("The server is gone")
    assert "no room to clean up" in outcome.reason
    assert not workflows.cohort.workers.work._engines


def plan_of_unclosed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr("cohort_engine.Told.close", lambda self: None)
        return plan_of(folder, study_of(cluster={"workers": 1}))


def test_a_batch_that_cannot_take_its_token_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BatchFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(AtWork, "call_off", full)
        with pytest.raises(ValueError, match="the first") as caught, AtWork(folder):
            raise ValueError("the first")
    assert "no room to clean up" in notes_of(caught.value)
    with AtWork(folder):
        pass
