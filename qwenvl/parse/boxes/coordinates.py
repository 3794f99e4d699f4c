"""Numbers out of whatever a model put in a coordinate's place, and their check against the space."""

from __future__ import annotations

import math
import re
from typing import Any

from qwenvl.parse.boxes.keys import EITHER_KEYS, POINT_KEYS, POLYGON_KEYS, numbers_by_name
from qwenvl.parse.spans import CutDict, CutList, FieldSpans, Items, Number, RepeatedDict, Span, span_of

OVERSHOOT = 0.02
"""Share of the space's side up to which a value beyond it is clipped; what lies farther out is dropped."""
_NUMBER = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]++)?|\.[0-9]++)(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?")
_SEPARATED = re.compile(r"[\s,;()\[\]{}<>|/a-z_]*+")
_LARGEST = 1e12
_SHARE = 1.05
_ROWS = re.compile(r"\[[^\[\]]{1,120}\]")


def number_of(value: Any) -> float | None:
    """A finite float of an int, a float or a numeric string, its place kept; None of anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40 or not _NUMBER.fullmatch(text):
            return None
        value = text
    try:
        number = value if type(value) is Number else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < _LARGEST else None


def numbers_of(values: list[object]) -> list[float] | None:
    """The numbers of an array, each with its place; None where one is no number."""
    plain = [number_of(part) for part in values]
    numbers = [part for part in plain if part is not None]
    if len(numbers) != len(values):
        return None
    if type(values) is not Items:
        return numbers
    return [
        Number.at(number, _inside(part, span) if isinstance(part, str) else span)
        for number, part, span in zip(numbers, values, values.spans, strict=True)
    ]


def numbers_in(text: str, span: Span | None = None) -> list[float] | None:
    """Numbers of a string such as '10, 20, 30, 40' or '<|box_start|>(10,20),(30,40)<|box_end|>', each with its place.

    None where the string holds anything but numbers, brackets and tag names.
    """
    if len(text) > 400 or (re.sub(_NUMBER, "", text).strip("\"' \t\r\n,;()[]{}") and not _tags_only(text)):
        return None
    return numbers_at(text, span)


def numbers_at(text: str, span: Span | None) -> list[float]:
    """All numbers of a text that stands at `span`."""
    inner = None if span is None else _inside(text, span)
    if inner is None:
        return [float(match) for match in _NUMBER.findall(text)]
    start = inner[0]
    return [Number.at(match[0], (start + match.start(), start + match.end())) for match in _NUMBER.finditer(text)]


def _inside(text: str, span: Span) -> Span | None:
    """The place of a string's characters within that of the string; None where it has escapes."""
    quotes = span[1] - span[0] - len(text)
    return (span[0] + quotes // 2, span[1] - quotes // 2) if quotes in (0, 2) else None


def by_name(item: dict[str, Any]) -> list[float | None] | None:
    """The numbers that an object spells out key by key, each with its place; see `numbers_by_name`."""
    spans = item.spans if type(item) is FieldSpans else [None] * len(item)
    named = numbers_by_name(
        {
            str(key).casefold().strip(): Number.at(part, span) if type(part) in (int, float) else part
            for (key, part), span in zip(item.items(), spans, strict=True)
        }
    )
    if named is not None and isinstance(item, RepeatedDict) and _contradicts(item):
        return [None] * len(named)
    return None if named is None else [number_of(part) for part in named]


def _contradicts(item: RepeatedDict) -> bool:
    """True where a key that stands twice has two numbers."""
    return any(type(part) in (int, float) and item[key] != part for key, part in item.pairs)


def _tags_only(text: str) -> bool:
    return _SEPARATED.fullmatch(re.sub(_NUMBER, "", text)) is not None and "<" in text


def coordinate_sets(
    value: object, key: str = "bbox_2d", span: Span | None = None
) -> tuple[list[list[float]], tuple[str, ...]]:
    """The boxes (four numbers) and points (two) that a coordinate key's value holds, usually one.

    Parameters
    ----------
    value : JSON value
    key : str
        The key, case-folded: two pairs are two corners under a box's key and two points under a point's; four pairs
        under a box's key, and all numbers under a polygon's, are corners of what the box surrounds.
    span : (int, int) or None
        Where the value stands.

    Returns
    -------
    tuple
        The number lists, each number with its place, and codes. The list is empty where the value is no coordinates;
        one of its lists has another length than two or four where the model wrote too many or too few.
    """
    if isinstance(value, (CutList, CutDict)) or value is None:
        return [], ()
    if isinstance(value, str):
        return _in_string(value, key, span)
    if isinstance(value, dict):
        named = by_name(value) or [None]
        plain = [part for part in named if part is not None]
        return ([plain], ("keys",)) if len(plain) == len(named) else ([], ())
    if not isinstance(value, list) or not value or len(value) > 4000:
        return [], ()
    if all(isinstance(part, (list, dict)) for part in value):
        return _nested(value, key)
    numbers = numbers_of(value)
    if numbers is None:
        return [], ()
    codes = ("strings",) if any(isinstance(part, str) for part in value) else ()
    return _surrounding(numbers, codes) if key in POLYGON_KEYS else ([numbers], codes)


def _in_string(value: str, key: str, span: Span | None) -> tuple[list[list[float]], tuple[str, ...]]:
    start = None if span is None or (inner := _inside(value, span)) is None else inner[0]
    rows = [
        numbers_in(row[0], None if start is None else (start + row.start(), start + row.end()))
        for row in (_ROWS.finditer(value) if value.count("[") > 1 else ())
    ]
    if len(rows) > 1 and all(row and len(row) == 4 for row in rows) and _between_rows(value):
        return [row for row in rows if row], ("strings", "nested")
    numbers = numbers_in(value, span)
    if numbers and key in POLYGON_KEYS:
        return _surrounding(numbers, ("strings",))
    return ([numbers], ("strings",)) if numbers else ([], ())


def _between_rows(text: str) -> bool:
    return not _ROWS.sub("", text).strip("[] \t\r\n,;")


def _surrounding(numbers: list[float], codes: tuple[str, ...]) -> tuple[list[list[float]], tuple[str, ...]]:
    """The box around three or more corners."""
    if len(numbers) < 6 or len(numbers) % 2:
        return [numbers] if len(numbers) == 4 else [], codes
    xs, ys = numbers[::2], numbers[1::2]
    return [[min(xs), min(ys), max(xs), max(ys)]], (*codes, "polygon")


def _nested(value: list[Any], key: str) -> tuple[list[list[float]], tuple[str, ...]]:
    rows = []
    for part in value:
        row: list[float] | None = None
        if isinstance(part, dict):
            named = by_name(part) or [None]
            plain = [item for item in named if item is not None]
            row = plain if len(plain) == len(named) else None
        elif not isinstance(part, CutList):
            inner = part[0] if len(part) == 1 and isinstance(part[0], list) else part
            row = numbers_of(inner)
        if not row:
            return [], ()
        rows.append(row)
    if key in POLYGON_KEYS:
        return _surrounding([number for row in rows for number in row], ("nested",))
    if key not in POINT_KEYS and all(len(row) == 2 for row in rows):
        if len(rows) == 2:
            return [rows[0] + rows[1]], ("nested",)
        if len(rows) == 4 and key not in EITHER_KEYS:
            return _surrounding([number for row in rows for number in row], ("nested",))
    return rows, ("nested",)


def is_share(numbers: list[float]) -> bool:
    """True for numbers that look like shares of the side: fractions up to 1, or the whole as 0, 0, 1, 1.

    No family writes them, and as numbers of its space they would be a speck in the corner.
    """
    if not numbers or max(numbers) > _SHARE:
        return False
    return len(numbers) == 4 or any(number != int(number) for number in numbers)


def placed(numbers: list[float], extent: tuple[float, float]) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """A box with sorted corners, or a point, inside its space.

    Parameters
    ----------
    numbers : list of float
        Two or four finite model numbers, x first; the result keeps their places.
    extent : tuple of float
        Width and height of the space; its least values are 0.

    Returns
    -------
    tuple
        The numbers, or None where they are dropped, and the codes that say why and what was done.
    """
    if len(numbers) == 4:
        x_min, y_min, x_max, y_max = numbers
        if 0 <= x_min < x_max <= extent[0] and 0 <= y_min < y_max <= extent[1] and max(x_max, y_max) > _SHARE:
            return tuple(numbers), ()
    codes: list[str] = []
    if is_share(numbers):
        return None, ("dropped:scale",)
    if len(numbers) == 4:
        x_first, y_first, x_last, y_last = numbers
        if x_first > x_last or y_first > y_last:
            codes.append("corners")
            numbers = [min(x_first, x_last), min(y_first, y_last), max(x_first, x_last), max(y_first, y_last)]
    elif len(numbers) != 2:
        return None, ("dropped:numbers",)
    inside = []
    for axis, value in enumerate(numbers):
        side = extent[axis % 2]
        if not -OVERSHOOT * side <= value <= (1 + OVERSHOOT) * side:
            return None, ("out_of_range", "dropped:outside")
        kept = min(max(value, 0.0), side)
        inside.append(kept if kept is value else Number.at(kept, span_of(value)))
    if inside != numbers:
        codes += ["out_of_range", "clipped"]
    if len(inside) == 4 and (inside[0] >= inside[2] or inside[1] >= inside[3]):
        return None, (*codes, "dropped:zero_area")
    return tuple(inside), tuple(codes)
