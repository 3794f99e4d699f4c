"""The base under an adapter: what a model was before one was put on it, and how it becomes that again, bit for bit.

Nothing of what peft does is undone step by step. The whole state of every module is kept by reference, whatever an
adapter writes into gets storage of its own first, and the references are put back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from qwenvl.decoding.onednn_linear import unpack_linears
from qwenvl.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLE = 65_536  # numbers of a tensor that are looked at after each restoration


def base_digest(model: PreTrainedModel, *, sample: int | None = None) -> str:
    """SHA-256 over names, types, shapes and bits of a model's parameters and buffers, and over what is tied.

    Parameters
    ----------
    model : torch module
    sample : int, optional
        Look at about so many evenly spaced numbers of each tensor only; None looks at every bit.
    """
    digest = hashlib.sha256()
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        owner = first.setdefault(id(tensor), name)
        digest.update(f"{name}={owner}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if owner != name:
            continue
        numbers = tensor.detach().reshape(-1)
        if sample is not None:
            numbers = numbers[:: max(1, len(numbers) // sample)]
        bits = numbers.contiguous().view(_INTEGERS[tensor.element_size()]).cpu()
        digest.update(bits.numpy().tobytes())
    return digest.hexdigest()


class KeptBase:
    """The state of a model before an adapter.

    Parameters
    ----------
    model : transformers model
        Without an adapter. What `pack_linears` did to it is taken back.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        unpack_linears(model)
        self._model = model
        self._modules = [(module, type(module), _state(module)) for module in model.modules()]
        tensors = [*model.parameters(), *model.buffers()]
        self._tensors = [(tensor, tensor.detach(), tensor.requires_grad) for tensor in tensors]
        self._configs = [(config, dict(vars(config))) for config in _configs(model)]
        self._digest = base_digest(model, sample=_SAMPLE)
        self._guarded: set[int] = set()

    @torch.no_grad()
    def guard(self, owners: Iterable[nn.Module]) -> None:
        """Give the parameters of some modules storage of their own, which may be written into.

        A parameter that is tied to another module's is untied: the adapter belongs to one of them.
        """
        places: dict[int, int] = {}
        for module in self._model.modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    places[id(parameter)] = places.get(id(parameter), 0) + 1
        for module in owners:
            for name, parameter in list(module._parameters.items()):
                if parameter is None or id(parameter) in self._guarded:
                    continue
                if places.get(id(parameter), 1) > 1:
                    places[id(parameter)] -= 1
                    parameter = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                    module._parameters[name] = parameter
                else:
                    parameter.data = parameter.detach().clone()
                self._guarded.add(id(parameter))

    @torch.no_grad()
    def restore(self) -> None:
        """Make the model what it was.

        Raises
        ------
        CheckpointError
            Its weights are not what they were; the model must be loaded again.
        """
        unpack_linears(self._model)
        for module, kind, state in self._modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(_copied(state))
        for tensor, data, gradient in self._tensors:
            tensor.data = data
            if tensor.is_leaf:
                tensor.requires_grad_(gradient)
        for config, content in self._configs:
            vars(config).clear()
            vars(config).update(content)
        if base_digest(self._model, sample=_SAMPLE) != self._digest:
            raise CheckpointError("an adapter changed weights of the base that it does not name; load the model again")


def _state(module: nn.Module) -> dict[str, object]:
    return _copied(vars(module))


def _copied(state: Mapping[str, object]) -> dict[str, object]:
    """A state whose dictionaries (parameters, buffers, modules, hooks) are copies; what they contain is not."""
    return {key: value.copy() if isinstance(value, dict | set) else value for key, value in state.items()}


def _configs(model: PreTrainedModel) -> list[object]:
    found = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    generation = getattr(model, "generation_config", None)
    return [*found.values(), *([] if generation is None else [generation])]


__all__ = ["KeptBase", "base_digest"]
