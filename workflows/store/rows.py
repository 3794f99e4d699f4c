"""Rows of the journal as values: answers, and objects as columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status, TileObject
from wsi.grid import TileGrid
from wsi.tile import Tile

TILE_DTYPE = np.dtype(
    [(name, np.int64) for name in ("tile", "x0", "y0", "width0", "height0", "width", "height")]
    + [(name, np.int64) for name in ("core_x0", "core_y0", "core_x1", "core_y1")]
    + [("tissue", np.float64), ("core_tissue", np.float64)]
)
"""One row per tile: index, rectangle in level-0 px, picture size in px, the part it owns (end excluded,
disjoint between tiles), share of the tile that is tissue, and tissue in the part it owns (level-0 px)."""

ANSWER = (
    "seq, tile, attempt, status, finish_reason, text, value, scores, notes, "
    "prompt_tokens, new_tokens, seconds, objects, error"
)
INSERT_TILE = f"INSERT INTO tiles VALUES ({', '.join('?' * len(TILE_DTYPE.names or ()))})"
OBJECT = "tile, item, label, kind, x_min, y_min, x_max, y_max, score, attributes"
INSERT_OBJECT = f"INSERT INTO objects ({OBJECT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_ANSWER = (
    "INSERT INTO answers (tile, attempt, status, finish_reason, text, value, scores, raw, reasoning, notes, "
    "prompt_tokens, new_tokens, seconds, objects, error, checksum) VALUES "
    "(?1, 1 + (SELECT count(*) FROM answers WHERE tile = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
    "?10, ?11, ?12, ?13, ?14, ?15)"
)


def tile_table(grid: TileGrid) -> NDArray[np.void]:
    """The rows of a grid, structured array (n,) of `TILE_DTYPE`."""
    table = np.zeros(len(grid), TILE_DTYPE)
    table["tile"] = np.arange(len(grid))
    table["x0"], table["y0"] = grid.x0, grid.y0
    table["width0"], table["height0"] = grid.side0
    table["width"] = table["height"] = grid.tile_size
    cores = grid.cores
    for column, name in enumerate(("core_x0", "core_y0", "core_x1", "core_y1")):
        table[name] = cores[:, column]
    table["tissue"] = grid.coverage
    share = np.ones(len(grid)) if grid.mask is None else grid.mask.coverage(cores)
    table["core_tissue"] = share * np.prod(cores[:, 2:] - cores[:, :2], axis=1)
    return table


def tile_of(row: np.void) -> Tile:
    """A row of `TILE_DTYPE` as a Tile."""
    return Tile(*(int(row[name]) for name in ("tile", "x0", "y0", "width0", "height0", "width", "height")))


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it lies in the journal.

    `seq` grows with every answer stored; `objects` is how many objects it found, which are read apart
    (`RunStore.objects`), so that `answer.objects` is always empty here.
    """

    seq: int
    tile: int
    attempt: int
    objects: int
    answer: Answer


@dataclass(frozen=True, slots=True, eq=False)
class ObjectColumns:
    """Objects of consecutive tiles as columns, ordered by (tile, item). All arrays have n rows.

    Attributes
    ----------
    tile, item : int64 (n,)
        Tile index and position in its answer; together the key of an object.
    label : int32 (n,)
        Index into `RunStore.labels`.
    box : float64 (n, 4)
        x_min, y_min, x_max, y_max in level-0 px. Points have no extent: x_min == x_max.
    point : bool (n,)
    score : float64 (n,)
        NaN where there is none.
    """

    tile: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.int32]
    box: NDArray[np.float64]
    point: NDArray[np.bool_]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tile)


@dataclass(frozen=True, slots=True)
class Changes:
    """What was stored after a given `seq`: the newest `seq`, the answers, their objects, and what `label` indexes."""

    seq: int
    answers: tuple[StoredAnswer, ...]
    objects: ObjectColumns
    labels: tuple[str, ...] = ()


def concatenate(parts: Sequence[ObjectColumns]) -> ObjectColumns:
    """Objects of several ranges of tiles, one after the other."""
    empty = ObjectColumns(
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
        np.zeros((0, 4)),
        np.zeros(0, np.bool_),
        np.zeros(0),
    )
    if not parts:
        return empty
    names = ("tile", "item", "label", "box", "point", "score")
    return ObjectColumns(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def answer_row(tile: Tile, answer: Answer, objects: int) -> tuple[object, ...]:
    """What `INSERT_ANSWER` takes."""
    return (
        int(tile.index),
        answer.status.value,
        answer.finish_reason,
        answer.text,
        None if answer.value is None else _json(answer.value),
        _json_or_none(dict(answer.scores)),
        answer.raw,
        answer.reasoning,
        _json_or_none(list(answer.notes)),
        int(answer.prompt_tokens),
        int(answer.new_tokens),
        float(answer.seconds),
        objects,
        answer.error,
    )


def object_rows(tile: Tile, objects: Sequence[TileObject]) -> list[tuple[object, ...]]:
    """Rows of table `objects`: from px of the tile's picture to level-0 px, here and nowhere else."""
    rows: list[tuple[Any, ...]] = []
    for item, each in enumerate(objects):
        corners = each.box if each.box is not None else (*each.point, *each.point)  # type: ignore[misc]
        low, high = tile.to_level0(corners[0], corners[1]), tile.to_level0(corners[2], corners[3])
        score = None if each.score is None else float(each.score)
        kind = "point" if each.box is None else "box"
        attributes = _json_or_none(dict(each.attributes))
        rows.append((int(tile.index), item, each.label, kind, *low, *high, score, attributes))
    return rows


def object_columns(rows: Sequence[tuple[Any, ...]], labels: Sequence[str]) -> ObjectColumns:
    """Columns of rows (tile, item, label, kind, x_min, y_min, x_max, y_max, score)."""
    codes = {label: i for i, label in enumerate(labels)}
    n = len(rows)
    return ObjectColumns(
        tile=np.fromiter((r[0] for r in rows), np.int64, n),
        item=np.fromiter((r[1] for r in rows), np.int64, n),
        label=np.fromiter((codes[r[2]] for r in rows), np.int32, n),
        box=np.array([r[4:8] for r in rows], np.float64).reshape(n, 4),
        point=np.fromiter((r[3] == "point" for r in rows), np.bool_, n),
        score=np.fromiter((np.nan if r[8] is None else r[8] for r in rows), np.float64, n),
    )


def stored_answer(row: tuple[Any, ...]) -> StoredAnswer:
    """A row of `ANSWER` columns, then raw and reasoning."""
    seq, tile, attempt, status, finish, text, value, scores, notes, *rest = row
    prompt, new, seconds, objects, error, raw, reasoning = rest
    answer = Answer(
        status=Status(status),
        text=text,
        value=None if value is None else json.loads(value),
        scores={} if scores is None else json.loads(scores),
        raw=raw or "",
        reasoning=reasoning,
        notes=() if notes is None else tuple(json.loads(notes)),
        finish_reason=finish,
        prompt_tokens=prompt,
        new_tokens=new,
        seconds=seconds,
        error=error,
    )
    return StoredAnswer(seq, tile, attempt, objects, answer)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _json_or_none(value: object) -> str | None:
    return _json(value) if value else None
