"""The vision tower's first layer for still pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fold_frames(model: Any) -> None:
    """Let a model's patch embedding take patches with one frame, besides its own layout.

    A patch holds two frames of a video; of a still picture both are the same, so the two slices of the embedding's
    weights can be added up once instead of multiplying the same pixels twice. Half the patch memory and one matrix
    product replace a three-dimensional convolution. Parameters and their names stay as they are.

    Parameters
    ----------
    model : transformers model
        Of any family in transformers; doing it twice changes nothing.
    """
    embedding = model.model.visual.patch_embed
    if getattr(embedding, "folded", False):
        return
    convolution = embedding.proj
    own_forward = embedding.forward
    weight = convolution.weight.double().sum(dim=2).flatten(1).to(convolution.weight.dtype)

    def forward(patches: Tensor) -> Tensor:
        if patches.shape[-1] != weight.shape[1]:
            result: Tensor = own_forward(patches)
            return result
        return torch.nn.functional.linear(patches.to(weight.dtype), weight, convolution.bias)

    embedding.forward = forward
    embedding.folded = True
