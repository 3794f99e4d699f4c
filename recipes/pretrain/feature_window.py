"""Tokens of the frozen tower, kept for a while: the language model sees every tile several times, the tower once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from recipes.pretrain.tiles import LabelledTile

Encoded = tuple[Tensor, list[Tensor]]


class FeatureWindow:
    """The last tiles and their tokens.

    Parameters
    ----------
    size : int
        How many tiles are kept.
    """

    def __init__(self, size: int) -> None:
        self._kept: deque[tuple[LabelledTile, Tensor, list[Tensor]]] = deque(maxlen=size)

    def add(self, tiles: list[LabelledTile], encoded: Encoded) -> None:
        """Put new tiles in; the oldest fall out."""
        merged, deepstack = encoded
        for row, tile in enumerate(tiles):
            taps = [tap[row].to(torch.bfloat16, copy=True) for tap in deepstack]
            self._kept.append((tile, merged[row].to(torch.bfloat16, copy=True), taps))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[list[LabelledTile], Encoded]:
        """`count` different tiles (or all there are) with their tokens, in float32."""
        rows = rng.permutation(len(self._kept))[:count]
        chosen = [self._kept[int(row)] for row in rows]
        merged = torch.stack([one[1] for one in chosen]).float()
        deepstack = [torch.stack([one[2][k] for one in chosen]).float() for k in range(len(chosen[0][2]))]
        return [one[0] for one in chosen], (merged, deepstack)


def recycled(
    batches: Iterator[list[LabelledTile]],
    encode: Callable[[list[LabelledTile]], Encoded],
    window: FeatureWindow,
    fill: int,
    count: int,
    seeds: Iterator[np.random.Generator],
) -> Iterator[tuple[list[LabelledTile], Encoded]]:
    """One draw of `count` tiles per step; each step adds one fresh batch to a window that starts with `fill` batches.

    What step n draws depends on the batches and seeds alone, so a run that goes on from step n by filling the
    window again draws the same.
    """
    for _ in range(fill):
        tiles = next(batches)
        window.add(tiles, encode(tiles))
    for tiles, rng in zip(batches, seeds, strict=False):
        window.add(tiles, encode(tiles))
        yield window.draw(rng, count)
