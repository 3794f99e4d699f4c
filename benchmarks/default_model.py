"""What the embedded model can do, on fields and pictures that it never saw.

    python benchmarks/default_model.py [--fast] [--checkpoint FOLDER] [--pictures FOLDER]

Factory fields come from seeds that training never draws, real pictures from the held-out images of the
stained-tissue nuclei set (QWENVL_TEST_DATA, default ../shared/data; left out where absent). Every number is the
mean and standard deviation over groups of fields or pictures. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

# `finetune` is the package of that name, not the script beside this one.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

from finetune.evaluation.metrics import iou_matrix
from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Generation, Request, Task
from qwenvl.scoring.agreement import auroc
from recipes.pretrain.config import PoolConfig, real_folder
from recipes.pretrain.data import window
from recipes.pretrain.metrics import BoxTally
from recipes.pretrain.phrasings import FINDING_NAMES, PRESENCE
from recipes.pretrain.real import RealNuclei
from recipes.pretrain.tiles import CLASSES, TISSUES, LabelledTile, from_field
from recipes.pretrain.word_tasks import truths
from wsi.synthetic import sample_field

FIRST_SEED = 500_000
"""Below the first training seed, above those used while training."""
REAL_SIDE, REAL_STEP = 128, 64
"""Real pictures are asked in squares of this side and step, enlarged to the recommended tile size."""
OTHER_TILES = ((256, 256, 0.25), (256, 256, 0.5), (448, 448, 0.25), (448, 448, 0.5), (192, 320, 0.25))
"""Height, width and scale of tiles beside the recommended ones."""
ASKED = ("tumor", "necrosis", "mitosis", "stroma", "fat", "lymphocyte cells")
"""Findings of the yes/no measure."""
COLOURS = {
    "tumor": (0, 0, 255),
    "lymphocyte": (0, 160, 0),
    "stromal": (255, 0, 0),
    "epithelial": (200, 160, 0),
    "mitosis": (0, 200, 255),
    "nucleus": (0, 0, 0),
}


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    name: str
    values: tuple[float, ...]
    bar: float
    aim: float
    more_is_better: bool = True

    @property
    def mean(self) -> float:
        """Over the groups."""
        return float(np.nanmean(self.values))

    @property
    def reached(self) -> bool:
        """Whether the bar is reached."""
        if np.isnan(self.bar):
            return True
        return self.mean >= self.bar if self.more_is_better else self.mean <= self.bar


class Asker:
    """The recommended requests, sent through the project's engine."""

    def __init__(self, checkpoint: str) -> None:
        self.engine = LocalEngine.load(checkpoint, device="cpu")
        advice = self.engine.checkpoint.recommended
        self.size = int(advice["tile_size"])
        self.settings: dict[str, Any] = {
            "tile_size": self.size,
            "mpp": advice["mpp"],
            "overlap": advice["overlap"],
            "generation": Generation(max_new_tokens=advice["max_new_tokens"]),
        }
        self.statuses: list[Status] = []
        self.free = LocalEngine(self.engine.checkpoint, constrained=False)
        self.free_statuses: list[Status] = []

    def ask(
        self, images: list[NDArray[np.uint8]], task: Task, batch: int = 16, count: bool = True, **fields: Any
    ) -> list[Answer]:
        """Answers to one request about many pictures; those of detect belong to the parse rate if they `count`."""
        request = Request(task=task, **self.settings, **fields)
        answers: list[Answer] = []
        for start in range(0, len(images), batch):
            answers += self.engine.answer(images[start : start + batch], request)
        if task is Task.DETECT and count:
            self.statuses += [answer.status for answer in answers]
        return answers


def boxes_of(objects: Iterable[TileObject]) -> tuple[NDArray[np.float64], list[str]]:
    """Boxes (n, 4) and labels."""
    kept = [o for o in objects if o.box is not None]
    return np.array([o.box for o in kept], np.float64).reshape(-1, 4), [o.label for o in kept]


def measure_fields(asker: Asker, groups: int, each: int) -> tuple[list[Measure], list[tuple[LabelledTile, Answer]]]:
    """Everything that is measured on factory fields of at most 20 nuclei."""
    f1, accuracy, named_f1, tissue, areas, errors, shown = [], [], [], [], [], [], []
    told, excess = [], []
    for group in range(groups):
        seeds = range(FIRST_SEED + group * 10_000, FIRST_SEED + group * 10_000 + each)
        tiles = [from_field(sample_field(s, size=asker.size, max_nuclei=20)) for s in seeds]
        images = [tile.image for tile in tiles]
        every, by_class = BoxTally(), BoxTally()
        right, sure = [], []
        for tile, answer in zip(tiles, asker.ask(images, Task.DETECT, labels=("nucleus",)), strict=True):
            boxes = boxes_of(answer.objects)[0]
            hits = {at for at, _ in every.add(boxes, tile.boxes)}
            right += [at in hits for at in range(len(boxes))]
            sure += [item.score for item in answer.objects if item.box is not None]
        told.append(auroc(np.array(sure, float), np.array(right)))
        excess.append(float(np.mean(sure) - np.mean(right)))
        question = Request(task=Task.DETECT, labels=("nucleus",), **asker.settings)
        asker.free_statuses += [answer.status for answer in asker.free.answer(images, question)]
        answers = asker.ask(images, Task.DETECT, labels=CLASSES)
        for tile, answer in zip(tiles, answers, strict=True):
            by_class.add(*_named(answer, tile))
        shown += list(zip(tiles, answers, strict=True)) if group == 0 else []
        f1.append(every.f1)
        accuracy.append(by_class.class_accuracy)
        named_f1.append(by_class.f1)
        chosen = asker.ask(images, Task.CLASSIFY, labels=TISSUES)
        tissue.append(float(np.mean([a.text == TISSUES[t.tissue] for a, t in zip(chosen, tiles, strict=True)])))
        counted = asker.ask(images, Task.COUNT, labels=("nucleus",))
        misses = [
            abs((a.value if isinstance(a.value, int) else 0) - len(t.boxes))
            for a, t in zip(counted, tiles, strict=True)
        ]
        errors.append(float(np.mean(misses)))
        areas.append(float(np.nanmean(list(yes_no(asker, tiles).values()))))
    return [
        Measure("synthetic nuclei, F1 at IoU 0.5", tuple(f1), 0.75, 0.90),
        Measure("same, all five classes asked by name", tuple(named_f1), 0.75, 0.90),
        Measure("class accuracy of matched nuclei", tuple(accuracy), 0.90, 0.97),
        Measure("scores of boxes, right against wrong, AUROC", tuple(told), float("nan"), float("nan")),
        Measure("mean score less share of right boxes", tuple(excess), float("nan"), float("nan")),
        Measure("tissue class accuracy", tuple(tissue), 0.95, 0.99),
        Measure("yes/no AUROC", tuple(areas), 0.97, 0.99),
        Measure("count, mean absolute error", tuple(errors), 1.5, 0.5, more_is_better=False),
    ], shown


def yes_no(asker: Asker, tiles: list[LabelledTile]) -> dict[str, float]:
    """AUROC of P(yes) for every finding that some tiles show and some do not."""
    areas = {}
    for finding in ASKED:
        prompt = PRESENCE[0].format(FINDING_NAMES[finding][0])
        truth = np.array([truths(tile)[finding] for tile in tiles])
        if 0 < truth.sum() < len(truth):
            answers = asker.ask([tile.image for tile in tiles], Task.SCORE, prompt=prompt)
            areas[finding] = auroc(np.array([a.scores["yes"] for a in answers]), truth)
    return areas


def measure_real(asker: Asker, groups: int, each: int) -> tuple[list[Measure], list[tuple[LabelledTile, Answer]]]:
    """F1 on held-out pictures of real stained tissue, asked in overlapping squares and merged."""
    folder = real_folder()
    if folder is None:
        print("no real pictures (QWENVL_TEST_DATA): the real measure is left out", file=sys.stderr)
        return [], []
    real = RealNuclei(folder, PoolConfig())
    names = real.validation_names[: groups * each]
    scores, shown = [], []
    for group in range(groups):
        tally = BoxTally()
        for name in names[group::groups]:
            picture, truth = real.image(name)
            boxes = ask_in_squares(asker, picture)
            tally.add(boxes, truth)
            objects = tuple(TileObject("nucleus", box=(x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes.tolist())
            shown.append((LabelledTile(picture, truth, np.full(len(truth), -1)), Answer(Status.OK, objects)))
        scores.append(tally.f1)
    return [Measure("real stained tissue, F1 at IoU 0.5", tuple(scores), 0.35, 0.60)], shown


def ask_in_squares(asker: Asker, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Boxes (n, 4) in px of a whole picture from overlapping enlarged squares.

    A box cut by an inner border of its square is left to the neighbour that holds it whole; of boxes that
    overlap by more than 0.4 the larger stays.
    """
    height, width = picture.shape[:2]
    corners = [
        (x, y)
        for y in sorted({*range(0, height - REAL_SIDE, REAL_STEP), height - REAL_SIDE})
        for x in sorted({*range(0, width - REAL_SIDE, REAL_STEP), width - REAL_SIDE})
    ]
    squares = [enlarged(picture[y : y + REAL_SIDE, x : x + REAL_SIDE], asker.size) for x, y in corners]
    found = []
    for (x, y), answer in zip(corners, asker.ask(squares, Task.DETECT, labels=("nucleus",)), strict=True):
        boxes = boxes_of(answer.objects)[0] * (REAL_SIDE / asker.size)
        low, high = boxes[:, :2], boxes[:, 2:]
        cut = ((low < 1) & (np.array([x, y]) > 0)) | (
            (high > REAL_SIDE - 1) & (np.array([x, y]) + REAL_SIDE < (width, height))
        )
        found.append(boxes[~cut.any(1)] + np.array([x, y, x, y]))
    boxes = np.concatenate(found)
    boxes = boxes[np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], 1))]
    overlap = iou_matrix(boxes, boxes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not kept or overlap[i, kept].max() < 0.4:
            kept.append(i)
    return boxes[kept]


def enlarged(square: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The square at `size` px."""
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def measure_shapes(asker: Asker, groups: int, each: int) -> list[Measure]:
    """F1 of all nuclei on tiles of other sizes, scales and shapes than the recommended ones. They have no bars."""
    rows = []
    for height, width, mpp in OTHER_TILES:
        values = []
        for group in range(groups):
            seeds = range(FIRST_SEED + group * 10_000 + 5_000, FIRST_SEED + group * 10_000 + 5_000 + each)
            side = max(height, width)
            fields = [from_field(sample_field(s, size=side, mpp=mpp, max_nuclei=40)) for s in seeds]
            tiles = [window(tile, (height, width), np.random.default_rng(n)) for n, tile in enumerate(fields)]
            tally = BoxTally()
            images = [tile.image for tile in tiles]
            answers = asker.ask(images, Task.DETECT, count=False, labels=("nucleus",), max_objects=60)
            for tile, answer in zip(tiles, answers, strict=True):
                tally.add(boxes_of(answer.objects)[0], tile.boxes)
            values.append(tally.f1)
        name = f"{width} x {height} px at {mpp:g} um/px, up to 40 nuclei: F1"
        rows.append(Measure(name, tuple(values), float("nan"), float("nan")))
    return rows


def measure_speed(asker: Asker, repeats: int) -> Measure:
    """Seconds per detect tile, one by one, on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tiles = [sample_field(FIRST_SEED - 1 - i, size=asker.size, max_nuclei=20).image for i in range(repeats + 1)]
    asker.ask(tiles[:1], Task.DETECT, labels=("nucleus",))
    seconds = []
    for tile in tiles[1:]:
        start = time.perf_counter()
        asker.ask([tile], Task.DETECT, labels=("nucleus",))
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return Measure("seconds per detect tile, one CPU core", tuple(seconds), 1.5, 0.3, more_is_better=False)


def _named(answer: Answer, tile: LabelledTile) -> tuple[NDArray[np.float64], NDArray[np.float32], list[str], list[str]]:
    boxes, labels = boxes_of(answer.objects)
    return boxes, tile.boxes, labels, [CLASSES[c] for c in tile.classes]


def parsed(statuses: list[Status]) -> tuple[float, ...]:
    """1 for every answer that came in the form asked for."""
    return tuple(float(status in (Status.OK, Status.EMPTY)) for status in statuses)


def draw(shown: list[tuple[LabelledTile, Answer]], path: Path, columns: int = 6) -> None:
    """Predictions in colour by label over thin white truth."""
    panels = []
    for tile, answer in shown:
        picture = np.ascontiguousarray(cv2.resize(tile.image[..., ::-1], None, fx=1.5, fy=1.5))
        for box in tile.boxes * 1.5:
            cv2.rectangle(picture, *_corners(box), (255, 255, 255), 1)
        for thing in answer.objects:
            box = np.array(thing.box) * 1.5
            cv2.rectangle(picture, *_corners(box), COLOURS.get(thing.label, (255, 0, 255)), 2)
        panels.append(picture)
    panels = panels[: len(panels) // columns * columns] or panels
    columns = min(columns, len(panels))
    rows = [np.hstack(panels[i : i + columns]) for i in range(0, len(panels), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(rows))


def _corners(box: NDArray[np.floating]) -> tuple[tuple[int, int], tuple[int, int]]:
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    return (x0, y0), (x1, y1)


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="fewer fields and pictures")
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of predictions")
    options = parser.parse_args()
    asker = Asker(options.checkpoint)
    measures, fields = measure_fields(asker, *((3, 64) if options.fast else (5, 80)))
    real, pictures = measure_real(asker, *((2, 3) if options.fast else (3, 7)))
    kept = Measure("parse rate (status ok or empty)", parsed(asker.statuses), 0.99, 1.0)
    free = Measure("same, nuclei, decoded freely", parsed(asker.free_statuses), float("nan"), float("nan"))
    speed = measure_speed(asker, 5 if options.fast else 20)
    others = measure_shapes(asker, *((1, 24) if options.fast else (3, 40)))
    rows = [kept, free, *measures[:5], *real, *measures[5:], speed, *others]
    print(f"| {'measure':38} | {'mean':>6} | {'spread':>6} | {'bar':>5} | {'aim':>5} | |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        spread = float(np.nanstd(row.values))
        verdict = "" if np.isnan(row.bar) else "ok" if row.reached else "MISSED"
        bars = "  |  " if np.isnan(row.bar) else f"{row.bar:5.2f} | {row.aim:5.2f}"
        print(f"| {row.name:38} | {row.mean:6.3f} | {spread:6.3f} | {bars} | {verdict} |")
    if options.pictures:
        draw(fields[:24], options.pictures / "synthetic.png")
        draw(pictures[:12], options.pictures / "real.png", columns=4)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
