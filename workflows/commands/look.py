"""Look at a slide before anything is asked: what it is, and how to ask about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from workflows.commands.shared.guard import guarded

_MOST = 12
"""Lines of one fact that are printed; --json holds all."""


@guarded
def info(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="Slide, stack or picture.")],
    slide_mpp: Annotated[
        float | None, typer.Option(min=0.001, help="um/px of level 0, where the file does not say.")
    ] = None,
    plane: Annotated[str | None, typer.Option(help="Plane of a stack: 't=0,z=3'.")] = None,
    rendering: Annotated[str | None, typer.Option(help="Channels to colours: '0:red:0-4095'.")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="Image series of the file.")] = None,
    colour: Annotated[
        str | None, typer.Option(metavar="stored|srgb", help="Colours of the thumbnail and the command.")
    ] = None,
    thumbnail: Annotated[Path | None, typer.Option(help="Also write a PNG of the whole slide here.")] = None,
    properties: Annotated[bool, typer.Option("--properties", help="Show the file's own metadata too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a file holds, where its scale comes from, what it leaves to you, and a command that runs on it."""
    from workflows.inputs.file_facts import file_facts
    from wsi.files.address import as_path

    slide = as_path(slide)
    options = {"plane": plane, "rendering": rendering, "series": series, "colour": colour}
    facts = file_facts(slide, slide_mpp, options)
    if properties or thumbnail is not None:
        facts |= _from_pixels(slide, slide_mpp, options, thumbnail, properties)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    rows = [(name, line) for name, text in _rows(facts) for line in str(text).split("\n")]
    shown = ""
    for name, line in rows:
        typer.echo(f"{name if name != shown else '':<13} {line}".rstrip())
        shown = name


def _from_pixels(
    path: Path, mpp: float | None, options: Mapping[str, object], thumbnail: Path | None, properties: bool
) -> dict[str, object]:
    """The file's own metadata, and the name of the thumbnail that was written."""
    from workflows.inputs.needed import needed_for
    from workflows.inputs.opening import open_path
    from workflows.inputs.suggested import suggested_options

    chosen = suggested_options(needed_for(path, mpp=mpp, options=options), options)
    facts: dict[str, Any] = {}
    with open_path(path, mpp, chosen) as opened:
        if properties:
            facts["properties"] = dict(opened.properties)
        if thumbnail is not None:
            from PIL import Image

            Image.fromarray(opened.thumbnail(2048)).save(thumbnail)
            facts["thumbnail"] = str(thumbnail)
    return facts


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts of what is printed; a text may have several lines."""
    yield "slide", facts["path"]
    yield from _several(facts)
    yield "size", f"{facts['width']} x {facts['height']} px"
    yield from _stack(facts)
    yield "samples", _samples(facts)
    yield "scale", _scale(facts)
    yield "levels", "\n".join(_levels(facts))
    if (bounds := facts["qupath_bounds"]) is not None:
        yield "QuPath shows", f"{bounds[2]} x {bounds[3]} px, from x {bounds[0]}, y {bounds[1]}"
    if facts["hole"] is not None:
        yield "holes", f"px that the file does not hold read as {facts['hole']}"
    yield "ICC profile", facts["icc_profile"] or "none"
    yield "associated", ", ".join(facts["associated"]) or "none"
    if len(facts["files"]) > 1:
        yield "files", _cut(facts["files"])
    yield "reader", facts["reader"]
    yield "fingerprint", facts["fingerprint"]
    if facts["notes"]:
        yield "notes", "\n".join(facts["notes"])
    if "thumbnail" in facts:
        yield "thumbnail", facts["thumbnail"]
    for key, value in sorted(facts.get("properties", {}).items()):
        yield key, " ".join(str(value)[:300].split())
    if facts["missing"]:
        yield "to choose", "\n".join(each["flag"] for each in facts["missing"])
    yield "to run", facts["command"]


def _several(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The images of the file, and which of them the rest is about."""
    if "several" in facts:
        yield "images", _cut([_image(each) for each in facts["several"]])
        yield "below", f"image {facts['series']}; for another one give its number: --series N"
    elif len(facts["images"]) > 1:
        yield "image", facts["image"]
        yield "images", _cut(facts["images"])


def _image(facts: dict[str, Any]) -> str:
    if "width" not in facts:
        return str(facts["line"])
    stack = [f"{facts[name]} {name}" for name in ("times", "depths") if facts[name] > 1]
    return ", ".join([facts["line"], *stack, _samples(facts), _scale(facts)])


def _stack(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "axes", ", ".join(f"{axis} {length}" for axis, length in facts["axes"].items())
    if facts["times"] > 1:
        at = facts["seconds"]
        stated = f"taken at {', '.join(f'{s:g}' for s in at[:_MOST])}{', ...' * (len(at) > _MOST)} s" if at else ""
        yield "times", f"t=0 to {facts['times'] - 1}, {stated or 'the file does not say when'}"
    if facts["depths"] > 1:
        apart = f"{facts['depth_um']:g} um apart" if facts["depth_um"] else "the file does not say how far apart"
        unnamed = "; the axis has no name and is taken for z" if facts["unnamed_axis"] == "z" else ""
        yield "depths", f"z=0 to {facts['depths'] - 1}, {apart}{unnamed}"
    if not facts["rgb"] or len(facts["channels"]) > 3:
        yield ("channels", _cut([f"{each['index']}: {each['name'] or 'unnamed'}" for each in facts["channels"]]))


def _samples(facts: dict[str, Any]) -> str:
    count = len(facts["channels"])
    kind = "RGB" if facts["rgb"] else f"{count} channel{'s' * (count != 1)}"
    return f"{kind}, {facts['dtype']}, {facts['bits']} bits"


def _scale(facts: dict[str, Any]) -> str:
    if facts.get("mpp_source") == "user":
        return f"{facts['mpp']:.4f} um/px (user)"
    if facts["mpp_x"] is None:
        return "unknown; give --slide-mpp where a scale is needed"
    x, y = facts["mpp_x"], facts["mpp_y"]
    size = f"{x:.4f}" if abs(x - y) < 5e-5 else f"{x:.4f} x {y:.4f}"
    return f"{size} um/px ({facts['mpp_from'] or 'file'})"


def _levels(facts: dict[str, Any]) -> Iterator[str]:
    for (width, height, _), (x, y) in zip(facts["levels"], facts["level_factors"], strict=True):
        yield f"{width} x {height} px, 1/{x:g}" + ("" if x == y else f" along x, 1/{y:g} along y")


def _cut(lines: list[str]) -> str:
    more = [f"and {len(lines) - _MOST} more; see --json"] if len(lines) > _MOST else []
    return "\n".join([*lines[:_MOST], *more])


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Look")(info)
