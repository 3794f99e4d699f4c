"""The command line's front door.

Commands that need slides live in the packages above and come in through the entry-point group
`qwenvl.commands`, so the door imports nothing upward and `qwenvl --help` stays quick.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from qwenvl.errors import QwenVLError

app = typer.Typer(
    name="qwenvl",
    help="Ask a Qwen vision-language model about whole-slide images and microscopy stacks.",
    epilog="Start with `qwenvl demo`. The bundled model, the default, is small and not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-qwenvl {version('napari-qwenvl')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def models(
    memory: Annotated[
        float | None, typer.Option(min=0.5, help="Only models that fit into this many GiB of GPU memory.")
    ] = None,
    tile_size: Annotated[
        int, typer.Option(min=32, max=8192, help="Side of a tile in px, for tokens and memory.")
    ] = 1024,
    batch: Annotated[int, typer.Option(min=1, help="Tiles in one batch, for memory.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Which checkpoint for which task and memory, with tokens per tile."""
    from qwenvl.checkpoints.catalogue import print_catalogue

    print_catalogue(memory_gib=memory, tile_size=tile_size, batch=batch, as_json=as_json)


def load_commands() -> typer.Typer:
    """The whole command line: this door and what the packages above bring in."""
    known = {group.typer_instance for group in app.registered_groups}
    for point in entry_points(group="qwenvl.commands"):
        if (commands := point.load()) not in known:
            app.add_typer(commands)
    return app


def main() -> None:
    """Run the command line; errors of this project become one message and exit code 1."""
    # Threads of torch that spin while they wait for each other stand still on a machine that is shared: with a
    # busy second core, 32 tiles took minutes instead of seconds. Read by OpenMP when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        # A sign that the terminal's encoding lacks, or a file name that is no UTF-8, is escaped: it ends no run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        load_commands()()
    except QwenVLError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(1)
