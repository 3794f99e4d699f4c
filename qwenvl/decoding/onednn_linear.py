"""Matrix products of small models on a CPU.

PyTorch hands float32 products to MKL, which leaves half of the width of some processors unused; oneDNN, which is
part of PyTorch too, does not, and adds bias and activation on the way. Its weights have a layout of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST = 2**28
"""Most weights that are packed: their copies take this many times four bytes."""

_TOLERANCE = 1e-4


class PackedLinear:
    """A linear layer with weights in oneDNN's layout, for inference in float32 on a CPU.

    Parameters
    ----------
    weight : float32 Tensor (out, in)
    bias : float32 Tensor (out,), optional
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._bias = None if bias is None else bias.detach()

    def __call__(self, x: Tensor, activation: str = "none", variant: str = "") -> Tensor:
        """Product, bias and activation ('gelu' with variant 'tanh') of x (..., in)."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, activation, [], variant)
        return result


def pack_linears(model: PreTrainedModel) -> str | None:
    """Let the linear layers of a model compute through oneDNN. Parameters and their names stay as they are.

    A layer whose weights are changed afterwards, or which is asked for gradients or another number type, computes as
    before. Doing it twice changes nothing.

    Parameters
    ----------
    model : transformers model

    Returns
    -------
    str or None
        Why the model was left as it was; None where it was packed.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    reason = _unfit(layers)
    if reason is not None:
        return reason
    for layer in layers:
        if not hasattr(layer, "packed"):
            _pack(layer)
    for module in model.modules():
        if _is_gelu_mlp(module):
            _fuse(module)
    return None


def _unfit(layers: list[nn.Linear]) -> str | None:
    if any(layer.weight.device.type != "cpu" or layer.weight.dtype != torch.float32 for layer in layers):
        return "not float32 on a CPU"
    if sum(layer.weight.numel() for layer in layers) > LARGEST:
        return f"more than {LARGEST:,} weights"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch has no oneDNN"
    try:
        weight, bias, x = torch.rand(9, 7) - 0.5, torch.rand(9), torch.rand(2, 3, 7) - 0.5
        difference = PackedLinear(weight, bias)(x) - nn.functional.linear(x, weight, bias)
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"oneDNN's linear layer cannot be called: {type(error).__name__}"
    return None if bool((difference.abs() < _TOLERANCE).all()) else "oneDNN's linear layer computes otherwise"


def _pack(layer: nn.Linear) -> None:
    own_forward = layer.forward
    packed = PackedLinear(layer.weight, layer.bias)
    unchanged = _watch(layer)

    def forward(x: Tensor) -> Tensor:
        return packed(x) if unchanged(x) else own_forward(x)

    layer.packed = packed  # type: ignore[assignment]
    layer.forward = forward  # type: ignore[method-assign, assignment]


def _watch(layer: nn.Linear) -> Any:
    """A function that is true for inputs that may go through the packed weights."""
    tensors = [tensor for tensor in (layer.weight, layer.bias) if tensor is not None]
    known = [(tensor.data_ptr(), tensor._version) for tensor in tensors]

    def unchanged(x: Tensor) -> bool:
        if torch.is_grad_enabled() or x.dtype != torch.float32:
            return False
        now = [tensor for tensor in (layer.weight, layer.bias) if tensor is not None]
        return [(tensor.data_ptr(), tensor._version) for tensor in now] == known

    return unchanged


def _is_gelu_mlp(module: Any) -> bool:
    """True for linear_fc1, tanh-GELU, linear_fc2, as in the towers of Qwen3-VL and later."""
    parts = {name for name, _ in module.named_children()}
    if parts != {"linear_fc1", "linear_fc2", "act_fn"} or "PatchMerger" in type(module).__name__:
        return False
    x = torch.linspace(-6, 6, 101)
    return bool(torch.equal(module.act_fn(x), nn.functional.gelu(x, approximate="tanh")))


def _fuse(module: Any) -> None:
    if getattr(module, "fused", False):
        return
    own_forward = module.forward
    unchanged = _watch(module.linear_fc1)

    def forward(x: Tensor) -> Tensor:
        if not unchanged(x):
            result: Tensor = own_forward(x)
            return result
        second: Tensor = module.linear_fc2(module.linear_fc1.packed(x, "gelu", "tanh"))
        return second

    module.forward = forward
    module.fused = True


def unpack_linears(model: PreTrainedModel) -> None:
    """Take back what `pack_linears` did; needed where weights have been replaced, before packing them again."""
    for module in model.modules():
        for name in ("packed", "fused"):
            if name in vars(module):
                delattr(module, name)
                vars(module).pop("forward", None)
