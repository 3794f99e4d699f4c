"""`qwenvl timelapse`: questions about frames that follow each other in time or depth."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workflows.commands.shared.guard import INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.options import takes_run_options
from workflows.run.options import RunOptions
from wsi.cleanup import cleaning_up

if TYPE_CHECKING:
    from workflows.science.timelapse.report import SamplingFacts, TimelapseReport
    from workflows.science.timelapse.stack import Stack

StackPath = Annotated[Path, typer.Argument(metavar="STACK", help="OME-TIFF, ImageJ TIFF, OME-Zarr.")]
Axis = Annotated[
    str | None,
    typer.Option(metavar="t|z", help="What frames follow each other in, where the file has both or no name."),
]
At = Annotated[int, typer.Option(min=0, help="Index along the other axis.")]
Interval = Annotated[
    str | None,
    typer.Option(metavar="STEP", help="Between frames, where the file does not say: 30s, 5min, 0.5um. Never guessed."),
]
Side = Annotated[
    int, typer.Option(min=32, help="Longer side of a frame's picture in px, for questions about all at once.")
]
Frames = Annotated[int | None, typer.Option(min=2, help="Show so many frames, in place of a token budget.")]
Even = Annotated[bool, typer.Option("--even", help="Frames at even distances, not where things change.")]
Unit = Annotated[
    str | None, typer.Option(metavar="seconds|minutes|hours", help="In which the model is told the times.")
]

_BUDGET = 8192
_UNUSED = {
    "split": "--split",
    "crowded": "--crowded",
    "where": "--where",
    "where_labels": "--where-labels",
    "qc": "--qc",
    "qc_limit": "--qc-limit",
}

app = typer.Typer(no_args_is_help=True, help="Questions about time-lapses and z-stacks.")


@app.command()
@takes_run_options
@guarded
def ask(
    stack: StackPath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about the film.")],
    axis: Axis = None,
    at: At = 0,
    interval: Interval = None,
    side: Side = 224,
    frames: Frames = None,
    even: Even = False,
    unit: Unit = None,
    *,
    run: RunOptions,
) -> None:
    """Ask one question about all sampled frames at once; each is stamped with its time."""
    _ask_film(stack, question, axis, at, interval, side, frames, even, unit, run, when=False)


@app.command()
@takes_run_options
@guarded
def when(
    stack: StackPath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What may be so in some of the frames.")],
    axis: Axis = None,
    at: At = 0,
    interval: Interval = None,
    by: Annotated[
        str, typer.Option(metavar="frames|film", help="Ask yes or no of every frame, or for ranges of all at once.")
    ] = "frames",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least probability of yes in a range.")] = 0.5,
    bridge: Annotated[int, typer.Option(min=0, help="Frames below it that do not end a range.")] = 1,
    side: Side = 224,
    frames: Frames = None,
    even: Even = False,
    unit: Unit = None,
    *,
    run: RunOptions,
) -> None:
    """From when to when something is so: ranges of time or depth, and the frames they begin and end with."""
    if by not in ("frames", "film"):
        stop(f"--by {by}: choose frames or film.", USAGE)
    if by == "film":
        _ask_film(stack, question, axis, at, interval, side, frames, even, unit, run, when=True)
    else:
        if unit is not None:
            stop("--unit is for --by film: a single frame is not told its time.", USAGE)
        settings = {"threshold": threshold, "bridge": bridge}
        _ask_frames(stack, axis, at, interval, side, frames, even, run, settings, task="score", prompt=question)


@app.command()
@takes_run_options
@guarded
def track(
    stack: StackPath,
    labels: Annotated[str, typer.Option("-l", "--labels", metavar="A,B,...", help="Objects to find.")] = "nucleus",
    axis: Axis = None,
    at: At = 0,
    interval: Interval = None,
    reach: Annotated[
        float | None,
        typer.Option(min=0.1, help="Px that an object may move from frame to frame.", show_default="diagonal of a box"),
    ] = None,
    gap: Annotated[int, typer.Option(min=0, help="Frames in a row that an object may be missing.")] = 2,
    divisions: Annotated[bool, typer.Option("--divisions", help="Let tracks divide.")] = False,
    shortest: Annotated[int, typer.Option(min=1, help="Drop tracks of fewer objects.")] = 2,
    points: Annotated[bool, typer.Option("--points", help="Centres in place of boxes.")] = False,
    side: Side = 224,
    frames: Frames = None,
    even: Even = False,
    *,
    run: RunOptions,
) -> None:
    """Find objects in every frame and follow them: tracks.csv, and tracks in the viewer."""
    from workflows.run.options import split_labels
    from workflows.science.timelapse.linking import LinkRules

    rules = LinkRules(reach=reach, gap=gap, divisions=divisions, shortest=shortest)
    task = "point" if points else "detect"
    _ask_frames(
        stack, axis, at, interval, side, frames, even, run, {"rules": rules}, task=task, labels=split_labels(labels)
    )


def _open(path: Path, axis: str | None, at: int, interval: str | None, run: RunOptions) -> Stack:
    from workflows.science.timelapse.stack import open_stack

    given = [flag for name, flag in _UNUSED.items() if getattr(run, name) is not None]
    given += ["--mask"] if run.mask != "auto" else []
    given += ["--frame"] if run.frame is not None else []
    given += ["--plane (use --axis and --at)"] if run.plane is not None else []
    if given:
        stop(f"{', '.join(given)}: not for time-lapses; frames are asked whole.", USAGE)
    options = {"rendering": run.rendering, "series": run.series, "colour": run.colour}
    return open_stack(path, axis=axis, interval=interval, other=at, mpp=run.slide_mpp, options=options)


def _ask_film(
    path: Path,
    question: str,
    axis: str | None,
    at: int,
    interval: str | None,
    side: int,
    frames: int | None,
    even: bool,
    unit: str | None,
    run: RunOptions,
    *,
    when: bool,
) -> None:
    from workflows.run.options import load_engine, recommended_request
    from workflows.science.timelapse.report import NAME
    from workflows.science.timelapse.run import ask_film, choose_frames
    from workflows.store.folder import JOURNAL, free_name, refuse_foreign

    stack = _open(path, axis, at, interval, run)
    with cleaning_up(stack.close):
        out = run.out or Path(f"{path.name.split('.')[0]}.{'when' if when else 'film'}")
        taken = (out / NAME).exists() or (out / JOURNAL).exists()
        if taken and not run.overwrite:
            stop(f"{out} holds an answer already. Name another folder with -o, or set it aside with --overwrite.")
        if not taken:
            refuse_foreign(out)
        engine, recommended = load_engine(run)
        budget = None if frames is not None else run.token_budget or _BUDGET
        sampling = choose_frames(stack, engine, side=side, budget=budget, count=frames, even=even)
        if run.dry_run:
            _say_frames(stack, sampling)
            return
        request = recommended_request(run, recommended, task="ask", prompt=question)
        request = request.model_copy(update={"token_budget": None})
        report = ask_film(stack, engine, request, sampling, unit=unit, when=when, command=_command())
        if taken:
            out.rename(free_name(out))
        out.mkdir(parents=True, exist_ok=True)
        report.write(out)
        _end(report, stack, out)


def _ask_frames(
    path: Path,
    axis: str | None,
    at: int,
    interval: str | None,
    side: int,
    frames: int | None,
    even: bool,
    run: RunOptions,
    settings: dict[str, Any],
    **question: object,
) -> None:
    from qwenvl.interrupt import stop_on_interrupt
    from workflows.run.options import load_engine, recommended_request
    from workflows.science.timelapse.run import ask_frames, choose_frames
    from workflows.science.timelapse.strip import fit_tiles

    stack = _open(path, axis, at, interval, run)
    with cleaning_up(stack.close):
        engine, recommended = load_engine(run)
        if stack.slide.mpp is None and run.mpp is None:
            # The file has no scale, so its px are taken as they are.
            recommended = {key: value for key, value in recommended.items() if key != "mpp"}
        request = recommended_request(run, recommended, **question)
        request = request.model_copy(update={"token_budget": None, "split": 0})
        if run.tile_size is None:
            request = fit_tiles(stack, request, int(engine.info.processor.get("factor", 32)))
        sampling = choose_frames(stack, engine, side=side, budget=run.token_budget, count=frames, even=even)
        if run.dry_run:
            _say_frames(stack, sampling)
            return
        out = run.out or Path(f"{path.name.split('.')[0]}.{'tracks' if 'labels' in question else 'when'}")
        with stop_on_interrupt() as cancel:
            report = ask_frames(
                stack,
                engine,
                request,
                sampling,
                out,
                overwrite=run.overwrite,
                limit=run.limit,
                cancel=cancel,
                progress=_progress,
                command=_command(),
                **settings,
            )
        _end(report, stack, out)
        if report.counts.get("failed"):
            raise typer.Exit(INCOMPLETE)
        if cancel.is_set():
            typer.secho("Interrupted. Finished frames are kept; repeat the command to go on.", err=True)
            raise typer.Exit(INTERRUPTED)


def _command() -> str:
    return shlex.join(["qwenvl", *sys.argv[1:]])


def _progress(state: Any) -> None:
    typer.echo(f"{state.done}/{state.total} tiles, {state.objects} objects, {state.rate:.1f}/s", err=True)


def _say_frames(stack: Stack, sampling: SamplingFacts) -> None:
    typer.echo(f"{len(sampling.frames)} of {len(stack)} frames, chosen by: {sampling.how}")
    typer.echo(f"{sampling.tokens_per_frame} tokens each at {sampling.size} px")
    typer.echo(", ".join(f"{frame} ({stack.places[frame]:g} {stack.unit})" for frame in sampling.frames))


def _end(report: TimelapseReport, stack: Stack, out: Path) -> None:
    from workflows.science.timelapse.picture import write_timeline

    write_timeline(out, report, stack)
    for warning in report.warnings:
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)
    typer.echo(f"{len(report.sampling.frames)} of {len(stack)} frames ({report.sampling.how}), {report.counts}")
    if report.kind == "ask" and report.answer is not None:
        typer.echo(report.answer.text or report.answer.error or report.answer.raw)
    if report.kind == "when":
        for each in report.ranges:
            typer.echo(f"frames {each.first} to {each.last}: {each.start:g} to {each.end:g} {report.stack.unit}")
        if not report.ranges:
            typer.echo("no range" if report.complete else "not known: the answer is not complete")
    if report.tracks is not None:
        facts = report.tracks
        typer.echo(f"{facts.objects} objects in {facts.tracks} tracks, {len(facts.parents) // 2} divisions")
    typer.echo(f"-> {out}")


def register(parent: typer.Typer) -> None:
    """Add this module's commands."""
    parent.add_typer(app, name="timelapse", rich_help_panel="Ask every tile")
