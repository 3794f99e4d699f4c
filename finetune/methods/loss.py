"""The loss of an answer: cross-entropy on its tokens, with two aids for small models.

Where a vocabulary holds whole numbers as tokens (the embedded model's does, Qwen's own writes digits), a coordinate may
be taught with soft targets: a box one px off is nearly right, and plain cross-entropy would call it as wrong as any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.errors import RecipeError
from finetune.examples.tokens import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REACH = 4  # standard deviations that a soft target spans


class NumberTokenWeights:
    """The tokens of a vocabulary that are whole numbers 0..1000, and numbers followed by a comma.

    Attributes
    ----------
    groups : tuple of int64 Tensor (1001,)
        Token of every number, per spelling.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        groups = []
        for ending in ("", ", ", ","):
            tokens = [tokenizer(f"{v}{ending}", add_special_tokens=False)["input_ids"] for v in range(1001)]
            if all(len(ids) == 1 for ids in tokens):
                groups.append(torch.tensor([ids[0] for ids in tokens]))
        self.groups = tuple(groups)

    def __bool__(self) -> bool:
        return bool(self.groups)


def whole_numbers(tokenizer: PreTrainedTokenizerBase, setting: str) -> NumberTokenWeights:
    """The tokens that are whole numbers.

    Raises
    ------
    RecipeError
        The vocabulary has none, and `setting` needs them.
    """
    numbers = NumberTokenWeights(tokenizer)
    if not numbers:
        raise RecipeError(f"{setting} needs whole numbers as tokens, and this vocabulary writes digits: set it to 0")
    return numbers


def answer_loss(
    logits: Tensor,
    labels: Tensor,
    count: Tensor | int | None,
    *,
    numbers: NumberTokenWeights | None = None,
    places: Tensor | None = None,
    sigma: float = 0.0,
    weights: Tensor | None = None,
    teacher: Tensor | None = None,
    taught_rows: Tensor | None = None,
    distil: float = 0.0,
) -> Tensor:
    """Mean loss of the taught tokens.

    Parameters
    ----------
    logits : Tensor (rows, length, vocabulary)
    labels : int64 Tensor (rows, length)
        Not shifted: position t is what t - 1 predicts.
    count : int or Tensor, optional
        Taught tokens of the whole optimiser step; None takes those of this batch.
    places : bool Tensor (rows, length)
        Where a label may be a coordinate.
    sigma : float
        Width of soft targets in model units; 0 teaches the number alone.
    weights : Tensor (rows, length)
        Weight of each label; None is 1 everywhere.
    teacher : Tensor (n, length, vocabulary), optional
        Logits of another model for n of the rows.
    taught_rows : int64 Tensor (n,)
        Those rows.
    distil : float
        Share of the teacher's probabilities in what these rows are taught.
    """
    wanted = labels[:, 1:]
    asked = wanted != IGNORED
    targets = wanted[asked]
    chosen = logits[:, :-1][asked].float().log_softmax(-1)
    losses = -chosen.gather(1, targets[:, None])[:, 0]
    if numbers and sigma > 0 and places is not None:
        near = places[:, 1:][asked]
        for group in numbers.groups:
            group = group.to(targets.device)
            value = torch.full((chosen.shape[1],), IGNORED, dtype=torch.int64, device=targets.device)
            value[group] = torch.arange(len(group), device=targets.device)
            rows = near & (value[targets] != IGNORED)
            if rows.any():
                soft = _soft(value[targets[rows]], len(group), sigma)
                losses = losses.masked_scatter(rows, -(soft * chosen[rows][:, group]).sum(1))
    if teacher is not None and taught_rows is not None:
        owner = torch.arange(len(labels), device=labels.device)[:, None].expand_as(wanted)[asked]
        theirs = torch.isin(owner, taught_rows)
        soft = teacher[:, :-1][asked[taught_rows]].float().softmax(-1)
        agreed = -(soft * chosen[theirs]).sum(1)
        losses = losses.masked_scatter(theirs, (1 - distil) * losses[theirs] + distil * agreed)
    if weights is not None:
        losses = losses * weights[:, 1:][asked]
    return losses.sum() / (asked.sum() if count is None else count)


def _soft(values: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussians over the numbers around each value, (n, size)."""
    place = torch.arange(size, device=values.device)[None]
    distance = (place - values[:, None]).float() / sigma
    weight = torch.exp(-0.5 * distance**2) * (distance.abs() <= _REACH)
    return weight / weight.sum(1, keepdim=True)
