"""Where was looked and how closely: scales, splits and cascade of a run, for its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from qwenvl.request import SPLIT_TASKS, Task
from workflows._words import plural
from workflows.report.report import CascadeEffort, CascadeFacts, ScaleFacts, SplitFacts
from workflows.report.tally import TileTally
from workflows.run.plan.estimate import tiles_by_scale
from workflows.run.splitting import Why
from workflows.store.folder import JOURNAL, WHERE
from workflows.store.run_store import RunStore

_SHARPER = 1.01


def scale_facts(store: RunStore, tiles: TileTally) -> Iterator[ScaleFacts]:
    """What was answered completely at which scale, finest first."""
    slide = store.manifest.slide
    mm2 = slide.mm2_per_px
    for each in tiles_by_scale(tiles.table[tiles.complete], slide.mpp):
        yield ScaleFacts(
            mpp=each.mpp,
            tiles=each.tiles,
            tissue_px0=each.tissue0,
            tissue_mm2=None if mm2 is None else each.tissue0 * mm2,
        )


def split_facts(store: RunStore) -> SplitFacts | None:
    """The splits of a run, None where there is none."""
    splits = store.splits()
    if not splits:
        return None
    return SplitFacts(
        tiles=len(splits),
        children=sum(children for *_, children in splits),
        depth=max(depth for _, _, depth, _ in splits),
        reasons=dict(sorted(Counter(why.value for _, why, _, _ in splits).items())),
    )


def cascade_facts(store: RunStore, tiles: TileTally) -> CascadeFacts | None:
    """What the coarse tiles decided, None for a request without them."""
    where = store.manifest.request.where
    if where is None:
        return None
    gate = store.gate()
    decided = {"threshold": where.threshold, "mpp": where.mpp, "tiles": len(tiles.table)}
    if gate is not None:
        decided = gate.model_dump()
    tissue = float(tiles.table["core_tissue"].sum())
    return CascadeFacts(
        **{"scored": 0, "passed": 0, "unknown": 0, "skipped": 0, **decided},
        question=where.question,
        labels=where.labels,
        wanted=where.wanted,
        decided=gate is not None,
        tissue_skipped=round(tiles.tissue(tiles.skipped) / tissue, 9) if tissue else 0.0,
        folder=WHERE,
    )


def cascade_effort(store: RunStore) -> CascadeEffort | None:
    """Work of the coarse tiles and the work they saved; None where there are none or their run is gone."""
    folder = store.folder / WHERE
    if store.manifest.request.where is None or not (folder / JOURNAL).is_file():
        return None
    with RunStore.open(folder) as coarse:
        asked, (seconds, prompt, new) = coarse.attempts(), coarse.effort()
    skipped, attempts, effort = len(store.skipped()), store.attempts(), store.effort()
    saved = [skipped * total / attempts if attempts else 0.0 for total in effort]
    return CascadeEffort(
        asked=asked,
        seconds=seconds,
        prompt_tokens=prompt,
        new_tokens=new,
        saved_tiles=skipped,
        saved_seconds=saved[0],
        saved_prompt_tokens=round(saved[1]),
        saved_new_tokens=round(saved[2]),
    )


def upsampling(tiles: TileTally, of_grid: float) -> float:
    """How many times finer than level 0 the finest pictures are: that of the grid unless tiles were split."""
    table = tiles.table
    if not len(table):
        return of_grid
    finest = float(np.maximum(table["width"] / table["width0"], table["height"] / table["height0"]).max())
    return of_grid if finest <= of_grid * _SHARPER else round(finest, 4)


def place_warnings(
    store: RunStore, tiles: TileTally, split: SplitFacts | None, cascade: CascadeFacts | None
) -> Iterator[str]:
    """What a reader must know of where was looked."""
    request, plan = store.manifest.request, store.manifest.plan
    if cascade is not None and not cascade.decided:
        yield "The coarse tiles are not all asked yet; the request itself was asked nowhere."
    elif cascade is not None:
        yield (
            f"Looked only where coarse tiles reach {cascade.threshold:g}: {plural(cascade.skipped, 'tile')} of "
            f"{cascade.tiles:,}, {cascade.tissue_skipped:.1%} of the tissue, are left out. They are unknown, not "
            "negative; counts and densities are those of the rest."
        )
    if plan is not None and plan.tokens < plan.uniform_tokens:
        yield (
            f"To keep within {plan.token_budget:,} prompt tokens, places with little to see were looked at more "
            "coarsely, and small objects may be missed there; tiles.scales says how much tissue at which scale."
        )
    if split is not None:
        why = ", ".join(f"{number} {_WORDS[Why(reason)]}" for reason, number in split.reasons.items())
        yield f"{plural(split.tiles, 'tile')} were split and asked again in parts: {why}."
    if tiles.full and request.task in (Task.DETECT, Task.POINT):
        cure = "" if request.split else " Ask about their parts with --split 1."
        yield (
            f"{plural(tiles.full, 'tile')} list {request.max_objects} objects, as many as they may: more may be there."
            f"{cure}"
        )
    elif tiles.counts().truncated and request.task in SPLIT_TASKS and not request.split:
        yield "Ask about the parts of truncated tiles with --split 1."


_WORDS = {
    Why.TRUNCATED: "truncated",
    Why.LOOP: "looping",
    Why.CROWDED: "crowded",
    Why.MEMORY: "too large for the memory",
}
