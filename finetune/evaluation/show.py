"""Pictures of training targets: what the model is really taught, decoded from its tokens and drawn over the tile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.dataset.cutting import LabelledCut
from finetune.examples.label_source import LabelSource
from finetune.examples.tokens import Tokens
from qwenvl.answer import Answer, TileObject
from qwenvl.request import Request
from wsi.files.image_files import write_png

COLOURS = ((0, 158, 115), (230, 159, 0), (0, 114, 178), (240, 228, 66), (213, 94, 0), (86, 180, 233), (60, 60, 60))
"""RGB, distinct with most kinds of colour blindness (Okabe and Ito 2008)."""
_PANEL = 448


def decoded_target(source: LabelSource, cut: LabelledCut, tokenizer: object) -> tuple[Answer, str, Tokens]:
    """The taught tokens of a tile, back through tokenizer and parser.

    Returns
    -------
    Answer, str, Tokens
        Objects in tile px, the words, and the whole sequence.
    """
    plan = source.plan_of(cut)
    taught = [token for token, on in zip(plan.tokens.ids, plan.tokens.taught, strict=True) if on]
    text: str = tokenizer.decode(taught, skip_special_tokens=False)  # type: ignore[attr-defined]
    frame = source.processor.frame(cut.tile.width, cut.tile.height)
    return source.writer.read(text, source.request, frame), text, plan.tokens


def draw_targets(
    source: LabelSource, cuts: Sequence[LabelledCut], tokenizer: object, path: Path, columns: int = 3
) -> list[float]:
    """Draw decoded targets in colour over the labels in thin white, and write a PNG.

    Returns
    -------
    list of float
        Largest distance in tile px between a label and what is taught of it, per tile; nan for empty tiles.
    """
    panels, distances = [], []
    for cut in cuts:
        answer, _, tokens = decoded_target(source, cut, tokenizer)
        pixels = source.reader.read(cut.slide, cut.tile)
        panels.append(_panel(pixels, cut, answer, source.request, tokens))
        distances.append(_distance(cut, answer, source.request))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    blank = np.full_like(panels[0], 255)
    picture = np.vstack([np.hstack([*row, *[blank] * (columns - len(row))]) for row in rows])
    partial = path.with_name(f".{path.name}.part.png")
    write_png(partial, np.ascontiguousarray(picture))
    partial.replace(path)
    return distances


def _panel(
    pixels: NDArray[np.uint8], cut: LabelledCut, answer: Answer, request: Request, tokens: Tokens
) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = _PANEL / max(height, width)
    canvas = np.full((_PANEL + 22, _PANEL, 3), 255, np.uint8)
    shown = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    view = np.ascontiguousarray(shown)
    for item in cut.objects:
        _mark(view, item, scale, (255, 255, 255), 1)
    for item in answer.objects:
        colour = (
            COLOURS[request.labels.index(item.label) % len(COLOURS)] if item.label in request.labels else (255, 0, 0)
        )
        _mark(view, item, scale, colour, 2)
    canvas[: view.shape[0], : view.shape[1]] = view
    words = f"{cut.slide}  {len(answer.objects)} objects  {len(tokens.ids)} tokens, {tokens.supervised} taught"
    cv2.putText(canvas, words, (4, _PANEL + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def _mark(view: NDArray[Any], item: TileObject, scale: float, colour: tuple[int, int, int], line: int) -> None:
    if item.box is not None:
        x0, y0, x1, y1 = (round(value * scale) for value in item.box)
        cv2.rectangle(view, (x0, y0), (x1, y1), colour, line)
    elif item.point is not None:
        cv2.circle(view, (round(item.point[0] * scale), round(item.point[1] * scale)), 4, colour, line)


def _distance(cut: LabelledCut, answer: Answer, request: Request) -> float:
    """Each label's nearest taught place of its class; infinite where one is not taught at all."""
    worst = float("nan")
    for item in cut.objects:
        if item.label not in request.labels:
            continue
        mine = np.array(item.box or item.point)
        others = [np.array(o.box or o.point) for o in answer.objects if o.label == item.label]
        if others and len(others[0]) != len(mine):
            mine = (mine[:2] + mine[-2:]) / 2
        nearest = min((float(np.abs(mine - other).max()) for other in others), default=float("inf"))
        worst = nearest if worst != worst else max(worst, nearest)
    return worst


def tile_stats(source: LabelSource, cuts: Sequence[LabelledCut]) -> dict[str, float]:
    """Numbers of a set of tiles: objects, empty ones, tokens."""
    lengths = [len(source.plan_of(cut).tokens.ids) for cut in cuts]
    objects = [len(cut.objects) for cut in cuts]
    return {
        "tiles": len(cuts),
        "empty": sum(number == 0 for number in objects),
        "objects": sum(objects),
        "objects_per_tile": float(np.mean(objects)) if objects else 0.0,
        "longest": max(lengths, default=0),
        "mean_length": float(np.mean(lengths)) if lengths else 0.0,
    }
