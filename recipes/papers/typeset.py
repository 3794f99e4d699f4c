"""HTML to PDF with fpdf2, in columns, with hyphens, running heads and tables that go on over a page.

A browser's layout would have to be measured afterwards; here every word is placed, so its box is known.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from workflows.export._file import require
from workflows.science.papers.pages.page import Box

WIDTH, HEIGHT = 595.0, 842.0
_MARGIN, _GUTTER, _TOP, _BOTTOM = 54.0, 20.0, 72.0, 60.0
_SIZE, _LEADING = 9.5, 12.5
_ASCENT, _DESCENT = 0.9, 0.22  # of Times, per pt of its size
_MADE = datetime(2000, 1, 1, tzinfo=UTC)  # the same paper has the same bytes
_VOWELS = "aeiouy"


@dataclass(frozen=True)
class Run:
    """A word with the values that it is part of."""

    text: str
    marks: tuple[str, ...] = ()
    bold: bool = False
    glued: bool = False
    """No space before it."""


@dataclass
class Block:
    """A piece of the paper: heading, paragraph, table or figure."""

    kind: str
    style: str = ""
    runs: list[Run] = field(default_factory=list)
    rows: list[list[list[Run]]] = field(default_factory=list)
    heads: int = 0


@dataclass(frozen=True)
class Printed:
    """Where a value was printed: page from 1, boxes in pt, one per line."""

    page: int
    boxes_pt: tuple[Box, ...]


class Reader(HTMLParser):
    """The HTML that the factory writes, as blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._into: list[Run] | None = None
        self._marks: tuple[str, ...] = ()
        self._bold = self._spaced = False
        self._table: Block | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a block, a cell or a value."""
        told = dict(attrs)
        if tag in ("h1", "h2", "p", "figcaption", "caption"):
            block = Block(tag, told.get("class") or "")
            self.blocks.append(block)
            self._into, self._bold = block.runs, tag in ("h1", "h2")
        elif tag in ("table", "figure"):
            self._table = Block(tag, told.get("class") or "")
            if tag == "figure":
                self.blocks.append(self._table)
        elif tag == "tr" and self._table is not None:
            self._table.rows.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table.rows[-1].append([])
            self._into, self._bold = self._table.rows[-1][-1], tag == "th"
            self._table.heads += tag == "th" and len(self._table.rows[-1]) == 1
        elif tag == "data":
            self._marks = tuple((told.get("value") or "").split())

    def handle_endtag(self, tag: str) -> None:
        """Close it."""
        if tag == "data":
            self._marks = ()
        elif tag in ("p", "h1", "h2", "td", "th", "caption", "figcaption"):
            self._into = None
        elif tag == "table" and self._table is not None:
            self.blocks.append(self._table)

    def handle_data(self, data: str) -> None:
        """Words."""
        if self._into is None:
            return
        for place, word in enumerate(data.split()):
            glued = place == 0 and not data[0].isspace() and bool(self._into) and not self._spaced
            self._into.append(Run(word, self._marks, self._bold, glued))
        self._spaced = data[-1].isspace()


class Typesetter:
    """Sets blocks into columns.

    Parameters
    ----------
    columns : int
    head : str
        Running head of every page.
    """

    def __init__(self, columns: int, head: str) -> None:
        require("fpdf", "Making papers", "fpdf2")
        from fpdf import FPDF

        self.pdf: Any = FPDF(unit="pt", format=(WIDTH, HEIGHT))
        self.pdf.set_auto_page_break(False)
        self.pdf.set_creation_date(_MADE)
        self._columns, self._head = columns, head
        self._wide = (WIDTH - 2 * _MARGIN - (columns - 1) * _GUTTER) / columns
        self._page, self._column, self._y = 0, columns, 0.0
        self.printed: dict[str, list[Printed]] = {}
        self._next()

    def set(self, blocks: list[Block]) -> None:
        """Set blocks one after the other."""
        for block in blocks:
            match block.kind:
                case "table":
                    self._set_table(block)
                case "figure":
                    self._set_figure(block)
                case "h1" | "h2":
                    self._set_text(block.runs, 14.0 if block.kind == "h1" else 11.0, before=6.0)
                case "caption" | "figcaption":
                    keep = 60.0 if block.kind == "caption" else 0.0
                    self._set_text(block.runs, 8.5, before=4.0 if block.kind == "caption" else 2.0, keep=keep)
                case _:
                    colour = 255 if block.style == "hidden" else 0
                    self._set_text(block.runs, _SIZE, colour=colour)

    def bytes(self) -> bytes:
        """The PDF."""
        return bytes(self.pdf.output())

    # ------------------------------------------------------------------ columns

    @property
    def _x(self) -> float:
        return _MARGIN + self._column * (self._wide + _GUTTER)

    def _next(self) -> None:
        """The next column, on a new page where this one has no more."""
        self._column += 1
        if self._column >= self._columns:
            self.pdf.add_page()
            self._page, self._column = self._page + 1, 0
            self.pdf.set_text_color(90)
            self.pdf.set_font("Times", "I", 8)
            self.pdf.text(_MARGIN, 40, self._head)
            self.pdf.text(WIDTH - _MARGIN - 12, 40, str(self._page))
            self.pdf.set_text_color(0)
        self._y = _TOP

    def _room(self, height: float) -> None:
        if self._y + height > HEIGHT - _BOTTOM:
            self._next()

    # ------------------------------------------------------------------ words

    def _font(self, bold: bool, size: float) -> None:
        self.pdf.set_font("Times", "B" if bold else "", size)

    def _width(self, text: str, bold: bool, size: float) -> float:
        self._font(bold, size)
        return float(self.pdf.get_string_width(text))

    def _set_text(
        self, runs: list[Run], size: float, *, before: float = 0.0, keep: float = 0.0, colour: int = 0
    ) -> None:
        leading = size * _LEADING / _SIZE
        self._room(before + leading + keep)
        self._y += before
        for line in self._lines(runs, size, self._wide):
            self._room(leading)
            x = self._x
            for run in line:
                x = self._word(run, x, self._y, size, colour)
            self._y += leading
        self._y += 4.0

    def _word(self, run: Run, x: float, top: float, size: float, colour: int = 0) -> float:
        """Print a word (with the space before it, unless glued); where it ends."""
        x += 0.0 if run.glued else self._width(" ", run.bold, size)
        baseline = top + _ASCENT * size
        self._font(run.bold, size)
        self.pdf.set_text_color(colour)
        self.pdf.text(x, baseline, run.text)
        end = x + self._width(run.text, run.bold, size)
        box = (x, top, end, baseline + _DESCENT * size)
        for mark in run.marks:
            self._note(mark, box)
        return end

    def _note(self, mark: str, box: Box) -> None:
        """A value's words on one line share a box; its next line gets another."""
        places = self.printed.setdefault(mark, [])
        last = places[-1] if places else None
        if last is not None and last.page == self._page:
            before = last.boxes_pt[-1]
            if abs(before[1] - box[1]) < 1 and -1 < box[0] - before[2] < 8:
                joined = (before[0], before[1], box[2], box[3])
                places[-1] = Printed(self._page, (*last.boxes_pt[:-1], joined))
                return
            if 0 < box[1] - before[1] < 20 and box[0] < before[0]:
                places[-1] = Printed(self._page, (*last.boxes_pt, box))
                return
        places.append(Printed(self._page, (box,)))

    def _lines(self, runs: list[Run], size: float, wide: float) -> list[list[Run]]:
        """Runs in lines, words that do not fit broken with a hyphen where they are long."""
        lines: list[list[Run]] = [[]]
        x = 0.0
        for given in runs:
            run = given
            while True:
                space = 0.0 if run.glued or not lines[-1] else self._width(" ", run.bold, size)
                need = space + self._width(run.text, run.bold, size)
                if x + need <= wide or (not lines[-1] and not _breaks(run.text)):
                    lines[-1].append(Run(run.text, run.marks, run.bold, run.glued or not lines[-1]))
                    x += need
                    break
                fitting = [
                    at
                    for at in _breaks(run.text)
                    if x + space + self._width(run.text[:at] + "-", run.bold, size) <= wide
                ]
                if fitting:
                    at = fitting[-1]
                    first = Run(run.text[:at] + "-", run.marks, run.bold, run.glued or not lines[-1])
                    lines[-1].append(first)
                    run = Run(run.text[at:], run.marks, run.bold, True)
                elif not lines[-1]:
                    lines[-1].append(run)
                    break
                lines.append([])
                x = 0.0
        return [line for line in lines if line]

    # ------------------------------------------------------------------ tables and figures

    def _set_table(self, table: Block) -> None:
        heads, body = table.rows[: table.heads], table.rows[table.heads :]
        widths = self._widths(table)
        begun = self._set_rows(heads, widths, table.style, top=True)
        for row in body:
            if self._y + 15.0 > HEIGHT - _BOTTOM:
                self._end_table(begun, table.style)
                self._next()
                begun = self._set_rows(heads, widths, table.style, top=True)
            self._set_rows([row], widths, table.style)
        self._end_table(begun, table.style)
        self._y += 8.0

    def _widths(self, table: Block) -> list[float]:
        natural = [
            max(sum(self._width(f" {run.text}", run.bold, 8.5) for run in cell) for cell in column) + 6.0
            for column in zip(*table.rows, strict=True)
        ]
        scale = self._wide / sum(natural)
        return [width * scale for width in natural]

    def _set_rows(self, rows: list[list[list[Run]]], widths: list[float], style: str, top: bool = False) -> float:
        if top:
            self._room(45.0)
            begun = self._y
            self.pdf.set_draw_color(0)
            self.pdf.set_line_width(0.8)
            if style == "rules":
                self.pdf.line(self._x, self._y, self._x + self._wide, self._y)
        else:
            begun = self._y
        for row in rows:
            lines = [self._lines(cell, 8.5, width - 5.0) for cell, width in zip(row, widths, strict=True)]
            high = max(map(len, lines)) * 10.5 + 4.0
            x = self._x
            for cell, width in zip(lines, widths, strict=True):
                if style == "grid":
                    self.pdf.set_line_width(0.5)
                    self.pdf.rect(x, self._y, width, high)
                for number, line in enumerate(cell):
                    at = x + 3.0
                    for run in line:
                        at = self._word(run, at, self._y + 2.0 + 10.5 * number, 8.5)
                x += width
            self._y += high
        if top and style == "rules":
            self.pdf.set_line_width(0.4)
            self.pdf.line(self._x, self._y, self._x + self._wide, self._y)
        return begun

    def _end_table(self, begun: float, style: str) -> None:
        if style == "rules" and self._y > begun:
            self.pdf.set_line_width(0.8)
            self.pdf.line(self._x, self._y, self._x + self._wide, self._y)

    def _set_figure(self, figure: Block) -> None:
        high = 110.0
        self._room(high + 40.0)
        if figure.style == "raster":
            from PIL import Image

            rng = np.random.default_rng(self._page)
            noise = rng.integers(0, 255, (60, 110, 3)).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(noise).save(stream, "PNG")
            self.pdf.image(stream, self._x + 10, self._y + 5, self._wide - 20, high - 10)
        else:
            self.pdf.set_line_width(0.7)
            self.pdf.line(self._x + 10, self._y + high - 5, self._x + self._wide - 10, self._y + high - 5)
            self.pdf.line(self._x + 10, self._y + 5, self._x + 10, self._y + high - 5)
            for bar in range(6):
                tall = 20.0 + (bar * 37) % 70
                x = self._x + 25 + bar * (self._wide - 50) / 6
                self.pdf.set_fill_color(120, 150, 190)
                self.pdf.rect(x, self._y + high - 5 - tall, 18, tall, style="F")
        self._y += high


def _breaks(word: str) -> list[int]:
    """Where a long word may be broken: between a vowel and a consonant, three letters in."""
    if len(word) < 8 or not word.isalpha() or not word.islower():
        return []
    return [at for at in range(3, len(word) - 3) if word[at - 1] in _VOWELS and word[at] not in _VOWELS]


def typeset(html: str, *, columns: int, head: str) -> tuple[bytes, dict[str, list[Printed]], int]:
    """Typeset HTML.

    Returns
    -------
    tuple
        The PDF, where each marked value was printed (a table's head again on each page), and the number of pages.
    """
    reader = Reader()
    reader.feed(html)
    setter = Typesetter(columns, head)
    setter.set(reader.blocks)
    return setter.bytes(), setter.printed, setter.pdf.page_no()


def as_scan(pdf: Path, dpi: float) -> bytes:
    """The pages of a PDF as pictures in another one: nothing of its text is left but pixels."""
    from fpdf import FPDF
    from PIL import Image

    from workflows.science.papers.pages.document import PictureRule, open_document

    made = FPDF(unit="pt", format=(WIDTH, HEIGHT))
    made.set_auto_page_break(False)
    made.set_creation_date(_MADE)
    with open_document(pdf) as document:
        for number in range(1, document.pages + 1):
            picture = document.page(number, PictureRule(dpi, factor=1)).picture
            made.add_page()
            made.image(Image.fromarray(picture), 0, 0, WIDTH, HEIGHT)
    return bytes(made.output())
