"""Asking about a stack: the whole film at once, or frame by frame through the journal of a run."""

from __future__ import annotations

import csv
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status
from qwenvl.engines.base import Engine
from qwenvl.engines.questions import answer_each
from qwenvl.images.video import UNITS
from qwenvl.request import Request, Task
from qwenvl.subject import Subject
from workflows.errors import StackError
from workflows.inputs.watched import confirm_unchanged
from workflows.merge.merged import iter_merged
from workflows.report.summary import summarise
from workflows.run.items import Progress
from workflows.run.tiles import run_tiles
from workflows.run.writing import writing
from workflows.science.timelapse.linking import LinkRules, TrackLinks, link
from workflows.science.timelapse.report import (
    NAME,
    TRACKS,
    FilmAnswer,
    FrameFacts,
    RangeFacts,
    SamplingFacts,
    StackFacts,
    TimelapseReport,
    TrackFacts,
)
from workflows.science.timelapse.sampling import (
    STAMP_TOKENS,
    frame_changes,
    frame_size,
    frames_in_budget,
    sample_frames,
)
from workflows.science.timelapse.stack import Stack
from workflows.science.timelapse.strip import Strip, strip_tiles
from workflows.science.timelapse.when import TimeRange, parse_ranges, range_schema, range_words, ranges_where
from workflows.store.folder import refuse_foreign, replace_whole
from workflows.store.provenance import (
    Manifest,
    mask_facts,
    model_facts,
    plain_json,
    slide_facts,
    software_versions,
    utc_now,
)
from workflows.store.run_store import RunStore

_WORST = (
    "pending",
    *(
        status.value
        for status in (
            Status.FAILED,
            Status.REFUSED,
            Status.TRUNCATED,
            Status.EXCLUDED,
            Status.REPAIRED,
            Status.OK,
            Status.EMPTY,
        )
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class FrameObjects:
    """The objects of one frame, in px of it."""

    boxes: NDArray[np.float64]
    labels: tuple[str, ...]
    scores: NDArray[np.float64]
    points: NDArray[np.bool_]


def choose_frames(
    stack: Stack, engine: Engine, *, side: int, budget: int | None, count: int | None = None, even: bool = False
) -> SamplingFacts:
    """Choose the frames that a model is shown.

    Parameters
    ----------
    side : int
        Longer side of a frame's picture in px.
    budget : int, optional
        Most prompt tokens for frames; None takes all.
    count : int, optional
        Frames wanted, in place of a budget.
    even : bool
        Evenly, not where things change.

    Raises
    ------
    StackError
        The budget does not pay for two frames.
    """
    factor = int(engine.info.processor.get("factor", 32))
    size = frame_size(stack.slide.width, stack.slide.height, side, factor)
    each = (size[0] // factor) * (size[1] // factor) + STAMP_TOKENS
    wanted = len(stack) if budget is None else frames_in_budget(size, factor, budget)
    wanted = min(wanted, len(stack) if count is None else count)
    if wanted < 2:
        raise StackError(f"{wanted} frame is no film: show at least two.")
    changes: tuple[float, ...] = ()
    if wanted >= len(stack):
        frames, how = tuple(range(len(stack))), "all"
    elif even:
        frames, how = sample_frames(np.ones(len(stack) - 1), wanted), "even"
    else:
        found = frame_changes(stack)
        frames, how = sample_frames(found, wanted), "changes"
        changes = tuple(round(float(value), 4) for value in found)
    return SamplingFacts(frames=frames, how=how, budget=budget, tokens_per_frame=each, size=size, changes=changes)


def ask_film(
    stack: Stack,
    engine: Engine,
    request: Request,
    sampling: SamplingFacts,
    *,
    unit: str | None = None,
    when: bool = False,
    command: str | None = None,
) -> TimelapseReport:
    """Ask one question about a film.

    Parameters
    ----------
    request : Request
        Of task ask, describe, count, classify, score or extract. With `when` of task ask: its prompt is the question,
        and the answer is kept within the stamps of the frames.
    sampling : SamplingFacts
    unit : str, optional
        In which the model is told the times; one of `qwenvl.images.video.UNITS`.

    Raises
    ------
    SlideChangedError
        The film was rewritten while its frames were read.
    StackError, RequestError, EngineError
    """
    assert sampling.size is not None
    if unit is not None and unit not in UNITS:
        raise StackError(f"--unit {unit}: choose from {', '.join(UNITS)}.")
    stamps = stack.stamps(sampling.frames, unit)
    if when:
        assert request.prompt is not None
        words = range_words(request.prompt, stamps)
        fields = {"task": Task.EXTRACT, "prompt": words, "output_schema": range_schema(stamps)}
        request = Request.model_validate({**request.model_dump(), **fields})
    with stack.slide.watch.held():
        film = Subject.film([stack.picture(frame, sampling.size) for frame in sampling.frames], stamps)
    answer = next(answer_each(engine, [film], request))
    ranges: list[TimeRange] = []
    notes: list[str] = []
    if when and answer.status is not Status.FAILED:
        said = answer.value if answer.value is not None else (answer.text or answer.raw)
        ranges, notes = parse_ranges(said, stamps, sampling.frames)
    return TimelapseReport(
        kind="when" if when else "ask",
        by="film",
        stack=stack_facts(stack, sampling.frames),
        sampling=sampling,
        request=request,
        request_hash=request.hash,
        stamps=stamps.texts,
        model=model_facts(engine.info),
        answer=_film_answer(answer, notes),
        ranges=tuple(
            RangeFacts(first=r.first, last=r.last, start=stack.places[r.first], end=stack.places[r.last])
            for r in ranges
        ),
        counts={answer.status.value: 1},
        complete=answer.status.complete,
        warnings=_warnings(engine, answer.status),
        versions=software_versions(),
        created=utc_now(),
        command=command,
    )


def _film_answer(answer: Answer, notes: Sequence[str]) -> FilmAnswer:
    value = answer.value if answer.value is not None else dict(answer.scores) or None
    return FilmAnswer(
        status=answer.status.value,
        text=answer.text,
        value=plain_json(value),
        raw=answer.raw,
        notes=(*answer.notes, *notes),
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        error=answer.error,
    )


def _warnings(engine: Engine, status: Status) -> tuple[str, ...]:
    found = [] if engine.info.warning is None else [engine.info.warning]
    if not status.complete:
        found.append(f"The answer is {status.value}: it does not speak about the whole film.")
    return tuple(found)


def stack_facts(stack: Stack, frames: Sequence[int]) -> StackFacts:
    """Facts of a stack."""
    return StackFacts.model_validate(
        {
            "slide": slide_facts(Strip(stack, frames)),
            "axis": stack.axis,
            "stored": stack.stored,
            "other": stack.other,
            "unit": stack.unit,
            "places": stack.places,
            "source": stack.source,
        }
    )


def ask_frames(
    stack: Stack,
    engine: Engine,
    request: Request,
    sampling: SamplingFacts,
    out: Path,
    *,
    rules: LinkRules | None = None,
    threshold: float = 0.5,
    bridge: int = 1,
    overwrite: bool = False,
    limit: int | None = None,
    workers: int = 2,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    command: str | None = None,
) -> TimelapseReport:
    """Ask a question of every frame, tile by tile, or go on with that where it was interrupted.

    Objects (detect, point) are linked into tracks; probabilities (score) become ranges. The folder holds the journal of
    the run (`workflows.store.run_store`), `timelapse.json`, and `tracks.csv` where there are tracks.

    Parameters
    ----------
    request : Request
        Of task detect, point or score.
    out : path
        The run folder.
    rules : LinkRules, optional
    threshold : float
        Least probability of a frame within a range.
    bridge : int
        Frames below the threshold that do not end a range.
    overwrite : bool
        Set another run found in `out` aside (renamed, not deleted).

    Raises
    ------
    StackError
        The task gives neither objects nor probabilities.
    RunMismatchError, RunLockedError, ForeignFolderError, StoreError, SlideError, EngineError
    """
    if request.task not in (Task.DETECT, Task.POINT, Task.SCORE):
        raise StackError(f"task {request.task} is not asked frame by frame: detect, point and score are.")
    engine.check(request)
    refuse_foreign(out)
    strip = Strip(stack, sampling.frames)
    table, grid, mask = strip_tiles(strip, request)
    manifest = Manifest(
        request=request,
        request_hash=request.hash,
        slide=slide_facts(strip),
        model=model_facts(engine.info),
        grid=grid,
        mask=mask_facts(mask, "all", stack.slide),
        versions=software_versions(),
        command=command,
        created=utc_now(),
    )
    with writing(RunStore.create(out, manifest, table, overwrite=overwrite)) as store:
        run_tiles(store, strip, engine, mask, progress=progress, cancel=cancel, limit=limit, workers=workers)
        doubts = confirm_unchanged(strip.watch, store)
        report, tracked = _frame_report(store, strip, sampling, rules or LinkRules(), threshold, bridge)
        report = report.model_copy(update={"warnings": (*report.warnings, *doubts)})
        if tracked is not None:
            objects, links = tracked
            replace_whole(out / TRACKS, lambda path: write_tracks(path, stack, sampling.frames, objects, links))
        report.write(out)
    return report


def _frame_report(
    store: RunStore, strip: Strip, sampling: SamplingFacts, rules: LinkRules, threshold: float, bridge: int
) -> tuple[TimelapseReport, tuple[list[FrameObjects], TrackLinks] | None]:
    stack, request = strip.stack, store.manifest.request
    states, scores = _states(store, strip)
    places = [stack.places[frame] for frame in sampling.frames]
    tracked, objects, facts = None, None, None
    ranges: tuple[RangeFacts, ...] = ()
    if request.task is Task.SCORE:
        found = ranges_where(scores, places, sampling.frames, threshold=threshold, bridge=bridge)
        ranges = tuple(RangeFacts(first=r.first, last=r.last, start=r.start, end=r.end) for r in found)
    else:
        objects = frame_objects(store, strip)
        links = link_objects(objects, rules)
        tracked = objects, links
        facts = _track_facts(links, rules)
    whole, _ = summarise(store)
    frames = tuple(
        FrameFacts(
            frame=frame,
            place=places[k],
            status=states[k],
            objects=None if objects is None else len(objects[k].boxes),
            score=None if objects is not None or math.isnan(scores[k]) else round(scores[k], 6),
        )
        for k, frame in enumerate(sampling.frames)
    )
    counts = {name: number for name, number in whole.tiles.counts.model_dump().items() if number}
    report = TimelapseReport(
        kind="when" if request.task is Task.SCORE else "track",
        by="frames",
        stack=stack_facts(stack, sampling.frames),
        sampling=sampling,
        request=request,
        request_hash=request.hash,
        stamps=stack.stamps(sampling.frames).texts if len(sampling.frames) > 1 else (),
        model=store.manifest.model,
        frames=frames,
        ranges=ranges,
        threshold=threshold if request.task is Task.SCORE else None,
        tracks=facts,
        counts=counts,
        complete=whole.complete,
        warnings=whole.warnings,
        versions=store.manifest.versions,
        created=store.manifest.created,
        command=store.manifest.command,
    )
    return report, tracked


def _states(store: RunStore, strip: Strip) -> tuple[list[str], list[float]]:
    """For each frame the worst status of its tiles and the highest probability; NaN where that is not known."""
    frame_of = {int(row["tile"]): strip.frame_at(int(row["x0"])) for row in store.tiles()}
    tiles = [0] * len(strip.frames)
    for frame in frame_of.values():
        tiles[frame] += 1
    seen: list[list[str]] = [[] for _ in strip.frames]
    best = [math.nan] * len(strip.frames)
    for stored in store.iter_answers():
        frame = frame_of[stored.tile]
        seen[frame].append(stored.answer.status.value)
        chance = stored.answer.scores.get("yes")
        if chance is not None:
            best[frame] = chance if math.isnan(best[frame]) else max(best[frame], chance)
    states = [min([*row, *["pending"] * (n > len(row))], key=_WORST.index) for row, n in zip(seen, tiles, strict=True)]
    # A frame of which a part is unknown is not a low one.
    scores = [
        math.nan if state in ("pending", "failed", "refused", "excluded") else score
        for state, score in zip(states, best, strict=True)
    ]
    return states, scores


def frame_objects(store: RunStore, strip: Strip) -> list[FrameObjects]:
    """The merged objects of every frame, in px of it."""
    labels = store.labels
    boxes: list[list[Any]] = [[] for _ in strip.frames]
    for part in iter_merged(store, labels):
        for row in range(len(part)):
            frame = strip.frame_at(part.box[row, 0])
            shift = frame * strip.pitch
            box = part.box[row] - (shift, 0, shift, 0)
            boxes[frame].append((*box, labels[part.label[row]], part.score[row], part.point[row]))
    return [
        FrameObjects(
            np.array([row[:4] for row in rows], np.float64).reshape(-1, 4),
            tuple(row[4] for row in rows),
            np.array([row[5] for row in rows], np.float64),
            np.array([row[6] for row in rows], np.bool_),
        )
        for rows in boxes
    ]


def link_objects(objects: Sequence[FrameObjects], rules: LinkRules) -> TrackLinks:
    """Link the objects of each label among themselves; all divisions too."""
    labels = sorted({label for frame in objects for label in frame.labels})
    tracks = [np.full(len(frame.boxes), -1, np.int64) for frame in objects]
    parents: dict[int, int] = {}
    reach, following = 0.0, 0
    for label in labels:
        rows = [np.flatnonzero([each == label for each in frame.labels]) for frame in objects]
        links = link([frame.boxes[chosen] for frame, chosen in zip(objects, rows, strict=True)], rules)
        for own, chosen, found in zip(tracks, rows, links.tracks, strict=True):
            own[chosen] = np.where(found >= 0, found + following, -1)
        parents |= {child + following: mother + following for child, mother in links.parents.items()}
        following += links.count
        reach = max(reach, links.reach)
    return TrackLinks(tuple(tracks), parents, reach)


def _track_facts(links: TrackLinks, rules: LinkRules) -> TrackFacts:
    every = np.concatenate([row[row >= 0] for row in links.tracks]) if links.tracks else np.zeros(0, np.int64)
    return TrackFacts(
        tracks=links.count,
        objects=len(every),
        reach=round(links.reach, 3),
        gap=rules.gap,
        divisions=rules.divisions,
        shortest=rules.shortest,
        parents=links.parents,
        longest=int(np.bincount(every).max()) if len(every) else 0,
    )


COLUMNS = ("track", "frame", "place", "label", "x_min", "y_min", "x_max", "y_max", "score", "parent")


def write_tracks(
    path: Path, stack: Stack, frames: Sequence[int], objects: Sequence[FrameObjects], links: TrackLinks
) -> None:
    """Write `tracks.csv`: an object per row, in px of the frame and s or um, ordered by track and frame."""
    rows = [
        (
            int(track),
            frame,
            f"{stack.places[frame]:.6g}",
            found.labels[k],
            *(f"{side:.2f}" for side in found.boxes[k]),
            "" if math.isnan(found.scores[k]) else f"{found.scores[k]:.4f}",
            links.parents.get(int(track), ""),
        )
        for frame, found, tracks in zip(frames, objects, links.tracks, strict=True)
        for k, track in enumerate(tracks)
        if track >= 0
    ]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows))


__all__ = [
    "NAME",
    "FrameObjects",
    "ask_film",
    "ask_frames",
    "choose_frames",
    "frame_objects",
    "link_objects",
    "stack_facts",
    "write_tracks",
]
