"""Strict JSON through the standard library, bounded and free of surprises."""

from __future__ import annotations

import json
from typing import Any

from qwenvl.parse._keys import COORDINATE_KEYS

MAX_DEPTH = 48
"""Deepest nesting that is read."""


class SplitList(list[Any]):
    """Several objects that the model wrote into one pair of braces, repeating its coordinate key."""


class RepeatedDict(dict[str, Any]):
    """An object in which a key stands twice; `pairs` has all of them, the dict the last."""

    pairs: list[tuple[str, Any]]


def object_of(pairs: list[tuple[str, Any]]) -> Any:
    """A dict of `pairs`, with nothing lost: a `SplitList` of dicts where a coordinate key repeats, a `RepeatedDict`
    where another key does.
    """
    item = dict(pairs)
    if len(item) == len(pairs):
        return item
    keys = [key for key, _ in pairs if key.casefold() in COORDINATE_KEYS]
    if len(keys) == len(set(keys)):
        repeated = RepeatedDict(item)
        repeated.pairs = pairs
        return repeated
    parts: list[dict[str, Any]] = [{}]
    for key, value in pairs:
        if key in parts[-1]:
            parts.append({})
        parts[-1][key] = value
    return SplitList(parts)


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


def _no_number(name: str) -> None:
    """NaN and the infinities are not JSON and name no place: null."""


_DECODER = json.JSONDecoder(
    object_pairs_hook=object_of, parse_int=whole_number, parse_constant=_no_number, strict=False
)


def read_strict(text: str, start: int = 0) -> tuple[Any, int] | None:
    """The JSON value that begins at `start` and its end; None where there is none or it is nested too deep.

    Control characters inside strings are let through. NaN and infinities become None.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (value, end) if shallow(value) else None


def shallow(value: Any) -> bool:
    """True where `value` is nested no deeper than `MAX_DEPTH`."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, (list, dict))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (list, dict))
        ]
        if not level:
            return True
    return False
