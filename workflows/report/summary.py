"""From the store of a run to its report and heatmap: a pass over the answers, one over merged objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qwenvl.request import Task
from workflows._words import plural
from workflows.report.images.heatmap import Heatmap
from workflows.report.places import cascade_effort, cascade_facts, place_warnings, scale_facts, split_facts, upsampling
from workflows.report.report import Provenance, Report, RunFacts, StatusCounts, TileFacts
from workflows.report.results import ExtractResults, Results, TextResults
from workflows.report.tally import TileTally, read_tiles
from workflows.report.task_results import classify_results, count_results, objects_results, score_results
from workflows.review.facts import review_facts
from workflows.run.quality import QualityFacts, quality_facts
from workflows.store.provenance import utc_now
from workflows.store.run_store import RunStore

DOUBTED_TISSUE = 0.25
"""Share of the tissue that hangs on the threshold, from which a report warns."""


def summarise(store: RunStore) -> tuple[Report, Heatmap | None]:
    """The report of a run as far as it has come, and its heatmap where the task has one.

    Everything but the report's sections `run` and `review` depends only on what was asked and answered: not on the
    order, the batches or the interruptions in which it happened.
    """
    store.verify()
    manifest = store.manifest
    tiles = read_tiles(store)
    results: Results
    heatmap: Heatmap | None = None
    extra: list[str] = []
    match manifest.request.task:
        case Task.DETECT | Task.POINT:
            results, heatmap, extra = objects_results(store, tiles)
        case Task.COUNT:
            results, heatmap = count_results(store, tiles)
        case Task.CLASSIFY:
            results, heatmap = classify_results(store, tiles)
        case Task.SCORE:
            results, heatmap = score_results(store, tiles)
        case Task.DESCRIBE | Task.ASK:
            words: Literal["ask", "describe"] = "ask" if manifest.request.task is Task.ASK else "describe"
            results = TextResults(task=words, total=tiles.texts, tiles=tuple(tiles.words))
        case Task.EXTRACT:
            results = ExtractResults(task="extract", total=tiles.texts, tiles=tuple(tiles.said))
    counts = tiles.counts()
    all_tissue = float(tiles.table["core_tissue"].sum())
    in_tiles = tiles.tissue(tiles.complete) / all_tissue if all_tissue else 0.0
    answered = round(min(1.0, in_tiles * manifest.grid.tissue_coverage), 9)
    seconds, prompt_tokens, new_tokens = store.effort()
    split, cascade = split_facts(store), cascade_facts(store, tiles)
    report = Report(
        schema_version="1.1",
        complete=counts.pending == 0 and counts.failed == 0 and not store.doubts(),
        slide=manifest.slide,
        request=manifest.request,
        model=manifest.model,
        grid=manifest.grid,
        mask=manifest.mask,
        plan=manifest.plan,
        cascade=cascade,
        tiles=TileFacts(
            total=len(tiles.table),
            counts=counts,
            tissue_answered=answered,
            failed=tuple(tiles.failed),
            scales=tuple(scale_facts(store, tiles)),
            split=split,
        ),
        results=results,
        quality=_quality(store, tiles),
        review=review_facts(store.reviews()),
        warnings=(
            *_warnings(store, tiles, counts, answered),
            *place_warnings(store, tiles, split, cascade),
            *extra,
            *_vote_warning(tiles),
        ),
        provenance=Provenance(
            run_id=str(manifest.run_id),
            request_hash=manifest.request_hash,
            slide_fingerprint=manifest.slide.fingerprint,
            model_fingerprint=manifest.model.fingerprint,
            grid_hash=manifest.grid.hash,
            versions=manifest.versions,
            repeat="qwenvl repeat report.json -o NEW_FOLDER",
        ),
        run=RunFacts(
            created=manifest.created,
            reported=utc_now(),
            command=manifest.command,
            asked=store.attempts(),
            model_seconds=seconds,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            cascade=cascade_effort(store),
        ),
    )
    return report, heatmap


def _warnings(store: RunStore, tiles: TileTally, counts: StatusCounts, answered: float) -> Iterator[str]:
    manifest = store.manifest
    yield from store.doubts()
    if manifest.model.warning:
        yield f"Model: {manifest.model.warning}"
    if manifest.model.trained:
        yield from manifest.model.trained.doubts((manifest.grid.tile_size,) * 2, manifest.grid.mpp)
    if manifest.slide.mpp_source == "user":
        yield f"The slide's scale was given by the user: {manifest.slide.mpp:g} um/px."
    if manifest.slide.mpp is None:
        yield "The slide does not state its scale: there are no areas in mm2 and no densities."
    if share := manifest.mask.details.get("unreadable"):
        yield f"{share:.1%} of the slide could not be read when tissue was looked for; it was taken for tissue."
    share = manifest.mask.details.get("on_threshold")
    if isinstance(share, int | float) and share >= DOUBTED_TISSUE:
        yield (
            f"The tissue was found with doubt: {share:.0%} of it hangs on the threshold of stain density. Look at the "
            "mask, or give one with --mask."
        )
    if (enlarged := upsampling(tiles, manifest.grid.upsampling)) > 1.01:
        most = "" if enlarged == manifest.grid.upsampling else "up to "
        yield (
            f"The pictures are enlarged {most}{enlarged:.2f}-fold beyond the slide's own resolution; "
            "they hold no more detail than the slide."
        )
    if manifest.grid.tissue_coverage < 0.9995:
        yield f"min_tissue left out tiles: the grid covers {manifest.grid.tissue_coverage:.1%} of the tissue."
    missing = {
        "failed": counts.failed,
        "truncated": counts.truncated,
        "refused": counts.refused,
        "not asked yet": counts.pending,
        "left out": counts.skipped,
        "excluded by quality control": counts.excluded,
    }
    if any(missing.values()):
        listed = ", ".join(f"{plural(number, 'tile')} {what}" for what, number in missing.items() if number)
        yield f"Results cover {answered:.1%} of the tissue: {listed}."


def _quality(store: RunStore, tiles: TileTally) -> QualityFacts | None:
    """What quality control found; unknown for tiles that could not be read."""
    manifest = store.manifest
    if manifest.quality.mode == "off":
        return None
    return quality_facts(
        manifest.quality, tiles.flags.values(), tiles.table["core_tissue"][list(tiles.flags)], manifest.slide.mm2_per_px
    )


def _vote_warning(tiles: TileTally) -> Iterator[str]:
    if tiles.voted:
        yield "The model gave classes without probabilities: the heatmap shows the class that was chosen."
