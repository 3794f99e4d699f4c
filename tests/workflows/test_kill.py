"""A run killed with SIGKILL at random moments and repeated is the run that was never disturbed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from run_helpers import MemorySlide, request_of

from qwenvl.answer import Answer
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task
from workflows.export import export_geojson, export_objects_csv
from workflows.report.report import Report
from workflows.run.slide import run_slide
from workflows.store.rows import tile_of
from workflows.store.run_store import RunStore

KILLS = 5
BATCH = 3


class LoggingEngine(FakeEngine):
    """Writes down every picture before it answers, slowly enough to be killed in between."""

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__(boxes=12, side=40.0, seconds=seconds, batch=BATCH)
        self._log = log

    def answer(self, pictures: Sequence[NDArray[np.uint8]], request: Request) -> list[Answer]:
        with self._log.open("a") as log:
            log.writelines(f"{zlib.crc32(np.ascontiguousarray(picture))}\n" for picture in pictures)
        return super().answer(pictures, request)


def slide_of() -> MemorySlide:
    return MemorySlide(1400, 1000, broken=(700, 500, 705, 505))


def run(folder: Path, log: Path, seconds: float) -> None:
    """One undisturbed call; also what the subprocess runs."""
    run_slide(slide_of(), request_of(Task.DETECT), LoggingEngine(log, seconds), folder, mask="all")


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, str(folder), str(log)])


def finished(folder: Path) -> int:
    try:
        with RunStore.open(folder) as store:
            return len(store.finished())
    except FileNotFoundError:
        return 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_five_times_and_repeated(tmp_path: Path) -> None:
    run(tmp_path / "calm", tmp_path / "calm.log", 0.0)
    calm = Report.read(tmp_path / "calm")
    chance = random.Random(7)
    folder, log = tmp_path / "killed", tmp_path / "killed.log"
    pictures = pictures_of(tmp_path / "calm")
    stored: list[int] = []
    settled: list[tuple[set[int], int]] = []
    for _ in range(KILLS):
        process = start(folder, log)
        before, limit = finished(folder), time.monotonic() + 60
        # Wait until this process has stored a batch, so that each one dies somewhere else in its work.
        while finished(folder) <= before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.12))
        assert process.poll() is None, "the run ended before it could be killed; make it slower"
        process.kill()
        process.wait()
        stored.append(finished(folder))
        with RunStore.open(folder) as store:
            done = {pictures[tile] for tile in store.finished().tolist()}
            settled.append((done, len(log.read_text().split())))
            answers = {found.tile: found.objects for found in store.iter_answers()}
            assert dict(Counter(store.objects().tile.tolist())) == {k: n for k, n in answers.items() if n}
    assert stored == sorted(stored)
    assert 0 < stored[-1] < calm.tiles.total
    run(folder, log, 0.0)

    assert Report.read(folder).result() == calm.result()
    for export, name in ((export_geojson, "x.geojson"), (export_objects_csv, "x.csv")):
        for which in ("calm", "killed"):
            export(tmp_path / which, tmp_path / f"{which}-{name}")
        assert (tmp_path / f"calm-{name}").read_bytes() == (tmp_path / f"killed-{name}").read_bytes()
    with RunStore.open(folder) as store:
        repeated = {found.tile for found in store.iter_answers() if found.attempt > 1}
        assert repeated <= set(store.failed().tolist()), "only the unreadable tile was tried again"
    asked = [int(line) for line in log.read_text().split()]
    for done, position in settled:
        assert not done & set(asked[position:]), "a stored tile was asked again"
    assert set(asked) == set(pictures.values())
    # What was asked but not stored when the process died is asked again: one batch per kill at most.
    assert len(asked) <= len(pictures) + KILLS * BATCH


def pictures_of(folder: Path) -> dict[int, int]:
    """What the engine logs for each tile that can be read."""
    slide = slide_of()
    with RunStore.open(folder) as store:
        tiles = [tile_of(row) for row in store.tiles() if row["tile"] not in store.failed()]
    read = {
        tile.index: slide.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height))
        for tile in tiles
    }
    found = {index: zlib.crc32(np.ascontiguousarray(picture)) for index, picture in read.items()}
    assert len(set(found.values())) == len(found)
    return found


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), 0.03)
