"""A run from slide to report: resume, failures, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from run_helpers import CountingEngine, MemorySlide, request_of

from qwenvl.answer import Answer, Status
from qwenvl.engines.fake import FakeEngine
from qwenvl.errors import EngineError, RequestError
from qwenvl.request import Request, Task
from workflows.errors import RunMismatchError, StoreFullError
from workflows.report.report import Report
from workflows.run.slide import Progress, finish_run, run_slide
from workflows.store import folder as _folder
from workflows.store.run_store import RunStore
from wsi.errors import GridError, MaskError, UnknownMppError

BATCH = 4


def ask(out: Path, request: Request, slide: MemorySlide | None = None, **options: object):
    engine = options.pop("engine", None) or CountingEngine(boxes=6, batch=BATCH)
    options.setdefault("mask", "all")
    return run_slide(slide or MemorySlide(), request, engine, out, overview=False, **options)  # type: ignore[arg-type]


def objects_of(folder: Path) -> dict[str, list[object]]:
    with RunStore.open(folder) as store:
        found = store.objects()
        return {name: getattr(found, name).tolist() for name in ("tile", "item", "label", "box", "score")}


@pytest.mark.parametrize("task", list(Task))
def test_every_task_ends_in_a_complete_report(task: Task, tmp_path: Path) -> None:
    result = ask(tmp_path / "run", request_of(task))
    report = result.report
    assert result.complete
    assert report.results.task == task.value
    assert report.tiles.counts.ok == report.tiles.total == result.asked
    assert report.tiles.tissue_answered == 1
    assert report.request == request_of(task)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    in_words = task in (Task.DESCRIBE, Task.ASK, Task.EXTRACT)
    assert names == {"run.sqlite", "report.json"} | (set() if in_words else {"heatmap.zarr"})
    assert Report.read(tmp_path / "run") == report


def test_batches_and_interruptions_do_not_change_the_result(detect: Request, tmp_path: Path) -> None:
    whole = ask(tmp_path / "whole", detect, engine=CountingEngine(boxes=6, batch=64))
    asked: list[int] = []
    for batch, limit in ((1, 3), (5, 11), (2, 1), (7, None)):
        engine = CountingEngine(boxes=6, batch=batch)
        parts = ask(tmp_path / "parts", detect, engine=engine, limit=limit)
        asked += engine.asked
    assert len(asked) == len(set(asked)) == whole.report.tiles.total, "no tile is asked twice"
    assert parts.report.result() == whole.report.result()
    assert objects_of(tmp_path / "parts") == objects_of(tmp_path / "whole")
    again = ask(tmp_path / "parts", detect)
    assert again.asked == 0
    assert again.report.result() == whole.report.result()


def test_a_limit_leaves_an_honest_report(detect: Request, tmp_path: Path) -> None:
    report = ask(tmp_path / "run", detect, limit=5).report
    assert not report.complete
    assert report.tiles.counts.ok == 5
    assert report.tiles.counts.pending == report.tiles.total - 5
    assert 0 < report.tiles.tissue_answered < 0.5
    assert any("not asked yet" in warning for warning in report.warnings)


def test_tiles_that_cannot_be_read_fail_alone_and_are_tried_again(detect: Request, tmp_path: Path) -> None:
    broken = MemorySlide(broken=(700, 500, 720, 520))
    report = ask(tmp_path / "run", detect, broken).report
    assert not report.complete
    assert report.tiles.counts.failed == len(report.tiles.failed) > 0
    assert report.tiles.counts.ok == report.tiles.total - report.tiles.counts.failed
    for failed in report.tiles.failed:
        assert "corrupt" in failed.reason
        assert failed.x0 <= 720
        assert failed.x0 + failed.width0 >= 700
    assert any("failed" in warning for warning in report.warnings)
    left_out = ask(tmp_path / "run", detect, broken, retry_failed=False)
    assert left_out.asked == 0
    healed = MemorySlide()
    healed.fingerprint = broken.fingerprint
    again = ask(tmp_path / "run", detect, healed)
    assert again.asked == report.tiles.counts.failed
    assert again.complete
    assert again.report.run.asked == again.report.tiles.total + report.tiles.counts.failed
    fresh = MemorySlide()
    fresh.fingerprint = broken.fingerprint
    assert again.report.result() == ask(tmp_path / "fresh", detect, fresh).report.result()


def test_what_cannot_be_read_counts_as_tissue_and_is_said(detect: Request, tmp_path: Path) -> None:
    slide = MemorySlide(broken=(10, 10, 40, 40))
    slide.levels = slide.levels[:1]
    report = ask(tmp_path / "run", detect, slide, mask="auto").report
    assert report.tiles.counts.failed == 1
    assert any("could not be read when tissue was looked for" in warning for warning in report.warnings)


def test_one_bad_picture_does_not_fail_its_batch(detect: Request, tmp_path: Path) -> None:
    class Picky(FakeEngine):
        def answer(self, pictures, request):  # type: ignore[no-untyped-def]
            if any(picture.mean() > 200 for picture in pictures):
                raise ValueError("too white")
            return super().answer(pictures, request)

    report = ask(tmp_path / "run", detect, engine=Picky(boxes=2, batch=8)).report
    assert 0 < report.tiles.counts.failed < report.tiles.total
    assert all("ValueError: too white" in failed.reason for failed in report.tiles.failed)
    with RunStore.open(tmp_path / "run") as store:
        noted = [found for found in store.iter_answers() if "asked-alone:ValueError" in found.answer.notes]
        assert any(found.answer.status is Status.OK for found in noted), "the fallback is on record"


def test_a_wrong_number_of_answers_is_a_failure(detect: Request, tmp_path: Path) -> None:
    class Short(FakeEngine):
        def answer(self, pictures, request):  # type: ignore[no-untyped-def]
            return super().answer(pictures, request)[:-1]

    report = ask(tmp_path / "run", detect, engine=Short(batch=4), limit=4).report
    assert report.tiles.counts.failed == 4
    assert "0 answers to 1 items" in report.tiles.failed[0].reason


@pytest.mark.parametrize("kind", [EngineError, RequestError])
def test_an_engine_that_gives_up_stops_the_run(kind: type[Exception], detect: Request, tmp_path: Path) -> None:
    out = tmp_path / "run"
    engine = CountingEngine(batch=BATCH, fail=lambda call: kind("model is gone") if call == 3 else None)
    with pytest.raises(kind, match="model is gone"):
        ask(out, detect, engine=engine)
    with RunStore.open(out) as store:
        assert len(store.finished()) == 2 * BATCH
    assert ask(out, detect, engine=CountingEngine(batch=BATCH)).complete
    engine = CountingEngine(fail=lambda call: kind("model is gone"))
    with pytest.raises(kind):
        ask(tmp_path / "first", detect, engine=engine)
    assert not (tmp_path / "first").exists(), "nothing is left of a run that never began"


def test_a_failed_start_brings_back_what_overwrite_set_aside(detect: Request, tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = ask(out, detect).report
    with pytest.raises(EngineError):
        ask(out, detect, overwrite=True, engine=CountingEngine(fail=lambda call: EngineError("gone")))
    assert Report.read(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    result = ask(out, detect, overwrite=True)
    assert result.backup == tmp_path / "run.bak-1"
    assert Report.read(result.backup) == before


@pytest.mark.parametrize(
    ("slide", "fields", "options", "error"),
    [
        (MemorySlide(mpp=None), {}, {}, UnknownMppError),
        (MemorySlide(200, 200), {}, {}, GridError),
        (MemorySlide(), {}, {"mask": "missing.geojson"}, MaskError),
        (MemorySlide(), {"min_tissue": 1.0, "tile_size": 736}, {"mask": "auto"}, MaskError),
    ],
)
def test_what_fails_before_the_first_tile_writes_nothing(
    slide: MemorySlide, fields: dict, options: dict, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        ask(tmp_path / "deep" / "run", request_of(Task.DETECT, **fields), slide, **options)
    assert list(tmp_path.iterdir()) == []


def test_without_tissue_nothing_is_asked(detect: Request, tmp_path: Path) -> None:
    class Blank(MemorySlide):
        def _read(self, x: int, y: int, width: int, height: int, level: int) -> np.ndarray:
            return np.full((height, width, 3), 244, np.uint8)

    with pytest.raises(MaskError, match="No tissue"):
        ask(tmp_path / "run", detect, Blank(), mask="auto")
    assert list(tmp_path.iterdir()) == []


def test_another_request_in_the_same_folder_is_refused(detect: Request, tmp_path: Path) -> None:
    before = ask(tmp_path / "run", detect).report
    with pytest.raises(RunMismatchError, match="request"):
        ask(tmp_path / "run", request_of(Task.DETECT, max_objects=7))
    with pytest.raises(RunMismatchError, match="model"):
        ask(tmp_path / "run", detect, engine=CountingEngine(boxes=7))
    assert Report.read(tmp_path / "run") == before


def test_cancel_stops_after_the_batch_and_the_run_can_go_on(detect: Request, tmp_path: Path) -> None:
    cancel = threading.Event()
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            cancel.set()

    stopped = ask(tmp_path / "run", detect, progress=watch, cancel=cancel)
    assert stopped.cancelled
    assert stopped.asked == 2 * BATCH
    assert not stopped.complete
    assert [progress.done for progress in seen] == [BATCH, 2 * BATCH]
    assert seen[-1].eta is not None
    assert seen[-1].total == stopped.report.tiles.total
    seen.clear()
    ended = ask(tmp_path / "run", detect, progress=watch)
    assert ended.complete
    assert seen[0].resumed == 2 * BATCH
    assert seen[-1].done == seen[-1].total
    assert seen[-1].seq == ended.report.tiles.total


def test_a_full_disk_is_named_and_the_run_goes_on_later(
    detect: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = RunStore.put, []

    def full_at_third(self: RunStore, batch: list[tuple[object, Answer]], splits: object) -> None:
        calls.append(len(batch))
        if len(calls) == 3:
            pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
            self._connection.execute(f"PRAGMA max_page_count = {pages}")
        put(self, batch, splits)  # type: ignore[arg-type]

    monkeypatch.setattr(RunStore, "put", full_at_third)
    with pytest.raises(StoreFullError, match="disk is full"):
        ask(tmp_path / "run", detect, engine=CountingEngine(boxes=90, batch=8))
    monkeypatch.undo()
    result = ask(tmp_path / "run", detect, engine=CountingEngine(boxes=90, batch=8))
    assert result.complete
    assert result.asked == result.report.tiles.total - 16


def test_a_disk_that_is_full_at_the_report_keeps_the_answers(
    detect: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Report, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "_write_to", full)
    with pytest.raises(StoreFullError, match="All answers are kept"):
        ask(tmp_path / "run", detect)
    assert not list((tmp_path / "run").glob("*" + _folder.PARTIAL))
    monkeypatch.undo()
    assert ask(tmp_path / "run", detect).asked == 0


def test_results_are_made_again_from_the_folder_alone(detect: Request, tmp_path: Path) -> None:
    report = ask(tmp_path / "run", detect).report
    (tmp_path / "run" / "report.json").unlink()
    assert finish_run(tmp_path / "run").result() == report.result()
    assert Report.read(tmp_path / "run").result() == report.result()


def test_runs_need_neither_torch_nor_napari() -> None:
    code = (
        "import sys, workflows.run.slide, workflows.report.images.overview, workflows.export, qwenvl.engines.fake\n"
        "print([name for name in ('torch', 'transformers', 'napari', 'qtpy', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
