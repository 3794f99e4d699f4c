"""The overview of a report: the slide, and what lies over it as transparent pictures."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Task
from workflows.errors import RunNotFoundError
from workflows.export._picture import slide_picture
from workflows.export.objects import RunObjects
from workflows.report.html._page import jpeg, png
from workflows.report.images.colours import FAILED, SKIPPED, RGBColour
from workflows.report.images.heatmap import Heatmap, heatmap_window, read_heatmap
from workflows.store.folder import OVERVIEW
from workflows.store.run_store import RunStore

_SIDE = 1600
_LEAST_BOX = 7.0
_ALPHA = 130
_PENDING: RGBColour = (110, 110, 110)


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture over the slide that can be shown and hidden."""

    key: str
    name: str
    picture: str
    alt: str
    shown: bool


@dataclass(frozen=True, slots=True)
class ColourBar:
    """What the colours of a heatmap mean, from 0 to `top`."""

    name: str
    top: str
    picture: str


@dataclass(frozen=True, slots=True)
class OverviewLayer:
    """The slide and its layers; where the slide is not there, the picture the run drew, without layers."""

    picture: str | None
    width: int
    height: int
    layers: tuple[Layer, ...]
    bar: ColourBar | None
    scale_bar: tuple[str, float] | None
    """Length in words, and in percent of the picture's width."""
    note: str | None = None


def overview_of(store: RunStore, objects: RunObjects, slide_path: Path | None = None) -> OverviewLayer:
    """Slide, objects, heatmap and what was not answered."""
    manifest = store.manifest
    found = slide_picture(store, _SIDE, slide_path)
    if isinstance(found, str):
        drawn = _drawn(store.folder)
        return OverviewLayer(drawn, 0, 0, (), None, None, found)
    picture, factor = found
    height, width = picture.shape[:2]
    layers = []
    heatmap = _heatmap(store.folder)
    bar = None
    objects_found = manifest.request.task in (Task.DETECT, Task.POINT)
    if objects_found:
        layers.append(_objects(objects, (height, width), factor))
    if heatmap is not None:
        layer, bar = _values(heatmap, manifest.request.task, objects, (height, width), factor, shown=not objects_found)
        layers.append(layer)
    unanswered = _unanswered(store, (height, width), factor)
    if unanswered is not None:
        layers.append(unanswered)
    mpp = manifest.slide.mpp_x
    return OverviewLayer(
        jpeg(picture, 82),
        width,
        height,
        tuple(layers),
        bar,
        None if mpp is None else _scale_bar(manifest.slide.width * mpp),
    )


def _drawn(folder: Path) -> str | None:
    path = folder / OVERVIEW
    if not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _heatmap(folder: Path) -> Heatmap | None:
    try:
        return read_heatmap(folder)
    except RunNotFoundError:
        return None


def _objects(objects: RunObjects, size: tuple[int, int], factor: tuple[float, float]) -> Layer:
    """Boxes where they are large enough to be seen as such, else dots."""
    canvas = np.zeros((*size, 4), np.uint8)
    palette = list(objects.colours.values())
    number, dots = 0, 0
    for chunk in objects:
        of = chunk.columns
        box = of.box / (*factor, *factor)
        for (x0, y0, x1, y1), label in zip(box.tolist(), of.label.tolist(), strict=True):
            colour = (*palette[label], 255)
            if max(x1 - x0, y1 - y0) < _LEAST_BOX:
                cv2.circle(canvas, (round((x0 + x1) / 2), round((y0 + y1) / 2)), 2, colour, -1)
                dots += 1
            else:
                cv2.rectangle(canvas, (round(x0), round(y0)), (round(x1), round(y1)), colour, 2)
        number += len(chunk)
    how = "dots" if dots > number / 2 else "boxes"
    return Layer("objects", f"Objects ({how})", png(canvas), f"{number:,} objects drawn as {how}", True)


def _values(
    heatmap: Heatmap,
    task: Task,
    objects: RunObjects,
    size: tuple[int, int],
    factor: tuple[float, float],
    *,
    shown: bool,
) -> tuple[Layer, ColourBar | None]:
    cells_y = np.minimum((np.arange(size[0]) + 0.5) * factor[1] // heatmap.cell0[1], heatmap.values.shape[1] - 1)
    cells_x = np.minimum((np.arange(size[1]) + 0.5) * factor[0] // heatmap.cell0[0], heatmap.values.shape[2] - 1)
    place = np.ix_(cells_y.astype(int), cells_x.astype(int))
    if task is Task.CLASSIFY:
        known: NDArray[np.bool_] = np.asarray(np.isfinite(heatmap.values).all(axis=0))
        palette = np.array([objects.colours[channel] for channel in heatmap.channels], np.uint8)
        colours = palette[np.nan_to_num(heatmap.values, nan=-1.0).argmax(axis=0)]
        return Layer(
            "heatmap", "Most likely class", _painted(colours, known, place), "class of every tile", shown
        ), None
    known = np.asarray(np.isfinite(heatmap.values).any(axis=0))
    values = np.where(known, np.nansum(np.nan_to_num(heatmap.values), axis=0), np.nan)
    top = heatmap_window(values, heatmap.unit)["max"]
    if heatmap.unit not in ("probability", "vote") and known.any():
        top = float(np.quantile(values[known], 0.99)) or top
    scaled = np.clip(np.nan_to_num(values) / top * 255, 0, 255).astype(np.uint8)
    colours = _viridis(scaled)
    name = "Probability of yes" if task is Task.SCORE else f"Objects {heatmap.unit}".replace("mm2", "mm²")
    ramp = _viridis(np.arange(256, dtype=np.uint8)[None].repeat(12, axis=0))
    bar = ColourBar(name, f"{top:,.0f}" if top >= 100 else f"{top:.3g}", jpeg(ramp, 95))
    return Layer(
        "heatmap", f"Heatmap: {name.lower()}", _painted(colours, known, place), f"heatmap, {name.lower()}", shown
    ), bar


def _viridis(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    painted = cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return np.asarray(painted, np.uint8)


def _painted(colours: NDArray[np.uint8], known: NDArray[np.bool_], place: tuple[NDArray[np.int64], ...]) -> str:
    alpha = np.where(known, _ALPHA, 0).astype(np.uint8)
    return png(np.ascontiguousarray(np.dstack([colours, alpha])[place]))


def _unanswered(store: RunStore, size: tuple[int, int], factor: tuple[float, float]) -> Layer | None:
    """Tiles that failed, that were left out, and that are not asked yet."""
    table = store.tiles()
    failed = np.isin(table["tile"], store.failed())
    skipped = np.isin(table["tile"], [*store.skipped(), *_excluded(store)])
    pending = ~failed & ~skipped & ~np.isin(table["tile"], store.finished())
    if not (failed | skipped | pending).any():
        return None
    canvas = np.zeros((*size, 4), np.uint8)
    across, down = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    for rows, colour in ((table[skipped], SKIPPED), (table[pending], _PENDING), (table[failed], FAILED)):
        region = np.zeros(size, bool)
        for row in rows:
            left, top = int(row["x0"] / factor[0]), int(row["y0"] / factor[1])
            right = int(np.ceil((row["x0"] + row["width0"]) / factor[0]))
            bottom = int(np.ceil((row["y0"] + row["height0"]) / factor[1]))
            region[top:bottom, left:right] = True
        canvas[region & ((across + down) % 9 < 2)] = (*colour, 255)
    numbers = [int(of.sum()) for of in (failed, skipped, pending)]
    words = "hatched tiles: {} failed (red), {} left out, {} not asked yet".format(*numbers)
    return Layer("unanswered", "Tiles without an answer", png(canvas), words, True)


def _excluded(store: RunStore) -> list[int]:
    return [int(tile) for tile in store.excluded()]


def _scale_bar(width_um: float) -> tuple[str, float]:
    """The longest round length that fills less than a fifth of the picture."""
    lengths = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    length = max((of for of in lengths if of <= width_um / 5), default=1)
    words = f"{length // 1000} mm" if length >= 1000 else f"{length} µm"
    return words, 100 * length / width_um
