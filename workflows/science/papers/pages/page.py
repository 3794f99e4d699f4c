"""A page of a document as it is shown: its picture, its printed words with their places, its tables and figures.

Two frames, both with their origin at the top left of the page as shown, x to the right, y down: *pt*, points of 1/72
inch, and *px* of the page's picture. They differ by one factor, `Page.scale` px per point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max; the frame is in the name of whatever holds it."""


class TextLayer(StrEnum):
    """What a page tells about its words apart from their pixels."""

    WORDS = "words"
    """Words with their places: values can be looked up."""
    NONE = "none"
    """Nothing but pixels: a scan, or a picture. Places can only come from the model."""
    UNREADABLE = "unreadable"
    """Signs without a meaning (fonts without a Unicode table): as good as none."""


@dataclass(frozen=True, slots=True)
class Word:
    """Signs between two spaces.

    Attributes
    ----------
    text : str
        With a hyphen where it is broken over two lines.
    boxes_pt : tuple of Box
        One per line that it stands on.
    start, stop : int
        Its signs in `Printed.text`.
    line : int
        Line that it begins on, counted over the page in the order of the file.
    """

    text: str
    boxes_pt: tuple[Box, ...]
    start: int
    stop: int
    line: int


@dataclass(frozen=True, eq=False)
class Printed:
    """The words of a page that can be seen on it.

    Attributes
    ----------
    text : str
        All signs in the order of the file. A line ends in a newline, a word broken over two in '-' and a newline.
    boxes_pt : float64 (len(text), 4)
        Place of each sign; NaN for spaces and newlines.
    words : tuple of Word
    hidden : tuple of str
        Words of the file that leave no ink on the page: white, covered, or outside. They are in none of the others.
    """

    text: str = ""
    boxes_pt: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    words: tuple[Word, ...] = ()
    hidden: tuple[str, ...] = ()

    def places(self, start: int, stop: int) -> tuple[Box, ...]:
        """Boxes in pt of the signs `start` to `stop` (excluded), one per line that they stand on."""
        found, begun = [], start
        for end in (*(i for i in range(start, stop) if self.text[i] == "\n"), stop):
            if (box := union(self.boxes_pt[begun:end])) is not None:
                found.append(box)
            begun = end + 1
        return tuple(found)

    @cached_property
    def lines(self) -> NDArray[np.int64]:
        """Line of each sign, (len(text),)."""
        ends = np.fromiter((sign == "\n" for sign in self.text), np.bool_, len(self.text))
        return np.cumsum(ends) - ends

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Paragraph of each sign, (len(text),): lines close above one another that share a column; -1 for spaces."""
        return _blocks(self)


@dataclass(frozen=True, slots=True)
class Caption:
    """The line that names a table or figure: 'Table 2. Expression of ...'."""

    kind: str
    number: str
    text: str
    box_pt: Box


@dataclass(frozen=True, slots=True)
class Table:
    """A table found by its rules.

    Attributes
    ----------
    box_pt : Box
    rows : tuple of Box
        Place of each row, from the top.
    cells : tuple of tuple of str
        Words of each row, one text per column.
    caption : Caption or None
    """

    box_pt: Box
    rows: tuple[Box, ...]
    cells: tuple[tuple[str, ...], ...]
    caption: Caption | None = None

    def row_of(self, box_pt: Box) -> int | None:
        """Number of the row that the middle of a box lies in, from 0."""
        x, y = middle(box_pt)
        for number, (x_min, y_min, x_max, y_max) in enumerate(self.rows):
            if x_min <= x <= x_max and y_min <= y <= y_max:
                return number
        return None


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture or drawing on the page. `raster` is true for embedded pixels, whose print is in no text layer."""

    box_pt: Box
    raster: bool
    caption: Caption | None = None


@dataclass(frozen=True, eq=False)
class Page:
    """One page.

    Attributes
    ----------
    number : int
        From 1, as viewers count.
    width_pt, height_pt : float
        Size as shown.
    picture : uint8 array (height, width, 3)
        RGB. It may be a little larger than the page: white at the right and below up to whole visual tokens.
    scale : float
        px of the picture per pt.
    text_layer : TextLayer
    printed : Printed
    tables : tuple of Table
    figures : tuple of Figure
    """

    number: int
    width_pt: float
    height_pt: float
    picture: NDArray[np.uint8]
    scale: float
    text_layer: TextLayer = TextLayer.NONE
    printed: Printed = field(default_factory=Printed)
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def name(self) -> str:
        """How the page is announced to the model."""
        return f"page {self.number}"

    def to_px(self, box_pt: Box) -> Box:
        """A box in pt as one in px of the picture."""
        x_min, y_min, x_max, y_max = (value * self.scale for value in box_pt)
        return x_min, y_min, x_max, y_max

    def to_pt(self, box_px: Box) -> Box:
        """A box in px of the picture as one in pt."""
        x_min, y_min, x_max, y_max = (value / self.scale for value in box_px)
        return x_min, y_min, x_max, y_max

    def table_at(self, box_pt: Box) -> int | None:
        """Number of the table that the middle of a box lies in, from 0."""
        return next((i for i, table in enumerate(self.tables) if inside(box_pt, table.box_pt)), None)


def middle(box: Box) -> tuple[float, float]:
    """Centre of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def inside(box: Box, outer: Box) -> bool:
    """Whether the middle of a box lies in another one of the same frame."""
    x, y = middle(box)
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def union(boxes: NDArray[np.float64] | Iterable[Box]) -> Box | None:
    """The smallest box around others (n, 4), those of NaN left out; None where there are none."""
    array = np.asarray(boxes if isinstance(boxes, np.ndarray) else list(boxes), np.float64).reshape(-1, 4)
    array = array[~np.isnan(array[:, 0])]
    if not len(array):
        return None
    low, high = array[:, :2].min(0).tolist(), array[:, 2:].max(0).tolist()
    return low[0], low[1], high[0], high[1]


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes of one frame."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


_COLUMN_GAP = 2.0
"""Heights of a line that part two texts on one line: more than a space, less than a gutter."""
_LINE_GAP = 0.6
"""Heights of a line between two lines of one paragraph, at most."""


def _blocks(printed: Printed) -> NDArray[np.int64]:
    segments = _segments(printed)
    parent = list(range(len(segments)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    order = sorted(range(len(segments)), key=lambda i: segments[i][2][1])
    for place, i in enumerate(order):
        box = segments[i][2]
        for j in order[place + 1 :]:
            other = segments[j][2]
            height = min(box[3] - box[1], other[3] - other[1])
            if other[1] > box[3] + _LINE_GAP * height:
                break
            shared = min(box[2], other[2]) - max(box[0], other[0])
            if shared > 0.3 * min(box[2] - box[0], other[2] - other[0]):
                parent[root(j)] = root(i)
    blocks = np.full(len(printed.text), -1, np.int64)
    for i, (start, stop, _) in enumerate(segments):
        seen = ~np.isnan(printed.boxes_pt[start:stop, 0])
        blocks[start:stop][seen] = root(i)
    return blocks


def _segments(printed: Printed) -> list[tuple[int, int, Box]]:
    """Parts of lines without wide gaps: first sign, last sign (excluded), box in pt."""
    found: list[tuple[int, int, Box]] = []
    for word in printed.words:
        start = word.start
        for box in word.boxes_pt:
            end = printed.text.find("\n", start, word.stop)
            stop = word.stop if end < 0 else end
            if found:
                first, _, last = found[-1]
                height = min(last[3] - last[1], box[3] - box[1])
                level = min(last[3], box[3]) - max(last[1], box[1]) > 0.5 * height
                if level and -height < box[0] - last[2] < _COLUMN_GAP * height:
                    joined = union((last, box))
                    assert joined is not None
                    found[-1] = first, stop, joined
                    start = stop + 1
                    continue
            found.append((start, stop, box))
            start = stop + 1
    return found
