"""What a run is going to take, before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwenvl.checkpoints.checkpoint_metadata import MemoryEstimate
from qwenvl.engines.base import Engine
from qwenvl.request import Request, Task
from workflows._words import plural


@dataclass(frozen=True, slots=True)
class ScaleTiles:
    """Tiles of about one scale.

    Attributes
    ----------
    mpp : float or None
        Mean over the tiles in um/px; None where the slide's scale is unknown.
    tiles : int
    tissue0 : float
        Tissue they own in level-0 px.
    """

    mpp: float | None
    tiles: int
    tissue0: float


def tiles_by_scale(table: NDArray[np.void], mpp: float | None) -> list[ScaleTiles]:
    """Tiles put together by scale in steps of two, finest first.

    Parameters
    ----------
    table : structured array (n,) of TILE_DTYPE
    mpp : float or None
        Micrometres per level-0 px.
    """
    if not len(table):
        return []
    area0, area = (table[f"width{which}"] * table[f"height{which}"] for which in ("0", ""))
    scale = np.sqrt(area0 / area)  # level-0 px per px of the picture
    group = np.rint(np.log2(scale / scale.max())).astype(np.int64)
    tissue = table["core_tissue"]
    found = []
    for each in sorted(set(group.tolist())):
        chosen = group == each
        owned = float(tissue[chosen].sum())
        mean = float(np.average(scale[chosen], weights=tissue[chosen] if owned else None))
        found.append(ScaleTiles(None if mpp is None else round(mean * mpp, 6), int(chosen.sum()), owned))
    return found


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run is going to take.

    Attributes
    ----------
    tiles : int
        Tiles to be asked if none is left out or split.
    scales : tuple of ScaleTiles
        The same by scale, finest first.
    batch : int
        Tiles of a batch.
    tokens_per_tile : int or None
        Prompt tokens of a tile, its picture included; None where the engine cannot tell.
    new_tokens : int
        Most tokens written about a tile: 0 where words are only weighed.
    memory : MemoryEstimate or None
        Of a batch; None where the model runs elsewhere.
    where : RunEstimate or None
        The coarse tiles that are asked first.
    """

    tiles: int
    scales: tuple[ScaleTiles, ...]
    batch: int
    tokens_per_tile: int | None
    new_tokens: int
    memory: MemoryEstimate | None
    where: RunEstimate | None = None

    @classmethod
    def of(cls, table: NDArray[np.void], mpp: float | None, request: Request, engine: Engine) -> RunEstimate:
        """The estimate for tiles of a slide of `mpp` um per level-0 px."""
        weighs = request.task in (Task.SCORE, Task.CLASSIFY)
        return cls(
            tiles=len(table),
            scales=tuple(tiles_by_scale(table, mpp)),
            batch=max(1, engine.batch_size(request)),
            tokens_per_tile=engine.prompt_tokens(request),
            new_tokens=0 if weighs else request.generation.max_new_tokens,
            memory=engine.memory(request),
        )

    @property
    def prompt_tokens(self) -> int | None:
        """Prompt tokens of all tiles."""
        return None if self.tokens_per_tile is None else self.tiles * self.tokens_per_tile

    def lines(self) -> Iterator[str]:
        """The estimate in words, a line per fact."""
        if self.where is not None:
            yield from (f"coarse {line}" for line in self.where.lines())
        by_scale = ", ".join(
            f"{each.tiles:,}" + ("" if each.mpp is None else f" at {each.mpp:.3g} um/px") for each in self.scales
        )
        most = " at most" if self.where is not None else ""
        yield f"tiles: {by_scale or '0'}{most}, {self.batch} to a batch"
        written = f"up to {self.new_tokens:,} written" if self.new_tokens else "none written"
        if self.tokens_per_tile is None:
            yield f"tokens: {written} per tile; those of pictures and question are not known for this model"
        else:
            yield (
                f"tokens: {self.tokens_per_tile:,} per tile for picture and question, {written}; "
                f"{self.prompt_tokens:,} for {plural(self.tiles, 'tile')}"
            )
        if self.memory is not None:
            kv = self.memory.kv_per_tile * self.memory.batch
            yield (
                f"memory: about {_gib(self.memory.total)} (weights {_gib(self.memory.weights)}, keys and values "
                f"{_gib(kv)}, working memory {_gib(self.memory.activations)})"
            )


def _gib(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number < 10 * 2**30 else f"{number / 2**30:.0f} GiB"
