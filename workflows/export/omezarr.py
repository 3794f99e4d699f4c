"""OME-Zarr 0.5: objects as label images, and heatmaps, each as a pyramid with its scale in um."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Task
from workflows.errors import ExportError
from workflows.export._columns import scale_of
from workflows.export._file import new_path
from workflows.export._picture import slide_picture
from workflows.export.objects import RunObjects
from workflows.inputs.reopening import tell
from workflows.report.images.heatmap import Heatmap, heatmap_window, read_heatmap
from workflows.store.provenance import SlideFacts
from workflows.store.run_store import RunStore
from wsi.slide import RGB

if TYPE_CHECKING:
    import zarr

_SUFFIXES = (".zarr",)
_SIDE = 1024
_POINT_RADIUS = 3
_SMALLEST = 256
"""A pyramid ends at the level whose longer side is no larger."""


def export_labels(
    run: Path | str,
    out: Path | str,
    *,
    downsample: float | None = None,
    overwrite: bool = False,
    slide_path: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Write the objects of a run as an OME-Zarr with two label images, `labels/objects` and `labels/classes`.

    Boxes are filled, points are discs of 3 px. In `objects` the value is the object's `instance` (as in the tables),
    in `classes` 1 + the position of its class; names and colours are in the `image-label` metadata. Where objects
    overlap, the later one covers the earlier. The image the labels belong to is an overview of the slide (2048 px),
    where the slide is found. Only what holds objects takes space, and memory does not grow with
    the slide or the number of objects.

    Parameters
    ----------
    downsample : float, optional
        Level-0 px per px of the finest level, at least 1; by default the scale at which the model saw the slide.
    slide_path : Path, optional
        Where the run's slide lies now; found by itself where it moved together with the run.
    say : callable, optional
        Gets why there is no picture of the slide, where there is none; by default it is logged.

    Returns
    -------
    int
        Number of objects.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError, SlideMismatchError
    """
    import zarr

    with RunStore.open(run) as store:
        manifest = store.manifest
        if manifest.request.task not in (Task.DETECT, Task.POINT):
            raise ExportError(f"Task {manifest.request.task} finds no objects; export its heatmap instead.")
        slide = manifest.slide
        step = downsample or max(1.0, manifest.grid.side0[0] / manifest.grid.tile_size)
        if step < 1:
            raise ExportError(f"downsample: {step} is finer than the slide; use 1 or more.")
        objects = RunObjects(store)
        found = slide_picture(store, slide=slide_path)
        with new_path(Path(out), _SUFFIXES, overwrite=overwrite) as partial:
            names = ("objects", "classes")
            root = zarr.create_group(partial, zarr_format=3)
            parent = root.create_group("labels", attributes={"ome": {"version": "0.5", "labels": list(names)}})
            groups = [parent.create_group(name) for name in names]
            shape = -(-slide.height // step), -(-slide.width // step)
            shapes = _shapes((int(shape[0]), int(shape[1])))
            kinds: tuple[object, ...] = (np.uint32, np.uint16)
            pyramids = [
                [_new_level(group, level, shape, dtype) for level, shape in enumerate(shapes)]
                for group, dtype in zip(groups, kinds, strict=True)
            ]
            number, touched = _draw(objects, pyramids[0][0], pyramids[1][0], step)
            for levels in pyramids:
                _reduce(levels, touched)
            for group, name in zip(groups, names, strict=True):
                group.attrs["ome"] = {
                    "version": "0.5",
                    "multiscales": [_multiscale(f"{slide.name} {name}", "yx", shapes, (step, step), slide)],
                    "image-label": _image_label(objects) if name == "classes" else {},
                }
            about = {"run": str(manifest.run_id), "labels": list(objects.labels)}
            if not isinstance(found, str):
                _write_picture(root, *found, slide)
            else:
                about["no_picture"] = found
                tell(f"{found} The labels are written without its picture.", say)
                # Readers look for an image first; without the slide, the classes stand for it.
                image = _multiscale(slide.name, "yx", shapes, (step, step), slide, "labels/classes/")
                root.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
            root.attrs["qwenvl"] = about
    return number


def export_heatmap(run: Path | str, out: Path | str, *, overwrite: bool = False) -> int:
    """Write the heatmap of a run as an OME-Zarr pyramid, float32 (c, y, x); NaN where nothing is known.

    A coarser cell is the mean of what is known of the four beneath it, and unknown where fewer than two are.

    Returns
    -------
    int
        Number of channels.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
        RunNotFoundError also where the task of the run has no heatmap.
    """
    import zarr

    with RunStore.open(run) as store:
        manifest = store.manifest
    heatmap = read_heatmap(run)
    levels = [heatmap.values]
    while max(levels[-1].shape[1:]) > 1 and (len(levels) < 2 or max(levels[-1].shape[1:]) > _SMALLEST):
        levels.append(_known_mean(levels[-1]))
    with new_path(Path(out), _SUFFIXES, overwrite=overwrite) as partial:
        root = zarr.create_group(partial, zarr_format=3)
        for level, values in enumerate(levels):
            root.create_array(
                str(level),
                data=values,
                chunks=(1, *(min(_SIDE, side) for side in values.shape[1:])),
                dimension_names=("c", "y", "x"),
                fill_value=float("nan"),
            )
        shapes = [(values.shape[1], values.shape[2]) for values in levels]
        cell = float(heatmap.cell0[0]), float(heatmap.cell0[1])
        root.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [_multiscale(manifest.slide.name, "cyx", shapes, cell, manifest.slide)],
            "omero": {"channels": _channels(heatmap)},
        }
        root.attrs["qwenvl"] = {"run": str(manifest.run_id), "unit": heatmap.unit}
    return len(heatmap.channels)


def _write_picture(root: Any, picture: RGB, cell0: tuple[float, float], slide: SlideFacts) -> None:
    """The overview of the slide as the image that the labels belong to: a pyramid (c, y, x)."""
    levels = [picture]
    while max(levels[-1].shape[:2]) > _SMALLEST:
        height, width = levels[-1].shape[:2]
        # An odd border is doubled, so that every level is exactly half the one before.
        even = np.pad(levels[-1], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        size = even.shape[1] // 2, even.shape[0] // 2
        levels.append(np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA)))
    for level, pixels in enumerate(levels):
        root.create_array(
            str(level),
            data=np.ascontiguousarray(pixels.transpose(2, 0, 1)),
            chunks=(3, _SIDE, _SIDE),
            dimension_names=("c", "y", "x"),
        )
    shapes = [(pixels.shape[0], pixels.shape[1]) for pixels in levels]
    colours = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    root.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [_multiscale(slide.name, "cyx", shapes, cell0, slide)],
        "omero": {
            "channels": [{"label": name, "color": colour, "active": True, "window": window} for name, colour in colours]
        },
    }


def _draw(objects: RunObjects, instances: Any, classes: Any, step: float) -> tuple[int, set[_Block]]:
    """Fill the boxes of all objects; how many, and the blocks that hold any.

    Objects come in the order of tiles, row by row. They wait, as numbers, until everything that reaches into a row
    of blocks is likely to be there; then its blocks are drawn and written once. What comes late is drawn over it.
    """
    table = objects.store.tiles()
    drawing = _Drawing(instances, classes)
    number = 0
    for chunk in objects:
        of = chunk.columns
        low = np.floor(of.box[:, :2] / step).astype(np.int64)
        high = np.maximum(np.ceil(of.box[:, 2:] / step).astype(np.int64), low + 1)
        low[of.point] -= _POINT_RADIUS
        high[of.point] += _POINT_RADIUS
        drawing.add(np.column_stack([low, high, chunk.instances, of.label + 1, of.point]))
        number += len(chunk)
        first = int(table["y0"][np.searchsorted(table["tile"], of.tile.min())] / step)
        drawing.flush(first // _SIDE)
    drawing.flush(None)
    return number, drawing.touched


_Block = tuple[int, int]
_LEFT, _TOP, _RIGHT, _BOTTOM, _INSTANCE, _CLASS, _POINT = range(7)
_RIM = np.arange(-_POINT_RADIUS, _POINT_RADIUS + 1)
_DISC: NDArray[np.bool_] = _RIM[:, None] ** 2 + _RIM**2 <= _POINT_RADIUS**2 + 1


class _Drawing:
    """Rectangles and discs that wait until their row of blocks is drawn."""

    def __init__(self, instances: Any, classes: Any) -> None:
        self._instances, self._classes = instances, classes
        self._waiting: dict[int, list[NDArray[np.int64]]] = {}
        self.touched: set[_Block] = set()

    def add(self, rows: NDArray[np.int64]) -> None:
        """Add rows of left, top, right, bottom, instance, class, whether it is a point."""
        height, width = self._instances.shape
        inside = (rows[:, _RIGHT] > 0) & (rows[:, _BOTTOM] > 0) & (rows[:, _LEFT] < width) & (rows[:, _TOP] < height)
        rows = rows[inside]
        first, last = rows[:, _TOP] // _SIDE, (np.minimum(rows[:, _BOTTOM], height) - 1) // _SIDE
        for row in range(max(0, int(first.min(initial=0))), int(last.max(initial=-1)) + 1):
            chosen = (first <= row) & (row <= last)
            if chosen.any():
                self._waiting.setdefault(row, []).append(rows[chosen])

    def flush(self, until: int | None) -> None:
        """Draw the rows of blocks before `until`, or all."""
        for row in sorted(self._waiting):
            if until is None or row < until:
                self._draw_row(row, np.concatenate(self._waiting.pop(row)))

    def _draw_row(self, row: int, rows: NDArray[np.int64]) -> None:
        width = self._instances.shape[1]
        first = np.maximum(rows[:, _LEFT], 0) // _SIDE
        last = (np.minimum(rows[:, _RIGHT], width) - 1) // _SIDE
        for column in range(int(first.min()), int(last.max()) + 1):
            chosen = rows[(first <= column) & (column <= last)]
            if len(chosen):
                self._draw_block((row, column), chosen)

    def _draw_block(self, block: _Block, rows: NDArray[np.int64]) -> None:
        window = _window(*block)
        height, width = (min(_SIDE, side - at * _SIDE) for side, at in zip(self._instances.shape, block, strict=True))
        drawn = np.zeros((height, width), np.int32)
        y, x = block[0] * _SIDE, block[1] * _SIDE
        for at, (left, top, right, bottom, _, _, point) in enumerate(rows.tolist(), start=1):
            x0, y0 = max(left - x, 0), max(top - y, 0)
            part = drawn[y0 : max(bottom - y, 0), x0 : max(right - x, 0)]
            if point:
                disc = _DISC[y0 - top + y :, x0 - left + x :][: part.shape[0], : part.shape[1]]
                part[disc] = at
            else:
                part[:] = at
        for image, column in ((self._instances, _INSTANCE), (self._classes, _CLASS)):
            values = np.concatenate([[0], rows[:, column]]).astype(image.dtype)[drawn]
            if block in self.touched:
                values = np.where(drawn > 0, values, np.asarray(image[window]))
            image[window] = values
        self.touched.add(block)


def _window(row: int, column: int) -> tuple[slice, slice]:
    return slice(row * _SIDE, (row + 1) * _SIDE), slice(column * _SIDE, (column + 1) * _SIDE)


def _reduce(levels: list[Any], touched: set[tuple[int, int]]) -> None:
    """Fill the coarser levels, block by block: a px takes the largest of four labels, so that none vanishes."""
    blocks = sorted(touched)
    for fine, coarse in itertools.pairwise(levels):
        blocks = sorted({(row // 2, column // 2) for row, column in blocks})
        for row, column in blocks:
            rows, columns = _window(row, column)
            part = np.asarray(fine[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop])
            across = np.maximum(part[:, ::2], _widened(part[:, 1::2], part[:, ::2].shape))
            coarse[rows, columns] = np.maximum(across[::2], _widened(across[1::2], across[::2].shape))


def _widened(part: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """The odd rows or columns, with zeros where an odd border leaves none."""
    if part.shape == shape:
        return part
    whole = np.zeros(shape, part.dtype)
    whole[: part.shape[0], : part.shape[1]] = part
    return whole


def _known_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    channels, height, width = values.shape
    padded = np.full((channels, height + height % 2, width + width % 2), np.nan, np.float32)
    padded[:, :height, :width] = values
    four = padded.reshape(channels, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    known = np.isfinite(four).sum(axis=(2, 4))
    mean = np.nansum(four, axis=(2, 4)) / np.maximum(known, 1)
    return np.where(known >= np.minimum(2, _inside(height, width)), mean, np.nan).astype(np.float32)


def _inside(height: int, width: int) -> NDArray[np.int64]:
    """How many of the four cells beneath each coarser one exist: fewer at an odd border."""
    down, across = np.full(-(-height // 2), 2), np.full(-(-width // 2), 2)
    if height % 2:
        down[-1] = 1
    if width % 2:
        across[-1] = 1
    return np.outer(down, across)


def _shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    shapes = [shape]
    while max(shapes[-1]) > _SMALLEST:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _new_level(group: zarr.Group, level: int, shape: tuple[int, int], dtype: Any) -> Any:
    return group.create_array(
        str(level), shape=shape, chunks=(_SIDE, _SIDE), dtype=np.dtype(dtype), fill_value=0, dimension_names=("y", "x")
    )


def _multiscale(
    name: str, axes: str, shapes: list[tuple[int, int]], cell0: tuple[float, float], slide: SlideFacts, folder: str = ""
) -> dict[str, Any]:
    """A multiscale whose px of level 0 are `cell0` (x, y) level-0 px of the slide.

    The centre of the slide's first px is the origin, so that the centre of px 0 lies at (cell - 1) / 2 px.
    """
    scale = scale_of(slide)
    um = scale or (1.0, 1.0)
    unit: Mapping[str, str] = {} if scale is None else {"unit": "micrometer"}
    datasets = []
    for level in range(len(shapes)):
        steps = {"x": cell0[0] * 2**level, "y": cell0[1] * 2**level}
        by = {"x": um[0], "y": um[1]}
        datasets.append(
            {
                "path": f"{folder}{level}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0 if axis == "c" else steps[axis] * by[axis] for axis in axes]},
                    {
                        "type": "translation",
                        "translation": [0.0 if axis == "c" else (steps[axis] - 1) / 2 * by[axis] for axis in axes],
                    },
                ],
            }
        )
    kinds = [
        {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", **unit} for axis in axes
    ]
    return {"name": name, "axes": kinds, "datasets": datasets}


def _image_label(objects: RunObjects) -> dict[str, Any]:
    return {
        "colors": [
            {"label-value": code, "rgba": [*colour, 255]}
            for code, colour in enumerate(objects.colours.values(), start=1)
        ],
        "properties": [{"label-value": code, "class": label} for code, label in enumerate(objects.labels, start=1)],
    }


def _channels(heatmap: Heatmap) -> list[dict[str, Any]]:
    return [
        {"label": channel, "color": "FF0000", "active": True, "window": heatmap_window(values, heatmap.unit)}
        for channel, values in zip(heatmap.channels, heatmap.values, strict=True)
    ]
