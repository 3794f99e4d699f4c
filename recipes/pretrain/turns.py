"""Questions and answers as token sequences that share one layout: picture first, answer last, padded right."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.pretrain.question import Question
from recipes.pretrain.tokenizer import LARGEST_NUMBER, TextCodec

IGNORED = -100
JITTER_SHARE, JITTER = 0.6, (2.0, 12.0)
"""Share of sequences whose written boxes are shaken, and the range of the standard deviation in 1/1000 of the tile:
what the model itself will have written before is never quite the truth."""
REPEAT_SHARE = 0.35
"""Share of answers in which an object stands up to `REPEATS` times more: these are no targets, but how to go on after
them is."""
REPEATS = 3

_AFTER_LABEL = ('"label": "nucleus"}, {"bbox_2d": [', '"label": "nucleus"}]')
"""How an answer goes on after a label, and how it ends."""


@dataclass(frozen=True)
class TurnBatch:
    """Token sequences of one batch.

    Attributes
    ----------
    ids : int64 (batch, length)
        Picture tokens included; padded on the right.
    targets : int64 (batch, length)
        The token that follows, where it belongs to an answer; IGNORED elsewhere.
    weights : float32 (batch, length)
        Weight of each target in the loss.
    places : int64 (batch, length)
        The coordinate 0..1000 a target stands for; IGNORED where it is no coordinate.
    pointers : int64 (batch, length)
        The cell that holds the nucleus whose box coordinate is the target; IGNORED elsewhere.
    corners : int64 (batch, length)
        Which of x1, y1, x2, y2 the target is, where `pointers` is given.
    slots : int64 (batch, length)
        How many other nuclei of that cell come earlier in the answer, where `pointers` is given.
    previous : int64 (batch, length, 4)
        Positions of the four coordinates just written: of the box before, where the target is an x1 (0 for the
        first box); of the box itself, where it is a label.
    left : int64 (batch, length)
        The cell of the box before, where the target is an x1; IGNORED for the first box and elsewhere.
    naming : int64 (batch, length)
        The cell of a nucleus where the target is the first token of its label; IGNORED elsewhere.
    evidence : bool (batch, cells)
        Cells of the nuclei that make a yes true.
    owner : int64 (batch,)
        Which picture each sequence is about.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    places: Tensor
    pointers: Tensor
    corners: Tensor
    slots: Tensor
    previous: Tensor
    left: Tensor
    naming: Tensor
    evidence: Tensor
    owner: Tensor

    def to(self, device: torch.device) -> TurnBatch:
        """The same on another device."""
        return TurnBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class TurnWriter:
    """Writes chat turns around a picture in the checkpoint's chat template.

    Parameters
    ----------
    codec : TextCodec
    cells : (rows, columns)
        Picture tokens.
    """

    def __init__(self, codec: TextCodec, cells: tuple[int, int]) -> None:
        self.codec = codec
        self.head = codec.encode("<|im_start|>user\n<|vision_start|>")
        self.first_cell = len(self.head)
        self._picture = [codec.special["<|image_pad|>"]] * (cells[0] * cells[1])
        self.cells = self._rows, self._columns = cells
        self.end = codec.special["<|im_end|>"]
        self.goes_on = [codec.encode(end)[-1] for end in _AFTER_LABEL]
        """Tokens after a label: the one that begins another object, and the one that ends the list."""
        self._pad = codec.special["<|endoftext|>"]
        self._value = np.full(codec.size, IGNORED, np.int64)
        self._value[codec.bare_numbers] = np.arange(len(codec.bare_numbers))
        self._value[codec.comma_numbers] = np.arange(len(codec.comma_numbers))

    def prompt(self, question: str) -> list[int]:
        """Ids up to where the answer begins."""
        tail = self.codec.encode(f"<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n")
        return [*self.head, *self._picture, *tail]

    def batch(self, questions: list[Question], owner: list[int], rng: np.random.Generator | None = None) -> TurnBatch:
        """One sequence per question; only the answers (and their end mark) are targets.

        With `rng`, the coordinates that later tokens look back at are shaken in some sequences; targets never are.
        """
        rows, repeats = [], []
        for question in questions:
            prompt = self.prompt(question.prompt)
            text, repeat = question.answer, (0, 0)
            if rng is not None and question.task == "detect" and rng.random() < REPEAT_SHARE:
                text, repeat = with_repeat(text, rng)
            rows.append((prompt, [*self.codec.encode(text), self.end], question))
            repeats.append(repeat)
        length = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
        ids = np.full((len(rows), length), self._pad, np.int64)
        targets = np.full((len(rows), length), IGNORED, np.int64)
        places = np.full((len(rows), length), IGNORED, np.int64)
        weights = np.zeros((len(rows), length), np.float32)
        pointers, corners, slots = (np.full_like(places, IGNORED) for _ in range(3))
        previous, left = np.zeros((*ids.shape, 4), np.int64), np.full_like(places, IGNORED)
        naming = np.full_like(places, IGNORED)
        evidence = np.zeros((len(rows), len(self._picture)), bool)
        for row, (prompt, answer, question) in enumerate(rows):
            start, end = len(prompt), len(prompt) + len(answer)
            ids[row, :end] = [*prompt, *answer]
            targets[row, start - 1 : end - 1] = answer
            # An answer of one word must count beside one of twenty boxes, but not twenty times as much.
            weights[row, start - 1 : end - 1] = np.clip((40 / len(answer)) ** 0.5, 0.8, 3.0)
            if question.has_coordinates:
                places[row, start - 1 : end - 1] = self._value[answer]
            for x, y in question.evidence:
                column, line = int(x * self._columns), int(y * self._rows)
                cell = min(line, self._rows - 1) * self._columns + min(column, self._columns - 1)
                evidence[row, cell] = True
            if question.task == "detect":
                at = np.flatnonzero(places[row] != IGNORED)
                boxes = places[row, at].reshape(-1, 4)
                centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / LARGEST_NUMBER * (self._columns, self._rows)
                home = np.minimum(centre.astype(np.int64), (self._columns - 1, self._rows - 1))
                pointers[row, at] = np.repeat(home[:, 1] * self._columns + home[:, 0], 4)
                corners[row, at] = np.tile(np.arange(4), len(boxes))
                slots[row, at] = np.repeat(places_in_cell(pointers[row, at[::4]], boxes), 4)
                # The token of a target stands one place after the position that predicts it.
                left[row, at[4::4]] = pointers[row, at[:-4:4]]
                # Which object comes next, and whether one does: where a model that sees goes wrong.
                weights[row, at[::4]] *= 2
                weights[row, np.isin(targets[row], self.goes_on)] *= 2.5
                naming[row, at[3::4] + 2] = pointers[row, at[3::4]]
                previous[row, at[3::4] + 2] = at.reshape(-1, 4) + 1
                if len(set(targets[row, at[3::4] + 2].tolist())) > 1:
                    # One word beside four coordinates, and it names the class.
                    weights[row, at[3::4] + 2] *= 3
                previous[row, at[4::4]] = at.reshape(-1, 4)[:-1] + 1
                if rng is not None and rng.random() < JITTER_SHARE:
                    ids[row, at + 1] = self._shaken(boxes, rng).ravel()
                first, last = repeats[row]
                if last:
                    ends = np.flatnonzero(np.isin(targets[row], self.goes_on))
                    twice = slice(ends[first - 1], ends[last - 1])
                    for kept in (targets, places, pointers, corners, slots, left, naming):
                        kept[row, twice] = IGNORED
                    weights[row, twice] = 0
        owners = np.array(owner, np.int64)
        cells = (pointers, corners, slots, previous, left, naming, evidence)
        arrays = (ids, targets, weights, places, *cells, owners)
        return TurnBatch(*(torch.from_numpy(a) for a in arrays))

    def _shaken(self, boxes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Tokens (n, 4) of boxes 0..1000 with noise on every coordinate."""
        noise = rng.normal(0, rng.uniform(*JITTER), boxes.shape)
        moved = np.rint(boxes + noise).astype(np.int64).clip(0, LARGEST_NUMBER)
        tokens = self.codec.comma_numbers[moved]
        tokens[:, 3] = self.codec.bare_numbers[moved[:, 3]]
        return tokens


def places_in_cell(homes: NDArray[np.int64], boxes: NDArray[np.int64]) -> list[int]:
    """How many other boxes (n, 4) of the same cell (n) come before each; a box that is written again is the same."""
    met: dict[int, list[tuple[int, ...]]] = {}
    found = []
    for home, box in zip(homes.tolist(), map(tuple, boxes.tolist()), strict=True):
        earlier = met.setdefault(home, [])
        if box not in earlier:
            earlier.append(box)
        found.append(earlier.index(box))
    return found


def with_repeat(answer: str, rng: np.random.Generator) -> tuple[str, tuple[int, int]]:
    """An answer of boxes in which one object is written again, and where: from place `first` to before `last`.

    (0, 0) for an answer without objects.
    """
    objects = json.loads(answer)
    if not objects:
        return answer, (0, 0)
    first, more = int(rng.integers(len(objects))) + 1, int(rng.integers(REPEATS)) + 1
    again = [objects[first - 1]] * more
    return json.dumps([*objects[:first], *again, *objects[first:]]), (first, first + more)
