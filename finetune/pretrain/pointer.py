"""Where attention should look while a box is written: at the cell of its nucleus, one head per coordinate.

The answers alone teach this too, but slowly: what to look at and what to take from there are learned through each
other. The cell is known, so it is told. The loss is used in training only and changes nothing in the model's form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune.pretrain.turns import IGNORED, TurnBatch

SINK = 0
"""Position that a head attends to when the coordinate is another head's."""


def pointer_loss(
    layers: Any, inputs: list[tuple[Tensor, tuple[Tensor, Tensor]]], turns: TurnBatch, first_cell: int
) -> Tensor:
    """Mean cross-entropy of the attention of the last two layers and of the first.

    In the last layer head j looks at the nucleus' cell for coordinate j, and at the first token for the others;
    in the layer before, head 0 looks at the cell for every coordinate. In the first of three or more layers, where
    a box begins, head j looks at coordinate j of the box before: what comes next depends on where that was.
    """
    asked = turns.pointers != IGNORED
    if not asked.any() or len(layers) < 2:
        return inputs[0][0].new_zeros(()).float()
    row, position = asked.nonzero(as_tuple=True)
    cell = turns.pointers[row, position] + first_cell
    corner = turns.corners[row, position]
    last = attention_log(layers[-1], *inputs[-1])[row, :, position]
    corner = corner % last.shape[1]  # a model of fewer heads shares them
    before = attention_log(layers[-2], *inputs[-2])[row, 0, position]
    wanted = torch.full((len(row), last.shape[1]), SINK, device=row.device)
    heads = torch.arange(last.shape[1], device=row.device)[None]
    wanted = torch.where(heads == corner[:, None], cell[:, None], wanted)
    routed = -last.gather(2, wanted[..., None])[..., 0]
    own = routed.gather(1, corner[:, None]).mean()
    loss = own + routed.mean() - before.gather(1, cell[:, None]).mean()
    if len(layers) < 3:
        return loss
    row, position = (turns.corners == 0).nonzero(as_tuple=True)
    first = attention_log(layers[0], *inputs[0])[row, :4, position]
    wanted = turns.previous[row, position, : first.shape[1]]
    return loss - first.gather(2, wanted[..., None]).mean()


def attention_log(layer: Any, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Log-probabilities of a language layer's causal attention, (batch, heads, length, length)."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb, repeat_kv

    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    shape = (*x.shape[:2], -1, attention.head_dim)
    q = attention.q_norm(attention.q_proj(normed).view(shape)).transpose(1, 2)
    k = attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *turns)
    k = repeat_kv(k, attention.num_key_value_groups)
    scores = ((q * attention.scaling) @ k.transpose(-1, -2)).float()
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    return scores.masked_fill(future, float("-inf")).log_softmax(-1)
