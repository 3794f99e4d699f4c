"""From options to a finished run: progress, and what is printed at the end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.commands.shared.progress import asking_bar
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request
    from workflows.run.plan.estimate import RunEstimate
    from workflows.run.slide import RunResult
    from wsi.slide import Slide


def print_estimate(slide: Path, estimate: RunEstimate) -> None:
    """What a run is going to take, a line per fact."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    for line in estimate.lines():
        console.print(escape(f"{slide.name}: {line}"), soft_wrap=True)


def _say_doubts(engine: Engine, request: Request) -> None:
    """Warn before the work where the tiles are not such as the model was trained on; the report says it again."""
    if engine.info.trained is not None:
        for doubt in engine.info.trained.doubts((request.tile_size,) * 2, request.mpp):
            typer.echo(f"warning: {doubt}", err=True)


def dry_run(slide: Path, request: Request, engine: Engine, options: RunOptions) -> None:
    """Print what a run would take; nothing is asked or written."""
    from workflows.run.slide import plan_run

    _say_doubts(engine, request)
    estimate = plan_run(
        slide,
        request,
        engine,
        slide_mpp=options.slide_mpp,
        slide_options=options.slide_options,
        mask=options.mask,
        frame=options.frame,
    )
    print_estimate(slide, estimate)


def run_request(slide: Path | Slide, request: Request, engine: Engine, options: RunOptions, out: Path) -> RunResult:
    """Run a request with a progress bar. Ctrl-C stops it after the batch at hand."""
    from workflows.run.slide import run_slide

    _say_doubts(engine, request)
    path = slide if isinstance(slide, Path) else slide.path
    with stop_on_interrupt() as cancel, asking_bar(path.name, "tiles") as show:
        return run_slide(
            slide,
            request,
            engine,
            out,
            slide_mpp=options.slide_mpp,
            slide_options=options.slide_options,
            mask=options.mask,
            frame=options.frame,
            overwrite=options.overwrite,
            limit=options.limit,
            progress=show,
            cancel=cancel,
            command=shlex.join(["qwenvl", *sys.argv[1:]]),
            announce=lambda estimate: print_estimate(path, estimate),
            quality=options.quality(),
        )
