"""Tables and figures of a PDF page, from its rules, drawings, embedded pictures and captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workflows.science.papers.pages.page import Box, Caption, Figure, Printed, Table, Word, inside, union
from workflows.science.papers.pages.text_layer import shown_boxes

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

_THIN = 2.5
"""pt that a rule is thick at most."""
_LEAST_RULE = 40.0
"""pt that the rules above and below a table are long at least."""
_LEAST_FIGURE = 36.0
"""pt of the shorter side of a figure at least; smaller ones are icons and signs."""
_CAPTION_GAP = 40.0
"""pt between a table or figure and its caption at most."""
_CAPTION = re.compile(r"(Table|Tab\.|Figure|Fig\.)\s*(S?\d+[A-Za-z]?)\b", re.IGNORECASE)


def read_regions(page: PdfPage, printed: Printed) -> tuple[tuple[Table, ...], tuple[Figure, ...]]:
    """Tables and figures of a page, from the top.

    A table is found by its rules: a grid of them, or horizontal ones of one width above, below and within it. Figures
    are embedded pictures, and drawings of other lines. Each gets the nearest caption of its kind.

    Parameters
    ----------
    page : pypdfium2.PdfPage
    printed : Printed
        Its words.
    """
    paths, pictures = _objects(page)
    size = page.get_size()
    pictures = [box for box in pictures if not _whole_page(box, size)]
    thin = [box for box in paths if min(box[2] - box[0], box[3] - box[1]) <= _THIN]
    frames = [box for box in paths if min(box[2] - box[0], box[3] - box[1]) > _THIN]
    captions = read_captions(printed)
    tables = _tables(thin, frames, printed)
    loose = [box for box in (*frames, *thin) if not any(inside(box, table.box_pt) for table in tables)]
    figures = [Figure(box, raster=True) for box in _joined(pictures, 2.0) if _large(box)]
    figures += [
        Figure(box, raster=False)
        for box in _joined([box for box in loose if not _whole_page(box, size)], 6.0)
        if _large(box) and not any(inside(box, figure.box_pt) for figure in figures)
    ]
    tables = [replace(t, caption=_caption(t.box_pt, "table", captions)) for t in tables]
    figures = [replace(f, caption=_caption(f.box_pt, "figure", captions)) for f in figures]
    by_place = lambda region: (region.box_pt[1], region.box_pt[0])  # noqa: E731
    return tuple(sorted(tables, key=by_place)), tuple(sorted(figures, key=by_place))


def read_captions(printed: Printed) -> tuple[Caption, ...]:
    """Paragraphs that begin with 'Table n' or 'Figure n' at the start of a line."""
    found = []
    for word in printed.words:
        if word.start and printed.text[word.start - 1] != "\n":
            continue
        match = _CAPTION.match(printed.text.replace("\n", " "), word.start)
        if match is None:
            continue
        after = printed.text[match.end() : match.end() + 1]
        if after and after not in ".:|—–-\n " and not after.isspace():
            continue
        stop = _caption_end(word, printed)
        signs = np.arange(word.start, stop)
        kind = "table" if match[1].lower().startswith("tab") else "figure"
        written = " ".join(re.sub(r"-\n", "", printed.text[word.start : stop]).split())
        box = union(printed.boxes_pt[signs])
        assert box is not None
        found.append(Caption(kind, match[2], written, box))
    return tuple(found)


def _caption_end(first: Word, printed: Printed) -> int:
    """Where a caption's signs end: with its paragraph, or where the print becomes larger or smaller."""
    block, high = printed.blocks[first.start], first.boxes_pt[0][3] - first.boxes_pt[0][1]
    stop = first.stop
    for word in printed.words:
        if word.start <= first.start or printed.blocks[word.start] != block:
            continue
        size = word.boxes_pt[0][3] - word.boxes_pt[0][1]
        if word.start > stop + 1 or not 0.94 < size / high < 1.06:
            break
        stop = word.stop
    return stop


def _objects(page: PdfPage) -> tuple[list[Box], list[Box]]:
    """Boxes in pt as shown of what is drawn, and of embedded pictures. A path of several rules counts each."""
    import pypdfium2 as pdfium
    import pypdfium2.raw as raw

    paths: list[Box] = []
    pictures: list[Box] = []
    for item in page.get_objects(filter=(raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_IMAGE), max_depth=4):
        try:
            box = item.get_bounds()
        except pdfium.PdfiumError:
            continue  # an object without extent draws nothing
        if item.type == raw.FPDF_PAGEOBJ_IMAGE:
            pictures.append(box)
        elif len(paths) < 20000:
            paths.append(box)
    shown = [shown_boxes(page, np.array(boxes, np.float64)).tolist() for boxes in (paths, pictures)]
    return [tuple(box) for box in shown[0]], [tuple(box) for box in shown[1]]


def _tables(thin: list[Box], frames: list[Box], printed: Printed) -> list[Table]:
    found = []
    grids = [box for box in _joined(_cells(frames, printed), 1.5) if _words_in(box, printed)]
    for box in grids:
        inner = [frame for frame in frames if inside(frame, box)]
        edges = _distinct(sorted(e for frame in inner for e in (frame[1], frame[3])))
        sides = _distinct(sorted(e for frame in inner for e in (frame[0], frame[2])))
        found.append(_table(box, edges, sides, printed))
    free = [rule for rule in thin if not any(inside(rule, box) for box in grids)]
    level = [box for box in free if box[2] - box[0] >= _LEAST_RULE and box[3] - box[1] <= _THIN]
    upright = [box for box in free if box[3] - box[1] > box[2] - box[0]]
    for group in _of_one_width(level):
        around = union(group)
        assert around is not None
        box = around
        if box[3] - box[1] < 12 or not _words_in(box, printed):
            continue
        sides = [line[0] for line in upright if inside(line, box)]
        edges = _distinct(sorted(rule[1] for rule in group))
        found.append(_table(box, edges, _distinct(sorted(sides)), printed))
    return [table for table in found if len(table.rows) > 1 and max(map(len, table.cells)) > 1]


def _cells(frames: list[Box], printed: Printed) -> list[Box]:
    """Drawn rectangles that share sides with others: the cells of a grid."""
    if len(frames) < 4:
        return []
    array = np.array(frames)
    kept = []
    for box in frames:
        beside = (np.abs(array[:, 1] - box[1]) < 1.5) & (np.abs(array[:, 3] - box[3]) < 1.5)
        above = (np.abs(array[:, 0] - box[0]) < 1.5) & (np.abs(array[:, 2] - box[2]) < 1.5)
        if beside.sum() > 1 and above.sum() > 1:
            kept.append(box)
    return kept if len(kept) >= 4 else []


def _of_one_width(rules: list[Box]) -> list[list[Box]]:
    """Horizontal rules by their left and right ends, two or more each, cut where a gap is far larger than text."""
    groups: list[list[Box]] = []
    for rule in sorted(rules, key=lambda box: box[1]):
        for group in groups:
            if abs(group[0][0] - rule[0]) < 3 and abs(group[0][2] - rule[2]) < 3:
                group.append(rule)
                break
        else:
            groups.append([rule])
    return [group for group in groups if len(group) > 1]


def _table(box: Box, edges: list[float], sides: list[float], printed: Printed) -> Table:
    """Rows between horizontal rules where every line has its own, else by the lines of the words."""
    words = _words_in(box, printed)
    lines = _rows_of_words(words)
    rows: list[Box] = []
    if len(edges) - 1 >= len(lines):
        for top, bottom in pairwise(edges):
            rows.append((box[0], top, box[2], bottom))
    else:
        tops = [min(b[1] for b in line) for line in lines]
        ends = [max(b[3] for b in line) for line in lines]
        cuts = [box[1], *((low + high) / 2 for low, high in zip(ends, tops[1:], strict=False)), box[3]]
        rows = [(box[0], top, box[2], bottom) for top, bottom in pairwise(cuts)]
    inner = [side for side in sides if box[0] + 3 < side < box[2] - 3]
    walls = [box[0], *inner, box[2]] if inner else _columns(words, box)
    cells = []
    for row in rows:
        texts: list[list[str]] = [[] for _ in range(len(walls) - 1)]
        for word in words:
            x = (word.boxes_pt[0][0] + word.boxes_pt[0][2]) / 2
            y = (word.boxes_pt[0][1] + word.boxes_pt[0][3]) / 2
            if row[1] <= y < row[3]:
                column = int(np.searchsorted(walls, x)) - 1
                texts[min(max(column, 0), len(texts) - 1)].append(word.text)
        cells.append(tuple(" ".join(text) for text in texts))
    return Table(box, tuple(rows), tuple(cells))


def _rows_of_words(words: Sequence[Word]) -> list[list[Box]]:
    lines: list[list[Box]] = []
    for box in sorted((box for word in words for box in word.boxes_pt), key=lambda box: box[1] + box[3]):
        y = (box[1] + box[3]) / 2
        if lines and any(other[1] <= y <= other[3] for other in lines[-1]):
            lines[-1].append(box)
        else:
            lines.append([box])
    return lines


def _columns(words: Sequence[Word], box: Box) -> list[float]:
    """Walls where no word of any row stands, each the middle of a gap wider than a space."""
    boxes = np.array([b for word in words for b in word.boxes_pt])
    height = float(np.median(boxes[:, 3] - boxes[:, 1]))
    walls, right = [box[0]], float(boxes[:, 0].min())
    for left, end in sorted(map(tuple, boxes[:, [0, 2]].tolist())):
        if left - right > 0.5 * height:
            walls.append((left + right) / 2)
        right = max(right, end)
    return [*walls, box[2]]


def _words_in(box: Box, printed: Printed) -> list[Word]:
    return [word for word in printed.words if inside(word.boxes_pt[0], box)]


def _distinct(values: Sequence[float], apart: float = 4.0) -> list[float]:
    kept: list[float] = []
    for value in values:
        if not kept or value - kept[-1] > apart:
            kept.append(float(value))
    return kept


def _joined(boxes: Sequence[Box], gap: float) -> list[Box]:
    """Boxes around groups of boxes that touch, or lie `gap` pt apart."""
    if not boxes:
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    array: NDArray[np.float64] = np.array(boxes)
    near = (
        (array[:, None, 0] <= array[None, :, 2] + gap)
        & (array[None, :, 0] <= array[:, None, 2] + gap)
        & (array[:, None, 1] <= array[None, :, 3] + gap)
        & (array[None, :, 1] <= array[:, None, 3] + gap)
    )
    count, labels = connected_components(coo_array(near), directed=False)
    joined = [union(array[labels == group]) for group in range(count)]
    return [box for box in joined if box is not None]


def _whole_page(box: Box, size: tuple[float, float]) -> bool:
    """Backgrounds and scans: they are the page, not a figure on it."""
    return (box[2] - box[0]) * (box[3] - box[1]) > 0.85 * size[0] * size[1]


def _large(box: Box) -> bool:
    return min(box[2] - box[0], box[3] - box[1]) >= _LEAST_FIGURE


def _caption(box: Box, kind: str, captions: Sequence[Caption]) -> Caption | None:
    """The nearest caption of a kind above or below a region and sharing its column."""
    best: tuple[float, Caption] | None = None
    for caption in captions:
        if caption.kind != kind or min(box[2], caption.box_pt[2]) <= max(box[0], caption.box_pt[0]):
            continue
        gap = max(caption.box_pt[1] - box[3], box[1] - caption.box_pt[3], 0.0)
        if gap <= _CAPTION_GAP and (best is None or gap < best[0]):
            best = gap, caption
    return None if best is None else best[1]
