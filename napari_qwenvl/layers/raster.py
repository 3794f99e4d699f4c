"""The visible objects as one picture in px of the screen: outlines while they can be distinguished, then density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.layers.objects import Objects
from workflows.review.reviewed import State

Rows = NDArray[np.int64]
_LEAST_SIDE = 5
"""Objects smaller than this on screen (px) are drawn as dots."""
_SIDE_WITH_TICK = 14
"""Objects at least this large on screen (px) show whether they were reviewed."""
_FEW = 500
"""So many objects are always outlined."""
_BLOCK = 1 << 16
"""Objects counted at a time, to keep memory low."""
_MOST_INK = 0.5
"""Share of an object's neighbourhood that outlines may cover before density says more; twice that of large ones."""
_NEIGHBOURHOOD = 48
"""Side in screen px."""
_CELL = 4
"""Side in screen px of a cell of the density."""
_NOTHING, _HALO, _GRAY, _WHITE, _LIGHT, _FIRST = 0, 1, 2, 3, 4, 5
_FIXED = ((0, 0, 0, 0), (20, 10, 30, 110), (120, 120, 120, 220), (255, 255, 255, 255), (255, 255, 255, 210))
_MOST_COLOURS = 256 - _FIRST


@dataclass(frozen=True, slots=True)
class ScreenView:
    """A rectangle of the slide and the px it is drawn with.

    Attributes
    ----------
    left0, top0 : float
        Its corner in level-0 px.
    px_x, px_y : float
        Level-0 px per px of the picture.
    width, height : int
        Size of the picture in px.
    """

    left0: float
    top0: float
    px_x: float
    px_y: float
    width: int
    height: int

    @property
    def rect0(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max in level-0 px."""
        return (self.left0, self.top0, self.left0 + self.width * self.px_x, self.top0 + self.height * self.px_y)

    def cut(self, bounds0: tuple[float, float, float, float], margin: int) -> ScreenView | None:
        """The part that lies within bounds (level-0 px) and `margin` px around them; None where none does."""
        x_min, y_min, x_max, y_max = bounds0
        left = max(0, int(np.floor((x_min - self.left0) / self.px_x)) - margin)
        top = max(0, int(np.floor((y_min - self.top0) / self.px_y)) - margin)
        right = min(self.width, int(np.ceil((x_max - self.left0) / self.px_x)) + margin)
        bottom = min(self.height, int(np.ceil((y_max - self.top0) / self.px_y)) + margin)
        if right <= left or bottom <= top:
            return None
        corner = self.left0 + left * self.px_x, self.top0 + top * self.px_y
        return ScreenView(*corner, self.px_x, self.px_y, right - left, bottom - top)


@dataclass(frozen=True, eq=False)
class Job:
    """All that one drawing needs, so that it can be made on another thread.

    Attributes
    ----------
    objects : Objects
    keep : bool (n,)
        Rows that pass the filters and are not shown in another way.
    colours : uint8 (labels, 3)
    selected : int or None
    lit : int64 (k,)
        Rows to light up.
    line : int
        Width of lines in px of the picture.
    most_outlines : int
        More objects than this in the view are shown as density.
    """

    view: ScreenView
    objects: Objects
    keep: NDArray[np.bool_]
    colours: NDArray[np.uint8]
    selected: int | None = None
    lit: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    line: int = 2
    most_outlines: int = 30_000


@dataclass(frozen=True, eq=False)
class Picture:
    """What `draw` made.

    Attributes
    ----------
    rgba : uint8 (height, width, 4)
    rows : int64 (k,)
        Rows of all objects in the field, ascending.
    detail : str
        'outlines' or 'density'.
    """

    view: ScreenView
    rgba: NDArray[np.uint8]
    rows: Rows
    detail: str


def rows_in(objects: Objects, keep: NDArray[np.bool_], rect0: tuple[float, float, float, float]) -> Rows:
    """Rows of kept objects that touch a rectangle in level-0 px, ascending."""
    x_min, y_min, x_max, y_max = objects.box.T
    inside = x_max >= rect0[0]
    inside &= y_max >= rect0[1]
    inside &= x_min <= rect0[2]
    inside &= y_min <= rect0[3]
    inside &= keep
    return np.flatnonzero(inside)


def draw(job: Job) -> Picture:
    """Draw what the view shows of the objects kept."""
    rows = rows_in(job.objects, job.keep, job.view.rect0)
    corners = _on_screen(job, rows) if len(rows) <= job.most_outlines else None
    if corners is None or _too_dense(job, corners):
        rgba, detail = _density(job, rows), "density"
    else:
        codes = np.zeros((job.view.height, job.view.width), np.uint8)
        _outlines(codes, job, rows, corners)
        rgba, detail = _coloured(codes, job.colours), "outlines"
    _marks(rgba, job)
    return Picture(job.view, rgba, rows, detail)


def _on_screen(job: Job, rows: Rows) -> NDArray[np.int32]:
    """Boxes (k, 4) in px of the picture; what lies far outside is cut, which cannot be seen."""
    view = job.view
    corners = job.objects.box[rows] - np.array([view.left0, view.top0] * 2)
    corners /= np.array([view.px_x, view.px_y] * 2)
    limit = 4 * max(view.width, view.height)
    return np.clip(np.floor(corners), -limit, limit).astype(np.int32)


def _too_dense(job: Job, corners: NDArray[np.int32]) -> bool:
    """Whether most objects lie where outlines would cover too much to be distinguished."""
    if len(corners) <= _FEW:
        return False
    width = _line(job, corners) + 2  # with its halo
    sides = np.maximum(corners[:, 2:] - corners[:, :2], _LEAST_SIDE).astype(np.int64) + 2
    ink = np.minimum(2 * width * sides.sum(axis=1), sides.prod(axis=1))
    across = -(-job.view.width // _NEIGHBOURHOOD)
    middle = np.clip((corners[:, :2] + corners[:, 2:]) // 2, 0, (job.view.width - 1, job.view.height - 1))
    cell = middle[:, 1] // _NEIGHBOURHOOD * across + middle[:, 0] // _NEIGHBOURHOOD
    around = np.bincount(cell, weights=ink)[cell]
    most = _MOST_INK if _are_small(corners) else 2 * _MOST_INK
    return bool(np.median(around) > most * _NEIGHBOURHOOD**2)


def _line(job: Job, corners: NDArray[np.int32]) -> int:
    """Width of lines: thin ones where objects are small."""
    return max(1, job.line - 1) if _are_small(corners) else job.line


def _are_small(corners: NDArray[np.int32]) -> bool:
    """Whether outlines leave little to see inside them."""
    return len(corners) > 0 and bool(np.median(corners[:, 2:] - corners[:, :2]) < _SIDE_WITH_TICK)


def _code(label: NDArray[np.int32] | int, colours: NDArray[np.uint8]) -> Any:
    return _FIRST + label % min(max(len(colours), 1), _MOST_COLOURS)


def _outlines(codes: NDArray[np.uint8], job: Job, rows: Rows, corners: NDArray[np.int32]) -> None:
    """Colour codes of every outline, rejected ones lowest."""
    label, state = job.objects.label[rows], job.objects.state[rows]
    dots = (corners[:, 2:] - corners[:, :2]).max(axis=1, initial=0) < _LEAST_SIDE
    large = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=1 << 30) >= _SIDE_WITH_TICK
    rejected = state == State.REJECTED
    line = _line(job, corners)
    _shapes(codes, corners[rejected], dots[rejected], _GRAY, line)
    crossed = corners[rejected & large]
    if len(crossed):
        cv2.polylines(codes, list(crossed.reshape(-1, 2, 1, 2)), False, _GRAY, 1)
    for each in np.unique(label[~rejected]).tolist():
        of = (label == each) & ~rejected
        _shapes(codes, corners[of], dots[of], int(_code(each, job.colours)), line)
    reviewed = large & ((state == State.ACCEPTED) | (state == State.EDITED))
    for at in np.flatnonzero(reviewed).tolist():
        place = (int(corners[at, 0]), int(corners[at, 1]))
        inner = _WHITE if state[at] == State.EDITED else int(_code(int(label[at]), job.colours))
        cv2.circle(codes, place, job.line + 2, inner, -1)
    around = cv2.dilate(codes, np.ones((3, 3), np.uint8))
    codes[(codes == _NOTHING) & (around != _NOTHING)] = _HALO


def _shapes(
    codes: NDArray[np.uint8], corners: NDArray[np.int32], dots: NDArray[np.bool_], code: int, line: int
) -> None:
    boxes = corners[~dots]
    if len(boxes):
        rings = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 1, 2)
        cv2.polylines(codes, list(rings), True, code, line)
    for x, y in ((corners[dots, :2] + corners[dots, 2:]) // 2).tolist():
        cv2.circle(codes, (x, y), line + 1, code, -1)


def _coloured(codes: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros((256, 4), np.uint8)
    table[:_FIRST] = _FIXED
    shown = colours[:_MOST_COLOURS]
    table[_FIRST : _FIRST + len(shown)] = np.concatenate([shown, np.full((len(shown), 1), 255, np.uint8)], 1)
    rgba = table.view(np.uint32).ravel()[codes]
    return rgba.view(np.uint8).reshape(*codes.shape, 4)


def _density(job: Job, rows: Rows) -> NDArray[np.uint8]:
    """Objects per area: the colour is the mean of the classes, the opacity grows with the root of the density."""
    view = job.view
    height, width = -(-view.height // _CELL), -(-view.width // _CELL)
    kinds = max(1, min(len(job.colours), _MOST_COLOURS))
    flat = np.zeros(kinds * height * width, np.int64)
    for start in range(0, len(rows), _BLOCK):
        flat += _counts(job, rows[start : start + _BLOCK], kinds, height, width)
    counts = flat.reshape(kinds, height, width).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), 1.2) for each in counts])
    total = smooth.sum(axis=0)
    top = float(np.quantile(total[total > 0.01], 0.98)) if (total > 0.01).any() else 1.0
    mixed = np.tensordot(job.colours[:kinds].astype(np.float32).T, smooth, 1) / np.maximum(total, 1e-6)
    opacity = np.sqrt(np.clip(total / top, 0, 1)) * 215
    small = np.concatenate([mixed, opacity[None]]).transpose(1, 2, 0)
    large = cv2.resize(np.ascontiguousarray(small), (width * _CELL, height * _CELL), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.clip(large[: view.height, : view.width], 0, 255).astype(np.uint8))


def _counts(job: Job, rows: Rows, kinds: int, height: int, width: int) -> NDArray[np.int64]:
    """Objects per class and cell, (kinds * height * width,)."""
    x_min, y_min, x_max, y_max = job.objects.box.T
    view = job.view
    column = ((x_min[rows] + x_max[rows]) * 0.5 - view.left0) * (1 / (view.px_x * _CELL))
    row = ((y_min[rows] + y_max[rows]) * 0.5 - view.top0) * (1 / (view.px_y * _CELL))
    # Centres of objects that only touch the field belong to its border.
    cell = np.clip(row, 0, height - 1).astype(np.int32) * width
    cell += np.clip(column, 0, width - 1).astype(np.int32)
    cell += (job.objects.label[rows] % kinds) * (height * width)
    return np.bincount(cell, minlength=kinds * height * width)


def _marks(rgba: NDArray[np.uint8], job: Job) -> None:
    """What is selected or named in a text stands out on every level of detail."""
    lit = job.lit[job.lit < len(job.objects)]
    for row in lit.tolist():
        colour = job.colours[int(job.objects.label[row]) % len(job.colours)].tolist() if len(job.colours) else [255] * 3
        _mark(rgba, job, row, ((*_LIGHT_RGB, 235), (*colour, 255)), (job.line + 5, job.line + 2))
    if job.selected is not None and job.selected < len(job.objects):
        _mark(rgba, job, job.selected, ((15, 10, 20, 255), (255, 255, 255, 255)), (job.line + 5, job.line + 1))


_LIGHT_RGB = (255, 255, 255)


def _mark(
    rgba: NDArray[np.uint8], job: Job, row: int, colours: Sequence[tuple[int, ...]], widths: Sequence[int]
) -> None:
    [box] = _on_screen(job, np.array([row])).tolist()
    grow = max(0, (2 * _LEAST_SIDE - min(box[2] - box[0], box[3] - box[1]) + 1) // 2)
    low, high = (box[0] - grow, box[1] - grow), (box[2] + grow, box[3] + grow)
    for colour, width in zip(colours, widths, strict=True):
        cv2.rectangle(rgba, low, high, colour, width)
