"""Layers of a run beside its objects: heatmap, tissue, and the tiles nobody can speak about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.layers.keys import HEATMAP, TILES
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import LayerData
from qwenvl.request import Request, Task
from workflows.report.images.colours import FAILED, RGBColour, label_colours
from workflows.report.images.heatmap import Heatmap
from workflows.store.run_store import RunStore
from wsi import TissueMask

if TYPE_CHECKING:
    from napari.layers import Layer

_OPACITY = 0.85
_VEIL = (0.22, 0.9)
"""Opacity of the lowest and the highest value."""
_PX, _TIMES = 4_000_000, 16
"""A heatmap is shown with at most so many px, and a cell with at most so many along a side."""
_TOP_QUANTILE = 0.99
_PICTURE_SIDE = 2048
_HATCH, _STROKE = 12, 3
PENDING: RGBColour = (110, 110, 110)
TISSUE: RGBColour = (40, 130, 220)


def heatmap_layers(heatmap: Heatmap, frame: Frame, request: Request, size0: tuple[int, int]) -> list[LayerData]:
    """One layer per channel; places without an answer are transparent, while low ones are veiled.
    `size0` is width and height of the slide in level-0 px: cells that reach beyond it are cut.

    Classes are shown as one picture in their colours, with the numbers behind it in hidden layers. The density of
    objects is hidden, since the objects themselves are shown.
    """
    layers: list[LayerData] = []
    if request.task is Task.CLASSIFY:
        layers.append(_class_layer(heatmap, frame, request, size0))
    hidden = request.task in (Task.CLASSIFY, Task.DETECT, Task.POINT)
    for channel, cells in zip(heatmap.channels, heatmap.values, strict=True):
        values, placed = _on_slide(cells, heatmap, frame, size0)
        options = placed | {
            "name": f"{channel}: {heatmap.unit}",
            "colormap": colours(),
            "contrast_limits": (0.0, _top(values, heatmap.unit)),
            "opacity": _OPACITY,
            "interpolation2d": "nearest",
            "visible": not hidden,
            "metadata": {HEATMAP: values, "unit": heatmap.unit, "threshold": None},
        }
        layers.append((values.copy(), options, "image"))
    return layers


def set_threshold(layer: Layer, threshold: float | None) -> None:
    """Leave out cells of a heatmap layer below a value; None shows all that is known."""
    values: NDArray[np.float32] = layer.metadata[HEATMAP]
    layer.metadata["threshold"] = threshold
    layer.data = values.copy() if threshold is None else np.where(values < threshold, np.nan, values)


def heatmap_of(layer: Layer) -> NDArray[np.float32] | None:
    """Values of a heatmap layer before any threshold, or None for another layer."""
    return getattr(layer, "metadata", {}).get(HEATMAP)


def tissue_layer(mask: TissueMask, frame: Frame) -> LayerData:
    """The tissue as a picture that covers the slide: blue where it is, with its edge."""
    tissue = mask.array.astype(np.uint8)
    edge = tissue - cv2.erode(tissue, np.ones((3, 3), np.uint8))
    picture = np.zeros((*tissue.shape, 4), np.uint8)
    picture[tissue > 0] = (*TISSUE, 40)
    picture[edge > 0] = (*TISSUE, 255)
    scale_x, scale_y = mask.scale_xy
    options = _placed(frame, scale_x, scale_y) | {"name": "tissue", "rgb": True, "visible": False}
    return picture, options, "image"


def tile_layers(store: RunStore, frame: Frame) -> list[LayerData]:
    """Hatched pictures of the tiles that failed (red) and of those not looked at yet (gray).

    Neither says that there is nothing. A layer comes only where there are such tiles.
    """
    table = store.tiles()
    failed = np.isin(table["tile"], store.failed())
    pending = ~failed & ~np.isin(table["tile"], store.finished())
    slide = store.manifest.slide
    layers: list[LayerData] = []
    for rows, name, colour in ((pending, "not looked at", PENDING), (failed, "failed", FAILED)):
        if rows.any():
            rects = np.stack([table[rows][side] for side in ("x0", "y0", "width0", "height0")], axis=1)
            picture, step = hatched_tiles(rects, (slide.width, slide.height), colour)
            options = _placed(frame, step, step) | {
                "name": f"{name}: {int(rows.sum()):,} of {len(table):,} tiles",
                "rgb": True,
                "metadata": {TILES: name},
            }
            layers.append((picture, options, "image"))
    return layers


def hatched_tiles(
    rects0: NDArray[np.int64], size0: tuple[int, int], colour: RGBColour
) -> tuple[NDArray[np.uint8], float]:
    """Tiles hatched on a picture of the slide.

    Parameters
    ----------
    rects0 : int64 (n, 4)
        x, y, width, height in level-0 px.
    size0 : (width, height)
        The slide in level-0 px.

    Returns
    -------
    rgba : uint8 (h, w, 4)
        Transparent outside the tiles.
    step : float
        Level-0 px per px of the picture.
    """
    step = max(1.0, max(size0) / _PICTURE_SIDE)
    height, width = int(np.ceil(size0[1] / step)), int(np.ceil(size0[0] / step))
    codes, edges = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    low = np.floor(rects0[:, :2] / step).astype(int)
    high = np.ceil((rects0[:, :2] + rects0[:, 2:]) / step).astype(int) - 1
    for corner, other in zip(low.tolist(), high.tolist(), strict=True):
        cv2.rectangle(codes, corner, other, 1, -1)
        cv2.rectangle(edges, corner, other, 3, 1)
    stripes = (np.arange(height + width) % _HATCH < _STROKE).astype(np.uint8)
    codes *= 1 + np.lib.stride_tricks.sliding_window_view(stripes, width)[:height]
    np.maximum(codes, edges, out=codes)
    table = np.array([(0, 0, 0, 0), (*colour, 45), (*colour, 200), (*colour, 235)], np.uint8)
    picture = table.view(np.uint32).ravel()[codes].view(np.uint8).reshape(height, width, 4)
    return picture, step


def colours() -> Any:
    """Viridis that is nearly clear where values are low and nearly opaque where they are high."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    table = ensure_colormap("viridis").map(np.linspace(0, 1, 64))
    table[:, 3] = np.linspace(*_VEIL, 64)
    return Colormap(table, name="qwenvl", display_name="viridis, clear to opaque")


def _class_layer(heatmap: Heatmap, frame: Frame, request: Request, size0: tuple[int, int]) -> LayerData:
    known = np.isfinite(heatmap.values).all(axis=0)
    palette = np.array(list(label_colours(request.labels).values()), np.uint8)
    cells = np.zeros((*known.shape, 4), np.uint8)
    cells[..., :3] = palette[np.nan_to_num(heatmap.values, nan=-1.0).argmax(axis=0)]
    cells[..., 3] = np.where(known, 255, 0)
    picture, placed = _on_slide(cells, heatmap, frame, size0)
    return picture, placed | {"name": "classes", "rgb": True, "opacity": 0.6}, "image"


def _on_slide(
    cells: NDArray[np.generic], heatmap: Heatmap, frame: Frame, size0: tuple[int, int]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Cells divided into smaller px, so that the picture can end where the slide does."""
    times = int(np.clip(np.sqrt(_PX / max(1, cells.shape[0] * cells.shape[1])), 1, _TIMES))
    step_x, step_y = heatmap.cell0[0] / times, heatmap.cell0[1] / times
    picture = cells.repeat(times, axis=0).repeat(times, axis=1)
    picture = picture[: int(np.ceil(size0[1] / step_y)), : int(np.ceil(size0[0] / step_x))]
    return np.ascontiguousarray(picture), _placed(frame, step_x, step_y)


def _placed(frame: Frame, step_x: float, step_y: float) -> dict[str, object]:
    """Options of a picture whose first px covers level 0 from its corner, `step` level-0 px wide and high."""
    y, x = frame.to_world(step_x / 2, step_y / 2)
    return {
        "scale": (step_y * frame.step_y, step_x * frame.step_x),
        "translate": (y, x),
        "units": frame.units,
        "axis_labels": ("y", "x"),
        "blending": "translucent_no_depth",
    }


def _top(values: NDArray[np.float32], unit: str) -> float:
    known = values[np.isfinite(values)]
    if unit in ("probability", "vote") or not known.size:
        return 1.0
    return float(np.quantile(known, _TOP_QUANTILE)) or float(known.max()) or 1.0
