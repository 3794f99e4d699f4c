"""One command per task: a slide goes in, every tile is asked, one report comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workflows.commands.shared.guard import INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.options import takes_run_options
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request
    from workflows.report.report import Report
    from wsi.slide import Slide

SlidePath = Annotated[Path, typer.Argument(metavar="SLIDE", help="Slide, stack or picture.")]
Labels = Annotated[str, typer.Option("-l", "--labels", metavar="A,B,...", help="Comma-separated labels.")]
Words = Annotated[str | None, typer.Option("-p", "--prompt", help="Your own words instead of the standard ones.")]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask of every tile.")]


@takes_run_options
@guarded
def detect(slide: SlidePath, labels: Labels = "nucleus", prompt: Words = None, *, run: RunOptions) -> None:
    """Find objects and draw a box around each."""
    _ask_slide(slide, run, task="detect", labels=labels, prompt=prompt)


@takes_run_options
@guarded
def point(slide: SlidePath, labels: Labels = "nucleus", prompt: Words = None, *, run: RunOptions) -> None:
    """Find objects and mark the centre of each."""
    _ask_slide(slide, run, task="point", labels=labels, prompt=prompt)


@takes_run_options
@guarded
def count(slide: SlidePath, labels: Labels = "nucleus", prompt: Words = None, *, run: RunOptions) -> None:
    """Count objects tile by tile, without locating them."""
    _ask_slide(slide, run, task="count", labels=labels, prompt=prompt)


@takes_run_options
@guarded
def classify(slide: SlidePath, labels: Labels, prompt: Words = None, *, run: RunOptions) -> None:
    """Choose one of several classes for every tile."""
    _ask_slide(slide, run, task="classify", labels=labels, prompt=prompt)


@takes_run_options
@guarded
def score(slide: SlidePath, question: Question, *, run: RunOptions) -> None:
    """Probability of yes to a question, for every tile: a heatmap."""
    _ask_slide(slide, run, task="score", prompt=question)


@takes_run_options
@guarded
def describe(slide: SlidePath, prompt: Words = None, *, run: RunOptions) -> None:
    """Describe every tile in a sentence."""
    _ask_slide(slide, run, task="describe", prompt=prompt)


@takes_run_options
@guarded
def ask(slide: SlidePath, question: Question, *, run: RunOptions) -> None:
    """Ask a free question of every tile."""
    _ask_slide(slide, run, task="ask", prompt=question)


@takes_run_options
@guarded
def extract(
    slide: SlidePath,
    schema: Annotated[Path, typer.Option("--schema", help="File with the JSON Schema of the answer.")],
    prompt: Words = None,
    *,
    run: RunOptions,
) -> None:
    """Fill a JSON Schema of your own from every tile."""
    from qwenvl.constraints.json_schema import read_schema

    _ask_slide(slide, run, task="extract", prompt=prompt, output_schema=read_schema(schema))


@guarded
def repeat(
    report: Annotated[Path, typer.Argument(help="report.json of an earlier run, or its folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new run.")],
    slide: Annotated[Path | None, typer.Option(help="Where the slide lies now, if it moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the model is served, if it was a served one.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Set aside another run found in the folder.")] = False,
) -> None:
    """Run again exactly what a report describes."""
    from workflows.report.report import Report
    from workflows.run.options import load_engine

    earlier = Report.read(report)
    opened = _slide_of(earlier, report if report.is_dir() else report.parent, slide)
    model, family = earlier.model.model, None
    if earlier.model.device == "server":
        if server is None:
            stop(f"{report}: {model} was asked through a server; say where it is now with --server URL.", USAGE)
        model, family = model.rpartition("@")[0], earlier.model.family
    quantised, adapter = earlier.model.processor.get("quantise"), earlier.model.adapter
    flags = RunOptions(
        out=out,
        overwrite=overwrite,
        device=device,
        model=model,
        dtype=earlier.model.dtype,
        quantise=None if quantised is None else str(quantised),
        server=server,
        family=family,
        adapter=None if adapter is None else Path(adapter),
        **earlier.run_options(),
    )
    engine, _ = load_engine(flags)
    if engine.info.fingerprint != earlier.model.fingerprint:
        stop(
            f"{flags.model} is not the model of {report}: its weights or settings have changed since (fingerprint "
            f"{engine.info.fingerprint}, then {earlier.model.fingerprint})."
        )
    with opened:
        _run_and_show(opened, earlier.request, engine, flags)


def _slide_of(earlier: Report, run: Path, slide: Path | None) -> Slide:
    """The slide that a report is about, wherever it lies now; stops where it is not found."""
    from workflows.inputs.reopening import reopen

    found = reopen(earlier.slide, run, slide)
    if found.slide is None:
        stop(f"{found.said} A repetition is one of the same slide; for another, begin a run of its own.")
    return found.slide


def _ask_slide(slide: Path, run: RunOptions, **question: Any) -> None:
    from workflows.commands.shared.run import dry_run
    from workflows.run.options import check_slide, load_engine, recommended_request, split_labels

    if "labels" in question:
        question["labels"] = split_labels(question["labels"])
    check_slide(slide, run, **question)
    engine, recommended = load_engine(run)
    request = recommended_request(run, recommended, **question)
    if run.dry_run:
        dry_run(slide, request, engine, run)
    else:
        _run_and_show(slide, request, engine, run)


def _run_and_show(slide: Path | Slide, request: Request, engine: Engine, run: RunOptions) -> None:
    from workflows.commands.shared.run import run_request
    from workflows.commands.shared.show import show_report

    path = slide if isinstance(slide, Path) else slide.path
    result = run_request(slide, request, engine, run, run.out or Path(f"{path.stem}.run"))
    show_report(result.report, result.folder)
    if result.cancelled:
        typer.secho("Interrupted. Finished tiles are kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if result.report.tiles.counts.failed:
        raise typer.Exit(INCOMPLETE)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (detect, point, count, classify, score, describe, ask, extract):
        app.command(rich_help_panel="Ask every tile")(command)
    app.command(rich_help_panel="Results")(repeat)
