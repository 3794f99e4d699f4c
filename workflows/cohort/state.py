"""What a run folder says about itself: read from its journal, never from a note of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflows.cohort.folder import BatchFolder
from workflows.cohort.study.plan import CohortPlan
from workflows.cohort.study.table import CohortRow
from workflows.errors import RunNotFoundError, StoreError, StoreVersionError
from workflows.report.report import Report
from workflows.store.folder import JOURNAL, OVERVIEW, REPORT
from workflows.store.provenance import Manifest, slide_facts
from workflows.store.run_store import RunStore
from wsi.regions.frames import PixelFrame
from wsi.slide import Slide
from wsi.tissue import METHODS


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a slide's run is.

    Attributes
    ----------
    tiles, done, failed : int
        Tiles to ask, with an answer, and failed in their last attempt.
    objects : int
        Objects stored, before merging.
    manifest : Manifest
    reported : bool
        The report and the overview were made from exactly these answers.
    """

    tiles: int
    done: int
    failed: int
    objects: int
    manifest: Manifest
    reported: bool

    @property
    def complete(self) -> bool:
        """Every tile has an answer, and the report says so."""
        return self.reported and self.done == self.tiles


def read_state(folder: BatchFolder, id: str) -> RunState | None:
    """The state of a slide's run, its unmerged parts included; None where it was not begun.

    Raises
    ------
    StoreError
        The journal cannot be read.
    """
    out = folder.run(id)
    if not (out / JOURNAL).is_file():
        return None
    with RunStore.open(out) as store:
        wanted = np.setdiff1d(store.tiles()["tile"], list(store.skipped()))
        done, failed = np.intersect1d(store.finished(), wanted), store.failed()
        objects, attempts, manifest = store.objects_found(), store.attempts(), store.manifest
    for part in sorted((out / "parts").glob(f"*/{JOURNAL}")):
        try:
            with RunStore.open(part.parent) as store:
                done = np.union1d(done, np.intersect1d(store.finished(), wanted))
                failed = np.union1d(failed, store.failed())
                objects += store.objects_found()
                attempts += store.attempts()
        except (RunNotFoundError, StoreError):
            continue  # Just being made, or just merged.
    failed = np.setdiff1d(failed, done)
    return RunState(len(wanted), len(done), len(failed), objects, manifest, _reported(out, attempts))


def why_other(state: RunState, plan: CohortPlan, slide: Slide) -> str | None:
    """What differs between the run that is there and the one that the plan asks for, or None.

    The grid is left to the run itself: it needs the tissue.
    """
    found = state.manifest
    asked = found.model_copy(
        update={
            "request": plan.request,
            "request_hash": plan.request.hash,
            "slide": slide_facts(slide),
            "model": found.model.model_copy(update=plan.model.model_dump()),
            "quality": plan.study.quality,
        }
    )
    here, there = found.identity, asked.identity
    differing = [key for key in there if here.get(key) != there[key]]
    return ", ".join(differing) or None


def needs_nothing(state: RunState, plan: CohortPlan, row: CohortRow, slide: Slide, folder: BatchFolder) -> bool:
    """True where the run is finished, with its exports, and a worker would find nothing to do."""
    mask, frame = plan.mask(row), plan.frame(row)
    if not state.complete or state.manifest.mask.source != mask:
        return False
    if mask not in METHODS and not _same_grid(state, plan, mask, slide, frame):
        return False
    from workflows.cohort.workers.work import export_files

    return all(path.exists() for path in export_files(folder.run(row.id), plan.request.task, plan.study.exports))


def _same_grid(state: RunState, plan: CohortPlan, mask: str, slide: Slide, frame: PixelFrame | None) -> bool:
    """True where a mask file still gives the tiles of the run."""
    from workflows.inputs.opening import find_mask
    from wsi.grid import TileGrid

    request = plan.request
    grid = TileGrid.from_slide(
        slide,
        tile_size=request.tile_size,
        overlap=request.overlap,
        mpp=request.mpp,
        mask=find_mask(mask, slide, frame)[0],
        min_tissue=request.min_tissue,
    )
    return grid.hash == state.manifest.grid.hash


def _reported(out: Path, attempts: int) -> bool:
    if not (out / REPORT).is_file() or not (out / OVERVIEW).is_file():
        return False
    try:
        report = Report.read(out)
    except (RunNotFoundError, StoreVersionError):
        return False
    return report.complete and report.run.asked == attempts
