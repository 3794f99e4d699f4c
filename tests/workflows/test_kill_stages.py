"""A run with coarse tiles and splits, killed with SIGKILL in every stage, ends as the one that was never disturbed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dots import DotEngine, DotSlide, planted
from numpy.typing import NDArray
from run_helpers import request_of

from qwenvl.answer import Answer
from qwenvl.request import Request, Task, Where
from workflows.export import export_geojson
from workflows.report.report import Report
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore

BATCH = 2


class LoggingEngine(DotEngine):
    """Writes down every picture before it answers, slowly enough to be killed in between."""

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__(8, batch=BATCH)
        self._log, self._seconds = log, seconds

    def answer(self, pictures: Sequence[NDArray[np.uint8]], request: Request) -> list[Answer]:
        with self._log.open("a") as log:
            log.writelines(f"{zlib.crc32(np.ascontiguousarray(picture))}\n" for picture in pictures)
        time.sleep(self._seconds)
        return super().answer(pictures, request)


def slide_of() -> DotSlide:
    """Grain makes every picture another one."""
    places = planted(230, 7, 800, 600)
    slide = DotSlide(places[places[:, 0] < 420], 800, 600)
    grain = np.random.default_rng(0).integers(0, 8, slide.picture.shape, np.uint8)
    slide.picture = slide.picture + grain
    return slide


def run(folder: Path, log: Path, seconds: float) -> None:
    """One undisturbed call; also what the subprocess runs."""
    where = Where(question="Are there squares?", mpp=1.0, tile_size=64, threshold=0.4)
    request = request_of(Task.DETECT, labels=("dot",), tile_size=160, overlap=40, where=where, split=2, crowded=8)
    run_slide(slide_of(), request, LoggingEngine(log, seconds), folder, mask="all", overview=False)


def stored(folder: Path) -> tuple[int, int, int]:
    """Answers of coarse tiles, answers of tiles, and splits."""
    numbers = []
    for place in (folder / "where", folder):
        try:
            with RunStore.open(place) as store:
                numbers += [store.attempts(), len(store.splits())]
        except FileNotFoundError:
            numbers += [0, 0]
    return numbers[0], numbers[2], numbers[3]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_every_stage_and_repeated(tmp_path: Path) -> None:
    run(tmp_path / "calm", tmp_path / "calm.log", 0.0)
    calm = Report.read(tmp_path / "calm")
    assert calm.tiles.split is not None
    assert calm.tiles.split.depth == 2
    assert calm.cascade is not None
    scored, tiles = calm.cascade.scored, calm.run.asked
    assert calm.cascade.skipped > 0
    folder, log, chance = tmp_path / "killed", tmp_path / "killed.log", random.Random(3)
    stages: list[tuple[int, int, int]] = []
    # Coarse tiles, the first tiles, the middle, and the parts of parts.
    for coarse, fine in (
        (scored // 3, 0),
        (scored, 2),
        (scored, tiles // 3),
        (scored, tiles * 2 // 3),
        (scored, tiles - 8),
    ):
        process = subprocess.Popen([sys.executable, __file__, str(folder), str(log)])
        limit = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < limit:
            now = stored(folder)
            if now[0] >= coarse and now[1] >= fine:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.03))
        assert process.poll() is None, "the run ended before it could be killed; make it slower"
        process.kill()
        process.wait()
        stages.append(stored(folder))
    assert stages == sorted(stages)
    assert stages[0][1] == 0
    assert 0 < stages[2][2] < calm.tiles.split.tiles
    run(folder, log, 0.0)
    report = Report.read(folder)
    assert report.result() == calm.result()
    assert Report.read(folder / "where").result() == Report.read(tmp_path / "calm" / "where").result()
    assert report.run.asked == calm.run.asked, "no finished tile was asked twice"
    for name in ("calm", "killed"):
        export_geojson(tmp_path / name, tmp_path / f"{name}.geojson")
    assert (tmp_path / "calm.geojson").read_bytes() == (tmp_path / "killed.geojson").read_bytes()
    asked, once = log.read_text().split(), (tmp_path / "calm.log").read_text().split()
    assert len(set(once)) == len(once), "every picture is another one"
    assert set(asked) == set(once)
    # What was asked but not stored when the process died is asked again: one batch per kill at most.
    assert len(asked) <= len(once) + len(stages) * BATCH


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), 0.04)
