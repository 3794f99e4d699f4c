"""Tables of a run, one row per object or one row per tile: CSV and Parquet."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workflows.export._columns import KINDS, REVIEWS, Batch, object_batch, scale_of, tile_batches
from workflows.export._file import new_path, new_text_file, require
from workflows.export.objects import RunObjects
from workflows.store.run_store import RunStore
from wsi.cleanup import cleaning_up

_CSV = (".csv", ".csv.gz")
_PARQUET = (".parquet",)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[-+]?[0-9.]+")


def export_objects_csv(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the merged objects of a run: box or point in level-0 px, and in um where the scale is known.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
    """
    with RunStore.open(run) as store:
        objects = RunObjects(store)
        head = _object_names(store)
        return _write_csv(Path(out), head, _object_batches(objects, harmless=True), overwrite=overwrite)


def export_tiles_csv(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the tiles of a run with their status and answer; tiles not asked yet have the status 'pending'.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
    """
    with RunStore.open(run) as store:
        return _write_csv(Path(out), None, tile_batches(store), overwrite=overwrite)


def export_objects_parquet(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the merged objects of a run as Parquet: the columns of the CSV, labels as a dictionary.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
        ExportError also where pyarrow is not installed.
    """
    with RunStore.open(run) as store:
        batches = _object_batches(RunObjects(store), harmless=False)
        return _write_parquet(Path(out), batches, store, _object_names(store), overwrite=overwrite)


def export_tiles_parquet(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the tiles of a run as Parquet: the columns of the CSV.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
        ExportError also where pyarrow is not installed.
    """
    with RunStore.open(run) as store:
        return _write_parquet(Path(out), tile_batches(store), store, None, overwrite=overwrite)


def _object_names(store: RunStore) -> list[str]:
    """Columns of objects; a run without objects has them too."""
    places = [f"{edge}_px" for edge in ("x_min", "y_min", "x_max", "y_max")] + ["area_px2"]
    if scale_of(store.manifest.slide) is not None:
        places += [name.replace("_px", "_um") for name in places]
    return ["id", "instance", "tile", "item", "label", "kind", *places, "score", "review", "attributes"]


def _object_batches(objects: RunObjects, *, harmless: bool) -> Iterator[Batch]:
    labels = [inert(label) for label in objects.labels] if harmless else list(objects.labels)
    for chunk in objects:
        batch = object_batch(objects, chunk)
        batch["label"] = [labels[code] for code in batch["label"].tolist()]
        batch["kind"] = [KINDS[code] for code in batch["kind"].tolist()]
        batch["review"] = [REVIEWS[code] for code in batch["review"].tolist()]
        yield batch


def _write_csv(path: Path, head: list[str] | None, batches: Iterator[Batch], *, overwrite: bool) -> int:
    number = 0
    with new_text_file(path, _CSV, overwrite=overwrite) as stream:
        table = csv.writer(stream, lineterminator="\n")
        if head is not None:
            table.writerow(head)
        for batch in batches:
            if head is None:
                head = list(batch)
                table.writerow([inert(name) for name in head])
            columns = [_cells(name, batch[name]) for name in head]
            table.writerows(zip(*columns, strict=True))
            number += len(columns[0])
    return number


def _cells(name: str, column: Any) -> list[object]:
    """A column as what is written into cells; an unknown number is an empty cell."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    digits = 2 if name.endswith(("_px", "_px2")) else 3 if name.endswith(("_um", "_um2")) else None
    if name == "tissue":
        digits = 4
    cells: list[Any] = []
    for value in values:
        if isinstance(value, float):
            cells.append("" if math.isnan(value) else value if digits is None else f"{value:.{digits}f}")
        else:
            cells.append(inert(value) if isinstance(value, str) and name not in _OWN_JSON else value)
    return cells


_OWN_JSON = ("id", "label", "attributes")
"""Columns that cannot start a formula: UUIDs, JSON objects, and labels, which are made inert before."""


def _write_parquet(
    path: Path, batches: Iterator[Batch], store: RunStore, head: list[str] | None, *, overwrite: bool
) -> int:
    require("pyarrow", "Parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    slide = store.manifest.slide
    facts = {
        "run": str(store.manifest.run_id),
        "slide": slide.name,
        "slide_fingerprint": slide.fingerprint,
        "mpp_x": slide.mpp_x,
        "mpp_y": slide.mpp_y,
        "model": store.manifest.model.model,
        "places": "level-0 px of the slide, origin at its top left corner, x right, y down",
    }
    number, writer = 0, None
    # Arrow opens no name that is no UTF-8; Python does.
    with (
        new_path(path, _PARQUET, overwrite=overwrite) as partial,
        partial.open("wb") as sink,
        cleaning_up(lambda: None if writer is None else writer.close()),
    ):
        for batch in batches:
            arrays = {name: _arrow(pa, name, column) for name, column in batch.items()}
            if writer is None:
                schema = pa.schema(
                    [(name, array.type) for name, array in arrays.items()], metadata={"qwenvl": json.dumps(facts)}
                )
                writer = pq.ParquetWriter(sink, schema, compression="zstd")
            writer.write_table(pa.table(arrays, schema=schema))
            number += len(batch[next(iter(batch))])
        if writer is None:
            empty = {name: _arrow(pa, name, _empty(name)) for name in head or ["tile"]}
            pq.write_table(pa.table(empty, metadata={"qwenvl": json.dumps(facts)}), sink)
    return number


def _arrow(pa: Any, name: str, column: Any) -> Any:
    if name in ("label", "kind", "review", "status", "finish_reason"):
        return pa.array(column, pa.string()).dictionary_encode()
    if isinstance(column, np.ndarray):
        # NaN is how an unknown number is kept in memory; in a table it is a missing value.
        return pa.array(column, from_pandas=True)
    if column and not isinstance(column[0], str):
        return pa.array(column, pa.float64() if name == "seconds" else pa.int64(), from_pandas=True)
    return pa.array([value or None for value in column], pa.string())


def _empty(name: str) -> Any:
    if name in ("instance", "tile", "item"):
        return np.zeros(0, np.int64)
    return [] if name in ("id", "label", "kind", "review", "attributes") else np.zeros(0)


def inert(text: str) -> str:
    """Text of a model for a spreadsheet: a leading quote keeps it from being run as a formula (OWASP)."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
