"""Real processes that are killed, told to end, or interrupted: the repeated command ends as if nothing had been.

The same checks on a large cohort, on a scheduler started by hand and on a served model are in
`benchmarks/cohort_faults.py`, whose pieces are used here.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from cohort_helpers import plan_of, run_cohort, threads

from workflows.cohort import Study
from workflows.cohort.workers.work import close_engine

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # last: a script there has the name of a package

from cohort_faults import (  # noqa: E402
    Batch,
    Made,
    asked_twice,
    compare,
    disturb,
    make_cohort,
    pictures_of,
    study,
    wait_for,
)

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_cohort(tmp_path_factory.mktemp("faults") / "slides", slides=4, side=640, real=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return study(tmp_path, "small", None, 16)


@pytest.fixture
def calm(made: Made, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The undisturbed run, in this process."""
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    close_engine()
    monkeypatch.setenv("COHORT_LOG", str(tmp_path / "calm.asked"))
    monkeypatch.setenv("COHORT_SECONDS", "0")
    assert not run_cohort(plan_of(made.table, Study.read(file)), tmp_path / "calm").complete, "bad rows are there"
    return tmp_path / "calm"


def batch_of(made: Made, file: Path, out: Path, seconds: float) -> Batch:
    path = f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"
    slow = {"PYTHONPATH": path, "COHORT_LOG": str(out.with_suffix(".asked")), "COHORT_SECONDS": str(seconds)}
    return Batch(made.table, file, out, os.environ | slow)


@pytest.mark.slow
def test_workers_and_the_main_process_are_killed(made: Made, file: Path, calm: Path, tmp_path: Path) -> None:
    batch = batch_of(made, file, tmp_path / "killed", 0.04)
    tiles = batch_of(made, file, calm, 0).done()
    log = batch.out.with_suffix(".asked")
    kills = disturb(batch, log, None, tiles, random.Random(7))
    assert compare(made, calm, batch.out) == []
    assert asked_twice(kills, log, tiles, pictures_of(batch.out, made.good)) == []


@pytest.mark.slow
def test_told_to_end_and_interrupted(
    made: Made, file: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(made, file, tmp_path / "stopped", 0.05)
    log = batch.out.with_suffix(".asked")
    stored = 0
    for number, whole_group in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        process = batch.start()
        goal = stored + 1
        wait_for(lambda: batch.done() > goal or process.poll() is not None, "tiles")  # noqa: B023
        # A terminal sends Ctrl-C to every process; only the one that gives out the work may act on it.
        os.killpg(process.pid, number) if whole_group else process.send_signal(number)
        assert process.wait(60) == 130, batch.log
        assert not (batch.out / ".batch" / "token").exists()
        assert "Traceback" not in batch.log.read_text()
        stored = batch.done()
        assert len(log.read_text().split()) == stored, "every tile that was asked is stored"
    plan = plan_of(made.table, Study.read(file))
    close_engine()
    monkeypatch.setenv("COHORT_LOG", str(log))
    run_cohort(plan, batch.out)
    assert compare(made, calm, batch.out) == []
    assert len(log.read_text().split()) == batch.done(), "no tile was asked twice"
