"""`qwenvl instruments`: numbers off photographs of instruments, into a sheet of fields with units and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.commands.shared.guard import INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.progress import asking_bar
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from workflows.science.instruments.evaluate import ReadingScore
    from workflows.science.instruments.reading import Asking
    from workflows.science.instruments.report import InstrumentReport

group = typer.Typer(
    no_args_is_help=True,
    help="Read gauges, displays and labels off photographs: `qwenvl instruments read PHOTOS --sheet fields.yaml`.",
)

_MODEL = "Model"


Model = Annotated[
    str, typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.", rich_help_panel=_MODEL)
]
Adapter = Annotated[
    Path | None, typer.Option(help="Folder of an adapter trained on that model.", rich_help_panel=_MODEL)
]


@group.command()
@guarded
def read(
    photographs: Annotated[list[Path], typer.Argument(metavar="PHOTOGRAPHS...", help="Files and folders.")],
    sheet: Annotated[Path, typer.Option("--sheet", help="Fields to read: YAML, or a JSON Schema of a flat object.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")],
    side: Annotated[
        int | None,
        typer.Option(
            min=32, help="Bring the longer side of what is shown to this many px.", show_default="the model's own"
        ),
    ] = None,
    least_score: Annotated[
        float, typer.Option(min=0, max=1, help="Give no value that the model is less sure of.")
    ] = 0.0,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also write each photograph with what was read, into pictures/.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Set aside other readings found in the folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked of how many photographs; ask nothing.")
    ] = False,
    model: Model = "embedded",
    adapter: Adapter = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ask an OpenAI-compatible server; -m names its model.", rich_help_panel=_MODEL
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Family of a served model whose name does not tell.", rich_help_panel=_MODEL)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL)] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.", rich_help_panel=_MODEL)] = "auto",
    max_new_tokens: Annotated[int | None, typer.Option(min=16, help="Longest answer.", rich_help_panel=_MODEL)] = None,
) -> None:
    """Read the fields of a sheet off photographs: values with unit, box and status, in one JSON report and a CSV."""
    from workflows.run.options import load_engine
    from workflows.science.instruments.photograph import list_photographs
    from workflows.science.instruments.reading import Asking
    from workflows.science.instruments.values.sheet import Sheet

    fields, files = Sheet.load(sheet), list_photographs(photographs)
    options = RunOptions(
        model=model, adapter=adapter, server=server, family=family, device=device, dtype=dtype, native=True
    )
    engine, _ = load_engine(options)
    asking = Asking(fields, side=side, least_score=least_score, max_new_tokens=max_new_tokens)
    if dry_run:
        _show_plan(len(files), asking, engine)
        return
    read_and_show(files, asking, engine, out, pictures=pictures, overwrite=overwrite)


def read_and_show(
    files: list[Path], asking: Asking, engine: Engine, out: Path, *, pictures: bool = False, overwrite: bool = False
) -> None:
    """Read a batch with its progress on the terminal, and show the report.

    Raises
    ------
    typer.Exit
        The batch was interrupted, or a field of a photograph failed.
    """
    from workflows.science.instruments.reading import read_photographs

    with stop_on_interrupt() as cancel, asking_bar("reading", "questions") as show:
        result = read_photographs(files, asking, engine, out, overwrite=overwrite, progress=show, cancel=cancel)
    if pictures:
        from workflows.science.instruments.picture import save_pictures

        save_pictures(result.report, out, lambda text: typer.secho(f"note: {text}", err=True))
    _show_report(result.report, out)
    if result.cancelled:
        typer.secho("Interrupted. What was read is kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if result.report.counts["failed"]:
        raise typer.Exit(INCOMPLETE)


@group.command()
@guarded
def samples(
    folders: Annotated[list[Path], typer.Argument(metavar="SETS...", help="Folders with truth.json.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write.")],
    sheet: Annotated[Path, typer.Option("--sheet", help="Fields to teach.")],
    model: Model = "embedded",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write photographs with known values as conversations that `qwenvl finetune` learns from."""
    from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint
    from qwenvl.writing import Writer
    from workflows.science.instruments.samples import write_samples
    from workflows.science.instruments.values.sheet import Sheet

    if out.exists() and not overwrite:
        stop(f"{out} exists already; name another file, or say --overwrite.", USAGE)
    known = describe_checkpoint(model)
    count = write_samples(folders, out, sheet=Sheet.load(sheet), writer=Writer.of(known), processor=known.processor)
    typer.echo(f"{count} conversations in {out}")


@group.command()
@guarded
def evaluate(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="instruments.json, or its folder.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="truth.json, or its folder.")],
    any_field: Annotated[
        bool, typer.Option("--any-field", help="The sheet's one field stands for whatever a photograph shows.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare readings with known values: by value, character, unit and box, and what was wrong without a word."""
    from workflows.science.instruments.evaluate import at_least, compare, score
    from workflows.science.instruments.report import InstrumentReport
    from workflows.science.instruments.truth import ReadingTruth

    read_report = InstrumentReport.read(report)
    rows = compare(read_report, ReadingTruth.read(truth), any_field=any_field)
    total = score(rows, read_report)
    kinds = sorted({row.kind for row in rows if row.kind and row.truth is not None})
    parts = {kind: score([row for row in rows if row.kind == kind], read_report) for kind in kinds}
    limits = at_least(rows, (0.5, 0.8, 0.9, 0.95))
    if as_json:
        found = {"all": total.as_dict(), "kinds": {kind: part.as_dict() for kind, part in parts.items()}}
        typer.echo(json.dumps({**found, "least_score": limits}, indent=1))
    else:
        _show_scores({"all": total, **parts}, limits)


def _show_plan(count: int, asking: Asking, engine: Engine) -> None:
    from qwenvl.images.geometry import CoordinateSpace

    for view, request in asking.requests(CoordinateSpace.RELATIVE_1000):
        where = "the whole photograph" if view.region is None else f"region {view.region}"
        names = ", ".join(view.fields)
        tokens = engine.prompt_tokens(request)
        size = "" if tokens is None else f", about {tokens} tokens each at {request.tile_size} px"
        typer.echo(f"{count} photographs, {where}: {names} (form {asking.form.name}{size})")


def _show_report(report: InstrumentReport, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("photograph", "field", "value", "unit", "status", "score")
    rows = [(p.name, name, one) for p in report.photographs for name, one in p.readings.items()]
    for photograph, name, one in rows[:20]:
        why = f"{one.status}" + (f": {one.reasons[0]}" if one.reasons else "")
        value = "" if one.value is None else (one.text or str(one.value))
        score = "" if one.score is None else f"{one.score:.2f}"
        table.add_row(photograph, name, value, one.unit or "", why, score)
    console.print(table)
    if len(rows) > 20:
        console.print(f"and {len(rows) - 20} more in {out / 'values.csv'}")
    console.print(", ".join(f"{number} {word}" for word, number in report.counts.items()))
    if report.model.warning:
        console.print(f"model: {report.model.warning}")


def _show_scores(parts: dict[str, ReadingScore], limits: list[tuple[float, float | None, float | None]]) -> None:
    from rich.console import Console
    from rich.table import Table

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    table = Table("", *parts)
    first = next(iter(parts.values()))
    for name in first.as_dict():
        cells = [getattr(part, name) for part in parts.values()]
        table.add_row(name.replace("_", " "), *(str(cell) if isinstance(cell, int) else share(cell) for cell in cells))
    console = Console(highlight=False)
    console.print(table)
    for limit, kept, right in limits:
        console.print(f"score at least {limit:g}: {share(kept)} of the given values stay, {share(right)} of them right")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="instruments", rich_help_panel="Science")
