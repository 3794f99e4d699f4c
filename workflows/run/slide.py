"""Ask a model about every tile of a slide, keep every answer, and end in a report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenvl.engines.base import Engine
from qwenvl.request import Request
from workflows.errors import SlideMismatchError
from workflows.inputs.opening import in_colours, open_path
from workflows.inputs.reopening import reopen_run, tell
from workflows.inputs.watched import confirm_unchanged
from workflows.report.images.heatmap import write_heatmap
from workflows.report.report import Report
from workflows.report.summary import summarise
from workflows.run.items import Progress
from workflows.run.plan.cascade import WHERE, coarse_request, decide
from workflows.run.plan.estimate import RunEstimate
from workflows.run.plan.prepared import PreparedRun, prepare
from workflows.run.quality import Inspector, QualitySettings
from workflows.run.tiles import run_tiles
from workflows.run.writing import writing
from workflows.store.folder import refuse_foreign
from workflows.store.run_store import RunStore
from wsi.cleanup import cleaning_up
from wsi.regions.frames import PixelFrame
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
    slide_options: Mapping[str, object] | None = None,
    mask: str | Path | TissueMask | tuple[TissueMask, str] = "auto",
    frame: PixelFrame | str | None = None,
    overwrite: bool = False,
    retry_failed: bool = True,
    limit: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    command: str | None = None,
    workers: int = 2,
    overview: bool = True,
    announce: Callable[[RunEstimate], None] | None = None,
    quality: QualitySettings | None = None,
) -> RunResult:
    """Run a request over a slide, or go on with a run that was interrupted.

    Each batch of answers is stored before the next is asked. Killed at any moment, the same call resumes: no
    tile with an answer is asked again, and the report ends up the same.

    A request with `where` asks coarse tiles first, in a run of their own in the folder `where` of this one, and
    then only the tiles that those let pass. Tiles that are truncated, crowded or too large for the memory are split
    as the request says, and their parts asked.

    Parameters
    ----------
    slide : Slide or path
        An opened slide stays open.
    out : path
        The run folder; made where it does not exist.
    slide_mpp : float, optional
        Micrometres per level-0 px, for a slide that does not state it.
    slide_options : mapping, optional
        Further keyword arguments of `wsi.open_slide`: plane, rendering, series, reader, colour. Colours converted here
        or asked for by the request are those of both.
    mask : str, path, TissueMask, or pair of TissueMask and str
        'auto', 'brightfield', 'fluorescence', 'all', or a GeoJSON of regions; or a mask, with how to ask for it
        again.
    frame : 'qupath' or 'level0', optional
        Frame of the coordinates of a GeoJSON mask that does not record it; needed where QuPath crops the slide.
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
    announce : callable, optional
        Called once with what the run will take, before anything is asked or written.
    quality : QualitySettings, optional
        Look at the pixels of every tile before the model does, and mark or skip what is unfit; see
        `workflows.run.quality`. Part of what the run is: other settings are another run.

    Raises
    ------
    SlideError
        The slide, its scale, mask or grid (see `wsi.errors`); nothing was written.
    SlideChangedError
        The slide was rewritten while it was read: nothing of that batch is stored, and no report is written.
    RequestError, EngineError
        The model cannot answer; finished tiles stay.
    RunMismatchError, RunLockedError, ForeignFolderError, StoreError, StoreFullError
    """
    out = Path(out)
    refuse_foreign(out)
    options = {key: value for key, value in (slide_options or {}).items() if value is not None}
    given = slide if isinstance(slide, Slide) else open_path(Path(slide), slide_mpp, options)
    with cleaning_up(*([] if given is slide else [given.close])):
        opened, request = in_colours(given, request)
        with opened.watch.held():
            prepared = prepare(opened, request, engine, mask=mask, frame=frame, command=command, quality=quality)
        if announce is not None:
            announce(prepared.estimate)
        asked, cancelled = 0, False
        with writing(RunStore.create(out, prepared.manifest, prepared.table, overwrite=overwrite)) as store:
            if request.where is not None and store.gate() is None:
                asked, cancelled = _look_where(
                    store,
                    opened,
                    prepared,
                    engine,
                    retry_failed=retry_failed,
                    limit=limit,
                    progress=progress,
                    cancel=cancel,
                    command=command,
                    workers=workers,
                    overview=overview,
                )
            if request.where is None or store.gate() is not None:
                done = run_tiles(
                    store,
                    opened,
                    engine,
                    prepared.mask,
                    inspector=Inspector.of(store.manifest.quality, opened, prepared.mask),
                    progress=progress,
                    cancel=cancel,
                    retry_failed=retry_failed,
                    limit=None if limit is None else limit - asked,
                    workers=workers,
                )
                asked, cancelled = asked + done.answers, done.cancelled
            doubts = confirm_unchanged(opened.watch, store)
            report = _write_results(store, opened if overview else None, doubts)
        return RunResult(out, report, asked, cancelled, store.backup)


def plan_run(
    slide: Slide | Path | str,
    request: Request,
    engine: Engine,
    *,
    slide_mpp: float | None = None,
    slide_options: Mapping[str, object] | None = None,
    mask: str | Path | TissueMask = "auto",
    frame: PixelFrame | str | None = None,
) -> RunEstimate:
    """What `run_slide` would take; nothing is asked or written. Parameters and errors are those of `run_slide`."""
    options = {key: value for key, value in (slide_options or {}).items() if value is not None}
    given = slide if isinstance(slide, Slide) else open_path(Path(slide), slide_mpp, options)
    with cleaning_up(*([] if given is slide else [given.close])):
        opened, request = in_colours(given, request)
        return prepare(opened, request, engine, mask=mask, frame=frame).estimate


def _look_where(
    store: RunStore,
    slide: Slide,
    prepared: PreparedRun,
    engine: Engine,
    *,
    progress: Callable[[Progress], None] | None,
    overview: bool,
    **settings: Any,
) -> tuple[int, bool]:
    """Ask the coarse tiles and decide which tiles are worth the request; tiles asked, and whether it was stopped.

    Nothing is decided while coarse tiles are open. Those that failed leave their place to be looked at.
    """
    told = None if progress is None else lambda state: progress(replace(state, stage=WHERE))
    coarse = run_slide(
        slide,
        coarse_request(store.manifest.request),
        engine,
        store.folder / WHERE,
        mask=(prepared.mask, store.manifest.mask.source),
        frame=store.manifest.mask.frame,
        progress=told,
        overview=overview,
        **settings,
    )
    if not coarse.report.tiles.counts.pending:
        with RunStore.open(coarse.folder) as scores:
            decide(store, scores)
    return coarse.asked, coarse.cancelled


def finish_run(
    folder: Path | str,
    *,
    slide: Path | None = None,
    say: Callable[[str], None] | None = None,
    needs_slide: bool = False,
) -> Report:
    """Merge again and write report, heatmap and overview of a run folder from its stored answers.

    Parameters
    ----------
    folder : path
    slide : Path, optional
        Where the run's slide lies now; found by itself where it moved together with the run
        (`workflows.inputs.reopening`).
    say : callable, optional
        Gets why the overview is left as it is, where the slide is not found; by default it is logged.
    needs_slide : bool
        Refuse where the slide is not found.

    Raises
    ------
    SlideMismatchError
        The slide given is another one, or none was found and `needs_slide`.
    RunNotFoundError, RunLockedError, StoreError
    """
    with writing(RunStore.open(folder, readonly=False)) as store, reopen_run(store, slide) as found:
        if found.slide is None:
            if needs_slide:
                raise SlideMismatchError(f"{found.said} All answers are kept, and no report is written.")
            tell(f"{found.said} The overview is left as it is.", say)
        return _write_results(store, found.slide)


def _write_results(store: RunStore, slide: Slide | None, doubts: Sequence[str] = ()) -> Report:
    report, heatmap = summarise(store)
    if doubts:
        report = report.model_copy(update={"warnings": (*report.warnings, *doubts)})
    if heatmap is not None:
        write_heatmap(store.folder, heatmap, store.manifest)
    report.write(store.folder)
    if slide is not None:
        from workflows.report.images.overview import write_overview

        write_overview(store, report, heatmap, slide)
    return report


__all__ = ["Progress", "RunEstimate", "RunResult", "finish_run", "plan_run", "run_slide"]
