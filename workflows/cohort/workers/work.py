"""What a worker does: one slide, or a part of a large one. Only words travel; pixels and answers stay on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qwenvl.engines.base import Engine
from qwenvl.errors import EngineError, QwenVLError
from qwenvl.request import Request, Task
from workflows.cohort.folder import BatchFolder, CalledOff, Failure
from workflows.cohort.study.config import ModelSettings
from workflows.cohort.study.engines import make_engine
from workflows.cohort.workers.parts import ask_part, merge_parts_of, share_out
from workflows.cohort.workers.ticket import SlideOutcome, SlidePart, Ticket
from workflows.errors import RunLockedError, RunMismatchError, StoreCorruptError, StoreFullError, WorkflowError, is_full
from workflows.run.quality import QualitySettings
from wsi.cleanup import clean_up
from wsi.errors import LimitError, SlideError
from wsi.files.names import path_of
from wsi.limits import limit_of

if TYPE_CHECKING:
    from workflows.report.report import Report
    from workflows.run.slide import Progress, RunResult

Tell = Callable[[dict[str, Any]], None]
T = TypeVar("T")

PATIENCE = 120.0
"""Seconds to wait for a folder that a worker believed lost may still be writing to."""
_PROGRESS_EVERY = 1.0
_FORESEEN = (SlideError, QwenVLError, WorkflowError, OSError, MemoryError)


@dataclass(slots=True)
class _LoadedEngine:
    settings: str
    engine: Engine


_engines: dict[str, _LoadedEngine] = {}
_one_at_a_time = threading.Lock()
"""An engine is used by one thread at a time, whatever number of threads the worker was given."""


def run_ticket(ticket: Ticket, tell: Tell | None = None) -> SlideOutcome:
    """Do a ticket. Never raises for what is wrong with one slide; a worker that dies is the scheduler's affair."""
    tell = tell or _tell_scheduler()
    folder = BatchFolder(Path(ticket.root))
    cancel = CalledOff(folder.token, ticket.token)
    with _one_at_a_time:
        if cancel.is_set():
            return SlideOutcome(ticket.id, "stopped")
        try:
            engine = None if ticket.merge else _engine(ticket)
        except Exception as error:
            return replace(_failed(ticket, folder, error), fatal=True, engine=True)
        try:
            outcome = _patiently(lambda: _do(ticket, folder, engine, cancel, tell), cancel)
        except Exception as error:
            outcome = _failed(ticket, folder, error)
        if outcome.engine:
            try:
                close_engine()
            except Exception as error:  # why the slide failed matters more
                outcome = replace(outcome, reason=f"{outcome.reason} (and the model cannot be closed: {error})")
        return outcome


def close_engine() -> None:
    """Let go of this process' model."""
    engines = [loaded.engine for loaded in _engines.values()]
    _engines.clear()
    clean_up(None, *(engine.close for engine in engines))


def export_files(out: Path, task: Task, exports: tuple[str, ...]) -> list[Path]:
    """The files that a finished run gets besides its report."""
    rows = "objects" if task in (Task.DETECT, Task.POINT) else "tiles"
    names = {"geojson": f"{rows}.geojson.gz", "csv": f"{rows}.csv"}
    return [out / names[each] for each in exports]


def _do(ticket: Ticket, folder: BatchFolder, engine: Engine | None, cancel: CalledOff, tell: Tell) -> SlideOutcome:

    out = folder.run(ticket.id)
    if ticket.part is not None:
        assert engine is not None
        return ask_part(ticket, folder, engine, cancel, _progress(ticket, tell))
    merge_parts_of(out)
    if ticket.merge:
        from workflows.run.slide import finish_run

        return _ended(ticket, folder, finish_run(out, needs_slide=True), 0, cancelled=False)
    assert engine is not None
    return _slide(ticket, folder, engine, cancel, tell)


def _slide(ticket: Ticket, folder: BatchFolder, engine: Engine, cancel: CalledOff, tell: Tell) -> SlideOutcome:
    from workflows.inputs.opening import open_path
    from workflows.run.slide import run_slide

    out = folder.run(ticket.id)
    request = Request.model_validate_json(ticket.request)
    options = {key: value for key, value in ticket.options.items() if value is not None}
    with open_path(path_of(ticket.slide), ticket.mpp, options) as slide:

        def run(*, overwrite: bool, limit: int | None) -> Any:
            return run_slide(
                slide,
                request,
                engine,
                out,
                mask=ticket.mask,
                frame=ticket.frame,
                overwrite=overwrite,
                limit=limit,
                quality=QualitySettings.model_validate_json(ticket.quality),
                progress=_progress(ticket, tell),
                cancel=cancel,
                command=ticket.command,
                overview=limit is None,
            )

        def run_or_set_aside(limit: int | None) -> RunResult:
            try:
                return run(overwrite=False, limit=limit)
            except (RunMismatchError, StoreCorruptError):
                if not ticket.overwrite:
                    raise
                return run(overwrite=True, limit=limit)

        parts = share_out(ticket, request, slide, out, lambda: run_or_set_aside(0))
        if parts:
            return SlideOutcome(ticket.id, "parts", parts=parts)
        result = run_or_set_aside(None)
    return _ended(ticket, folder, result.report, result.asked, cancelled=result.cancelled)


def _ended(ticket: Ticket, folder: BatchFolder, report: Report, asked: int, *, cancelled: bool) -> SlideOutcome:
    """Exports, and the outcome of a slide whose report was written."""
    counts = report.tiles.counts
    objects = getattr(report.results, "total", None) or 0
    numbers: dict[str, Any] = {
        "asked": asked,
        "tiles": report.tiles.total,
        "done": report.tiles.total - counts.pending - counts.failed,
        "failed": counts.failed,
        "objects": int(objects),
    }
    if cancelled:
        return SlideOutcome(ticket.id, "stopped", **numbers)
    _export(folder.run(ticket.id), report.request.task, ticket.exports)
    if report.complete:
        folder.failure(ticket.id).unlink(missing_ok=True)
        return SlideOutcome(ticket.id, "complete", **numbers)
    first = report.tiles.failed[0].reason if report.tiles.failed else f"{counts.pending} tiles were not asked"
    reason = f"{counts.failed} of {report.tiles.total} tiles failed; the first: {first}" if counts.failed else first
    Failure(report.run.reported, reason).write(folder.failure(ticket.id))
    return SlideOutcome(ticket.id, "incomplete", reason, **numbers)


def _export(out: Path, task: Task, exports: tuple[str, ...]) -> None:
    for path in export_files(out, task, exports):
        if path.name.endswith(".geojson.gz"):
            from workflows.export.geojson import export_geojson

            export_geojson(out, path, overwrite=True)
        else:
            from workflows.export.tables import export_objects_csv, export_tiles_csv

            write = export_objects_csv if task in (Task.DETECT, Task.POINT) else export_tiles_csv
            write(out, path, overwrite=True)


def _failed(ticket: Ticket, folder: BatchFolder, error: Exception) -> SlideOutcome:
    """The outcome of an error; what this machine has run out of ends the whole batch."""
    limit = limit_of(error)
    known = limit is not None or isinstance(error, _FORESEEN)
    failure = Failure.of(error if limit is None else LimitError(limit), expected=known)
    failure.write(folder.failure(ticket.id))
    fatal = limit is not None or isinstance(error, StoreFullError) or is_full(error)
    return SlideOutcome(
        ticket.id, "failed", failure.reason, fatal=fatal, engine=isinstance(error, EngineError) or not known
    )


def _patiently(work: Callable[[], T], cancel: CalledOff) -> T:
    """Wait while the folder is locked: a worker that the scheduler gave up may still be finishing its batch."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except RunLockedError:
            if cancel.is_set() or time.monotonic() > until:
                raise
            time.sleep(0.5)


def _engine(ticket: Ticket) -> Engine:
    """The model of this process: loaded once, warm for every slide that follows."""
    if (loaded := _engines.get("engine")) is not None:
        if loaded.settings == ticket.model:
            return loaded.engine
        close_engine()
    settings = ModelSettings.model_validate_json(ticket.model)
    device = _device_of_worker() if ticket.host_gpus and settings.device == "auto" else None
    engine = make_engine(settings, device=device, sharing=ticket.sharing, allow_code=ticket.allow_code)
    _engines["engine"] = _LoadedEngine(ticket.model, engine)
    return engine


def _device_of_worker() -> str | None:
    """The GPU of a worker of a local cluster, whose name is its number."""
    import torch
    from distributed import get_worker

    if (count := torch.cuda.device_count()) < 2:
        return None
    return f"cuda:{int(get_worker().name) % count}"


def _progress(ticket: Ticket, tell: Tell) -> Callable[[Progress], None]:
    last = 0.0

    def show(state: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PROGRESS_EVERY and state.done < state.total:
            return
        last = now
        tell(
            {
                "id": ticket.id,
                "part": ticket.part.name if ticket.part else "",
                "done": state.done,
                "total": state.total,
                "failed": state.failed,
                "objects": state.objects,
                "asked": state.done - state.resumed,
            }
        )

    return show


TOPIC = "qwenvl-batch"


def _tell_scheduler() -> Tell:
    """Progress goes to whoever listens at the scheduler; outside of a worker, nowhere."""
    try:
        from distributed import get_worker

        worker = get_worker()
    except (ImportError, ValueError):
        return lambda words: None
    return lambda words: worker.log_event(TOPIC, words)


def set_up_worker(threads: int | None) -> None:
    """Prepare a process of a local cluster.

    Ctrl-C reaches every process of a terminal; only the one that gives out the work may act on it. The number of
    threads is set because dask tells OpenMP to use one, which would leave a single worker with one core.
    """
    import os
    import signal

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    # Loaded while the others start, not while the first slide waits.
    for name in (
        "workflows.cohort.workers.parts",
        "workflows.report.images.overview",
        "workflows.run.slide",
        "wsi.readers.registry",
        "zarr",
    ):
        import_module(name)


__all__ = [
    "TOPIC",
    "SlideOutcome",
    "SlidePart",
    "Ticket",
    "close_engine",
    "export_files",
    "run_ticket",
    "set_up_worker",
]
