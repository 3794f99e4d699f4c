"""Tiles of a slide as items: quality control before the model, and splits where a tile is too full or too large."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import overload

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine
from qwenvl.errors import EngineError
from qwenvl.request import Request
from qwenvl.subject import Picture
from workflows.inputs.watched import check_unchanged
from workflows.run.items import Asked, Item, Progress, run_items
from workflows.run.quality import Inspector, excluded
from workflows.run.splitting import DETAIL_ZOOM, MEMORY_SPLITS, Split, Why, children_of, parent_of, why_split, zoom_of
from workflows.store.rows import tile_of
from workflows.store.run_store import RunStore
from wsi.loader import read_tile
from wsi.slide import Slide
from wsi.tile import Tile
from wsi.tissue import TissueMask

_LEAST_SIDE = 32
"""Smallest image, in px, that a tile is split into for lack of memory."""


class TileItems(Sequence[Item]):
    """The tiles of a slide as items, each made when it is looked at.

    Parameters
    ----------
    slide : Slide
    rows : structured array (n,) of TILE_DTYPE
    load : callable, optional
        Reads a tile; by default `wsi.loader.read_tile`.
    """

    def __init__(
        self, slide: Slide, rows: NDArray[np.void], load: Callable[[Slide, Tile], Picture | Answer] | None = None
    ) -> None:
        self._slide, self._rows, self._load = slide, rows, load or read_tile

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> TileItems: ...
    def __getitem__(self, index: int | slice) -> Item | TileItems:
        if isinstance(index, slice):
            return TileItems(self._slide, self._rows[index], self._load)
        tile = tile_of(self._rows[index])
        return Item(tile.index, partial(self._load, self._slide, tile), tile=tile)


def run_tiles(
    store: RunStore,
    slide: Slide,
    engine: Engine,
    mask: TissueMask,
    *,
    inspector: Inspector | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    retry_failed: bool = True,
    limit: int | None = None,
    workers: int = 2,
) -> Asked:
    """Ask the request of a run about every tile of it that is open, and about what those are split into.

    Parameters
    ----------
    store : RunStore
        Open for writing.
    mask : TissueMask
        Parts of a split tile that own none of it are left out.
    inspector : Inspector, optional
        Looks at every tile before the model does.
    progress, cancel, retry_failed, limit, workers
        As of `run_items`.

    Raises
    ------
    EngineError
        The model is unusable, or a tile does not fit into memory however small. What was answered is stored.
    SlideChangedError
        The slide was rewritten while it was read. Nothing of that batch is stored.
    """
    job = _TileJob(store, slide, mask, inspector)
    rows = store.tiles()
    rows = rows[~np.isin(rows["tile"], list(store.skipped()))]
    return run_items(
        TileItems(slide, rows, job.load),
        [store.manifest.request],
        engine,
        store,
        split=job.split,
        on_batch=progress,
        refine=job.noted,
        no_room=_no_room,
        guard=lambda: check_unchanged(slide.watch, store),
        cancel=cancel,
        retry_failed=retry_failed,
        limit=limit,
        workers=workers,
    )


class _TileJob:
    """What happens to the tiles of one run besides being asked about."""

    def __init__(self, store: RunStore, slide: Slide, mask: TissueMask, inspector: Inspector | None) -> None:
        self._slide, self._mask, self._inspector = slide, mask, inspector
        self._request: Request = store.manifest.request
        self._roots, self._table = store.manifest.roots, store.tiles()
        self._children: dict[int, np.void] = {}
        self._why = {tile: why for tile, why, _, _ in store.splits()}
        self._flags: dict[int, tuple[str, ...]] = {}

    def load(self, slide: Slide, tile: Tile) -> Picture | Answer:
        """The image of a tile; the answer of one that quality control leaves out."""
        image = read_tile(slide, tile)
        flags = () if self._inspector is None else self._inspector.inspect(tile, image)
        if flags and self._inspector is not None and self._inspector.skips:
            return excluded(flags)
        if flags:
            self._flags[tile.index] = flags
        return image

    def noted(self, item: Item, answer: Answer) -> Answer:
        """An answer with the notes of quality control."""
        flags = self._flags.pop(item.key, ())
        return replace(answer, notes=(*answer.notes, *flags)) if flags else answer

    def split(self, item: Item, answer: Answer) -> Split | None:
        """The split that an answer calls for, unless its tile was split often enough."""
        why = why_split(answer, self._request)
        if why is None:
            return None
        row, earlier = self._row(item.key), self._earlier(item.key)
        memory = earlier.count(Why.MEMORY)
        if why is Why.MEMORY:
            if memory >= MEMORY_SPLITS or min(row["width"], row["height"]) < 2 * _LEAST_SIDE:
                return None
        elif len(earlier) - memory >= self._request.split:
            return None
        zoom = DETAIL_ZOOM if why is Why.MEMORY else zoom_of(row)
        if zoom is None:
            return None
        children = children_of(
            row,
            roots=self._roots,
            overlap=self._request.overlap,
            zoom=zoom,
            same_scale=why is Why.MEMORY,
            mask=self._mask,
        )
        self._why[item.key] = why
        self._children |= {int(child["tile"]): child for child in children}
        return Split(item.key, why, len(earlier) + 1, children, TileItems(self._slide, children, self.load))

    def _row(self, tile: int) -> np.void:
        found = self._children.get(tile)
        return self._table[np.searchsorted(self._table["tile"], tile)] if found is None else found

    def _earlier(self, tile: int) -> list[Why]:
        """Why the tiles that a tile came from were split, the nearest first."""
        earlier: list[Why] = []
        above = parent_of(tile, self._roots)
        while above is not None and above in self._why:
            earlier.append(self._why[above])
            above = parent_of(above, self._roots)
        return earlier


def _no_room(item: Item, answer: Answer) -> EngineError:
    assert item.tile is not None
    return EngineError(
        f"{answer.error} The tile was made smaller until {item.tile.width}x{item.tile.height} px and still does "
        "not fit. Finished tiles are kept. Free memory and repeat the command, or take a smaller model "
        "or --tile-size in another folder."
    )
