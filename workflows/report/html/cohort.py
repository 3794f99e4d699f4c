"""The report of many slides as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from workflows.errors import ExportError, RunNotFoundError, StoreVersionError
from workflows.report.html._page import jpeg, write_page
from workflows.report.html.slide import NAME, question_words
from workflows.report.images.colours import RGBColour, label_colours
from workflows.report.images.legend import WIDTH as LEGEND_WIDTH
from workflows.report.report import ClassifyResults, CountResults, ObjectResults, Report, ScoreResults
from workflows.store.folder import OVERVIEW
from workflows.store.provenance import utc_now

COHORT = "cohort.html"
"""The report's name in the folder of a batch."""
_THUMBNAIL = 220
_THUMBNAILS = 300
"""Slides that get a picture; a file of thousands would no longer open."""


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide of a cohort.

    Attributes
    ----------
    id : str
    run : path or None
        Run folder; None where there is none.
    state : str
        In a word or two: 'complete', 'failed', 'not begun'; by default what the report says.
    reason : str
        Why it is not complete.
    group : str
    metadata : mapping
        Further columns of the cohort table.
    """

    id: str
    run: Path | None
    state: str = ""
    reason: str = ""
    group: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number per slide."""

    name: str
    label: str
    unit: str


@dataclass(frozen=True, slots=True)
class _Line:
    slide: CohortSlide
    report: Report | None
    state: str
    values: Mapping[str, float | None]
    picture: str | None
    link: str | None


def write_cohort_report(
    slides: Sequence[CohortSlide], out: Path | str, *, title: str = "Cohort", overwrite: bool = False
) -> Path:
    """Write the report of a cohort as one HTML file that needs no network.

    Every slide has its line, also those without a result, with the reason. Numbers of slides that are not complete
    are marked, and are left out of the means of groups. Slides whose own HTML report lies in their run folder are
    linked.

    Parameters
    ----------
    slides : sequence of CohortSlide
    out : path
        File ending in .html.
    title : str
    overwrite : bool
        Replace `out` where it exists.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ExportExistsError, ExportError
        ExportError also where no slide was given.
    """
    if not slides:
        raise ExportError("There is no slide to report.")
    path = Path(out)
    found = [(slide, _report(slide)) for slide in slides]
    measures = _measures([report for _, report in found if report is not None])
    lines = [_line(slide, report, measures, path, number) for number, (slide, report) in enumerate(found)]
    colours: dict[str, RGBColour] = label_colours(list(dict.fromkeys(of.label for of in measures)))
    facts: dict[str, Any] = {
        "title": title,
        "lines": lines,
        "measures": measures,
        "top": {of.name: _top(lines, of.name) for of in measures},
        "groups": _groups(lines, measures),
        "grouped": any(slide.group for slide in slides),
        "metadata": list(dict.fromkeys(name for slide in slides for name in slide.metadata)),
        "questions": sorted({question_words(line.report) for line in lines if line.report is not None}),
        "models": sorted({line.report.model.model for line in lines if line.report is not None}),
        "complete": sum(line.state == "complete" for line in lines),
        "created": utc_now(),
    }
    write_page("cohort.html.j2", facts, colours, path, overwrite=overwrite)
    return path


def write_batch_report(batch: Path | str, out: Path | str | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of a batch (`qwenvl batch`): every row of its cohort, with state and reason.

    Parameters
    ----------
    batch : path
        The folder that was given to `-o`.
    out : path, optional
        File ending in .html; by default `cohort.html` in that folder, which is always replaced.

    Returns
    -------
    Path of the file.

    Raises
    ------
    RunNotFoundError, ExportExistsError, ExportError
    """
    from workflows.cohort.folder import BatchFolder
    from workflows.cohort.status import cohort_status

    folder = BatchFolder(Path(batch).absolute())
    slides = [
        CohortSlide(of.row.id, folder.run(of.row.id), of.stage, of.reason, of.row.group, of.row.metadata)
        for of in cohort_status(folder.root)[1]
    ]
    path = folder.root / COHORT if out is None else Path(out)
    title = f"Cohort {folder.root.name}"
    return write_cohort_report(slides, path, title=title, overwrite=overwrite or out is None)


def _report(slide: CohortSlide) -> Report | None:
    if slide.run is None:
        return None
    try:
        return Report.read(slide.run)
    except (RunNotFoundError, StoreVersionError):
        return None


def _line(slide: CohortSlide, report: Report | None, measures: Sequence[Measure], out: Path, number: int) -> _Line:
    state = slide.state or ("no report" if report is None else "complete" if report.complete else "not complete")
    values = {} if report is None else _values(report)
    picture = link = None
    if slide.run is not None and report is not None:
        picture = _thumbnail(slide.run) if number < _THUMBNAILS else None
        if (slide.run / NAME).is_file():
            way = os.path.relpath((slide.run / NAME).absolute(), out.absolute().parent).replace(os.sep, "/")
            link = quote(os.fsencode(way))
    return _Line(slide, report, state, {of.name: values.get(of.name) for of in measures}, picture, link)


def _values(report: Report) -> dict[str, float | None]:
    """The numbers a cohort is compared by: densities where the scale is known, else counts or shares."""
    results = report.results
    match results:
        case ObjectResults():
            values: dict[str, float | None] = {f"count {of.label}": float(of.count) for of in results.labels}
            return values | {f"density {of.label}": of.per_mm2 for of in results.labels}
        case ClassifyResults():
            return {f"share {of.label}": of.share for of in results.labels}
        case ScoreResults():
            return {"mean probability": results.mean}
        case CountResults():
            return {"total": results.total, "density": results.per_mm2}
        case _:
            return {"texts": float(results.total)}


_UNITS = {"count": "", "density": "per mm²", "share": "of tiles", "mean": "", "total": "", "texts": ""}


def _measures(reports: Sequence[Report]) -> list[Measure]:
    names = dict.fromkeys(name for report in reports for name, value in _values(report).items() if value is not None)
    return [Measure(name, name.partition(" ")[2] or name, _UNITS.get(name.partition(" ")[0], "")) for name in names]


def _top(lines: Sequence[_Line], name: str) -> float:
    return max((value for line in lines if (value := line.values.get(name)) is not None), default=0.0) or 1.0


def _groups(lines: Sequence[_Line], measures: Sequence[Measure]) -> list[dict[str, object]]:
    """Mean, standard deviation and range over the complete slides of every group."""
    groups = []
    for name in sorted({line.slide.group for line in lines}):
        chosen = [line for line in lines if line.slide.group == name and line.state == "complete"]
        row: dict[str, Any] = {"name": name or "all others", "slides": len(chosen), "values": []}
        for of in measures:
            values = np.array([v for line in chosen if (v := line.values.get(of.name)) is not None])
            row["values"].append(
                None
                if not len(values)
                else {
                    "n": len(values),
                    "mean": float(values.mean()),
                    "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
                    "low": float(values.min()),
                    "high": float(values.max()),
                }
            )
        groups.append(row)
    return groups


def _thumbnail(run: Path) -> str | None:
    """The slide's part of `overview.png`, small."""
    path = run / OVERVIEW
    if not path.is_file():
        return None
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[1] <= LEGEND_WIDTH:
        return None
    part = picture[:, :-LEGEND_WIDTH, ::-1]
    factor = _THUMBNAIL / max(part.shape[:2])
    small = cv2.resize(np.ascontiguousarray(part), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return jpeg(np.asarray(small, np.uint8), 80)
