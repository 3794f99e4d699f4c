"""Markdown tables of objects: a row is an object, a heading its key."""

from __future__ import annotations

import re

from qwenvl.parse.boxes.keys import COORDINATE_KEYS, numbers_by_name
from qwenvl.parse.json.strict import number_as_written, object_of
from qwenvl.parse.spans import CutDict, FieldSpans, Items, Span, SplitList, written_as

_RULE = re.compile(r"^(?=[^\n]*\|)[ \t]*+\|?(?:[ \t]*+:?-+:?[ \t]*+\|)*+(?:[ \t]*+:?-+:?)?[ \t]*+\r?$", re.MULTILINE)
_CELL = re.compile(r"(?:\\\||[^|\n])*+")
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]+)?")
_UNIT = re.compile(r"\s*[(\[（].*$")
_EDGE = " \t\r*_`\"'"


def find_tables(text: str) -> list[tuple[int, int, Items]]:
    """Start, end and rows of the tables in `text` that have a column of coordinates.

    A row without the bar at its end that closes the others is a `CutDict` where the text ends with it.
    """
    found: list[tuple[int, int, Items]] = []
    position = 0
    for rule in _RULE.finditer(text):
        if rule.start() <= position:
            continue
        top = text.rfind("\n", position, rule.start() - 1) + 1 or position
        keys = [_UNIT.sub("", name) or name for name, _ in _cells(text, top, rule.start() - 1)]
        folded = {key.casefold() for key in keys}
        if COORDINATE_KEYS.isdisjoint(folded) and numbers_by_name(dict.fromkeys(folded, 0)) is None:
            continue
        rows: list[FieldSpans | SplitList] = []
        end = rule.end()
        while end < len(text):
            start, stop = end + 1, text.find("\n", end + 1)
            stop = len(text) if stop < 0 else stop
            if text.find("|", start, stop) < 0:
                break
            end = stop
            rows.append(_row(text, keys, start, end))
        span = (top, end)
        found.append((*span, written_as(Items, rows, span, [row.span for row in rows])))
        position = end
    return found


def _row(text: str, keys: list[str], start: int, end: int) -> FieldSpans | SplitList:
    cells = _cells(text, start, end)
    names = [*keys, *(f"|{number}" for number in range(len(keys) + 1, len(cells) + 1))]
    pairs = [(name, _value(cell)) for name, (cell, _) in zip(names, cells, strict=False)]
    cut = end == len(text) and not text[start:end].rstrip().endswith("|")
    spans = [span for _, span in cells]
    return written_as(CutDict, pairs, (start, end), spans) if cut else object_of(pairs, (start, end), spans)


def _cells(text: str, start: int, end: int) -> list[tuple[str, Span]]:
    """The cells of a line, each without the marks around it and with the place of what is left."""
    cells = []
    while start <= end:
        found = _CELL.match(text, start, end)
        stop = found.end() if found else end
        inner = text[start:stop]
        left = start + len(inner) - len(inner.lstrip(_EDGE))
        content = inner.strip(_EDGE)
        cells.append((content, (left, left + len(content))))
        start = stop + 1
    if cells and not cells[0][0]:
        cells = cells[1:]
    return cells[:-1] if cells and not cells[-1][0] else cells


def _value(cell: str) -> object:
    if _NUMBER.fullmatch(cell):
        return number_as_written(cell)
    return None if cell in ("", "-", "–", "—") else cell
