"""From options to a finished run: progress, and what is printed at the end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.run_options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from qwenvl.request import Request
    from workflows.estimate import RunEstimate
    from workflows.slide_run import RunResult
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
    from workflows.slide_run import plan_run

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


def run_request(
    slide: Path | Slide, request: Request, engine: Engine, options: RunOptions, out: Path
) -> RunResult:
    """Run a request with a progress bar. Ctrl-C stops it after the batch at hand."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from workflows.slide_run import run_slide

    _say_doubts(engine, request)
    path = slide if isinstance(slide, Path) else slide.path
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[found]}"),
    )  # fmt: skip
    with stop_on_interrupt() as cancel, Progress(*columns) as bar:
        lines: dict[str, Any] = {}

        def show(state: Any) -> None:
            name = f"{path.name} {state.stage}".rstrip()
            if state.stage not in lines:
                lines[state.stage] = bar.add_task(name, total=None, rate="", found="")
                if state.eta and state.done < state.total:
                    left = _duration(state.eta)
                    bar.console.print(
                        f"{name}: about {left} to go, after {state.done:,} of {state.total:,} tiles",
                        soft_wrap=True,
                    )
            found = [f"{state.objects} objects"] if state.objects else []
            found += [f"{state.splits} split"] if state.splits else []
            found += [f"{state.failed} failed"] if state.failed else []
            bar.update(
                lines[state.stage], total=state.total, completed=state.done, rate=f"{state.rate:.1f}/s",
                found=", ".join(found),
            )  # fmt: skip

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


def _duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
