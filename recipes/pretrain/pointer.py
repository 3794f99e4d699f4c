"""Where attention should look while a box is written: at the cell of its nucleus, a head per coordinate and slot.

The answers alone teach this too, but slowly: what to look at and what to take from there are learned through each
other. The cell is known, so it is told. The loss is used in training only and changes nothing in the model's form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.pretrain.dense import SLOTS
from recipes.pretrain.model import Compared
from recipes.pretrain.turns import IGNORED, TurnBatch

SINK = 0
"""Position that a head attends to when the coordinate is another head's."""


def pointer_loss(looked: list[Compared], turns: TurnBatch, first_cell: int) -> Tensor:
    """Mean cross-entropy of the attention of the last two layers and of the first.

    In the last layer head j looks at the nucleus' cell for coordinate j, and at the first token for the others; a
    second set of four heads, where there is one, does so for what is not the first nucleus of its cell. In the layer
    before, head 0 looks at the cell for every coordinate. In the first of three or more layers, where a box begins,
    head j looks at coordinate j of the box before, and head 1 of the layer before the last at that box's cell: what
    comes next depends on where that was. Where a label begins, head 2 of that layer looks at the cell again.
    """
    asked = turns.pointers != IGNORED
    if not asked.any() or len(looked) < 2:
        return looked[0][0].new_zeros(()).float()
    heads = looked[-1][0].shape[1]
    cell = turns.pointers[asked] + first_cell
    slot = turns.slots[asked].clamp(max=SLOTS - 1)
    reader = (turns.corners[asked] + 4 * slot) % heads  # a model of fewer heads shares them
    order = torch.arange(heads, device=cell.device)[None]
    wanted = torch.where(order == reader[:, None], cell[:, None], torch.full_like(cell[:, None], SINK))
    routed = _surprise(looked[-1], range(heads), asked, wanted)
    loss = routed.gather(1, reader[:, None]).mean() + routed.mean()
    loss = loss + _surprise(looked[-2], range(1), asked, cell[:, None]).mean()
    naming = turns.naming != IGNORED
    named = range(2 % heads, 2 % heads + 1)
    loss = loss + 0.5 * _surprise(looked[-2], named, naming, turns.naming[naming][:, None] + first_cell).mean()
    if len(looked) < 3:
        return loss
    begins = turns.corners == 0
    both = begins | naming
    written = turns.previous[both][:, : min(4, heads)]
    loss = loss + _surprise(looked[0], range(written.shape[1]), both, written).mean()
    left = turns.left[begins]
    place = torch.where(left == IGNORED, SINK, left + first_cell)[:, None]
    return loss + 0.5 * _surprise(looked[-2], range(1, 2), begins, place).mean()


def evidence_loss(looked: list[Compared], turns: TurnBatch, first_cell: int) -> Tensor:
    """Sum over true yes/no questions about nuclei of minus the log of the attention that finds one of them.

    The fourth head (the last of fewer) of the layer before the last is to look at any such nucleus where the answer
    begins.
    """
    rows = turns.evidence.any(1)
    if not rows.any() or len(looked) < 2:
        return looked[0][0].new_zeros(()).float()
    position = (turns.targets[rows] != IGNORED).float().argmax(1)
    head = min(4, looked[-2][0].shape[1]) - 1
    q, k = (x[rows, head] for x in looked[-2][:2])
    scores = (q[torch.arange(len(q), device=q.device), position][:, None] @ k.transpose(-1, -2))[:, 0].float()
    scores = scores.masked_fill(torch.arange(k.shape[1], device=k.device)[None] > position[:, None], float("-inf"))
    found = scores[:, first_cell : first_cell + turns.evidence.shape[1]]
    found = found.masked_fill(~turns.evidence[rows], float("-inf"))
    return (scores.logsumexp(-1) - found.logsumexp(-1)).sum()


def _surprise(compared: Compared, heads: range, asked: Tensor, wanted: Tensor) -> Tensor:
    """Minus the log-probability with which heads attend to `wanted` (n, len(heads)) places.

    The n queries are where `asked` (batch, length) is true; queries before the first of them are not computed.
    """
    row, position = asked.nonzero(as_tuple=True)
    start = int(position.min())
    q, k = (x[:, heads.start : heads.stop] for x in compared[:2])
    length = k.shape[2]
    scores = q[:, :, start:] @ k.transpose(-1, -2)
    future = torch.arange(length, device=q.device)[None] > torch.arange(start, length, device=q.device)[:, None]
    scores = scores.masked_fill(future, float("-inf"))
    total = scores.float().logsumexp(-1)[row, :, position - start]
    column = torch.arange(len(heads), device=q.device)[None]
    return total - scores[row[:, None], column, (position - start)[:, None], wanted].float()
