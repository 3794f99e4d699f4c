"""Ask a model about every tile of a slide, keep every answer, and end in a report."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenvl.engines.base import Engine
from qwenvl.request import Request
from workflows._asking import Asking, Progress
from workflows._folder import refuse_foreign
from workflows._opening import find_mask, open_path, reopen
from workflows._rows import tile_table
from workflows.errors import StoreFullError
from workflows.heatmap import write_heatmap
from workflows.provenance import (
    Manifest,
    grid_facts,
    mask_facts,
    model_facts,
    slide_facts,
    software_versions,
    utc_now,
)
from workflows.report import Report
from workflows.store import RunStore
from workflows.summary import summarise
from wsi.grid import TileGrid
from wsi.slide import Slide
from wsi.tissue import TissueMask


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `run_slide` gives back: where the run lies and its report."""

    folder: Path
    report: Report
    asked: int
    """Tiles asked in this call."""
    cancelled: bool = False
    backup: Path | None = None
    """Where an older run was set aside to."""

    @property
    def complete(self) -> bool:
        """True where every tile was asked and none failed."""
        return self.report.complete


def run_slide(
    slide: Slide | Path | str,
    request: Request,
    engine: Engine,
    out: Path | str,
    *,
    slide_mpp: float | None = None,
    slide_options: Mapping[str, Any] | None = None,
    mask: str | Path | TissueMask = "auto",
    overwrite: bool = False,
    retry_failed: bool = True,
    limit: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    command: str | None = None,
    workers: int = 2,
    overview: bool = True,
) -> RunResult:
    """Run a request over a slide, or go on with a run that was interrupted.

    Each batch of answers is stored before the next is asked. Killed at any moment, the same call resumes: no
    tile with an answer is asked again, and the report ends up the same.

    Parameters
    ----------
    slide : Slide or path
        An opened slide stays open.
    out : path
        The run folder; made where it does not exist.
    slide_mpp : float, optional
        Micrometres per level-0 px, for a slide that does not state it.
    slide_options : mapping, optional
        Further keyword arguments of `wsi.open_slide`: plane, rendering, series, reader.
    mask : str, path or TissueMask
        'auto', 'brightfield', 'fluorescence', 'all', or a GeoJSON of regions.
    overwrite : bool
        Set a run found in `out` aside (renamed, not deleted) and start afresh.
    retry_failed : bool
        Ask again about tiles that failed in an earlier call.
    limit : int, optional
        Ask about at most so many tiles in this call.
    progress : callable, optional
        Called after every batch.
    cancel : threading.Event, optional
        Once set, the run stops after the batch at hand; the report says what is missing.
    command : str, optional
        The command line, for the record.
    workers : int
        Threads that read tiles.
    overview : bool
        Draw overview.png.

    Raises
    ------
    SlideError
        The slide, its scale, mask or grid (see `wsi.errors`); nothing was written.
    RequestError, EngineError
        The model cannot answer; finished tiles stay.
    RunMismatchError, RunLockedError, ForeignFolderError, StoreError, StoreFullError
    """
    out = Path(out)
    refuse_foreign(out)
    options = {key: value for key, value in (slide_options or {}).items() if value is not None}
    opened = slide if isinstance(slide, Slide) else open_path(Path(slide), slide_mpp, options)
    try:
        found, source = find_mask(mask, opened)
        grid = TileGrid.from_slide(
            opened,
            tile_size=request.tile_size,
            overlap=request.overlap,
            mpp=request.mpp,
            mask=found,
            min_tissue=request.min_tissue,
        )
        manifest = Manifest(
            request=request,
            request_hash=request.hash,
            slide=slide_facts(opened),
            model=model_facts(engine.info),
            grid=grid_facts(grid, opened),
            mask=mask_facts(found, source, opened),
            versions=software_versions(),
            command=command,
            created=utc_now(),
        )
        store = RunStore.create(out, manifest, tile_table(grid), overwrite=overwrite)
        try:
            asking = Asking(store, opened, engine, request, progress, cancel)
            asking.run(retry_failed=retry_failed, limit=limit, workers=workers)
            report = _finish(store, opened if overview else None)
        except BaseException:
            if store.fresh and not store.last_seq() and not store.reviews():
                store.discard()
            else:
                store.close()
            raise
        store.close()
        return RunResult(out, report, asking.asked, asking.cancelled, store.backup)
    finally:
        if opened is not slide:
            opened.close()


def finish_run(folder: Path | str) -> Report:
    """Merge again and write report, heatmap and overview of a run folder from its stored answers.

    The overview needs the slide; it is left as it is where the slide is no longer at its place.

    Raises
    ------
    RunNotFoundError, RunLockedError, StoreError
    """
    with RunStore.open(folder, readonly=False) as store:
        slide = reopen(store.manifest.slide)
        try:
            return _finish(store, slide)
        finally:
            if slide is not None:
                slide.close()


def _finish(store: RunStore, slide: Slide | None) -> Report:
    try:
        return _write_results(store, slide)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StoreFullError(
            f"The disk is full: the report of {store.folder} cannot be written. All answers are kept; make room "
            "and repeat the command."
        ) from error


def _write_results(store: RunStore, slide: Slide | None) -> Report:
    report, heatmap = summarise(store)
    if heatmap is not None:
        write_heatmap(store.folder, heatmap, store.manifest)
    report.write(store.folder)
    if slide is not None:
        from workflows.overview import write_overview

        write_overview(store, report, heatmap, slide)
    return report


__all__ = ["Progress", "RunResult", "finish_run", "run_slide"]
