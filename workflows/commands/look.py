"""Look at a slide before anything is asked: what it is, how it will be tiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from workflows.commands._guard import guarded


@guarded
def info(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="Slide, stack or picture.")],
    slide_mpp: Annotated[
        float | None, typer.Option(min=0.001, help="um/px of level 0, where the file does not say.")
    ] = None,
    plane: Annotated[str | None, typer.Option(help="Plane of a stack: 't=0,z=3'.")] = None,
    rendering: Annotated[str | None, typer.Option(help="Channels to colours: '0:red:0-4095'.")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="Image series of the file.")] = None,
    thumbnail: Annotated[Path | None, typer.Option(help="Also write a PNG of the whole slide here.")] = None,
    properties: Annotated[
        bool, typer.Option("--properties", help="Show the file's own metadata too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a file holds: size, levels, scale, reader, associated images."""
    from workflows._opening import open_path
    from wsi.names import path_text

    options = {"plane": plane, "rendering": rendering, "series": series}
    with open_path(slide, slide_mpp, options) as opened:
        facts: dict[str, Any] = {
            "path": path_text(slide),
            "reader": opened.reader,
            "width": opened.width,
            "height": opened.height,
            "mpp": opened.mpp,
            "mpp_source": opened.mpp_source,
            "levels": [[level.width, level.height, round(level.downsample, 4)] for level in opened.levels],
            "qupath_bounds": opened.qupath_bounds,
            "associated": list(opened.associated),
            "fingerprint": opened.fingerprint,
        }
        if properties:
            facts["properties"] = dict(opened.properties)
        if thumbnail is not None:
            from PIL import Image

            Image.fromarray(opened.thumbnail(2048)).save(thumbnail)
            facts["thumbnail"] = str(thumbnail)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    unknown = "unknown; give --slide-mpp where a scale is needed"
    mpp = unknown if facts["mpp"] is None else f"{facts['mpp']:.4f} um/px ({facts['mpp_source']})"
    table.add_row("slide", facts["path"])
    table.add_row("size", f"{facts['width']} x {facts['height']} px")
    table.add_row("scale", mpp)
    table.add_row("levels", "\n".join(f"{w} x {h} px, 1/{d:g}" for w, h, d in facts["levels"]))
    if (bounds := facts["qupath_bounds"]) is not None:
        table.add_row("QuPath shows", f"{bounds[2]} x {bounds[3]} px, from x {bounds[0]}, y {bounds[1]}")
    table.add_row("associated", ", ".join(facts["associated"]) or "none")
    table.add_row("reader", facts["reader"])
    table.add_row("fingerprint", facts["fingerprint"])
    if "thumbnail" in facts:
        table.add_row("thumbnail", facts["thumbnail"])
    for key, value in sorted(facts.get("properties", {}).items()):
        table.add_row(key, str(value)[:300])
    Console().print(table)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Look")(info)
