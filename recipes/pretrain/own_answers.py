"""What the model wrote itself, with what should have stood there: it learns to go on after its own mistakes.

Answers that a person wrote never hold a box twice; a model that only reads those does not know what comes after one
(Ross, Gordon and Bagnell, "A reduction of imitation learning and structured prediction to no-regret online learning",
AISTATS 2011).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.evaluation.metrics import iou_matrix
from recipes.pretrain.data import augment
from recipes.pretrain.evaluate import read_boxes
from recipes.pretrain.model import greedy_answers
from recipes.pretrain.object_tasks import detect
from recipes.pretrain.question import Question
from recipes.pretrain.tiles import LabelledTile
from recipes.pretrain.tokenizer import LARGEST_NUMBER, TextCodec
from recipes.pretrain.turns import IGNORED, TurnBatch, TurnWriter

SAME = 0.3
"""Intersection over union from which a written box stands for a true one."""
SPARE = 8
"""Objects that are kept of an answer beyond the true number: a loop says the same thing from then on."""
TOKENS = 8
"""Of an object, with some to spare for labels of two."""
LESSON = 3.0
"""How much more a target weighs where the model wrote something else: a false end, a false beginning."""
UNREADABLE = 10.0
"""The same for a box that a reader has to drop: a copy of an earlier one, or one whose corners are swapped."""
NEAR = 40
"""A coordinate within this many of 1000 may still be of the object that should come."""
_CHANGED = ("targets", "weights", "places", "pointers", "corners", "slots", "left", "naming")
_OBJECT = re.compile(r'\{"bbox_2d": \[(?:(?:1000|\d{1,3}), ){3}(?:1000|\d{1,3})\], "label": "[^"]*"\}')


class HardTiles:
    """The last tiles about which the model wrote what a reader has to drop; it is asked about them again, turned.

    They are kept in memory alone: a run that goes on after an interruption gathers them anew.
    """

    def __init__(self, most: int = 256) -> None:
        self._tiles: deque[LabelledTile] = deque(maxlen=most)

    def add(self, tiles: list[LabelledTile]) -> None:
        """Keep tiles; the oldest make room."""
        self._tiles.extend(tiles)

    def drawn(self, count: int, cells: tuple[int, int], rng: np.random.Generator) -> list[LabelledTile]:
        """Up to `count` of them, augmented anew; those of another shape than `cells` wait."""
        fitting = [tile for tile in self._tiles if tile.cells == cells]
        chosen = rng.permutation(len(fitting))[:count]
        return [augment(fitting[i], rng) for i in chosen]


def own_answers(
    model: Any,
    codec: TextCodec,
    writer: TurnWriter,
    tiles: list[LabelledTile],
    merged: Tensor,
    deepstack: list[Tensor],
    rng: np.random.Generator,
) -> tuple[TurnBatch | None, list[LabelledTile]]:
    """The model's own greedy answers about where nuclei are, corrected; and the tiles it went wrong on.

    Parameters
    ----------
    tiles : list of LabelledTile
        Of one shape. Those without any nucleus asked for have nothing to correct and are passed over.
    merged, deepstack
        Their tokens, and perhaps those of further tiles behind them.

    Returns
    -------
    TurnBatch or None, list of LabelledTile
        Sequence `i` is about tile `owner[i]`. None where no answer could be corrected.
    """
    questions = {row: detect(tile, rng) for row, tile in enumerate(tiles)}
    questions = {row: question for row, question in questions.items() if question.answer != "[]"}
    if not questions:
        return None, []
    true = [question.answer.count("bbox_2d") for question in questions.values()]
    rows = torch.tensor(list(questions), device=merged.device)
    shown = merged.detach()[rows], [tap.detach()[rows] for tap in deepstack]
    prompts = [writer.prompt(question.prompt) for question in questions.values()]
    longest = (max(true) + SPARE) * TOKENS
    answers = greedy_answers(model, prompts, writer.cells, *shown, writer.first_cell, writer.end, longest)
    texts = [codec.decode(answer) for answer in answers]
    wrote, hard = {}, []
    for (row, question), text, count in zip(questions.items(), texts, true, strict=True):
        own = readable(text, count + SPARE)
        if own is None or (read := read_boxes(own, LARGEST_NUMBER)) is None:
            continue
        wrote[row] = replace(question, answer=own)
        if dropped(read[0]).any():
            hard.append(tiles[row])
    asked = [questions[row] for row in wrote]
    return corrected(writer, list(wrote.values()), asked, list(wrote)) if wrote else None, hard


def dropped(boxes: NDArray[Any]) -> NDArray[np.bool_]:
    """Which boxes (n, 4) a reader drops or repairs: copies of an earlier one, and swapped corners."""
    again = np.array([(boxes[:k] == box).all(1).any() for k, box in enumerate(boxes)], bool)
    return again | (boxes[:, 2:] <= boxes[:, :2]).any(1)


def readable(text: str, most: int) -> str | None:
    """The first `most` objects of an answer, closed where it never ended; None where it does not begin with one."""
    objects = _OBJECT.findall(text)
    if not objects or not text.startswith("[" + ", ".join(objects)):
        return None
    return "[" + ", ".join(objects[:most]) + "]"


def corrected(writer: TurnWriter, wrote: list[Question], asked: list[Question], owner: list[int]) -> TurnBatch:
    """Turns of what was written, with the targets of what was asked.

    A written box that stands for a true one is corrected; one that does not (it is false, or was written before) is
    read and never a target. Where an object begins, the target is the first true one behind all that were found, and
    not before the cell of the last one written, whatever that was.

    Parameters
    ----------
    wrote, asked : list of Question
        The same questions with the model's answers and with the true ones; neither is empty.
    """
    own, true = writer.batch(wrote, owner), writer.batch(asked, owner)
    arrays = {name: getattr(own, name).numpy().copy() for name in _CHANGED}

    def ignore(row: int, place: int | slice) -> None:
        for name, values in arrays.items():
            values[row, place] = 0 if name == "weights" else IGNORED

    for row in range(len(wrote)):
        at, boxes = _boxes(own, row)
        true_at, true_boxes = _boxes(true, row)
        tokens, cells = true.targets[row].numpy(), true.pointers[row].numpy()[true_at[:, 0]]
        slots = true.slots[row].numpy()[true_at[:, 0]]
        homes = own.pointers[row].numpy()[at[:, 0]]
        targets, weights = arrays["targets"][row], arrays["weights"][row]
        ends = np.flatnonzero(np.isin(targets, writer.goes_on))
        coming = 0
        bad = dropped(boxes)
        found = matches(boxes, true_boxes)
        for n, (slot, end, box, j) in enumerate(zip(at, ends, boxes, found, strict=True)):
            ahead = _right_until(box, true_boxes[coming]) if coming < len(true_boxes) else 0
            for corner, place in enumerate(slot):
                if (k := coming if corner < ahead else j if corner else -1) < 0:
                    ignore(row, place)
                else:
                    targets[place] = tokens[true_at[k, corner]]
                    arrays["places"][row, place] = true_boxes[k, corner]
                    arrays["pointers"][row, place], arrays["slots"][row, place] = cells[k], slots[k]
            weights[slot] *= UNREADABLE if bad[n] else LESSON if j < 0 else 1
            if j < 0:
                ignore(row, slice(slot[3] + 1, end))
                coming = max(coming, int(np.searchsorted(cells, homes[n])))
            else:
                label, name = slot[3] + 2, tokens[true_at[j, 3] + 2]
                arrays["naming"][row, label] = cells[j]
                if targets[label] != name:
                    ignore(row, slice(label + 1, end))
                    targets[label] = name
                coming = max(coming, j + 1)
            more = writer.goes_on[coming == len(true_boxes)]
            if targets[end] != more:
                weights[end] *= UNREADABLE if bad[n + 1 : n + 2].any() else LESSON
            targets[end] = more
    return replace(own, **{name: torch.from_numpy(values) for name, values in arrays.items()})


def _right_until(box: NDArray[np.int64], true: NDArray[np.int64]) -> int:
    """How many coordinates of `true` can be targets while `box` is read: those before it, and one, where it departs."""
    far = np.flatnonzero(abs(box - true) > NEAR)
    return int(far[0]) + 1 if len(far) else 4


def matches(boxes: NDArray[np.int64], true: NDArray[np.int64]) -> list[int]:
    """Which true box each written one stands for, none twice; -1 where it stands for none.

    In the order of writing, unlike `metrics.match`: a copy that fits better than the box before it is still a copy.
    """
    overlap = iou_matrix(boxes.astype(np.float64), true.astype(np.float64))
    found = []
    for row in overlap:
        best = int(row.argmax())
        found.append(best if row[best] >= SAME else -1)
        if row[best] >= SAME:
            overlap[:, best] = 0
    return found


def _boxes(turns: TurnBatch, row: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Where the coordinates of a sequence are targets (n, 4), and the boxes (n, 4) they stand for."""
    places = turns.places[row].numpy()
    at = np.flatnonzero(places != IGNORED).reshape(-1, 4)
    return at, places[at]
