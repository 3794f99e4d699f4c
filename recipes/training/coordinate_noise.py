"""Noise on coordinates: what a model wrote before is never quite the truth, so it learns to go on after near misses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune.examples.examples import ExamplePlan
from finetune.methods.loss import NumberTokenWeights

_SHARE = 0.6
"""Of the examples; the others stand as they are."""
_LEAST = 1 / 6
"""Smallest standard deviation, as a share of the largest."""


class CoordinateNoise:
    """Moves the coordinates of an answer that later tokens look back at. What is taught stays true.

    Parameters
    ----------
    numbers : NumberTokenWeights
        Of a vocabulary that has whole numbers as tokens.
    most : float
        Largest standard deviation, in the model's units (0 to 1000).
    """

    def __init__(self, numbers: NumberTokenWeights, most: float) -> None:
        self._most = most
        self._groups = [group.numpy() for group in numbers.groups]
        size = max(int(group.max()) for group in self._groups) + 1
        self._group, self._value = np.full(size, -1), np.zeros(size, np.int64)
        for number, group in enumerate(self._groups):
            self._group[group], self._value[group] = number, np.arange(len(group))

    def __call__(self, plan: ExamplePlan, seed: int) -> ExamplePlan:
        """The example as the model sees it; the same for the same seed."""
        rng = np.random.default_rng([seed, 11])
        if not plan.turn.places or rng.random() >= _SHARE:
            return plan
        ids = np.array(plan.tokens.ids)
        known = np.array(plan.tokens.taught) & (ids < len(self._group))
        known[known] = self._group[ids[known]] >= 0
        groups, values = self._group[ids[known]], self._value[ids[known]]
        noise = rng.normal(0, rng.uniform(_LEAST * self._most, self._most), len(values))
        moved = np.rint(values + noise).astype(np.int64)
        seen = ids.copy()
        seen[known] = [
            self._groups[group][min(max(value, 0), len(self._groups[group]) - 1)]
            for group, value in zip(groups.tolist(), moved.tolist(), strict=True)
        ]
        return replace(plan, tokens=replace(plan.tokens, seen=tuple(seen.tolist())))
