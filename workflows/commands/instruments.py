"""`qwenvl instruments`: numbers off photographs of instruments, into a sheet of fields with units and boxes."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workflows.commands._guard import INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.run_options import RunOptions

if TYPE_CHECKING:
    from workflows.instruments.evaluate import ReadingScore
    from workflows.instruments.report import InstrumentReport

group = typer.Typer(
    no_args_is_help=True,
    help="Read gauges, displays and labels off photographs: `qwenvl instruments read PHOTOS --sheet fields.yaml`.",
)

_MODEL = "Model"


class FormName(StrEnum):
    """How the model is asked."""

    AUTO = "auto"
    VALUES = "values"
    CHARACTERS = "characters"


class KindName(StrEnum):
    """What the factory photographs."""

    SEVEN_SEGMENT = "seven-segment"
    DOT_MATRIX = "dot-matrix"
    GAUGE = "gauge"
    PLATE = "plate"
    TABLE = "table"
    NONE = "none"


Model = Annotated[
    str, typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.", rich_help_panel=_MODEL)
]
Adapter = Annotated[
    Path | None, typer.Option(help="Folder of an adapter trained on that model.", rich_help_panel=_MODEL)
]
FormOption = Annotated[
    FormName,
    typer.Option(
        help="'values': one question for all fields. 'characters': every character with its box, for small models "
        "trained so. 'auto' takes what the adapter was taught, else values."
    ),
]


@group.command()
@guarded
def read(
    photographs: Annotated[list[Path], typer.Argument(metavar="PHOTOGRAPHS...", help="Files and folders.")],
    sheet: Annotated[
        Path, typer.Option("--sheet", help="Fields to read: YAML, or a JSON Schema of a flat object.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")],
    form: FormOption = FormName.AUTO,
    side: Annotated[
        int | None,
        typer.Option(
            min=32,
            help="Bring the longer side of what is shown to this many px.",
            show_default="what the adapter was taught, else the model's own",
        ),
    ] = None,
    least_score: Annotated[
        float, typer.Option(min=0, max=1, help="Give no value that the model is less sure of.")
    ] = 0.0,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Also write each photograph with what was read, into pictures/."),
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
        str | None,
        typer.Option(help="Family of a served model whose name does not tell.", rich_help_panel=_MODEL),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL)
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, float16.", rich_help_panel=_MODEL)
    ] = "auto",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=16, help="Longest answer.", rich_help_panel=_MODEL)
    ] = None,
) -> None:
    """Read the fields of a sheet off photographs: values with unit, box and status, in one JSON report and a CSV."""
    from workflows.instruments.asking import Form
    from workflows.instruments.photograph import list_photographs
    from workflows.instruments.reading import Asking
    from workflows.instruments.sheet import Sheet
    from workflows.run_options import load_engine

    fields, files = Sheet.load(sheet), list_photographs(photographs)
    options = RunOptions(
        model=model, adapter=adapter, server=server, family=family, device=device, dtype=dtype, native=True
    )  # fmt: skip
    engine, recommended = load_engine(options)
    taught = _taught(adapter)
    chosen = Form(taught or "values") if form is FormName.AUTO else Form(form.value)
    if side is None and chosen is Form.CHARACTERS and taught:
        side = recommended.get("tile_size")
    asking = Asking(fields, chosen, side, least_score, max_new_tokens)
    if dry_run:
        _show_plan(len(files), asking, engine)
        return
    result = _read_with_progress(files, asking, engine, out, overwrite)
    if pictures:
        from workflows.instruments.picture import save_pictures

        save_pictures(result.report, out)
    _show_report(result.report, out)
    if result.cancelled:
        typer.secho("Interrupted. What was read is kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if result.report.counts["failed"]:
        raise typer.Exit(INCOMPLETE)


@group.command()
@guarded
def make(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder: photographs/ and truth.json.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Photographs.")] = 100,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first one. Train on 1000000 and more, measure with less.")
    ] = 0,
    kind: Annotated[
        list[KindName] | None,
        typer.Option(help="What to photograph; may be given several times.", show_default="both displays"),
    ] = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="In px.")] = "256x256",
    lines: Annotated[int, typer.Option(min=1, max=5, help="Most displays of a panel.")] = 3,
    instrument: Annotated[
        int | None,
        typer.Option(
            min=0, help="Always this one instrument, before a fixed camera.", show_default="another each time"
        ),
    ] = None,
    units: Annotated[
        float, typer.Option(min=0, max=1, help="Share of panels with one display that show its unit.")
    ] = 0.5,
    lossless: Annotated[bool, typer.Option("--lossless", help="PNG in place of JPEG.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a set made before.")] = False,
) -> None:
    """Make photographs of instruments with known values, to train on and to measure with."""
    from workflows.instruments.factory import Factory, make_set

    chosen: Any = {"kinds": tuple(each.value for each in kind)} if kind else {}
    factory = Factory(size=_size(size), unit_share=units, most_lines=lines, instrument=instrument, **chosen)
    make_set(out, factory, count, seed, lossless=lossless, overwrite=overwrite)
    typer.echo(f"{count} photographs in {out}")


@group.command()
@guarded
def samples(
    folders: Annotated[list[Path], typer.Argument(metavar="SETS...", help="Folders with truth.json.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write.")],
    form: Annotated[FormName, typer.Option(help="What is taught.")] = FormName.CHARACTERS,
    sheet: Annotated[Path | None, typer.Option(help="Fields to teach; needed by form 'values'.")] = None,
    model: Model = "embedded",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write photographs with known values as conversations that `qwenvl finetune` learns from."""
    from qwenvl.description import describe_checkpoint
    from qwenvl.writing import Writer
    from workflows.instruments.asking import Form
    from workflows.instruments.samples import write_samples
    from workflows.instruments.sheet import Sheet

    if out.exists() and not overwrite:
        stop(f"{out} exists already; name another file, or say --overwrite.", USAGE)
    description = describe_checkpoint(model)
    count = write_samples(
        folders, out, form=Form("characters" if form is FormName.AUTO else form.value), writer=Writer.of(description),
        processor=description.processor, sheet=None if sheet is None else Sheet.load(sheet),
    )  # fmt: skip
    typer.echo(f"{count} conversations in {out}")


@group.command()
@guarded
def evaluate(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="instruments.json, or its folder.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="truth.json, or its folder.")],
    any_field: Annotated[
        bool,
        typer.Option("--any-field", help="The sheet's one field stands for whatever a photograph shows."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare readings with known values: by value, character, unit and box, and what was wrong without a word."""
    from workflows.instruments.evaluate import at_least, compare, score
    from workflows.instruments.report import InstrumentReport
    from workflows.instruments.truth import Truth

    read_report = InstrumentReport.read(report)
    rows = compare(read_report, Truth.read(truth), any_field=any_field)
    total = score(rows, read_report)
    kinds = sorted({row.kind for row in rows if row.kind and row.truth is not None})
    parts = {kind: score([row for row in rows if row.kind == kind], read_report) for kind in kinds}
    limits = at_least(rows, (0.5, 0.8, 0.9, 0.95))
    if as_json:
        found = {"all": total.as_dict(), "kinds": {kind: part.as_dict() for kind, part in parts.items()}}
        typer.echo(json.dumps({**found, "least_score": limits}, indent=1))
    else:
        _show_scores({"all": total, **parts}, limits)


def _taught(adapter: Path | None) -> str | None:
    """The form that an adapter was taught, by the question it carries; None where it says nothing."""
    if adapter is None:
        return None
    from qwenvl.adapter import read_card
    from workflows.instruments.asking import CHARACTERS_PROMPT

    card = read_card(adapter)
    told = None if card is None else card.request.get("prompt")
    return "characters" if told == CHARACTERS_PROMPT else None


def _size(words: str) -> tuple[int, int]:
    width, _, height = words.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        stop(f"--size {words}: write it as WIDTHxHEIGHT, such as 320x240.", USAGE)
    return int(width), int(height)


def _read_with_progress(files: list[Path], asking: Any, engine: Any, out: Path, overwrite: bool) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from qwenvl.interrupt import stop_on_interrupt
    from workflows.instruments.reading import read_photographs

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("questions"),
               TimeRemainingColumn(), TextColumn("{task.fields[found]}"))  # fmt: skip
    with stop_on_interrupt() as cancel, Progress(*columns) as bar:
        line = bar.add_task("reading", total=len(files), found="")

        def show(state: Any) -> None:
            failed = f"{state.failed} failed" if state.failed else ""
            bar.update(line, completed=state.done, total=state.total, found=failed)

        return read_photographs(files, asking, engine, out, overwrite=overwrite, progress=show, cancel=cancel)


def _show_plan(count: int, asking: Any, engine: Any) -> None:
    from qwenvl.geometry import CoordinateSpace

    for view, request in asking.requests(CoordinateSpace.RELATIVE_1000):
        where = "the whole photograph" if view.region is None else f"region {view.region}"
        names = ", ".join(view.fields)
        tokens = engine.prompt_tokens(request)
        size = "" if tokens is None else f", about {tokens} tokens each at {request.tile_size} px"
        typer.echo(f"{count} photographs, {where}: {names} (form {asking.form}{size})")


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


def _show_scores(
    parts: dict[str, ReadingScore], limits: list[tuple[float, float | None, float | None]]
) -> None:
    from rich.console import Console
    from rich.table import Table

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    table = Table("", *parts)
    first = next(iter(parts.values()))
    for name in first.as_dict():
        cells = [getattr(part, name) for part in parts.values()]
        table.add_row(
            name.replace("_", " "), *(str(cell) if isinstance(cell, int) else share(cell) for cell in cells)
        )
    console = Console(highlight=False)
    console.print(table)
    for limit, kept, right in limits:
        console.print(
            f"score at least {limit:g}: {share(kept)} of the given values stay, {share(right)} of them right"
        )


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="instruments", rich_help_panel="Science")
