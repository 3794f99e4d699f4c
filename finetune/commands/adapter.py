"""`qwenvl adapter`: look at an adapter, measure it, merge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.commands._guard import guarded, stop

group = typer.Typer(help="Adapters: what they are, how good, and as plain checkpoints.", no_args_is_help=True)

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter.")]


@group.command()
@guarded
def info(adapter: Adapter) -> None:
    """What an adapter was trained on, and how good it is."""
    from qwenvl.checkpoints.adapters.adapter import adapter_hash, read_card, require_adapter

    require_adapter(adapter)
    card = read_card(adapter)
    if card is None:
        typer.echo(f"{adapter}: an adapter of another maker ({adapter_hash(adapter)}); it does not say what it is for")
        return
    typer.echo(f"{card.name}  {adapter_hash(adapter)}")
    typer.echo(f"base     {card.base} ({card.family}, {card.base_fingerprint})")
    typer.echo(f"labels   {', '.join(card.labels)}")
    metrics = card.facts.get("metrics") or {}
    for title in ("base", "adapter"):
        if metrics.get(title):
            key, unit = ("exact", "conversations") if "exact" in metrics[title] else ("f1", "tiles")
            low, high = metrics[title][f"{key}_interval"]
            between = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            number = metrics[title]["tiles"]
            typer.echo(f"{title:8} {key} {metrics[title][key] or 0:.3f}{between} on {number} {unit}")
    if card.forgetting:
        verdict = "kept" if card.forgetting["passed"] else "FORGETS"
        typer.echo(f"skills   {verdict}: {card.forgetting['lost']} points lost, limit {card.forgetting['limit']:g}")
    else:
        typer.echo("skills   not measured")


@group.command()
@guarded
def evaluate(
    adapter: Adapter,
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder of a dataset, or a file of conversations.")
    ],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    model: Annotated[str | None, typer.Option("-m", "--model", help="The base, where the card's is not found.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    images: Annotated[Path | None, typer.Option(help="Where the pictures lie now.")] = None,
    most: Annotated[int | None, typer.Option("--tiles", min=1, help="Most tiles.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON to write.")] = None,
) -> None:
    """Measure an adapter beside its base on a split of a dataset."""
    from finetune.evaluation.evaluate import table
    from qwenvl.checkpoints.adapters.adapter import AdapterSwitch, read_card, require_adapter
    from qwenvl.checkpoints.loading import load_checkpoint
    from qwenvl.engines.local import LocalEngine

    require_adapter(adapter)
    card = read_card(adapter)
    if card is None:
        stop(f"{adapter} has no card, so it is not known what to ask; adapters made by qwenvl finetune have one")
    exam, data_hash = _exam(card, dataset, split, images, most)
    switch = AdapterSwitch(load_checkpoint(model or card.base, device=device))
    base = exam.score(LocalEngine(switch.use(None)))
    score = exam.score(LocalEngine(switch.use(adapter)))
    typer.echo(table([("base", base), ("adapter", score)]))
    if card.warning:
        typer.secho(card.warning, err=True, fg=typer.colors.YELLOW)
    if out is not None:
        if out.exists():
            stop(f"{out} exists already; name another file")
        text = json.dumps({"base": base.as_dict(), "adapter": score.as_dict(), "hash": data_hash, "split": split})
        out.write_text(text + "\n", encoding="utf-8")


def _exam(card: Any, path: Path, split: str, images: Path | None, most: int | None) -> tuple[Any, str]:
    """What an adapter is measured by, and the hash of its data."""
    import hashlib

    from finetune.dataset.cutting import Cutter, TileSpec
    from finetune.dataset.samples import Dataset
    from finetune.evaluation.evaluate import Exam
    from finetune.examples.label_source import TileReader, validation_cuts
    from qwenvl.request import Request

    request = Request.model_validate(card.request)
    if path.is_file():
        from finetune.conversations.formats import read_conversations
        from finetune.conversations.given import ConversationExam

        rows = read_conversations(path)
        for text in rows.refused:
            typer.secho(f"left out: {text}", err=True, fg=typer.colors.YELLOW)
        exam = ConversationExam.of(rows, request.generation, most=most)
        return exam, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"
    if not request.labels:
        stop(f"{card.name} was trained on conversations; name a file of them in place of {path}")
    labelled = Dataset.open(path)
    cutter = Cutter(labelled, TileSpec(**card.facts["tile"]), request.labels)
    cuts = validation_cuts(cutter, split, most=most)
    return Exam(tuple(cuts), TileReader(labelled, images), request), labelled.hash


@group.command()
@guarded
def merge(
    adapter: Adapter,
    out: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder to write.")],
    model: Annotated[str | None, typer.Option("-m", "--model", help="The base, where the card's is not found.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
) -> None:
    """Write a plain checkpoint with the adapter in its weights."""
    from finetune.adapter import merge_adapter

    typer.echo(f"{merge_adapter(adapter, out, base=model, dtype=dtype)}: loads like any checkpoint (-m)")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="adapter", rich_help_panel="Fine-tuning")
