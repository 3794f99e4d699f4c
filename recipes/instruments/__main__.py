"""`python -m recipes.instruments`: photographs with known values, and a small model that reads their characters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workflows.commands.shared.guard import USAGE, guarded, stop

app = typer.Typer(no_args_is_help=True, help=__doc__)


class KindName(StrEnum):
    """What is photographed."""

    SEVEN_SEGMENT = "seven-segment"
    DOT_MATRIX = "dot-matrix"
    GAUGE = "gauge"
    PLATE = "plate"
    TABLE = "table"
    NONE = "none"


@app.command()
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
    from recipes.instruments import Factory, make_set

    chosen: Any = {"kinds": tuple(each.value for each in kind)} if kind else {}
    factory = Factory(size=_size(size), unit_share=units, most_lines=lines, instrument=instrument, **chosen)
    make_set(out, factory, count, seed, lossless=lossless, overwrite=overwrite)
    typer.echo(f"{count} photographs in {out}")


@app.command()
@guarded
def samples(
    folders: Annotated[list[Path], typer.Argument(metavar="SETS...", help="Folders with truth.json.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write.")],
    model: Annotated[str, typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.")] = "embedded",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write photographs as conversations that teach every character with its box."""
    from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint
    from qwenvl.writing import Writer
    from recipes.instruments.samples import write_character_samples

    if out.exists() and not overwrite:
        stop(f"{out} exists already; name another file, or say --overwrite.", USAGE)
    known = describe_checkpoint(model)
    count = write_character_samples(folders, out, writer=Writer.of(known), processor=known.processor)
    typer.echo(f"{count} conversations in {out}")


@app.command()
@guarded
def read(
    photographs: Annotated[list[Path], typer.Argument(metavar="PHOTOGRAPHS...", help="Files and folders.")],
    sheet: Annotated[Path, typer.Option("--sheet", help="Fields to read, numbers only.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")],
    adapter: Annotated[Path | None, typer.Option(help="Folder of an adapter that was taught characters.")] = None,
    model: Annotated[str, typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.")] = "embedded",
    side: Annotated[
        int | None, typer.Option(min=32, help="Longer side in px.", show_default="what the adapter was taught")
    ] = None,
    least_score: Annotated[
        float, typer.Option(min=0, max=1, help="Give no value that the model is less sure of.")
    ] = 0.0,
    max_new_tokens: Annotated[int | None, typer.Option(min=16, help="Longest answer.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Set aside other readings in the folder.")] = False,
) -> None:
    """Read a sheet off photographs by their characters; the report is that of `qwenvl instruments read`."""
    from recipes.instruments.characters import CHARACTERS
    from workflows.commands.science.instruments import read_and_show
    from workflows.run.options import RunOptions, load_engine
    from workflows.science.instruments.photograph import list_photographs
    from workflows.science.instruments.reading import Asking
    from workflows.science.instruments.values.sheet import Sheet

    fields, files = Sheet.load(sheet), list_photographs(photographs)
    engine, recommended = load_engine(RunOptions(model=model, adapter=adapter, native=True))
    if side is None and adapter is not None:
        side = recommended.get("tile_size")
    asking = Asking(fields, CHARACTERS, side, least_score, max_new_tokens)
    read_and_show(files, asking, engine, out, overwrite=overwrite)


def _size(words: str) -> tuple[int, int]:
    width, _, height = words.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        stop(f"--size {words}: write it as WIDTHxHEIGHT, such as 320x240.", USAGE)
    return int(width), int(height)


if __name__ == "__main__":
    app()
