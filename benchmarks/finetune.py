"""Does fine-tuning teach the embedded model new classes, and what does it forget?

    python benchmarks/finetune.py [--fast] [--out FOLDER] [--only curve|replay] [--steps N]

Blood cells (BCCD, three classes that the model never saw, under QWENVL_TEST_DATA): F1 at IoU 0.5 on its validation
pictures, without and with an adapter, as a learning curve over 10, 50 and 205 training pictures, and with 0, 5, 10 and
20 % of the taught tokens from replay. The old skill is nuclei of stained tissue (Data Science Bowl 2018, held-out
pictures). Tiles of 480 px are cut from every picture and brought to 256 px. All rows of a table come from one recipe;
a run that was interrupted goes on. Exits with 1 where a bar is missed, with 2 where the data is absent.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.build import BuildOptions, build_dataset, split_dataset
from finetune.config import FinetuneConfig
from finetune.pretrain.config import PoolConfig, real_folder
from finetune.pretrain.real import RealNuclei
from finetune.train import Result, finetune

F1_BAR, LOSS_BAR = 0.4, 2.0
CLASSES = {"RBC": "red blood cell", "WBC": "immune cell", "Platelets": "platelet"}
"""Names in the model's own vocabulary: a word that is spelled in bytes has to be learned besides."""


@dataclass(frozen=True)
class Row:
    """One trained adapter."""

    pictures: int
    share: float
    result: Result
    seconds: float

    @property
    def f1(self) -> float:
        """With the adapter."""
        assert self.result.score is not None
        return self.result.score.values["f1"]

    @property
    def lost(self) -> float:
        """Points of the old skill."""
        assert self.result.forgetting is not None
        f = self.result.forgetting
        return f.before["tissue nuclei"] - f.after["tissue nuclei"]


def blood_cells(data: Path, out: Path, pictures: int) -> Path:
    """The dataset with the first `pictures` training pictures; its validation pictures are always all 87."""
    folder = out / f"blood-{pictures}"
    if not (folder / "dataset.json").exists():
        bccd = data / "cells" / "bccd"
        options = BuildOptions(names=tuple(CLASSES.values()), rename=CLASSES)
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
            "tissue nuclei",
            [(source / "labels", source / "images")],
            BuildOptions(rename={"object": "nucleus"}),
        )
        lists = {"train": real.training_names, "validation": real.validation_names}
        split_dataset(dataset, lists={k: [n.split(".")[0] for n in v] for k, v in lists.items()}).save(folder)
    return folder


def recipe(
    dataset: Path, nuclei: Path, out: Path, *, share: float, steps: int, tiles: int | None
) -> FinetuneConfig:
    """One recipe for all rows."""
    return FinetuneConfig.model_validate(
        {
            "dataset": dataset, "out": out, "base": "embedded", "device": "cpu",
            "tile": {"size": 256, "downsample": 1.875}, "augment": {"colour": 1.0},
            "max_objects": 40, "max_new_tokens": 320, "around_share": 0.3,
            "lora": {"rank": 32, "targets": "language", "merger": True},
            "train": {
                "steps": steps, "batch": 8, "learning_rate": 2e-3, "save_every": 25, "soft_coordinates": 3,
                "label_weight": 2, "bfloat16": True,
            },
            "evaluate": {"tiles": tiles},
            "replay": {
                "share": share,
                "sources": [
                    {"name": "tissue nuclei", "kind": "dataset", "path": nuclei, "held_out": 40,
                     "tile": {"size": 256, "downsample": 0.6}},
                ],
            },
        }
    )  # fmt: skip


def train_row(data: Path, out: Path, pictures: int, share: float, steps: int, tiles: int | None) -> Row:
    """Train and measure one adapter, or go on with it."""
    config = recipe(
        blood_cells(data, out, pictures), tissue_nuclei(out), out / f"run-{pictures}-{share:g}-{steps}",
        share=share, steps=steps, tiles=tiles,
    )  # fmt: skip
    start = time.perf_counter()
    result = finetune(config, say=lambda text: print(f"  {text}", file=sys.stderr))
    return Row(pictures, share, result, time.perf_counter() - start)


def print_table(title: str, rows: list[Row]) -> None:
    """Base beside adapter, one line per row."""
    print(f"\n{title}\n")
    print(
        "| pictures | replay | F1 base | F1 adapter | 95 % | F1@0.3 | AP | old skill before | after | lost | minutes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        score, base, kept = row.result.score, row.result.base, row.result.forgetting
        assert score is not None
        assert base is not None
        assert kept is not None
        low, high = score.interval
        print(
            f"| {row.pictures} | {row.share:.0%} | {base.values['f1']:.3f} | {row.f1:.3f} | {low:.3f}-{high:.3f} | "
            f"{score.values['f1@0.3']:.3f} | {score.values['ap']:.3f} | {kept.before['tissue nuclei']:.1f} | "
            f"{kept.after['tissue nuclei']:.1f} | {row.lost:+.1f} | {row.seconds / 60:.1f} |"
        )
        classes = ", ".join(f"{name} {values['f1']:.3f}" for name, values in score.classes.items())
        print(f"| | | | {classes} | | | | | | | |")


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--fast", action="store_true", help="one adapter of few steps on 50 pictures: does it run?"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-finetune"))
    parser.add_argument("--only", choices=("curve", "replay"), help="one of the two tables")
    parser.add_argument("--steps", type=int, default=700)
    options = parser.parse_args()
    source = real_folder()
    if source is None:
        print("no real pictures (QWENVL_TEST_DATA); nothing is measured", file=sys.stderr)
        return 2
    data = source.parent.parent
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fast:
        row = train_row(data, options.out, 50, 0.15, 12, 8)
        print_table("12 steps on 50 pictures (too few for the bars)", [row])
        return 0
    rows: dict[tuple[int, float], Row] = {}

    def get(pictures: int, share: float) -> Row:
        if (pictures, share) not in rows:
            rows[pictures, share] = train_row(data, options.out, pictures, share, options.steps, None)
        return rows[pictures, share]

    missed = []
    if options.only != "replay":
        curve = [get(pictures, 0.1) for pictures in (10, 50, 205)]
        print_table("Learning curve (10 % replay)", curve)
        if curve[-1].f1 < F1_BAR:
            missed.append(f"F1 {curve[-1].f1:.3f} on 205 pictures, bar {F1_BAR}")
    if options.only != "curve":
        ablation = [get(205, share) for share in (0.0, 0.05, 0.1, 0.2)]
        print_table("Share of replay (205 pictures)", ablation)
        if min(row.lost for row in ablation[1:]) > LOSS_BAR:
            missed.append(f"every share of replay lost more than {LOSS_BAR} points of the old skill")
    for text in missed:
        print(f"MISSED: {text}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
