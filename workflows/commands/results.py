"""What to do with a finished (or running) run: show it, write it again, hand it to other programs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workflows.commands.shared.guard import USAGE, guarded, stop
from workflows.commands.shared.options import Frame
from wsi.regions.frames import PixelFrame

export = typer.Typer(help="Write a run's results for other programs.", no_args_is_help=True)
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
Tiles = Annotated[bool, typer.Option("--tiles", help="One row per tile instead of one per object.")]
SlidePath = Annotated[
    Path | None, typer.Option("--slide", help="Where the slide lies now, if it moved and is not found beside the run.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")]


class SchemaName(StrEnum):
    """Published JSON Schemas."""

    REPORT = "report"
    REQUEST = "request"
    STUDY = "study"


def _note(text: str) -> None:
    typer.secho(f"note: {text}", err=True, fg=typer.colors.YELLOW)


@guarded
def report(
    run: RunFolder,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Merge and write report, heatmap and overview again.")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Write report.html, one file with pictures, into the run folder.")
    ] = False,
    slide: SlidePath = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON.")] = False,
) -> None:
    """Show the report of a run; with --refresh, make it again from the stored answers."""
    from workflows.report.report import Report
    from workflows.run.slide import finish_run

    made = finish_run(run, slide=slide, say=_note) if refresh else Report.read(run)
    if html:
        from workflows.report.html import write_slide_report

        written = write_slide_report(run, slide_path=slide)
        if not as_json:
            typer.echo(f"{written} (open it in a browser)")
    if as_json:
        typer.echo(made.to_json())
    else:
        from workflows.commands.shared.show import show_report

        show_report(made, run)


@export.command()
@guarded
def geojson(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="File ending in .geojson or .geojson.gz.")],
    frame: Annotated[
        PixelFrame,
        typer.Option(
            help="Where px (0, 0) lies: 'qupath' in the corner of what QuPath shows, 'level0' in that of the whole "
            "slide, for other programs and for QuPath with --no-crop. The file records it."
        ),
    ] = PixelFrame.QUPATH,
    overwrite: Overwrite = False,
) -> None:
    """QuPath GeoJSON: objects as detections, scored tiles as tiles."""
    from workflows.export.geojson import export_geojson

    written = export_geojson(run, out, frame=frame, overwrite=overwrite)
    typer.echo(f"{out}: {written} features")


@export.command()
@guarded
def csv(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="File ending in .csv.")],
    tiles: Tiles = False,
    overwrite: Overwrite = False,
) -> None:
    """A table of objects, or of tiles with their answers."""
    from workflows.export.tables import export_objects_csv, export_tiles_csv

    written = (export_tiles_csv if tiles else export_objects_csv)(run, out, overwrite=overwrite)
    typer.echo(f"{out}: {written} rows")


@export.command()
@guarded
def parquet(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="File ending in .parquet.")],
    tiles: Tiles = False,
    overwrite: Overwrite = False,
) -> None:
    """The table of objects, or of tiles, as Parquet."""
    from workflows.export import export_objects_parquet, export_tiles_parquet

    written = (export_tiles_parquet if tiles else export_objects_parquet)(run, out, overwrite=overwrite)
    typer.echo(f"{out}: {written} rows")


@export.command()
@guarded
def anndata(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="File ending in .h5ad, or folder in .zarr.")],
    tiles: Tiles = False,
    overwrite: Overwrite = False,
) -> None:
    """AnnData for scanpy and squidpy: objects (or tiles) with class, score and place."""
    from workflows.export import export_anndata

    written = export_anndata(run, out, tiles=tiles, overwrite=overwrite)
    typer.echo(f"{out}: {written} observations")


@export.command()
@guarded
def spatialdata(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder ending in .zarr.")],
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Put an overview of the slide in.")] = True,
    slide: SlidePath = None,
    overwrite: Overwrite = False,
) -> None:
    """SpatialData: objects and tiles as shapes with tables, coordinate systems px and um."""
    from workflows.export import export_spatialdata

    written = export_spatialdata(run, out, picture=picture, overwrite=overwrite, slide_path=slide, say=_note)
    typer.echo(f"{out}: {written} shapes")


@export.command()
@guarded
def labels(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder ending in .zarr.")],
    downsample: Annotated[
        float | None, typer.Option(min=1, help="Level-0 px per px; by default the model's scale.")
    ] = None,
    slide: SlidePath = None,
    overwrite: Overwrite = False,
) -> None:
    """OME-Zarr 0.5 label images: one of objects, one of classes."""
    from workflows.export import export_labels

    written = export_labels(run, out, downsample=downsample, overwrite=overwrite, slide_path=slide, say=_note)
    typer.echo(f"{out}: {written} objects")


@export.command()
@guarded
def heatmap(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder ending in .zarr.")],
    overwrite: Overwrite = False,
) -> None:
    """OME-Zarr 0.5 pyramid of the heatmap, NaN where nothing is known."""
    from workflows.export import export_heatmap

    written = export_heatmap(run, out, overwrite=overwrite)
    typer.echo(f"{out}: {written} channels")


@export.command()
@guarded
def coco(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="File ending in .json or .json.gz.")],
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Every answered tile is an image, instead of the slide.")
    ] = False,
    pictures: Annotated[bool, typer.Option("--pictures", help="With --tiles: write the tiles' pictures too.")] = False,
    slide: SlidePath = None,
    overwrite: Overwrite = False,
) -> None:
    """COCO JSON of objects, for the slide or tile by tile."""
    from workflows.export import export_coco

    written = export_coco(run, out, tiles=tiles, pictures=pictures, overwrite=overwrite, slide_path=slide)
    typer.echo(f"{out}: {written} annotations")


@export.command()
@guarded
def html(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folder; several make a cohort. Or the folder of a batch."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="File ending in .html.")],
    title: Annotated[str, typer.Option(help="Of the report of several runs.")] = "Cohort",
    slide: SlidePath = None,
    overwrite: Overwrite = False,
) -> None:
    """The report as one HTML file with pictures, to read, print and send."""
    from workflows.report.html import CohortSlide, write_batch_report, write_cohort_report, write_slide_report
    from workflows.store.folder import JOURNAL

    if slide is not None and (len(runs) > 1 or not (runs[0] / JOURNAL).exists()):
        stop("--slide names the slide of one run; leave it out for several.", USAGE)
    if len(runs) == 1 and runs[0].is_dir() and not (runs[0] / JOURNAL).exists():
        written = write_batch_report(runs[0], out, overwrite=overwrite)
    elif len(runs) == 1:
        written = write_slide_report(runs[0], out, overwrite=overwrite, slide_path=slide)
    else:
        slides = [CohortSlide(run.name, run) for run in runs]
        written = write_cohort_report(slides, out, title=title, overwrite=overwrite)
    typer.echo(f"{written}: open it in a browser")


@guarded
def summarise(
    run: RunFolder,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="By default the model of the run.", show_default=False)
    ] = None,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Where the model is served.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of a served model whose name does not tell.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    prompt_tokens: Annotated[
        int, typer.Option(min=1000, help="Longest prompt: what the model's context holds.")
    ] = 3000,
    new_tokens: Annotated[int, typer.Option(min=32, help="Longest answer.")] = 512,
) -> None:
    """Summarise a describe or ask run in words; every sentence names the tiles it rests on."""
    from workflows.report.slide_summary import summarise_in_words
    from workflows.run.options import RunOptions, load_engine
    from workflows.store.run_store import RunStore

    with RunStore.open(run) as store:
        used = store.manifest.model
    name = used.model
    if used.device == "server":
        name = name.rpartition("@")[0]
        if server is None and model is None:
            stop(f"{run}: {used.model} was asked through a server; say where it is now with --server URL.")
        family = family or used.family
    engine, _ = load_engine(RunOptions(model=model or name, server=server, family=family, device=device))
    made = summarise_in_words(run, engine, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    for sentence in made.sentences:
        typer.echo(f"{sentence.text} [{', '.join(map(str, sentence.tiles))}]")
    if made.method == "extractive":
        typer.secho(f"note: put together without the model: {made.reason}.", err=True, fg=typer.colors.YELLOW)
    for note in made.notes:
        typer.secho(f"note: {note}", err=True, fg=typer.colors.YELLOW)


@guarded
def compare(
    run: RunFolder,
    truth: Annotated[Path, typer.Argument(metavar="GEOJSON", help="Known objects (QuPath GeoJSON, .gz too).")],
    iou: Annotated[float, typer.Option(min=0.05, max=0.95, help="Least overlap of a match.")] = 0.5,
    frame: Frame = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Precision, recall and F1 of a run's boxes against annotations."""
    from workflows.inputs.reopening import frames_of_run
    from workflows.review.compare import compare_boxes, read_truth_boxes, run_boxes

    boxes, labels = run_boxes(run)
    true, true_labels = read_truth_boxes(truth, frames=frames_of_run(run, frame), frame=frame)
    rows = compare_boxes(boxes, labels, true, true_labels, iou)
    if as_json:
        facts = {name: {"matched": a.matched, "predicted": a.predicted, "true": a.true} for name, a in rows.items()}
        typer.echo(json.dumps({"iou": iou, "labels": facts}, indent=2))
        return
    for name, a in rows.items():
        typer.echo(
            f"{name}: {a.predicted} found, {a.true} true, precision {a.precision:.3f}, recall {a.recall:.3f}, "
            f"F1 {a.f1:.3f} at IoU {iou}"
        )


@guarded
def corrections(
    run: RunFolder,
    file: Annotated[
        Path, typer.Argument(metavar="GEOJSON", help="What `qwenvl export geojson` wrote, corrected in QuPath.")
    ],
    frame: Frame = None,
    who: Annotated[str | None, typer.Option(help="Reviewer.", show_default="the user of this computer")] = None,
    reject_missing: Annotated[
        bool, typer.Option("--reject-missing", help="Objects that are not in the file were deleted there.")
    ] = False,
) -> None:
    """Read corrections made in QuPath back into the review of a run."""
    from workflows.review.corrections import read_corrections

    typer.echo(f"{file.name}: {read_corrections(run, file, who=who, reject_missing=reject_missing, frame=frame)}")


@guarded
def schema(
    name: Annotated[SchemaName, typer.Argument(help="Which schema.")] = SchemaName.REPORT,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File; printed where not given.")] = None,
) -> None:
    """Print the JSON Schema of the report, of a request, or of a study (`qwenvl batch --config`)."""
    from qwenvl.request import Request
    from workflows.cohort import Study
    from workflows.report.report import Report

    models: dict[SchemaName, Any] = {SchemaName.REPORT: Report, SchemaName.REQUEST: Request, SchemaName.STUDY: Study}
    document = models[name].model_json_schema()
    text = json.dumps(document, indent=2)
    if out is None:
        typer.echo(text)
    elif out.exists():
        stop(f"{out} is there already; name another file.")
    else:
        out.write_text(text + "\n", encoding="utf-8")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Results")(report)
    app.command(rich_help_panel="Results")(summarise)
    app.command(rich_help_panel="Results")(compare)
    app.command(rich_help_panel="Results")(corrections)
    app.add_typer(export, name="export", rich_help_panel="Results")
    app.command(rich_help_panel="Results")(schema)
