"""The report of one slide as one HTML file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from qwenvl.request import Task
from workflows.export.objects import RunObjects
from workflows.report.html._findings import findings_of
from workflows.report.html._layers import overview_of
from workflows.report.html._numbers import object_numbers
from workflows.report.html._page import write_page
from workflows.report.images.colours import FAILED
from workflows.report.report import Report
from workflows.report.summary import summarise
from workflows.store.folder import REPORT
from workflows.store.run_store import RunStore

NAME = "report.html"
"""The report's name in a run folder."""
_STATUSES = {
    "ok": "well formed",
    "repaired": "malformed, but all of it could be read",
    "empty": "a valid answer that nothing of the kind is there",
    "truncated": "cut off: the rest of the tile is unknown",
    "refused": "the model declined: unknown",
    "failed": "no answer: unknown, not negative",
    "pending": "not asked yet: unknown",
    "skipped": "left out, because coarse tiles scored low: unknown, not negative",
    "excluded": "not asked, because quality control found the pixels unfit: unknown",
}


def write_slide_report(
    run: Path | str, out: Path | str | None = None, *, overwrite: bool = False, slide_path: Path | None = None
) -> Path:
    """Write the report of a run as one HTML file that needs no network.

    It shows what is stored now, also while a run goes on: the overview with objects and heatmap, counts and
    densities, the strongest findings of every class enlarged, what was not answered, quality control, the summary
    in words where one was made (`workflows.report.slide_summary`), where it all comes from, and how to repeat it.

    Parameters
    ----------
    run : path
        Run folder.
    out : path, optional
        File ending in .html; by default `report.html` in the run folder, which is always replaced.
    overwrite : bool
        Replace `out` where it exists.
    slide_path : Path, optional
        Where the run's slide lies now; found by itself where it moved together with the run. Without the slide the
        page says so, and shows the overview that the run drew.

    Returns
    -------
    Path of the file.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
    SlideMismatchError
        `slide_path` is another slide.
    SlideChangedError
        The slide was rewritten while its places were read.
    """
    folder = Path(run)
    own = out is None
    path = folder / NAME if out is None else Path(out)
    with RunStore.open(folder) as store:
        report, _ = summarise(store)
        objects = RunObjects(store)
        narrative = _narrative(folder, report)
        cited = sorted({tile for sentence in narrative["sentences"] for tile in sentence["tiles"]}) if narrative else []
        finds_objects = report.request.task in (Task.DETECT, Task.POINT)
        facts: dict[str, Any] = {
            "report": report,
            "title": report.slide.name,
            "question": question_words(report),
            "overview": overview_of(store, objects, slide_path),
            "numbers": object_numbers(store, objects) if finds_objects else None,
            "results": report.results,
            "groups": findings_of(store, objects, cited, slide_path),
            "statuses": _statuses(report),
            "narrative": narrative,
            "labels": list(objects.colours),
            "provenance": _provenance(report),
            "repeat": repeat_command(folder, report),
            "request_json": report.request.model_dump_json(indent=2),
        }
        write_page("slide.html.j2", facts, {**objects.colours, "failed tile": FAILED}, path, overwrite=overwrite or own)
    return path


def question_words(report: Report) -> str:
    """What was asked, in a line."""
    request = report.request
    asked = ", ".join(request.labels) or request.prompt or ""
    return f"{request.task}: {asked}" if asked else str(request.task)


def repeat_command(folder: Path, report: Report) -> str:
    """The command that runs the same again, as it is typed from anywhere."""
    words = ["qwenvl", "repeat", str(folder.absolute() / REPORT), "-o", "NEW_FOLDER"]
    if report.model.device == "server":
        words += ["--server", "URL"]
    return shlex.join(words)


def _narrative(folder: Path, report: Report) -> dict[str, Any] | None:
    from workflows.report.slide_summary import read_narrative

    found = read_narrative(folder)
    if found is None:
        return None
    facts = found.model_dump(mode="json")
    facts["stale"] = found.run_id != report.provenance.run_id or found.texts != getattr(report.results, "total", None)
    return facts


def _statuses(report: Report) -> list[tuple[str, int, str]]:
    counts = report.tiles.counts.model_dump()
    return [(name, number, _STATUSES.get(name, "")) for name, number in counts.items() if number]


def _provenance(report: Report) -> list[tuple[str, str]]:
    slide, model, grid, mask = report.slide, report.model, report.grid, report.mask
    source = f"{slide.mpp_source}: {slide.mpp_from}" if slide.mpp_from else slide.mpp_source
    scale = "unknown" if slide.mpp is None else f"{slide.mpp:.4g} µm/px (from the {source})"
    return [
        ("Slide", slide.path),
        ("Size", f"{slide.width:,} x {slide.height:,} px, {scale}"),
        ("Reader", slide.reader + "".join(f", {key} {value}" for key, value in slide.options.items())),
        *(("Note on the file", note) for note in slide.notes),
        ("Slide fingerprint", slide.fingerprint),
        ("Tissue", _tissue(report)),
        ("Tissue mask", f"{mask.source} ({mask.origin})"),
        (
            "Tiles",
            f"{report.tiles.total:,} of {grid.tile_size} px, overlap {grid.overlap} px, "
            + ("at the slide's own px" if grid.mpp is None else f"{grid.mpp:.4g} µm/px"),
        ),
        ("Model", f"{model.model} ({model.family}, {model.dtype}, {model.device})"),
        ("Adapter", model.adapter or "none"),
        ("Model fingerprint", model.fingerprint),
        ("Request hash", report.provenance.request_hash),
        ("Run", report.provenance.run_id),
        ("Begun", report.run.created),
        ("This report", report.run.reported),
        ("Asked", f"{report.run.asked:,} times, {report.run.prompt_tokens:,} + {report.run.new_tokens:,} tokens"),
        ("Time of the model", f"{report.run.model_seconds:,.1f} s"),
        (
            "Software",
            ", ".join(f"{name} {of}" for name, of in {**report.provenance.versions, **model.versions}.items()),
        ),
    ]


def _tissue(report: Report) -> str:
    mask = report.mask
    area = f"{mask.tissue_px0 / 1e6:,.2f} Mpx" if mask.tissue_mm2 is None else f"{mask.tissue_mm2:,.2f} mm²"
    share = mask.details.get("on_threshold")
    doubt = f"; {share:.0%} of it hangs on the threshold" if isinstance(share, int | float) else ""
    return f"{area}, {mask.tissue_fraction:.1%} of the slide{doubt}"
