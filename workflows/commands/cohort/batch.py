"""`qwenvl batch`: a question for every slide of a cohort, on as many workers as there are, until all is done."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from workflows.commands.shared.guard import ERROR, INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.options import takes_run_options
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from workflows.cohort.run import CohortResult
    from workflows.cohort.study.config import Study


class _RunByDefault(TyperGroup):
    """`qwenvl batch cohort.csv` is `qwenvl batch run cohort.csv`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Ask about every slide of a cohort: `qwenvl batch cohort.csv --config study.yaml -o OUT`.",
)

OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder that was given to `qwenvl batch -o`.")]
_BATCH = "Batch"


class TaskName(StrEnum):
    """What is asked."""

    DETECT = "detect"
    POINT = "point"
    COUNT = "count"
    CLASSIFY = "classify"
    SCORE = "score"
    DESCRIBE = "describe"
    ASK = "ask"
    EXTRACT = "extract"


class ExportName(StrEnum):
    """Files for other programs."""

    GEOJSON = "geojson"
    CSV = "csv"


@group.command("run")
@takes_run_options
@guarded
def run_batch(
    cohort: Annotated[str, typer.Argument(metavar="COHORT", help="CSV with a column slide, a folder, or a glob.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Study in YAML; replaces the flags of the request.")
    ] = None,
    task: Annotated[TaskName, typer.Option(help="What is asked, without a study.")] = TaskName.DETECT,
    labels: Annotated[str | None, typer.Option("-l", "--labels", help="Comma-separated labels.")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The question, or your own words.")] = None,
    schema: Annotated[Path | None, typer.Option(help="JSON Schema of the answers of extract.")] = None,
    workers: Annotated[
        int | None, typer.Option("-w", "--workers", min=1, help="Processes on this machine.", rich_help_panel=_BATCH)
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A running dask scheduler: tcp://host:8786.", rich_help_panel=_BATCH)
    ] = None,
    part_tiles: Annotated[
        int | None, typer.Option(min=1, help="Share out slides with more open tiles than this.", rich_help_panel=_BATCH)
    ] = None,
    export: Annotated[
        list[ExportName] | None, typer.Option(help="Also write this for every slide.", rich_help_panel=_BATCH)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Run nothing where anything is wrong.", rich_help_panel=_BATCH)
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="Run the engine that the study names: code of its author.", rich_help_panel=_BATCH
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show slides, tiles, hours and memory, and ask nothing.", rich_help_panel=_BATCH
        ),
    ] = False,
    seconds_per_tile: Annotated[
        float | None, typer.Option(min=0, help="For --dry-run, in place of timing a few tiles.", rich_help_panel=_BATCH)
    ] = None,
    *,
    run: RunOptions,
) -> None:
    """Run a cohort, or go on with it. Finished tiles are never asked again."""
    from workflows.cohort import CohortPlan, look_at, read_cohort

    if run.out is None:
        stop("Say where the results go: -o OUT.", USAGE)
    if run.limit is not None:
        stop("--limit is for one slide: try the request with `qwenvl detect` first.", USAGE)
    question = {"labels": labels, "prompt": prompt, "schema": schema}
    if config is None:
        study = _from_flags(run, task, question)
    else:
        _require_no_flags(run, task, question)
        from workflows.cohort import Study

        study = Study.read(config)
    study = _with_cluster(study, workers, scheduler, part_tiles, export)
    known = look_at(study.model, allow_code=allow_code)
    plan = CohortPlan.of(read_cohort(cohort), study, known, shlex.join(["qwenvl", *sys.argv[1:]]))
    if dry_run:
        _show_plan(plan, known, run, seconds_per_tile, allow_code=allow_code)
        return
    _run_and_show(plan, run.out, overwrite=run.overwrite, strict=strict, allow_code=allow_code)


@group.command()
@guarded
def status(out: OutFolder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """How far every slide is, from the journals themselves; exit code 0 if all are complete."""
    from workflows.cohort import cohort_status
    from workflows.commands.cohort.show import show_status, status_json

    plan, slides = cohort_status(out)
    if as_json:
        typer.echo(json.dumps(status_json(plan, slides), indent=2, ensure_ascii=False))
    else:
        show_status(plan, slides)
    if any(each.stage != "complete" for each in slides):
        raise typer.Exit(INCOMPLETE)


@group.command()
@guarded
def table(out: OutFolder) -> None:
    """Write summary.csv and summary.parquet again, one row per slide."""
    from workflows.cohort import write_summary

    for path in write_summary(out):
        typer.echo(str(path))


def _from_flags(run: RunOptions, task: TaskName, question: dict[str, Any]) -> Study:
    """A study of the flags of `qwenvl detect` and its like."""
    from qwenvl.constraints.json_schema import read_schema
    from qwenvl.request import Request
    from workflows.cohort import Study, look_at
    from workflows.cohort.study.config import ModelSettings, SlideSettings
    from workflows.run.options import recommended_request

    model = ModelSettings(
        name=run.model,
        adapter=None if run.adapter is None else str(run.adapter),
        device=run.device,
        dtype=run.dtype,
        quantise=run.quantise,
        server=run.server,
        family=run.family,
        concurrency=run.concurrency,
    )
    words: dict[str, Any] = {"task": task.value, "prompt": question["prompt"]}
    if question["labels"] is not None:
        words["labels"] = tuple(each.strip() for each in question["labels"].split(",") if each.strip())
    elif task in (TaskName.DETECT, TaskName.POINT, TaskName.COUNT):
        words["labels"] = ("nucleus",)
    if (schema := question["schema"]) is not None:
        words["output_schema"] = read_schema(schema)
    request = recommended_request(run, look_at(model).recommended, **words)
    slides = SlideSettings(
        mask=run.mask, frame=run.frame, mpp=run.slide_mpp, plane=run.plane, rendering=run.rendering, series=run.series
    )
    # All fields are given from here on: what was not said has been recommended already.
    return Study(request=Request(**dict(request)), model=model, slides=slides, quality=run.quality(unless_told="mark"))


def _require_no_flags(run: RunOptions, task: TaskName, question: Mapping[str, object]) -> None:
    from dataclasses import fields

    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(RunOptions)
        if field.name not in ("out", "overwrite") and getattr(run, field.name) != field.default
    ]
    given += [f"--{name}" for name, value in question.items() if value is not None]
    given += ["--task"] if task is not TaskName.DETECT else []
    if given:
        stop(f"The study says what is asked: leave out {', '.join(given)}, or write it into the file.", USAGE)


def _with_cluster(
    study: Study, workers: int | None, scheduler: str | None, part_tiles: int | None, export: list[ExportName] | None
) -> Study:
    """A study with the flags of this call for where it is done."""
    given = {"workers": workers, "scheduler": scheduler, "part_tiles": part_tiles}
    given = {name: value for name, value in given.items() if value is not None}
    cluster = type(study.cluster).model_validate(study.cluster.model_dump() | given)
    exports = tuple(each.value for each in export) if export else study.exports
    return study.model_copy(update={"cluster": cluster, "exports": exports})


def _show_plan(plan: Any, known: Any, run: RunOptions, seconds_per_tile: float | None, *, allow_code: bool) -> None:
    from workflows.cohort import estimate_cohort
    from workflows.cohort.folder import BatchFolder
    from workflows.cohort.study.check import check_rows
    from workflows.cohort.workers.cluster import worker_count
    from workflows.commands.cohort.show import show_estimate

    assert run.out is not None
    folder = BatchFolder(run.out.absolute())
    checked = check_rows(plan, folder, overwrite=run.overwrite)
    number = worker_count(plan.study)[0]
    estimate = estimate_cohort(
        plan, checked, known, folder, workers=number, seconds_per_tile=seconds_per_tile, allow_code=allow_code
    )
    show_estimate(plan, checked, estimate, number)
    if estimate.problems or any(each.problem for each in checked):
        raise typer.Exit(INCOMPLETE)


def _run_and_show(plan: Any, out: Path, *, overwrite: bool, strict: bool, allow_code: bool) -> None:
    from qwenvl.interrupt import stop_on_interrupt
    from workflows.cohort import run_cohort, write_summary
    from workflows.commands.cohort.show import Terminal, show_end

    with stop_on_interrupt() as cancel, Terminal(plan) as watcher:
        result: CohortResult = run_cohort(
            plan, out, overwrite=overwrite, strict=strict, allow_code=allow_code, cancel=cancel, watcher=watcher
        )
    paths = () if result.kept else write_summary(out)
    show_end(result, out, paths)
    if cancel.is_set():
        typer.secho("Interrupted. Finished tiles are kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if result.stopped is not None:
        raise typer.Exit(ERROR)
    if not result.complete:
        raise typer.Exit(INCOMPLETE)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="batch", rich_help_panel="Ask every tile")
