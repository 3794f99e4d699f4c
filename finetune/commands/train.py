"""`qwenvl finetune`: settings go in, an adapter with its measurements comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.commands._guard import INTERRUPTED, guarded
from qwenvl.interrupt import stop_on_interrupt


@guarded
def finetune(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of settings; see docs/finetune.md.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Set aside another run found in its folder.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read and check the settings, train nothing.")] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="For programs: progress as JSON lines; a line 'cancel' on the input, or its end, stops the run.",
        ),
    ] = False,
) -> None:
    """Train a LoRA adapter on a dataset, measure it, and see what it forgets."""
    if events:
        from finetune.training.progress import run_with_events

        raise typer.Exit(run_with_events(config, overwrite=overwrite))
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from finetune.config import FinetuneConfig
    from finetune.evaluation.evaluate import table

    settings = FinetuneConfig.load(config)
    if check:
        typer.echo(f"{config}: settings are sound")
        return
    from finetune.train import finetune as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with stop_on_interrupt() as cancel, Progress(*columns) as bar:
        line = bar.add_task("training", total=settings.train.steps, facts="")

        def show(step: Any) -> None:
            best = "" if step.best is None else f"  best {step.metric} {step.best:.3f}"
            left = f"{int(step.seconds_left) // 60}:{int(step.seconds_left) % 60:02}"
            bar.update(line, completed=step.step, facts=f"loss {step.loss:.3f}  {left} left{best}")

        result = run(settings, progress=show, say=bar.console.print, cancel=cancel, overwrite=overwrite)
    if result.stopped:
        raise typer.Exit(INTERRUPTED)
    typer.echo(table([("base", result.base), ("adapter", result.score)]))
    if result.forgetting is not None:
        for name, before in result.forgetting.before.items():
            after = result.forgetting.after[name]
            typer.echo(f"{name}: {before:.1f} points before, {after:.1f} after ({after - before:+.1f})")
        verdict = "kept" if result.forgetting.passed else "FORGETS"
        typer.echo(
            f"older skills {verdict}: {result.forgetting.lost:.1f} points lost, limit {result.forgetting.limit:g}"
        )
    typer.echo(f"adapter: {result.adapter}")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Fine-tuning")(finetune)
