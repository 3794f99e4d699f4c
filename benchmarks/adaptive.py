"""What looking closer, looking where it matters, and sharing out tokens gain: recall of planted nuclei against work.

    python benchmarks/adaptive.py [--fast] [--checkpoint embedded]

Synthetic slides with planted truth are asked for their nuclei with the embedded model.

1. Splitting: a piece of a lymphoid aggregate with about 60 nuclei to a tile, more than the model lists, asked plainly
   and with crowded tiles split.
2. Cascade: a slide of which a fifth of the tissue is tumor. The threshold is chosen on another slide with
   `workflows.run.plan.thresholds` (the largest with a recall of 0.95), then the slide is asked everywhere and only
   where coarse tiles pass. Counted are nuclei planted in tumor; work is that of both stages.
3. Token budget: a slide asked in uniform tiles of 0.36 um/px, and with as many prompt tokens shared out by content.

It checks that a cascade's boxes are those of the full run where both looked, and takes the seconds of those tiles from
the full run. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qwenvl.engines.local import LocalEngine
from qwenvl.request import Generation, Request, Where
from workflows.report.report import Report
from workflows.review.compare import match_boxes, read_truth_boxes, run_boxes
from workflows.run.plan.thresholds import thresholds
from workflows.run.slide import plan_run, run_slide
from workflows.store.run_store import RunStore
from wsi.synthetic import REGIONS, sample_field
from wsi.synthetic.factory import SlideFactory
from wsi.synthetic.tissue.stain import Scanner
from wsi.synthetic.writing.truth import REGION_DOWNSAMPLE

MPP = 0.25
CROWDED_SEED, MIXED_SEED, TUMOR_SEED, CALIBRATION_SEED = 600_000, 7, 84, 92
"""Slides; of the tissue of the one with `TUMOR_SEED` 19 % is tumor. The threshold is chosen on one of the same size."""
QUESTION = "Is there tumor in this image?"
TUMOR_SIDE, CALIBRATION_SIDE = 8192, 8192
CROWDED = 30
"""Objects from which a tile counts as crowded; the model lists 40 at most and often stops before."""
ENOUGH = 0.95
"""Recall on the slide that the threshold is chosen on."""
GAIN, KEPT, WORK = 0.05, 0.95, 0.5
"""Bars: recall gained by splitting, share of the recall that a cascade keeps, and its share of the work."""


@dataclass(frozen=True)
class Outcome:
    """One run held against the truth."""

    name: str
    folder: Path
    report: Report
    recall: float
    """Share of the planted nuclei in question that were found."""
    precision: float
    """Share of the boxes that are planted nuclei."""
    again: float | None = None
    """Seconds that another run took for the same tiles and answers, where that is the fairer number."""

    @property
    def tokens(self) -> int:
        """Tokens of all stages."""
        run, coarse = self.report.run, self.report.run.cascade
        more = 0 if coarse is None else coarse.prompt_tokens + coarse.new_tokens
        return run.prompt_tokens + run.new_tokens + more

    @property
    def seconds(self) -> float:
        """Seconds of the model in all stages."""
        coarse = self.report.run.cascade
        own = self.report.run.model_seconds if self.again is None else self.again
        return own + (0.0 if coarse is None else coarse.seconds)

    def row(self) -> str:
        """A line of the table."""
        return (
            f"| {self.name:28} | {self.recall:6.3f} | {self.precision:9.3f} | {self.report.run.asked:5,} | "
            f"{self.tokens:9,} | {self.seconds:7.1f} |"
        )


class Bench:
    """A model, a folder, and the slides in it."""

    def __init__(self, folder: Path, checkpoint: str) -> None:
        self.folder = folder
        self.engine = LocalEngine.load(checkpoint, device="cpu")
        advice = self.engine.checkpoint.recommended
        self.settings: dict[str, Any] = {
            "task": "detect",
            "labels": ("nucleus",),
            "mpp": MPP,
            "tile_size": advice["tile_size"],
            "overlap": advice["overlap"],
            "max_objects": advice["max_objects"],
            "crowded": CROWDED,
            "generation": Generation(max_new_tokens=advice["max_new_tokens"]),
        }

    def slide(self, seed: int, side: int) -> Path:
        """A slide without artefacts, truth beside it."""
        path = self.folder / f"slide-{seed}-{side}.svs"
        if not path.exists():
            SlideFactory(side, side, MPP, Scanner(), artefacts=()).write(path, seed)
        return path

    def ask(
        self, name: str, slide: Path, truth: NDArray[np.float64], every: NDArray[np.float64], **fields: Any
    ) -> Outcome:
        """Run a request; `truth` are the boxes that count for recall, `every` those that count for precision."""
        out = self.folder / f"{slide.stem}-{name.replace(' ', '-').replace('/', '-')}"
        request = Request(**{**self.settings, **fields})
        piece: dict[str, Any] = {"slide_mpp": MPP, "mask": "all"} if slide.suffix == ".png" else {}
        report = run_slide(slide, request, self.engine, out, overview=False, **piece).report
        boxes = run_boxes(out)[0]
        found, right = len(match_boxes(boxes, truth)), len(match_boxes(boxes, every))
        return Outcome(name, out, report, found / len(truth), right / max(1, len(boxes)))


def planted(slide: Path, region: str | None = None) -> NDArray[np.float64]:
    """Boxes of the planted nuclei, of one region where it is named."""
    boxes, _ = read_truth_boxes(slide.with_suffix(".truth.geojson"))
    if region is None:
        return boxes
    regions = np.asarray(Image.open(slide.with_suffix(".regions.png")))
    at = ((boxes[:, :2] + boxes[:, 2:]) / 2 // REGION_DOWNSAMPLE).astype(int)
    at = np.clip(at, 0, np.array(regions.shape[::-1]) - 1)
    return boxes[regions[at[:, 1], at[:, 0]] == REGIONS.index(region)]


def seconds_where_looked(part: Outcome, whole: Outcome) -> float:
    """Seconds that the full run took for the tiles that a cascade asked; both have to find the same, within a px.

    The other load of a machine changes from run to run, and so the same tiles are timed in the same run.
    """
    seconds = 0.0
    with RunStore.open(part.folder) as one, RunStore.open(whole.folder) as two:
        for found in one.iter_answers():
            a, b = (store.objects(found.tile, found.tile + 1).box for store in (one, two))
            if a.shape != b.shape or (a.size and np.abs(a - b).max() > 1.0):
                raise SystemExit(f"tile {found.tile}: the cascade's answer differs from that of the full run")
            other = two.answer(found.tile)
            seconds += 0.0 if other is None else other.answer.seconds
    return seconds


def splitting(bench: Bench, side: int) -> tuple[list[Outcome], bool]:
    """The crowded piece, plainly and with crowded tiles split."""
    field = sample_field(CROWDED_SEED, size=side, mpp=MPP, tissue="lymphoid aggregate", artefacts=())
    slide = bench.folder / "crowded.png"
    Image.fromarray(field.image).save(slide)
    truth = field.boxes.astype(float)
    plain = bench.ask("plain", slide, truth, truth)
    split = bench.ask("crowded tiles split once", slide, truth, truth, split=1)
    print(f"{len(truth):,} nuclei, {len(truth) / (side / 256) ** 2:.0f} to 256 x 256 px; {_splits(split)}\n")
    return [plain, split], split.recall - plain.recall >= GAIN


def _splits(outcome: Outcome) -> str:
    facts = outcome.report.tiles.split
    return "no tile was split" if facts is None else f"{facts.tiles} of the tiles were split"


def cascade(bench: Bench, side: int) -> tuple[list[Outcome], bool]:
    """The slide with little tumor, everywhere and only where coarse tiles pass."""
    where = Where(question=QUESTION, mpp=2 * MPP, tile_size=128, threshold=0.0)
    tuning, slide = bench.slide(CALIBRATION_SEED, CALIBRATION_SIDE), bench.slide(TUMOR_SEED, side)
    request = Request(**{**bench.settings, "where": where})
    # The coarse tiles alone: the limit is spent when the request itself would begin.
    coarse = plan_run(tuning, request, bench.engine).where
    assert coarse is not None
    scores = bench.folder / "calibration"
    run_slide(tuning, request, bench.engine, scores, limit=coarse.tiles, overview=False)
    steps = [round(0.05 * k, 2) for k in range(20)]
    rows = thresholds(scores, tuning.with_suffix(".truth.geojson"), label="tumor", steps=steps)
    chosen = [row for row in rows if row.recall >= ENOUGH][-1].threshold
    print("Thresholds on another slide (recall of its tumor region, share of tiles looked at):")
    print("  " + ", ".join(f"{row.threshold:g}: {row.recall:.1%} {row.work:.0%}" for row in rows[::3]))
    print(f"  chosen: {chosen:g}\n")
    every, truth = planted(slide), planted(slide, "tumor")
    part = bench.ask(
        "where coarse tiles pass", slide, truth, every, where=where.model_copy(update={"threshold": chosen})
    )
    whole = bench.ask("everywhere", slide, truth, every)
    part = replace(part, again=seconds_where_looked(part, whole))
    work = max(part.tokens / whole.tokens, part.seconds / whole.seconds)
    return [whole, part], part.recall >= KEPT * whole.recall and work < WORK


def budget(bench: Bench, side: int) -> tuple[list[Outcome], bool]:
    """Tokens shared out by content, and uniform tiles that take at least as many."""
    slide = bench.slide(MIXED_SEED, side)
    truth = planted(slide)
    per_tile = bench.engine.prompt_tokens(Request(**bench.settings))
    even = bench.ask("uniform, 0.36 um/px", slide, truth, truth, mpp=0.36)
    tokens = even.report.tiles.total * per_tile
    planned = bench.ask("as many tokens by content", slide, truth, truth, token_budget=tokens)
    return [even, planned], planned.recall > even.recall and planned.report.run.prompt_tokens <= tokens


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="smaller slides for splitting and budget")
    parser.add_argument("--checkpoint", default="embedded")
    options = parser.parse_args()
    reached = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.checkpoint)
        for title, measure, at in (
            ("Splitting crowded tiles", splitting, 1024 if options.fast else 2560),
            ("Cascade, nuclei of the tumor region", cascade, TUMOR_SIDE),
            ("Token budget", budget, 2048 if options.fast else 4096),
        ):
            print(f"## {title}\n")
            outcomes, good = measure(bench, at)
            print(f"| {'run':28} | recall | precision | tiles |    tokens | seconds |")
            print("|---|---|---|---|---|---|")
            for outcome in outcomes:
                print(outcome.row())
            first, last = outcomes[0], outcomes[-1]
            print(
                f"\nlast against first: recall x {last.recall / first.recall:.2f}, tokens x "
                f"{last.tokens / first.tokens:.2f}, seconds x {last.seconds / first.seconds:.2f}: "
                f"{'ok' if good else 'MISSED'}\n",
                flush=True,
            )
            reached.append(good)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
