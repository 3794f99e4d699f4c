"""Asking a model about every spot of a section, for several genes at once; every answer is stored as it comes.

Each question has a run of its own under `answers/`, a journal as any other: a killed prediction goes on where it was,
and each run opens in the viewer and in the exports.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Status
from qwenvl.engines.base import Engine
from qwenvl.request import Request
from workflows.errors import ForeignFolderError
from workflows.inputs.watched import check_unchanged, confirm_unchanged
from workflows.report.images.heatmap import tile_values, write_heatmap
from workflows.report.summary import summarise
from workflows.run.items import Progress, run_items
from workflows.run.tiles import TileItems
from workflows.run.writing import writing
from workflows.science.spatial.questions import ExpressionScale, region_question, spot_question, spot_tiles
from workflows.science.spatial.sections.genes import ExpressionTarget
from workflows.science.spatial.sections.listing import OpenedSection
from workflows.store.provenance import (
    GridFacts,
    Manifest,
    mask_facts,
    model_facts,
    slide_facts,
    software_versions,
    utc_now,
)
from workflows.store.run_store import RunStore

ANSWERS, LOCATED, RESULT = "answers", "located", "prediction.json"
_OURS = (ANSWERS, LOCATED, RESULT, "predictions.h5ad", "regions.geojson", "maps.png", "evaluation.json")


@dataclass(frozen=True)
class Predicted:
    """What a model said about the spots of a section.

    Attributes
    ----------
    names : tuple of str
    values : float64 (spots, targets)
        Probability that the target is high at the spot; NaN where there is no answer.
    statuses : dict of str to int
        Answers of all targets by status; 'pending' for those not asked yet.
    asked : int
        Questions asked in this call.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    statuses: dict[str, int]
    asked: int
    cancelled: bool = False

    @property
    def complete(self) -> bool:
        """True where every question about every spot has an answer."""
        return bool(np.isfinite(self.values).all())


def predict_spots(
    found: OpenedSection,
    targets: Sequence[ExpressionTarget],
    engine: Engine,
    out: Path,
    scale: ExpressionScale,
    *,
    overwrite: bool = False,
    cancel: threading.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
    command: str | None = None,
    workers: int = 2,
) -> Predicted:
    """Ask whether each target is high around each spot, or go on with what was interrupted.

    Parameters
    ----------
    found : OpenedSection
        Its counts are not looked at.
    out : Path
        Folder of the prediction; the same questions about the same spots, slide and model go on in it.
    overwrite : bool
        Set runs of other questions or models found in `out` aside (renamed, not deleted).
    progress : callable, optional
        Called after every batch.

    Raises
    ------
    ForeignFolderError
        `out` holds files that are not of a prediction.
    RunMismatchError
        `out` holds another prediction.
    EngineError, RequestError, SlideError, StoreError
    """
    refuse_others(out)
    requests = [spot_question(target.name, scale) for target in targets]
    for request in requests:
        engine.check(request)
    table = spot_tiles(found.section, found.slide, requests[0])
    with ExitStack() as stack:
        stores = [
            stack.enter_context(writing(store))
            for store in _stores(found, targets, requests, table, engine, out, overwrite=overwrite, command=command)
        ]
        done = run_items(
            TileItems(found.slide, table),
            requests,
            engine,
            stores,
            on_batch=progress,
            cancel=cancel,
            workers=workers,
            guard=lambda: check_unchanged(found.slide.watch, *stores),
        )
        doubts = confirm_unchanged(found.slide.watch, *stores)
        values = np.stack([_values(store, len(table)) for store in stores], axis=1)
        statuses: dict[str, int] = {}
        for store in stores:
            for status, number in store.status_counts().items():
                statuses[status.value] = statuses.get(status.value, 0) + number
            report, heatmap = summarise(store)
            if heatmap is not None:
                write_heatmap(store.folder, heatmap, store.manifest)
            report.model_copy(update={"warnings": (*report.warnings, *doubts)}).write(store.folder)
        pending = len(table) * len(stores) - sum(statuses.values())
        statuses = {name: number for name, number in {**statuses, "pending": pending}.items() if number}
    return Predicted(tuple(t.name for t in targets), values, statuses, done.answers, done.cancelled)


def locate_regions(
    found: OpenedSection,
    target: ExpressionTarget,
    engine: Engine,
    out: Path,
    scale: ExpressionScale,
    *,
    overwrite: bool = False,
    cancel: threading.Event | None = None,
    command: str | None = None,
) -> Path:
    """Ask for boxes of regions with high expression, tile by tile; an ordinary run under `located/`.

    Returns
    -------
    Path
        The run's folder; `workflows.review.compare.run_boxes` reads its boxes.
    """
    from workflows.run.slide import run_slide

    refuse_others(out)
    request = region_question(target.name, scale, _recommended(engine))
    return run_slide(
        found.slide,
        request,
        engine,
        out / LOCATED / slug(target.name),
        mask=(found.mask, "auto"),
        overwrite=overwrite,
        cancel=cancel,
        command=command,
    ).folder


def _recommended(engine: Engine) -> dict[str, object]:
    checkpoint = getattr(engine, "checkpoint", None)
    return dict(checkpoint.recommended) if checkpoint is not None else {}


def slug(name: str) -> str:
    """A folder's name for a target: readable, and no two targets share it."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:40]
    return plain if plain == name else f"{plain or 'target'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def refuse_others(out: Path) -> None:
    """Raise ForeignFolderError where a folder holds what is not of a prediction."""
    if not out.exists():
        return
    names = (path.name.removesuffix(".partial") for path in out.iterdir()) if out.is_dir() else iter((out.name,))
    foreign = sorted(name for name in names if name not in _OURS)
    if foreign:
        raise ForeignFolderError(
            f"{out} holds other files ({', '.join(foreign[:3])}). Name an empty or new folder with -o."
        )


def _stores(
    found: OpenedSection,
    targets: Sequence[ExpressionTarget],
    requests: Sequence[Request],
    table: NDArray[np.void],
    engine: Engine,
    out: Path,
    *,
    overwrite: bool,
    command: str | None,
) -> Iterator[RunStore]:
    """A run per question, made or found."""
    slide, request = found.slide, requests[0]
    digest = hashlib.sha256(np.ascontiguousarray(table).tobytes()).hexdigest()[:32]
    pitch = max(1, round(found.section.pitch0))
    mpp_x, mpp_y = slide.mpp_xy or (1.0, 1.0)
    grid = GridFacts(
        tiles=len(table),
        columns=len(table),
        rows=1,
        tile_size=request.tile_size,
        overlap=0,
        mpp=request.mpp,
        side0=(int(table["width0"][0]), int(table["height0"][0])),
        step0=(pitch, pitch),
        upsampling=max(1.0, (mpp_x * mpp_y) ** 0.5 / (request.mpp or 1.0)),
        tissue_coverage=1.0,
        hash=f"sha256:{digest}",
    )
    for target, asked in zip(targets, requests, strict=True):
        manifest = Manifest(
            request=asked,
            request_hash=asked.hash,
            slide=slide_facts(slide),
            model=model_facts(engine.info),
            grid=grid,
            mask=mask_facts(found.mask, "auto", slide),
            versions=software_versions(),
            command=command,
            created=utc_now(),
        )
        yield RunStore.create(out / ANSWERS / slug(target.name), manifest, table, overwrite=overwrite)


def _values(store: RunStore, spots: int) -> NDArray[np.float64]:
    """Probability of yes per spot, NaN where there is no answer."""
    values = np.full(spots, np.nan)
    for found in store.iter_answers():
        if found.answer.status is not Status.FAILED:
            values[found.tile] = tile_values(found, store.manifest.request)[0]
    return values
