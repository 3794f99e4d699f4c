"""`python -m recipes.papers FOLDER`: papers with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workflows.commands.shared.guard import guarded


@guarded
def make(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Papers.")] = 3,
    pages: Annotated[int, typer.Option(min=1, help="About how many pages each has.")] = 3,
    columns: Annotated[int, typer.Option(min=1, max=2, help="Columns of text.")] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scanned: Annotated[
        bool, typer.Option("--scanned", help="Pictures of pages in the PDF, without a text layer.")
    ] = False,
    injected: Annotated[
        bool, typer.Option("--injected", help="Plant instructions to the model, hidden and in plain sight.")
    ] = False,
) -> None:
    """Make papers with known truth: text in columns, tables, captions, hyphens, tables that go on over a page."""
    from recipes.papers import make_papers

    made = make_papers(out, number, pages=pages, columns=columns, seed=seed, scanned=scanned, injected=injected)
    for paper in made:
        typer.echo(f"{paper.pdf}: {paper.pages} pages, {len(paper.truth)} records")


if __name__ == "__main__":
    typer.run(make)
