"""A table of cells in the viewer: a point per cell, whose sentence the status bar shows under the pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import LayerData
from workflows.report.images.colours import label_colours
from workflows.science.cells import CellTable, read_table

Reader = Callable[[str], list[LayerData]]

CELLS = "qwenvl_cells"
"""Key of a cells layer's metadata: slide and number of cells."""
MOST = 100_000
"""Points that are drawn; of larger tables as many are drawn at random, and the layer's name says so."""


def get_cells_reader(path: str | Sequence[str]) -> Reader | None:
    """npe2 reader of tables of `qwenvl cells measure` (.h5ad); None for any other file."""
    if not isinstance(path, str) or not _is_cells(Path(path)):
        return None
    return read_cells


def read_cells(path: str) -> list[LayerData]:
    """The cells as points, in the colours of their classes, over the slide where that is shown.

    Raises
    ------
    CellsError, ExportError
        The table cannot be read.
    """
    return [cell_layer(read_table(path))]


def cell_layer(table: CellTable) -> LayerData:
    """Points in level-0 px, as large as the cells, with key, class and sentence as features."""
    rows = np.arange(len(table))
    name = f"cells of {table.facts.get('slide', 'a slide')}"
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
        name += f": {MOST:,} of {len(table):,}"
    scale = (float(table.facts["mpp_x"]), float(table.facts["mpp_y"])) if "mpp_x" in table.facts else None
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in label_colours(table.labels).values()]
    label = table.label[rows]
    options: dict[str, Any] = {
        **Frame.of(scale).corner_options(),
        "name": name,
        "size": (table.box0[rows, 2:] - table.box0[rows, :2]).max(axis=1),
        "face_color": "transparent",
        "border_color": [colours[code] for code in label],
        "border_width": 0.1,
        "features": {
            "sentence": [table.sentences[row] for row in rows.tolist()],
            "class": [table.labels[code] for code in label],
            "key": [table.keys[row] for row in rows.tolist()],
        },
        "metadata": {CELLS: {"slide": table.facts.get("slide_fingerprint"), "cells": len(table)}},
    }
    return table.centre0[rows][:, ::-1], options, "points"


def _is_cells(path: Path) -> bool:
    if path.suffix.lower() != ".h5ad" or not path.is_file():
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "uns/cells/vocabulary" in file
    except OSError:
        return False
