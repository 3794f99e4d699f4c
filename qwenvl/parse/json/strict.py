"""Strict JSON with the place of every value, bounded and free of surprises."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from qwenvl.parse.boxes.keys import COORDINATE_KEYS
from qwenvl.parse.spans import FieldSpans, Items, RepeatedDict, Span, SplitList, written_as

MAX_DEPTH = 48
"""Deepest nesting that is read."""

_SPACE = r"[ \t\n\r]*+"
_NUMBER = r"(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?)"
_A_NUMBER = re.compile(_NUMBER)
BOX = re.compile(rf"\[{_SPACE}" + rf"{_SPACE},{_SPACE}".join([_NUMBER] * 4) + rf"{_SPACE}\]")
_INT = r"(0|[1-9][0-9]{0,8})"
_PLAIN = r'"([^"\\]*+)"'
# What the models write nearly always: a box and a name, read in one go.
_USUAL = re.compile(
    rf"\{{{_SPACE}{_PLAIN}{_SPACE}:{_SPACE}(\[{_SPACE}"
    + rf"{_SPACE},{_SPACE}".join([_INT] * 4)
    + rf"{_SPACE}\]){_SPACE},{_SPACE}{_PLAIN}{_SPACE}:{_SPACE}({_PLAIN}){_SPACE}\}}"
)
_KEY = re.compile(rf'"([^"\\]*+)"{_SPACE}:{_SPACE}')
_COLON = re.compile(rf"{_SPACE}:{_SPACE}")
_NEXT = re.compile(rf"{_SPACE}([,\]}}]){_SPACE}")
_GAP = re.compile(_SPACE)
_LITERALS = {"true": True, "false": False, "null": None, "NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LITERAL = re.compile("|".join(_LITERALS))


def object_of(pairs: list[tuple[str, object]], span: Span, spans: Sequence[Span]) -> FieldSpans | SplitList:
    """An object of `pairs`, with nothing lost: a `SplitList` of objects where a coordinate key repeats, a
    `RepeatedDict` where another key does.
    """
    item = written_as(FieldSpans, pairs, span, spans)
    if len(item) == len(pairs):
        return item
    keys = [key for key, _ in pairs if key.casefold() in COORDINATE_KEYS]
    if len(keys) == len(set(keys)):
        repeated = written_as(RepeatedDict, pairs, span, spans)
        repeated.pairs = pairs
        return repeated
    parts = parts_of(pairs, span, spans)
    return written_as(SplitList, parts, span, [span] * len(parts))


def parts_of(pairs: list[tuple[str, object]], span: Span, spans: Sequence[Span]) -> list[FieldSpans]:
    """The objects of one pair of braces: a key that stands in one already begins the next."""
    starts, keys = [0], set[str]()
    for index, (key, _) in enumerate(pairs):
        if key in keys:
            starts.append(index)
            keys.clear()
        keys.add(key)
    return [
        written_as(FieldSpans, pairs[start:stop], span, spans[start:stop])
        for start, stop in zip(starts, [*starts[1:], len(pairs)], strict=True)
    ]


def whole_number(digits: str) -> int | float:
    """An int, or a float where the digits are beyond any count or coordinate."""
    return int(digits) if len(digits) < 19 else float(digits)


def number_as_written(written: str) -> int | float | None:
    """The number that decimal text means; None where it is none."""
    written = written.strip()
    try:
        return whole_number(written) if written.lstrip("-").isdigit() else float(written)
    except ValueError:
        return None


def read_strict(text: str, start: int = 0) -> tuple[Any, int] | None:
    """The JSON value that begins at `start` and its end; None where there is none or it is nested too deep.

    Arrays are `Items`, objects `FieldSpans`. Control characters inside strings are let through. NaN and infinities
    are not JSON: they come as such floats, for whoever keeps them to clean or note.
    """
    try:
        return _value(text, start, 0)
    except (ValueError, IndexError):
        return None


def _value(text: str, at: int, depth: int) -> tuple[object, int]:
    opening = text[at]
    if opening == '"':
        return scanstring(text, at + 1, False)
    if opening in "[{":
        if depth == MAX_DEPTH:
            raise ValueError("nested too deep")
        return (_array if opening == "[" else _object)(text, at, depth + 1)
    if number := _A_NUMBER.match(text, at):
        return _number(number[0]), number.end()
    if literal := _LITERAL.match(text, at):
        return _LITERALS[literal[0]], literal.end()
    raise ValueError("no JSON value")


def _number(written: str) -> int | float:
    return whole_number(written) if written.isdigit() or written[1:].isdigit() else float(written)


def box_of(match: re.Match[str]) -> Items:
    """The array that `BOX` matched."""
    return written_as(Items, map(_number, match.groups()), match.span(), match.regs[1:])


def _array(text: str, start: int, depth: int) -> tuple[Items, int]:
    if box := BOX.match(text, start):
        return box_of(box), box.end()
    values: list[Any] = []
    spans: list[Span] = []
    at = _after(_GAP, text, start + 1)
    mark = "]" if text[at] == "]" else ","
    end = at + 1
    while mark == ",":
        value, stop = _value(text, at, depth)
        values.append(value)
        spans.append((at, stop))
        mark, end, at = _mark(text, stop, "]")
    return written_as(Items, values, (start, end), spans), end


def _object(text: str, start: int, depth: int) -> tuple[FieldSpans | SplitList, int]:
    if usual := _USUAL.match(text, start):
        regs = usual.regs
        key, _, x0, y0, x1, y1, other, _, name = usual.groups()
        box = written_as(Items, (int(x0), int(y0), int(x1), int(y1)), regs[2], regs[3:7])
        return object_of([(key, box), (other, name)], regs[0], (regs[2], regs[8])), usual.end()
    pairs: list[tuple[str, object]] = []
    spans: list[Span] = []
    at = _after(_GAP, text, start + 1)
    mark = "}" if text[at] == "}" else ","
    end = at + 1
    while mark == ",":
        if plain := _KEY.match(text, at):
            key, at = plain[1], plain.end()
        else:
            if text[at] != '"':
                raise ValueError("no key")
            key, at = scanstring(text, at + 1, False)
            at = _after(_COLON, text, at)
        value, stop = _value(text, at, depth)
        pairs.append((key, value))
        spans.append((at, stop))
        mark, end, at = _mark(text, stop, "}")
    return object_of(pairs, (start, end), spans), end


def _mark(text: str, at: int, closing: str) -> tuple[str, int, int]:
    """The comma or closing bracket behind a value, where it ends, and where what follows it begins."""
    found = _NEXT.match(text, at)
    if not found or found[1] not in (",", closing):
        raise ValueError(f"neither a comma nor {closing}")
    return found[1], found.end(1), found.end()


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    if not found:
        raise ValueError("no JSON")
    return found.end()
