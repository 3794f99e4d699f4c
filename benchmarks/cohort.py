"""What a batch costs over the bare runs of its slides, and how quickly a finished cohort is found to be finished.

    python benchmarks/cohort.py          12 slides, five rounds
    python benchmarks/cohort.py --fast   6 smaller slides, three rounds, a few minutes on two cores

Each round runs the same slides once through `run_slide`, one after the other, and once through a batch with one
worker, in turns; the reports must be equal. Starting the cluster is a cost of its own, paid once per command, and has
a row of its own. Exit code 1 where a bar is missed: 5 % over the bare runs, 10 s for a finished cohort of 100 slides,
5 % of a run with the embedded model for merging, report and exports.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows.cohort import CohortPlan, Study, look_at, read_cohort, run_cohort
from workflows.cohort.run import Quiet
from workflows.cohort.workers.ticket import SlideOutcome
from workflows.report.report import Report
from workflows.run.slide import finish_run, run_slide
from wsi.synthetic import SlideFactory

OVERHEAD, RESUME, FINISH = 0.05, 10.0, 0.05
SECONDS = 0.1
"""Of a tile: less than the embedded model takes on two cores, and far less than a large one."""
REQUEST: dict[str, Any] = {
    "task": "detect",
    "labels": ["nucleus", "mitosis"],
    "mpp": 0.25,
    "tile_size": 224,
    "overlap": 32,
}


def make_engine() -> FakeEngine:
    """An engine that takes as long as a small model, and no processor time."""
    return FakeEngine(30, seconds=float(os.environ.get("COHORT_SECONDS", SECONDS)), batch=16)


class Clock(Quiet):
    """When the workers were there, and when the last slide was done with."""

    def __init__(self) -> None:
        self.begun = self.connected_at = self.last = time.perf_counter()
        self.busy = self.busy_at = 0.0

    def connected(self, dashboard: str | None, workers: int) -> None:
        self.connected_at, self.busy_at = time.perf_counter(), processor_seconds()

    def ended(self, outcome: SlideOutcome) -> None:
        self.last, self.busy = time.perf_counter(), processor_seconds() - self.busy_at


def processor_seconds() -> float:
    """Processor time of this process and of those it started, which does not depend on what else runs here."""
    import psutil

    this = psutil.Process()
    times = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, against what, and the bar."""

    what: str
    ours: float
    other: float | None
    ratio: float
    bar: float | None

    @property
    def missed(self) -> bool:
        return self.bar is not None and self.ratio > self.bar

    def __str__(self) -> str:
        beside = "" if self.other is None else f"{self.other:9.2f} s"
        bar = "" if self.bar is None else f"at most {self.bar:g}"
        return f"{self.what:58}{self.ours:9.2f} s {beside:>12}{self.ratio:9.3f}  {bar}"


def plan_of(source: Path, model: dict[str, Any]) -> CohortPlan:
    """The same cohort for every round."""
    study = Study.model_validate(
        {"request": REQUEST, "model": model, "quality": {"mode": "off"}, "cluster": {"workers": 1}}
    )
    return CohortPlan.of(read_cohort(source), study, look_at(study.model, allow_code=True))


def overhead(folder: Path, slides: Sequence[Path], rounds: int) -> list[Row]:
    """The batch beside the bare runs."""
    plan = plan_of(folder / "slides", {"engine": "cohort:make_engine"})
    request, engine = Request(**REQUEST), make_engine()
    bare, batch, starts, ratios, work, extra = [], [], [], [], [], []
    for number in range(rounds):
        begun, busy = time.perf_counter(), processor_seconds()
        for slide in slides:
            run_slide(slide, request, engine, folder / f"bare-{number}" / slide.stem)
        bare.append(time.perf_counter() - begun)
        work.append(processor_seconds() - busy)
        clock = Clock()
        result = run_cohort(plan, folder / f"batch-{number}", allow_code=True, watcher=clock)
        batch.append(clock.last - clock.connected_at)
        starts.append(clock.connected_at - clock.begun)
        ratios.append(batch[-1] / bare[-1] - 1)
        tiles = sum(Report.read(folder / f"bare-{number}" / slide.stem).tiles.total for slide in slides)
        extra.append((clock.busy - work[-1]) / (work[-1] + tiles * SECONDS))
        same = all(
            Report.read(folder / f"bare-{number}" / slide.stem).result()
            == Report.read(folder / f"batch-{number}" / slide.stem).result()
            for slide in slides
        )
        if not (result.complete and same):
            raise SystemExit("Batch and bare runs do not give the same reports: the comparison would be unfair.")
    print(f"The same {len(slides)} reports from both, in each of {rounds} rounds\n")
    each = f"batch of {len(slides)} slides beside bare runs: time over them"
    median = statistics.median
    return [
        Row(each, median(batch), median(bare), median(ratios), OVERHEAD),
        Row("its processor time beside theirs: more, over the run", median(work), None, median(extra), None),
        Row("starting the batch: checks, cluster, imports (once)", median(starts), None, median(starts), None),
    ]


def few_small_slides(folder: Path) -> list[Path]:
    """Slides that are quickly run a hundred times."""
    small = SlideFactory(768, 768)
    paths = [folder / f"small-{seed}.svs" for seed in range(4)]
    return [small.write(path, seed, downsamples=(1, 4), truth=False).path for seed, path in enumerate(paths)]


def resume(folder: Path, slides: Sequence[Path], number: int) -> Row:
    """A finished cohort, found to be finished."""
    table = folder / "hundred.csv"
    rows = [f"{slides[row % len(slides)]},case-{row:03d}" for row in range(number)]
    table.write_text("slide,id\n" + "\n".join(rows) + "\n")
    os.environ["COHORT_SECONDS"] = "0"
    plan = plan_of(table, {"engine": "cohort:make_engine"})
    if not run_cohort(plan, folder / "hundred", allow_code=True).complete:
        raise SystemExit("The cohort was not finished.")
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        result = run_cohort(plan_of(table, {"engine": "cohort:make_engine"}), folder / "hundred", allow_code=True)
        times.append(time.perf_counter() - begun)
        if not (result.complete and result.finished == number and not result.outcomes):
            raise SystemExit("The finished cohort was not found to be finished.")
    seconds = statistics.median(times)
    return Row(f"finished cohort of {number} slides, repeated (s)", seconds, None, seconds, RESUME)


def finishing(folder: Path, slide: Path) -> Row:
    """Merging, report, heatmap, overview and exports beside the run of the embedded model."""
    from qwenvl.engines.local import LocalEngine
    from workflows.export import export_geojson, export_objects_csv

    engine = LocalEngine.load("embedded")
    request = Request(task="detect", labels=("nucleus",), mpp=0.25, tile_size=256, overlap=64)
    begun = time.perf_counter()
    result = run_slide(slide, request, engine, folder / "embedded")
    whole = time.perf_counter() - begun
    times = []
    for number in range(3):
        begun = time.perf_counter()
        finish_run(result.folder)
        export_geojson(result.folder, folder / f"{number}.geojson.gz")
        export_objects_csv(result.folder, folder / f"{number}.csv")
        times.append(time.perf_counter() - begun)
    last = statistics.median(times)
    what = f"merging, report, exports beside {result.asked} tiles of the embedded model"
    return Row(what, last, whole, last / whole, FINISH)


def main() -> int:
    """Measure, print one table, return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="fewer, smaller slides")
    parser.add_argument("--only", choices=("overhead", "resume", "finishing"), help="measure one thing")
    given = parser.parse_args()
    fast, only = given.fast, given.only
    here = str(Path(__file__).resolve().parent)
    sys.path.insert(0, here)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    number, side, rounds = (6, 1536, 3) if fast else (12, 3072, 5)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "slides").mkdir()
        factory = SlideFactory(side, side)
        slides = [
            factory.write(folder / "slides" / f"{seed:02d}.svs", seed, downsamples=(1, 4), truth=False).path
            for seed in range(number)
        ]
        rows = overhead(folder, slides, rounds) if only in (None, "overhead") else []
        if only in (None, "resume"):
            rows.append(resume(folder, few_small_slides(folder), 100))
        if only in (None, "finishing"):
            large = SlideFactory(2048, 2048).write(folder / "large.svs", 0, downsamples=(1, 4), truth=False)
            rows.append(finishing(folder, large.path))
    print(f"{'':58}{'ours':>11} {'beside':>12}{'ratio':>9}  bar")
    for row in rows:
        print(row)
    missed = [row.what for row in rows if row.missed]
    for what in missed:
        print(f"BAR MISSED  {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
