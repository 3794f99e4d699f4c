"""Does fine-tuning teach the embedded model new classes, and what does it forget?

    python benchmarks/finetune.py [--fast] [--out FOLDER] [--only curve|replay|planted] [--picture FILE]

1. Blood cells (BCCD, three classes that the model never saw, under QWENVL_TEST_DATA): F1 at IoU 0.5 on all its
   validation pictures, without and with an adapter, as a learning curve over 10, 50 and 205 training pictures.
2. The same with 0, 5, 10 and 20 % of the taught tokens from replay. The old skill is nuclei of stained tissue (Data
   Science Bowl 2018, pictures that pre-training held back).
3. A class planted on factory fields (pigment-laden cells), learned from 100 tiles; old are the five nucleus classes.

All rows of a table come from one recipe; a run that was interrupted goes on. Intervals are 95 % bootstraps over
pictures. Exits with 1 where a bar is missed, with 2 where the data
is absent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

# `finetune` is the package of that name, not the script beside this one.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

from finetune.dataset.build import BuildOptions, build_dataset, split_dataset
from finetune.dataset.cutting import Cutter, TileSpec
from finetune.dataset.samples import Dataset
from finetune.evaluation.evaluate import Exam
from finetune.evaluation.metrics import Score
from finetune.examples.label_source import TileReader, validation_cuts
from qwenvl.checkpoints.checkpoint_metadata import fingerprint
from qwenvl.checkpoints.loading import find_checkpoint, load_checkpoint
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Generation, Request
from recipes.pretrain.config import PoolConfig, real_folder
from recipes.pretrain.real import RealNuclei
from recipes.training import SmallModelConfig, finetune
from wsi.synthetic import CLASSES, sample_field
from wsi.synthetic.tissue.pigment import plant_pigment

F1_BAR, F1_AIM, LOSS_BAR, PLANTED_BAR = 0.4, 0.6, 2.0, 0.7
BLOOD = {"RBC": "red blood cell", "WBC": "immune cell", "Platelets": "platelet"}
"""Names in the model's own vocabulary: a word that is spelled in bytes has to be learned besides."""
SHARES = (0.0, 0.05, 0.1, 0.2)
PICTURES = (10, 50, 205)
SHARE = 0.2
"""Replay of the learning curve."""
TILE: dict[str, Any] = {"size": 256, "downsample": 1.875}
NUCLEI_TILE: dict[str, Any] = {"size": 256, "downsample": 0.6}
PIGMENT = "pigment"
PLANTED_TILES, PLANTED_HELD, PLANTED_STEPS, PLANTED_REPLAY = 100, 100, 700, 0.75


@dataclass(frozen=True)
class Skill:
    """Something that is measured by the same tiles, before and after."""

    exam: Exam

    @classmethod
    def of(cls, folder: Path, tile: dict[str, Any], labels: Sequence[str], most: int | None = None) -> Skill:
        """The validation tiles of a dataset."""
        dataset = Dataset.open(folder)
        cutter = Cutter(dataset, TileSpec(**tile), tuple(labels))
        cuts = validation_cuts(cutter, "validation", most=most, seed=7)
        request = Request(
            task="detect",
            labels=tuple(labels),
            tile_size=tile["size"],
            overlap=0,
            max_objects=40,
            generation=Generation(max_new_tokens=320),
        )
        return cls(Exam(tuple(cuts), TileReader(dataset), request))

    @property
    def size(self) -> int:
        """Number of tiles."""
        return len(self.exam.cuts)

    def score(self, adapter: Path | None) -> Score:
        """With an adapter, or of the model as it comes."""
        return self.exam.score(LocalEngine(load_checkpoint("embedded", device="cpu", adapter=adapter)))


@dataclass(frozen=True)
class Row:
    """One trained adapter."""

    pictures: int
    share: float
    new: Score
    old: Score
    seconds: float


def blood_cells(data: Path, out: Path, pictures: int) -> Path:
    """The dataset with the first `pictures` training pictures; its validation pictures are always all 87."""
    folder = out / f"blood-{pictures}"
    if not (folder / "dataset.json").exists():
        bccd = data / "cells" / "bccd"
        options = BuildOptions(names=tuple(BLOOD.values()), rename=BLOOD)
        dataset = build_dataset("blood cells", [(bccd / "annotations", bccd / "images")], options)
        names = {
            "train": (bccd / "train.txt").read_text().split(),
            "validation": (bccd / "val.txt").read_text().split(),
        }
        dataset = split_dataset(dataset, lists=names)
        kept = set(names["train"][:pictures]) | set(names["validation"])
        replace(
            dataset,
            slides=tuple(entry for entry in dataset.slides if entry.id in kept),
            labels=tuple(label for label in dataset.labels if label.slide in kept),
            areas=tuple(area for area in dataset.areas if area.slide in kept),
        ).save(folder)
    return folder


def tissue_nuclei(out: Path) -> Path:
    """The old skill: nuclei that pre-training knew, split as it split them."""
    folder = out / "nuclei"
    source = real_folder()
    if not (folder / "dataset.json").exists() and source is not None:
        real = RealNuclei(source, PoolConfig())
        dataset = build_dataset(
            "tissue nuclei", [(source / "labels", source / "images")], BuildOptions(rename={"object": "nucleus"})
        )
        lists = {"train": real.training_names, "validation": real.validation_names}
        split_dataset(dataset, lists={k: [n.split(".")[0] for n in v] for k, v in lists.items()}).save(folder)
    return folder


def factory(out: Path, name: str, counts: dict[str, int], first: int, *, planted: bool) -> Path:
    """Factory fields as a dataset: with pigmented cells and those labelled, or as they are with their nuclei."""
    import cv2

    folder = out / name
    if (folder / "dataset.json").exists():
        return folder
    pictures = out / f"{name}-pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    names = [PIGMENT] if planted else list(CLASSES)
    images, annotations, lists = [], [], {}
    for split, count in counts.items():
        for _ in range(count):
            number = first + len(images)
            # Every fourth field shows the classes that are rare elsewhere.
            rare = ("mitosis", "epithelial") if not planted and number % 4 == 0 else None
            field = sample_field(number, max_nuclei=20, classes=rare)
            image, boxes, labels = field.image, field.boxes, field.labels
            if planted:
                found = plant_pigment(image, number)
                image, boxes, labels = found.image, found.boxes, (PIGMENT,) * len(found.boxes)
            file = f"{name}{number}.png"
            cv2.imwrite(str(pictures / file), image[..., ::-1])
            height, width = image.shape[:2]
            images.append({"id": number, "file_name": file, "width": width, "height": height})
            lists.setdefault(split, []).append(f"{name}{number}")
            annotations += [
                {"image_id": number, "category_id": names.index(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for (x0, y0, x1, y1), label in zip(np.asarray(boxes).tolist(), labels, strict=True)
            ]
    file = pictures / "labels.json"
    categories = [{"id": number, "name": each} for number, each in enumerate(names)]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    dataset = build_dataset(name, [(file, pictures)], BuildOptions(names=tuple(names)))
    split_dataset(dataset, lists=lists).save(folder)
    return folder


def recipe(
    dataset: Path, out: Path, tile: dict[str, Any], steps: int, share: float, sources: list[Any], *, distil: float = 0.7
) -> Any:
    """One recipe for a table; what an adapter is measured by is the benchmark's own."""
    return SmallModelConfig.model_validate(
        {
            "dataset": dataset,
            "out": out,
            "base": "embedded",
            "device": "cpu",
            "tile": tile,
            "augment": {"colour": 1.0, "pool": min(2400, 4 * steps)},
            "max_objects": 40,
            "max_new_tokens": 320,
            "around_share": 0.3,
            "lora": {"rank": 32, "targets": "language", "merger": True},
            "train": {
                "steps": steps,
                "batch": 8,
                "learning_rate": 1.5e-3,
                "save_every": 100,
                "soft_coordinates": 3,
                "coordinate_noise": 12,
                "label_weight": 2,
                "bfloat16": True,
                "keep_features": 2048,
            },
            "evaluate": {"tiles": 1, "base": False},
            "replay": {"share": share, "sources": sources, "distil": distil},
        }
    )


def train_row(data: Path, out: Path, pictures: int, share: float, steps: int, new: Skill, old: Skill) -> Row:
    """Train and measure one adapter, or go on with it."""
    nuclei = {
        "name": "tissue nuclei",
        "kind": "dataset",
        "path": tissue_nuclei(out),
        "held_out": 0,
        "tile": NUCLEI_TILE,
    }
    config = recipe(
        blood_cells(data, out, pictures), out / f"run-{pictures}-{share:g}-{steps}", TILE, steps, share, [nuclei]
    )
    kept = config.out.with_name(f"{config.out.name}-{new.size}-{old.size}.json")
    if kept.is_file():
        found = json.loads(kept.read_text())
        return Row(pictures, share, _score(found["new"]), _score(found["old"]), found["seconds"])
    start = time.perf_counter()
    adapter = finetune(config, say=lambda text: print(f"  {text}", file=sys.stderr)).adapter
    row = Row(pictures, share, new.score(adapter), old.score(adapter), time.perf_counter() - start)
    kept.write_text(json.dumps({"new": asdict(row.new), "old": asdict(row.old), "seconds": row.seconds}))
    return row


def _score(fields: dict[str, Any]) -> Score:
    return Score(**{**fields, "interval": tuple(fields["interval"])})


def lost(before: Score, after: Score) -> float:
    """Points of F1."""
    return 100 * (before.values["f1"] - after.values["f1"])


def between(score: Score) -> str:
    """F1 with its interval."""
    low, high = score.interval
    return f"{score.values['f1']:.3f} ({low:.3f}-{high:.3f})"


def print_rows(title: str, rows: list[Row], base: Score, nuclei: Score) -> None:
    """Base beside adapters, one line per row."""
    print(f"\n{title}\n")
    names = list(base.classes)
    print(f"| pictures | replay | F1@0.5 | F1@0.3 | AP | {' | '.join(names)} | old skill | lost | minutes |")
    print("|" + "---|" * (8 + len(names)))
    for row in [None, *rows]:
        score, old = (base, nuclei) if row is None else (row.new, row.old)
        classes = " | ".join(f"{score.classes[name]['f1']:.3f}" for name in names)
        head = "none (base) | " if row is None else f"{row.pictures} | {row.share:.0%}"
        tail = "|" if row is None else f"{lost(nuclei, old):+.1f} | {row.seconds / 60:.1f}"
        print(
            f"| {head} | {between(score)} | {score.values['f1@0.3']:.3f} | {score.values['ap']:.3f} | {classes} | "
            f"{between(old)} | {tail} |"
        )


def draw_curve(rows: list[Row], base: Score, path: Path) -> None:
    """The learning curve as a picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
    numbers = [row.pictures for row in rows]
    axes.axhline(F1_BAR, color="0.6", linewidth=1, linestyle="--")
    axes.text(numbers[0], F1_BAR + 0.01, "bar", color="0.4", fontsize=8)
    f1 = np.array([row.new.values["f1"] for row in rows])
    spread = np.abs(np.array([row.new.interval for row in rows]).T - f1)
    axes.errorbar(numbers, f1, yerr=spread, marker="o", capsize=3, color="black", label="all classes")
    for name in base.classes:
        axes.plot(numbers, [row.new.classes[name]["f1"] for row in rows], marker=".", label=name)
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("training pictures")
    axes.set_ylabel("F1 at IoU 0.5")
    axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def planted(out: Path, steps: int, tiles: int, held: int) -> list[str]:
    """The third table; what of its bars was missed."""
    tile = {"size": 256, "downsample": 1.0}
    pigment = factory(out, "pigment", {"train": tiles, "validation": held}, 7_000_000, planted=True)
    fields = factory(out, "fields", {"train": 2 * tiles, "validation": 2 * held}, 7_100_000, planted=False)
    new, old = Skill.of(pigment, tile, [PIGMENT]), Skill.of(fields, tile, CLASSES)
    before_new, before_old = new.score(None), old.score(None)
    sources = [
        {"name": "old classes", "kind": "dataset", "path": fields, "held_out": 0, "tile": tile},
        {"name": "factory", "kind": "pretraining", "held_out": 0, "tile": tile, "share": 0.2},
    ]
    config = recipe(pigment, out / f"run-pigment-{steps}", tile, steps, PLANTED_REPLAY, sources, distil=0.9)
    start = time.perf_counter()
    adapter = finetune(config, say=lambda text: print(f"  {text}", file=sys.stderr)).adapter
    minutes = (time.perf_counter() - start) / 60
    after_new, after_old = new.score(adapter), old.score(adapter)
    measured = f"measured on {new.size} and {old.size} tiles"
    print(f"\nA planted class, {tiles} tiles, {steps} steps, {minutes:.1f} min, {measured}\n")
    print("| class | labels | F1 base | F1 adapter | lost |")
    print("|---|---|---|---|---|")
    rows = [(PIGMENT, before_new, after_new)]
    for title, before, after in rows:
        print(f"| {title} (new) | {before.classes[PIGMENT]['labels']} | {between(before)} | {between(after)} | |")
    for name in CLASSES:
        a, b = before_old.classes[name], after_old.classes[name]
        print(f"| {name} | {a['labels']} | {a['f1']:.3f} | {b['f1']:.3f} | {100 * (a['f1'] - b['f1']):+.1f} |")
    together = f"{between(before_old)} | {between(after_old)} | {lost(before_old, after_old):+.1f}"
    print(f"| old classes together | | {together} |")
    missed = []
    if not after_new.values["f1"] >= PLANTED_BAR:
        missed.append(f"planted class: F1 {after_new.values['f1']:.3f}, bar {PLANTED_BAR}")
    worst = max((100 * (before_old.classes[n]["f1"] - after_old.classes[n]["f1"]), n) for n in CLASSES)
    if worst[0] > LOSS_BAR:
        missed.append(f"planted class: {worst[1]} lost {worst[0]:.1f} points, limit {LOSS_BAR:g}")
    return missed


def blood(data: Path, options: argparse.Namespace, pictures: Sequence[int], shares: Sequence[float]) -> list[str]:
    """The first two tables; what of their bars was missed."""
    out, steps = options.out, options.steps
    new = Skill.of(blood_cells(data, out, max(PICTURES)), TILE, tuple(BLOOD.values()), options.tiles)
    old = Skill.of(tissue_nuclei(out), NUCLEI_TILE, ("nucleus",), options.tiles)
    base, nuclei = new.score(None), old.score(None)
    rows: dict[tuple[int, float], Row] = {}

    def get(number: int, share: float) -> Row:
        if (number, share) not in rows:
            rows[number, share] = train_row(data, out, number, share, steps, new, old)
        return rows[number, share]

    missed = []
    tested = f"{base.tiles} validation tiles of blood cells, {nuclei.tiles} of nuclei; {steps} steps"
    if pictures:
        curve = [get(number, SHARE) for number in pictures]
        print_rows(f"Learning curve, {SHARE:.0%} replay ({tested})", curve, base, nuclei)
        if options.picture is not None:
            draw_curve(curve, base, options.picture)
        if curve[-1].new.values["f1"] < F1_BAR:
            missed.append(f"F1 {curve[-1].new.values['f1']:.3f} on {pictures[-1]} pictures, bar {F1_BAR}")
        if lost(nuclei, curve[-1].old) > LOSS_BAR:
            missed.append(f"nuclei lost {lost(nuclei, curve[-1].old):.1f} points, limit {LOSS_BAR:g}")
    if shares:
        most = max(PICTURES)
        print_rows(f"Share of replay ({tested})", [get(most, share) for share in shares], base, nuclei)
    return missed


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="few steps and tiles: does it run?")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-finetune"))
    parser.add_argument("--only", choices=("curve", "replay", "planted"), help="one of the three tables")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tiles", type=int, help="most validation tiles; all by default")
    parser.add_argument("--picture", type=Path, help="where the learning curve is drawn")
    options = parser.parse_args()
    source = real_folder()
    if source is None:
        print("no real pictures (QWENVL_TEST_DATA); nothing is measured", file=sys.stderr)
        return 2
    data = source.parent.parent
    # Runs of other weights are other runs.
    options.out = options.out / fingerprint(find_checkpoint("embedded"))[-8:]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fast:
        options.steps, options.tiles = 12, 8
        blood(data, options, (50,), ())
        planted(options.out, 12, 16, 8)
        print("\ntoo few steps for the bars; without --fast they are tested")
        return 0
    missed = []
    if options.only != "planted":
        pictures = PICTURES if options.only != "replay" else ()
        missed += blood(data, options, pictures, SHARES if options.only != "curve" else ())
    if options.only in (None, "planted"):
        missed += planted(options.out, PLANTED_STEPS, PLANTED_TILES, PLANTED_HELD)
    for text in missed:
        print(f"MISSED: {text}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
