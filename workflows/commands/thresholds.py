"""`qwenvl thresholds`: how to choose --where-threshold."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from workflows.commands.shared.guard import guarded
from workflows.commands.shared.options import Frame


@guarded
def thresholds(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run with --where, or a run of score or classify.")],
    truth: Annotated[Path, typer.Argument(metavar="GEOJSON", help="Known regions or objects (QuPath GeoJSON).")],
    label: Annotated[str | None, typer.Option(help="Class of the truth; all where not given.")] = None,
    wanted: Annotated[str, typer.Option(metavar="A,B,...", help="Classes to look at, for a run of classify.")] = "",
    objects: Annotated[bool, typer.Option("--objects", help="Count objects even where regions are given.")] = False,
    frame: Frame = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recall and work of every threshold of a cascade, held against known truth."""
    from workflows.run.options import split_labels
    from workflows.run.plan.thresholds import thresholds as rows_of

    rows = rows_of(run, truth, label=label, wanted=split_labels(wanted), objects=objects, frame=frame)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    typer.echo("threshold   recall    tiles     work")
    for row in rows:
        typer.echo(f"{row.threshold:9.2f}  {row.recall:7.1%}  {row.tiles:7,}  {row.work:7.1%}")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Results")(thresholds)
