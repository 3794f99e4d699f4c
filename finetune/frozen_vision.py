"""The frozen vision tower: run without gradients, and not at all for tiles it has seen."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Features = tuple[Tensor, tuple[Tensor, ...]]


class FrozenVision:
    """Stands before a model's `get_image_features`.

    A tower under gradients would keep its graph although nothing in it learns; transformers runs it so. Tokens of
    pictures whose key is known are kept, up to a limit, in the model's own number type.

    Parameters
    ----------
    model : transformers model
        Of any family in transformers, before it is wrapped by peft.
    keep : int
        Bytes of tokens that are kept; 0 keeps none.
    """

    def __init__(self, model: Any, keep: int = 2**29) -> None:
        self._core = model.model
        self._own = self._core.get_image_features
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._bytes, self._most = 0, keep
        self._form: Any = None
        self.keys: Sequence[str | None] | None = None
        """Keys of the pictures of the coming call; None or unknown ones are computed."""
        self.computed, self.recalled = 0, 0
        self._core.get_image_features = self._features

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

    @torch.no_grad()
    def _features(self, pixel_values: Tensor, image_grid_thw: Tensor, **options: Any) -> Any:
        keys = list(self.keys) if self.keys is not None else [None] * len(image_grid_thw)
        self.keys = None
        if len(keys) != len(image_grid_thw):
            keys = [None] * len(image_grid_thw)
        missing = [i for i, key in enumerate(keys) if key is None or key not in self._kept]
        self.computed += len(missing)
        self.recalled += len(keys) - len(missing)
        fresh: dict[int, Features] = {}
        if missing or self._form is None:
            missing = missing or list(range(len(keys)))
            parts = pixel_values.split(image_grid_thw.prod(dim=1).tolist())
            chosen = torch.cat([parts[i] for i in missing]) if len(missing) < len(keys) else pixel_values
            output = self._own(chosen, image_grid_thw[missing], **options)
            self._form = output
            taps = getattr(output, "deepstack_features", None) or []
            for row, i in enumerate(missing):
                fresh[i] = output.pooler_output[row], tuple(tap[row] for tap in taps)
                if keys[i] is not None:
                    self._keep(str(keys[i]), fresh[i])
        rows = [fresh[i] if i in fresh else self._kept[str(key)] for i, key in enumerate(keys)]
        result = copy.copy(self._form)
        result.pooler_output = tuple(row[0] for row in rows)
        if getattr(result, "deepstack_features", None) is not None:
            result.deepstack_features = [tuple(row[1][k] for row in rows) for k in range(len(rows[0][1]))]
        return result

    def _keep(self, key: str, features: Features) -> None:
        size = sum(t.numel() * t.element_size() for t in (features[0], *features[1]))
        if size > self._most:
            return
        # Slices would hold the whole batch's memory.
        self._kept[key] = features[0].clone(), tuple(tap.clone() for tap in features[1])
        self._bytes += size
        while self._bytes > self._most:
            _, old = self._kept.popitem(last=False)
            self._bytes -= sum(t.numel() * t.element_size() for t in (old[0], *old[1]))
