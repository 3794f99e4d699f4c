"""What the one loop promises, held against every workflow: a fault costs one item, and a repeated call ends alike."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed (extra 'science')")
pytest.importorskip("anndata", reason="anndata is not installed (extra 'science')")
pytest.importorskip("fpdf", reason="fpdf2 is not installed (extra 'dev')")
if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

from promise_jobs import DIED, JOBS, MOMENTS, Job, PromiseEngine, no_maps, write_inputs

from workflows.errors import RunLockedError, StoreFullError
from workflows.run.item_store import ItemStore
from workflows.run.journal import Journal
from workflows.science.papers.pages.document import Document, PageError
from workflows.store.folder import claim
from workflows.store.run_store import RunStore

every_job = pytest.mark.parametrize("name", JOBS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs; every job run undisturbed, and killed once in every moment. Nobody may change the calm runs."""
    folder = tmp_path_factory.mktemp("promises")
    write_inputs(folder / "inputs")
    program = Path(__file__).with_name("promise_jobs.py")
    subprocess.run([sys.executable, program, folder, *JOBS], check=True, timeout=300)
    died = json.loads((folder / "died.json").read_text())
    assert {code for key, code in died.items() if key.endswith("calm")} == {0}
    assert {code for key, code in died.items() if not key.endswith("calm")} == {DIED}, died
    return folder


@pytest.fixture(autouse=True)
def _without_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.science.spatial.job.draw_maps", no_maps)


def asked(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def counts(job: Job, out: Path) -> tuple[int, int]:
    """Answers that are finished, and items whose last answer failed."""
    finished = failed = 0
    for journal in out.glob(job.journals):
        kind = RunStore if "tiles" in _tables(journal) else ItemStore
        with kind.open(journal.parent) as store:
            finished, failed = finished + len(store.finished()), failed + len(store.failed())
    return finished, failed


def _tables(journal: Path) -> set[str]:
    connection = sqlite3.connect(journal)
    names = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return names


def run(root: Path, name: str, out: Path, trouble: Callable[[list[int]], None] = lambda marks: None) -> list[int]:
    """Run a job; what was asked."""
    log = out.with_suffix(".log")
    before = len(asked(log))
    JOBS[name].run(root / "inputs", out, PromiseEngine(log, trouble))
    return asked(log)[before:]


def calm(root: Path, name: str) -> tuple[Any, list[int]]:
    return JOBS[name].result(root / name / "calm"), asked(root / name / "calm.log")


@pytest.mark.parametrize("moment", MOMENTS)
@every_job
def test_killed_in_a_moment_and_repeated(root: Path, name: str, moment: str) -> None:
    job, out = JOBS[name], root / name / moment
    result, whole = calm(root, name)
    stored, _ = counts(job, out)
    assert len(set(whole)) == len(whole) >= 5, "every question is another one"
    assert (stored == 0) is (moment == "first batch")
    assert (stored == len(whole)) is (moment in ("report", "writing", "end"))
    assert (out / job.report).exists() is (moment == "end")
    assert len(run(root, name, out)) == len(whole) - stored, "what was stored is not asked again"
    assert job.result(out) == result
    assert counts(job, out) == (len(whole), 0)


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.load is not None])
def test_an_item_that_cannot_be_loaded_fails_alone(
    root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JOBS[name]
    assert job.load is not None
    module, function = job.load
    home = Document if name == "pages" else import_module(module)
    load = getattr(home, function)

    def broken(*arguments: Any) -> Any:
        if "2" in (getattr(arguments[-1], "stem", ""), str(getattr(arguments[-1], "index", ""))):
            raise OSError("planted")
        if name == "pages" and arguments[1] == 2:
            raise PageError("planted")
        return load(*arguments)

    monkeypatch.setattr(home, function, broken)
    result, whole = calm(root, name)
    per_item = 2 if name in ("spots", "photographs") else 1  # two genes, two views
    assert len(run(root, name, tmp_path / "out")) == len(whole) - per_item
    assert counts(job, tmp_path / "out") == (len(whole) - per_item, per_item)
    if name in ("slide", "photographs", "pages"):
        assert "planted" in (tmp_path / "out" / job.report).read_text()
    assert job.result(tmp_path / "out") != result
    monkeypatch.setattr(home, function, load)
    assert len(run(root, name, tmp_path / "out")) == per_item
    assert counts(job, tmp_path / "out") == (len(whole), 0)
    if name != "slide":  # whose report says how often was asked
        assert job.result(tmp_path / "out") == result


@every_job
def test_an_item_on_which_the_engine_raises_fails_alone(root: Path, name: str, tmp_path: Path) -> None:
    whole = calm(root, name)[1]
    ugly = whole[1]

    def trouble(marks: list[int]) -> None:
        if ugly in marks:
            raise ValueError("planted")

    job = JOBS[name]
    assert sorted(run(root, name, tmp_path / "out", trouble)) == sorted(set(whole) - {ugly})
    assert counts(job, tmp_path / "out") == (len(whole) - 1, 1)
    assert (tmp_path / "out" / job.report).exists()
    assert run(root, name, tmp_path / "out") == [ugly]
    assert counts(job, tmp_path / "out") == (len(whole), 0)


@every_job
def test_a_batch_that_does_not_fit_into_memory_is_asked_in_halves(root: Path, name: str, tmp_path: Path) -> None:
    result, whole = calm(root, name)
    sizes: list[int] = []

    def trouble(marks: list[int]) -> None:
        sizes.append(len(marks))
        if len(marks) > 1:
            raise MemoryError

    assert sorted(run(root, name, tmp_path / "out", trouble)) == sorted(whole)
    assert sizes[0] > 2
    assert sizes[1] == sizes[0] // 2, "halves, before each alone"
    assert counts(JOBS[name], tmp_path / "out") == (len(whole), 0)
    assert JOBS[name].result(tmp_path / "out") == result


@every_job
def test_a_full_disk_keeps_the_batches_before_it(
    root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = Journal.put, [0]

    def full_at_second(self: Any, *arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
            self._connection.execute(f"PRAGMA max_page_count = {pages}")
        put(self, *arguments)

    result, whole = calm(root, name)
    monkeypatch.setattr(Journal, "put", full_at_second)
    with pytest.raises(StoreFullError):
        run(root, name, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("workflows.science.spatial.job.draw_maps", no_maps)
    stored, _ = counts(JOBS[name], tmp_path / "out")
    assert 0 < stored < len(whole)
    assert len(run(root, name, tmp_path / "out")) == len(whole) - stored
    assert JOBS[name].result(tmp_path / "out") == result


@every_job
def test_a_disk_that_is_full_at_the_report_keeps_all_answers(
    root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, rename = JOBS[name], Path.replace

    def full(self: Path, target: Any) -> Any:
        if Path(target).name == job.report:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as planted:
        planted.setattr(Path, "replace", full)
        with pytest.raises(StoreFullError, match="All answers are kept"):
            run(root, name, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.partial"))
    assert run(root, name, tmp_path / "out") == []
    assert job.result(tmp_path / "out") == calm(root, name)[0]


@every_job
def test_a_second_process_is_refused_and_nothing_is_asked(root: Path, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    held = claim(folder / "answers" / "DARK1" if name == "spots" else folder)
    with pytest.raises(RunLockedError):
        run(root, name, folder)
    assert asked(tmp_path / "out.log") == []
    held.undo()
    run(root, name, folder)
    assert JOBS[name].result(folder) == calm(root, name)[0]
