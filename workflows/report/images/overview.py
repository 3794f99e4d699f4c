"""The overview: one picture of a run, with its boxes or heatmap, what failed, and a legend."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Task
from workflows.merge.merged import iter_merged
from workflows.report.images.colours import FAILED, SKIPPED, RGBColour, label_colours
from workflows.report.images.heatmap import Heatmap
from workflows.report.images.legend import INSET, Legend, draw_legend
from workflows.report.report import ObjectResults, Report
from workflows.store.folder import OVERVIEW, PARTIAL
from workflows.store.run_store import RunStore
from wsi.errors import ReadError
from wsi.slide import RGB, Slide
from wsi.tissue import overview as read_overview

_SIDE = 2048
_LEAST_SIDE = 1024
_BOX_PX = 8.0
_DOTS = 20_000
_ALPHA = 0.5
_PENDING: RGBColour = (110, 110, 110)
_UNREADABLE = 128


def write_overview(store: RunStore, report: Report, heatmap: Heatmap | None, slide: Slide) -> Path:
    """Draw `overview.png` into the run folder.

    Boxes are drawn where they are large enough to be seen; smaller ones become dots, and very many a density
    map, with the densest place shown enlarged beside it. Scores and classes are blended over the slide.
    Failed tiles are hatched red, tiles not asked yet gray.

    Returns
    -------
    Path of the picture.
    """
    picture, factor = _thumbnail(slide)
    colours = label_colours(store.labels)
    legend = Legend(report, colours)
    task = report.request.task
    if task in (Task.DETECT, Task.POINT):
        _draw_objects(picture, factor, store, report, heatmap, colours, legend, slide)
    elif heatmap is not None:
        _draw_values(picture, factor, heatmap, task, colours, legend)
    _hatch_tiles(picture, factor, store)
    whole = draw_legend(picture, factor, legend)
    path = store.folder / OVERVIEW
    partial = path.with_name(path.name + PARTIAL)
    encoded = cv2.imencode(".png", cv2.cvtColor(whole, cv2.COLOR_RGB2BGR))[1]
    partial.write_bytes(encoded.tobytes())
    partial.replace(path)
    return path


def _thumbnail(slide: Slide) -> tuple[RGB, float]:
    """The slide at most 2048 px wide or high, gray where it cannot be read, and its px per level-0 px."""
    factor = min(1.0, _SIDE / max(slide.width, slide.height))
    size = max(1, round(slide.width * factor)), max(1, round(slide.height * factor))
    picture, unreadable = read_overview(slide, size)
    picture[unreadable] = _UNREADABLE
    if max(picture.shape[:2]) < _LEAST_SIDE:
        enlarge = _LEAST_SIDE / max(picture.shape[:2])
        picture = np.asarray(cv2.resize(picture, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC))
    return np.ascontiguousarray(picture), picture.shape[1] / slide.width


def _draw_objects(
    picture: RGB,
    factor: float,
    store: RunStore,
    report: Report,
    heatmap: Heatmap | None,
    colours: dict[str, RGBColour],
    legend: Legend,
    slide: Slide,
) -> None:
    total = report.results.total if isinstance(report.results, ObjectResults) else 0
    if not total:
        return
    sides = [np.median(chunk.box[:, 2:] - chunk.box[:, :2]) for chunk in iter_merged(store) if len(chunk)]
    large = float(np.median(sides)) * factor >= _BOX_PX
    densest = _densest_place(heatmap, slide) if heatmap is not None and not large else None
    if total > _DOTS and not large and heatmap is not None:
        summed = np.nansum(heatmap.values, axis=0)
        summed[np.isnan(heatmap.values).all(axis=0)] = np.nan
        _blend(picture, factor, _as_colours(summed, legend.top(summed)), heatmap)
        legend.bar = (f"objects {heatmap.unit}", legend.top(summed))
    palette = list(colours.values())
    inset = None
    if densest is not None:
        x0, y0, side0 = densest
        with suppress(ReadError):
            inset = np.ascontiguousarray(slide.read_scaled(x0, y0, side0, side0, (INSET, INSET)))
    for chunk in iter_merged(store, tuple(colours)):
        if large or total <= _DOTS:
            _draw_chunk(picture, chunk.box * factor, chunk.label, palette, radius=2, dots=not large)
        if inset is not None and densest is not None:
            zoom = INSET / densest[2]
            placed = (chunk.box - np.array([densest[0], densest[1]] * 2)) * zoom
            near = ((placed[:, 2:] > 0) & (placed[:, :2] < INSET)).all(axis=1)
            _draw_chunk(inset, placed[near], chunk.label[near], palette, radius=5, dots=False)
    if inset is not None and densest is not None:
        legend.inset = inset
        corner = np.array([densest[0], densest[1]]) * factor
        low, high = corner.astype(int), np.ceil(corner + densest[2] * factor).astype(int)
        cv2.rectangle(picture, low.tolist(), high.tolist(), (0, 0, 0), 3)
        cv2.rectangle(picture, low.tolist(), high.tolist(), (255, 255, 255), 1)


def _draw_chunk(
    picture: RGB,
    boxes: NDArray[np.float64],
    labels: NDArray[np.int32],
    palette: list[RGBColour],
    *,
    radius: int,
    dots: bool,
) -> None:
    for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
        colour = palette[label]
        if dots or (box[2] - box[0] < 1 and box[3] - box[1] < 1):
            centre = round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)
            cv2.circle(picture, centre, radius, colour, -1, cv2.LINE_AA)
        else:
            low, high = (round(box[0]), round(box[1])), (round(box[2]), round(box[3]))
            cv2.rectangle(picture, low, high, colour, 2 if box[2] - box[0] > 12 else 1, cv2.LINE_AA)


def _densest_place(heatmap: Heatmap, slide: Slide) -> tuple[int, int, int] | None:
    """Corner and side in level-0 px of a square around the cell that holds most objects."""
    summed = np.nansum(heatmap.values, axis=0)
    if not summed.any():
        return None
    row, column = np.unravel_index(int(summed.argmax()), summed.shape)
    side = min(INSET, slide.width, slide.height)
    x = int((column + 0.5) * heatmap.cell0[0] - side / 2)
    y = int((row + 0.5) * heatmap.cell0[1] - side / 2)
    return max(0, min(x, slide.width - side)), max(0, min(y, slide.height - side)), side


def _draw_values(
    picture: RGB, factor: float, heatmap: Heatmap, task: Task, colours: dict[str, RGBColour], legend: Legend
) -> None:
    if task is Task.CLASSIFY:
        known: NDArray[np.bool_] = np.asarray(np.isfinite(heatmap.values).all(axis=0))
        palette = np.array([colours[channel] for channel in heatmap.channels], np.uint8)
        painted = palette[np.nan_to_num(heatmap.values, nan=-1.0).argmax(axis=0)]
        _blend(picture, factor, (painted, known), heatmap)
        return
    values = heatmap.values[0]
    top = 1.0 if heatmap.unit == "probability" else legend.top(values)
    legend.bar = ("probability of yes" if task is Task.SCORE else f"objects {heatmap.unit}", top)
    _blend(picture, factor, _as_colours(values, top), heatmap)


def _as_colours(values: NDArray[np.float32], top: float) -> tuple[RGB, NDArray[np.bool_]]:
    known: NDArray[np.bool_] = np.isfinite(values)
    scaled = np.clip(np.nan_to_num(values) / top * 255, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), known


def _blend(picture: RGB, factor: float, painted: tuple[RGB, NDArray[np.bool_]], heatmap: Heatmap) -> None:
    """Lay cells over the picture, in place, where they are known; a cell covers the same place on both."""
    colours, known = painted
    height, width = picture.shape[:2]
    column = np.minimum((np.arange(width) + 0.5) / factor // heatmap.cell0[0], known.shape[1] - 1).astype(int)
    row = np.minimum((np.arange(height) + 0.5) / factor // heatmap.cell0[1], known.shape[0] - 1).astype(int)
    for line, cells in enumerate(row.tolist()):
        shown = known[cells][column]
        under, over = picture[line][shown], colours[cells][column[shown]]
        picture[line, shown] = under * (1 - _ALPHA) + over * _ALPHA


def _hatch_tiles(picture: RGB, factor: float, store: RunStore) -> None:
    """Hatch what failed in red, what has not been asked yet in gray, what was left out in blue gray."""
    table = store.tiles()
    failed = np.isin(table["tile"], store.failed())
    skipped = np.isin(table["tile"], [*store.skipped(), *store.excluded().tolist()])
    open_tiles = ~failed & ~skipped & ~np.isin(table["tile"], store.finished())
    for rows, colour in ((table[skipped], SKIPPED), (table[open_tiles], _PENDING), (table[failed], FAILED)):
        if not len(rows):
            continue
        region = np.zeros((picture.shape[0], picture.shape[1]), bool)
        for row in rows:
            left, top = int(row["x0"] * factor), int(row["y0"] * factor)
            right = int(np.ceil((row["x0"] + row["width0"]) * factor))
            bottom = int(np.ceil((row["y0"] + row["height0"]) * factor))
            region[top:bottom, left:right] = True
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 1)
        across = np.arange(region.shape[1])
        for line, inside in enumerate(region):
            picture[line, inside & ((across + line) % 9 < 2)] = colour
