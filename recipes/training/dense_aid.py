"""A dense loss for small vision towers that learn: every visual token is asked which labels lie in it.

A language model that must name what a tower does not yet tell apart gives the tower hardly any gradient: both wait for
the other. Here a linear head, thrown away after training, reads the classes of boxes directly off the tokens that hold
their centres, so that the tower learns them first and the language model only has to look. The recipe of the embedded
model does the same (`recipes.pretrain.dense`), for its own classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.errors import RecipeError
from finetune.examples.tokens import IGNORED
from qwenvl.families import ModelFamily
from qwenvl.images.geometry import CoordinateSpace

NAME = "dense_aid"
"""Name under which the heads learn as part of the model; adapters are saved without them."""
_TAPS = re.compile(r".*visual\.(merger|deepstack_merger_list\.\d+)")
_RARE = -4.0  # log odds that a label lies in a token, before anything is learned
_TAP_WEIGHT = 0.3  # of the tokens that DeepStack adds, beside the merged ones


class DenseAid(nn.Module):
    """Heads on the visual tokens of a Qwen-VL model, and their loss.

    Parameters
    ----------
    model : transformers or peft model
        Its mergers are watched until `release`.
    tokenizer : transformers tokenizer
        To read the boxes of the answers that are taught.
    family : ModelFamily
    labels : sequence of str
        Classes; boxes with other labels count as nothing.

    Raises
    ------
    RecipeError
        No label, or a family whose merged tokens do not lie in the order of the picture.
    """

    def __init__(self, model: Any, tokenizer: Any, family: ModelFamily, labels: Sequence[str]) -> None:
        super().__init__()
        if not labels:
            raise RecipeError("train.dense needs the labels of the boxes that are taught: name them with 'labels'")
        if family.windowed or family.space is not CoordinateSpace.RELATIVE_1000 or family.factor != 32:
            raise RecipeError(f"train.dense is made for small checkpoints of Qwen3-VL's form, not for {family.name}")
        self._tokenizer, self._factor = tokenizer, family.factor
        self._index = {label: number for number, label in enumerate(labels)}
        found = [(name, module) for name, module in model.named_modules() if _TAPS.fullmatch(name)]
        found.sort(key=lambda pair: "deepstack" in pair[0])
        width = model.config.vision_config.out_hidden_size
        self.heads = nn.ModuleList(_head(width, len(labels)) for _ in found)
        self._seen: dict[int, Tensor] = {}
        self._hooks = [module.register_forward_hook(partial(self._see, tap)) for tap, (_, module) in enumerate(found)]

    def _see(self, tap: int, module: Any, inputs: Any, output: Tensor) -> None:
        self._seen[tap] = output

    def release(self) -> None:
        """Stop watching the model."""
        for hook in self._hooks:
            hook.remove()
        self._seen.clear()

    def loss(self, labels: Tensor, grids: Tensor) -> Tensor:
        """Loss of the last pass of the model.

        Parameters
        ----------
        labels : int64 Tensor (rows, length)
            The taught tokens; each row has one picture.
        grids : int64 Tensor (rows, 3)
            Patches of every picture (time, height, width).

        Returns
        -------
        Tensor
            Cross-entropy summed over tokens and classes, per box.
        """
        targets = [self.targets(row, grid) for row, grid in zip(labels, grids.tolist(), strict=True)]
        wanted = torch.cat(targets).to(labels.device)
        total = wanted.new_zeros(())
        for tap, head in enumerate(self.heads):
            read = head(self._seen[tap].float())
            part = F.binary_cross_entropy_with_logits(read, wanted, reduction="sum")
            total = total + part * (1.0 if tap == 0 else _TAP_WEIGHT)
        self._seen.clear()
        return total / wanted.sum().clamp(min=1.0)

    def targets(self, labels: Tensor, grid: Sequence[int]) -> Tensor:
        """Which labels lie in which visual token of one picture, (tokens, labels)."""
        rows, columns = grid[1] // 2, grid[2] // 2
        wanted = torch.zeros(rows, columns, len(self._index))
        taught = labels[labels != IGNORED].tolist()
        text = self._tokenizer.decode(taught, skip_special_tokens=True)
        for box, label in boxes_of(text):
            if label in self._index:
                x, y = (box[0] + box[2]) / 2000, (box[1] + box[3]) / 2000
                row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
                wanted[row, column, self._index[label]] = 1.0
        return wanted.view(rows * columns, -1)


def _head(width: int, labels: int) -> nn.Module:
    linear = nn.Linear(width, labels)
    nn.init.constant_(linear.bias, _RARE)
    return nn.Sequential(nn.LayerNorm(width), linear)


def boxes_of(text: str) -> list[tuple[list[float], str]]:
    """Boxes and labels of an answer that is a JSON list of them; of any other answer none."""
    try:
        items = json.loads(text)
    except ValueError:
        return []
    if not isinstance(items, list):
        return []
    return [
        (item["bbox_2d"], str(item["label"]))
        for item in items
        if isinstance(item, dict) and "label" in item and len(item.get("bbox_2d", ())) == 4
    ]
