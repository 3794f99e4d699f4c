"""Checksums of a journal: bits that change on disk are noticed, in what was asked, the tiles and every answer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from qwenvl.answer import Status
from workflows.store.rows import OBJECT, TILE_DTYPE

SUMMED = {
    "tiles": f"SELECT {', '.join(TILE_DTYPE.names or ())} FROM main.tiles",
    "splits": "SELECT tile, why, depth, children FROM main.splits",
    "gate": "SELECT json FROM main.gate",
    "skipped": "SELECT tile, score FROM main.skipped",
}
"""Tables of a slide's run with one checksum for all of their rows, the items first, and what it covers."""
SUM_MODULUS = 1 << 62
Rows = Callable[..., Iterator[tuple[Any, ...]]]
"""Runs a query, with values for its places, and gives its rows."""

CHECKED = (
    "tile, status, finish_reason, text, value, scores, raw, reasoning, notes, prompt_tokens, new_tokens, "
    "seconds, objects, error"
)
"""Columns of an answer that its checksum covers, with those of its objects: all but its number and attempt."""
_PACK, _NAN = struct.Struct("<qq5d").pack, float("nan")


def what_changed(rows: Rows, summed: Mapping[str, str] = SUMMED) -> str:
    """What in a journal is not what was stored, in words; empty where nothing is.

    Answers from before there were checksums are taken as they are.

    Parameters
    ----------
    rows : Rows
    summed : mapping
        Tables with one checksum, that of the items first, and the query of the rows that it covers.
    """
    unit = next(iter(summed))
    for name, query in summed.items():
        code = stored_checksum(rows, name)
        if code is not None and sum_checksum(rows(query)) != code:
            return f"its {name} are not what was stored"
    if "checksum" not in {row[1] for row in rows("PRAGMA table_info(answers)")}:
        return ""
    objects = rows(f"SELECT {OBJECT} FROM objects ORDER BY tile, item")
    of_tile = {tile: list(found) for tile, found in groupby(objects, key=itemgetter(0))}
    damaged = set()
    for *answer, code in rows(f"SELECT {CHECKED}, checksum FROM answers"):
        found = of_tile.get(answer[0], []) if answer[1] != Status.FAILED.value else []
        if code is not None and checksum(answer, found) != code:
            damaged.add(int(answer[0]))
    if not damaged:
        return ""
    shown = ", ".join(map(str, sorted(damaged)[:5])) + (" ..." if len(damaged) > 5 else "")
    return f"the answers of {len(damaged)} {unit} ({shown}) are not what was stored"


def sum_checksum(rows: Iterable[Sequence[object]]) -> int:
    """Sum of the checksums of rows, below 2^62, whatever their order: rows that are added later add theirs."""
    return sum(rows_checksum([row]) for row in rows) % SUM_MODULUS


def stored_checksum(rows: Rows, name: str) -> int | None:
    """A checksum of the journal; None in journals from before there were any."""
    if not any(rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'checks'")):
        return None
    return next((row[0] for row in rows("SELECT checksum FROM checks WHERE name = ?", (name,))), None)


def checksum(answer: Sequence[object], objects: Sequence[Sequence[object]]) -> int:
    """CRC-32 of an answer and its objects, over the values as SQLite gives them back.

    Parameters
    ----------
    answer : sequence
        Values of the columns `CHECKED`.
    objects : sequence of sequences
        Rows of table `objects`, ordered by item.
    """
    code = rows_checksum([answer])
    try:
        return zlib.crc32(b"".join(map(_object_bytes, objects)), code)
    except (struct.error, TypeError):  # a damaged row holds values of another type
        return -1


def _object_bytes(row: Sequence[Any]) -> bytes:
    """One row of table `objects`; made for a million of them."""
    tile, item, label, kind, x_min, y_min, x_max, y_max, score, attributes = row
    numbers = _PACK(tile, item, x_min + 0.0, y_min + 0.0, x_max + 0.0, y_max + 0.0, _NAN if score is None else score)
    return numbers + f"{label}\0{kind}\0{attributes}".encode("utf-8", "surrogatepass")


def rows_checksum(rows: Iterable[Sequence[object]]) -> int:
    """CRC-32 of rows in their order, over the values as SQLite gives them back."""
    code = 0
    for row in rows:
        code = zlib.crc32(repr(tuple(map(_as_stored, row))).encode("utf-8", "surrogatepass"), code)
    return code


def _as_stored(value: object) -> object:
    """A value as SQLite gives it back: NaN becomes NULL, and -0.0 becomes 0.0."""
    if isinstance(value, float):
        return None if value != value else value + 0.0
    return value
