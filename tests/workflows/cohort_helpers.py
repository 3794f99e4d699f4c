"""Shared by the tests of cohorts: small slides, studies, and a cluster that is a few threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workflows.cohort import CohortPlan, Study, look_at, read_cohort
from workflows.cohort import run_cohort as run_any_cohort
from workflows.cohort.run import CohortResult

ENGINE = {"engine": "cohort_engine:make"}
REQUEST = {"task": "detect", "labels": ["nucleus", "mitosis"], "mpp": 0.5, "tile_size": 64, "overlap": 16}


def study_of(**sections: Any) -> Study:
    """A study with the stand-in engine; sections replace the usual ones."""
    return Study.model_validate({"request": REQUEST, "model": ENGINE, **sections})


def plan_of(source: Path, study: Study | None = None) -> CohortPlan:
    """The plan of a table, folder or file."""
    study = study or study_of()
    return CohortPlan.of(read_cohort(source), study, look_at(study.model, allow_code=True))


def run_cohort(plan: CohortPlan, out: Path, **options: Any) -> CohortResult:
    """`workflows.cohort.run_cohort` with the engine of these tests allowed."""
    return run_any_cohort(plan, out, allow_code=True, **options)


class _Done:
    """A future as distributed has it."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    @property
    def status(self) -> str:
        return "error" if self._future.exception() else "finished"

    def result(self) -> Any:
        return self._future.result()

    def exception(self) -> BaseException | None:
        return self._future.exception()

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self._future.add_done_callback(lambda _: call(self))

    def release(self) -> None:
        """Nothing is held."""


class _Client:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._listener = pool, lambda event: None

    def submit(self, function: Any, ticket: Any, **_: Any) -> _Done:
        return _Done(self._pool.submit(function, ticket, lambda words: self._listener((0.0, words))))

    def subscribe_topic(self, topic: str, listener: Any) -> None:
        self._listener = listener


class Threads:
    """In place of a cluster."""

    dashboard, local, host_gpus = None, True, False

    def __init__(self, workers: int, pool: ThreadPoolExecutor) -> None:
        self.client, self._workers = _Client(pool), workers

    def lost(self) -> str | None:
        return None

    def slots(self) -> tuple[list[str], dict[str, float]]:
        return [f"thread-{number}" for number in range(self._workers)], {}


@contextmanager
def threads(study: Study) -> Iterator[Threads]:
    """What takes the place of `workflows.cohort.workers.cluster.connect`."""
    number = study.cluster.workers or 2
    with ThreadPoolExecutor(number) as pool:
        yield Threads(number, pool)
