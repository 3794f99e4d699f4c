"""Limits that a process meets in the middle of a run: one line, what was finished is kept, and the command resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from run_helpers import CountingEngine, MemorySlide

from qwenvl.request import Request
from workflows.cohort.study.config import Study
from workflows.cohort.workers.cluster import LOST, Cluster, connect
from workflows.commands.shared.guard import guarded
from workflows.errors import CohortError
from workflows.run.slide import run_slide
from wsi.errors import LimitError

resource = pytest.importorskip("resource")


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def small_files() -> Iterator[None]:
    """No file may have more than 16 KiB: as with `ulimit -f`."""
    with limited(resource.RLIMIT_FSIZE, 16 << 10):
        yield


@contextmanager
def no_file_more() -> Iterator[None]:
    """As many files are open as may be."""
    with limited(resource.RLIMIT_NOFILE, 4 + max(int(fd) for fd in os.listdir("/dev/fd"))):
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            yield
        finally:
            for each in held:
                os.close(each)


class Meets(CountingEngine):
    """Meets a limit at its third batch."""

    def __init__(self, limit: Callable[[], Any]) -> None:
        super().__init__(boxes=6, batch=4)
        self.limit, self.batches, self.held = limit, 0, None

    def answer(self, pictures: Any, request: Request) -> Any:
        self.batches += 1
        if self.batches == 3:
            self.held = self.limit()
            self.held.__enter__()
        return super().answer(pictures, request)


@pytest.mark.parametrize(("limit", "words"), [(small_files, "ulimit -f"), (no_file_more, "ulimit -n")])
def test_a_run_that_meets_a_limit_ends_in_one_line_and_resumes(
    detect: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: Callable[[], Any], words: str
) -> None:
    engine, out = Meets(limit), tmp_path / "run"

    def ask() -> Any:
        return run_slide(MemorySlide(), detect, engine, out, mask="all", overview=False)

    try:
        with pytest.raises(typer.Exit) as ended:
            guarded(ask)()
    finally:
        engine.held.__exit__(None, None, None)  # type: ignore[union-attr]
    assert ended.value.exit_code == 1
    told = capsys.readouterr().err.strip()
    assert words in told
    assert told.count("\n") == 0
    finished = len(engine.asked)
    result = ask()
    assert result.complete
    assert result.report.tiles.total <= len(engine.asked) <= result.report.tiles.total + 4
    assert result.asked < result.report.tiles.total or finished == result.report.tiles.total


def test_a_file_size_limit_ends_no_process_silently() -> None:
    """Python has SIGXFSZ ignored, so that a write fails by name; nothing of ours may change that."""
    import signal

    import workflows.cohort.workers.work  # noqa: F401

    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN


def test_a_worker_without_threads_stops_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cohort_helpers import plan_of, run_cohort, study_of, threads

    from wsi.synthetic import Scene, write_slide

    def none(*_: object) -> None:
        raise LimitError("No further thread or process can be started.")

    for seed in range(3):
        write_slide(tmp_path / f"{seed}.svs", Scene(100, 100, seed), mpp=0.25, downsamples=(1, 4), truth=False)
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    plan, out = plan_of(tmp_path, study_of(cluster={"workers": 1})), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("workflows.run.items.thread_pool", none)
        stopped = run_cohort(plan, out)
    assert "No further thread" in (stopped.stopped or "")
    assert len(stopped.outcomes) == 1, "no other slide would fare better"
    assert run_cohort(plan, out).complete


STUDY = Study.model_validate({"request": {"task": "detect", "labels": ["a"]}, "cluster": {"workers": 1}})


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("can't start new thread"), LimitError, "ulimit -u"),
        (BlockingIOError(11, "Resource temporarily unavailable"), LimitError, "ulimit -u"),
        (OSError(24, "Too many open files"), LimitError, "ulimit -n"),
        (RuntimeError("Nanny failed to start worker process"), CohortError, "No worker process can be started"),
        (TimeoutError("5 s"), CohortError, "fewer --workers"),
    ],
)
def test_a_cluster_that_cannot_be_started_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], words: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("distributed.LocalCluster", fails)
    with pytest.raises(kind, match=words), connect(STUDY):
        pass


def test_closing_a_cluster_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Party:
        dashboard_link, workers = "", dict[str, object]()

        def __init__(self, *_: object, **__: object) -> None: ...
        def register_plugin(self, plugin: object) -> None: ...

        def close(self) -> None:
            closed.append(type(self).__name__)
            raise OSError(f"the {type(self).__name__} does not close")

    monkeypatch.setattr("distributed.LocalCluster", type("Cluster", (Party,), {}))
    monkeypatch.setattr("distributed.Client", type("Client", (Party,), {}))
    with pytest.raises(CohortError, match="the first") as caught, connect(STUDY):
        raise CohortError("the first")
    assert closed == ["Client", "Cluster"]
    assert len(caught.value.__notes__) == 2


@pytest.mark.parametrize("text", ["4,2", "", "many"])
def test_odd_numbers_of_openmp_threads_start_a_cluster(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    plugins: list[Any] = []

    class Party:
        dashboard_link, workers = "", dict[str, object]()

        def __init__(self, *_: object, **__: object) -> None: ...
        def close(self) -> None: ...

        def register_plugin(self, plugin: object) -> None:
            plugins.append(plugin)

    monkeypatch.setattr("distributed.LocalCluster", Party)
    monkeypatch.setattr("distributed.Client", Party)
    monkeypatch.setattr("workflows.cohort.workers.cluster.usable_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with connect(STUDY):
        assert plugins[0].threads == (4 if text == "4,2" else 7)


def test_what_is_lost_and_what_may_come_back() -> None:
    def cluster(status: str, *processes: str | None) -> Cluster:
        nannies = {
            number: SimpleNamespace(process=state and SimpleNamespace(status=SimpleNamespace(name=state)))
            for number, state in enumerate(processes)
        }
        return Cluster(SimpleNamespace(status=status, scheduler=None), None, True, False, nannies)

    assert cluster("closed").lost() == LOST
    assert cluster("running").lost() is None, "workers of others may come"
    assert cluster("running", "starting", None).lost() is None
    assert "No worker process is left" in str(cluster("running", "failed", None).lost())
    assert cluster("closed").slots() == ([], {})
