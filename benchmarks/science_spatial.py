"""Spatial transcriptomics: how fast samples are made, and how well a model predicts expression of a held-out section.

    python benchmarks/science_spatial.py [--fast] [--out FOLDER] [--only samples|her2st] [--steps N] [--pictures FOLDER]

Samples: a generated Visium folder of 5,000 spots x 20,000 genes and its slide become 5,000 tiles with questions about
three genes, in a process of its own: seconds of CPU (the machine may be shared) and peak memory.

Her2st (under QWENVL_TEST_DATA; breast cancer, Andersson et al. 2021): the embedded model learns from sections C2 and C3
the 20 marker genes that vary most over them, and predicts C4. These are serial sections of one tumor: the numbers say
how well expression carries over to the next section, not to another patient. Beside it, on the same tiles: a ridge
regression on colour and texture, the same learned from spots that were dealt out anew, and the model's own predictions
dealt out anew.

`--fast` takes fewer spots, genes and steps: does it run? Exits with 1 where a bar is missed, with 2 where the data is
absent.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

# The script beside this one called finetune.py is not the package.
sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != Path(__file__).resolve().parent]

SECONDS_BAR, MEMORY_BAR = 60.0, 4.0
IMAGES = {"C2": "C2_5714_HE_BT_C2.jpg", "C3": "C3_5714_HE_BT_D1.jpg", "C4": "C4_5714_HE_BT_D2.jpg"}
RECIPE: dict[str, Any] = {
    "lora": {"rank": 16, "targets": "language"},
    "train": {"batch": 32, "learning_rate": 1e-3, "save_every": 40, "keep_features": 1024, "bfloat16": True},
}
"""The vision tower is frozen, so each tile is looked at once however often it is asked about."""


# ------------------------------------------------------------------ a large folder to samples


def make_visium(folder: Path, spots: int, genes: int, seed: int = 0) -> Path:
    """Write a Space Ranger folder and its slide; a spot has counts in an eighth of the genes, as real ones do."""
    import h5py
    import tifffile

    from wsi.synthetic import sample_field

    rng = np.random.default_rng(seed)
    across = int(np.ceil(np.sqrt(spots)))
    pitch0, border = 200.0, 400  # 100 um at 0.5 um/px
    side = int(((across + 1) * pitch0 + 2 * border) / 512 + 1) * 512
    fields = [sample_field(9000 + i, size=256).image for i in range(16)]
    piece = np.concatenate([np.concatenate(fields[i : i + 4], axis=1) for i in range(0, 16, 4)])
    tissue = np.tile(piece, (side // 1024 + 1, side // 1024 + 1, 1))[:side, :side]
    for edge in (np.s_[:border], np.s_[-border:], np.s_[:, :border], np.s_[:, -border:]):
        tissue[edge] = 244
    folder.mkdir(parents=True)
    with tifffile.TiffWriter(folder / "slide.tif", bigtiff=True) as tif:
        for level in range(4):
            data = tissue[:: 2**level, :: 2**level]
            tif.write(
                data,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(level > 0),
                resolution=(20000 / 2**level, 20000 / 2**level),
                resolutionunit="CENTIMETER",
            )
    outs = folder / "outs"
    (outs / "spatial").mkdir(parents=True)
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps({"spot_diameter_fullres": pitch0 * 0.55}))
    rows, columns = np.divmod(np.arange(spots), across)
    x = border + (columns + 0.5 + 0.5 * (rows % 2)) * pitch0
    y = border + (rows * np.sqrt(3) / 2 + 0.5) * pitch0
    barcodes = [f"{'ACGT' * 4}{i:05d}-1" for i in range(spots)]
    lines = [f"{barcodes[i]},1,{rows[i]},{2 * columns[i] + rows[i] % 2},{y[i]:.1f},{x[i]:.1f}\n" for i in range(spots)]
    head = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
    (outs / "spatial" / "tissue_positions.csv").write_text(head + "".join(lines))
    per_spot = genes // 8
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["shape"] = np.array([genes, spots], np.int32)
        group["barcodes"] = np.array(barcodes, "S")
        group["indptr"] = np.arange(spots + 1, dtype=np.int64) * per_spot
        starts = rng.integers(0, 8, spots)
        indices = (np.arange(per_spot)[None] * 8 + starts[:, None]).ravel()
        group.create_dataset("indices", data=indices.astype(np.int64), compression="gzip", compression_opts=1)
        counts = rng.poisson(2.0, spots * per_spot).astype(np.int32) + 1
        group.create_dataset("data", data=counts, compression="gzip", compression_opts=1)
        features = group.create_group("features")
        features["name"] = np.array([f"GENE{i}" for i in range(genes)], "S")
        features["id"] = np.array([f"ENSG{i:08d}" for i in range(genes)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * genes, "S")
        features["genome"] = np.array(["GRCh38"] * genes, "S")
    (folder / "sections.csv").write_text("counts,image,name\nouts,slide.tif,generated\n")
    return folder


def time_samples(folder: Path) -> tuple[float, float, float, int]:
    """CPU and wall seconds, GiB and tiles of `qwenvl spatial samples` in a process of its own."""
    out = folder / f"samples-{os.getpid()}"
    command = [
        sys.executable,
        "-m",
        "qwenvl",
        "spatial",
        "samples",
        str(folder / "sections.csv"),
        "-o",
        str(out),
        "-g",
        "GENE8,GENE17,set=GENE80+GENE800+GENE1600",
    ]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    facts = json.loads((out / "samples.json").read_text())
    (section,) = facts["sections"]
    rows = sum(1 for _ in (out / "conversations.jsonl").open())
    pictures = sum(1 for _ in (out / "tiles").rglob("*.png"))
    if rows != facts["rows"]["train"] or pictures != section["counts"]["tiles"]:
        raise AssertionError(f"{rows} rows and {pictures} tiles, and the record says {facts['rows']}")
    return seconds, wall, after.ru_maxrss / 2**20, pictures


def samples_part(out: Path, *, fast: bool) -> list[str]:
    """Print the table; the bars that were missed."""
    spots, genes = (500, 2_000) if fast else (5_000, 20_000)
    folder = out / f"visium-{spots}x{genes}"
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        make_visium(partial, spots, genes).rename(folder)
    seconds, wall, memory, tiles = time_samples(folder)
    print("\nVisium folder to grounding samples\n")
    print("| spots x genes | tiles | CPU s | wall s | peak GiB |")
    print("|---|---|---|---|---|")
    print(f"| {spots:,} x {genes:,} | {tiles:,} | {seconds:.1f} | {wall:.1f} | {memory:.2f} |")
    missed = []
    if seconds > SECONDS_BAR:
        missed.append(f"{seconds:.1f} s of CPU for {spots:,} spots, bar {SECONDS_BAR:g} s")
    if memory > MEMORY_BAR:
        missed.append(f"{memory:.2f} GiB, bar {MEMORY_BAR:g}")
    return missed


# ------------------------------------------------------------------ her2st, C2 and C3 to C4


def her2st_part(data: Path, out: Path, *, steps: int, genes: int, pictures: Path | None, fast: bool) -> list[str]:
    """Train, predict, compare; the bars that were missed."""
    from finetune.config import FinetuneConfig
    from finetune.train import finetune
    from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint
    from qwenvl.checkpoints.loading import find_checkpoint
    from qwenvl.engines.local import LocalEngine
    from qwenvl.writing import Writer
    from workflows.commands.science.spatial import print_evaluation
    from workflows.science.spatial.job import PredictionSettings, evaluate_prediction, predict_section
    from workflows.science.spatial.samples import FACTS, SampleSettings, write_samples
    from workflows.science.spatial.sections.genes import most_variable, parse_targets
    from workflows.science.spatial.sections.listing import SectionEntry
    from workflows.science.spatial.sections.reading import read_section

    her2st = data / "spatial" / "her2st"
    entries = [
        SectionEntry(
            her2st / "counts" / f"{name}.tsv.gz",
            her2st / "images" / image,
            name,
            her2st / "spots" / f"{name}_selection.tsv",
            "C",
            "held_out" if name == "C4" else "train",
            200.0,
        )
        for name, image in IMAGES.items()
    ]
    train, (held_out,) = ([e for e in entries if e.split == "train"], [e for e in entries if e.split != "train"])
    description = describe_checkpoint(find_checkpoint("embedded"), name="embedded")
    samples = out / f"samples-{genes}"
    if not (samples / FACTS).exists():
        sections = [read_section(e.counts or "", name=e.name, spots=e.spots, pitch_um=e.pitch_um) for e in train]
        settings = SampleSettings(tasks=("spots",), split_by="section")
        write_samples(
            entries, most_variable(sections, genes), samples, Writer.of(description), description.processor, settings
        )
    facts = json.loads((samples / FACTS).read_text())
    targets = parse_targets(facts["targets"])

    recipe = FinetuneConfig.model_validate(
        {
            "conversations": samples / "conversations.jsonl",
            "held_out": samples / "held_out.jsonl",
            "out": out / f"run-{genes}-{steps}",
            "base": "embedded",
            "device": "cpu",
            "lora": RECIPE["lora"],
            "train": {**RECIPE["train"], "steps": steps},
            "evaluate": {"tiles": 40, "base": False, "metric": "auroc"},
        }
    )
    start = time.process_time()
    result = finetune(recipe, say=lambda text: print(f"  {text}", file=sys.stderr))
    trained = time.process_time() - start

    prediction = out / f"prediction-{genes}-{steps}"
    start = time.process_time()
    engine = LocalEngine.load("embedded", device="cpu", adapter=result.adapter)
    predict_section(held_out, targets, engine, prediction, PredictionSettings())
    asked = time.process_time() - start
    evaluation = evaluate_prediction(prediction, train)

    print(f"\nHer2st: C2 and C3 to C4, {genes} marker genes, {steps} steps\n")
    print_evaluation(evaluation)
    print(f"\ntraining {trained / 60:.1f} min of CPU in this call, prediction {asked:.0f} s")
    for note in facts["notes"]:
        print(f"note: {note}")
    if pictures is not None:
        draw(prediction, pictures / "science-spatial.jpg")
    if fast:
        return []
    model, ridge = evaluation.scores
    missed = []
    if not model.mean("pearson") > evaluation.shuffled.upper:
        least = evaluation.shuffled.upper
        missed.append(f"mean correlation {model.mean('pearson'):.3f} is within that of shuffled spots ({least:.3f})")
    if model.mean("pearson") < ridge.mean("pearson"):
        print(f"aim missed: ridge {ridge.mean('pearson'):.3f}, model {model.mean('pearson'):.3f}")
    return missed


def draw(prediction: Path, path: Path) -> None:
    """The picture of the docs: three genes, measured beside predicted."""
    from PIL import Image

    from workflows.science.spatial.job import read_prediction
    from workflows.science.spatial.result import draw_maps

    _, table = read_prediction(prediction)
    document = json.loads((prediction / "regions.geojson").read_text())
    boxes: dict[str, Any] = {}
    for feature in document["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        name = feature["properties"]["classification"]["name"].removeprefix("high ")
        boxes.setdefault(name, []).append([*ring.min(axis=0), *ring.max(axis=0)])
    names = [name for name in ("SCGB2A2", "FN1", "HLA-DRA") if name in table.obsm["predicted"]]
    drawn = path.with_suffix(".png")
    draw_maps(table, boxes, drawn, names or None)
    with Image.open(drawn) as picture:
        picture.convert("RGB").save(path, quality=88)
    drawn.unlink()


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="fewer spots, genes and steps: does it run?")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-spatial"))
    parser.add_argument("--only", choices=("samples", "her2st"), help="one of the two parts")
    parser.add_argument("--steps", type=int, default=None, help="training steps")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for the picture of the docs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    missed: list[str] = []
    if options.only != "her2st":
        missed += samples_part(options.out, fast=options.fast)
    absent = False
    if options.only != "samples":
        default = Path(__file__).resolve().parents[2] / "shared" / "data"
        data = Path(os.environ.get("QWENVL_TEST_DATA", default)).expanduser()
        absent = not (data / "spatial" / "her2st").is_dir()
        if absent:
            print(f"no sections at {data} (QWENVL_TEST_DATA); nothing is trained", file=sys.stderr)
        else:
            steps, genes = (20, 3) if options.fast else (480, 20)
            missed += her2st_part(
                data,
                options.out,
                steps=options.steps or steps,
                genes=genes,
                pictures=options.pictures,
                fast=options.fast,
            )
    for text in missed:
        print(f"MISSED: {text}")
    return 1 if missed else 2 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
