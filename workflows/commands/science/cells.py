"""`qwenvl cells`: single cells measured, described, searched, and written as training samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workflows.commands.shared.guard import USAGE, guarded, stop
from workflows.commands.shared.progress import progress_bar

if TYPE_CHECKING:
    from workflows.science.cells import CellTable, CropSize
    from wsi.slide import Slide

group = typer.Typer(
    no_args_is_help=True, help="Single cells: measure, describe in a sentence, search, write training samples."
)

Table = Annotated[Path, typer.Argument(metavar="TABLE", help="Table from `qwenvl cells measure`.")]
SlideMpp = Annotated[float | None, typer.Option(min=0.001, help="um/px of level 0, where the file does not say.")]
Model = Annotated[str, typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.")]
Adapter = Annotated[Path | None, typer.Option(help="Folder of an adapter trained on that model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command()
@guarded
def measure(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|SLIDE", help="Run of `qwenvl detect`; or a slide, with --labels.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Table to write, .h5ad or .zarr.")],
    labels: Annotated[
        Path | None, typer.Option(help="Label image of the slide's cells: TIFF, PNG or OME-Zarr.")
    ] = None,
    label_scale: Annotated[
        float | None, typer.Option(min=0.01, help="Level-0 px per px of a label image that is smaller than the slide.")
    ] = None,
    slide: Annotated[Path | None, typer.Option(help="Where the slide of the run lies now, if it moved.")] = None,
    slide_mpp: SlideMpp = None,
    stain: Annotated[
        str, typer.Option(metavar="he|hdab|gray", help="Which dyes: H&E, hematoxylin-DAB, darkness alone.")
    ] = "he",
    noun: Annotated[str, typer.Option(help="What sentences call a cell.")] = "nucleus",
    words_from: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Use that table's thresholds, so that words mean the same.")
    ] = None,
    tower: Annotated[
        bool, typer.Option("--tower", help="Add what the model's vision tower sees in each cell's crop.")
    ] = False,
    model: Model = "embedded",
    adapter: Adapter = None,
    device: Device = "auto",
    crop_um: Annotated[float, typer.Option(min=1, help="Side of a crop in um.")] = 16.0,
    crop_px: Annotated[int, typer.Option(min=32, help="Side of a crop in px.")] = 64,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure every cell, describe it in a sentence, and write a table for scanpy."""
    from workflows.export._file import check_path
    from workflows.science.cells import CropSize, LabelImage, cells_of_labels, cells_of_run, read_table
    from workflows.science.cells.table import SUFFIXES
    from workflows.store.folder import JOURNAL

    check_path(out, SUFFIXES, overwrite=overwrite)
    is_run = (source / JOURNAL).is_file()
    if is_run == (labels is not None):
        stop("Name a run, or a slide with --labels; not both, and not a slide alone.", USAGE)
    vocabulary = None if words_from is None else read_table(words_from).vocabulary
    opened = _slide_of_run(source, slide, slide_mpp) if is_run else _open(source, slide_mpp)
    settings: dict[str, Any] = {"stain": stain, "noun": noun, "vocabulary": vocabulary}
    with opened:
        with progress_bar("cells", as_json) as report:
            if labels is None:
                table = cells_of_run(source, opened, report=report, **settings)
            else:
                image = LabelImage.open(labels, opened, label_scale)
                table = cells_of_labels(opened, image, report=report, **settings)
        if tower:
            size = CropSize.of(opened, crop_px, crop_um)
            with progress_bar("crops", as_json) as report:
                table = _with_tower(table, opened, size, model, adapter, device, report)
    table.write(out, overwrite=overwrite)
    _show_table(table, out, as_json)


@group.command()
@guarded
def similar(
    table: Table,
    cell: Annotated[str | None, typer.Option(help="Key of a cell, or how it begins.")] = None,
    sentence: Annotated[
        str | None, typer.Option(help="What the cells should be: 'large, irregular outline, dark stain'.")
    ] = None,
    crop: Annotated[Path | None, typer.Option(help="Picture of a cell, at the scale of the crops.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="morphology|sentence|tower", help="How to compare with --cell.")
    ] = None,
    number: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    slide: Annotated[Path | None, typer.Option(help="The table's slide, for --picture.")] = None,
    slide_mpp: SlideMpp = None,
    picture: Annotated[Path | None, typer.Option(help="PNG to write: crops of what was found.")] = None,
    model: Model = "embedded",
    adapter: Adapter = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find the cells most like a cell, a sentence or a picture."""
    from workflows.science.cells import CellSearch, read_table

    if sum(each is not None for each in (cell, sentence, crop)) != 1:
        stop("Name one of --cell, --sentence and --crop.", USAGE)
    if by is not None and cell is None:
        stop("--by goes with --cell; a sentence is compared by words, a picture by the tower.", USAGE)
    if (picture is None) != (slide is None):
        stop("--picture needs --slide, and the other way round.", USAGE)
    read = read_table(table)
    search = CellSearch(read)
    if cell is not None:
        found = search.by_cell(read.row_of(cell), number, by or "morphology")
    elif sentence is not None:
        found = search.by_sentence(sentence, number)
    else:
        assert crop is not None
        found = search.by_vector(_vector_of(read, crop, model, adapter, device), number)
    rows = [
        {
            "key": read.keys[row],
            "distance": round(far, 4),
            "label": read.labels[read.label[row]],
            "x0": round(float(read.centre0[row, 0]), 1),
            "y0": round(float(read.centre0[row, 1]), 1),
            "sentence": read.sentences[row],
        }
        for row, far in zip(found.rows.tolist(), found.distances.tolist(), strict=True)
    ]
    if picture is not None and slide is not None:
        _write_sheet(read, found.rows, slide, slide_mpp, picture, overwrite)
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for each in rows:
        typer.echo(f"{each['distance']:.3f}  {each['key']}  ({each['x0']}, {each['y0']})  {each['sentence']}")


@group.command()
@guarded
def samples(
    table: Table,
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="The table's slide.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    slide_mpp: SlideMpp = None,
    most: Annotated[int | None, typer.Option(min=1, help="Most cells, drawn at random.")] = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the slide that is held out.")] = 0.2,
    block: Annotated[int, typer.Option(min=1, help="Side in level-0 px of squares held out whole.")] = 2048,
    crop_um: Annotated[float, typer.Option(min=1, help="Side of a crop in um.")] = 16.0,
    crop_px: Annotated[int, typer.Option(min=32, help="Side of a crop in px.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Write crops and sentences as conversations to fine-tune on."""
    from workflows.science.cells import CropSize, read_table, write_samples

    read = read_table(table)
    with _open(slide, slide_mpp) as opened, progress_bar("crops", as_json) as report:
        written = write_samples(
            read,
            opened,
            out,
            size=CropSize.of(opened, crop_px, crop_um),
            most=most,
            held_out=held_out,
            block0=block,
            seed=seed,
            report=report,
        )
    facts = {
        "training": str(written.training),
        "rows": written.training_rows,
        "held_out": str(written.held_out),
        "held_out_rows": written.held_out_rows,
        "at_border": written.at_border,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(f"{written.training}: {written.training_rows} cells")
    typer.echo(f"{written.held_out}: {written.held_out_rows} cells of other squares")
    if written.at_border:
        typer.echo(f"{written.at_border} cells at the slide's border were left out")


@group.command()
@guarded
def genes(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="AnnData (.h5ad, .zarr) of raw counts.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL to write; with --read-back, .h5ad.")],
    top: Annotated[int, typer.Option(min=1, help="Genes per sentence.")] = 100,
    read_back: Annotated[
        Path | None, typer.Option(metavar="JSONL", help="Turn these sentences into expression over MATRIX's genes.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write cells as gene names by falling expression, or turn such sentences into expression again."""
    from workflows.export._file import new_text_file, require

    require("anndata", "An expression matrix", "'napari-qwenvl[science]'")
    import anndata

    from workflows.science.cells.words.genes import fit_ranks, gene_sentences

    if not matrix.exists():
        stop(f"{matrix} does not exist.")
    data = anndata.read_zarr(matrix) if matrix.is_dir() else anndata.read_h5ad(matrix)
    names = data.var_names.astype(str).tolist()
    fit = fit_ranks(data.X)
    line = f"log10(1 + expression) = {fit.intercept:.3f} {fit.slope:+.3f} log10(rank), r2 {fit.r2:.3f}"
    if read_back is not None:
        _read_back(read_back, out, names, fit, line, overwrite)
        return
    sentences = gene_sentences(data.X, names, top=top)
    with new_text_file(out, (".jsonl",), overwrite=overwrite) as file:
        for key, text in zip(data.obs_names.astype(str), sentences, strict=True):
            file.write(json.dumps({"id": key, "sentence": text}, ensure_ascii=False) + "\n")
    empty = sum(not text for text in sentences)
    typer.echo(f"{out}: {len(sentences)} sentences of up to {top} of {len(names)} genes, {empty} empty; {line}")


def _read_back(path: Path, out: Path, names: list[str], fit: Any, line: str, overwrite: bool) -> None:
    import anndata
    import pandas

    from workflows.export._file import new_path
    from workflows.science.cells.words.genes import read_gene_sentences

    try:
        rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
        keys, sentences = [str(row["id"]) for row in rows], [str(row["sentence"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        stop(f"{path} is no JSONL with 'id' and 'sentence' in every row: {error!r}")
    found = read_gene_sentences(sentences, names, fit)
    data = anndata.AnnData(
        found.values,
        obs=pandas.DataFrame(index=keys),
        var=pandas.DataFrame(index=names),
        uns={"qwenvl": {"rank_fit": line, "unknown_words": found.unknown_words}},
    )
    with new_path(out, (".h5ad",), overwrite=overwrite) as partial:
        data.write_h5ad(partial)
    typer.echo(f"{out}: {len(keys)} cells of {len(names)} genes; {line}")
    if found.unknown:
        shown = ", ".join(found.unknown[:5])
        typer.echo(f"{found.unknown_words} words are no genes of the matrix: {shown}")
    if found.repeated_words:
        typer.echo(f"{found.repeated_words} repeated names were left out")


# ---------------------------------------------------------------------- parts


def _open(path: Path, mpp: float | None) -> Slide:
    from workflows.inputs.opening import open_path

    return open_path(path, mpp, {})


def _slide_of_run(run: Path, moved: Path | None, mpp: float | None) -> Slide:
    from workflows.inputs.opening import open_path
    from workflows.inputs.reopening import reopen_run
    from workflows.store.run_store import RunStore

    with RunStore.open(run) as store:
        facts, found = store.manifest.slide, reopen_run(store, moved)
    if found.slide is None:
        stop(found.said)
    if mpp is None:
        return found.slide
    with found:
        return open_path(found.slide.path, mpp, facts.options)


def _with_tower(
    table: CellTable,
    slide: Slide,
    size: CropSize,
    model: str,
    adapter: Path | None,
    device: str,
    report: Callable[[int, int], None],
) -> CellTable:
    from dataclasses import replace

    from qwenvl.checkpoints.loading import load_checkpoint
    from workflows.science.cells import embed, iter_crops

    checkpoint = load_checkpoint(model, adapter=adapter, device=device)
    crops = iter_crops(slide, table.centre0, size)
    with slide.watch.held():
        vectors = embed(checkpoint, crops, lambda done: report(done, len(table)))
    facts = {
        "tower_model": checkpoint.info.model,
        "tower_fingerprint": checkpoint.info.fingerprint,
        "tower_adapter": checkpoint.info.adapter or "",
        "crop_px": size.px,
        "crop_side0": size.side0,
    }
    return replace(table, tower=vectors, facts={**table.facts, **facts})


def _vector_of(table: CellTable, crop: Path, model: str, adapter: Path | None, device: str) -> Any:
    import numpy as np
    from PIL import Image

    from qwenvl.checkpoints.loading import load_checkpoint
    from workflows.science.cells import embed

    checkpoint = load_checkpoint(model, adapter=adapter, device=device)
    known = table.facts.get("tower_fingerprint")
    if known is not None and known != checkpoint.info.fingerprint:
        stop(
            f"The table's embeddings are of {table.facts.get('tower_model')}, with other weights than {model} has now. "
            "Name that model, or measure again with --tower."
        )
    if not crop.is_file():
        stop(f"{crop} does not exist.")
    with Image.open(crop) as opened:
        picture = opened.convert("RGB")
    side = int(table.facts.get("crop_px", 64))
    return embed(checkpoint, [np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))])[0]


def _write_sheet(table: CellTable, rows: Any, slide: Path, mpp: float | None, out: Path, overwrite: bool) -> None:
    from PIL import Image

    from workflows.export._file import new_path
    from workflows.science.cells.crops import CropSize, iter_crops
    from workflows.science.cells.samples import check_slide
    from workflows.science.cells.sheet import sheet

    with _open(slide, mpp or table.facts.get("mpp")) as opened:
        check_slide(table, opened)
        with opened.watch.held():
            crops = list(iter_crops(opened, table.centre0[rows], CropSize.of(opened)))
    with new_path(out, (".png",), overwrite=overwrite) as partial:
        Image.fromarray(sheet(crops, [table.sentences[row] for row in rows])).save(partial, format="PNG")


def _show_table(table: CellTable, out: Path, as_json: bool) -> None:
    import numpy as np

    codes = table.vocabulary.codes(table.names, table.values)
    words = {
        quality.name: {word: int((codes[:, place] == code).sum()) for code, word in enumerate(quality.words)}
        for place, quality in enumerate(table.vocabulary.qualities)
    }
    classes = Counter(table.labels[code] for code in table.label.tolist())
    if as_json:
        medians = dict(zip(table.names, np.median(table.values, axis=0).round(4).tolist(), strict=True))
        facts = {**table.facts, "cells": len(table), "labels": dict(classes), "words": words, "median": medians}
        typer.echo(json.dumps({"table": str(out), **facts}, indent=1, default=str))
        return
    named = ", ".join(f"{n} {name}" for name, n in classes.most_common())
    typer.echo(f"{out}: {len(table)} cells" + (f" ({named})" if len(classes) > 1 else ""))
    for quality in table.vocabulary.qualities:
        relative = " (thirds of these cells)" if quality.relative else ""
        cuts = " and ".join(f"{cut:.3g}" for cut in quality.cuts)
        counts = ", ".join(f"{n} {word}" for word, n in words[quality.name].items())
        typer.echo(f"  {quality.name}: {counts}; {quality.feature} at {cuts}{relative}")
    if "mpp" not in table.facts:
        typer.echo("  The slide's scale is unknown: sizes are in px and relative. Give it with --slide-mpp.")
    if table.facts.get("without_outline") or table.facts.get("points"):
        left = f"{table.facts['without_outline']} without an outline, {table.facts.get('points', 0)} points"
        typer.echo(f"  left out: {left}")
    if float(table.facts.get("darker_than_around", 1)) <= 0:
        doubt = "The cells are no darker than what lies around them: do these outlines belong to this slide?"
        typer.secho(f"  {doubt}", fg=typer.colors.YELLOW)
    typer.echo(f"  for example: {table.sentences[0]}")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="cells", rich_help_panel="Science")
