"""What a report shows enlarged: the strongest findings of every class, and the tiles that say most."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from qwenvl.answer import Status
from qwenvl.request import Task
from workflows.export.objects import RunObjects
from workflows.inputs.reopening import reopen_run
from workflows.report.html._page import jpeg
from workflows.report.images.heatmap import tile_channels, tile_values
from workflows.store.rows import StoredAnswer
from workflows.store.run_store import RunStore
from wsi.errors import SlideError
from wsi.slide import Slide

PER_CLASS = 8
CLASSES = 12
TEXTS = 24
_CROP = 192
_CONTEXT = 2.4
_MOST_WORDS = 600


@dataclass(frozen=True, slots=True)
class Finding:
    """One picture with its words; `key` is its anchor, '' where nothing leads to it."""

    key: str
    picture: str | None
    alt: str
    heading: str
    facts: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Findings of one class, or of no class."""

    name: str
    shown: int
    total: int
    how: str
    findings: tuple[Finding, ...]


def findings_of(
    store: RunStore, objects: RunObjects, cited: Sequence[int] = (), slide_path: Path | None = None
) -> list[Group]:
    """Groups for the task of the run; `cited` tiles are shown besides, in a group of their own."""
    with reopen_run(store, slide_path) as found, ExitStack() as stack:
        if (slide := found.slide) is not None:
            stack.enter_context(slide.watch.held())
        groups = list(_of_objects(objects, slide) if _finds_objects(store) else _of_tiles(store, slide))
        if cited:
            groups.append(_cited(store, slide, cited))
        return [group for group in groups if group.findings]


def _finds_objects(store: RunStore) -> bool:
    return store.manifest.request.task in (Task.DETECT, Task.POINT)


# ---------------------------------------------------------------------- objects


@dataclass(order=True, slots=True)
class _Candidate:
    rank: tuple[bool, float, int]
    box: tuple[float, float, float, float]
    tile: int
    score: float
    attributes: dict[str, object]
    review: int


def _of_objects(objects: RunObjects, slide: Slide | None) -> Iterator[Group]:
    """The highest scores of every class; without scores, objects from all over the slide."""
    best: list[list[_Candidate]] = [[] for _ in objects.labels]
    totals = np.zeros(len(objects.labels), np.int64)
    for chunk in objects:
        of = chunk.columns
        scored = np.isfinite(of.score)
        # Without a score, a fixed scatter of the running number stands for chance: the same in every repetition.
        chance = (chunk.instances * 2654435761 % 2**32) / 2**32
        rank = np.where(scored, of.score, chance)
        for label in np.unique(of.label).tolist():
            rows = np.flatnonzero(of.label == label)
            totals[label] += len(rows)
            order = rows[np.lexsort((chunk.instances[rows], -rank[rows], ~scored[rows]))][:PER_CLASS]
            for row in order.tolist():
                key = int(of.tile[row]), int(of.item[row])
                best[label].append(
                    _Candidate(
                        (not scored[row], -float(rank[row]), int(chunk.instances[row])),
                        tuple(of.box[row].tolist()),
                        key[0],
                        float(of.score[row]),
                        dict(chunk.attributes.get(key, {})),
                        int(chunk.review[row]),
                    )
                )
            best[label] = sorted(best[label])[:PER_CLASS]
    for label in np.argsort(-totals, kind="stable")[:CLASSES].tolist():
        chosen = best[label]
        if not chosen:
            continue
        name = objects.labels[label]
        scored_all = not any(of.rank[0] for of in chosen)
        how = "highest scores first" if scored_all else "the model gives no scores: taken from all over the slide"
        shown = tuple(_object_finding(objects, slide, name, number, of) for number, of in enumerate(chosen, start=1))
        yield Group(name, len(shown), int(totals[label]), how, shown)


def _object_finding(objects: RunObjects, slide: Slide | None, name: str, number: int, of: _Candidate) -> Finding:
    store = objects.store
    picture = None if slide is None else _crop_around(store, slide, of.box, objects.colours[name])
    x, y = (of.box[0] + of.box[2]) / 2, (of.box[1] + of.box[3]) / 2
    facts = [place_words(store, x, y)]
    if of.tile >= 0:
        facts.append(f"tile {of.tile}")
    if of.review:
        facts.append("reviewed")
    text = ", ".join(f"{key}: {_said(value)}" for key, value in of.attributes.items())
    heading = "no score" if math.isnan(of.score) else f"score {of.score:.2f}"
    alt = f"{name}, finding {number}, {heading}, at {facts[0]}"
    return Finding("", picture, alt, heading, tuple(facts), text[:_MOST_WORDS])


def _crop_around(
    store: RunStore, slide: Slide, box: tuple[float, float, float, float], colour: tuple[int, int, int]
) -> str | None:
    """The object in its surroundings, with its box."""
    grid = store.manifest.grid
    least = 64 * grid.side0[0] / grid.tile_size
    side = max(least, _CONTEXT * max(box[2] - box[0], box[3] - box[1]))
    side = max(1, round(min(side, slide.width, slide.height)))
    x = round(min(max((box[0] + box[2] - side) / 2, 0), slide.width - side))
    y = round(min(max((box[1] + box[3] - side) / 2, 0), slide.height - side))
    try:
        picture = np.ascontiguousarray(slide.read_scaled(x, y, side, side, (_CROP, _CROP)))
    except SlideError:
        return None
    zoom = _CROP / side
    low = round((box[0] - x) * zoom), round((box[1] - y) * zoom)
    high = round((box[2] - x) * zoom), round((box[3] - y) * zoom)
    if low == high:
        cv2.circle(picture, low, 8, (255, 255, 255), 4, cv2.LINE_AA)
        cv2.circle(picture, low, 8, colour, 2, cv2.LINE_AA)
    else:
        cv2.rectangle(picture, low, high, (255, 255, 255), 4)
        cv2.rectangle(picture, low, high, colour, 2)
    return jpeg(picture)


# ---------------------------------------------------------------------- tiles


def _of_tiles(store: RunStore, slide: Slide | None) -> Iterator[Group]:
    request = store.manifest.request
    channels = tile_channels(request)
    if not channels:
        yield _texts(store, slide)
        return
    best: list[list[tuple[float, int]]] = [[] for _ in channels]
    totals = [0] * len(channels)
    for found in store.iter_answers():
        values = tile_values(found, request)
        for at, value in enumerate(values):
            chosen = request.task is not Task.CLASSIFY or found.answer.text == channels[at]
            if math.isfinite(value) and chosen and (request.task is not Task.COUNT or value > 0):
                totals[at] += 1
                best[at] = sorted([*best[at], (-value, found.tile)])[:PER_CLASS]
    names = {Task.SCORE: "Probability of yes", Task.COUNT: "Count"}
    for at, channel in enumerate(channels):
        unit = names.get(request.task, "probability")
        findings = []
        for value, tile in best[at]:
            number = f"{-value:,.0f}" if request.task is Task.COUNT else f"{-value:.2f}"
            findings.append(_tile_finding(store, slide, tile, f"{unit.lower()} {number}"))
        name = request.prompt if request.task is Task.SCORE and request.prompt else channel
        yield Group(name, len(findings), totals[at], "highest first", tuple(findings))


def _texts(store: RunStore, slide: Slide | None) -> Group:
    """The first tiles in words, in reading order."""
    findings: list[Finding] = []
    total = 0
    for found in store.iter_answers():
        text = words_of(found)
        if found.answer.status is Status.FAILED or not text:
            continue
        total += 1
        if len(findings) < TEXTS:
            status = found.answer.status
            heading = f"tile {found.tile}" + ("" if status is Status.OK else f", {status.value}")
            findings.append(_tile_finding(store, slide, found.tile, heading, text))
    return Group("What the model says", len(findings), total, "in reading order", tuple(findings))


def _cited(store: RunStore, slide: Slide | None, tiles: Sequence[int]) -> Group:
    findings = []
    for tile in tiles:
        found = store.answer(tile)
        text = "" if found is None else words_of(found)
        findings.append(_tile_finding(store, slide, tile, f"tile {tile}", text, key=f"tile-{tile}"))
    return Group("Tiles the summary rests on", len(findings), len(findings), "as cited", tuple(findings))


def _tile_finding(
    store: RunStore, slide: Slide | None, tile: int, heading: str, text: str = "", key: str = ""
) -> Finding:
    table = store.tiles()
    row = table[int(np.searchsorted(table["tile"], tile))]
    x0, y0, width, height = (int(row[name]) for name in ("x0", "y0", "width0", "height0"))
    picture = None
    if slide is not None:
        try:
            picture = jpeg(slide.read_scaled(x0, y0, width, height, (_CROP, max(1, round(_CROP * height / width)))))
        except SlideError:
            picture = None
    place = place_words(store, x0 + width / 2, y0 + height / 2)
    facts = (place,) if heading.startswith("tile ") else (place, f"tile {tile}")
    return Finding(key, picture, f"Tile {tile} at {place}: {heading}", heading, facts, text[:_MOST_WORDS])


def words_of(found: StoredAnswer) -> str:
    """What a tile's answer says in words."""
    answer = found.answer
    if answer.value is not None:
        return _said(answer.value)
    return answer.text or ""


def place_words(store: RunStore, x0: float, y0: float) -> str:
    """A place in mm from the slide's upper left corner, or in level-0 px where the scale is not known."""
    slide = store.manifest.slide
    if slide.mpp_x is None or slide.mpp_y is None:
        return f"x {x0:,.0f}, y {y0:,.0f} px"
    return f"x {x0 * slide.mpp_x / 1000:.2f}, y {y0 * slide.mpp_y / 1000:.2f} mm"


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
