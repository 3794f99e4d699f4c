"""The frozen vision tower: run without gradients, and not at all for tiles it has seen."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Features = tuple[Tensor, tuple[Tensor, ...]]
"""Of one picture: what goes to the language model, and what goes to its first layers (DeepStack)."""


class FrozenVision:
    """Stands before a model's `get_image_features`.

    A tower under gradients would keep its graph although nothing in it learns; transformers runs it so. Tokens of
    pictures whose key is known are kept, up to a limit, in the model's own number type.

    Where the layers behind the tower (merger) learn, what they are given is kept in place of what they make of it.

    Parameters
    ----------
    model : transformers model
        Of any family in transformers, before it is wrapped by peft.
    keep : int
        Bytes of tokens that are kept; 0 keeps none.
    merger : bool
        Whether the merger learns; needs a model that `keeps_order` says true of.
    """

    def __init__(self, model: PreTrainedModel, keep: int = 2**29, *, merger: bool = False) -> None:
        self._core = model.model
        self._own = self._core.get_image_features
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._bytes, self._most = 0, keep
        self._form: Any = None
        self._merger = merger
        self._dtype = model.dtype
        self.keys: Sequence[str | None] | None = None
        """Keys of the pictures of the coming call; None or unknown ones are computed."""
        self.computed, self.recalled = 0, 0
        self._core.get_image_features = self._features

    @staticmethod
    def keeps_order(model: PreTrainedModel) -> bool:
        """Whether a tower hands patches to its merger in the order they came in, as all but windowed ones do."""
        visual = model.model.visual
        return hasattr(visual, "merger") and not hasattr(visual, "permute_input_for_window_attn")

    def release(self) -> None:
        """Give the model its own method back, and forget the tokens."""
        self.pause()
        self._kept.clear()

    def pause(self) -> None:
        """Give the model its own method back for a while, so that it can be copied."""
        vars(self._core).pop("get_image_features", None)

    def go_on(self) -> None:
        """Stand before the model again."""
        self._core.get_image_features = self._features

    def _features(self, pixel_values: Tensor, image_grid_thw: Tensor, **options: Any) -> object:
        keys: list[str | None] = [None] * len(image_grid_thw) if self.keys is None else list(self.keys)
        self.keys = None
        if len(keys) != len(image_grid_thw):
            keys = [None] * len(image_grid_thw)
        rows = self._rows(pixel_values, image_grid_thw, keys, options)
        if self._merger:
            rows = self._merged(rows)
        result = copy.copy(self._form)
        result.pooler_output = tuple(row[0] for row in rows)
        if getattr(result, "deepstack_features", None) is not None:
            result.deepstack_features = [tuple(row[1][k] for row in rows) for k in range(len(rows[0][1]))]
        return result

    @torch.no_grad()
    def _rows(
        self, pixel_values: Tensor, grid: Tensor, keys: list[str | None], options: Mapping[str, object]
    ) -> list[Features]:
        """What is kept of every picture, computed where it is not there."""
        missing = [i for i, key in enumerate(keys) if key is None or key not in self._kept]
        self.computed += len(missing)
        self.recalled += len(keys) - len(missing)
        # Taken before anything new is kept, which may push them out.
        known = {i: self._kept[str(key)] for i, key in enumerate(keys) if i not in set(missing)}
        fresh: dict[int, Features] = {}
        if missing or self._form is None:
            missing = missing or list(range(len(keys)))
            sizes = grid.prod(dim=1).tolist()
            parts = pixel_values.split(sizes)
            # On a CPU one by one: rounding depends on what is multiplied together, and a run that goes on after an
            # interruption meets its pictures in other company.
            alone = pixel_values.device.type == "cpu"
            for group in [[i] for i in missing] if alone else [missing]:
                chosen = torch.cat([parts[i] for i in group]) if len(group) < len(keys) else pixel_values
                found = self._computed(chosen, grid[group], [sizes[i] for i in group], options)
                fresh |= dict(zip(group, found, strict=True))
            for i, features in fresh.items():
                if keys[i] is not None:
                    self._keep(str(keys[i]), features)
        return [fresh[i] if i in fresh else known[i] for i in range(len(keys))]

    def _computed(
        self, pixel_values: Tensor, grid: Tensor, sizes: list[int], options: Mapping[str, object]
    ) -> list[Features]:
        with _inputs_of(self._mergers() if self._merger else []) as inputs:
            output = self._own(pixel_values, grid, **options)
        self._form = output
        if self._merger:
            whole, *taps = (given.split(sizes) for given in inputs())
        else:
            whole = output.pooler_output
            taps = getattr(output, "deepstack_features", None) or []
        return [(whole[row], tuple(tap[row] for tap in taps)) for row in range(len(sizes))]

    def _mergers(self) -> list[Any]:
        visual = self._core.visual
        return [visual.merger, *getattr(visual, "deepstack_merger_list", [])]

    def _merged(self, rows: list[Features]) -> list[Features]:
        """Through the merger as it is now, with gradients."""
        columns = [
            module(torch.cat([(row[0], *row[1])[k] for row in rows]).to(self._dtype))
            for k, module in enumerate(self._mergers())
        ]
        unit = sum(len(row[0]) for row in rows) // len(columns[0])
        sizes = [len(row[0]) // unit for row in rows]
        parts = [column.split(sizes) for column in columns]
        return [(parts[0][i], tuple(part[i] for part in parts[1:])) for i in range(len(rows))]

    def _keep(self, key: str, features: Features) -> None:
        size = sum(t.numel() * t.element_size() for t in (features[0], *features[1]))
        if size > self._most:
            return
        # Slices would hold the whole batch's memory.
        if key in self._kept:  # twice in one batch
            return
        self._kept[key] = features[0].clone(), tuple(tap.clone() for tap in features[1])
        self._bytes += size
        while self._bytes > self._most:
            _, old = self._kept.popitem(last=False)
            self._bytes -= sum(t.numel() * t.element_size() for t in (old[0], *old[1]))


@contextmanager
def _inputs_of(modules: Sequence[Any]) -> Iterator[Callable[[], list[Tensor]]]:
    """What modules are given meanwhile, in their order."""
    given: dict[int, Tensor] = {}

    def note(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            given[number] = arguments[0]

        return hook

    hooks = [module.register_forward_pre_hook(note(number)) for number, module in enumerate(modules)]
    try:
        yield lambda: [given[number] for number in range(len(modules))]
    finally:
        for hook in hooks:
            hook.remove()
