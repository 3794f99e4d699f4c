"""Papers: pages in, records by a schema of your own out, every value with its page and box."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.commands.shared.guard import ERROR, INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.options import takes_model_options
from workflows.commands.shared.progress import asking_bar
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from workflows.science.papers.pages.document import Document
    from workflows.science.papers.paper import Paper
    from workflows.science.papers.reading import ReadSettings
    from workflows.science.papers.schema import RecordSchema

papers = typer.Typer(
    help="Records out of papers: tables and text of PDF pages into a schema of your own, each value with its place.",
    no_args_is_help=True,
)

_READ = "Reading"
Papers = Annotated[list[Path], typer.Argument(metavar="PAPER...", help="PDFs, or pictures of pages.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the password of encrypted PDFs.", rich_help_panel=_READ)
]
Pages = Annotated[str | None, typer.Option(metavar="RANGE", help="'3', '2-5', '7-', '1-3,8'.", rich_help_panel=_READ)]
Dpi = Annotated[
    float,
    typer.Option(
        min=30, max=600, help="Resolution of pages; less where the model takes fewer px.", rich_help_panel=_READ
    ),
]


@papers.command()
@takes_model_options
@guarded
def read(
    documents: Papers,
    schema: Annotated[Path, typer.Option("--schema", help="File with the JSON Schema of one record.")],
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="What to look for, in your own words.", rich_help_panel=_READ)
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Properties that tell records apart.",
            show_default="all texts",
            rich_help_panel=_READ,
        ),
    ] = None,
    pages: Pages = None,
    password_file: PasswordFile = None,
    dpi: Dpi = 144.0,
    boxes: Annotated[
        str | None,
        typer.Option(
            metavar="none|record|value",
            help="What the model gives boxes for.",
            show_default="record; value where a page has no text layer",
            rich_help_panel=_READ,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=256,
            help="Tokens of a question and its answer together.",
            show_default="the model's, else 32768",
            rich_help_panel=_READ,
        ),
    ] = None,
    window: Annotated[int, typer.Option(min=1, max=100, help="Most pages of one question.", rich_help_panel=_READ)] = 4,
    overlap: Annotated[
        int, typer.Option(min=0, help="Pages that neighbouring questions share.", rich_help_panel=_READ)
    ] = 1,
    most_records: Annotated[int, typer.Option(min=1, help="Most records of one answer.", rich_help_panel=_READ)] = 100,
    *,
    run: RunOptions,
) -> None:
    """Read records out of papers; each gets a run folder with records.json, records.csv and pictures of its pages."""
    from qwenvl.request import Generation
    from workflows.run.options import load_engine, split_labels
    from workflows.science.papers.reading import ReadSettings
    from workflows.science.papers.schema import Boxes, RecordSchema

    if boxes is not None and boxes not in list(Boxes):
        stop(f"--boxes {boxes}: use none, record or value", USAGE)
    record_schema = RecordSchema.read(schema, split_labels(key or ""))
    folders = _folders(documents, run.out)
    password = _password(password_file)
    if len(documents) == 1:
        _open(documents[0], password).close()  # before the model is loaded
    engine, recommended = load_engine(run)
    longest = run.max_new_tokens or recommended.get("max_new_tokens") or 4096
    settings = ReadSettings(
        what=prompt,
        pages=pages,
        dpi=dpi,
        boxes=None if boxes is None else Boxes(boxes),
        context=context,
        window=window,
        overlap=min(overlap, max(window - 1, 0)),
        most_records=most_records,
        system_prompt=run.system_prompt,
        generation=Generation(
            max_new_tokens=longest,
            temperature=run.temperature,
            top_p=run.top_p,
            top_k=run.top_k,
            repetition_penalty=run.repetition_penalty,
            seed=run.seed,
        ),
    )
    codes = [
        _read_one(path, folder, password, record_schema, engine, settings, run, several=len(documents) > 1)
        for path, folder in zip(documents, folders, strict=True)
    ]
    if max(codes):
        raise typer.Exit(max(codes))


def _read_one(
    path: Path,
    folder: Path,
    password: str | None,
    schema: RecordSchema,
    engine: Engine,
    settings: ReadSettings,
    run: RunOptions,
    *,
    several: bool,
) -> int:
    """Read one paper; its exit code. Of several, one that cannot be opened does not stop the others."""
    from workflows.science.papers.pages.document import DocumentError

    try:
        with _open(path, password) as document:
            return _read_open(document, folder, schema, engine, settings, run)
    except (DocumentError, FileNotFoundError) as error:
        if not several:
            raise
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        return ERROR


def _read_open(
    document: Document, folder: Path, schema: RecordSchema, engine: Engine, settings: ReadSettings, run: RunOptions
) -> int:
    from workflows.science.papers.reading import plan_paper, read_paper

    plan = plan_paper(document, schema, engine, settings)
    for line in plan.lines():
        typer.echo(f"{document.path.name}: {line}", err=True)
    if run.dry_run:
        return 0
    with stop_on_interrupt() as cancel, asking_bar(document.path.name, "questions") as show:
        result = read_paper(
            document,
            schema,
            engine,
            folder,
            settings,
            overwrite=run.overwrite,
            progress=show,
            cancel=cancel,
            command=shlex.join(["qwenvl", *sys.argv[1:]]),
        )
    _show(result.paper, result.folder)
    if result.cancelled:
        typer.secho("Interrupted. Finished pages are kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    return 0 if result.paper.complete else INCOMPLETE


def _show(paper: Paper, folder: Path) -> None:
    """Records and what of their values is proved, in a few lines."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    words = {
        "anchored": "anchored in print",
        "model": "box from the model only",
        "elsewhere": "printed, but not beside their record",
        "missing": "not found on the page",
    }
    against = sum(bool(record.contradicts) for record in paper.records)
    told = [f"{paper.anchors[name]:,} {said}" for name, said in words.items() if paper.anchors[name]]
    console.print(f"[bold]{escape(paper.document.name)}[/bold]: {len(paper.records):,} records; values: ", end="")
    console.print(", ".join(told) or "none", soft_wrap=True)
    if against:
        console.print(f"{against} records contradict another one; both are kept, see 'contradicts'.")
    for warning in (*paper.warnings, *([f"Model: {paper.model.warning}"] if paper.model.warning else [])):
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", soft_wrap=True)
    console.print(escape(f"{folder / 'records.json'}, records.csv, pages/"), soft_wrap=True)


@papers.command()
@guarded
def look(
    document: Annotated[Path, typer.Argument(metavar="PAPER", help="PDF, or picture of a page.")],
    pages: Pages = None,
    password_file: PasswordFile = None,
    dpi: Dpi = 144.0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="New folder for layout.json and pictures of the pages.")
    ] = None,
) -> None:
    """Show what a paper holds without a model: text layer, hidden words, tables, figures, captions."""
    from workflows.science.papers.pages.document import PageError, PictureRule, page_range
    from workflows.science.papers.pages.drawing import layout_picture, write_picture
    from workflows.science.papers.paper import PageFacts
    from workflows.science.papers.reading import layer_words

    if out is not None and out.exists():
        stop(f"{out} exists already. Name a new folder.")
    facts: list[PageFacts] = []
    with _open(document, _password(password_file)) as opened:
        for number in page_range(pages, opened.pages):
            try:
                page = opened.page(number, PictureRule(dpi))
            except PageError as error:
                facts.append(PageFacts(page=number, error=str(error)))
                typer.echo(f"page {number}: {error}")
                continue
            facts.append(PageFacts.of(page))
            typer.echo(
                f"page {number}: {page.width_pt:.0f} x {page.height_pt:.0f} pt, {layer_words(page.text_layer)}, "
                f"{len(page.printed.words)} words, {len(page.printed.hidden)} hidden, {len(page.tables)} tables, "
                f"{len(page.figures)} figures"
            )
            captions = [table.caption for table in page.tables] + [fig.caption for fig in page.figures]
            for caption in captions:
                if caption is not None:
                    typer.echo(f"  {caption.text[:100]}")
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                write_picture(out / f"page-{number:03d}.png", layout_picture(page))
    if out is not None:
        from pydantic import TypeAdapter

        out.mkdir(parents=True, exist_ok=True)
        (out / "layout.json").write_bytes(TypeAdapter(list[PageFacts]).dump_json(facts, indent=1))
    if all(page.error is not None for page in facts):
        raise typer.Exit(ERROR)
    if any(page.error is not None for page in facts):
        raise typer.Exit(INCOMPLETE)


@papers.command()
@guarded
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a paper, or its records.json.")],
    truth: Annotated[
        Path, typer.Option("--truth", help="The paper's truth: its records, with page and boxes of every value.")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="New JSON file for the numbers.")] = None,
) -> None:
    """Compare records with the truth: found, right, placed right."""
    from workflows.export._file import new_text_file
    from workflows.science.papers.evaluate import evaluate_paper, read_truth
    from workflows.science.papers.paper import Paper

    found = evaluate_paper(Paper.read(run), read_truth(truth))
    for line in found.lines():
        typer.echo(line)
    if out is not None:
        with new_text_file(out, (".json",), overwrite=False) as stream:
            stream.write(found.model_dump_json(indent=1) + "\n")


def _open(path: Path, password: str | None) -> Document:
    """Open a document; asks for the password where it needs one and a person is there to ask."""
    from workflows.science.papers.pages.document import PasswordError, open_document

    try:
        return open_document(path, password=password)
    except PasswordError:
        if password is not None or not sys.stdin.isatty():
            raise
    typed: object = typer.prompt(f"Password of {path.name}", hide_input=True, err=True)
    return open_document(path, password=str(typed))


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0]:
        stop(f"{path} is empty: its first line is to be the password.", USAGE)
    return lines[0]


def _folders(documents: list[Path], out: Path | None) -> list[Path]:
    """The run folder of each paper: `-o` itself for one, within it for several."""
    if len(documents) == 1:
        return [out or Path(f"{documents[0].stem}.run")]
    names = [f"{path.stem}.run" for path in documents]
    if len(set(names)) < len(names):
        stop("two papers have the same name; read them one by one, each with a folder of its own (-o).", USAGE)
    return [(out or Path()) / name for name in names]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(papers, name="papers", rich_help_panel="Science")
