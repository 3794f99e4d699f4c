"""Training samples: a crop of one cell as the question, its sentence as the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.prompts import conversation
from workflows.errors import CellsError, ExportExistsError
from workflows.science.cells.crops import CropSize, read_crop
from workflows.science.cells.table import CellTable
from workflows.store.folder import PARTIAL
from wsi.slide import Slide

TRAINING, HELD_OUT = "conversations.jsonl", "held_out.jsonl"


@dataclass(frozen=True, slots=True)
class WrittenSamples:
    """What `write_samples` left on disk: the two files, their rows, and cells left out at the slide's border."""

    training: Path
    held_out: Path
    training_rows: int
    held_out_rows: int
    at_border: int


def question(noun: str) -> str:
    """What is asked about a crop, in training and afterwards."""
    return f"Describe the {noun} in the centre of this image in one sentence."


def write_samples(
    table: CellTable,
    slide: Slide,
    folder: Path | str,
    *,
    size: CropSize | None = None,
    most: int | None = None,
    held_out: float = 0.2,
    block0: int = 2048,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> WrittenSamples:
    """Write crops and their sentences as ChatML conversations.

    Cells are held out by squares of the slide, whole: neighbours, whose crops overlap, never lie on both sides.

    Parameters
    ----------
    table : CellTable
    slide : Slide
        The slide of the table.
    folder : path
        Empty or new: gets `images/`, `conversations.jsonl`, `held_out.jsonl` and `samples.json`.
    size : CropSize, optional
        Of the crops; by default 64 px for 16 um.
    most : int, optional
        Most cells, drawn at random.
    held_out : float
        Share of the squares that are held out, 0 to 0.9; with several squares and a share, at least one is.
    block0 : int
        Side of the squares in level-0 px.
    seed : int
        Of both draws.

    Raises
    ------
    CellsError
        The slide is another one, a setting is out of range, or all cells would be on one side.
    ExportExistsError
        The folder is not empty.
    SlideChangedError
        The slide was rewritten while it was read; no conversations are written.
    """
    from PIL import Image

    folder = Path(folder)
    check_slide(table, slide)
    if not 0 <= held_out <= 0.9 or block0 < 1 or (most is not None and most < 1):
        raise CellsError("held_out lies between 0 and 0.9; block0 and most are positive")
    if folder.exists() and any(folder.iterdir()):
        raise ExportExistsError(f"{folder} is not empty. Name another folder.")
    size = size or CropSize.of(slide)
    rng = np.random.default_rng(seed)
    rows = np.arange(len(table))
    if most is not None and most < len(rows):
        rows = np.sort(rng.choice(rows, most, replace=False))
    apart = _held_out(table.centre0[rows], slide.width, block0, held_out, rng)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    asked = question(table.vocabulary.noun)
    lines: dict[bool, list[str]] = {False: [], True: []}
    at_border = 0
    with slide.watch.held():
        for number, (row, out) in enumerate(zip(rows.tolist(), apart.tolist(), strict=True)):
            picture, inside = read_crop(slide, table.centre0[row], size)
            if report is not None:
                report(number + 1, len(rows))
            if not inside:
                at_border += 1
                continue
            name = f"images/cell_{row:07d}.png"
            Image.fromarray(picture).save(folder / name)
            lines[out].append(json.dumps(_turns(name, asked, table.sentences[row]), ensure_ascii=False))
    for out, name in ((False, TRAINING), (True, HELD_OUT)):
        partial = folder / (name + PARTIAL)
        partial.write_text("".join(line + "\n" for line in lines[out]), encoding="utf-8")
        partial.replace(folder / name)
    facts = {
        "form": "chatml",
        "question": asked,
        "crop_px": size.px,
        "crop_side0": size.side0,
        "seed": seed,
        "block0": block0,
        "held_out": held_out,
        "training_rows": len(lines[False]),
        "held_out_rows": len(lines[True]),
        "at_border": at_border,
        "cells": {**table.facts, "vocabulary": json.loads(table.vocabulary.to_json())},
    }
    (folder / "samples.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
    return WrittenSamples(folder / TRAINING, folder / HELD_OUT, len(lines[False]), len(lines[True]), at_border)


def check_slide(table: CellTable, slide: Slide) -> None:
    """Raise CellsError unless the table's cells are of this slide."""
    if table.facts.get("slide_fingerprint") != slide.fingerprint:
        raise CellsError(
            f"The table is of {table.facts.get('slide')}, and {slide.path.name} is another file. Name the table's own "
            "slide."
        )


def _held_out(
    centre0: NDArray[np.float64], width: int, block0: int, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    across = width // block0 + 1
    block = (centre0[:, 1] // block0).astype(np.int64) * across + (centre0[:, 0] // block0).astype(np.int64)
    blocks = np.unique(block)
    if share == 0:
        return np.zeros(len(block), bool)
    if len(blocks) < 2:
        raise CellsError(
            f"All cells lie in one square of {block0} px, so none can be held out apart: name smaller squares "
            "(--block), or hold out nothing (--held-out 0)."
        )
    number = min(len(blocks) - 1, max(1, round(share * len(blocks))))
    return np.isin(block, rng.choice(blocks, number, replace=False))


def _turns(image: str, asked: str, sentence: str) -> dict[str, Any]:
    """A row in the ChatML form; the picture's part names its file."""
    user = conversation(asked)[0]
    content = [part | ({"image": image} if part["type"] == "image" else {}) for part in user["content"]]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": sentence}]}
