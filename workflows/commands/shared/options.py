"""The flags that every task shares: one for each field of `RunOptions`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from workflows.run.options import RunOptions
from wsi.regions.frames import PixelFrame

Frame = Annotated[
    PixelFrame | None,
    typer.Option(
        help="Where px (0, 0) of the GeoJSON lies: 'qupath' in the corner of what QuPath shows, 'level0' in that of "
        "the whole slide. Needed where QuPath crops the slide and the file does not say.",
        show_default=False,
    ),
]
"""The flag of every command that reads GeoJSON."""

_SCALE = "Scale and tiles"
_MODEL = "Model"
_WHERE = "Where to look, and how closely"
_INPUT = "Slide"
_RUN = "Run"


FLAGS: dict[str, Any] = {
    "out": typer.Option(
        "-o", "--out", help="Run folder.", show_default="the slide's name + .run", rich_help_panel=_RUN
    ),
    "overwrite": typer.Option(
        "--overwrite",
        help="Set aside another run found in the run folder (renamed, not deleted).",
        rich_help_panel=_RUN,
    ),
    "limit": typer.Option(min=1, help="Ask only the first N tiles, to try a request.", rich_help_panel=_RUN),
    "dry_run": typer.Option(
        "--dry-run", help="Say what the run would take, and ask and write nothing.", rich_help_panel=_RUN
    ),
    "model": typer.Option("-m", "--model", help="'embedded', a folder, or a hub name.", rich_help_panel=_MODEL),
    "server": typer.Option(
        metavar="URL",
        help="Ask an OpenAI-compatible server; -m then names its model. Key: QWENVL_API_KEY.",
        rich_help_panel=_MODEL,
    ),
    "adapter": typer.Option(help="Folder of an adapter trained on that model.", rich_help_panel=_MODEL),
    "family": typer.Option(help="Family of a served model whose name does not tell.", rich_help_panel=_MODEL),
    "concurrency": typer.Option(min=1, max=1024, help="Requests under way at a server.", rich_help_panel=_MODEL),
    "device": typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_MODEL),
    "dtype": typer.Option(help="auto, float32, bfloat16, float16.", rich_help_panel=_MODEL),
    "quantise": typer.Option(
        metavar="4bit|8bit",
        help="Keep the language model's weights in fewer bits; needs the extra 'quantisation'.",
        rich_help_panel=_MODEL,
    ),
    "system_prompt": typer.Option(help="Replaces the family's system prompt.", rich_help_panel=_MODEL),
    "max_new_tokens": typer.Option(min=1, help="Longest answer of a tile.", rich_help_panel=_MODEL),
    "temperature": typer.Option(min=0, max=2, help="0 is greedy.", rich_help_panel=_MODEL),
    "top_p": typer.Option(min=0.01, max=1, rich_help_panel=_MODEL),
    "top_k": typer.Option(min=0, help="0 keeps all tokens.", rich_help_panel=_MODEL),
    "repetition_penalty": typer.Option(min=1, max=2, rich_help_panel=_MODEL),
    "seed": typer.Option(min=0, help="Of sampling.", rich_help_panel=_MODEL),
    "mpp": typer.Option(min=1e-5, help="Scale of the tiles in um/px.", rich_help_panel=_SCALE),
    "native": typer.Option(
        "--native", help="Take the pixels of level 0 as they are; needs no mpp.", rich_help_panel=_SCALE
    ),
    "tile_size": typer.Option(min=32, help="Side of a tile in px at that scale.", rich_help_panel=_SCALE),
    "overlap": typer.Option(min=0, help="Overlap of tiles in px.", rich_help_panel=_SCALE),
    "min_tissue": typer.Option(min=0, max=1, help="Leave out tiles with less tissue.", rich_help_panel=_SCALE),
    "max_objects": typer.Option(min=1, help="Most objects kept of one tile.", rich_help_panel=_SCALE),
    "split": typer.Option(
        min=0,
        max=3,
        help="Ask a truncated, looping or crowded tile again in four magnified parts, up to N times.",
        show_default="0",
        rich_help_panel=_WHERE,
    ),
    "crowded": typer.Option(
        min=1, help="Objects from which a tile is crowded.", show_default="40", rich_help_panel=_WHERE
    ),
    "where": typer.Option(
        metavar="QUESTION",
        help="Look only where coarse tiles say yes to this, or are of this class (--where-labels).",
        rich_help_panel=_WHERE,
    ),
    "where_labels": typer.Option(
        metavar="A,B,...", help="Classes of coarse tiles; --where then names those to look at.", rich_help_panel=_WHERE
    ),
    "where_mpp": typer.Option(
        min=1e-5, help="Scale of coarse tiles in um/px.", show_default="1.0", rich_help_panel=_WHERE
    ),
    "where_tile_size": typer.Option(
        min=32, help="Side of a coarse tile in px.", show_default="--tile-size", rich_help_panel=_WHERE
    ),
    "where_overlap": typer.Option(
        min=0, help="Overlap of coarse tiles in px.", show_default="0", rich_help_panel=_WHERE
    ),
    "where_threshold": typer.Option(
        min=0,
        max=1,
        help="Least probability of a place to look at; see 'qwenvl thresholds'.",
        show_default="0.5",
        rich_help_panel=_WHERE,
    ),
    "token_budget": typer.Option(
        min=1,
        help="Most prompt tokens of the tiles: --mpp where there is most to see, coarser elsewhere.",
        rich_help_panel=_WHERE,
    ),
    "qc": typer.Option(
        metavar="off|mark|skip",
        help="Look at the pixels of every tile first: mark what is blurred, inked, folded, clipped or glass, or "
        "do not ask about it.",
        show_default="off; mark in a batch",
        rich_help_panel=_WHERE,
    ),
    "qc_limit": typer.Option(
        metavar="REASON=N",
        help="Another limit of --qc: glass=0.02, blur=0.37, pen=0.1, fold=0.15, saturation=0.2, or =off.",
        show_default=False,
        rich_help_panel=_WHERE,
    ),
    "mask": typer.Option(
        help="'auto' finds tissue, 'all' takes everything, or a GeoJSON of annotations.", rich_help_panel=_SCALE
    ),
    "frame": typer.Option(
        help="Where px (0, 0) of the GeoJSON lies: 'qupath' in the corner of what QuPath shows, 'level0' in that "
        "of the whole slide. Asked for where QuPath crops the slide and the file does not say.",
        show_default=False,
        rich_help_panel=_SCALE,
    ),
    "slide_mpp": typer.Option(
        min=0.001, help="um/px of the slide's level 0, where the file does not say.", rich_help_panel=_INPUT
    ),
    "plane": typer.Option(help="Plane of a stack: 't=0,z=3'.", rich_help_panel=_INPUT),
    "rendering": typer.Option(help="Channels to colours: '0:red:0-4095,1:green'.", rich_help_panel=_INPUT),
    "series": typer.Option(min=0, help="Image series of the file.", rich_help_panel=_INPUT),
    "colour": typer.Option(
        metavar="stored|srgb",
        help="Colours as stored, or converted to sRGB by the file's ICC profile.",
        show_default="stored",
        rich_help_panel=_INPUT,
    ),
}
"""The flag of each field of `RunOptions`."""


def takes_run_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command every flag of `RunOptions` in place of its parameter `run`.

    A flag that the command has itself, by the same name, stays its own.
    """
    return _with_flags(command, FLAGS)


def takes_model_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command the flags of `RunOptions` about model, output and trial runs, and none about slides and tiles."""
    kept = {
        name: flag
        for name, flag in FLAGS.items()
        if name in ("out", "overwrite", "dry_run") or flag.rich_help_panel == _MODEL
    }
    return _with_flags(command, kept)


def _with_flags(command: Callable[..., object], flags: Mapping[str, object]) -> Callable[..., object]:
    hints = inspect.get_annotations(RunOptions, eval_str=True)
    signature = inspect.signature(command, eval_str=True)
    own = [p for name, p in signature.parameters.items() if name != "run"]
    shared_fields = [f for f in fields(RunOptions) if f.name in flags and f.name not in signature.parameters]
    shared = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default,
            annotation=Annotated[hints[f.name], flags[f.name]],
        )
        for f in shared_fields
    ]
    names = {f.name for f in shared_fields}

    @functools.wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> Any:
        run = RunOptions(**{key: kwargs.pop(key) for key in list(kwargs) if key in names})
        return command(*args, run=run, **kwargs)

    parameters = [*own, *shared]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options
