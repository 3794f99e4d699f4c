"""`qwenvl doctor`: is this machine ready, and what would help."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from workflows.commands.shared.guard import ERROR, guarded

_NEEDED = (
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "xgrammar",
    "openslide",
    "tifffile",
    "imagecodecs",
    "simplejpeg",
    "zarr",
    "cv2",
    "shapely",
    "pydantic",
)
_OPTIONAL = {
    "napari": "viewer: pip install 'napari-qwenvl[viewer]'",
    "peft": "fine-tuning: pip install 'napari-qwenvl[finetune]'",
    "bitsandbytes": "quantised models: pip install 'napari-qwenvl[quantisation]'",
}


@guarded
def doctor(quick: Annotated[bool, typer.Option("--quick", help="Do not run the embedded model.")] = False) -> None:
    """Check the installation and say what is missing."""
    rows: list[tuple[str, str, str]] = [("python", platform.python_version(), "ok")]
    for name in _NEEDED:
        rows.append(_module_row(name))
    rows += [_optional_row(name, hint) for name, hint in _OPTIONAL.items()]
    rows += [_device_row(), _memory_row(), _disk_row()]
    if not quick:
        rows.append(_model_row())
    _print(rows)
    if any(state == "missing" for _, _, state in rows):
        raise typer.Exit(ERROR)


def _module_row(name: str) -> tuple[str, str, str]:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken wheel may raise anything at import; doctor is here to show it
        return name, f"{type(error).__name__}: {error}", "missing"
    return name, str(getattr(module, "__version__", "")), "ok"


def _optional_row(name: str, hint: str) -> tuple[str, str, str]:
    try:
        return name, version(name), "ok"
    except PackageNotFoundError:
        return name, hint, "optional"


def _device_row() -> tuple[str, str, str]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return ("device", f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free", "ok")
    if torch.backends.mps.is_available():
        return "device", "Apple GPU (mps)", "ok"
    return "device", f"CPU, {torch.get_num_threads()} threads; large models need a GPU", "note"


def _memory_row() -> tuple[str, str, str]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return "memory", "unknown on this system", "note"
    return "memory", f"{total:.0f} GiB", "ok" if total >= 4 else "note"


def _disk_row() -> tuple[str, str, str]:
    free = shutil.disk_usage(".").free / 2**30
    return "disk here", f"{free:.0f} GiB free", "ok" if free >= 2 else "note"


def _model_row() -> tuple[str, str, str]:
    import numpy as np

    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Request, Task

    engine = LocalEngine.load("embedded")
    picture = np.full((256, 256, 3), 240, np.uint8)
    answer = engine.answer([picture], Request(task=Task.DETECT, labels=("nucleus",), tile_size=256))[0]
    return "embedded model", f"answered an empty tile with status '{answer.status}'", "ok"


def _print(rows: list[tuple[str, str, str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "missing": "red", "note": "yellow", "optional": "cyan"}
    table = Table(title=f"napari-qwenvl on {sys.platform}", title_justify="left")
    for column in ("what", "found", "state"):
        table.add_column(column, overflow="fold")
    for what, found, state in rows:
        table.add_row(what, escape(found), f"[{colours[state]}]{state}[/]")
    Console().print(table)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(rich_help_panel="Set-up")(doctor)
