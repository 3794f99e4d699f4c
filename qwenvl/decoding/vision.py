"""The vision tower on still pictures: its first layer, and how many pictures at a time."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qwenvl.decoding.onednn_linear import PackedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AT_ONCE = 2048  # patches that go through the tower together on a CPU: their numbers stay in its cache


def fold_frames(model: PreTrainedModel, *, packed: bool = False) -> None:
    """Let a model's patch embedding take patches with one frame, besides its own layout.

    A patch holds two frames of a video; of a still picture both are the same, so the two slices of the embedding's
    weights can be added up once instead of multiplying the same pixels twice. Half the patch memory and one matrix
    product replace a three-dimensional convolution. Parameters and their names stay as they are.

    Parameters
    ----------
    model : transformers model
        Of any family in transformers; doing it twice changes nothing.
    packed : bool
        Whether the model's other products are packed too (`qwenvl.decoding.onednn_linear`).
    """
    embedding = model.model.visual.patch_embed
    if getattr(embedding, "folded", False):
        return
    convolution = embedding.proj
    own_forward = embedding.forward
    weight = convolution.weight.double().sum(dim=2).flatten(1).to(convolution.weight.dtype)

    product = PackedLinear(weight, convolution.bias) if packed else None

    def forward(patches: Tensor) -> Tensor:
        if patches.shape[-1] != weight.shape[1]:
            result: Tensor = own_forward(patches)
            return result
        if product is not None and not torch.is_grad_enabled():
            return product(patches)
        return torch.nn.functional.linear(patches.to(weight.dtype), weight, convolution.bias)

    embedding.forward = forward
    embedding.folded = True


def picture_features(model: PreTrainedModel, pixel_values: Tensor, grid: Tensor) -> Any:
    """What transformers' `get_image_features` gives; on a CPU a few pictures at a time.

    Parameters
    ----------
    model : transformers model
    pixel_values : Tensor (patches, values)
    grid : int64 Tensor (pictures, 3)

    Returns
    -------
    transformers ModelOutput
        Its per-picture fields (`pooler_output`, `deepstack_features`) cover all pictures.
    """
    sizes = grid.prod(dim=1).tolist()
    if pixel_values.device.type != "cpu" or sum(sizes) <= _AT_ONCE:
        return model.model.get_image_features(pixel_values, grid, return_dict=True)
    groups: list[list[int]] = []
    for picture, size in enumerate(sizes):
        if groups and sum(sizes[index] for index in groups[-1]) + size <= _AT_ONCE:
            groups[-1].append(picture)
        else:
            groups.append([picture])
    patches = pixel_values.split([sum(sizes[index] for index in group) for group in groups])
    outputs = [
        model.model.get_image_features(part, grid[group], return_dict=True)
        for part, group in zip(patches, groups, strict=True)
    ]
    whole = outputs[0]
    whole.pooler_output = tuple(chain.from_iterable(output.pooler_output for output in outputs))
    if getattr(whole, "deepstack_features", None) is not None:
        layers = zip(*(output.deepstack_features for output in outputs), strict=True)
        whole.deepstack_features = [tuple(chain.from_iterable(layer)) for layer in layers]
    return whole
