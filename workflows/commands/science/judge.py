"""`qwenvl judge`: how good answers are, by their words, by a model in pairs, or by a model and a rubric."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenvl.interrupt import stop_on_interrupt
from workflows.commands.shared.guard import INCOMPLETE, INTERRUPTED, USAGE, guarded, stop
from workflows.commands.shared.progress import progress_bar

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from workflows.science.judge.answers import JudgedItem
    from workflows.science.judge.report import AnswerSource, JudgeReport

group = typer.Typer(no_args_is_help=True, help="Judge answers: by their words, or by a model.")

Answers = Annotated[Path, typer.Argument(metavar="ANSWERS", help="Run folder, report.json, CSV, JSON or JSONL.")]
Reference = Annotated[
    Path | None, typer.Option(help="File with what is right, joined by id; else the column 'reference'.")
]
Columns = Annotated[
    str | None, typer.Option(metavar="answer=NAME,...", help="What id, question, answer, reference, human are called.")
]
ReferenceColumns = Annotated[
    str | None, typer.Option(metavar="answer=NAME,...", help="The same of the file with what is right.")
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder of the judging; the same command goes on in it.")]
Model = Annotated[str, typer.Option("-m", "--model", help="The judge: 'embedded', a folder, or a hub name.")]
Server = Annotated[
    str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible server; -m then names its model.")
]
Family = Annotated[str | None, typer.Option(help="Family of a served model whose name does not tell.")]
Concurrency = Annotated[int, typer.Option(min=1, max=1024, help="Requests under way at a server.")]
Adapter = Annotated[Path | None, typer.Option(help="Folder of an adapter trained on that model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Judge only the first N items.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Set aside another judging found in the folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the first question, and ask and write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@group.command()
@guarded
def text(
    answers: Answers,
    reference: Reference = None,
    columns: Columns = None,
    reference_columns: ReferenceColumns = None,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Relative difference of equal numbers.")] = 0.01,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare answers with references: words, ROUGE-L, BLEU, chrF, numbers with units."""
    from workflows.science.judge import read_items, score_texts
    from workflows.science.judge.report import JudgeReport, source_of

    named = _columns(columns)
    items = read_items(answers, named)
    sources = [source_of(answers, items)]
    items, unmatched = _joined(items, sources, reference, reference_columns)
    scores = score_texts(items, tolerance=tolerance)
    warnings = [] if scores.bleu is not None else ["BLEU and chrF were not measured: pip install sacrebleu"]
    if scores.unanswered:
        warnings.append(f"{scores.unanswered} of {scores.items} items have no answer and count as wrong.")
    if scores.wrong_unit:
        warnings.append(f"{scores.wrong_unit} numbers have another unit than the reference's, or none.")
    report = JudgeReport(
        kind="text", sources=tuple(sources), unmatched=unmatched, text=scores, warnings=tuple(warnings)
    )
    if out is not None:
        from workflows.export._file import new_text_file

        with new_text_file(out, (".json",), overwrite=overwrite) as file:
            file.write(report.model_dump_json(indent=2) + "\n")
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    typer.echo(f"{scores.items} items with a reference, {scores.without_reference + unmatched} without")
    for each in (scores.exact, scores.token_f1, scores.rouge_l, scores.numbers):
        if each is not None:
            typer.echo(f"  {each}")
    if scores.bleu is not None:
        typer.echo(f"  BLEU {scores.bleu:.1f}, chrF {scores.chrf:.1f}")
    _warn(report)


@group.command()
@guarded
def pair(
    first: Annotated[Path, typer.Argument(metavar="A", help="Answers: run, report.json, CSV, JSON, JSONL.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Other answers to the same questions.")],
    out: Out,
    reference: Reference = None,
    columns: Columns = None,
    reference_columns: ReferenceColumns = None,
    instruction: Annotated[
        str | None, typer.Option(help="What better means, in your own words.", show_default="standard words")
    ] = None,
    model: Model = "embedded",
    server: Server = None,
    family: Family = None,
    concurrency: Concurrency = 16,
    adapter: Adapter = None,
    device: Device = "auto",
    limit: Limit = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let a model choose the better of two answers, in both orders."""
    from workflows.science.judge import compare, open_judging, paired, read_items
    from workflows.science.judge.pairwise import STANDARD, question
    from workflows.science.judge.report import JudgeReport, pair_warnings, source_of, write_judging
    from workflows.store.provenance import model_facts

    named = _columns(columns)
    items, others = read_items(first, named), read_items(second, named)
    sources = [source_of(first, items), source_of(second, others)]
    items, _ = _joined(items, sources, reference, reference_columns)
    pairs, unmatched = paired(items, others)
    pairs = pairs[:limit]
    told = instruction or STANDARD
    if dry_run:
        typer.echo(f"{len(pairs)} pairs, {2 * len(pairs)} questions. The first one:\n")
        typer.echo(question(*pairs[0], told))
        return
    engine = _engine(model, server, family, concurrency, adapter, device)
    identity = {"kind": "pair", "instruction": told, "limit": str(limit), **_sources(sources)}
    with stop_on_interrupt() as cancel, open_judging(out, identity, engine, overwrite=overwrite) as store:
        with progress_bar("questions", as_json) as report:
            results, verdicts = compare(engine, pairs, store, instruction=told, report=report, cancel=cancel)
        document = JudgeReport(
            kind="pair",
            sources=tuple(sources),
            unmatched=unmatched,
            model=model_facts(engine.info),
            instruction=told,
            pair=results,
            warnings=pair_warnings(results),
        )
        write_judging(out, document, [asdict(each) for each in verdicts])
    engine.close()
    if as_json:
        typer.echo(document.model_dump_json(indent=2))
    else:
        lost = results.malformed + results.refused + results.unreached + results.too_long
        typer.echo(
            f"{results.pairs} pairs: {first.name} better {results.a_better}, {second.name} better {results.b_better}, "
            f"tie {results.tied}, orders disagree {results.disagreed}, no verdict {lost} "
            f"({results.malformed} malformed)"
        )
        shown = (results.a_share, results.consistent, results.position.first, results.human, results.human_share)
        for each in (*shown, results.between_people):
            if each is not None:
                typer.echo(f"  {each}")
        _warn(document)
    if cancel.is_set():
        typer.secho("Interrupted. What was answered is kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if results.unreached:
        raise typer.Exit(INCOMPLETE)


@group.command()
@guarded
def rubric(
    answers: Answers,
    rubric: Annotated[Path, typer.Option("--rubric", help="YAML with criteria: name, question, low, high.")],
    out: Out,
    reference: Reference = None,
    columns: Columns = None,
    reference_columns: ReferenceColumns = None,
    model: Model = "embedded",
    server: Server = None,
    family: Family = None,
    concurrency: Concurrency = 16,
    adapter: Adapter = None,
    device: Device = "auto",
    limit: Limit = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let a model score answers by a rubric of yours."""
    from workflows.science.judge import Rubric, open_judging, read_items, score
    from workflows.science.judge.report import JudgeReport, rubric_warnings, source_of, write_judging
    from workflows.science.judge.rubric import question
    from workflows.store.provenance import model_facts

    criteria, named = Rubric.read(rubric), _columns(columns)
    items = read_items(answers, named)
    sources = [source_of(answers, items)]
    items, unmatched = _joined(items, sources, reference, reference_columns)
    items = items[:limit]
    if dry_run:
        typer.echo(f"{len(items)} items. The first question:\n")
        typer.echo(question(items[0], criteria))
        return
    engine = _engine(model, server, family, concurrency, adapter, device)
    told = criteria.model_dump_json()
    identity = {"kind": "rubric", "rubric": told, "limit": str(limit), **_sources(sources)}
    with stop_on_interrupt() as cancel, open_judging(out, identity, engine, overwrite=overwrite) as store:
        with progress_bar("answers", as_json) as report:
            results, scored = score(engine, items, criteria, store, report=report, cancel=cancel)
        document = JudgeReport(
            kind="rubric",
            sources=tuple(sources),
            unmatched=unmatched,
            model=model_facts(engine.info),
            instruction=told,
            rubric=results,
            warnings=rubric_warnings(results),
        )
        write_judging(out, document, [asdict(each) for each in scored])
    engine.close()
    if as_json:
        typer.echo(document.model_dump_json(indent=2))
    else:
        typer.echo(f"{results.scored} of {results.items} answers scored, {results.malformed} malformed")
        for each in results.criteria:
            mean = "no scores" if each.mean is None else f"mean {each.mean:.2f}"
            people = "" if each.human is None else f"; people: {each.human}, off by {each.off_by:.2f}"
            typer.echo(f"  {each.name}: {mean}{people}")
        _warn(document)
    if cancel.is_set():
        typer.secho("Interrupted. What was answered is kept; repeat the command to go on.", err=True)
        raise typer.Exit(INTERRUPTED)
    if results.unreached:
        raise typer.Exit(INCOMPLETE)


# ---------------------------------------------------------------------- parts


def _columns(words: str | None) -> dict[str, str]:
    found = {}
    for part in (words or "").split(","):
        if part.strip():
            ours, is_, theirs = part.partition("=")
            if not is_ or not theirs.strip():
                stop(f"--columns {words!r}: write answer=NAME, several apart by commas.", USAGE)
            found[ours.strip()] = theirs.strip()
    return found


def _joined(
    items: list[JudgedItem], sources: list[AnswerSource], reference: Path | None, columns: str | None
) -> tuple[list[JudgedItem], int]:
    """Items with what is right of them, and how many have none; the file it stands in joins the sources."""
    from workflows.science.judge import read_items, with_references
    from workflows.science.judge.report import source_of

    if reference is None:
        return items, 0
    known = read_items(reference, _columns(columns))
    sources.append(source_of(reference, known))
    return with_references(items, known)


def _engine(
    model: str, server: str | None, family: str | None, concurrency: int, adapter: Path | None, device: str
) -> Engine:
    from workflows.run.options import RunOptions, load_engine

    options = RunOptions(
        model=model, server=server, family=family, concurrency=concurrency, adapter=adapter, device=device, native=True
    )
    return load_engine(options)[0]


def _sources(sources: list[AnswerSource]) -> dict[str, str]:
    return {"answers": json.dumps([source.fingerprint for source in sources])}


def _warn(report: JudgeReport) -> None:
    for words in report.warnings:
        typer.secho(words, fg=typer.colors.YELLOW)
    if report.model is not None and report.model.warning:
        typer.secho(report.model.warning, fg=typer.colors.YELLOW)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="judge", rich_help_panel="Science")
