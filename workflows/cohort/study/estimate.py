"""What a cohort will take: tiles slide by slide, hours and memory, before anything is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workflows.cohort.folder import BatchFolder
from workflows.cohort.study.check import Checked, open_row
from workflows.cohort.study.engines import Known, make_engine
from workflows.cohort.study.plan import CohortPlan
from workflows.inputs.opening import find_mask
from workflows.store.run_store import RunStore
from wsi.cleanup import cleaning_up
from wsi.errors import SlideError
from wsi.grid import TileGrid
from wsi.limits import raise_limit
from wsi.slide import Slide
from wsi.threads import thread_pool

_BATCH = 16


@dataclass(frozen=True, slots=True)
class CohortEstimate:
    """What is to come.

    Attributes
    ----------
    tiles : dict of str to int
        Tiles of every slide that can be run, by id; those of a request with `where` or `split` at least so many.
    open_tiles : int
        Tiles without an answer yet, of all slides.
    problems : dict of str to str
        Slides whose tiles could not be laid, such as those without tissue.
    seconds_per_tile : float or None
        Of one worker.
    measured_on : str
        Where that comes from.
    hours : float or None
        With the workers given.
    memory : int or None
        Bytes of one worker's model, roughly; None where the model runs elsewhere.
    """

    tiles: dict[str, int]
    open_tiles: int
    problems: dict[str, str]
    seconds_per_tile: float | None
    measured_on: str
    hours: float | None
    memory: int | None


def estimate_cohort(
    plan: CohortPlan,
    checked: Sequence[Checked],
    known: Known,
    folder: BatchFolder,
    *,
    workers: int,
    seconds_per_tile: float | None = None,
    measure: bool = True,
    allow_code: bool = False,
    on_slide: Callable[[], None] = lambda: None,
) -> CohortEstimate:
    """Lay the tiles of every slide and time the model.

    The time of a tile is what is given, else what the runs that are there took, else (`measure`) a few tiles of
    the first slide are asked here and now, and nothing of it is stored. `allow_code` is that of `make_engine`.
    """

    def lay(each: Checked) -> int | str:
        try:
            with open_row(plan, each.row) as slide:
                return len(_grid(plan, each, slide))
        except SlideError as error:
            raise_limit(error)
            return str(error)
        finally:
            on_slide()

    usable = [each for each in checked if each.problem is None]
    with thread_pool(4, "estimate") as pool:
        laid = dict(zip((each.row.id for each in usable), pool.map(lay, usable), strict=True))
    tiles = {id: number for id, number in laid.items() if isinstance(number, int)}
    done = {each.row.id: 0 if each.state is None or each.stale else each.state.done for each in usable}
    open_tiles = sum(max(0, number - done[id]) for id, number in tiles.items())
    seconds, where = seconds_per_tile, "given"
    if seconds is None:
        seconds, where = _from_runs(usable, folder), "the runs in this folder"
    if seconds is None and measure and (first := next((e for e in usable if e.row.id in tiles), None)) is not None:
        seconds, where = _measured(plan, first, allow_code), f"tiles of {first.row.id}, just now"
    return CohortEstimate(
        tiles=tiles,
        open_tiles=open_tiles,
        problems={id: reason for id, reason in laid.items() if isinstance(reason, str)},
        seconds_per_tile=seconds,
        measured_on=where if seconds is not None else "nothing",
        hours=None if seconds is None else open_tiles * seconds / workers / 3600,
        memory=_memory(plan, known),
    )


def _grid(plan: CohortPlan, each: Checked, slide: Slide) -> TileGrid:
    request = plan.request
    return TileGrid.from_slide(
        slide,
        tile_size=request.tile_size,
        overlap=request.overlap,
        mpp=request.mpp,
        mask=find_mask(plan.mask(each.row), slide, plan.frame(each.row))[0],
        min_tissue=request.min_tissue,
    )


def _from_runs(usable: Sequence[Checked], folder: BatchFolder) -> float | None:
    """Mean time of an answer in the runs that are there."""
    seconds, answers = 0.0, 0
    for each in usable:
        if each.state is not None and each.state.done and not each.stale:
            with RunStore.open(folder.run(each.row.id)) as store:
                seconds += store.effort()[0]
                answers += store.attempts()
    return seconds / answers if answers and seconds else None


def _measured(plan: CohortPlan, each: Checked, allow_code: bool) -> float:
    """Seconds per tile of one batch, the second of two: the first warms the model up."""
    engine = make_engine(plan.study.model, allow_code=allow_code)
    with cleaning_up(engine.close), open_row(plan, each.row) as slide:
        grid = _grid(plan, each, slide)
        size = max(1, min(_BATCH, engine.batch_size(plan.request), len(grid)))
        chosen = np.linspace(0, len(grid) - 1, size).astype(int).tolist()
        tiles = [grid[index] for index in chosen]
        pictures = [slide.read_scaled(t.x0, t.y0, t.width0, t.height0, (t.width, t.height)) for t in tiles]
        engine.answer(pictures[:1], plan.request)
        begun = time.perf_counter()
        engine.answer(pictures, plan.request)
        return (time.perf_counter() - begun) / len(pictures)


def _memory(plan: CohortPlan, known: Known) -> int | None:
    if known.description is None:
        return None
    dtype = plan.study.model.dtype
    request = plan.request
    return known.description.estimate_memory(
        request.tile_size,
        batch=_BATCH,
        new_tokens=request.generation.max_new_tokens,
        dtype=None if dtype == "auto" else dtype,
    ).total
