"""One command per task: a slide goes in, every tile is asked, one report comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workflows.commands._guard import INCOMPLETE, guarded, stop
from workflows.commands.options import RunOptions, takes_run_options

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request
    from workflows.slide_run import RunResult
    from wsi.slide import Slide

SlidePath = Annotated[Path, typer.Argument(metavar="SLIDE", help="Slide, stack or picture.")]
Labels = Annotated[str, typer.Option("-l", "--labels", metavar="A,B,...", help="Comma-separated labels.")]
Words = Annotated[str | None, typer.Option("-p", "--prompt", help="Your own words instead of the standard ones.")]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask of every tile.")]


@takes_run_options
@guarded
def detect(slide: SlidePath, labels: Labels = "nucleus", prompt: Words = None, *, run: RunOptions) -> None:
    """Find objects and draw a box around each."""
    ask_slide(slide, run, task="detect", labels=_split(labels), prompt=prompt)


@takes_run_options
@guarded
def point(slide: SlidePath, labels: Labels = "nucleus", prompt: Words = None, *, run: RunOptions) -> None:
    """Find objects and mark the centre of each."""
    ask_slide(slide, run, task="point", labels=_split(labels), prompt=prompt)


@takes_run_options
@guarded
def count(slide: SlidePath, labels: Labels = "nucleus", prompt: Words = None, *, run: RunOptions) -> None:
    """Count objects tile by tile, without locating them."""
    ask_slide(slide, run, task="count", labels=_split(labels), prompt=prompt)


@takes_run_options
@guarded
def classify(slide: SlidePath, labels: Labels, prompt: Words = None, *, run: RunOptions) -> None:
    """Choose one of several classes for every tile."""
    ask_slide(slide, run, task="classify", labels=_split(labels), prompt=prompt)


@takes_run_options
@guarded
def score(slide: SlidePath, question: Question, *, run: RunOptions) -> None:
    """Probability of yes to a question, for every tile: a heatmap."""
    ask_slide(slide, run, task="score", prompt=question)


@takes_run_options
@guarded
def describe(slide: SlidePath, prompt: Words = None, *, run: RunOptions) -> None:
    """Describe every tile in a sentence."""
    ask_slide(slide, run, task="describe", prompt=prompt)


@takes_run_options
@guarded
def ask(slide: SlidePath, question: Question, *, run: RunOptions) -> None:
    """Ask a free question of every tile."""
    ask_slide(slide, run, task="ask", prompt=question)


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
    try:
        output_schema = json.loads(schema.read_text())
    except ValueError as error:
        stop(f"{schema} is not JSON: {error}")
    ask_slide(slide, run, task="extract", prompt=prompt, output_schema=output_schema)


@guarded
def repeat(
    report: Annotated[Path, typer.Argument(help="report.json of an earlier run, or its folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new run.")],
    slide: Annotated[Path | None, typer.Option(help="Where the slide lies now, if it moved.")] = None,
    device: Annotated[str, typer.Option()] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Set aside another run found in the folder.")] = False,
) -> None:
    """Run again exactly what a report describes."""
    from workflows.report import Report

    earlier = Report.read(report)
    options = RunOptions(
        out=out, overwrite=overwrite, device=device, model=earlier.model.model, dtype=earlier.model.dtype,
        **earlier.run_options(),
    )  # fmt: skip
    run_request(slide or Path(earlier.slide.path), options, earlier.request, expect=earlier)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (detect, point, count, classify, score, describe, ask, extract):
        app.command(rich_help_panel="Ask every tile")(command)
    app.command(rich_help_panel="Results")(repeat)


def ask_slide(path: Path, run: RunOptions, *, task: str, **question: Any) -> RunResult:
    """Build the request of a command from its flags and the checkpoint's recommendations, and run it."""
    return run_request(path, run, None, task=task, **question)
