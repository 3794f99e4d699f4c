"""The cohort table: one row per slide, made from the reports alone, as CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflows.cohort.folder import TABLE_CSV, TABLE_PARQUET, BatchFolder
from workflows.cohort.status import SlideStatus, cohort_status
from workflows.errors import RunNotFoundError, StoreVersionError
from workflows.report.report import Report
from workflows.store.folder import replace_all_whole

_FIRST = ("id", "group", "slide", "stage", "complete", "reason")


def write_summary(out: Path | str) -> tuple[Path, Path]:
    """Write `summary.csv` and `summary.parquet` into the folder of a batch; their paths.

    Every row of the cohort is there. A slide without a report has its stage and reason and nothing else; a slide
    that is not complete has the numbers of what is known, with `complete` false and the share of the tissue they
    rest on. Metadata stays text, as it was written; a column of ours keeps its name, and metadata of the same
    name becomes `meta_<name>`.

    Raises
    ------
    RunNotFoundError
        The folder holds no batch.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = BatchFolder(Path(out).absolute())
    plan, slides = cohort_status(folder.root)
    rows = [_row(each, folder) for each in slides]
    ours = _columns(rows)
    extra = list(dict.fromkeys(name for row in plan.rows for name in row.metadata))
    named = {name: f"meta_{name}" if name in ours else name for name in extra}
    for row, each in zip(rows, slides, strict=True):
        row.update({named[name]: value for name, value in each.row.metadata.items()})
    columns = [*_FIRST, *(named[name] for name in extra), *(name for name in ours if name not in _FIRST)]

    def write_csv(path: Path) -> None:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            table = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    def write_parquet(path: Path) -> None:
        with path.open("wb") as stream:
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), stream)

    paths = folder.root / TABLE_CSV, folder.root / TABLE_PARQUET
    replace_all_whole(dict(zip(paths, (write_csv, write_parquet), strict=True)))
    return paths


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _row(status: SlideStatus, folder: BatchFolder) -> dict[str, object]:
    row: dict[str, Any] = {
        "id": status.row.id,
        "group": status.row.group,
        "slide": status.row.slide,
        "stage": status.stage,
        "complete": status.stage == "complete",
        "reason": status.reason,
    }
    if status.stage in ("refused", "other run", "unreadable", "not begun"):
        return row
    try:
        report = Report.read(folder.run(status.row.id))
    except (RunNotFoundError, StoreVersionError):
        return row
    return row | report_row(report)


def report_row(report: Report) -> dict[str, object]:
    """The numbers of one report, by the names of the table's columns."""
    row: dict[str, Any] = {
        "task": report.request.task.value,
        "model": report.model.model,
        "mpp": report.slide.mpp,
        "tissue_mm2": report.mask.tissue_mm2,
        "tissue_answered": report.tiles.tissue_answered,
        "tiles": report.tiles.total,
    }
    row |= {f"tiles_{name}": number for name, number in report.tiles.counts.model_dump().items()}
    if report.quality is not None:
        row |= {"qc_inspected": report.quality.inspected, "qc_flagged": report.quality.flagged}
        row["qc_flagged_share"] = report.quality.share
        for found in report.quality.reasons:
            row |= {f"qc_{found.reason}_tiles": found.tiles, f"qc_{found.reason}_mm2": found.tissue_mm2}
    row |= _results(report.results.model_dump(mode="json"))
    row |= {
        "model_seconds": report.run.model_seconds,
        "warnings": len(report.warnings),
        "request_hash": report.provenance.request_hash,
        "run_id": report.provenance.run_id,
        "slide_fingerprint": report.provenance.slide_fingerprint,
    }
    return row


def _results(results: dict[str, Any]) -> dict[str, object]:
    """Numbers of the results; those of a label carry its name: `count_nucleus`, `per_mm2_nucleus`."""
    row: dict[str, Any] = {}
    for name, value in results.items():
        if name == "labels":
            for item in value:
                row |= {f"{key}_{item['label']}": number for key, number in item.items() if key != "label"}
        elif name == "quantiles":
            row |= {f"quantile_{share}": number for share, number in value.items()}
        elif name == "tiles" and isinstance(value, int):
            row["tiles_used"] = value
        elif name != "task" and (value is None or isinstance(value, int | float)):
            row[name] = value
    return row
