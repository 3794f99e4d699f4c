"""`qwenvl dataset`: labels of any tool become one dataset, looked at before anything is learned from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.commands._guard import USAGE, guarded, listed, pairs_of, stop
from wsi.regions.frames import PixelFrame

if TYPE_CHECKING:
    from finetune.examples.label_source import LabelSource
    from finetune.examples.plain_tokens import PlainCheckpoint

group = typer.Typer(help="Labels for fine-tuning: build, split, look at, hand over.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")]
Model = Annotated[str, typer.Option("-m", "--model", help="Checkpoint whose tokens and coordinates are shown.")]
Size = Annotated[int, typer.Option(min=32, help="Side of a tile in px.")]
Mpp = Annotated[float | None, typer.Option(min=0.001, help="Scale of the tiles in um/px.")]
Down = Annotated[float | None, typer.Option(min=0.01, help="Level-0 px per px, in place of --mpp.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Images = Annotated[Path | None, typer.Option(help="Where the pictures lie now.")]


@group.command()
@guarded
def build(
    out: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder to write.")],
    labels: Annotated[
        list[Path],
        typer.Option(
            "-l",
            "--labels",
            help="Annotations: GeoJSON, COCO, VOC, YOLO, LabelMe, ASAP, Aperio, label images, or a run.",
        ),
    ],
    images: Annotated[
        list[Path] | None, typer.Option("-i", "--images", help="Their slide, or the folder of their pictures.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--format", help="In place of the choice by content.")] = None,
    classes: Annotated[str | None, typer.Option(help="Classes that are wanted: A,B,...")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="Class of the file=class of the dataset.")] = None,
    ignore: Annotated[str | None, typer.Option(help="Classes that are left out: A,B,...")] = None,
    unnamed: Annotated[str, typer.Option(help="Class of labels without one.")] = "",
    exhaustive: Annotated[
        str,
        typer.Option(
            help="Where all objects are labelled: auto (by format), whole, areas; of a run reviewed (tiles with a "
            "verdict on every object) or searched (these, and tiles without any); none."
        ),
    ] = "auto",
    area_class: Annotated[
        str | None, typer.Option(help="Classes of annotations that outline exhaustively labelled areas.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(min=0.001, help="um per level-0 px, where files do not say.")] = None,
    frame: Annotated[
        PixelFrame | None,
        typer.Option(
            help="Where px (0, 0) of GeoJSON lies: 'qupath' in the corner of what QuPath shows, 'level0' in that of "
            "the whole slide. Needed where QuPath crops the slide and the file does not say.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; by default that of its folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset in the folder.")] = False,
) -> None:
    """Build a dataset from annotation files."""
    from finetune.dataset.build import BuildOptions, build_dataset

    pictures = images or []
    if len(pictures) not in (0, 1, len(labels)):
        stop(f"{len(labels)} annotation files and {len(pictures)} pictures: give one for each, or one for all", USAGE)
    places: list[Path | None] = [*(pictures if len(pictures) == len(labels) else pictures * len(labels))]
    options = BuildOptions(
        names=listed(classes),
        rename=pairs_of(rename or [], "--rename"),
        ignore=listed(ignore),
        unnamed=unnamed,
        exhaustive="areas" if area_class and exhaustive == "auto" else exhaustive,
        area_names=listed(area_class),
        mpp=mpp,
        kind=kind,
        frame=frame,
    )
    pairs = list(zip(labels, places or [None] * len(labels), strict=True))
    dataset = build_dataset(name or out.name, pairs, options).save(out, overwrite=overwrite)
    _print_counts(dataset)
    for text in dataset.refused:
        typer.secho(f"left out: {text}", err=True, fg=typer.colors.YELLOW)
    for text in dataset.notes:
        typer.secho(f"note: {text}", err=True, fg=typer.colors.YELLOW)


@group.command()
@guarded
def split(
    folder: Folder,
    by: Annotated[str, typer.Option(help="patient or slide; tiles are never split.")] = "patient",
    validation: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    patients: Annotated[Path | None, typer.Option(help="CSV with columns slide and patient.")] = None,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression: its first group in a slide's name is the patient.")
    ] = None,
    listed_in: Annotated[
        list[str] | None, typer.Option("--list", help="split=file with one slide per line, in place of drawing.")
    ] = None,
) -> None:
    """Divide slides into training, validation and test."""
    from finetune.dataset.build import read_patients, split_dataset, with_patients
    from finetune.dataset.samples import Dataset

    dataset = Dataset.open(folder)
    if patients is not None or patient_pattern is not None:
        table = None if patients is None else read_patients(patients)
        dataset = with_patients(dataset, table, patient_pattern)
    lists = None
    if listed_in:
        files = pairs_of(listed_in, "--list")
        lists = {
            name: [
                line.strip().split(".")[0]
                for line in Path(file).read_text(encoding="utf-8-sig").split("\n")
                if line.strip()
            ]
            for name, file in files.items()
        }
    dataset = split_dataset(dataset, by=by, validation=validation, test=test, seed=seed, lists=lists)
    dataset.save(folder, overwrite=True)
    _print_counts(dataset)


@group.command()
@guarded
def stats(
    folder: Folder,
    model: Model = "embedded",
    tile_size: Size = 448,
    mpp: Mpp = None,
    downsample: Down = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Labels per class and split, tiles, and the tokens a model would learn from."""
    from finetune.dataset.samples import SPLITS, Dataset
    from finetune.evaluation.show import tile_stats
    from finetune.examples.label_source import validation_cuts

    dataset = Dataset.open(folder)
    dataset.require_no_leak()
    facts: dict[str, Any] = {"name": dataset.name, "hash": dataset.hash, "classes": list(dataset.names)}
    for name in SPLITS:
        if dataset.of_split(name):
            source, _ = _source(folder, name, model, tile_size, mpp, downsample, None)
            cuts = validation_cuts(source.cutter, name)
            facts[name] = {
                "slides": len(dataset.of_split(name)),
                "patients": len({entry.patient for entry in dataset.of_split(name)}),
                "labels": dataset.counts(name),
                "tiles": tile_stats(source, cuts),
            }
    if as_json:
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    _print_counts(dataset)
    for name in SPLITS:
        if name in facts:
            t = facts[name]["tiles"]
            typer.echo(
                f"{name}: {facts[name]['slides']} slides of {facts[name]['patients']} patients, {t['tiles']} tiles of "
                f"{tile_size} px ({t['empty']} empty), {t['objects_per_tile']:.1f} objects and {t['mean_length']:.0f} "
                f"tokens per tile, {t['longest']} at most"
            )


@group.command()
@guarded
def show(
    folder: Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="PNG to write.")] = Path("targets.png"),
    model: Model = "embedded",
    tile_size: Size = 448,
    mpp: Mpp = None,
    downsample: Down = None,
    tiles: Annotated[int, typer.Option(min=1, max=60, help="How many tiles.")] = 6,
    split: Split = "train",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    images: Images = None,
    words: Annotated[bool, typer.Option("--words", help="Print the first tile's conversation too.")] = False,
) -> None:
    """Draw what a model would be taught: decoded from its own tokens, over the tiles."""
    import math

    import numpy as np

    from finetune.evaluation.show import decoded_target, draw_targets
    from finetune.examples.label_source import validation_cuts

    source, checkpoint = _source(folder, split, model, tile_size, mpp, downsample, images)
    cuts = validation_cuts(source.cutter, split, most=None)
    chosen = [cuts[i] for i in sorted(np.random.default_rng(seed).permutation(len(cuts))[:tiles].tolist())]
    distances = [d for d in draw_targets(source, chosen, checkpoint.tokenizer, out) if not math.isnan(d)]
    worst = max(distances, default=0.0)
    typer.echo(f"{out}: {len(chosen)} of {len(cuts)} tiles; the taught places are within {worst:.2f} px of the labels")
    if words:
        plan = source.plan_of(chosen[0])
        typer.echo(f"user: {plan.turn.prompt}\nassistant: {decoded_target(source, chosen[0], checkpoint.tokenizer)[1]}")
    if worst == float("inf"):
        stop("a label is not taught at all; look at the picture")


@group.command()
@guarded
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    form: Annotated[str, typer.Option("--form", help="chatml, llava, sharegpt or ms-swift.")] = "chatml",
    model: Model = "embedded",
    tile_size: Size = 448,
    mpp: Mpp = None,
    downsample: Down = None,
    split: Split = "train",
    images: Images = None,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Write tiles and conversations for another training tool, coordinates as it expects them."""
    from finetune.conversations.formats import write_conversations
    from finetune.examples.label_source import validation_cuts

    source, _ = _source(folder, split, model, tile_size, mpp, downsample, images)
    cuts = validation_cuts(source.cutter, split)
    path = write_conversations(
        cuts, source.reader, source.request, source.writer, source.processor, out, form, overwrite=overwrite
    )
    typer.echo(f"{path}: {len(cuts)} conversations; settings for the other side are in {path.parent / 'README.json'}")


def _source(
    folder: Path,
    split: str,
    model: str,
    tile_size: int,
    mpp: float | None,
    downsample: float | None,
    images: Path | None,
) -> tuple[LabelSource, PlainCheckpoint]:
    from finetune.dataset.cutting import Cutter, TileSpec
    from finetune.dataset.samples import Dataset
    from finetune.examples.examples import Augmentation
    from finetune.examples.label_source import LabelSource
    from finetune.examples.plain_tokens import plain_checkpoint
    from qwenvl.request import Request

    dataset = Dataset.open(folder)
    if not dataset.of_split(split) and not any(entry.split for entry in dataset.slides):
        from dataclasses import replace

        dataset = replace(dataset, slides=tuple(replace(entry, split=split) for entry in dataset.slides))
    checkpoint, writer, tokens = plain_checkpoint(model)
    spec = TileSpec(size=tile_size, mpp=mpp, downsample=downsample)
    cutter = Cutter(dataset, spec, dataset.names)
    points = all(label.is_point for label in dataset.labels)
    request = Request(task="point" if points else "detect", labels=dataset.names, tile_size=tile_size, overlap=0)  # type: ignore[arg-type]
    source = LabelSource(
        cutter, split, request, writer, tokens, checkpoint.processor, augment=Augmentation(turns=False), images=images
    )
    return source, checkpoint


def _print_counts(dataset: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from finetune.dataset.samples import SPLITS

    splits = [name for name in SPLITS if dataset.of_split(name)] or [""]
    typer.echo(f"{dataset.name}: {len(dataset.slides)} slides, {len(dataset.labels)} labels")
    table = Table()
    for column in ("class", *(name or "labels" for name in splits)):
        table.add_column(column, justify="left" if column == "class" else "right")
    counts = [dataset.counts(name or None) for name in splits]
    for name in dataset.names:
        table.add_row(name, *(str(count[name]) for count in counts))
    table.add_row("slides", *(str(len(dataset.of_split(name)) if name else len(dataset.slides)) for name in splits))
    Console().print(table)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="dataset", rich_help_panel="Fine-tuning")
