"""What the vision tower learns before it ever meets words: one cell, its objects, read off by throw-away heads.

The box head answers in the embedding space of the number tokens. Whatever it reads off a merged token with one
linear map, an attention head of the language model can copy with one linear map too; that is what makes
grounding learnable within minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.pretrain.first_weights import fourier_numbers
from recipes.pretrain.geometry import CELL
from recipes.pretrain.tiles import CLASSES, TISSUES, UNKNOWN, LabelledTile
from recipes.pretrain.tokenizer import LARGEST_NUMBER

SLOTS = 2
"""Objects that one 32-px cell can report, in reading order."""


def reading_order(boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order of objects in every answer: rows of 32-px cells, cells of a row, then the 16-px quarters of a cell."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    cell, quarter = np.floor(centre / CELL), np.floor(centre / (CELL / 2))
    keys = (centre[:, 0], quarter[:, 0], quarter[:, 1], cell[:, 0], cell[:, 1])
    return np.lexsort(keys)


def relative(places: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Tile px to 0..1000 by way of whole pixels, so that every value is one of side + 1 numbers.

    Parameters
    ----------
    places : (..., 2 or 4)
        x, y or x_min, y_min, x_max, y_max.
    shape : (height, width) of the tile
    """
    height, width = shape
    largest = np.tile((width, height), places.shape[-1] // 2)
    whole = np.rint(places).clip(0, largest)
    return np.rint(whole * (LARGEST_NUMBER / largest)).astype(np.int64)


@dataclass(frozen=True)
class DenseTargets:
    """Per cell of a batch: how many objects (cut at 3), and class and box of the first two.

    Attributes
    ----------
    cells : (rows, columns)
    count : int64 (batch, cells)
    label : int64 (batch, cells, SLOTS)
        Class, `UNKNOWN` where there is none or it is not known.
    filled : bool (batch, cells, SLOTS)
    box : int64 (batch, cells, SLOTS, 4)
        0..1000.
    tissue : int64 (batch,)
    """

    cells: tuple[int, int]
    count: Tensor
    label: Tensor
    filled: Tensor
    box: Tensor
    tissue: Tensor

    @classmethod
    def of(cls, tiles: list[LabelledTile]) -> DenseTargets:
        """Targets of tiles of one shape."""
        rows, columns = tiles[0].cells
        cells = rows * columns
        count = np.zeros((len(tiles), cells), np.int64)
        label = np.full((len(tiles), cells, SLOTS), UNKNOWN, np.int64)
        filled = np.zeros((len(tiles), cells, SLOTS), bool)
        box = np.zeros((len(tiles), cells, SLOTS, 4), np.int64)
        for row, tile in enumerate(tiles):
            centres = (tile.boxes[:, :2] + tile.boxes[:, 2:]) / 2 / CELL
            numbers = relative(tile.boxes, tile.image.shape[:2])
            for i in reading_order(tile.boxes):
                x, y = np.minimum(centres[i].astype(int), (columns - 1, rows - 1))
                cell = y * columns + x
                slot = count[row, cell]
                if slot < SLOTS:
                    label[row, cell, slot], box[row, cell, slot] = tile.classes[i], numbers[i]
                    filled[row, cell, slot] = True
                count[row, cell] = min(slot + 1, SLOTS + 1)
        tissue = np.array([tile.tissue for tile in tiles], np.int64)
        arrays = (count, label, filled, box, tissue)
        return cls((rows, columns), *(torch.from_numpy(a) for a in arrays))

    def to(self, device: torch.device) -> DenseTargets:
        """The same on another device."""
        tensors = (self.count, self.label, self.filled, self.box, self.tissue)
        return DenseTargets(self.cells, *(t.to(device) for t in tensors))


class DenseHeads(nn.Module):
    """Linear read-outs of the merged tokens; thrown away after training.

    Parameters
    ----------
    width : int
        Width of the merged tokens.
    taps : int
        Number of DeepStack outputs.
    """

    numbers: Tensor
    smooth: Tensor

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.tap_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(taps))
        self.count = nn.Linear(width, SLOTS + 2)
        self.label = nn.Linear(width, SLOTS * len(CLASSES))
        self.offset = nn.Linear(width, SLOTS * 4)
        self.number = nn.Linear(width, SLOTS * 4 * width)
        self.tissue = nn.Linear(width, len(TISSUES))
        self.tap_count = nn.ModuleList(nn.Linear(width, SLOTS + 2) for _ in range(taps))
        self.tap_label = nn.ModuleList(nn.Linear(width, SLOTS * len(CLASSES)) for _ in range(taps))
        self.register_buffer("numbers", fourier_numbers(width), persistent=False)
        self.register_buffer("smooth", smoothed_numbers(), persistent=False)
        self.width = width

    def forward(
        self, merged: Tensor, deepstack: list[Tensor], targets: DenseTargets
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and its parts."""
        x = self.norm(merged)
        weight = x.new_tensor([0.6, 1.0, 1.5, 1.5]).float()
        count = F.cross_entropy(self.count(x).float().flatten(0, 1), targets.count.flatten(), weight)
        label = _label_loss(self.label(x), targets)
        extra = x.new_zeros(()).float()
        for norm, counts, labels, tap in zip(self.tap_norms, self.tap_count, self.tap_label, deepstack, strict=True):
            y = norm(tap)
            extra = extra + F.cross_entropy(counts(y).float().flatten(0, 1), targets.count.flatten(), weight)
            extra = extra + _label_loss(labels(y), targets)
        shape = (*x.shape[:2], SLOTS, 4)
        centres = cell_centres(targets.cells, x.device)[None, :, None]
        guess = self.offset(x).float().view(shape) * 0.1 + centres
        truth = targets.box / LARGEST_NUMBER
        offset = F.smooth_l1_loss(guess[targets.filled], truth[targets.filled], beta=0.01)
        hidden = self.number(x).view(*shape, self.width)[targets.filled]
        hidden = hidden * torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(hidden.dtype)
        logits = (hidden @ self.numbers.T.to(hidden.dtype)).float()
        soft = self.smooth[targets.box[targets.filled]]
        number = -(soft * logits.log_softmax(-1)).sum(-1).mean()
        known = targets.tissue != UNKNOWN
        pooled = self.tissue(x.mean(1)).float()
        tissue = F.cross_entropy(pooled[known], targets.tissue[known]) if known.any() else count.new_zeros(())
        loss = count * 2 + label + offset * 40 + number * 0.4 + tissue * 0.3 + extra * 0.3
        parts = {"count": count, "label": label, "offset": offset, "number": number, "tissue": tissue}
        return loss, {name: float(value.detach()) for name, value in parts.items()}

    @torch.no_grad()
    def read(self, merged: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts (b, cells), classes (b, cells, SLOTS), boxes in 0..1 from the number head, tissue (b,)."""
        x = self.norm(merged)
        shape = (*x.shape[:2], SLOTS, 4)
        hidden = self.number(x).view(*shape, self.width).float()
        boxes = (hidden @ self.numbers.T).argmax(-1) / LARGEST_NUMBER
        classes = self.label(x).view(*x.shape[:2], SLOTS, -1).argmax(-1)
        return self.count(x).argmax(-1), classes, boxes, self.tissue(x.mean(1)).argmax(-1)


def smoothed_numbers(sigma: float = 3.0) -> Tensor:
    """Targets that forgive near misses: row v is a Gaussian over the numbers around v, (1001, 1001)."""
    value = torch.arange(LARGEST_NUMBER + 1, dtype=torch.float32)
    weight = torch.exp(-0.5 * ((value[:, None] - value[None]) / sigma) ** 2)
    return weight / weight.sum(1, keepdim=True)


def cell_centres(cells: tuple[int, int], device: torch.device) -> Tensor:
    """Centre of every cell of a tile of (rows, columns) cells as (x, y, x, y) in 0..1, (rows * columns, 4)."""
    rows, columns = cells
    order = torch.arange(rows * columns, device=device)
    x, y = (order % columns + 0.5) / columns, (order // columns + 0.5) / rows
    return torch.stack([x, y, x, y], -1)


def _label_loss(logits: Tensor, targets: DenseTargets) -> Tensor:
    scores = logits.float().view(*targets.label.shape, len(CLASSES))
    known = targets.label != UNKNOWN
    if not known.any():
        return scores.sum() * 0
    return F.cross_entropy(scores[known], targets.label[known])
