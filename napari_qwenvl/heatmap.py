"""Layers of a run beside its objects: heatmap, tissue, and the tiles nobody can speak about."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.frame import Frame
from napari_qwenvl.slide_layer import LayerData
from qwenvl.request import Request, Task
from workflows.colours import FAILED, RGBColour, label_colours
from workflows.heatmap import Heatmap
from workflows.store import RunStore
from wsi import TissueMask

HEATMAP = "qwenvl_heatmap"
"""Key of a heatmap layer's metadata under which its values lie, before any threshold."""
_OPACITY = 0.6
_TOP_QUANTILE = 0.99
_PICTURE_SIDE = 2048
_HATCH, _STROKE = 12, 3
PENDING: RGBColour = (110, 110, 110)
TISSUE: RGBColour = (40, 130, 220)


def heatmap_layers(heatmap: Heatmap, frame: Frame, request: Request) -> list[LayerData]:
    """One layer per channel; places without an answer are transparent, never low.

    Classes are shown as one picture in their colours, with the numbers behind it in hidden layers. The density of
    objects is hidden, since the objects themselves are shown.
    """
    layers: list[LayerData] = []
    if request.task is Task.CLASSIFY:
        layers.append(_class_layer(heatmap, frame, request))
    hidden = request.task in (Task.CLASSIFY, Task.DETECT, Task.POINT)
    for channel, values in zip(heatmap.channels, heatmap.values, strict=True):
        options = _cells(heatmap, frame) | {
            "name": f"{channel}: {heatmap.unit}",
            "colormap": "viridis",
            "contrast_limits": (0.0, _top(values, heatmap.unit)),
            "opacity": _OPACITY,
            "interpolation2d": "nearest",
            "visible": not hidden,
            "metadata": {HEATMAP: values, "unit": heatmap.unit, "threshold": None},
        }
        layers.append((values.copy(), options, "image"))
    return layers


def set_threshold(layer: Any, threshold: float | None) -> None:
    """Leave out cells of a heatmap layer below a value; None shows all that is known."""
    values: NDArray[np.float32] = layer.metadata[HEATMAP]
    layer.metadata["threshold"] = threshold
    layer.data = values.copy() if threshold is None else np.where(values < threshold, np.nan, values)


def heatmap_of(layer: Any) -> NDArray[np.float32] | None:
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
                "metadata": {"qwenvl_tiles": name.split(":")[0]},
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
    region, edges = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    low = np.floor(rects0[:, :2] / step).astype(int)
    high = np.ceil((rects0[:, :2] + rects0[:, 2:]) / step).astype(int) - 1
    for corner, other in zip(low.tolist(), high.tolist(), strict=True):
        cv2.rectangle(region, corner, other, 1, -1)
        cv2.rectangle(edges, corner, other, 1, 1)
    stripes = (np.arange(height)[:, None] + np.arange(width)) % _HATCH < _STROKE
    picture = np.zeros((height, width, 4), np.uint8)
    picture[region > 0] = (*colour, 45)
    picture[(region > 0) & stripes] = (*colour, 200)
    picture[edges > 0] = (*colour, 235)
    return picture, step


def _class_layer(heatmap: Heatmap, frame: Frame, request: Request) -> LayerData:
    known = np.isfinite(heatmap.values).all(axis=0)
    palette = np.array(list(label_colours(request.labels).values()), np.uint8)
    picture = np.zeros((*known.shape, 4), np.uint8)
    picture[..., :3] = palette[np.nan_to_num(heatmap.values, nan=-1.0).argmax(axis=0)]
    picture[..., 3] = np.where(known, 255, 0)
    options = _cells(heatmap, frame) | {"name": "classes", "rgb": True, "opacity": _OPACITY}
    return picture, options, "image"


def _cells(heatmap: Heatmap, frame: Frame) -> dict[str, Any]:
    return _placed(frame, *heatmap.cell0)


def _placed(frame: Frame, step_x: float, step_y: float) -> dict[str, Any]:
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
