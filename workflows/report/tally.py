"""What the answers of a run say, tile by tile, gathered in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Status
from qwenvl.request import Task
from workflows.report.images.heatmap import tile_channels, tile_values
from workflows.report.report import StatusCounts
from workflows.report.results import FailedTile, TileText, TileValue
from workflows.store.rows import StoredAnswer
from workflows.store.run_store import RunStore
from workflows.tile_table import cores_of, rects_of

LISTED = 200
"""Most tiles that a report lists one by one."""
_PENDING, _SKIPPED = -1, -2
_STATUSES = tuple(Status)


@dataclass(eq=False)
class TileTally:
    """What the answers say, tile by tile: arrays in the order of the tile table."""

    table: NDArray[np.void]
    status: NDArray[np.int8]
    """Index into `_STATUSES`, -1 while not asked, -2 where it is not going to be."""
    values: NDArray[np.float64]
    """One column per channel of the task, NaN where unknown."""
    chosen: NDArray[np.int32]
    """Index of the class that was chosen, -1 for none."""
    voted: bool = False
    words: list[TileText] = field(default_factory=list)
    said: list[TileValue] = field(default_factory=list)
    failed: list[FailedTile] = field(default_factory=list)
    texts: int = 0
    flags: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Notes of every answered tile that did not fail, by its row: what quality control said is among them."""
    full: int = 0
    """Tiles that list as many objects as they may."""

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Tiles whose answer covers the whole tile."""
        codes = [i for i, status in enumerate(_STATUSES) if status.complete]
        return np.isin(self.status, codes)

    @property
    def cores(self) -> NDArray[np.int64]:
        """What each tile owns, int64 (n, 4) in level-0 px."""
        return cores_of(self.table)

    @property
    def rects(self) -> NDArray[np.int64]:
        """The tiles, int64 (n, 4) in level-0 px."""
        return rects_of(self.table)

    def tissue(self, where: NDArray[np.bool_]) -> float:
        """Tissue that the tiles own, in level-0 px."""
        return float(self.table["core_tissue"][where].sum())

    def counts(self) -> StatusCounts:
        """Tiles by status."""
        found = {status.value: int((self.status == i).sum()) for i, status in enumerate(_STATUSES)}
        pending, skipped = (int((self.status == code).sum()) for code in (_PENDING, _SKIPPED))
        return StatusCounts(**found, pending=pending, skipped=skipped)

    @property
    def skipped(self) -> NDArray[np.bool_]:
        """Tiles left out because of coarse tiles."""
        return np.asarray(self.status == _SKIPPED)


def read_tiles(store: RunStore) -> TileTally:
    """Gather the last answer of every tile."""
    request, table = store.manifest.request, store.tiles()
    channels = tile_channels(request)
    tiles = TileTally(
        table,
        np.full(len(table), _PENDING, np.int8),
        np.full((len(table), len(channels)), np.nan),
        np.full(len(table), -1, np.int32),
    )
    tiles.status[np.isin(table["tile"], list(store.skipped()))] = _SKIPPED
    for found in store.iter_answers():
        answer = found.answer
        at = int(np.searchsorted(table["tile"], found.tile))
        tiles.status[at] = _STATUSES.index(answer.status)
        if answer.status is not Status.FAILED and store.manifest.quality.mode != "off":
            tiles.flags[at] = answer.notes
        tiles.full += found.objects >= request.max_objects
        if channels:
            tiles.values[at] = tile_values(found, request)
        if request.task is Task.CLASSIFY and answer.status.complete and answer.text in channels:
            tiles.chosen[at] = channels.index(answer.text)
            tiles.voted |= not answer.scores
        _list_words(tiles, at, found, request.task)
    return tiles


def _list_words(tiles: TileTally, at: int, found: StoredAnswer, task: Task) -> None:
    answer = found.answer
    rect = {name: int(tiles.table[name][at]) for name in ("tile", "x0", "y0", "width0", "height0")}
    if answer.status is Status.FAILED:
        if len(tiles.failed) < LISTED:
            tiles.failed.append(FailedTile(**rect, reason=answer.error or "no reason given"))
    elif task in (Task.DESCRIBE, Task.ASK) and answer.text is not None:
        tiles.texts += 1
        if len(tiles.words) < LISTED:
            tiles.words.append(TileText(**rect, status=answer.status.value, text=answer.text))
    elif task is Task.EXTRACT and answer.value is not None:
        tiles.texts += 1
        if len(tiles.said) < LISTED:
            tiles.said.append(TileValue(**rect, status=answer.status.value, value=answer.value))
