"""Answers about when: ranges of time or depth, read from a model's words or made of scores, mapped back to frames."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from qwenvl.images.video import FrameTimestamps

MOST_RANGES = 8
"""Ranges that a model may name in one answer."""

_UNITS = {
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "min": 60.0,
    "mins": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "nm": 1e-3,
    "um": 1.0,
    "\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometers": 1.0,
}
_DEPTHS = ("nm", "um", "\u00b5m", "micron", "microns", "micrometers")
_WORDS = "|".join(sorted(_UNITS, key=len, reverse=True))
_PLACE = rf"<?\s*(\d+:\d\d(?::\d\d)?(?:\.\d+)?|\d+(?:\.\d+)?)\s*({_WORDS})?(?![a-z0-9:])\s*>?"
_SPAN = re.compile(rf"{_PLACE}\s*(?:-|\u2013|\u2014|to|until|till|and|through)\s*{_PLACE}", re.IGNORECASE)
_MOMENT = re.compile(rf"(?:\bat\b|\bat about\b|<)\s*{_PLACE}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From one frame to another, both included.

    Attributes
    ----------
    first, last : int
        Frame numbers.
    start, end : float
        Their places: s after the first frame of the film, or um.
    """

    first: int
    last: int
    start: float
    end: float


def range_schema(stamps: FrameTimestamps) -> dict[str, object]:
    """JSON Schema of an answer about when: ranges from stamp to stamp, so that no other time can be named."""
    known = {"enum": [stamps.number(value) for value in stamps.values]}
    item = {
        "type": "object",
        "properties": {"start": known, "end": known},
        "required": ["start", "end"],
        "additionalProperties": False,
    }
    ranges = {"type": "array", "items": item, "maxItems": MOST_RANGES}
    return {"type": "object", "properties": {"ranges": ranges}, "required": ["ranges"], "additionalProperties": False}


def range_words(question: str, stamps: FrameTimestamps) -> str:
    """The words of a question about when."""
    return (
        f"{question} Name every range in which this is so by the stamps of its first and its last frame, in "
        f"{stamps.unit}; no range where it never is."
    )


def parse_ranges(answer: object, stamps: FrameTimestamps, frames: Sequence[int]) -> tuple[list[TimeRange], list[str]]:
    """The ranges that an answer names.

    Understood are the JSON of `range_schema` and lists of pairs, and words such as 'from 12 s to 1:30',
    '<1.5 seconds> - <3.0 seconds>' or 'at 4.5 seconds'. A number without a unit is in that of the stamps.

    Parameters
    ----------
    answer : JSON value or str
    stamps : FrameTimestamps
        Of the frames shown.
    frames : sequence of int
        Their numbers in the stack.

    Returns
    -------
    ranges : list of TimeRange
        By time; those that overlap are joined. `start` and `end` are in the unit of the stamps.
    notes : list of str
        What was mended or dropped: 'swapped', 'outside' (no frame shown lies in it).
    """
    named = _from_json(answer)
    if named is None and isinstance(answer, str):
        try:
            named = _from_json(json.loads(answer))
        except ValueError:
            named = None
        if named is None:
            named = _from_words(answer, stamps.unit)
    notes: list[str] = []
    found = []
    slack = stamps.step / 2
    for start, end in named or []:
        if end < start:
            notes.append("swapped")
            start, end = end, start
        inside = [k for k, value in enumerate(stamps.values) if start - slack <= value <= end + slack]
        # Half a step of slack takes the nearest frame for a time between two; it must not widen a range.
        exact = [k for k in inside if start - 1e-6 <= stamps.values[k] <= end + 1e-6]
        chosen = exact or inside[:1]
        if not chosen:
            notes.append("outside")
            continue
        found.append((chosen[0], chosen[-1]))
    return [
        TimeRange(frames[first], frames[last], stamps.values[first], stamps.values[last])
        for first, last in _joined(found)
    ], notes


def ranges_where(
    scores: ArrayLike, places: Sequence[float], frames: Sequence[int], *, threshold: float = 0.5, bridge: int = 1
) -> list[TimeRange]:
    """The ranges of frames whose score reaches a threshold.

    Parameters
    ----------
    scores : array (n,)
        NaN where a frame has none: it neither begins nor ends a range.
    places : sequence of n float
    frames : sequence of n int
    threshold : float
    bridge : int
        So many frames below the threshold, or without a score, between two that reach it do not end a range.
    """
    import numpy as np

    values = np.asarray(scores, np.float64)
    high = np.flatnonzero(values >= threshold)
    spans: list[tuple[int, int]] = []
    for at in high.tolist():
        if spans and at - spans[-1][1] <= bridge + 1:
            spans[-1] = (spans[-1][0], at)
        else:
            spans.append((at, at))
    return [TimeRange(frames[a], frames[b], places[a], places[b]) for a, b in spans]


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _from_json(value: object) -> list[tuple[float, float]] | None:
    """Pairs of a JSON answer; None where it has another shape."""
    if isinstance(value, dict):
        value = value.get("ranges", [value] if {"start", "end"} <= value.keys() else None)
    if not isinstance(value, list):
        return None
    if len(value) == 2 and all(isinstance(each, int | float) for each in value):
        value = [value]
    pairs = []
    for item in value:
        pair = (item.get("start"), item.get("end")) if isinstance(item, dict) else item
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return None
        try:
            pairs.append((float(pair[0]), float(pair[1])))
        except (TypeError, ValueError):
            return None
    return pairs


def _from_words(text: str, unit: str) -> list[tuple[float, float]]:
    found = []
    rest = text
    for match in _SPAN.finditer(text):
        later = match[4] or match[2]
        found.append((_number(match[1], match[2] or later, unit), _number(match[3], later, unit)))
        rest = rest.replace(match[0], " ")
    for match in _MOMENT.finditer(rest):
        at = _number(match[1], match[2], unit)
        found.append((at, at))
    return found


def _number(text: str, unit: str | None, stamps: str) -> float:
    """A number of a text in the unit of the stamps."""
    base = _UNITS.get(stamps, 1.0)
    if ":" in text:
        parts = [float(part) for part in text.split(":")]
        seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
        return seconds / base
    if unit is None or (unit.lower() in _DEPTHS) != (stamps == "um"):
        return float(text)
    return float(text) * _UNITS[unit.lower()] / base
